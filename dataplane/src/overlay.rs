//! Tunnel headers: VXLAN (RFC 7348) and Geneve (RFC 8926) over UDP, and IP in IP (RFC 2003, 2473, 4213), each over IPv4 and
//! IPv6. One template store writes them; `read` looks at those that came, `direct` knows an option of Geneve. What goes in and comes out is decided elsewhere.

pub mod direct;
mod read;

pub use read::{Geneve, ecn, geneve, may_change, must_be_known, vni};

use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv6Packet, UdpPacket};
use tables::checksum::Folded;
use tables::{Addr, Mac};

/// A VXLAN header, and a Geneve header without options.
pub const TUNNEL_BYTES: usize = 8;
/// What stands in front of an inner frame: outer Ethernet, IPv4, UDP and tunnel header.
pub const OUTER_V4_BYTES: usize = IPV4_END + 8 + TUNNEL_BYTES;
/// The same over IPv6.
pub const OUTER_V6_BYTES: usize = IPV6_END + 8 + TUNNEL_BYTES;
const IPV4_END: usize = 14 + 20;
const IPV6_END: usize = 14 + 40;
/// VXLAN's I flag: the identifier is valid.
const FLAG_VNI: u8 = 0x08;
/// Bits of a Geneve header's second byte (RFC 8926, 3.4).
const FLAG_CRITICAL: u8 = 0x40;
/// What Geneve carries: Ethernet frames (RFC 8926, 3.4).
const TRANSPARENT_ETHERNET: [u8; 2] = [0x65, 0x58];
/// Protocol numbers of IP in IP.
pub const IPV4_INSIDE: u8 = 4;
pub const IPV6_INSIDE: u8 = 41;
const OUTER_TTL: u8 = 64;
/// Ports for entropy: the dynamic range (RFC 7348, 5).
const SOURCE_PORT_FIRST: u16 = 49152;

/// The Ethernet address that a node has inside tunnels: derived from its underlay address, so that nobody needs to be
/// told it. A peer may have said another one. A kernel VXLAN device at the other end must be given its own (`ip link add ... address`), since it takes
/// frames from its own address for a loop (kernel: drivers/net/vxlan/vxlan_core.c, vxlan_set_mac).
pub fn inner_mac(node: Addr) -> Mac {
    let [_, _, _, _, _, _, _, _, _, _, _, _, a, b, c, d] = node.v6_octets();
    Mac([0x02, 0xfa, a, b, c, d])
}

/// What stands between the outer IP header and the inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encap {
    Vxlan,
    Geneve,
    /// Nothing: IP in IP.
    Ip,
}

/// What the outer headers to a peer say. Its addresses are of one family.
#[derive(Clone, Copy, Debug)]
pub struct Outer {
    pub encap: Encap,
    pub src_mac: Mac,
    pub dst_mac: Mac,
    pub src: Addr,
    pub dst: Addr,
    /// Of the peer, if it does not follow from `dst`.
    pub inner_mac: Option<Mac>,
    pub tunnel_port: u16,
    pub vni: u32,
}

/// Bytes that are the same for all packets to a peer: the outer headers, and the inner Ethernet addresses.
const TEMPLATE_V4_BYTES: usize = OUTER_V4_BYTES + 12;
const TEMPLATE_V6_BYTES: usize = OUTER_V6_BYTES + 12;

/// The shapes of outer headers: one is written by one store of a size that the compiler knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// UDP over IPv4: nearly all.
    UdpV4,
    UdpV6,
    IpV4,
    IpV6,
}

/// The headers of all packets to a peer, made once: writing them is one store and four small ones.
#[derive(Clone, Copy, Debug)]
pub struct OuterHeaders {
    form: Form,
    size: u8,
    /// The IPv4 header's sum, uncomplemented, without what differs between packets.
    sum: Folded,
    template: [u8; TEMPLATE_V6_BYTES],
}

impl OuterHeaders {
    /// Of no peer.
    pub const NONE: OuterHeaders =
        OuterHeaders { form: Form::UdpV4, size: 0, sum: Folded(0), template: [0; TEMPLATE_V6_BYTES] };

    /// The UDP checksum is zero, which VXLAN and Geneve ask for over IPv4 and may have over IPv6 (RFC 6935, 6936: the
    /// inner packet has its own, and who receives it sees to whom it belongs).
    pub fn new(outer: &Outer) -> OuterHeaders {
        let (v4, ip) = (outer.dst.is_v4(), outer.encap == Encap::Ip);
        let mut template = [0; TEMPLATE_V6_BYTES];
        let mut ethernet = EthernetFrame::new_unchecked(&mut template[..]);
        ethernet.set_src_addr(EthernetAddress(outer.src_mac.0));
        ethernet.set_dst_addr(EthernetAddress(outer.dst_mac.0));
        let protocol = if ip { IpProtocol::from(0) } else { IpProtocol::Udp };
        let sum = if v4 {
            ethernet.set_ethertype(EthernetProtocol::Ipv4);
            ipv4(&mut template, outer, protocol)
        } else {
            ethernet.set_ethertype(EthernetProtocol::Ipv6);
            ipv6(&mut template, outer, protocol)
        };
        if !ip {
            tunnel(&mut template[if v4 { IPV4_END } else { IPV6_END }..], outer);
        }
        let form = match (ip, v4) {
            (false, true) => Form::UdpV4,
            (false, false) => Form::UdpV6,
            (true, true) => Form::IpV4,
            (true, false) => Form::IpV6,
        };
        let size = match form {
            Form::UdpV4 => OUTER_V4_BYTES,
            Form::UdpV6 => OUTER_V6_BYTES,
            Form::IpV4 => IPV4_END - 14,
            Form::IpV6 => IPV6_END - 14,
        };
        OuterHeaders { form, size: size as u8, sum, template }
    }

    /// Bytes that an IP packet grows by, which is also what is to be made free in front of its Ethernet header: IP in IP
    /// has none inside.
    #[inline(always)]
    pub fn size(&self) -> usize {
        self.size as usize
    }

    /// Writes them over the first [`size`](Self::size) bytes of `frame` and the Ethernet header behind; the packet has
    /// `total` bytes, some perhaps in further frames. `flow_hash` is of the inner flow, so that receivers spread it over queues; DSCP and ECN are copied from the inner packet's
    /// `traffic_class` (RFC 6040, normal mode).
    #[inline(always)]
    pub fn write(&self, frame: &mut [u8], total: usize, flow_hash: u64, traffic_class: u8) {
        if self.is_udp_v4() {
            self.write_udp_v4(frame, total, flow_hash, traffic_class);
        } else {
            self.write_other(frame, total, flow_hash, traffic_class);
        }
    }

    /// Whether these are of the usual form: UDP over IPv4, [`OUTER_V4_BYTES`].
    #[inline(always)]
    pub fn is_udp_v4(&self) -> bool {
        self.form == Form::UdpV4
    }

    /// As `write`, where they are.
    #[inline(always)]
    pub fn write_udp_v4(&self, frame: &mut [u8], total: usize, flow_hash: u64, traffic_class: u8) {
        let Some(headers) = frame.first_chunk_mut::<TEMPLATE_V4_BYTES>() else { return };
        // In two halves that overlap, each of a size that is few stores.
        headers[..32].copy_from_slice(&self.template[..32]);
        headers[TEMPLATE_V4_BYTES - 32..].copy_from_slice(&self.template[TEMPLATE_V4_BYTES - 32..TEMPLATE_V4_BYTES]);
        let ip_size = (total - 14) as u16;
        let [high, low] = ip_size.to_be_bytes();
        headers[15..18].copy_from_slice(&[traffic_class, high, low]);
        headers[24..26].copy_from_slice(&self.checksum(ip_size, traffic_class, 0).to_be_bytes());
        headers[34..36].copy_from_slice(&source_port(flow_hash).to_be_bytes());
        headers[38..40].copy_from_slice(&(ip_size - 20).to_be_bytes());
    }

    #[inline(never)]
    fn write_other(&self, frame: &mut [u8], total: usize, flow_hash: u64, traffic_class: u8) {
        match self.form {
            Form::UdpV4 => {}
            Form::UdpV6 => self.write_udp_v6(frame, total, flow_hash, traffic_class),
            Form::IpV4 => self.write_ip_v4(frame, total, traffic_class),
            Form::IpV6 => self.write_ip_v6(frame, total, flow_hash, traffic_class),
        }
    }

    fn write_udp_v6(&self, frame: &mut [u8], total: usize, flow_hash: u64, traffic_class: u8) {
        let size = (total - IPV6_END) as u16;
        let Some(headers) = frame.first_chunk_mut::<TEMPLATE_V6_BYTES>() else { return };
        *headers = self.template;
        headers[14..18].copy_from_slice(&first_word(flow_hash, traffic_class));
        headers[18..20].copy_from_slice(&size.to_be_bytes());
        headers[54..56].copy_from_slice(&source_port(flow_hash).to_be_bytes());
        headers[58..60].copy_from_slice(&size.to_be_bytes());
    }

    fn write_ip_v4(&self, frame: &mut [u8], total: usize, traffic_class: u8) {
        let (ip_size, protocol) = ((total - 14) as u16, inside(frame, IPV4_END));
        let Some((headers, template)) = frame.first_chunk_mut::<IPV4_END>().zip(self.template.first_chunk()) else {
            return;
        };
        *headers = *template;
        headers[15] = traffic_class;
        headers[16..18].copy_from_slice(&ip_size.to_be_bytes());
        headers[23] = protocol;
        headers[24..26].copy_from_slice(&self.checksum(ip_size, traffic_class, protocol).to_be_bytes());
    }

    fn write_ip_v6(&self, frame: &mut [u8], total: usize, flow_hash: u64, traffic_class: u8) {
        let (size, protocol) = ((total - IPV6_END) as u16, inside(frame, IPV6_END));
        let Some((headers, template)) = frame.first_chunk_mut::<IPV6_END>().zip(self.template.first_chunk()) else {
            return;
        };
        *headers = *template;
        headers[14..18].copy_from_slice(&first_word(flow_hash, traffic_class));
        headers[18..20].copy_from_slice(&size.to_be_bytes());
        headers[20] = protocol;
    }

    #[inline(always)]
    fn checksum(&self, ip_size: u16, traffic_class: u8, protocol: u8) -> u16 {
        let class_and_protocol = Folded(traffic_class as u16 + protocol as u16);
        !self.sum.and(Folded(ip_size)).and(class_and_protocol).0
    }
}

fn ipv4(template: &mut [u8], outer: &Outer, protocol: IpProtocol) -> Folded {
    let mut ip = Ipv4Packet::new_unchecked(&mut template[14..]);
    ip.set_version(4);
    ip.set_header_len(20);
    ip.set_dont_frag(true);
    ip.set_hop_limit(OUTER_TTL);
    ip.set_next_header(protocol);
    ip.set_src_addr(outer.src.v4_octets().into());
    ip.set_dst_addr(outer.dst.v4_octets().into());
    ip.fill_checksum();
    Folded(!ip.checksum())
}

/// There is no sum.
fn ipv6(template: &mut [u8], outer: &Outer, protocol: IpProtocol) -> Folded {
    let mut ip = Ipv6Packet::new_unchecked(&mut template[14..]);
    ip.set_hop_limit(OUTER_TTL);
    ip.set_next_header(protocol);
    ip.set_src_addr(outer.src.v6_octets().into());
    ip.set_dst_addr(outer.dst.v6_octets().into());
    Folded::default()
}

/// UDP, the tunnel's own header, and the inner Ethernet addresses.
fn tunnel(template: &mut [u8], outer: &Outer) {
    UdpPacket::new_unchecked(&mut template[..]).set_dst_port(outer.tunnel_port);
    let [_, a, b, c] = outer.vni.to_be_bytes();
    let [first, second] = TRANSPARENT_ETHERNET;
    let header = match outer.encap {
        Encap::Geneve => [0, 0, first, second, a, b, c, 0],
        _ => [FLAG_VNI, 0, 0, 0, a, b, c, 0],
    };
    template[8..16].copy_from_slice(&header);
    template[16..22].copy_from_slice(&outer.inner_mac.unwrap_or_else(|| inner_mac(outer.dst)).0);
    template[22..28].copy_from_slice(&inner_mac(outer.src).0);
}

/// The protocol number of the IP packet that begins there.
fn inside(frame: &[u8], at: usize) -> u8 {
    if frame.get(at).is_some_and(|first| first >> 4 == 4) { IPV4_INSIDE } else { IPV6_INSIDE }
}

/// An IPv6 header's version, traffic class and flow label (RFC 6438: of the inner flow).
fn first_word(flow_hash: u64, traffic_class: u8) -> [u8; 4] {
    (6 << 28 | (traffic_class as u32) << 20 | (flow_hash >> 12) as u32 & 0xf_ffff).to_be_bytes()
}

fn source_port(flow_hash: u64) -> u16 {
    // As the bytes lie in memory, so that nobody swaps them.
    ((flow_hash >> 16) as u16).swap_bytes() | SOURCE_PORT_FIRST
}

#[cfg(test)]
#[path = "overlay_tests.rs"]
mod tests;
