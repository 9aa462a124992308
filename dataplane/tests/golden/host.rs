//! The host (through fairway0) and pods.

use crate::node;
use crate::support::packets::{echo, echo_reply, tcp};
use crate::support::*;
use packets::{ACK, SYN};
use tables::Protocol;

#[test]
fn the_host_reaches_its_pods_and_their_answers_reach_it() {
    let mut node = node();
    let asked = tcp((HOST_ADDR, 5000), (A, 80), SYN);
    assert_eq!(node.pass(HOST, &asked), node.delivered(POD_A, asked.hop()));
    let answer = tcp((A, 80), (HOST_ADDR, 5000), SYN | ACK);
    assert_eq!(node.pass(POD_A, &answer), node.delivered(HOST, answer.hop()));
}

#[test]
fn a_pod_reaches_the_host_at_both_its_addresses() {
    let mut node = node();
    for addr in [HOST_ADDR, NODE] {
        let asked = tcp((A, 1000), (addr, 10_250), SYN);
        assert_eq!(node.pass(POD_A, &asked), node.delivered(HOST, asked.clone().hop()));
        let answer = tcp((addr, 10_250), (A, 1000), SYN | ACK);
        assert_eq!(node.pass(HOST, &answer), node.delivered(POD_A, answer.clone().hop()));
    }
}

#[test]
fn the_host_reaches_a_service_as_snat_and_the_answer_comes_back_translated() {
    for (backend, local) in [(REMOTE, false), (B, true)] {
        let mut node = node();
        node.publish(|rows| rows.service(1, (SERVICE, 80, Protocol::TCP), &[(backend, 8080)]));
        let asked = tcp((HOST_ADDR, 5000), (SERVICE, 80), SYN);
        let outcome = node.pass(HOST, &asked);
        let port = outcome.packet().src_port();
        assert!((SNAT_FIRST..=SNAT_LAST).contains(&port), "{port}");
        let there = asked.clone().from(SNAT, port).to(backend, 8080).hop();
        assert_eq!(outcome, if local { node.delivered(POD_B, there) } else { node.tunnelled(there) });
        let answer = tcp((backend, 8080), (SNAT, port), SYN | ACK);
        let back = if local { node.pass(POD_B, &answer) } else { node.pass_tunnel(&answer) };
        assert_eq!(back, node.delivered(HOST, answer.from(SERVICE, 80).to(HOST_ADDR, 5000).hop()));
    }
}

#[test]
fn the_host_speaks_to_remote_pods_as_itself_from_its_own_address_and_as_snat_from_others() {
    let mut node = node();
    let own = udp((HOST_ADDR, 5000), (REMOTE, 53));
    assert_eq!(node.pass(HOST, &own), node.tunnelled(own.hop()));
    let other = udp((NODE, 5000), (REMOTE, 53));
    let outcome = node.pass(HOST, &other);
    let port = outcome.packet().src_port();
    assert_eq!(outcome, node.tunnelled(other.from(SNAT, port).hop()));
    let answer = udp((REMOTE, 53), (SNAT, port));
    assert_eq!(node.pass_tunnel(&answer), node.delivered(HOST, answer.to(NODE, 5000).hop()));
}

#[test]
fn an_echo_of_the_host_is_translated_by_its_id() {
    let mut node = node();
    let asked = echo(NODE, REMOTE, 77);
    let outcome = node.pass(HOST, &asked);
    let id = outcome.packet().src_port();
    assert!((SNAT_FIRST..=SNAT_LAST).contains(&id), "{id}");
    assert_eq!(outcome, node.tunnelled(asked.from(SNAT, id).hop()));
    let reply = echo_reply(REMOTE, SNAT, id);
    assert_eq!(node.pass_tunnel(&reply), node.delivered(HOST, echo_reply(REMOTE, NODE, 77).hop()));
}

#[test]
fn a_remote_host_reaches_a_pod_through_the_tunnel() {
    let mut node = node();
    let asked = tcp((pod(2, 2), 5000), (A, 80), SYN);
    assert_eq!(node.pass_tunnel(&asked), node.delivered(POD_A, asked.hop()));
    let answer = tcp((A, 80), (pod(2, 2), 5000), SYN | ACK);
    assert_eq!(node.pass(POD_A, &answer), node.tunnelled(answer.hop()));
}

#[test]
fn a_packet_to_our_node_address_without_flow_is_the_kernels() {
    let mut node = node();
    let packet = tcp((CLIENT, 4000), (NODE, 40_123), ACK);
    assert_eq!(node.pass(UPLINK, &packet), node.delivered(HOST, packet.hop()));
}
