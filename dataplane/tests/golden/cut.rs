//! Packets that are larger than the way out takes: cut if they may be.

use crate::node;
use crate::support::fragments::{part, split};
use crate::support::*;
use dataplane::io::mem::WirePacket;
use dataplane::packet::Checksum;
use tables::counters::{DropReason, WorkerCounter};

/// The packet as a frame that may be fragmented.
fn may_be_cut(node: &Node, packet: &Spec) -> Vec<u8> {
    let frame = node.dressed(POD_A, packet).bytes();
    part(&frame, (0, frame.len() - 34), false, 77)
}

#[test]
fn what_is_larger_than_the_way_out_is_cut_if_it_may_be() {
    for (dst, ip_size_max) in [(REMOTE, 1450), (CLIENT, 1500)] {
        let mut node = node();
        let packet = udp((A, 1000), (dst, 53)).payload(&[7; 1700]);
        let frame = may_be_cut(&node, &packet);
        let passed = node.pass_all(POD_A, None, [&frame]);
        assert_eq!((passed.sent.len(), node.count(WorkerCounter::FragmentsCut)), (2, 2));
        assert!(passed.sent.iter().all(|(_, frame)| frame.len() <= 1514));
        let outcome = passed.together();
        let port = outcome.packet().src_port();
        let hop = packet.clone().hop();
        let expected = if dst == REMOTE { node.tunnelled(hop) } else { node.routed(ROUTER_MAC, hop.from(NODE, port)) };
        assert_eq!(outcome, expected);
        let whole = node.dressed(POD_A, &packet).bytes();
        assert_eq!(node.pass_all(POD_A, None, [&whole]).dropped, [DropReason::TooBig], "{ip_size_max}: don't fragment");
    }
}

#[test]
fn a_fragment_that_is_too_large_is_cut_further() {
    let mut node = node();
    let packet = udp((A, 1000), (REMOTE, 53)).payload(&[7; 4000]);
    let frame = node.dressed(POD_A, &packet).bytes();
    for cuts in [vec![1480, 2960], vec![1720, 3440], vec![1440, 2880]] {
        for order in [[0, 1, 2], [2, 1, 0]] {
            let frames = split(&frame, &cuts, 9);
            let passed = node.pass_all(POD_A, None, order.map(|i| &frames[i]));
            assert_eq!(passed.together(), node.tunnelled(packet.clone().hop()), "{cuts:?}");
        }
    }
}

#[test]
fn a_packet_without_its_checksum_gets_it_before_it_is_cut() {
    let mut node = node();
    let packet = udp((A, 1000), (REMOTE, 53)).payload(&[7; 1700]);
    let mut bytes = may_be_cut(&node, &packet);
    let ends = [A.v4_octets(), REMOTE.v4_octets()].concat();
    let size = (bytes.len() - 34) as u16;
    let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&ends).add_2bytes([0, 17]);
    let sum = !sum.add_2bytes(size.to_be_bytes()).ones_complement();
    bytes[40..42].copy_from_slice(&sum.to_ne_bytes());
    let checksum = Checksum::Partial { start: 34, offset: 6 };
    node.peer(POD_A).inject(WirePacket { checksum, ..bytes.into() });
    node.run();
    let passed = node.pass_all(POD_A, None, []);
    assert_eq!(passed.together(), node.tunnelled(packet.hop()));
}

#[test]
fn ipv6_is_cut_by_its_sender_alone() {
    let mut node = node();
    let packet = udp((v6::A, 1000), (v6::REMOTE, 53)).payload(&[7; 4000]);
    let frame = node.dressed(POD_A, &packet).bytes();
    let passed = node.pass_all(POD_A, None, &split(&frame, &[1480, 2960], 9));
    assert_eq!(passed.dropped, [DropReason::TooBig; 2]);
    let interfaces: Vec<u32> = passed.sent.iter().map(|(interface, _)| *interface).collect();
    assert_eq!(interfaces, [UPLINK, POD_A], "the last one fits; its sender is told once");
}

#[test]
fn every_tunnel_carries_what_was_cut_for_it() {
    for wrapped in [Wrapped::Vxlan, Wrapped::Geneve, Wrapped::Ip] {
        for underlay in [0, 1] {
            let mut node = Node::new(Shape { wrapped, underlay, ..Shape::default() });
            // In the largest packet that the pod may send, and one that leaves eight bytes for the second fragment.
            for size in [1472, 1405] {
                let packet = udp((A, 1000), (REMOTE, 53)).payload(&vec![7; size]);
                let frame = may_be_cut(&node, &packet);
                let passed = node.pass_all(POD_A, None, [&frame]);
                assert!(passed.sent.iter().all(|(_, frame)| frame.len() <= 14 + UPLINK_MTU as usize));
                assert_eq!(passed.together(), node.tunnelled(packet.hop()), "{wrapped:?} over {underlay}");
            }
        }
    }
}
