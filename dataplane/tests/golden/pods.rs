//! Pod to pod: on one node, and through the tunnel.

use crate::node;
use crate::support::packets::{echo, echo_reply, tcp};
use crate::support::*;
use packets::{ACK, SYN};
use tables::counters::WorkerCounter;

#[test]
fn between_pods_of_one_node_both_halves_are_flows_and_the_answer_comes_back() {
    let mut node = node();
    let asked = udp((A, 1000), (B, 53));
    assert_eq!(node.pass(POD_A, &asked), node.delivered(POD_B, asked.hop()));
    assert_eq!(node.flows(), 2, "one half for each local end");
    let answer = udp((B, 53), (A, 1000));
    assert_eq!(node.pass(POD_B, &answer), node.delivered(POD_A, answer.hop()));
    assert_eq!((node.flows(), node.count(WorkerCounter::Classified)), (2, 2), "decided once");
}

#[test]
fn every_protocol_with_ports_or_ids_passes_between_pods() {
    let mut node = node();
    for packet in [tcp((A, 1), (B, 80), SYN), udp((A, 1), (B, 80)), echo(A, B, 7)] {
        assert_eq!(node.pass(POD_A, &packet), node.delivered(POD_B, packet.clone().hop()));
    }
    let reply = echo_reply(B, A, 7);
    assert_eq!(node.pass(POD_B, &reply), node.delivered(POD_A, reply.hop()));
    assert_eq!(node.flows(), 6);
}

#[test]
fn a_pod_of_another_node_is_reached_through_the_tunnel() {
    let mut node = node();
    let packet = tcp((A, 1000), (REMOTE, 80), SYN);
    let outcome = node.pass(POD_A, &packet);
    // Outer: node to peer, by the peer's Ethernet address, TTL 64, our VNI. Inner: one hop further, its source unchanged.
    assert_eq!(outcome, node.tunnelled(packet.hop()));
    let answer = tcp((REMOTE, 80), (A, 1000), SYN | ACK);
    assert_eq!(node.pass_tunnel(&answer), node.delivered(POD_A, answer.hop()));
    assert_eq!(node.flows(), 1);
}

#[test]
fn what_comes_out_of_the_tunnel_reaches_its_pod_and_is_answered_through_it() {
    let mut node = node();
    let packet = udp((REMOTE, 9), (B, 53));
    assert_eq!(node.pass_tunnel(&packet), node.delivered(POD_B, packet.hop()));
    let answer = udp((B, 53), (REMOTE, 9));
    assert_eq!(node.pass(POD_B, &answer), node.tunnelled(answer.hop()));
}

#[test]
fn flows_spread_over_outer_source_ports_and_each_keeps_its_own() {
    let mut node = node();
    let mut port_of = |src_port: u16| {
        let packet = node.dressed(POD_A, &udp((A, src_port), (REMOTE, 53)));
        assert!(node.peer(POD_A).inject(packet.bytes()));
        node.run();
        let sent = node.peer(UPLINK).take().unwrap();
        packets::decapsulate(&Spec::judge(&sent.bytes)).unwrap().1
    };
    let ports: std::collections::HashSet<u16> = (1000..1064).map(&mut port_of).collect();
    assert!(ports.len() > 48, "{} source ports for 64 flows", ports.len());
    assert_eq!(port_of(1000), port_of(1000));
}

#[test]
fn traffic_class_is_copied_to_the_outer_header() {
    let mut node = node();
    let mut bytes = node.dressed(POD_A, &udp((A, 1), (REMOTE, 2))).bytes();
    bytes[15] = 0xb9;
    let mut header = etherparse::Ipv4Header::from_slice(&bytes[14..]).unwrap().0;
    header.header_checksum = header.calc_header_checksum();
    bytes[14..34].copy_from_slice(&header.to_bytes());
    assert!(node.peer(POD_A).inject(bytes));
    node.run();
    assert_eq!(node.peer(UPLINK).take().unwrap().bytes[15], 0xb9);
}
