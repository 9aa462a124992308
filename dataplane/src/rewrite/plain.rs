//! Rewriting where headers are plain, as [`parse_plain`](crate::parse::parse_plain) takes them, and the checksum is
//! complete: places are known, so that it is one run of stores. Must leave the bytes that `forward` would leave.

use super::{Change, get, one_off, put};
use tables::checksum::Folded;
use tables::flow::FlowRecord;

/// From the Ethernet header to the end of UDP's, of IPv4 and of IPv6.
const UDP_END: usize = 14 + 20 + 8;
const UDP_V6_END: usize = 14 + 40 + 8;
/// As much of a TCP header as is written.
const TCP_END: usize = 14 + 20 + 18;
const TCP_V6_END: usize = 14 + 40 + 18;

/// As [`forward`](super::forward) without a change, over IPv4. Returns the traffic class, which is read on the way.
#[inline(always)]
pub fn forward_plain(bytes: &mut [u8], hop: bool) -> u8 {
    let Some(head) = bytes.first_chunk_mut::<UDP_END>() else { return 0 };
    write_hop(head, one_off(hop), hop);
    head[15]
}

/// The same with what a flow does to packets that go `OUT` of its local end, or towards it. Each part is read from its record
/// where it is written: no processor has registers for all.
#[inline(always)]
pub fn translate_plain<const OUT: bool>(bytes: &mut [u8], is_udp: bool, record: &FlowRecord, hop: bool) -> u8 {
    let Some(head) = bytes.first_chunk_mut::<UDP_END>() else { return 0 };
    let traffic_class = head[15];
    write_hop(head, record.differences(OUT).0.and(one_off(hop)), hop);
    let (addresses, ports) = record.ends_v4(OUT);
    put_word(head, 26, addresses);
    put_half(head, 34, ports);
    if is_udp {
        update(head, 40, |field| update_udp(field, record.differences(OUT).1));
    } else if let Some(head) = bytes.first_chunk_mut::<TCP_END>() {
        update(head, 50, |field| record.differences(OUT).1.update(field));
    }
    traffic_class
}

/// As `forward_plain`, over IPv6.
#[inline(always)]
pub fn forward_plain_v6(bytes: &mut [u8], hop: bool) -> u8 {
    let Some(head) = bytes.first_chunk_mut::<UDP_V6_END>() else { return 0 };
    head[21] -= hop as u8;
    (get(head, 14) >> 4) as u8
}

/// As `translate_plain`, over IPv6, by what a flow does to its packets of this way.
#[inline(always)]
pub fn translate_plain_v6(bytes: &mut [u8], is_udp: bool, change: &Change, hop: bool) -> u8 {
    let traffic_class = forward_plain_v6(bytes, hop);
    let Some(head) = bytes.first_chunk_mut::<UDP_V6_END>() else { return 0 };
    let ([src_high, src_low], [dst_high, dst_low]) = (change.to.src.words(), change.to.dst.words());
    for (at, word) in [(22, src_high), (30, src_low), (38, dst_high), (46, dst_low)] {
        put_word(head, at, word);
    }
    put_half(head, 54, (change.to.src_port as u32) << 16 | change.to.dst_port as u32);
    if is_udp {
        update(head, 60, |field| update_udp(field, change.l4));
    } else if let Some(head) = bytes.first_chunk_mut::<TCP_V6_END>() {
        update(head, 70, |field| change.l4.update(field));
    }
    traffic_class
}

/// The word of time to live, protocol and checksum: what `difference` does to the sum, and one off the first if this is a `hop`.
#[inline(always)]
fn write_hop(head: &mut [u8; UDP_END], difference: Folded, hop: bool) {
    let before = u32::from_be_bytes([head[22], head[23], head[24], head[25]]);
    let kept = (before & 0xffff_0000) - ((hop as u32) << 24);
    put_half(head, 22, kept | difference.update(before as u16) as u32);
}

#[inline(always)]
fn put_half<const SIZE: usize>(head: &mut [u8; SIZE], at: usize, value: u32) {
    head[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

#[inline(always)]
fn put_word<const SIZE: usize>(head: &mut [u8; SIZE], at: usize, value: u64) {
    head[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

#[inline(always)]
fn update<const SIZE: usize>(head: &mut [u8; SIZE], at: usize, change: impl FnOnce(u16) -> u16) {
    let updated = change(get(head, at));
    put(head, at, updated);
}

/// RFC 768: a UDP checksum of zero means that there is none.
#[inline(always)]
pub(super) fn update_udp(field: u16, difference: Folded) -> u16 {
    match (field, difference.update(field)) {
        (0, _) => 0,
        (_, 0) => 0xffff,
        (_, updated) => updated,
    }
}
