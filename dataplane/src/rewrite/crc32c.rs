//! SCTP's checksum (RFC 9260, appendix A) under other ports. It is linear: what is changed at the packet's front changes it
//! by the same difference whatever follows, shifted over that many bytes. So nothing but the header is read, however many
//! frames the packet has, and a wrong checksum stays wrong. Addresses are not under it. Of a fragmented packet the whole
//! size is not known when its first fragment goes, so that none comes here (`worker::fragments`); SCTP cuts by chunks
//! instead (6.9).

use crc32c::{crc32c, crc32c_combine};

/// Where it stands in the header: least significant byte first.
const OFFSET: usize = 8;
const PORTS_BYTES: usize = 4;

/// Source and destination port as one number.
#[inline(always)]
pub fn ports(src: u16, dst: u16) -> u32 {
    ((src as u32) << 16) | dst as u32
}

/// Follows ports that were written over others, in a packet whose layer 4 goes from `l4` to `end`. All by value: what is
/// lent to a call lies in memory, and packets of other protocols would pay for that.
#[cold]
#[inline(never)]
pub fn update(bytes: &mut [u8], l4: usize, end: usize, before: u32, after: u32) {
    let behind = end.saturating_sub(l4 + PORTS_BYTES);
    let difference = crc32c(&before.to_be_bytes()) ^ crc32c(&after.to_be_bytes());
    let shifted = crc32c_combine(difference, 0, behind).to_le_bytes();
    let Some(field) = bytes.get_mut(l4 + OFFSET..l4 + OFFSET + shifted.len()) else { return };
    field.iter_mut().zip(shifted).for_each(|(byte, difference)| *byte ^= difference);
}
