//! What IPv4 does, IPv6 does: pods, services, the outside, policy, errors, refusals; and what IPv4 has not, extension
//! headers.

use crate::node;
use crate::support::packets::{echo, echo_reply, error, quoted, raw, tcp};
use crate::support::rows::{Rule, identity};
use crate::support::v6::*;
use crate::support::{Addr, pod_v6};
use crate::support::{
    HOST, L4, Node, Outcome, POD_A, POD_B, ROUTER_MAC, SNAT_FIRST, SNAT_LAST, Spec, UPLINK, packets, udp,
};
use packets::{ACK, RST, SYN};
use tables::Protocol;
use tables::counters::{DropReason, WorkerCounter};
use tables::policy::Direction;

const HTTP: (Addr, u16, Protocol) = (SERVICE, 80, Protocol::TCP);
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION: u8 = 60;

fn with_backends(backends: &[(Addr, u16)]) -> Node {
    let mut node = node();
    node.publish(|rows| rows.service(1, HTTP, backends));
    node
}

#[test]
fn every_protocol_passes_between_pods_of_one_node() {
    let mut node = node();
    for packet in [tcp((A, 1), (B, 80), SYN), udp((A, 1), (B, 80)), echo(A, B, 7), raw(A, B, 47, &[0; 20])] {
        assert_eq!(node.pass(POD_A, &packet), node.delivered(POD_B, packet.clone().hop()));
    }
    let reply = echo_reply(B, A, 7);
    assert_eq!(node.pass(POD_B, &reply), node.delivered(POD_A, reply.hop()));
    assert_eq!(node.count(WorkerCounter::Classified), 8);
}

#[test]
fn a_pod_of_another_node_is_reached_through_the_tunnel_and_answers() {
    let mut node = node();
    let packet = tcp((A, 1000), (REMOTE, 80), SYN).traffic_class(0xb8);
    assert_eq!(node.pass(POD_A, &packet), node.tunnelled(packet.hop()));
    let answer = tcp((REMOTE, 80), (A, 1000), SYN | ACK);
    assert_eq!(node.pass_tunnel(&answer), node.delivered(POD_A, answer.hop()));
    assert_eq!(node.flows(), 1);
}

#[test]
fn a_service_is_translated_to_local_and_remote_backends_and_back() {
    let mut node = with_backends(&[(REMOTE, 8080)]);
    let asked = tcp((A, 1000), (SERVICE, 80), SYN);
    assert_eq!(node.pass(POD_A, &asked), node.tunnelled(asked.clone().to(REMOTE, 8080).hop()));
    let answer = tcp((REMOTE, 8080), (A, 1000), SYN | ACK);
    assert_eq!(node.pass_tunnel(&answer), node.delivered(POD_A, answer.clone().from(SERVICE, 80).hop()));
    let mut node = with_backends(&[(B, 8080)]);
    assert_eq!(node.pass(POD_A, &asked), node.delivered(POD_B, asked.clone().to(B, 8080).hop()));
    let answer = tcp((B, 8080), (A, 1000), SYN | ACK);
    assert_eq!(node.pass(POD_B, &answer), node.delivered(POD_A, answer.clone().from(SERVICE, 80).hop()));
}

#[test]
fn a_pod_that_is_its_own_backend_and_the_host_meet_a_service_as_snat() {
    for (interface, addr, backend) in [(POD_A, A, A), (HOST, HOST_ADDR, A)] {
        let mut node = with_backends(&[(backend, 8080)]);
        let asked = tcp((addr, 1000), (SERVICE, 80), SYN);
        let outcome = node.pass(interface, &asked);
        let port = outcome.packet().src_port();
        assert_eq!(outcome, node.delivered(POD_A, asked.clone().from(SNAT, port).to(A, 8080).hop()));
        let answer = tcp((A, 8080), (SNAT, port), SYN | ACK);
        let told = answer.clone().from(SERVICE, 80).to(addr, 1000).hop();
        assert_eq!(node.pass(POD_A, &answer), node.delivered(interface, told));
    }
}

#[test]
fn a_pod_leaves_the_cluster_as_the_node_and_the_answer_finds_it() {
    let mut node = node();
    for (asked, answer) in [
        (tcp((A, 1000), (CLIENT, 443), SYN), tcp((CLIENT, 443), (NODE, 0), SYN | ACK)),
        (udp((A, 1000), (CLIENT, 443)), udp((CLIENT, 443), (NODE, 0))),
        (echo(A, CLIENT, 1000), echo_reply(CLIENT, NODE, 0)),
    ] {
        let outcome = node.pass(POD_A, &asked);
        let port = outcome.packet().src_port();
        assert!((SNAT_FIRST..=SNAT_LAST).contains(&port), "{port}");
        assert_eq!(outcome, node.routed(ROUTER_MAC, asked.from(NODE, port).hop()));
        let answer = answer.to(NODE, port);
        assert_eq!(node.pass(UPLINK, &answer), node.delivered(POD_A, answer.clone().to(A, 1000).hop()));
    }
}

#[test]
fn a_client_outside_reaches_a_routed_pod_and_is_answered() {
    let mut node = node();
    let asked = tcp((CLIENT, 4000), (A, 80), SYN);
    assert_eq!(node.pass(UPLINK, &asked), node.delivered(POD_A, asked.hop()));
    let answer = tcp((A, 80), (CLIENT, 4000), SYN | ACK);
    assert_eq!(node.pass(POD_A, &answer), node.routed(ROUTER_MAC, answer.hop()));
}

#[test]
fn a_policy_allows_by_identity_and_port_and_replies_pass() {
    let mut node = node();
    let rule = Rule { identity: identity(1, 5), protocol: Protocol::TCP, port: 80, policy: 1 };
    node.publish(|rows| {
        rows.policy(1, Direction::Egress, &[rule]);
        rows.pod(4, 0, 1);
    });
    let allowed = tcp((A, 1), (B, 80), SYN);
    assert_eq!(node.pass(POD_A, &allowed), node.delivered(POD_B, allowed.hop()));
    for denied in [tcp((A, 1), (B, 81), SYN), udp((A, 1), (B, 80)), tcp((A, 1), (REMOTE, 80), SYN), echo(A, B, 1)] {
        assert_eq!(node.pass(POD_A, &denied), Outcome::dropped(DropReason::PolicyEgress));
    }
    let asked = tcp((REMOTE, 9), (A, 80), SYN);
    assert_eq!(node.pass_tunnel(&asked), node.delivered(POD_A, asked.hop()));
    let reply = tcp((A, 80), (REMOTE, 9), SYN | ACK);
    assert_eq!(node.pass(POD_A, &reply), node.tunnelled(reply.hop()));
}

#[test]
fn an_error_about_a_translated_flow_finds_the_pod_that_sent() {
    let mut node = with_backends(&[(REMOTE, 8080)]);
    let sent = node.pass(POD_A, &tcp((A, 1000), (SERVICE, 80), SYN)).packet().clone();
    let outcome = node.pass_tunnel(&error(REMOTE, L4::Unreachable { code: 4 }, &sent));
    let told = outcome.packet();
    assert_eq!((told.src, told.dst, &told.l4), (SERVICE, A, &L4::Unreachable { code: 4 }));
    let (src, dst, protocol, ports) = quoted(told);
    assert_eq!((src, dst, protocol.0), (A, SERVICE, 6));
    assert_eq!(ports[..4], [1000u16.to_be_bytes(), 80u16.to_be_bytes()].concat());
}

#[test]
fn a_service_without_backends_refuses_a_connection() {
    let mut node = with_backends(&[]);
    let asked = node.dressed(POD_A, &tcp((A, 1000), (SERVICE, 80), SYN));
    let reset = Spec { l4: L4::Tcp { src: 80, dst: 1000, flags: RST | ACK, seq: 0, ack: 1001 }, ..asked.clone() };
    let reset = Spec { src: SERVICE, dst: A, ..reset };
    assert_eq!(node.pass(POD_A, &asked), node.delivered(POD_A, reset.clone()));
    let extended = asked.bytes_with_extensions(&[DESTINATION, DESTINATION]);
    assert_eq!(node.pass_wire(POD_A, extended), node.delivered(POD_A, reset));
}

#[test]
fn extension_headers_are_stepped_over_and_kept() {
    let mut node = with_backends(&[(REMOTE, 8080)]);
    let packet = node.dressed(POD_A, &tcp((A, 1000), (SERVICE, 80), SYN).payload(b"some data"));
    for kinds in [&[HOP_BY_HOP][..], &[DESTINATION], &[ROUTING], &[HOP_BY_HOP, DESTINATION, ROUTING, DESTINATION]] {
        let sent = packet.bytes_with_extensions(kinds);
        assert!(node.peer(POD_A).inject(sent.clone()));
        node.run();
        let received = node.peer(UPLINK).take().unwrap().bytes;
        assert_eq!(received.len(), sent.len() + 50);
        let inner = Spec::judge(&received[50..]);
        assert_eq!(inner, packet.clone().to(REMOTE, 8080).macs(inner.src_mac, inner.dst_mac).hop());
        assert_eq!(received[50 + 54..][..8 * kinds.len()], sent[54..][..8 * kinds.len()], "{kinds:?}");
    }
    assert_eq!(node.flows(), 1);
}

#[test]
fn extension_headers_without_end_are_not_followed() {
    let mut node = node();
    let packet = node.dressed(POD_A, &udp((A, 1), (B, 2)));
    let passes = node.pass_wire(POD_A, packet.bytes_with_extensions(&[DESTINATION; 7]));
    assert_eq!((passes.sent.len(), passes.dropped.len()), (1, 0));
    let endless = packet.bytes_with_extensions(&[DESTINATION; 8]);
    assert_eq!(node.pass_wire(POD_A, endless), Outcome::dropped(DropReason::Malformed));
    let mut short = packet.bytes_with_extensions(&[DESTINATION]);
    short[55] = 200;
    assert_eq!(node.pass_wire(POD_A, short), Outcome::dropped(DropReason::Truncated));
}

#[test]
fn guards_hold_for_both_families() {
    let mut node = node();
    for forged in [B, REMOTE, NODE, HOST_ADDR, SNAT, GATEWAY, SERVICE, CLIENT] {
        assert_eq!(node.pass(POD_A, &udp((forged, 1), (B, 2))), Outcome::dropped(DropReason::SpoofedAddress));
    }
    for forged in [B, HOST_ADDR, SNAT, GATEWAY, NODE, SERVICE, REMOTE, pod_v6(1, 99)] {
        assert_eq!(node.pass(UPLINK, &udp((forged, 2), (A, 1))), Outcome::dropped(DropReason::ForgedOutside));
    }
    for source in [B, CLIENT, NODE, PEER, SERVICE] {
        assert_eq!(node.pass_tunnel(&udp((source, 1), (A, 2))), Outcome::dropped(DropReason::TunnelPeer));
    }
    for stray in [pod_v6(1, 99), CLIENT, NODE, SERVICE] {
        assert_eq!(node.pass_tunnel(&udp((REMOTE, 1), (stray, 2))), Outcome::dropped(DropReason::TunnelStray));
    }
    let late = node.pass(POD_A, &udp((A, 1), (B, 2)).ttl(1));
    assert_eq!((&late.dropped[..], &late.packet_of_any().l4), (&[DropReason::TtlExpired][..], &L4::TimeExceeded));
    assert_eq!(node.pass(POD_A, &udp((A, 1), (pod_v6(1, 99), 2))), Outcome::dropped(DropReason::Blackhole));
    assert_eq!(node.pass(POD_A, &tcp((A, 1), (SERVICE, 1), SYN)), Outcome::dropped(DropReason::ServiceUnknown));
}
