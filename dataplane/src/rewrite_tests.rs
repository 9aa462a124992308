use super::*;
use crate::io::frames::HEADROOM;
use crate::parse::{Parsed, parse};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
enum L4 {
    Tcp,
    Udp,
    Echo,
}

fn build(v6: bool, l4: L4, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let builder =
        if v6 { builder.ipv6([0xfd; 16], [0xfc; 16], 64) } else { builder.ipv4([10, 1, 0, 4], [172, 30, 0, 1], 64) };
    let mut bytes = Vec::new();
    match (l4, v6) {
        (L4::Tcp, _) => builder.tcp(1000, 80, 1, 2).write(&mut bytes, payload),
        (L4::Udp, _) => builder.udp(1000, 80).write(&mut bytes, payload),
        (L4::Echo, false) => builder.icmpv4_echo_request(1000, 1).write(&mut bytes, payload),
        (L4::Echo, true) => builder.icmpv6_echo_request(1000, 1).write(&mut bytes, payload),
    }
    .unwrap();
    bytes
}

/// Writes what the builder does not: the traffic class, a flow label where there is one, and the time to live.
fn set_plain(bytes: &mut [u8], v6: bool, traffic_class: u8, ttl: u8) {
    if v6 {
        bytes[14..18].copy_from_slice(&(6 << 28 | (traffic_class as u32) << 20 | 0x5_4321).to_be_bytes());
        bytes[21] = ttl;
    } else {
        (bytes[15], bytes[22]) = (traffic_class, ttl);
    }
}

fn meta(bytes: &[u8]) -> Meta {
    match parse(bytes, bytes.len()) {
        Parsed::Ip(meta) => meta,
        other => panic!("{other:?}"),
    }
}

/// Whether etherparse, computing from scratch, agrees with both checksums in the packet.
fn judged_right(bytes: &[u8]) -> bool {
    let sliced = SlicedPacket::from_ethernet(bytes).unwrap();
    match (sliced.net.unwrap(), sliced.transport.unwrap()) {
        (NetSlice::Ipv4(ip), transport) => {
            let header = ip.header().to_header();
            header.header_checksum == header.calc_header_checksum() && right_v4(&header, &transport)
        }
        (NetSlice::Ipv6(ip), transport) => right_v6(&ip.header().to_header(), &transport),
        _ => false,
    }
}

fn right_v4(ip: &etherparse::Ipv4Header, transport: &TransportSlice) -> bool {
    match transport {
        TransportSlice::Tcp(t) => t.checksum() == t.calc_checksum_ipv4(ip.source, ip.destination).unwrap(),
        TransportSlice::Udp(u) => u.checksum() == u.to_header().calc_checksum_ipv4(ip, u.payload()).unwrap(),
        TransportSlice::Icmpv4(i) => i.checksum() == i.icmp_type().calc_checksum(i.payload()),
        _ => false,
    }
}

fn right_v6(ip: &etherparse::Ipv6Header, transport: &TransportSlice) -> bool {
    match transport {
        TransportSlice::Tcp(t) => t.checksum() == t.calc_checksum_ipv6(ip.source, ip.destination).unwrap(),
        TransportSlice::Udp(u) => u.checksum() == u.to_header().calc_checksum_ipv6(ip, u.payload()).unwrap(),
        TransportSlice::Icmpv6(i) => {
            i.checksum() == i.icmp_type().calc_checksum(ip.source, ip.destination, i.payload()).unwrap()
        }
        _ => false,
    }
}

fn l4() -> impl Strategy<Value = L4> {
    prop_oneof![Just(L4::Tcp), Just(L4::Udp), Just(L4::Echo)]
}

proptest! {
    /// Updating by difference gives what computing from scratch gives, for every protocol and both families, and the
    /// packet reads back as it was asked to be.
    #[test]
    fn a_translated_packet_has_right_checksums(
        v6: bool, l4 in l4(), payload in prop::collection::vec(any::<u8>(), 0..64),
        src: [u8; 16], dst: [u8; 16], ports: [u16; 2],
    ) {
        let mut bytes = build(v6, l4, &payload);
        let before = meta(&bytes);
        let addr = |a: [u8; 16]| if v6 { Addr::v6(a) } else { Addr::v4(*a.first_chunk().unwrap()) };
        prop_assume!(!v6 || !addr(src).is_v4() && !addr(dst).is_v4());
        let dst_port = if matches!(l4, L4::Echo) { 0 } else { ports[1] };
        let to = Translation { src: addr(src), dst: addr(dst), src_port: ports[0], dst_port };
        let mut told = before;
        translate(&mut bytes, &mut told, &to, Checksum::Unverified);
        forward(&mut bytes, &told, None, true, Checksum::Unverified);
        told.follow(None, true);
        let after = meta(&bytes);
        prop_assert_eq!(Translation::of(&after), to);
        prop_assert_eq!(Translation::of(&told), to);
        prop_assert_eq!((after.ttl, told.ttl), (63, 63));
        prop_assert!(judged_right(&bytes));
        prop_assert!(verify_l4(&bytes, &after));
    }

    /// Where headers are plain they are written by other code: it must leave the same bytes, whatever the checksums were.
    #[test]
    fn the_short_way_leaves_the_bytes_of_the_long_one(
        v6: bool, is_udp: bool, hop: bool, out: bool, translated: bool, traffic_class: u8, ttl in 2u8.., sums: [u16; 2], no_sum: bool,
        payload in prop::collection::vec(any::<u8>(), 0..64), src: [u8; 16], dst: [u8; 16], ports: [u16; 2],
    ) {
        let mut bytes = build(v6, if is_udp { L4::Udp } else { L4::Tcp }, &payload);
        set_plain(&mut bytes, v6, traffic_class, ttl);
        let (before, addr) = (meta(&bytes), |a: [u8; 16]| if v6 { Addr::v6(a) } else { Addr::v4(*a.first_chunk().unwrap()) });
        if !v6 {
            put(&mut bytes, 24, sums[0]);
        }
        let at = before.l4 as usize + if is_udp { 6 } else { 16 };
        put(&mut bytes, at, if no_sum { 0 } else { sums[1] });
        let mut short = bytes.clone();
        let came = before.from_local();
        let goes = Tuple { local: addr(src), remote: addr(dst), local_port: ports[0], remote_port: ports[1], ..came };
        let (record, way) = match out {
            true => (FlowRecord::new(came, &goes), Way::Out),
            false => (FlowRecord::new(goes.reversed(), &came.reversed()), Way::Back),
        };
        let change = translated.then(|| Change::of_flow(&record, way));
        forward(&mut bytes, &before, change.as_ref(), hop, Checksum::Unverified);
        let class = match (&change, v6) {
            (Some(_), false) if out => translate_plain::<true>(&mut short, is_udp, &record, hop),
            (Some(_), false) => translate_plain::<false>(&mut short, is_udp, &record, hop),
            (Some(change), true) => translate_plain_v6(&mut short, is_udp, change, hop),
            (None, false) => forward_plain(&mut short, hop),
            (None, true) => forward_plain_v6(&mut short, hop),
        };
        prop_assert_eq!(class, traffic_class);
        prop_assert_eq!(short, bytes);
    }

    /// A wrong checksum stays wrong: nothing is repaired on the way.
    #[test]
    fn a_wrong_checksum_stays_wrong(l4 in l4(), flip in 1u16.., port: u16) {
        let mut bytes = build(false, l4, b"payload");
        let before = meta(&bytes);
        let at = before.l4 as usize + checksum_offset(before.protocol).unwrap();
        let wrong = get(&bytes, at) ^ flip;
        // All ones and zero are the same sum; a UDP sum of zero is no sum.
        prop_assume!(fold(wrong as u64) % 0xffff != get(&bytes, at) % 0xffff && wrong != 0);
        put(&mut bytes, at, wrong);
        let dst_port = if matches!(l4, L4::Echo) { 0 } else { 81 };
        let to = Translation { src_port: port, dst_port, ..Translation::of(&before) };
        translate(&mut bytes, &mut before.clone(), &to, Checksum::Unverified);
        prop_assert!(!judged_right(&bytes));
    }

    /// A partial checksum that went through a translation completes to the right one.
    #[test]
    fn a_partial_checksum_completes(payload in prop::collection::vec(any::<u8>(), 0..900), tcp: bool, port: u16, dst: [u8; 4]) {
        let mut bytes = build(false, if tcp { L4::Tcp } else { L4::Udp }, &payload);
        let before = meta(&bytes);
        let offset = checksum_offset(before.protocol).unwrap();
        let size = before.end as usize - before.l4 as usize;
        put(&mut bytes, before.l4 as usize + offset, pseudo_header_sum(before.src, before.dst, before.protocol, size));
        let checksum = Checksum::Partial { start: before.l4, offset: offset as u16 };
        let to = Translation { dst: Addr::v4(dst), dst_port: port, ..Translation::of(&before) };
        let mut told = before;
        translate(&mut bytes, &mut told, &to, checksum);

        let (memory, mut frames) = Memory::create(4, 2048).unwrap();
        let mut frame = frames.remove(0);
        memory.bytes_mut(&mut frame, HEADROOM, bytes.len()).copy_from_slice(&bytes);
        let mut packet = Packet::new(frame, HEADROOM as u16, bytes.len() as u16);
        packet.checksum = checksum;
        complete_checksum(&memory, &mut packet, &told);
        prop_assert!(judged_right(memory.head(&packet)));
    }
}

#[test]
fn a_udp_packet_without_checksum_keeps_none() {
    let mut bytes = build(false, L4::Udp, b"x");
    let before = meta(&bytes);
    put(&mut bytes, before.l4 as usize + 6, 0);
    let to = Translation { dst_port: 9, ..Translation::of(&before) };
    translate(&mut bytes, &mut before.clone(), &to, Checksum::Unverified);
    assert_eq!(get(&bytes, before.l4 as usize + 6), 0);
}

#[test]
fn filling_and_verifying_agree_with_an_independent_builder() {
    for l4 in [L4::Tcp, L4::Udp, L4::Echo] {
        for v6 in [false, true] {
            let built = build(v6, l4, b"seven!!");
            let mut bytes = built.clone();
            let meta = meta(&bytes);
            fill_l4(&mut bytes, &meta);
            assert_eq!(bytes, built);
            bytes[meta.end as usize - 1] ^= 1;
            assert!(!verify_l4(&bytes, &meta), "{l4:?}");
        }
    }
}

/// A SYN with these option bytes.
fn syn(options: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 1, 0, 4], [172, 30, 0, 1], 64);
    let mut bytes = Vec::new();
    builder.tcp(1000, 80, 1, 2).syn().options_raw(options).unwrap().write(&mut bytes, b"data").unwrap();
    bytes
}

#[test]
fn a_segment_size_is_lowered_wherever_it_stands_and_never_raised() {
    for nothings in 0..4 {
        let options: Vec<u8> = std::iter::repeat_n(1, nothings).chain([2, 4, 0x05, 0xb4]).collect();
        for (max, expected) in [(1410u16, 1410u16), (1460, 1460), (9000, 1460)] {
            let mut bytes = syn(&options);
            let meta = meta(&bytes);
            clamp_mss(&mut bytes, &meta, max, Checksum::Unverified);
            let at = 54 + nothings + 2;
            assert_eq!(u16::from_be_bytes([bytes[at], bytes[at + 1]]), expected);
            assert!(judged_right(&bytes), "{nothings} bytes in front");
        }
    }
}

#[test]
fn options_that_make_no_sense_are_left_alone() {
    for options in [&[2, 3, 9, 9][..], &[2, 0, 9, 9], &[8, 40, 2, 4], &[0, 2, 4, 9], &[2, 4], &[1, 1, 1, 2]] {
        let bytes = syn(options);
        let mut clamped = bytes.clone();
        clamp_mss(&mut clamped, &meta(&bytes), 1, Checksum::Unverified);
        assert_eq!(clamped, bytes, "{options:?}");
    }
}
