//! Fragments of IP packets: what their headers say, and which of them nobody may send. Must not know other fragments of
//! the packet: that is `fragments`' part.
//!
//! Sources: RFC 791 (IPv4), RFC 8200 4.5 (IPv6), RFC 6946 (atomic fragments), RFC 1858 and 3128 (tiny fragments), RFC
//! 7112 (the whole header chain is in the first one).

use super::{Kind, Meta};
use tables::Protocol;
use tables::counters::DropReason;

/// Bytes of the IPv6 fragment header.
pub const HEADER_V6_BYTES: usize = 8;
/// Bytes that offsets count in.
pub const UNIT_BYTES: usize = 8;
/// Bytes of the largest packet that is put together.
const PACKET_BYTES_MAX: usize = 65_535;

/// Which part of its packet a fragment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    pub id: u32,
    /// In units of eight bytes.
    pub offset: u16,
    /// Bytes behind its headers.
    pub size: u16,
    /// It is not the last.
    pub more: bool,
}

impl Fragment {
    /// Reads the eight bytes of an IPv6 fragment header. None: what it says is that the packet is whole.
    pub(super) fn from_v6(header: &[u8; HEADER_V6_BYTES]) -> Option<Fragment> {
        let [_, _, a, b, id @ ..] = *header;
        let word = u16::from_be_bytes([a, b]);
        let (offset, more) = (word >> 3, word & 1 != 0);
        (offset != 0 || more).then(|| Fragment { id: u32::from_be_bytes(id), offset, size: 0, more })
    }

    /// It carries the packet's layer-4 header.
    pub fn is_first(&self) -> bool {
        self.offset == 0
    }

    /// With its size, from `begin` to the packet's end, or the reason why nobody may send it.
    pub(super) fn check(self, meta: &Meta, begin: usize) -> Result<Fragment, DropReason> {
        let size = (meta.end as usize).checked_sub(begin).ok_or(DropReason::Truncated)?;
        let is_tiny = size == 0 || self.more && size % UNIT_BYTES != 0;
        // It would write over the flags of a header that was judged before.
        let is_in_header = self.offset == 1 && meta.protocol == Protocol::TCP;
        if is_tiny || is_in_header {
            return Err(DropReason::FragmentTiny);
        }
        if self.offset as usize * UNIT_BYTES + size > PACKET_BYTES_MAX {
            return Err(DropReason::Malformed);
        }
        Ok(Fragment { size: size as u16, ..self })
    }
}

/// What a fragment that is not the first one is to flows, until somebody tells its ports.
pub(super) fn later(meta: Meta) -> Meta {
    Meta { kind: Kind::Piece, ..meta }
}

/// Why a first fragment's layer-4 header was not read: one that its packet has elsewhere makes the fragment tiny.
pub(super) fn cut_short(reason: DropReason) -> DropReason {
    if reason == DropReason::Truncated { DropReason::FragmentTiny } else { reason }
}
