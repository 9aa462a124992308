//! Arbitrary accepted packets through every writer of packet bytes. Checksums must be as right afterwards as they were
//! before: etherparse sums from scratch.

use super::cluster::INTERFACES;
use super::frames;
use super::input::Input;
use dataplane::io::frames::Memory;
use dataplane::io::pool::FramePool;
use dataplane::overlay::{Encap, Outer, OuterHeaders};
use dataplane::packet::Checksum;
use dataplane::parse::{Kind, Meta, Parsed, parse, quoted};
use dataplane::punt::{self, ndp};
use dataplane::rewrite::{self, Translation};
use etherparse::checksum::Sum16BitWords;
use std::sync::Arc;
use tables::{Addr, Mac, Protocol};

pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let interface = INTERFACES[input.byte() as usize % 4];
    let mut frame = frames::chosen(&mut input, interface);
    let Parsed::Ip(meta) = parse(&frame, frame.len()) else { return };
    frame.truncate(meta.end as usize);
    translate(&mut input, frame.clone(), meta);
    translate_quoted(&mut input, frame.clone(), &meta);
    answer(frame.clone(), &meta);
    encapsulate(&mut input, &frame, &meta);
}

fn addr(input: &mut Input, v4: bool) -> Addr {
    if v4 {
        Addr::v4(input.array())
    } else {
        Addr::v6([&[0xfd], &input.array::<15>()[..]].concat().try_into().unwrap())
    }
}

fn translation(input: &mut Input, bytes: &[u8], meta: &Meta) -> Translation {
    // By its type, since an identifier may be 0.
    let (v4, asks) = (meta.src.is_v4(), matches!(bytes.get(meta.l4 as usize), Some(8 | 128)));
    let (src, dst, src_port, dst_port) = (addr(input, v4), addr(input, v4), input.word(), input.word());
    match meta.kind {
        Kind::Transport => Translation { src, dst, src_port, dst_port },
        Kind::Echo if asks => Translation { src, dst, src_port, dst_port: 0 },
        Kind::Echo => Translation { src, dst, src_port: 0, dst_port },
        Kind::IcmpError | Kind::Other | Kind::Piece => Translation { src, dst, ..Translation::of(meta) },
    }
}

/// Translates and counts a hop, with right sums or with sums left as wrong as they are.
fn translate(input: &mut Input, mut bytes: Vec<u8>, meta: Meta) {
    let to = translation(input, &bytes, &meta);
    let fill = input.byte().is_multiple_of(2);
    if fill {
        fill_header(&mut bytes, &meta);
        rewrite::fill_l4(&mut bytes, &meta);
        assert_eq!(errors(&bytes, &meta), [0, 0], "filled: {meta:?}");
    }
    let before = errors(&bytes, &meta);
    let mut after = meta;
    rewrite::translate(&mut bytes, &mut after, &to, Checksum::Unverified);
    if meta.ttl > 0 {
        rewrite::forward(&mut bytes, &after, None, true, Checksum::Unverified);
        after.follow(None, true);
    }
    assert_eq!(errors(&bytes, &after), before, "{meta:?} to {to:?}");
    assert!(!fill || rewrite::verify_l4(&bytes, &after), "{after:?}");
    // What was written must read back.
    let Parsed::Ip(read) = parse(&bytes, bytes.len()) else { panic!("{after:?} is not read back") };
    assert_eq!((Translation::of(&read), read.ttl), (to, after.ttl));
}

fn fill_header(bytes: &mut [u8], meta: &Meta) {
    if meta.src.is_v4() {
        let (l3, l4) = (meta.l3 as usize, meta.l4 as usize);
        bytes[l3 + 10..l3 + 12].fill(0);
        let sum = Sum16BitWords::new().add_slice(&bytes[l3..l4]).ones_complement();
        bytes[l3 + 10..l3 + 12].copy_from_slice(&sum.to_ne_bytes());
    }
}

/// How far off both checksums are, summed from scratch: 0 is right.
fn errors(bytes: &[u8], meta: &Meta) -> [u16; 2] {
    let (l3, l4, end) = (meta.l3 as usize, meta.l4 as usize, meta.end as usize);
    let header = if meta.src.is_v4() { Sum16BitWords::new().add_slice(&bytes[l3..l4]).ones_complement() } else { 0 };
    let has_sum = [Protocol::TCP, Protocol::UDP, Protocol::ICMP, Protocol::ICMPV6].contains(&meta.protocol);
    let without = meta.protocol == Protocol::UDP && bytes[l4 + 6..l4 + 8] == [0, 0];
    if !has_sum || without {
        return [canonical(header), 0];
    }
    let mut sum = Sum16BitWords::new();
    if meta.protocol != Protocol::ICMP {
        let octets = |addr: Addr| match addr.ip() {
            std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
            std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let size = ((end - l4) as u32).to_be_bytes();
        sum = sum
            .add_slice(&octets(meta.src))
            .add_slice(&octets(meta.dst))
            .add_slice(&size)
            .add_2bytes([0, meta.protocol.0]);
    }
    [canonical(header), canonical(sum.add_slice(&bytes[l4..end]).ones_complement())]
}

/// One's complement has two zeroes.
fn canonical(sum: u16) -> u16 {
    if sum == 0xffff { 0 } else { sum }
}

fn translate_quoted(input: &mut Input, mut bytes: Vec<u8>, meta: &Meta) {
    if meta.kind != Kind::IcmpError {
        return;
    }
    let Some(before) = quoted(&bytes, meta) else { return };
    let v4 = before.tuple.local.is_v4();
    let after = tables::flow::Tuple { local: addr(input, v4), local_port: input.word(), ..before.tuple };
    rewrite::translate_quoted(&mut bytes, &before, &after);
    let read = quoted(&bytes, meta).expect("a translated quote is still one").tuple;
    if before.tuple.protocol.has_ports() {
        assert_eq!(read, after);
    }
}

/// The node's own answers, written in place.
fn answer(mut bytes: Vec<u8>, meta: &Meta) {
    if meta.kind == Kind::Echo {
        punt::answer_echo(&mut bytes.clone(), meta, Mac::default());
    }
    if ndp::is_between_neighbours(&bytes, meta)
        && let Ok(asked) = ndp::solicitation(&bytes, meta, Checksum::Unverified)
    {
        let mut bytes = [&bytes[..], &[0; ndp::ADVERTISEMENT_BYTES]].concat();
        let end = ndp::advertise(&mut bytes, meta, &asked, Mac::default(), true).expect("room");
        let Some(read) = parse(&bytes[..end], end).ip() else { panic!("no advertisement for {meta:?}") };
        assert_eq!((read.src, read.ttl, errors(&bytes[..end], &read)), (asked.target, 255, [0, 0]));
    }
    punt::answer_arp(&mut bytes.clone(), meta.dst, Mac::default());
    error(&bytes, meta);
    if let Some(end) = punt::refuse(&mut bytes, meta, Mac::default()) {
        bytes.truncate(end);
        let Parsed::Ip(read) = parse(&bytes, bytes.len()) else { panic!("the answer to {meta:?} is not read back") };
        assert_eq!((read.src, read.dst, errors(&bytes, &read)), (meta.dst, meta.src, [0, 0]));
    }
}

/// An error about it, which is read back as one that quotes it.
fn error(packet: &[u8], meta: &Meta) {
    let quote = punt::error::quote_bytes(meta, packet.len() - meta.l3 as usize);
    let mut bytes = vec![0; punt::error::front_bytes(meta)];
    bytes.extend(&packet[..meta.l3 as usize + quote]);
    let told = punt::error::write(&mut bytes, meta, punt::error::Cause::TimeExceeded, meta.dst);
    let Parsed::Ip(read) = parse(&bytes, bytes.len()) else { panic!("the error about {meta:?} is not read back") };
    assert_eq!((read.src, read.dst, errors(&bytes, &read)), (told.src, told.dst, [0, 0]));
}

fn encapsulate(input: &mut Input, frame: &[u8], meta: &Meta) {
    let (memory, frames) = Memory::create(64, 2048).expect("memory for frames");
    let mut pool = FramePool::divide(Arc::new(memory), frames, 1).remove(0);
    let Some(mut packet) = pool.copy_in(frame) else { return };
    if packet.is_chained() {
        return pool.put_packet(packet);
    }
    packet.checksum = match input.byte() % 2 {
        0 => Checksum::Unverified,
        _ => Checksum::Partial { start: input.word() % 128, offset: input.word() % 64 },
    };
    rewrite::complete_checksum(pool.memory(), &mut packet, meta);
    let (v4, kind) = (input.byte().is_multiple_of(2), input.byte());
    let outer = Outer {
        encap: [Encap::Vxlan, Encap::Geneve, Encap::Ip][kind as usize % 3],
        src_mac: Mac::default(),
        dst_mac: Mac::default(),
        src: addr(input, v4),
        dst: addr(input, v4),
        inner_mac: None,
        tunnel_port: input.word(),
        vni: input.word() as u32,
    };
    let (headers, flow_hash) = (OuterHeaders::new(&outer), u64::from_le_bytes(input.array()));
    let traffic_class = rewrite::traffic_class(pool.memory().head(&packet), meta);
    let inner = pool.memory().head(&packet).to_vec();
    assert!(packet.push_front(headers.size()));
    let total = packet.total_size();
    headers.write(pool.memory().head_mut(&mut packet), total, flow_hash, traffic_class);
    let bytes = pool.memory().head(&packet).to_vec();
    let Parsed::Ip(read) = parse(&bytes, bytes.len()) else { panic!("an encapsulated packet is not read back") };
    assert_eq!((read.src, read.dst), (outer.src, outer.dst));
    assert_eq!(bytes.len(), headers.size() + frame.len());
    if outer.encap == Encap::Ip {
        assert_eq!(bytes[read.l4 as usize..], inner[meta.l3 as usize..]);
    } else {
        assert_eq!(read.dst_port, outer.tunnel_port);
        assert_eq!(errors(&bytes, &read), [0, 0]);
    }
    pool.put_packet(packet);
}
