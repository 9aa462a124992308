//! Tunnel headers that came in, and what the outer header's ECN says of the inner packet. The outer UDP checksum is not looked
//! at, be it zero or not (RFC 7348, 4.1, leaves that open): the inner packet has its own, and its receiver verifies it.

use super::{FLAG_CRITICAL, FLAG_VNI, TRANSPARENT_ETHERNET, TUNNEL_BYTES, direct};
use tables::counters::DropReason;

/// Bits of a Geneve header (RFC 8926, 3.4).
const VERSION: u8 = 0xc0;
const OPTION_WORDS: u8 = 0x3f;
const CONTROL: u8 = 0x80;

/// The codepoints of ECN (RFC 3168, 5).
const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const CE: u8 = 3;

/// The network identifier of a VXLAN header, or None if it is cut short or says that it has none.
#[inline(always)]
pub fn vni(header: &[u8]) -> Option<u32> {
    let header: &[u8; TUNNEL_BYTES] = header.first_chunk()?;
    (header[0] & FLAG_VNI != 0).then(|| identifier(header))
}

/// What a Geneve header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geneve {
    pub vni: u32,
    /// With options.
    pub size: usize,
    /// It names the backend of the client's packet inside (see [`direct`]).
    pub is_direct: bool,
}

/// Reads a Geneve header. Its options are ignored, unless one must not be, and is not ours or not alone.
pub fn geneve(bytes: &[u8]) -> Result<Geneve, DropReason> {
    let header: &[u8; TUNNEL_BYTES] = bytes.first_chunk().ok_or(DropReason::Truncated)?;
    let [first, flags, ..] = *header;
    if first & VERSION != 0 {
        return Err(DropReason::Malformed);
    }
    if flags & CONTROL != 0 {
        return Err(DropReason::TunnelControl);
    }
    let size = TUNNEL_BYTES + (first & OPTION_WORDS) as usize * 4;
    let is_direct = flags & FLAG_CRITICAL != 0;
    if is_direct && !direct::is_option(bytes.get(TUNNEL_BYTES..size).ok_or(DropReason::Truncated)?) {
        return Err(DropReason::TunnelOption);
    }
    if header[2..4] != TRANSPARENT_ETHERNET {
        return Err(DropReason::EtherType);
    }
    Ok(Geneve { vni: identifier(header), size, is_direct })
}

/// Whether a Geneve header says that one of its options must not be ignored.
pub fn must_be_known(header: &[u8]) -> bool {
    header.get(1).is_some_and(|flags| flags & FLAG_CRITICAL != 0)
}

#[inline(always)]
fn identifier(header: &[u8; TUNNEL_BYTES]) -> u32 {
    u32::from_be_bytes([0, header[4], header[5], header[6]])
}

/// Whether an outer traffic class can change the inner one: its ECN is ECT(1) or CE.
#[inline(always)]
pub fn may_change(traffic_class: u8) -> bool {
    traffic_class & 1 != 0
}

/// The ECN that a packet has once it is out of its tunnel (RFC 6040, figure 4). None: it met congestion and cannot say so.
pub fn ecn(outer: u8, inner: u8) -> Option<u8> {
    match (outer & 3, inner & 3) {
        (CE, NOT_ECT) => None,
        (CE, _) => Some(CE),
        (_, inner @ (NOT_ECT | CE)) => Some(inner),
        (ECT_1, _) => Some(ECT_1),
        (_, inner) => Some(inner),
    }
}
