//! Tunnels of every kind: VXLAN, Geneve and IP in IP, over IPv4 and IPv6, with both families inside.

use crate::support::packets::{ACK, Outer, SYN, decapsulate, encapsulate, tcp};
use crate::support::*;
use dataplane::io::mem::WirePacket;
use dataplane::packet::{Checksum, Gso};
use tables::counters::DropReason;

const FAMILIES: [(Addr, Addr, Addr); 2] = [(A, B, REMOTE), (v6::A, v6::B, v6::REMOTE)];

fn node(wrapped: Wrapped, underlay: usize) -> Node {
    Node::new(Shape { wrapped, underlay, ..Shape::default() })
}

fn all() -> impl Iterator<Item = (Node, usize)> {
    KINDS.into_iter().map(|(wrapped, underlay, overhead)| (node(wrapped, underlay), overhead))
}

/// What comes of a tunnel packet with other outer headers than the peer's own.
fn from_outside(node: &mut Node, change: impl Fn(Outer) -> Outer, inner: &Spec) -> Outcome {
    let outer = change(node.shape.outer(2, 1));
    let packet = encapsulate(&outer, 55_555, &inner.clone().macs(inner_mac(2), inner_mac(1)).bytes());
    node.pass_wire(UPLINK, packet.bytes())
}

#[test]
fn every_tunnel_carries_both_families_both_ways() {
    for (mut node, _) in all() {
        for (a, _, remote) in FAMILIES {
            for packet in [tcp((a, 1000), (remote, 80), SYN), udp((a, 1000), (remote, 80)).traffic_class(0xb8)] {
                assert_eq!(node.pass(POD_A, &packet), node.tunnelled(packet.clone().hop()), "{:?}", node.shape);
            }
            for answer in [tcp((remote, 80), (a, 1000), SYN | ACK), udp((remote, 80), (a, 1000))] {
                assert_eq!(node.pass_tunnel(&answer), node.delivered(POD_A, answer.clone().hop()), "{:?}", node.shape);
            }
        }
        assert_eq!(node.flows(), 4);
    }
}

#[test]
fn a_tunnels_packet_finds_the_worker_of_its_pod() {
    for (wrapped, underlay, _) in KINDS {
        let pods = vec![(4, 1), (5, 0)];
        let mut node = Node::new(Shape { wrapped, underlay, workers: 2, pods, ..Shape::default() });
        for (a, b, remote) in FAMILIES {
            for (interface, pod) in [(POD_A, a), (POD_B, b)] {
                let packet = udp((remote, 1), (pod, 2));
                assert_eq!(node.pass_tunnel(&packet), node.delivered(interface, packet.hop()));
            }
        }
    }
}

#[test]
fn what_just_fits_passes_and_a_super_frame_fills_the_wire() {
    for (mut node, overhead) in all() {
        let room = UPLINK_MTU as usize - overhead;
        let largest = udp((A, 1), (REMOTE, 2)).payload(&vec![7; room - 28]);
        assert_eq!(node.pass(POD_A, &largest), node.tunnelled(largest.hop()));
        let data: Vec<u8> = (0..20_001).map(|i| (i % 251) as u8).collect();
        let packet = node.dressed(POD_A, &tcp((A, 1000), (REMOTE, 80), ACK).payload(&data));
        assert!(node.peer(POD_A).inject(WirePacket { gso: Gso::Tcp4(1460), ..partial(&packet) }));
        node.run();
        let sent = node.peer(UPLINK).take_all();
        assert_eq!(sent[0].bytes.len(), 14 + UPLINK_MTU as usize);
        let inner = sent.iter().map(|packet| decapsulate(&Spec::judge(&packet.bytes)).unwrap().2.payload);
        assert_eq!(inner.flatten().collect::<Vec<u8>>(), data);
    }
}

/// TCP over IPv4 as a pod's kernel with offloads sends it.
fn partial(packet: &Spec) -> WirePacket {
    let mut bytes = packet.bytes();
    let size = (bytes.len() - 34) as u16;
    let pseudo = etherparse::checksum::Sum16BitWords::new()
        .add_slice(&bytes[26..34])
        .add_2bytes([0, 6])
        .add_2bytes(size.to_be_bytes())
        .ones_complement();
    bytes[50..52].copy_from_slice(&(!pseudo).to_be_bytes());
    WirePacket { bytes, checksum: Checksum::Partial { start: 34, offset: 16 }, gso: Gso::None, gso_ecn: false }
}

#[test]
fn a_tunnel_packet_comes_from_the_peer_of_its_inner_source() {
    for (mut node, _) in all() {
        for (a, b, remote) in FAMILIES {
            let inner = udp((remote, 1), (a, 2));
            let strange = |outer: Outer| {
                let src = if outer.src.is_v4() { ROUTER } else { v6::ROUTER };
                Outer { src, ..outer }
            };
            let peer = Outcome::dropped(DropReason::TunnelPeer);
            assert_eq!(from_outside(&mut node, strange, &inner), peer);
            assert_eq!(from_outside(&mut node, |outer| outer, &udp((b, 1), (a, 2))), peer);
            assert_eq!(from_outside(&mut node, |outer| outer, &inner).sent.len(), 1);
            assert_eq!(from_outside(&mut node, strange, &inner), peer, "an established flow is no way in either");
        }
    }
}

#[test]
fn ip_in_ip_is_taken_only_where_it_is_the_way_between_nodes() {
    for underlay in [0, 1] {
        let mut node = node(Wrapped::Vxlan, underlay);
        let outcome =
            from_outside(&mut node, |outer| Outer { wrapped: Wrapped::Ip, ..outer }, &udp((REMOTE, 1), (A, 2)));
        assert_eq!(outcome, Outcome::dropped(DropReason::TunnelPeer));
    }
}

#[test]
fn another_networks_identifier_is_named() {
    for (mut node, _) in all().filter(|(node, _)| node.shape.wrapped != Wrapped::Ip) {
        let outcome = from_outside(&mut node, |outer| Outer { vni: VNI + 1, ..outer }, &udp((REMOTE, 1), (A, 2)));
        assert_eq!(outcome, Outcome::dropped(DropReason::TunnelNetwork));
    }
}

#[test]
fn a_tunnel_packet_that_ends_too_early_is_truncated_wherever_it_ends() {
    for (mut node, _) in all() {
        for (a, _, remote) in FAMILIES {
            let bytes = node.peers_packet(&tcp((remote, 1), (a, 2), SYN)).bytes();
            for size in 1..bytes.len() {
                let outcome = node.pass_wire(UPLINK, bytes[..size].to_vec());
                assert_eq!(outcome, Outcome::dropped(DropReason::Truncated), "{size} of {:?}", node.shape);
            }
        }
        assert_eq!(node.flows(), 0);
    }
}

#[test]
fn what_is_cut_short_inside_is_truncated_too() {
    for (mut node, _) in all() {
        let whole = node.peers_packet(&udp((REMOTE, 1), (A, 2)).payload(&[]));
        let shortest = if node.shape.wrapped == Wrapped::Ip { 0 } else { 8 };
        for size in shortest..whole.payload.len() {
            let outcome = node.pass_wire(UPLINK, whole.clone().payload(&whole.payload[..size]).bytes());
            assert_eq!(outcome, Outcome::dropped(DropReason::Truncated), "{size} of {:?}", node.shape);
        }
    }
}

#[test]
fn congestion_on_the_way_is_told_inside_or_the_packet_is_dropped_by_name() {
    for (mut node, _) in all() {
        for (a, _, remote) in FAMILIES {
            // RFC 6040, figure 4: outer, inner, and what is delivered.
            for (outer, inner, told) in [
                (0b11, 0b10, Some(0b11)),
                (0b11, 0b01, Some(0b11)),
                (0b11, 0b11, Some(0b11)),
                (0b11, 0b00, None),
                (0b01, 0b10, Some(0b01)),
                (0b01, 0b00, Some(0b00)),
                (0b01, 0b11, Some(0b11)),
                (0b10, 0b01, Some(0b01)),
                (0b00, 0b10, Some(0b10)),
                (0b00, 0b11, Some(0b11)),
            ] {
                let packet = tcp((remote, 1), (a, 2), SYN).traffic_class(0xb8 | inner);
                let wire = node.peers_packet(&packet).traffic_class(0x28 | outer);
                let outcome = node.pass_wire(UPLINK, wire.bytes());
                let expected = match told {
                    Some(told) => node.delivered(POD_A, packet.traffic_class(0xb8 | told).hop()),
                    None => Outcome::dropped(DropReason::TunnelCongestion),
                };
                assert_eq!(outcome, expected, "{outer:#b} outside, {inner:#b} inside");
            }
        }
    }
}

#[test]
fn a_udp_tunnel_over_ipv6_is_taken_with_a_checksum_and_without() {
    for wrapped in [Wrapped::Vxlan, Wrapped::Geneve] {
        let mut node = node(wrapped, 1);
        let packet = udp((REMOTE, 1), (A, 2));
        let mut bytes = node.peers_packet(&packet).bytes();
        assert_ne!(bytes[60..62], [0, 0]);
        assert_eq!(node.pass_wire(UPLINK, bytes.clone()), node.delivered(POD_A, packet.clone().hop()));
        bytes[60..62].fill(0);
        assert_eq!(node.pass_wire(UPLINK, bytes), node.delivered(POD_A, packet.hop()));
    }
}

#[test]
fn flows_are_told_apart_outside() {
    let mut ports = std::collections::HashSet::new();
    let mut labels = std::collections::HashSet::new();
    for wrapped in [Wrapped::Vxlan, Wrapped::Ip] {
        let mut node = node(wrapped, 1);
        for src in 1000..1064 {
            let packet = node.dressed(POD_A, &udp((A, src), (REMOTE, 53)));
            assert!(node.peer(POD_A).inject(packet.bytes()));
            node.run();
            let sent = node.peer(UPLINK).take().unwrap().bytes;
            labels.insert((wrapped == Wrapped::Ip, [sent[15] & 15, sent[16], sent[17]]));
            ports.insert(decapsulate(&Spec::judge(&sent)).unwrap().1);
        }
    }
    assert!(ports.len() > 48 && labels.len() > 120, "{} ports, {} labels", ports.len(), labels.len());
}

#[test]
fn inside_a_frame_only_untagged_ip_is_taken() {
    for (mut node, _) in all().filter(|(node, _)| node.shape.wrapped != Wrapped::Ip) {
        let whole = node.peers_packet(&udp((REMOTE, 1), (A, 2)));
        for (ethertype, reason) in [
            ([0x08, 0x06], DropReason::EtherType),
            ([0x81, 0x00], DropReason::Vlan),
            ([0x88, 0xa8], DropReason::Vlan),
            ([0x88, 0x47], DropReason::EtherType),
        ] {
            let mut payload = whole.payload.clone();
            payload[20..22].copy_from_slice(&ethertype);
            assert_eq!(node.pass_wire(UPLINK, whole.clone().payload(&payload).bytes()), Outcome::dropped(reason));
        }
    }
}

#[test]
fn a_tunnel_in_a_tunnel_is_a_packet_like_others() {
    for (mut node, _) in all() {
        let once = node.peers_packet(&udp((REMOTE, 1), (A, 2)));
        // To the node itself: no way in. To a pod: its own affair.
        assert_eq!(node.pass_tunnel(&once), from_outside(&mut node, |outer| outer, &once));
        let outcome = node.pass_tunnel(&once);
        assert!(
            outcome == Outcome::dropped(DropReason::TunnelPeer) || outcome == Outcome::dropped(DropReason::TunnelStray)
        );
        let to_pod = match node.shape.underlay {
            0 => Spec { src: REMOTE, dst: A, ..once },
            _ => Spec { src: v6::REMOTE, dst: v6::A, ..once },
        };
        assert_eq!(node.pass_tunnel(&to_pod), node.delivered(POD_A, to_pod.hop()));
    }
}

#[test]
fn geneve_options_are_read_over_and_what_must_not_be_ignored_is_named() {
    for underlay in [0, 1] {
        let mut node = node(Wrapped::Geneve, underlay);
        let inner = udp((REMOTE, 1), (A, 2));
        let plain = node.peers_packet(&inner);
        let mut with = |first: u8, flags: u8, protocol: [u8; 2], options: usize| {
            let header = [&[first, flags], &protocol[..], &plain.payload[4..8], &vec![0; options]].concat();
            node.pass_wire(UPLINK, plain.clone().payload(&[&header, &plain.payload[8..]].concat()).bytes())
        };
        for words in [1, 2, 63] {
            assert_eq!(with(words, 0, [0x65, 0x58], words as usize * 4).packet().payload, inner.payload);
        }
        let dropped = Outcome::dropped;
        assert_eq!(with(1, 0x40, [0x65, 0x58], 4), dropped(DropReason::TunnelOption));
        assert_eq!(with(0, 0x80, [0x65, 0x58], 0), dropped(DropReason::TunnelControl));
        assert_eq!(with(0x40, 0, [0x65, 0x58], 0), dropped(DropReason::Malformed));
        assert_eq!(with(0, 0, [0x08, 0x00], 0), dropped(DropReason::EtherType));
        assert_eq!(with(63, 0, [0x65, 0x58], 0), dropped(DropReason::Truncated));
    }
}

#[test]
fn an_outer_fragment_is_not_taken_out() {
    for (mut node, _) in all() {
        let frame = node.peers_packet(&udp((REMOTE, 1), (A, 2)).payload(&[0; 100])).bytes();
        let passed = node.pass_all(UPLINK, None, &fragments::split(&frame, &[64], 1));
        assert_eq!((passed.sent.len(), passed.dropped), (0, vec![DropReason::Fragment; 2]));
    }
}

#[test]
fn ip_in_ip_with_another_family_than_it_says_is_malformed() {
    for underlay in [0, 1] {
        let mut node = node(Wrapped::Ip, underlay);
        let packet = node.peers_packet(&udp((REMOTE, 1), (A, 2)));
        let wrong = Spec { l4: L4::Raw { protocol: 41 }, ..packet.clone() };
        let outcome = node.pass_wire(UPLINK, wrong.payload(&[&packet.payload[..], &[0; 40]].concat()).bytes());
        assert_eq!(outcome, Outcome::dropped(DropReason::Malformed));
    }
}
