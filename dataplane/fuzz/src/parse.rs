//! Arbitrary frames into the parser: what it accepts lies in the frame, etherparse reads the same from it, and so do the short
//! ways.

use super::cluster::INTERFACES;
use super::frames;
use super::input::Input;
use dataplane::parse::{Kind, Meta, Parsed, parse, parse_plain, parse_plain_v6, quoted};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use tables::Addr;

pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let interface = INTERFACES[input.byte() as usize % 4];
    let behind_head = input.byte() as usize * 8;
    let frame = frames::chosen(&mut input, interface);
    let total = frame.len() + behind_head;
    check_short_ways(&frame, total);
    if let Parsed::Ip(meta) = parse(&frame, total) {
        check_bounds(&frame, total, &meta);
        if meta.kind == Kind::IcmpError {
            quoted(&frame, &meta);
        }
        if meta.kind == Kind::Transport {
            check_reading(&frame, &meta);
        }
    }
}

/// What a short way says, the long one says.
fn check_short_ways(frame: &[u8], total: usize) {
    for meta in [parse_plain(frame, total), parse_plain_v6(frame, total)].into_iter().flatten() {
        assert_eq!(format!("{:?}", Parsed::Ip(meta)), format!("{:?}", parse(frame, total)));
    }
}

fn check_bounds(head: &[u8], total: usize, meta: &Meta) {
    let (l3, l4, end) = (meta.l3 as usize, meta.l4 as usize, meta.end as usize);
    assert!(l3 < l4 && l4 <= end && end <= total && l4 <= head.len(), "{meta:?} of {total}");
    assert_eq!(meta.src.is_v4(), head[l3] >> 4 == 4, "family of {meta:?}");
    assert_eq!(meta.src.is_v4(), meta.dst.is_v4(), "families of {meta:?}");
    if meta.kind != Kind::Other {
        assert!(l4 + 8 <= head.len() && l4 + 8 <= end, "{meta:?}");
    }
}

/// Where etherparse gets as far as layer 4, it must read the same addresses and ports.
fn check_reading(frame: &[u8], meta: &Meta) {
    let Ok(sliced) = SlicedPacket::from_ethernet(frame) else { return };
    let (src, dst) = match sliced.net {
        Some(NetSlice::Ipv4(ip)) => (Addr::v4(ip.header().source()), Addr::v4(ip.header().destination())),
        Some(NetSlice::Ipv6(ip)) => (Addr::v6(ip.header().source()), Addr::v6(ip.header().destination())),
        _ => return,
    };
    assert_eq!((src, dst), (meta.src, meta.dst));
    let ports = match sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port()),
        Some(TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port()),
        _ => return,
    };
    assert_eq!(ports, (meta.src_port, meta.dst_port));
}
