//! Packets larger than a frame, on an uplink that takes them: they travel as chains, whole.

use crate::support::packets::{ACK, PSH, decapsulate, tcp};
use crate::support::*;
use dataplane::io::mem::WirePacket;
use dataplane::packet::{Checksum, Gso};
use tables::Protocol;
use tables::counters::{DropReason, WorkerCounter};

const MTU: u16 = 9000;
/// Pods' MTU: the same less what VXLAN over IPv4 adds.
const POD_MTU: usize = 8950;

fn node() -> Node {
    Node::new(Shape { uplink_mtu: MTU, ..Shape::default() })
}

/// TCP or UDP over IPv4 as a pod's kernel with offloads sends it: the checksum field holds the pseudo-header's sum.
fn partial(packet: &Spec, gso: Gso) -> WirePacket {
    let mut bytes = packet.bytes();
    let offset = if matches!(packet.l4, L4::Udp { .. }) { 6 } else { 16 };
    let pseudo = etherparse::checksum::Sum16BitWords::new()
        .add_slice(&bytes[26..34])
        .add_2bytes([0, bytes[23]])
        .add_2bytes(((bytes.len() - 34) as u16).to_be_bytes())
        .ones_complement();
    let at = 34 + offset as usize;
    bytes[at..at + 2].copy_from_slice(&(!pseudo).to_ne_bytes());
    WirePacket { bytes, checksum: Checksum::Partial { start: 34, offset }, gso, gso_ecn: false }
}

#[test]
fn the_largest_packet_goes_through_every_tunnel_both_ways() {
    for (wrapped, underlay, overhead) in KINDS {
        let mut node = Node::new(Shape { uplink_mtu: MTU, wrapped, underlay, ..Shape::default() });
        for family in &FAMILIES {
            let headers = if family.a.is_v4() { 28 } else { 48 };
            for size in [1700, 1730, 1760, 1792, 1800, 4000, MTU as usize - overhead - headers] {
                let packet = udp((family.a, 1), (family.remote, 2)).payload(&bulk(size));
                assert_eq!(node.pass(POD_A, &packet), node.tunnelled(packet.hop()), "{wrapped:?} {underlay} {size}");
                let answer = udp((family.remote, 2), (family.a, 1)).payload(&bulk(size));
                assert_eq!(node.pass_tunnel(&answer), node.delivered(POD_A, answer.hop()), "{wrapped:?} {size}");
            }
        }
    }
}

#[test]
fn the_pods_half_done_checksum_is_completed_over_the_chain() {
    let mut node = node();
    node.publish(|rows| rows.service(1, (SERVICE, 80, Protocol::TCP), &[(REMOTE, 8080)]));
    for size in [1738, 1739, 1752, 3000, POD_MTU - 41, POD_MTU - 40] {
        let packet = node.dressed(POD_A, &tcp((A, 1000), (SERVICE, 80), ACK).payload(&bulk(size)));
        // Checksums are judged by computing them anew.
        let outcome = node.pass_wire(POD_A, partial(&packet, Gso::None));
        assert_eq!(outcome, node.tunnelled(packet.to(REMOTE, 8080).hop()), "{size}");
    }
    let back = tcp((REMOTE, 8080), (A, 1000), ACK).payload(&bulk(POD_MTU - 40));
    assert_eq!(node.pass_tunnel(&back), node.delivered(POD_A, back.from(SERVICE, 80).hop()));
}

#[test]
fn outside_the_cluster_all_of_the_mtu_is_used() {
    let mut node = node();
    let packet = udp((A, 1000), (CLIENT, 53)).payload(&bulk(MTU as usize - 28));
    let outcome = node.pass(POD_A, &packet);
    let port = outcome.packet().src_port();
    assert_eq!(outcome, node.routed(ROUTER_MAC, packet.hop().from(NODE, port)));
    let answer = udp((CLIENT, 53), (NODE, port)).payload(&bulk(MTU as usize - 28));
    assert_eq!(node.pass(UPLINK, &answer), node.delivered(POD_A, answer.to(A, 1000).hop()));
}

#[test]
fn one_byte_more_is_refused_or_cut() {
    let mut node = node();
    let packet = udp((A, 1000), (REMOTE, 53)).payload(&bulk(POD_MTU - 27));
    let refused = node.pass(POD_A, &packet);
    assert_eq!((refused.dropped, refused.sent.len()), (vec![DropReason::TooBig], 1), "and its sender is told");
    let frame = node.dressed(POD_A, &packet).bytes();
    let may_be_cut = fragments::part(&frame, (0, frame.len() - 34), false, 77);
    let passed = node.pass_all(POD_A, None, [&may_be_cut]);
    assert!(passed.sent.iter().all(|(_, frame)| frame.len() <= 14 + MTU as usize));
    assert_eq!(passed.together(), node.tunnelled(packet.hop()));
}

/// What left by the uplink for a super-frame of this size, out of its tunnel.
fn cut(node: &mut Node, packet: &Spec, gso: Gso) -> Vec<Spec> {
    let packet = node.dressed(POD_A, packet);
    assert!(node.peer(POD_A).inject(partial(&packet, gso)));
    node.run();
    let sent = node.peer(UPLINK).take_all();
    assert!(sent.iter().all(|packet| packet.bytes.len() <= 14 + MTU as usize));
    assert_eq!(node.frames_free(), node.frames());
    sent.iter().map(|packet| decapsulate(&Spec::judge(&packet.bytes)).unwrap().2).collect()
}

#[test]
fn super_frames_are_cut_where_their_sender_said() {
    let mut node = node();
    let data = bulk(40_001);
    for size in [1000, 1398, 1700, 1740, 8910] {
        let packet = tcp((A, 1000), (REMOTE, 80), ACK | PSH).payload(&data);
        let segments = cut(&mut node, &packet, Gso::Tcp4(size));
        assert_eq!(segments.len(), data.len().div_ceil(size as usize));
        assert!(segments.iter().rev().skip(1).all(|segment| segment.payload.len() == size as usize));
        assert_eq!(segments.into_iter().flat_map(|segment| segment.payload).collect::<Vec<u8>>(), data);
    }
    // Larger than the wire: as large as that is.
    let segments = cut(&mut node, &tcp((A, 1000), (REMOTE, 80), ACK).payload(&data), Gso::Tcp4(20_000));
    assert_eq!(segments[0].payload.len(), POD_MTU - 40);
    // It would fit the wire, but not what the other end said it takes.
    let segments = cut(&mut node, &tcp((A, 1000), (REMOTE, 80), ACK).payload(&data[..2920]), Gso::Tcp4(1460));
    assert_eq!(segments.iter().map(|segment| segment.payload.len()).collect::<Vec<_>>(), [1460, 1460]);
    assert!(node.count(WorkerCounter::SegmentsCut) > 0);
}

#[test]
fn datagrams_larger_than_a_frame_that_travelled_as_one_arrive_as_many() {
    let mut node = node();
    let packet = udp((A, 1), (REMOTE, 2)).payload(&bulk(30_000));
    let datagrams = cut(&mut node, &packet, Gso::Udp(8000));
    assert_eq!(datagrams.iter().map(|packet| packet.payload.len()).collect::<Vec<_>>(), [8000, 8000, 8000, 6000]);
    assert_eq!(datagrams.into_iter().flat_map(|packet| packet.payload).collect::<Vec<u8>>(), bulk(30_000));
}

#[test]
fn chains_are_handed_between_workers_whole() {
    let pods = vec![(4, 1), (5, 0)];
    let mut node = Node::new(Shape { uplink_mtu: MTU, workers: 2, uplink_queues: 1, pods, ..Shape::default() });
    let packet = udp((A, 1), (REMOTE, 2)).payload(&bulk(POD_MTU - 28));
    assert_eq!(node.pass(POD_A, &packet), node.tunnelled(packet.hop()));
    let answer = udp((REMOTE, 2), (A, 1)).payload(&bulk(POD_MTU - 28));
    assert_eq!(node.pass_tunnel(&answer), node.delivered(POD_A, answer.hop()));
}

#[test]
fn what_waits_for_a_neighbour_is_a_chain_still() {
    let mut node = node();
    let packet = udp((A, 1000), (NEIGHBOUR, 53)).payload(&bulk(5000));
    assert!(node.peer(POD_A).inject(node.dressed(POD_A, &packet).bytes()));
    node.run();
    assert_eq!(node.sent(), []);
    node.publish(|rows| rows.resolved(NEIGHBOUR, ROUTER_MAC));
    let sent = node.sent();
    assert_eq!(sent.len(), 1, "{sent:?}");
    let Sent::Plain(UPLINK, sent) = &sent[0] else { panic!("{sent:?}") };
    assert_eq!((&sent.payload, sent.dst), (&bulk(5000), NEIGHBOUR));
    assert_eq!(node.frames_free(), node.frames());
}
