//! What the node itself answers: ARP, neighbour discovery and echo for the gateway, resets for refused segments, errors.
//! Answers are written over the packet they answer, in place; with smoltcp's views. Decides only whether there is an answer.
//!
//! Sources: RFC 826 (ARP), RFC 792 (ICMP), RFC 4443 (ICMPv6), RFC 4861 (NDP), RFC 9293 3.5.2 (resets).

mod arp;
mod echo;
pub mod error;
pub mod ndp;
mod reset;

pub use arp::answer_arp;
pub use echo::answer_echo;

use crate::parse::{Kind, Meta};
use crate::rewrite::set_macs;
use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6Packet};
use tables::{Mac, Protocol};

/// Of everything that this node itself sends, but to neighbours.
const ANSWER_TTL: u8 = 64;
/// Bytes of an IPv6 header without extensions.
const IPV6_BYTES: usize = 40;

/// Turns a segment that is refused into a reset: its size, or None where there must be none (about resets, and about what
/// came from many or nobody).
pub fn refuse(bytes: &mut [u8], meta: &Meta, own_mac: Mac) -> Option<usize> {
    if meta.protocol != Protocol::TCP
        || meta.kind == Kind::Piece
        || meta.src.is_multicast()
        || meta.src.is_unspecified()
    {
        return None;
    }
    let size = reset::reset(bytes, meta)?;
    set_macs(bytes, own_mac, meta.src_mac);
    Some(size)
}

fn turned(meta: &Meta) -> Meta {
    Meta { src: meta.dst, dst: meta.src, src_port: meta.dst_port, dst_port: meta.src_port, ..*meta }
}

/// Writes an IP header from the packet's destination back to its source; of IPv6 one without extension headers.
fn turn_ip(bytes: &mut [u8], meta: &Meta) {
    let (l3, size) = (meta.l3 as usize, meta.ip_size());
    if meta.is_v4 {
        let mut ip = Ipv4Packet::new_unchecked(&mut bytes[l3..]);
        ip.set_total_len(size as u16);
        ip.set_src_addr(meta.dst.v4_octets().into());
        ip.set_dst_addr(meta.src.v4_octets().into());
        ip.set_next_header(IpProtocol::from(meta.protocol.0));
        ip.set_hop_limit(ANSWER_TTL);
        // What is answered may be a first fragment.
        ip.set_more_frags(false);
        return ip.fill_checksum();
    }
    write_v6(bytes, &turned(meta), ANSWER_TTL);
}

/// Writes the IPv6 header of what `meta` says, without extension headers. The traffic class stays as it stands there.
fn write_v6(bytes: &mut [u8], meta: &Meta, hop_limit: u8) {
    let mut ip = Ipv6Packet::new_unchecked(&mut bytes[meta.l3 as usize..]);
    ip.set_version(6);
    ip.set_flow_label(0);
    ip.set_payload_len((meta.ip_size() - IPV6_BYTES) as u16);
    ip.set_src_addr(meta.src.v6_octets().into());
    ip.set_dst_addr(meta.dst.v6_octets().into());
    ip.set_next_header(IpProtocol::from(meta.protocol.0));
    ip.set_hop_limit(hop_limit);
}

/// Moves layer 4 up to an IPv6 header: the question's extension headers are not the answer's (RFC 8200, 8.4). IPv4 keeps
/// its options, which an echo returns (RFC 1122, 3.2.2.6).
fn drop_extensions(bytes: &mut [u8], meta: &Meta) -> Meta {
    let (from, to) = (meta.l4 as usize, meta.l3 as usize + IPV6_BYTES);
    if meta.is_v4 || from == to {
        return *meta;
    }
    bytes.copy_within(from..meta.end as usize, to);
    Meta { l4: to as u16, end: meta.end - (from - to) as u32, ..*meta }
}

#[cfg(test)]
#[path = "punt_tests.rs"]
mod tests;
