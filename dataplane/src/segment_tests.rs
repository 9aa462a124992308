use super::*;
use crate::packet::Gso;
use crate::parse::{Parsed, parse};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use std::sync::Arc;

fn pool() -> FramePool {
    let (memory, frames) = Memory::create(256, 2048).unwrap();
    FramePool::divide(Arc::new(memory), frames, 1).remove(0)
}

/// A super-frame of `bytes` spread over a head and 2000-byte frames, as a TAP delivers it.
fn chained(pool: &mut FramePool, bytes: &[u8]) -> Packet {
    let memory = pool.memory_arc();
    let (head, rest) = bytes.split_at(bytes.len().min(1500));
    let parts: Vec<_> = std::iter::once((head, HEADROOM))
        .chain(rest.chunks(2000).map(|part| (part, 16)))
        .map(|(part, start)| {
            let mut frame = pool.take().unwrap();
            memory.bytes_mut(&mut frame, start, part.len()).copy_from_slice(part);
            (frame, start as u16, part.len() as u16)
        })
        .collect();
    memory.join(parts.into_iter()).unwrap()
}

#[test]
fn a_tcp_super_frame_becomes_segments_that_carry_the_same_bytes() {
    let mut pool = pool();
    let before = pool.available();
    let payload: Vec<u8> = (0..20_001u32).map(|i| (i % 251) as u8).collect();
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([10, 1, 0, 4], [10, 1, 1, 4], 64)
        .tcp(1000, 80, 0xffff_f000, 9)
        .psh()
        .fin()
        .cwr()
        .ack(5)
        .options(&[etherparse::TcpOptionElement::Timestamp(1, 2)])
        .unwrap()
        .write(&mut bytes, &payload)
        .unwrap();
    let mut packet = chained(&mut pool, &bytes);
    packet.gso = Gso::Tcp4(1398);
    let Parsed::Ip(meta) = parse(&bytes, bytes.len()) else { panic!("unparsable") };
    let mut out = Vec::new();
    assert_eq!(cut(&mut pool, packet, &meta, 1450, &mut out), None);
    assert_eq!(out.len(), 20_001usize.div_ceil(1398));

    let (mut joined, mut next) = (Vec::new(), 0xffff_f000u32);
    let last = out.len() - 1;
    for (i, (packet, meta)) in out.into_iter().enumerate() {
        let bytes = pool.memory().head(&packet).to_vec();
        assert!(bytes.len() <= 1464 && meta.end as usize == bytes.len());
        let sliced = SlicedPacket::from_ethernet(&bytes).unwrap();
        let Some(NetSlice::Ipv4(ip)) = &sliced.net else { panic!("no IPv4") };
        let header = ip.header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        assert_eq!(header.identification, i as u16);
        let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!("no TCP") };
        assert_eq!(tcp.checksum(), tcp.calc_checksum_ipv4(header.source, header.destination).unwrap());
        assert_eq!(tcp.sequence_number(), next);
        assert_eq!((tcp.fin(), tcp.psh(), tcp.cwr(), tcp.ack()), (i == last, i == last, i == 0, true));
        next = next.wrapping_add(tcp.payload().len() as u32);
        joined.extend_from_slice(tcp.payload());
        pool.put_packet(packet);
    }
    assert!(joined == payload);
    assert_eq!(pool.available(), before, "no frame was lost");
}

#[test]
fn without_frames_nothing_is_cut_and_nothing_is_lost() {
    let mut pool = pool();
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([10, 1, 0, 4], [10, 1, 1, 4], 64)
        .udp(1000, 80)
        .write(&mut bytes, &[7; 9000])
        .unwrap();
    let mut packet = chained(&mut pool, &bytes);
    packet.gso = Gso::Udp(1000);
    let Parsed::Ip(meta) = parse(&bytes, bytes.len()) else { panic!("unparsable") };
    let taken: Vec<_> = std::iter::from_fn(|| if pool.available() > 3 { pool.take() } else { None }).collect();
    let mut out = Vec::new();
    assert_eq!(cut(&mut pool, packet, &meta, 1450, &mut out), Some(DropReason::NoFrame));
    assert!(out.is_empty());
    taken.into_iter().for_each(|frame| pool.put(frame));
    assert_eq!(pool.available(), 256);
}
