//! What the node itself answers: ARP, neighbour discovery and echo for the gateway, resets and unreachables for refused
//! packets. Answers are written over the packet they answer, in place; with smoltcp's views. Decides only whether there is
//! an answer.
//!
//! Sources: RFC 826 (ARP), RFC 792 and 1122 3.2.2 (ICMP), RFC 4443 (ICMPv6), RFC 4861 (NDP), RFC 9293 3.5.2 (resets).

mod arp;
mod echo;
pub mod ndp;
mod reset;

pub use arp::answer_arp;
pub use echo::answer_echo;

use crate::parse::Meta;
use crate::rewrite::{fill_l4, set_macs};
use smoltcp::wire::{Icmpv4DstUnreachable, Icmpv4Message, Icmpv4Packet};
use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6Packet};
use tables::{Mac, Protocol};

const ANSWER_TTL: u8 = 64;
/// Bytes of an IPv6 header without extensions.
const IPV6_BYTES: usize = 40;
/// Bytes of the offending packet that an ICMP error quotes beyond its IP header (RFC 792).
const QUOTED_BYTES: usize = 8;

/// Room that [`refuse`] wants in the head frame: headers of the answer, and the quote with all options.
pub const REFUSAL_BYTES_MAX: usize = 14 + 20 + 8 + 60 + QUOTED_BYTES;

/// What a refused packet is answered with: its new size, or None where there must be no answer (resets, errors,
/// fragments and broadcasts are never answered). `bytes` may go on behind the packet, up to [`REFUSAL_BYTES_MAX`]: an
/// answer can be larger than its question.
pub fn refuse(bytes: &mut [u8], meta: &Meta, own_mac: Mac) -> Option<usize> {
    if meta.src.is_multicast() || meta.src.is_unspecified() {
        return None;
    }
    let end = match meta.protocol {
        Protocol::TCP => reset::reset(bytes, meta)?,
        Protocol::UDP | Protocol::SCTP if meta.is_v4 => unreachable(bytes, meta)?,
        _ => return None,
    };
    set_macs(bytes, own_mac, meta.src_mac);
    Some(end)
}

/// Port unreachable, quoting the IP header and eight bytes.
fn unreachable(bytes: &mut [u8], meta: &Meta) -> Option<usize> {
    let (l3, l4) = (meta.l3 as usize, meta.l4 as usize);
    let quoted = l4 - l3 + QUOTED_BYTES;
    let mut quote = [0; 60 + QUOTED_BYTES];
    quote.get_mut(..quoted)?.copy_from_slice(bytes.get(l3..l3 + quoted)?);
    let end = l3 + 20 + 8 + quoted;
    if bytes.len() < end {
        return None;
    }
    bytes[l3] = 0x45;
    let icmp = &mut bytes[l3 + 20..end];
    icmp[8..].copy_from_slice(&quote[..quoted]);
    let mut view = Icmpv4Packet::new_unchecked(&mut *icmp);
    view.set_msg_type(Icmpv4Message::DstUnreachable);
    view.set_msg_code(Icmpv4DstUnreachable::PortUnreachable.into());
    icmp[4..8].fill(0);
    let answer = Meta { l4: (l3 + 20) as u16, end: end as u32, protocol: Protocol::ICMP, ..*meta };
    fill_l4(bytes, &answer);
    turn_ip(bytes, &answer);
    Some(end)
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
        return ip.fill_checksum();
    }
    bytes[l3..l3 + 4].copy_from_slice(&[0x60, 0, 0, 0]);
    let mut ip = Ipv6Packet::new_unchecked(&mut bytes[l3..]);
    ip.set_payload_len((size - IPV6_BYTES) as u16);
    ip.set_src_addr(meta.dst.v6_octets().into());
    ip.set_dst_addr(meta.src.v6_octets().into());
    ip.set_next_header(IpProtocol::from(meta.protocol.0));
    ip.set_hop_limit(ANSWER_TTL);
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
