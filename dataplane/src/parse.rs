//! From bytes to [`Meta`], or to the reason why the packet goes no further. The only place that checks lengths: whatever
//! a `Meta` points at is inside the head frame. Reads through smoltcp's views; writes nothing.
//!
//! Sources: RFC 791 (IPv4), RFC 8200 (IPv6), RFC 9293 (TCP), RFC 768 (UDP), RFC 9260 (SCTP), RFC 792 and 4443 (ICMP),
//! RFC 7348 (VXLAN).

mod fragment;
mod plain;

pub use fragment::{Fragment, HEADER_V6_BYTES, UNIT_BYTES};
pub use plain::{
    PLAIN_L4, PLAIN_L4_V6, PLAIN_OUTER_BYTES, PlainOuter, parse_plain, parse_plain_amid, parse_plain_amid_v6,
    parse_plain_outer, parse_plain_v6,
};

use crate::flow::sctp::chunk;
use crate::overlay;
use crate::rewrite::Translation;
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, Icmpv4Packet, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket,
};
use tables::counters::DropReason;
use tables::flow::Tuple;
use tables::{Addr, Mac, Protocol};

pub const ETHERNET_BYTES: usize = 14;
/// Extension headers of one IPv6 packet that are walked.
const EXTENSIONS_MAX: usize = 8;

/// TCP flags, as in the header's thirteenth octet.
pub mod tcp_flag {
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const ACK: u8 = 16;
}

/// What a packet is to flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// TCP, UDP, SCTP: ports.
    Transport,
    /// An ICMP echo or its reply: the identifier is the port of the side that asks.
    Echo,
    /// An ICMP error; the ports and addresses of `Meta::quoted` are those of the packet it is about.
    IcmpError,
    /// Anything else passes by address.
    #[default]
    Other,
    /// A fragment other than the first: it has no layer-4 header, and its ports are those of its packet.
    Piece,
}

/// Everything the path needs to know of a packet, so that bytes are touched once more at most.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meta {
    pub src: Addr,
    pub dst: Addr,
    pub src_port: u16,
    pub dst_port: u16,
    pub protocol: Protocol,
    pub kind: Kind,
    /// TCP's flags; of SCTP the type of the first chunk; 0 otherwise.
    pub tcp_flags: u8,
    pub ttl: u8,
    pub is_v4: bool,
    /// Offset of the IP header.
    pub l3: u16,
    /// Offset of the layer-4 header.
    pub l4: u16,
    /// Offset behind the last byte of the IP packet; what follows is padding.
    pub end: u32,
    pub src_mac: Mac,
}

impl Meta {
    /// The flow as the sender's end sees it.
    #[inline(always)]
    pub fn from_local(&self) -> Tuple {
        Tuple {
            local: self.src,
            remote: self.dst,
            local_port: self.src_port,
            remote_port: self.dst_port,
            protocol: self.protocol,
            reserved: 0,
            network: 0,
        }
    }

    /// The flow as the receiver's end sees it.
    #[inline(always)]
    pub fn from_remote(&self) -> Tuple {
        self.from_local().reversed()
    }

    /// Says how the packet is after [`rewrite::forward`](crate::rewrite::forward), which changes bytes alone.
    pub fn follow(&mut self, to: Option<&Translation>, hop: bool) {
        self.ttl -= hop as u8;
        if let Some(to) = to {
            (self.src, self.dst, self.src_port, self.dst_port) = (to.src, to.dst, to.src_port, to.dst_port);
        }
    }

    /// Bytes of the IP packet.
    #[inline(always)]
    pub fn ip_size(&self) -> usize {
        self.end as usize - self.l3 as usize
    }
}

/// What a frame turned out to be.
#[derive(Clone, Copy, Debug)]
pub enum Parsed {
    Ip(Meta),
    /// A part of an IP packet.
    Fragment(Meta, Fragment),
    Arp,
    Drop(DropReason),
}

impl Parsed {
    /// The IP packet that it is, if it is a whole one.
    pub fn ip(self) -> Option<Meta> {
        if let Parsed::Ip(meta) = self { Some(meta) } else { None }
    }
}

/// Parses an Ethernet frame. `head` are the bytes at hand, `total` counts those in further frames too.
#[inline(never)]
pub fn parse(head: &[u8], total: usize) -> Parsed {
    let Ok(frame) = EthernetFrame::new_checked(head) else { return Parsed::Drop(DropReason::Truncated) };
    let src_mac = Mac(frame.src_addr().0);
    let parsed = match frame.ethertype() {
        EthernetProtocol::Ipv4 => parse_v4(head, ETHERNET_BYTES, total),
        EthernetProtocol::Ipv6 => parse_v6(head, ETHERNET_BYTES, total),
        EthernetProtocol::Arp => return Parsed::Arp,
        EthernetProtocol::Unknown(0x8100 | 0x88a8) => Err(DropReason::Vlan),
        EthernetProtocol::Unknown(_) => Err(DropReason::EtherType),
    };
    match parsed {
        Ok((meta, None)) => Parsed::Ip(Meta { src_mac, ..meta }),
        Ok((meta, Some(fragment))) => Parsed::Fragment(Meta { src_mac, ..meta }, fragment),
        Err(reason) => Parsed::Drop(reason),
    }
}

/// A packet, and which part of it this is if it is not whole.
type Part = (Meta, Option<Fragment>);

#[inline(always)]
fn parse_v4(head: &[u8], l3: usize, total: usize) -> Result<Part, DropReason> {
    let ip = head.get(l3..).filter(|ip| ip.len() >= 20).ok_or(DropReason::Truncated)?;
    let view = Ipv4Packet::new_unchecked(ip);
    let header = view.header_len() as usize;
    if view.version() != 4 || header < 20 || (view.total_len() as usize) < header {
        return Err(DropReason::Malformed);
    }
    if ip.len() < header || total - l3 < view.total_len() as usize {
        return Err(DropReason::Truncated);
    }
    let (offset, more) = (view.frag_offset() / UNIT_BYTES as u16, view.more_frags());
    let fragment = Fragment { id: view.ident() as u32, offset, size: 0, more };
    let meta = Meta {
        src: view.src_addr().into(),
        dst: view.dst_addr().into(),
        src_port: 0,
        dst_port: 0,
        protocol: Protocol(view.next_header().into()),
        kind: Kind::Other,
        tcp_flags: 0,
        ttl: view.hop_limit(),
        is_v4: true,
        l3: l3 as u16,
        l4: (l3 + header) as u16,
        end: (l3 + view.total_len() as usize) as u32,
        src_mac: Mac::default(),
    };
    if more || offset != 0 { parse_part(head, meta, fragment, l3 + header) } else { Ok((parse_l4(head, meta)?, None)) }
}

#[inline(always)]
fn parse_v6(head: &[u8], l3: usize, total: usize) -> Result<Part, DropReason> {
    let ip = head.get(l3..).filter(|ip| ip.len() >= 40).ok_or(DropReason::Truncated)?;
    let view = Ipv6Packet::new_unchecked(ip);
    if view.version() != 6 {
        return Err(DropReason::Malformed);
    }
    let end = l3 + 40 + view.payload_len() as usize;
    if total < end {
        return Err(DropReason::Truncated);
    }
    let Chain { protocol, l4, fragment } = walk_extensions(head, l3 + 40, view.next_header())?;
    let (src, dst): (Addr, Addr) = (view.src_addr().into(), view.dst_addr().into());
    // A mapped address would pass for an IPv4 one (RFC 4291, 2.5.5.2) and has no place on a wire.
    if src.is_v4() || dst.is_v4() {
        return Err(DropReason::Malformed);
    }
    let meta = Meta {
        src,
        dst,
        src_port: 0,
        dst_port: 0,
        protocol,
        kind: Kind::Other,
        tcp_flags: 0,
        ttl: view.hop_limit(),
        is_v4: false,
        l3: l3 as u16,
        l4: l4 as u16,
        end: end as u32,
        src_mac: Mac::default(),
    };
    match fragment {
        Some((fragment, begin)) => parse_part(head, meta, fragment, begin),
        None => Ok((parse_l4(head, meta)?, None)),
    }
}

/// Where the extension headers of an IPv6 packet lead.
struct Chain {
    protocol: Protocol,
    l4: usize,
    /// The packet is this part of one, which begins here.
    fragment: Option<(Fragment, usize)>,
}

/// Steps over hop-by-hop, routing, fragment and destination options (RFC 8200, 4.3-4.6), bounded; in a later fragment no
/// further than its fragment header.
fn walk_extensions(head: &[u8], mut at: usize, mut next: IpProtocol) -> Result<Chain, DropReason> {
    let mut fragment = None;
    for _ in 0..EXTENSIONS_MAX {
        match next {
            IpProtocol::HopByHop | IpProtocol::Ipv6Route | IpProtocol::Ipv6Opts => {
                let extension = head.get(at..at + 8).ok_or(DropReason::Truncated)?;
                next = extension[0].into();
                at += 8 + extension[1] as usize * 8;
            }
            IpProtocol::Ipv6Frag if fragment.is_none() => {
                let header: &[u8; HEADER_V6_BYTES] =
                    head.get(at..).and_then(|h| h.first_chunk()).ok_or(DropReason::Truncated)?;
                (next, at) = (header[0].into(), at + HEADER_V6_BYTES);
                fragment = Fragment::from_v6(header).map(|fragment| (fragment, at));
                if fragment.is_some_and(|(fragment, _)| !fragment.is_first()) {
                    return Ok(Chain { protocol: Protocol(next.into()), l4: at, fragment });
                }
            }
            IpProtocol::Ipv6Frag => return Err(DropReason::Malformed),
            protocol => return Ok(Chain { protocol: Protocol(protocol.into()), l4: at, fragment }),
        }
    }
    Err(DropReason::Malformed)
}

/// A fragment whose bytes begin at `begin`: the first one carries the ports.
#[cold]
fn parse_part(head: &[u8], meta: Meta, fragment: Fragment, begin: usize) -> Result<Part, DropReason> {
    let fragment = fragment.check(&meta, begin)?;
    let meta = if fragment.is_first() {
        // Its header speaks of all of the packet.
        let (here, whole) = (&head[..head.len().min(meta.end as usize)], Meta { end: u32::MAX, ..meta });
        Meta { end: meta.end, ..parse_l4(here, whole).map_err(fragment::cut_short)? }
    } else {
        fragment::later(meta)
    };
    Ok((meta, Some(fragment)))
}

#[inline(always)]
fn parse_l4(head: &[u8], meta: Meta) -> Result<Meta, DropReason> {
    // Bytes of the IP packet that are at hand, from layer 4 on.
    let end = head.len().min(meta.end as usize);
    let l4 = head.get(meta.l4 as usize..end).ok_or(DropReason::Truncated)?;
    match meta.protocol {
        Protocol::TCP => parse_tcp(l4, meta),
        Protocol::UDP => parse_udp(l4, meta),
        Protocol::SCTP => parse_sctp(l4, meta),
        Protocol::ICMP if meta.src.is_v4() => parse_icmp(l4, meta),
        Protocol::ICMPV6 if !meta.src.is_v4() => parse_icmp(l4, meta),
        // The other family's ICMP: its checksum covers something else, and no stack takes it.
        Protocol::ICMP | Protocol::ICMPV6 => Err(DropReason::Malformed),
        _ => Ok(meta),
    }
}

#[inline(always)]
fn parse_tcp(l4: &[u8], meta: Meta) -> Result<Meta, DropReason> {
    if l4.len() < 20 {
        return Err(DropReason::Truncated);
    }
    let view = TcpPacket::new_unchecked(l4);
    if (view.header_len() as usize) < 20 {
        return Err(DropReason::Malformed);
    }
    if l4.len() < view.header_len() as usize {
        return Err(DropReason::Truncated);
    }
    let (src_port, dst_port) = (view.src_port(), view.dst_port());
    Ok(Meta { src_port, dst_port, kind: Kind::Transport, tcp_flags: l4[13], ..meta })
}

#[inline(always)]
fn parse_udp(l4: &[u8], meta: Meta) -> Result<Meta, DropReason> {
    if l4.len() < 8 {
        return Err(DropReason::Truncated);
    }
    let view = UdpPacket::new_unchecked(l4);
    let size = view.len() as usize;
    if size < 8 {
        return Err(DropReason::Malformed);
    }
    if meta.l4 as usize + size > meta.end as usize {
        return Err(DropReason::Truncated);
    }
    let (src_port, dst_port) = (view.src_port(), view.dst_port());
    Ok(Meta { src_port, dst_port, kind: Kind::Transport, ..meta })
}

/// Bytes of SCTP's common header, and of a chunk's.
const SCTP_BYTES: usize = 12;
const CHUNK_BYTES: usize = 4;

/// RFC 9260, 8.5.1: INIT comes alone and bears no verification tag; everything else bears one.
fn parse_sctp(l4: &[u8], meta: Meta) -> Result<Meta, DropReason> {
    let header: &[u8; SCTP_BYTES + CHUNK_BYTES] = l4.first_chunk().ok_or(DropReason::Truncated)?;
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let (kind, size) = (header[SCTP_BYTES], word(SCTP_BYTES + 2) as usize);
    let bears_tag = header[4..8] != [0; 4];
    let is_alone = SCTP_BYTES + size.next_multiple_of(4) >= meta.end as usize - meta.l4 as usize;
    if size < CHUNK_BYTES || bears_tag == (kind == chunk::INIT) || kind == chunk::INIT && !is_alone {
        return Err(DropReason::Malformed);
    }
    Ok(Meta { src_port: word(0), dst_port: word(2), kind: Kind::Transport, tcp_flags: kind, ..meta })
}

fn parse_icmp(l4: &[u8], meta: Meta) -> Result<Meta, DropReason> {
    if l4.len() < 8 {
        return Err(DropReason::Truncated);
    }
    let id = Icmpv4Packet::new_unchecked(l4).echo_ident();
    let v4 = meta.protocol == Protocol::ICMP;
    match (v4, l4[0]) {
        (true, 8) | (false, 128) => Ok(Meta { src_port: id, dst_port: 0, kind: Kind::Echo, ..meta }),
        (true, 0) | (false, 129) => Ok(Meta { src_port: 0, dst_port: id, kind: Kind::Echo, ..meta }),
        (true, 3 | 11 | 12) | (false, 1..=4) => Ok(Meta { kind: Kind::IcmpError, ..meta }),
        // Source quench (RFC 6633: ignored), redirect and router discovery: a pod's only router is its gateway.
        (true, 4 | 5 | 9 | 10) => Err(DropReason::IcmpKind),
        _ => Ok(meta),
    }
}

/// The packet that an ICMP error quotes.
#[derive(Clone, Copy, Debug)]
pub struct Quoted {
    /// As its sender's end sees it.
    pub tuple: Tuple,
    /// Offsets of its headers.
    pub l3: usize,
    pub l4: usize,
}

/// Reads the packet that an ICMP error quotes; eight bytes from its layer-4 header on are there.
pub fn quoted(head: &[u8], meta: &Meta) -> Option<Quoted> {
    let l3 = meta.l4 as usize + 8;
    // A quote is cut short: the length it claims is not held against it (RFC 792: header and 8 bytes; RFC 1812: more).
    let bytes = head.get(l3..)?;
    let (src, dst, protocol, l4) = if meta.protocol == Protocol::ICMP {
        let view = Ipv4Packet::new_unchecked(bytes.get(..20).map(|_| bytes)?);
        let later_fragment = view.frag_offset() != 0;
        let well_formed = view.version() == 4 && view.header_len() >= 20 && !later_fragment;
        let header = view.header_len() as usize;
        well_formed.then(|| (view.src_addr().into(), view.dst_addr().into(), view.next_header(), l3 + header))?
    } else {
        let view = Ipv6Packet::new_unchecked(bytes.get(..40).map(|_| bytes)?);
        let Chain { protocol, l4, fragment } = walk_extensions(head, l3 + 40, view.next_header()).ok()?;
        if fragment.is_some_and(|(fragment, _)| !fragment.is_first()) {
            return None;
        }
        (view.src_addr().into(), view.dst_addr().into(), IpProtocol::from(protocol.0), l4)
    };
    let protocol = Protocol(protocol.into());
    let (local_port, remote_port) = quoted_ports(head.get(l4..l4 + 8)?, protocol)?;
    let tuple = Tuple { local: src, remote: dst, local_port, remote_port, protocol, reserved: 0, network: 0 };
    Some(Quoted { tuple, l3, l4 })
}

fn quoted_ports(l4: &[u8], protocol: Protocol) -> Option<(u16, u16)> {
    let word = |at: usize| u16::from_be_bytes([l4[at], l4[at + 1]]);
    match (protocol, l4[0]) {
        (Protocol::ICMP, 8) | (Protocol::ICMPV6, 128) => Some((word(4), 0)),
        (Protocol::ICMP, 0) | (Protocol::ICMPV6, 129) => Some((0, word(4))),
        (protocol, _) if protocol.has_ports() => Some((word(0), word(2))),
        _ => None,
    }
}

/// Whether the packet is a tunnel packet to one of our addresses: plain UDP to the tunnel port.
#[inline(always)]
pub fn is_tunnel(meta: &Meta, node: &[Addr; 2], tunnel_port: u16) -> bool {
    meta.dst_port == tunnel_port && meta.protocol == Protocol::UDP && node.contains(&meta.dst)
}

/// Whether the packet is IP in IP to one of our addresses.
pub fn is_ip_in_ip(meta: &Meta, node: &[Addr; 2]) -> bool {
    matches!(meta.protocol.0, overlay::IPV4_INSIDE | overlay::IPV6_INSIDE) && node.contains(&meta.dst)
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
