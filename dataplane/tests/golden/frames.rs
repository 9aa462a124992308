//! Frames themselves: sizes, super-frames, checksums, and everything that is no proper packet.

use crate::node;
use crate::support::packets::{decapsulate, tcp};
use crate::support::*;
use dataplane::io::mem::WirePacket;
use dataplane::packet::{Checksum, Gso};
use packets::{ACK, PSH, SYN};
use tables::Protocol;
use tables::counters::{DropReason, WorkerCounter};

/// One's-complement sum of 16-bit words.
fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|w| u32::from_be_bytes([0, 0, w[0], *w.get(1).unwrap_or(&0)]));
    words.fold(0, |sum, word| ((sum + word) & 0xffff) + ((sum + word) >> 16))
}

/// Where the checksum stands within the transport header.
fn offset(packet: &Spec) -> u16 {
    if matches!(packet.l4, L4::Udp { .. }) { 6 } else { 16 }
}

/// As a pod's kernel with offloads sends it: the checksum field holds the pseudo-header's sum.
fn partial(packet: &Spec, gso: Gso) -> WirePacket {
    let mut bytes = packet.bytes();
    let l4_size = bytes.len() - 34;
    let protocol = bytes[23];
    let pseudo = [&bytes[26..34], &[0, protocol], &(l4_size as u16).to_be_bytes()].concat();
    let at = 34 + offset(packet) as usize;
    bytes[at..at + 2].copy_from_slice(&(sum(&pseudo) as u16).to_be_bytes());
    let checksum = Checksum::Partial { start: 34, offset: offset(packet) };
    WirePacket { bytes, checksum, gso, gso_ecn: false }
}

/// What the receiving kernel does with a partial checksum.
fn completed(packet: &WirePacket) -> Spec {
    let Checksum::Partial { start, offset } = packet.checksum else { panic!("{:?}", packet.checksum) };
    let mut bytes = packet.bytes.clone();
    let checksum = !(sum(&bytes[start as usize..]) as u16);
    let at = (start + offset) as usize;
    bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    Spec::judge(&bytes)
}

#[test]
fn a_super_frame_stays_whole_between_local_pods_even_if_translated() {
    let mut node = node();
    node.publish(|rows| rows.service(1, (SERVICE, 80, Protocol::TCP), &[(B, 8080)]));
    let packet = node.dressed(POD_A, &tcp((A, 1000), (SERVICE, 80), ACK).payload(&bulk(40_000)));
    assert!(node.peer(POD_A).inject(partial(&packet, Gso::Tcp4(1400))));
    node.run();
    let received = node.peer(POD_B).take_all();
    assert_eq!((received.len(), received[0].gso), (1, Gso::Tcp4(1400)));
    let expected = packet.macs(GATEWAY_MAC, pod_mac(1, 5)).to(B, 8080).hop();
    assert_eq!(completed(&received[0]), expected);
}

#[test]
fn a_super_frame_is_cut_for_the_wire_and_no_byte_is_lost() {
    let mut node = node();
    node.publish(|rows| rows.service(1, (SERVICE, 80, Protocol::TCP), &[(REMOTE, 8080)]));
    let data = bulk(30_001);
    for (dst, ip_size_max) in [((SERVICE, 80), 1450), ((CLIENT, 80), 1500)] {
        let packet = node.dressed(POD_A, &tcp((A, 1000), dst, ACK | PSH).payload(&data));
        assert!(node.peer(POD_A).inject(partial(&packet, Gso::Tcp4(1460))));
        node.run();
        let sent = node.peer(UPLINK).take_all();
        let segments: Vec<Spec> = sent.iter().map(|packet| Spec::judge(&packet.bytes)).collect();
        let segments: Vec<Spec> = segments.into_iter().map(|s| decapsulate(&s).map_or(s, |(_, _, s)| s)).collect();
        assert_eq!(segments.iter().flat_map(|s| s.payload.clone()).collect::<Vec<u8>>(), data);
        let mut expected_seq = 1000;
        for (i, segment) in segments.iter().enumerate() {
            let L4::Tcp { seq, flags, .. } = segment.l4 else { panic!("{segment:?}") };
            let is_last = i + 1 == segments.len();
            assert_eq!((seq, flags & PSH != 0), (expected_seq, is_last));
            assert!(segment.payload.len() + 40 <= ip_size_max && segment.ttl == 63);
            expected_seq += segment.payload.len() as u32;
        }
        assert!(segments[0].payload.len() + 40 > ip_size_max - 41, "segments fill the wire");
    }
    assert!(node.count(WorkerCounter::SegmentsCut) >= 42);
    assert_eq!(node.frames_free(), node.frames());
}

#[test]
fn datagrams_that_travelled_as_one_arrive_as_many() {
    let mut node = node();
    let packet = node.dressed(POD_A, &udp((A, 1), (REMOTE, 2)).payload(&bulk(550)));
    assert!(node.peer(POD_A).inject(partial(&packet, Gso::Udp(100))));
    node.run();
    let sent = node.peer(UPLINK).take_all();
    let inner: Vec<Spec> = sent.iter().map(|p| decapsulate(&Spec::judge(&p.bytes)).unwrap().2).collect();
    assert_eq!(inner.iter().map(|p| p.payload.len()).collect::<Vec<_>>(), [100, 100, 100, 100, 100, 50]);
    assert_eq!(inner.iter().flat_map(|p| p.payload.clone()).collect::<Vec<u8>>(), bulk(550));
}

#[test]
fn datagrams_too_large_for_the_wire_are_not_split_at_other_places() {
    let mut node = node();
    let packet = node.dressed(POD_A, &udp((A, 1), (REMOTE, 2)).payload(&bulk(4500)));
    let outcome = node.pass_wire(POD_A, partial(&packet, Gso::Udp(1460)));
    assert_eq!((outcome.dropped, outcome.sent.len()), (vec![DropReason::TooBig], 1), "and the sender is told");
}

#[test]
fn partial_checksums_are_completed_before_a_wire_and_follow_translation() {
    let mut node = node();
    node.publish(|rows| {
        rows.service(1, (SERVICE, 80, Protocol::TCP), &[(REMOTE, 8080)]);
        rows.service(2, (SERVICE, 53, Protocol::UDP), &[(REMOTE, 5353)]);
    });
    for packet in [tcp((A, 1), (SERVICE, 80), SYN), udp((A, 1), (SERVICE, 53)), udp((A, 1), (CLIENT, 9))] {
        for size in [0, 1, 2, 777, 1400] {
            let packet = node.dressed(POD_A, &packet.clone().payload(&bulk(size)));
            // `pass_wire` judges checksums by computing them anew.
            let outcome = node.pass_wire(POD_A, partial(&packet, Gso::None));
            assert_eq!(outcome.packet().payload, bulk(size));
        }
    }
}

#[test]
fn a_datagram_without_checksum_keeps_none() {
    let mut node = node();
    node.publish(|rows| rows.service(2, (SERVICE, 53, Protocol::UDP), &[(REMOTE, 5353)]));
    let mut bytes = node.dressed(POD_A, &udp((A, 1), (SERVICE, 53))).bytes();
    bytes[40..42].fill(0);
    node.peer(POD_A).inject(bytes);
    node.run();
    let sent = node.peer(UPLINK).take().unwrap();
    assert_eq!(sent.bytes[50 + 40..50 + 42], [0, 0]);
}

#[test]
fn padding_does_not_travel() {
    let mut node = node();
    let mut bytes = node.dressed(POD_A, &udp((A, 1), (REMOTE, 2)).payload(b"x")).bytes();
    bytes.resize(60, 0xee);
    node.peer(POD_A).inject(bytes);
    node.run();
    assert_eq!(node.peer(UPLINK).take().unwrap().bytes.len(), 50 + 14 + 20 + 8 + 1);
}

#[test]
fn what_is_larger_than_the_path_allows_is_too_big_and_what_just_fits_passes() {
    let mut node = node();
    for (dst, ip_size_max) in [(REMOTE, 1450), (CLIENT, 1500)] {
        let packet = |ip_size: usize| udp((A, 1), (dst, 2)).payload(&bulk(ip_size - 28));
        assert_eq!(node.pass(POD_A, &packet(ip_size_max)).packet().payload.len(), ip_size_max - 28);
        assert_eq!(node.pass(POD_A, &packet(ip_size_max + 1)).dropped, [DropReason::TooBig]);
        assert_eq!(node.pass(POD_A, &packet(9000)).dropped, [DropReason::TooBig]);
    }
    let jumbo = udp((CLIENT, 1), (A, 2)).payload(&bulk(3000));
    assert_eq!(node.pass(UPLINK, &jumbo), Outcome::dropped(DropReason::Oversized));
}

#[test]
fn a_frame_that_ends_too_early_is_truncated_wherever_it_ends() {
    let mut node = node();
    let from_pod = node.dressed(POD_A, &udp((A, 1), (REMOTE, 2))).bytes();
    let from_wire = node.peers_packet(&tcp((REMOTE, 1), (A, 2), SYN)).bytes();
    for (interface, bytes) in [(POD_A, from_pod), (UPLINK, from_wire)] {
        for size in 1..bytes.len() {
            let outcome = node.pass_wire(interface, bytes[..size].to_vec());
            assert_eq!(outcome, Outcome::dropped(DropReason::Truncated), "{size} bytes");
        }
    }
    assert_eq!(node.flows(), 0);
}

#[test]
fn each_malformed_header_has_its_reason() {
    let mut node = node();
    let good = node.dressed(POD_A, &udp((A, 1), (REMOTE, 2))).bytes();
    for (at, value, reason) in [
        (12, 0x81, DropReason::Vlan),
        (12, 0x88, DropReason::EtherType),
        (14, 0x65, DropReason::Malformed),
        (14, 0x44, DropReason::Malformed),
        (17, 19, DropReason::Malformed),
        (17, 255, DropReason::Truncated),
        (20, 0x20, DropReason::FragmentTiny),
        (39, 7, DropReason::Malformed),
        (39, 200, DropReason::Truncated),
    ] {
        let mut bytes = good.clone();
        bytes[at] = value;
        assert_eq!(node.pass_wire(POD_A, bytes), Outcome::dropped(reason), "byte {at} = {value:#x}");
    }
    let mut tunnel = node.peers_packet(&udp((REMOTE, 1), (A, 2))).bytes();
    tunnel[42] = 0;
    assert_eq!(node.pass_wire(UPLINK, tunnel), Outcome::dropped(DropReason::Malformed), "no VNI");
}

#[test]
fn garbage_is_counted_packet_by_packet_and_loses_no_frame() {
    let mut node = node();
    let seeds = [
        (POD_A, node.dressed(POD_A, &tcp((A, 1), (B, 2), SYN)).bytes()),
        (POD_A, node.dressed(POD_A, &udp((A, 1), (REMOTE, 2))).bytes()),
        (UPLINK, node.peers_packet(&tcp((REMOTE, 1), (A, 2), SYN)).bytes()),
        (HOST, node.dressed(HOST, &udp((HOST_ADDR, 1), (CLIENT, 2))).bytes()),
    ];
    let mut random = 0x9e37_79b9u64;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % below
    };
    for _ in 0..20_000 {
        let (interface, bytes) = &seeds[next(seeds.len())];
        let mut bytes = bytes.clone();
        for _ in 0..=next(6) {
            let at = next(bytes.len());
            bytes[at] = next(256) as u8;
        }
        bytes.truncate(bytes.len() - next(bytes.len()) * (next(3) / 2));
        let drops = |node: &Node| DropReason::ALL.iter().map(|&reason| node.drops(reason)).sum::<u64>();
        let before = drops(&node);
        node.peer(*interface).inject(bytes.clone());
        node.run();
        let sent: usize = node.peers.values().map(|peer| peer.take_all().len()).sum();
        let path = node.workers[0].path();
        let held = path.held.len() + path.fragments.waiting();
        assert!(drops(&node) - before + sent as u64 + held as u64 >= 1, "{bytes:02x?} vanished");
        assert_eq!(node.frames_free() + held, node.frames());
    }
}
