//! SCTP's checksum (RFC 9260, appendix A) under other ports. It is linear: what is changed at the packet's front changes it
//! by the same difference whatever follows, shifted over that many bytes. So nothing but the header is read, however many
//! frames the packet has, and a wrong checksum stays wrong. Addresses are not under it. Of a fragmented packet the whole
//! size is not known when its first fragment goes: its checksum becomes wrong, and its receiver drops it (SCTP cuts by
//! chunks instead, 6.9).

use super::Translation;
use crate::parse::Meta;
use crc32c::{crc32c, crc32c_combine};

/// Where it stands in the header: least significant byte first.
const OFFSET: usize = 8;
const PORTS_BYTES: usize = 4;

/// Follows the ports that were just written over those that `meta` tells.
#[cold]
#[inline(never)]
pub fn update(bytes: &mut [u8], meta: &Meta, to: &Translation) {
    let (l4, end) = (meta.l4 as usize, meta.end as usize);
    let behind = end.saturating_sub(l4 + PORTS_BYTES);
    let difference = crc32c(&ports(meta.src_port, meta.dst_port)) ^ crc32c(&ports(to.src_port, to.dst_port));
    let shifted = crc32c_combine(difference, 0, behind).to_le_bytes();
    let Some(field) = bytes.get_mut(l4 + OFFSET..l4 + OFFSET + shifted.len()) else { return };
    field.iter_mut().zip(shifted).for_each(|(byte, difference)| *byte ^= difference);
}

fn ports(src: u16, dst: u16) -> [u8; PORTS_BYTES] {
    (((src as u32) << 16) | dst as u32).to_be_bytes()
}
