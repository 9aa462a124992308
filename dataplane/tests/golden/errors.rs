//! ICMP errors of the node's own: who is told what about a packet that goes no further, and how often.

use crate::node;
use crate::support::packets::{error, quoted, tcp};
use crate::support::segments::{announced, opening};
use crate::support::*;
use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Type, SlicedPacket, TransportSlice};
use packets::{ACK, SYN};
use tables::Protocol;
use tables::counters::{DropReason, WorkerCounter};
use tables::policy::Direction;

/// A packet was dropped for a reason, and this error sent.
fn dropped_and_told(reason: DropReason, told: Outcome) -> Outcome {
    Outcome { dropped: vec![reason], ..told }
}

/// The node's own error about a packet, with the precedence that routers' errors have.
fn told_of(src: Addr, l4: L4, about: &Spec) -> Spec {
    error(src, l4, about).payload(&about.bytes()[14..]).traffic_class(192)
}

fn bulk(size: usize) -> Vec<u8> {
    vec![7; size]
}

/// What an error says that was sent out of an interface.
fn said(node: &mut Node, interface: u32) -> Icmpv4Type {
    let told = node.peer(interface).take().expect("an error");
    let sliced = SlicedPacket::from_ethernet(&told.bytes).unwrap();
    let Some(TransportSlice::Icmpv4(icmp)) = sliced.transport else { panic!("no ICMP") };
    icmp.icmp_type()
}

#[test]
fn a_pod_hears_of_the_gateway_that_its_packets_time_ran_out() {
    let mut node = node();
    node.publish(|rows| rows.service(1, (SERVICE, 53, Protocol::UDP), &[(REMOTE, 5353)]));
    for dst in [B, REMOTE, CLIENT, SERVICE] {
        let asked = udp((A, 1000), (dst, 53)).ttl(1);
        let outcome = node.pass(POD_A, &asked);
        let told = told_of(GATEWAY, L4::TimeExceeded, &asked);
        let expected = dropped_and_told(DropReason::TtlExpired, node.delivered(POD_A, told));
        assert_eq!(outcome, expected, "quoted as the pod sent it, whatever it would have been translated to");
    }
    assert_eq!(node.count(WorkerCounter::ErrorsSent), 4);
}

#[test]
fn the_far_node_is_a_hop_of_its_own_and_answers_through_the_tunnel() {
    let mut node = node();
    let asked = udp((REMOTE, 1000), (A, 53)).ttl(1);
    let told = told_of(GATEWAY, L4::TimeExceeded, &asked);
    let expected = dropped_and_told(DropReason::TtlExpired, node.tunnelled(told));
    assert_eq!(node.pass_tunnel(&asked), expected);
}

#[test]
fn the_senders_node_lets_the_far_nodes_answer_in_and_translates_it() {
    let mut node = node();
    node.publish(|rows| rows.service(1, (SERVICE, 53, Protocol::UDP), &[(REMOTE, 5353)]));
    let sent = node.pass(POD_A, &udp((A, 1000), (SERVICE, 53)).ttl(2)).packet().clone();
    let far_gateway = pod(2, 1);
    let outcome = node.pass_tunnel(&error(far_gateway, L4::TimeExceeded, &sent));
    let told = outcome.packet();
    assert_eq!((told.src, told.dst, &told.l4), (far_gateway, A, &L4::TimeExceeded), "a sane hop");
    let (src, dst, _, _) = quoted(told);
    assert_eq!((src, dst), (A, SERVICE));
}

#[test]
fn what_does_not_fit_the_way_out_is_told_how_much_does() {
    let mut node = node();
    for (dst, mtu) in [(REMOTE, 1450), (CLIENT, 1500)] {
        for packet in [udp((A, 1), (dst, 2)).payload(&bulk(1473)), tcp((A, 1), (dst, 2), ACK).payload(&bulk(8000))] {
            let bytes = node.dressed(POD_A, &packet).bytes();
            node.peer(POD_A).inject(bytes);
            node.run();
            let next_hop_mtu = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu };
            assert_eq!(said(&mut node, POD_A), Icmpv4Type::DestinationUnreachable(next_hop_mtu));
            assert_eq!(node.peer(UPLINK).take_all().len(), 0);
        }
    }
    assert_eq!((node.drops(DropReason::TooBig), node.frames_free()), (4, node.frames()));
}

#[test]
fn where_no_route_leads_the_sender_is_told() {
    let mut node = node();
    node.publish(|rows| rows.no_default_route());
    let asked = udp((A, 1000), (CLIENT, 53));
    let told = told_of(GATEWAY, L4::Unreachable { code: 0 }, &asked);
    assert_eq!(node.pass(POD_A, &asked), dropped_and_told(DropReason::NoRoute, node.delivered(POD_A, told)));
}

#[test]
fn errors_are_not_told_of_and_policy_stays_silent() {
    let mut node = node();
    let sent = node.pass(POD_A, &udp((A, 1000), (CLIENT, 53))).packet().clone();
    let late = error(ROUTER, L4::TimeExceeded, &sent).ttl(1);
    assert_eq!(node.pass(UPLINK, &late), Outcome::dropped(DropReason::TtlExpired));
    node.publish(|rows| {
        rows.policy(1, Direction::Ingress, &[]);
        rows.pod(5, 0, 1);
    });
    let forbidden = Outcome::dropped(DropReason::PolicyIngress);
    assert_eq!(node.pass(POD_A, &udp((A, 1000), (B, 53))), forbidden);
    assert_eq!(node.pass_tunnel(&udp((REMOTE, 1000), (B, 53))), forbidden);
    assert_eq!(node.count(WorkerCounter::ErrorsSent), 0);
}

#[test]
fn who_asks_for_errors_gets_them_at_a_rate() {
    let mut node = node();
    let asked = udp((A, 1000), (CLIENT, 53)).ttl(1);
    let told: usize = (0..1000).map(|_| node.pass(POD_A, &asked).sent.len()).sum();
    assert!((20..500).contains(&told), "{told} of 1000 in a moment");
    let withheld = node.count(WorkerCounter::ErrorsWithheld) as usize;
    assert_eq!((told + withheld, node.drops(DropReason::TtlExpired)), (1000, 1000));
}

/// A SYN of a pod's connection that announces this segment size.
fn syn(src: Addr, dst: Addr, mss: u16) -> Vec<u8> {
    opening(pod_mac(1, 4), (src, 1000), (dst, 80), SYN, mss)
}

#[test]
fn both_ends_of_a_connection_through_a_tunnel_announce_segments_that_fit_it() {
    let mut node = node();
    for (mss, expected) in [(8960, 1410), (1460, 1410), (1411, 1410), (1410, 1410), (536, 536)] {
        node.peer(POD_A).inject(syn(A, REMOTE, mss));
        node.run();
        let sent = node.peer(UPLINK).take().expect("a tunnel packet");
        assert_eq!(announced(&sent.bytes[50..]), expected, "outwards");
        let inwards = node.peers_frame(&syn(REMOTE, A, mss));
        node.peer(UPLINK).inject(inwards.bytes());
        node.run();
        let received = node.peer(POD_A).take().expect("a SYN");
        assert_eq!(announced(&received.bytes), expected, "inwards");
    }
}

#[test]
fn connections_that_stay_here_or_leave_plainly_keep_their_segment_size() {
    let mut node = node();
    for (dst, interface) in [(B, POD_B), (CLIENT, UPLINK)] {
        node.peer(POD_A).inject(syn(A, dst, 8960));
        node.run();
        assert_eq!(announced(&node.peer(interface).take().expect("a SYN").bytes), 8960);
    }
}
