//! ICMP errors that the node itself sends. One is written in front of the packet that it is about, which becomes its quote
//! where it stands: as its sender sent it, since nothing was rewritten before. Says whether there may be an error at all;
//! how many, from whom, and the way back are the worker's.
//!
//! Sources: RFC 792, RFC 1122 3.2.2, RFC 1812 4.3.2 (ICMP), RFC 1191 (too big), RFC 4443 (ICMPv6).

use super::{ANSWER_TTL, IPV6_BYTES, write_v6};
use crate::parse::{Kind, Meta};
use crate::rewrite::{fill_l4, put_ethernet};
use smoltcp::wire::{IpProtocol, Ipv4Packet};
use tables::{Addr, Protocol};

/// Why a packet goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Its time to live ran out here.
    TimeExceeded,
    /// The way out takes IP packets of this many bytes at most.
    TooBig {
        mtu: u16,
    },
    NoRoute,
    /// Nobody on the link answers for its destination.
    AddressUnreachable,
    /// Nobody serves this port.
    PortUnreachable,
}

impl Cause {
    /// (type, code, the header's last four bytes) in ICMP.
    fn v4(self) -> (u8, u8, u32) {
        match self {
            Cause::TimeExceeded => (11, 0, 0),
            Cause::TooBig { mtu } => (3, 4, mtu as u32),
            Cause::NoRoute => (3, 0, 0),
            Cause::AddressUnreachable => (3, 1, 0),
            Cause::PortUnreachable => (3, 3, 0),
        }
    }

    /// The same in ICMPv6.
    fn v6(self) -> (u8, u8, u32) {
        match self {
            Cause::TimeExceeded => (3, 0, 0),
            Cause::TooBig { mtu } => (2, 0, mtu as u32),
            Cause::NoRoute => (1, 0, 0),
            Cause::AddressUnreachable => (1, 3, 0),
            Cause::PortUnreachable => (1, 4, 0),
        }
    }
}

const IPV4_BYTES: usize = 20;
const ICMP_BYTES: usize = 8;
/// Whole errors: as much of the packet as fits (RFC 1812, 4.3.2.3; RFC 4443, 2.4 (c)).
const ERROR_V4_BYTES_MAX: usize = 576;
const ERROR_V6_BYTES_MAX: usize = 1280;

/// Bytes of the headers in front of the quote, without Ethernet's.
pub fn front_bytes(meta: &Meta) -> usize {
    (if meta.is_v4 { IPV4_BYTES } else { IPV6_BYTES }) + ICMP_BYTES
}

/// Bytes of the packet that its error quotes, of those that are at hand behind its Ethernet header.
pub fn quote_bytes(meta: &Meta, at_hand: usize) -> usize {
    let max = if meta.is_v4 { ERROR_V4_BYTES_MAX } else { ERROR_V6_BYTES_MAX };
    (max - front_bytes(meta)).min(meta.ip_size()).min(at_hand)
}

/// Whether the sender of a packet may be told: never about errors, later fragments, or what went to or came from many
/// (RFC 1122, 3.2.2; RFC 4443, 2.4 (e)). `dst_mac` is the frame's.
pub fn may_tell(meta: &Meta, dst_mac: [u8; 6], cause: Cause) -> bool {
    let is_too_big_v6 = !meta.is_v4 && matches!(cause, Cause::TooBig { .. });
    let to_many = meta.dst.is_multicast() || meta.dst.is_v4_broadcast() || dst_mac[0] & 1 != 0;
    let from_one = !(meta.src.is_multicast() || meta.src.is_unspecified() || meta.src.is_v4_broadcast());
    !matches!(meta.kind, Kind::IcmpError | Kind::Piece) && from_one && (!to_many || is_too_big_v6)
}

/// Writes an error from `from` to the packet's sender. `bytes` are the whole frame: Ethernet, room for [`front_bytes`],
/// the quote. Returns what the error is; the Ethernet addresses are the caller's to write.
pub fn write(bytes: &mut [u8], meta: &Meta, cause: Cause, from: Addr) -> Meta {
    let (l3, end) = (meta.l3 as usize, bytes.len());
    let l4 = l3 + front_bytes(meta) - ICMP_BYTES;
    let (kind, code, rest) = if meta.is_v4 { cause.v4() } else { cause.v6() };
    bytes[l4..l4 + 4].copy_from_slice(&[kind, code, 0, 0]);
    bytes[l4 + 4..l4 + ICMP_BYTES].copy_from_slice(&rest.to_be_bytes());
    let protocol = if meta.is_v4 { Protocol::ICMP } else { Protocol::ICMPV6 };
    let (l4, end) = (l4 as u16, end as u32);
    let kind = Kind::IcmpError;
    let error =
        Meta { src: from, dst: meta.src, protocol, kind, src_port: 0, dst_port: 0, ttl: ANSWER_TTL, l4, end, ..*meta };
    put_ethernet(bytes, meta.is_v4);
    if meta.is_v4 {
        write_v4(&mut bytes[l3..], &error);
    } else {
        bytes[l3..l3 + 4].fill(0);
        write_v6(bytes, &error, ANSWER_TTL);
    }
    fill_l4(bytes, &error);
    error
}

fn write_v4(bytes: &mut [u8], error: &Meta) {
    bytes[..IPV4_BYTES].fill(0);
    let mut ip = Ipv4Packet::new_unchecked(bytes);
    ip.set_version(4);
    ip.set_header_len(IPV4_BYTES as u8);
    ip.set_total_len(error.ip_size() as u16);
    // Precedence of network control, as routers set it (RFC 1812, 4.3.2.5).
    ip.set_dscp(48);
    ip.set_hop_limit(ANSWER_TTL);
    ip.set_next_header(IpProtocol::Icmp);
    ip.set_src_addr(error.src.v4_octets().into());
    ip.set_dst_addr(error.dst.v4_octets().into());
    ip.fill_checksum();
}

#[cfg(test)]
#[path = "error_tests.rs"]
mod tests;
