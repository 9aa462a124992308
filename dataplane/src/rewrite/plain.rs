//! Rewriting where headers are plain, as [`parse_plain`](crate::parse::parse_plain) takes them, and the checksum is
//! complete: places are known, so that it is one run of stores. Must leave the bytes that `forward` would leave.

use super::{Change, get, one_off, put};
use tables::checksum::Folded;

/// From the Ethernet header to the end of UDP's.
const UDP_END: usize = 14 + 20 + 8;
/// As much of a TCP header as is written.
const TCP_END: usize = 14 + 20 + 18;

/// As [`forward`](super::forward) without a change. Returns the traffic class, which is read on the way.
#[inline(always)]
pub fn forward_plain(bytes: &mut [u8], hop: bool) -> u8 {
    let Some(head) = bytes.first_chunk_mut::<UDP_END>() else { return 0 };
    head[22] -= hop as u8;
    update(head, 24, |field| one_off(hop).update(field));
    head[15]
}

/// The same with one.
#[inline(always)]
pub fn translate_plain(bytes: &mut [u8], is_udp: bool, change: &Change, hop: bool) -> u8 {
    let Some(head) = bytes.first_chunk_mut::<UDP_END>() else { return 0 };
    let traffic_class = head[15];
    head[22] -= hop as u8;
    update(head, 24, |field| change.addresses.and(one_off(hop)).update(field));
    head[26..30].copy_from_slice(&change.to.src.v4_octets());
    head[30..34].copy_from_slice(&change.to.dst.v4_octets());
    put(head, 34, change.to.src_port);
    put(head, 36, change.to.dst_port);
    if is_udp {
        update(head, 40, |field| update_udp(field, change.l4));
    } else if let Some(head) = bytes.first_chunk_mut::<TCP_END>() {
        update(head, 50, |field| change.l4.update(field));
    }
    traffic_class
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
