//! Tunnel headers: VXLAN (RFC 7348) over UDP over IPv4. A view to read them, one template store to write them. What goes
//! in and comes out is decided elsewhere.

use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, UdpPacket};
use tables::{Addr, Mac};

pub const VXLAN_BYTES: usize = 8;
/// Outer Ethernet, IPv4, UDP and VXLAN.
pub const OUTER_V4_BYTES: usize = 14 + 20 + 8 + VXLAN_BYTES;
/// The I flag: the identifier is valid.
const FLAG_VNI: u8 = 0x08;
const OUTER_TTL: u8 = 64;
/// Ports for entropy: the dynamic range (RFC 7348, 5).
const SOURCE_PORT_FIRST: u16 = 49152;

/// The network identifier of a VXLAN header, or None if it is cut short or says that it has none.
#[inline(always)]
pub fn vni(header: &[u8]) -> Option<u32> {
    let header: &[u8; VXLAN_BYTES] = header.first_chunk()?;
    (header[0] & FLAG_VNI != 0).then(|| u32::from_be_bytes([0, header[4], header[5], header[6]]))
}

/// The Ethernet address that a node has inside tunnels: derived from its underlay address, so that nobody needs to be
/// told it. A kernel VXLAN device at the other end must be given its own (`ip link add ... address`), since it takes
/// frames from its own address for a loop (kernel: drivers/net/vxlan/vxlan_core.c, vxlan_set_mac).
pub fn inner_mac(node: Addr) -> Mac {
    let [_, _, _, _, _, _, _, _, _, _, _, _, a, b, c, d] = node.v6_octets();
    Mac([0x02, 0xfa, a, b, c, d])
}

/// What the outer headers to a peer say.
#[derive(Clone, Copy, Debug)]
pub struct Outer {
    pub src_mac: Mac,
    pub dst_mac: Mac,
    pub src: Addr,
    pub dst: Addr,
    pub tunnel_port: u16,
    pub vni: u32,
}

/// Bytes that are the same for all packets to a peer: the outer headers, and the inner Ethernet addresses.
const TEMPLATE_BYTES: usize = OUTER_V4_BYTES + 12;

/// The headers of all packets to a peer, made once: writing them is one store and four small ones.
#[derive(Clone, Copy, Debug)]
pub struct OuterHeaders {
    template: [u8; TEMPLATE_BYTES],
    /// The IPv4 header's sum, uncomplemented, without its length and traffic class.
    sum: u32,
}

impl OuterHeaders {
    /// The UDP checksum is zero, which VXLAN asks for over IPv4.
    pub fn new(outer: &Outer) -> OuterHeaders {
        let mut template = [0; TEMPLATE_BYTES];
        let mut ethernet = EthernetFrame::new_unchecked(&mut template[..]);
        ethernet.set_src_addr(EthernetAddress(outer.src_mac.0));
        ethernet.set_dst_addr(EthernetAddress(outer.dst_mac.0));
        ethernet.set_ethertype(EthernetProtocol::Ipv4);
        let mut ip = Ipv4Packet::new_unchecked(&mut template[14..]);
        ip.set_version(4);
        ip.set_header_len(20);
        ip.set_dont_frag(true);
        ip.set_hop_limit(OUTER_TTL);
        ip.set_next_header(IpProtocol::Udp);
        ip.set_src_addr(outer.src.v4_octets().into());
        ip.set_dst_addr(outer.dst.v4_octets().into());
        ip.fill_checksum();
        let sum = !ip.checksum() as u32;
        UdpPacket::new_unchecked(&mut template[34..]).set_dst_port(outer.tunnel_port);
        let [_, a, b, c] = outer.vni.to_be_bytes();
        template[42..OUTER_V4_BYTES].copy_from_slice(&[FLAG_VNI, 0, 0, 0, a, b, c, 0]);
        template[OUTER_V4_BYTES..OUTER_V4_BYTES + 6].copy_from_slice(&inner_mac(outer.dst).0);
        template[OUTER_V4_BYTES + 6..].copy_from_slice(&inner_mac(outer.src).0);
        OuterHeaders { template, sum }
    }

    /// Writes them over the first [`OUTER_V4_BYTES`] of `frame` and the Ethernet addresses behind. `flow_hash` is of the
    /// inner flow, so that receivers spread it over queues; DSCP and ECN are copied from the inner packet's
    /// `traffic_class` (RFC 6040, normal mode).
    #[inline(always)]
    pub fn write(&self, frame: &mut [u8], flow_hash: u64, traffic_class: u8) {
        let total = frame.len();
        let Some(headers) = frame.first_chunk_mut::<TEMPLATE_BYTES>() else { return };
        *headers = self.template;
        let ip_size = (total - 14) as u16;
        // At most 0xffff + 0xffff + 0xff: one fold leaves no carry but one.
        let sum = self.sum + ip_size as u32 + traffic_class as u32;
        let sum = (sum & 0xffff) + (sum >> 16);
        let checksum = !(((sum & 0xffff) + (sum >> 16)) as u16);
        headers[15] = traffic_class;
        headers[16..18].copy_from_slice(&ip_size.to_be_bytes());
        headers[24..26].copy_from_slice(&checksum.to_be_bytes());
        headers[34..36].copy_from_slice(&source_port(flow_hash).to_be_bytes());
        headers[38..40].copy_from_slice(&(ip_size - 20).to_be_bytes());
    }
}

fn source_port(flow_hash: u64) -> u16 {
    SOURCE_PORT_FIRST + (flow_hash >> 16) as u16 % (u16::MAX - SOURCE_PORT_FIRST + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    #[test]
    fn an_independent_parser_reads_the_outer_headers() {
        let mut frame = vec![0xaa; OUTER_V4_BYTES + 60];
        let outer = Outer {
            src_mac: Mac([2, 0, 0, 0, 0, 1]),
            dst_mac: Mac([2, 0, 0, 0, 0, 2]),
            src: Addr::v4([192, 168, 0, 1]),
            dst: Addr::v4([192, 168, 0, 2]),
            tunnel_port: 4789,
            vni: 0x123456,
        };
        OuterHeaders::new(&outer).write(&mut frame, u64::MAX, 0b1011_1001);
        let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(NetSlice::Ipv4(ip)) = sliced.net else { panic!("no IPv4") };
        let header = ip.header();
        assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
        assert_eq!((header.dcp().value(), header.ecn().value()), (0b101110, 1));
        assert_eq!(header.destination(), [192, 168, 0, 2]);
        let Some(TransportSlice::Udp(udp)) = sliced.transport else { panic!("no UDP") };
        assert_eq!((udp.destination_port(), udp.checksum()), (4789, 0));
        assert!(udp.source_port() >= SOURCE_PORT_FIRST);
        assert_eq!(udp.payload().len(), VXLAN_BYTES + 60);
        assert_eq!(vni(udp.payload()), Some(0x123456));
        let inner = EthernetFrame::new_checked(&udp.payload()[VXLAN_BYTES..]).unwrap();
        let (src, dst) = (inner_mac(outer.src), inner_mac(outer.dst));
        assert_eq!((inner.src_addr().0, inner.dst_addr().0), (src.0, dst.0));
        assert_eq!(inner.payload(), [0xaa; 46]);
    }

    #[test]
    fn a_node_is_known_inside_by_its_address() {
        assert_eq!(inner_mac(Addr::v4([172, 18, 0, 11])).to_string(), "02:fa:ac:12:00:0b");
    }

    #[test]
    fn a_short_or_flagless_header_has_no_identifier() {
        assert_eq!(vni(&[8, 0, 0, 0, 0, 0, 1]), None);
        assert_eq!(vni(&[0, 0, 0, 0, 0, 0, 1, 0]), None);
    }
}
