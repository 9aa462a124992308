//! The short way for most packets: TCP or UDP directly over IP without options, in one piece. It says what
//! [`parse`](super::parse) would say, or nothing. What is taken apart further is read as a word, what is compared by itself.

use super::{ETHERNET_BYTES, Kind, Meta, tcp_flag};
use crate::overlay;
use tables::{Addr, Mac, Protocol};

/// Offsets of the headers of a plain packet, of IPv4 and of IPv6.
const PLAIN_L3: u16 = ETHERNET_BYTES as u16;
pub const PLAIN_L4: u16 = PLAIN_L3 + 20;
pub const PLAIN_L4_V6: u16 = PLAIN_L3 + 40;

/// Over IPv4. None: `parse` is to say what it is.
#[inline(always)]
pub fn parse_plain(head: &[u8], total: usize) -> Option<Meta> {
    read_v4::<false>(head, total)
}

/// The same over IPv6, without extension headers. A mapped address would pass for one of IPv4.
#[inline(always)]
pub fn parse_plain_v6(head: &[u8], total: usize) -> Option<Meta> {
    read_v6::<false>(head, total)
}

/// As [`parse_plain`], of packets alone that neither open nor end a connection and have a hop left. Asked where it is read: a
/// processor is not asked twice of which protocol a packet is.
#[inline(always)]
pub fn parse_plain_amid(head: &[u8], total: usize) -> Option<Meta> {
    read_v4::<true>(head, total)
}

/// The same over IPv6.
#[inline(always)]
pub fn parse_plain_amid_v6(head: &[u8], total: usize) -> Option<Meta> {
    read_v6::<true>(head, total)
}

#[inline(always)]
fn read_v4<const AMID: bool>(head: &[u8], total: usize) -> Option<Meta> {
    let bytes: &[u8; L4_END] = head.first_chunk()?;
    let (protocol, ttl, end) = plain_ip(bytes, total)?;
    let (addrs, ports) = (be_word(bytes, 26), u32::from_be_bytes(*bytes[34..].first_chunk()?));
    if AMID && ttl <= 1 {
        return None;
    }
    let tcp_flags = plain_flags::<{ PLAIN_L4 as usize }, AMID>(head, end, protocol, be_half(bytes, 38))?;
    Some(Meta {
        src: Addr::v4_bits((addrs >> 32) as u32),
        dst: Addr::v4_bits(addrs as u32),
        src_port: (ports >> 16) as u16,
        dst_port: ports as u16,
        protocol,
        kind: Kind::Transport,
        tcp_flags,
        ttl,
        is_v4: true,
        l3: PLAIN_L3,
        l4: PLAIN_L4,
        end: end as u32,
        src_mac: src_mac(bytes),
    })
}

#[inline(always)]
fn read_v6<const AMID: bool>(head: &[u8], total: usize) -> Option<Meta> {
    let bytes: &[u8; L4_V6_END] = head.first_chunk()?;
    let end = PLAIN_L4_V6 as usize + be_half(bytes, 18) as usize;
    let src = Addr::of_words([be_word(bytes, 22), be_word(bytes, 30)]);
    let dst = Addr::of_words([be_word(bytes, 38), be_word(bytes, 46)]);
    let is_plain = be_half(bytes, 12) == 0x86dd && bytes[14] >> 4 == 6 && (L4_V6_END..=total).contains(&end);
    if !is_plain || src.is_v4() || dst.is_v4() || AMID && bytes[21] <= 1 {
        return None;
    }
    let (protocol, ports) = (Protocol(bytes[20]), u32::from_be_bytes(*bytes[54..].first_chunk()?));
    let tcp_flags = plain_flags::<{ PLAIN_L4_V6 as usize }, AMID>(head, end, protocol, be_half(bytes, 58))?;
    Some(Meta {
        src,
        dst,
        src_port: (ports >> 16) as u16,
        dst_port: ports as u16,
        protocol,
        kind: Kind::Transport,
        tcp_flags,
        ttl: bytes[21],
        is_v4: false,
        l3: PLAIN_L3,
        l4: PLAIN_L4_V6,
        end: end as u32,
        src_mac: src_mac(bytes),
    })
}

/// As much of a plain packet as one of UDP has in front of its payload.
const L4_END: usize = PLAIN_L4 as usize + 8;
const L4_V6_END: usize = PLAIN_L4_V6 as usize + 8;

/// Protocol, time to live and end of an IPv4 packet without options that is no fragment and long enough for UDP.
#[inline(always)]
fn plain_ip(bytes: &[u8; L4_END], total: usize) -> Option<(Protocol, u8, usize)> {
    let rest = u32::from_le_bytes(*bytes[20..].first_chunk()?);
    if be_half(bytes, 12) != 0x0800 || bytes[14] != 0x45 || rest & FRAGMENT != 0 {
        return None;
    }
    let behind = (be_half(bytes, 16) as u32).wrapping_sub((L4_END - ETHERNET_BYTES) as u32);
    if behind as usize > total.checked_sub(L4_END)? {
        return None;
    }
    Some((Protocol((rest >> 24) as u8), (rest >> 16) as u8, behind as usize + L4_END))
}

/// More fragments, and where this one stands, of the word that begins with the flags.
const FRAGMENT: u32 = 0xff3f;

/// Where the packet comes from. Read as a word, as which it is compared.
#[inline(always)]
fn src_mac<const SIZE: usize>(bytes: &[u8; SIZE]) -> Mac {
    let [a, b, c, d, e, f, _, _]: [u8; 8] = std::array::from_fn(|i| bytes[6 + i]);
    Mac([a, b, c, d, e, f])
}

/// Two bytes, the first one higher.
#[inline(always)]
fn be_half<const SIZE: usize>(bytes: &[u8; SIZE], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Eight bytes, the first one highest.
#[inline(always)]
fn be_word<const SIZE: usize>(bytes: &[u8; SIZE], at: usize) -> u64 {
    u64::from_be_bytes(std::array::from_fn(|i| bytes[at + i]))
}

/// What the outer headers of a plain VXLAN packet say.
pub struct PlainOuter {
    pub src: Addr,
    pub traffic_class: u8,
    pub vni: u32,
    /// As of a [`Meta`].
    pub end: usize,
}

/// Bytes in front of the inner packet of such a one.
pub const PLAIN_OUTER_BYTES: usize = L4_END + overlay::TUNNEL_BYTES;

/// The same for VXLAN over IPv4 to this address and port, of which no more is asked than what its inner packet goes by.
#[inline(always)]
pub fn parse_plain_outer(head: &[u8], total: usize, dst: Addr, port: u16) -> Option<PlainOuter> {
    let bytes: &[u8; PLAIN_OUTER_BYTES] = head.first_chunk()?;
    let (protocol, _, end) = plain_ip(bytes.first_chunk()?, total)?;
    let (addrs, udp) = (be_word(bytes, 26), be_word(bytes, 34));
    let is_to_us = (udp >> 32) as u16 == port && Addr::v4_bits(addrs as u32) == dst && protocol == Protocol::UDP;
    let udp_size = (udp >> 16) as u16 as usize;
    if !is_to_us || udp_size < 8 || PLAIN_L4 as usize + udp_size > end {
        return None;
    }
    let vni = overlay::vni(&bytes[L4_END..])?;
    Some(PlainOuter { src: Addr::v4_bits((addrs >> 32) as u32), traffic_class: bytes[15], vni, end })
}

/// The flags of TCP, or none of UDP, that says to be of this size, whose header begins at `L4` and is all there. None also, of
/// those `AMID` a connection alone, of one that opens or ends it.
#[inline(always)]
fn plain_flags<const L4: usize, const AMID: bool>(
    head: &[u8],
    end: usize,
    protocol: Protocol,
    udp_size: u16,
) -> Option<u8> {
    match protocol {
        Protocol::UDP if (udp_size as u32).wrapping_sub(8) <= (end - L4 - 8) as u32 => Some(0),
        Protocol::TCP => plain_tcp_flags(head.get(L4..end.min(head.len()))?).filter(|&flags| !AMID || is_amid(flags)),
        _ => None,
    }
}

#[inline(always)]
fn is_amid(flags: u8) -> bool {
    const NEWS: u8 = tcp_flag::SYN | tcp_flag::FIN | tcp_flag::RST;
    flags & (NEWS | tcp_flag::ACK) == tcp_flag::ACK
}

/// The flags of a TCP header that is all there.
#[inline(always)]
fn plain_tcp_flags(l4: &[u8]) -> Option<u8> {
    let header: &[u8; 20] = l4.first_chunk()?;
    let size = (header[12] >> 4) as usize * 4;
    (size >= 20 && size <= l4.len()).then_some(header[13])
}
