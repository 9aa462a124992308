use super::*;
use etherparse::{PacketBuilder, SlicedPacket};

fn udp() -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([10, 1, 0, 4], [10, 1, 1, 4], 64)
        .udp(1000, 2000)
        .write(&mut bytes, b"payload")
        .unwrap();
    bytes
}

fn tcp() -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder =
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).ipv4([10, 1, 0, 4], [10, 1, 1, 4], 64);
    builder.tcp(1000, 2000, 1, 512).write(&mut bytes, b"payload").unwrap();
    bytes
}

fn ip(parsed: Parsed) -> Meta {
    match parsed {
        Parsed::Ip(meta) => meta,
        other => panic!("expected an IP packet, got {other:?}"),
    }
}

fn reason(bytes: &[u8]) -> DropReason {
    match parse(bytes, bytes.len()) {
        Parsed::Drop(reason) => reason,
        other => panic!("expected a drop, got {other:?}"),
    }
}

#[test]
fn a_udp_packet_reads_as_it_was_built() {
    let bytes = udp();
    let meta = ip(parse(&bytes, bytes.len()));
    assert_eq!((meta.src.to_string(), meta.dst.to_string()), ("10.1.0.4".into(), "10.1.1.4".into()));
    assert_eq!((meta.src_port, meta.dst_port, meta.kind, meta.ttl), (1000, 2000, Kind::Transport, 64));
    assert_eq!((meta.l3, meta.l4, meta.end as usize), (14, 34, bytes.len()));
    assert_eq!(meta.src_mac, Mac([2, 0, 0, 0, 0, 1]));
    assert_eq!(meta.from_local().reversed(), meta.from_remote());
}

#[test]
fn an_ipv6_packet_with_extensions_finds_its_ports() {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv6([0xfd; 16], [0xfc; 16], 9)
        .tcp(1000, 2000, 7, 100)
        .syn()
        .write(&mut bytes, b"")
        .unwrap();
    let meta = ip(parse(&bytes, bytes.len()));
    assert_eq!((meta.src_port, meta.dst_port, meta.tcp_flags, meta.ttl), (1000, 2000, tcp_flag::SYN, 9));
    // A destination-options header (60) of eight bytes slid in before TCP (6).
    let mut extended = bytes.clone();
    extended[20] = 60;
    extended.splice(54..54, [6, 0, 1, 4, 0, 0, 0, 0]);
    let payload = (bytes.len() - 54 + 8) as u16;
    extended[18..20].copy_from_slice(&payload.to_be_bytes());
    let meta = ip(parse(&extended, extended.len()));
    assert_eq!((meta.src_port, meta.l4), (1000, 62));
}

#[test]
fn an_echo_has_its_identifier_on_the_side_that_asks() {
    let echo = |reply: bool| {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 1, 0, 4], [10, 1, 1, 4], 64);
        let mut bytes = Vec::new();
        if reply {
            builder.icmpv4_echo_reply(7, 1).write(&mut bytes, b"x").unwrap();
        } else {
            builder.icmpv4_echo_request(7, 1).write(&mut bytes, b"x").unwrap();
        }
        let meta = ip(parse(&bytes, bytes.len()));
        (meta.src_port, meta.dst_port)
    };
    assert_eq!((echo(false), echo(true)), ((7, 0), (0, 7)));
}

#[test]
fn an_error_quotes_the_tuple_of_the_packet_it_is_about() {
    let inner = udp();
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([10, 9, 9, 9], [10, 1, 0, 4], 64)
        .icmpv4(etherparse::Icmpv4Type::TimeExceeded(etherparse::icmpv4::TimeExceededCode::TtlExceededInTransit))
        .write(&mut bytes, &inner[14..14 + 28])
        .unwrap();
    let meta = ip(parse(&bytes, bytes.len()));
    assert_eq!(meta.kind, Kind::IcmpError);
    let Quoted { tuple, l3, l4 } = quoted(&bytes, &meta).unwrap();
    assert_eq!(tuple, ip(parse(&inner, inner.len())).from_local());
    assert_eq!((l3, l4), (42, 62));
}

#[test]
fn every_prefix_of_a_packet_is_truncated_and_nothing_panics() {
    let bytes = udp();
    for size in 0..bytes.len() {
        assert_eq!(reason(&bytes[..size]), DropReason::Truncated, "{size} bytes");
    }
}

#[test]
fn bad_headers_are_named() {
    let with = |at: usize, value: u8| {
        let mut bytes = udp();
        bytes[at] = value;
        reason(&bytes)
    };
    assert_eq!(with(14, 0x65), DropReason::Malformed, "IP version 6 in an IPv4 frame");
    assert_eq!(with(14, 0x44), DropReason::Malformed, "a header of 16 bytes");
    assert_eq!(with(17, 10), DropReason::Malformed, "shorter than its own header");
    assert_eq!(with(12, 0x81), DropReason::Vlan, "tagged");
    assert_eq!(with(13, 0x99), DropReason::EtherType, "another protocol");
}

/// A UDP or TCP packet that says of itself that it is a part, with `size` bytes behind its headers.
fn part(v6: bool, protocol: u8, (offset, more): (u16, bool), size: usize) -> Vec<u8> {
    let l4 = if protocol == 6 { &tcp()[34..] } else { &udp()[34..] };
    let payload: Vec<u8> = l4.iter().copied().chain(std::iter::repeat(0)).take(size).collect();
    let mut bytes = [[2; 6], [4; 6]].concat();
    let offset = etherparse::IpFragOffset::try_new(offset).unwrap();
    if v6 {
        let ip = etherparse::Ipv6Header {
            payload_length: (size + 8) as u16,
            next_header: etherparse::IpNumber::IPV6_FRAGMENTATION_HEADER,
            hop_limit: 9,
            source: [0xfd; 16],
            destination: [0xfc; 16],
            ..Default::default()
        };
        bytes.extend([0x86, 0xdd]);
        bytes.extend(ip.to_bytes());
        bytes.extend(etherparse::Ipv6FragmentHeader::new(protocol.into(), offset, more, 0x12345).to_bytes());
    } else {
        let mut ip = etherparse::Ipv4Header::new(size as u16, 9, protocol.into(), [10; 4], [11; 4]).unwrap();
        (ip.identification, ip.fragment_offset, ip.more_fragments) = (0x2345, offset, more);
        ip.dont_fragment = false;
        bytes.extend([8, 0]);
        bytes.extend(ip.to_bytes());
    }
    [bytes, payload].concat()
}

#[test]
fn a_first_fragment_has_ports_and_a_later_one_has_not() {
    for (v6, l3_bytes, id) in [(false, 20, 0x2345), (true, 48, 0x12345)] {
        for (offset, more, size) in [(0, true, 64), (8, true, 64), (16, false, 5)] {
            let bytes = [part(v6, 17, (offset, more), size), vec![0; 7]].concat();
            let Parsed::Fragment(meta, fragment) = parse(&bytes, bytes.len()) else { panic!("no fragment") };
            assert_eq!(fragment, Fragment { id, offset, size: size as u16, more });
            assert_eq!((meta.protocol, meta.l4, meta.ttl), (Protocol::UDP, 14 + l3_bytes, 9));
            assert_eq!(meta.end as usize, bytes.len() - 7);
            let (kind, ports) = if offset == 0 { (Kind::Transport, (1000, 2000)) } else { (Kind::Piece, (0, 0)) };
            assert_eq!((meta.kind, (meta.src_port, meta.dst_port)), (kind, ports));
            assert!(parse_plain(&bytes, bytes.len()).is_none());
        }
    }
}

#[test]
fn fragments_that_nobody_may_send_are_named() {
    for v6 in [false, true] {
        let refused = |protocol, part_of, size| reason(&part(v6, protocol, part_of, size));
        for size in [0, 4, 60] {
            assert_eq!(refused(17, (0, true), size), DropReason::FragmentTiny, "{size} bytes, and more to come");
        }
        assert_eq!(refused(17, (5, false), 0), DropReason::FragmentTiny, "nothing in it");
        for (protocol, size) in [(6, 16), (132, 8)] {
            assert_eq!(refused(protocol, (0, true), size), DropReason::FragmentTiny, "its header goes on elsewhere");
        }
        let mut options = part(v6, 6, (0, true), 24);
        let l4 = options.len() - 24;
        options[l4 + 12] = 0x80;
        assert_eq!(reason(&options), DropReason::FragmentTiny, "its options go on elsewhere");
        assert_eq!(refused(6, (1, true), 8), DropReason::FragmentTiny, "over the flags");
        assert_eq!(refused(17, (8191, false), 8), DropReason::Malformed, "behind the end of the largest packet");
        assert!(matches!(parse(&part(v6, 17, (8191, false), 7), 200), Parsed::Fragment(..)));
    }
}

#[test]
fn an_atomic_fragment_is_a_whole_packet() {
    let bytes = part(true, 17, (0, false), udp().len() - 34);
    let meta = ip(parse(&bytes, bytes.len()));
    assert_eq!((meta.kind, meta.src_port, meta.dst_port, meta.l4), (Kind::Transport, 1000, 2000, 62));
}

#[test]
fn padding_is_outside_the_packet() {
    let mut bytes = udp();
    let end = bytes.len();
    bytes.resize(60, 0);
    assert_eq!(ip(parse(&bytes, 60)).end as usize, end);
}

proptest::proptest! {
    /// Whatever comes in, parsing ends without a panic, and what it accepts an independent parser accepts too.
    #[test]
    fn garbage_never_panics(start in proptest::collection::vec(proptest::num::u8::ANY, 0..200), keep in 0usize..60) {
        let mut bytes = udp();
        bytes.truncate(keep);
        bytes.extend(start);
        if let Parsed::Ip(meta) = parse(&bytes, bytes.len()) {
            proptest::prop_assert!(meta.end as usize <= bytes.len() && meta.l4 as u32 <= meta.end);
            let sliced = SlicedPacket::from_ethernet(&bytes);
            proptest::prop_assert!(sliced.is_ok() || meta.kind != Kind::Transport, "{sliced:?}");
            let _ = quoted(&bytes, &meta);
        }
    }

    /// The short way for most packets says what the long way says, or nothing; of a packet that nobody changed it says it.
    #[test]
    fn the_short_way_agrees_with_the_long_one(
        changes in proptest::collection::vec((0usize..80, proptest::num::u8::ANY), 0..4), v6: bool, is_tcp: bool, keep in 0usize..100,
    ) {
        let mut bytes = if v6 { of_v6(is_tcp) } else if is_tcp { tcp() } else { udp() };
        let is_changed = !changes.is_empty();
        for (at, value) in changes {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        let head = &bytes[..keep.min(bytes.len())];
        for total in [head.len(), bytes.len()] {
            let short = [parse_plain(head, total), parse_plain_v6(head, total)];
            proptest::prop_assert!(short.iter().flatten().count() == 1 || is_changed || head.len() < bytes.len());
            for meta in short.into_iter().flatten() {
                let long = parse(head, total);
                proptest::prop_assert_eq!(format!("{:?}", Parsed::Ip(meta)), format!("{long:?}"));
            }
            let amid = [parse_plain_amid(head, total), parse_plain_amid_v6(head, total)];
            proptest::prop_assert_eq!(format!("{amid:?}"), format!("{:?}", short.map(|meta| meta.filter(is_amid))));
        }
    }
}

/// Whether a packet has a hop left, and neither opens nor ends a connection.
fn is_amid(meta: &Meta) -> bool {
    let (ack, others) = (tcp_flag::ACK, tcp_flag::SYN | tcp_flag::FIN | tcp_flag::RST);
    let is_datagram = meta.protocol == Protocol::UDP;
    meta.ttl > 1 && (is_datagram || meta.tcp_flags & ack != 0 && meta.tcp_flags & others == 0)
}

/// A packet over IPv6.
fn of_v6(is_tcp: bool) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).ipv6([0xfd; 16], [0xfc; 16], 64);
    let mut bytes = Vec::new();
    let written = match is_tcp {
        true => builder.tcp(1000, 2000, 1, 512).write(&mut bytes, b"payload"),
        false => builder.udp(1000, 2000).write(&mut bytes, b"payload"),
    };
    written.unwrap();
    bytes
}

#[test]
fn a_mapped_address_does_not_pass_for_one_of_ipv4() {
    for (at, is_tcp) in [(22, true), (38, false)] {
        let mut bytes = of_v6(is_tcp);
        bytes[at..at + 16].copy_from_slice(&Addr::v4([10, 1, 0, 4]).v6_octets());
        assert!(parse_plain_v6(&bytes, bytes.len()).is_none());
        assert_eq!(reason(&bytes), DropReason::Malformed);
    }
}

#[test]
fn what_has_extension_headers_is_not_plain() {
    for next_header in [0, 43, 44, 58, 60, 132] {
        let mut bytes = of_v6(true);
        bytes[20] = next_header;
        assert!(parse_plain_v6(&bytes, bytes.len()).is_none());
    }
}

proptest::proptest! {
    // Cheap ones: each length must be one too large sometimes.
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(8_192))]

    #[test]
    fn plain_outer_headers_are_what_the_long_way_and_the_tunnels_header_say(
        edits in proptest::collection::vec((12usize..58, -2i8..=2), 0..4),
        cut in 0usize..30,
        more in 0usize..3,
    ) {
        let dst = [192, 168, 0, 1];
        let mut bytes = plain_vxlan();
        bytes.extend(vec![0; more]);
        for (at, value) in edits {
            bytes[at] = bytes[at].wrapping_add_signed(value);
        }
        let head = &bytes[..bytes.len() - cut];
        if let Some(plain) = parse_plain_outer(head, bytes.len(), Addr::v4(dst), 4789) {
            let long = ip(parse(head, bytes.len()));
            proptest::prop_assert!(is_tunnel(&long, &[Addr::v4(dst), Addr::UNSPECIFIED], 4789));
            let inside = long.l4 as usize + 8;
            proptest::prop_assert_eq!((plain.src, plain.end), (long.src, long.end as usize));
            proptest::prop_assert_eq!(plain.traffic_class, crate::rewrite::traffic_class(head, &long));
            proptest::prop_assert_eq!(Some(plain.vni), overlay::vni(&head[inside..]));
            proptest::prop_assert_eq!(PLAIN_OUTER_BYTES, inside + overlay::TUNNEL_BYTES);
        } else {
            proptest::prop_assert!(cut > 0 || bytes[..50] != plain_vxlan()[..50]);
        }
    }
}

/// One that nobody edited.
fn plain_vxlan() -> Vec<u8> {
    let mut bytes = Vec::new();
    let outer = PacketBuilder::ethernet2([1; 6], [2; 6]).ipv4([192, 168, 0, 2], [192, 168, 0, 1], 9).udp(50_000, 4789);
    outer.write(&mut bytes, &[[8, 0, 0, 0, 0, 0, 7, 0].as_slice(), &[1; 20]].concat()).unwrap();
    bytes
}
