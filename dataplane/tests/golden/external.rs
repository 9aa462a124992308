//! Between pods and the world outside the cluster.

use crate::node;
use crate::support::packets::{echo, echo_reply, tcp};
use crate::support::*;
use packets::{ACK, SYN};
use std::collections::{BTreeSet, HashSet};
use tables::counters::DropReason;
use tables::layout::Table;
use tables::taken;

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
fn pods_with_the_same_port_to_the_same_server_get_different_ports_and_one_serves_many_servers() {
    let mut node = node();
    let mut taken = HashSet::new();
    for (interface, addr) in [(POD_A, A), (POD_B, B), (POD_C, C)] {
        for src in 1000..1100 {
            let port = node.pass(interface, &udp((addr, src), (CLIENT, 53))).packet().src_port();
            assert!(taken.insert(port), "port {port} was given twice for one server");
        }
    }
    let other = Addr::v4([203, 0, 113, 10]);
    let reused = (1000..1100).filter(|&src| {
        let port = node.pass(POD_A, &udp((A, src), (other, 53))).packet().src_port();
        taken.contains(&port)
    });
    assert!(reused.count() > 0, "ports are free again for another destination");
}

#[test]
fn when_no_port_is_free_for_a_destination_it_is_said_and_the_old_flows_live() {
    // 256 ports are tried; the block of the second of 15 workers would do, but there is one worker with 1,000 ports.
    let mut node = Node::new(Shape { flows_max: 4096, ..Shape::default() });
    let mut exhausted = 0;
    let mut first = None;
    for src in 1..=1400u16 {
        let outcome = node.pass(POD_A, &udp((A, src), (CLIENT, 53)));
        match outcome.dropped[..] {
            [] => first = first.or(Some((src, outcome.packet().src_port()))),
            [DropReason::SnatExhausted] => exhausted += 1,
            _ => panic!("{outcome:?}"),
        }
    }
    assert!((400..1000).contains(&exhausted), "{exhausted} of 1,400 flows found none of 1,000 ports");
    let (src, port) = first.unwrap();
    let answer = udp((CLIENT, 53), (NODE, port));
    assert_eq!(node.pass(UPLINK, &answer), node.delivered(POD_A, answer.to(A, src).hop()));
}

#[test]
fn ports_that_sockets_of_the_node_have_are_given_to_no_flow_and_stay_the_kernels() {
    let mut node = node();
    let taken: BTreeSet<u16> = (SNAT_FIRST..=SNAT_LAST).filter(|port| port % 2 == 0).collect();
    node.publish(|rows| {
        let words = taken::words(&taken).into_iter();
        words.for_each(|(at, word)| rows.batch.set(Table::TakenPorts, at, &word).unwrap());
    });
    for src in 1000..1100 {
        let port = node.pass(POD_A, &udp((A, src), (CLIENT, 53))).packet().src_port();
        assert!((SNAT_FIRST..=SNAT_LAST).contains(&port) && !taken.contains(&port), "{port}");
    }
    let answer = tcp((CLIENT, 6443), (NODE, *taken.first().unwrap()), ACK);
    assert_eq!(node.pass(UPLINK, &answer), node.delivered(HOST, answer.hop()));
}

#[test]
fn a_client_outside_reaches_a_routed_pod_and_the_answer_is_not_masqueraded() {
    let mut node = node();
    let asked = tcp((CLIENT, 4000), (A, 80), SYN);
    assert_eq!(node.pass(UPLINK, &asked), node.delivered(POD_A, asked.hop()));
    let answer = tcp((A, 80), (CLIENT, 4000), SYN | ACK);
    assert_eq!(node.pass(POD_A, &answer), node.routed(ROUTER_MAC, answer.hop()));
}

#[test]
fn the_host_leaves_by_fairway_unmasqueraded() {
    let mut node = node();
    let packet = udp((HOST_ADDR, 5000), (CLIENT, 53));
    assert_eq!(node.pass(HOST, &packet), node.routed(ROUTER_MAC, packet.hop()));
}

#[test]
fn nothing_in_our_own_range_without_a_pod_is_reached() {
    let mut node = node();
    let nobody = pod(1, 99);
    assert_eq!(node.pass(POD_A, &udp((A, 1), (nobody, 2))), Outcome::dropped(DropReason::Blackhole));
    assert_eq!(node.pass(UPLINK, &udp((CLIENT, 1), (nobody, 2))), Outcome::dropped(DropReason::Blackhole));
}
