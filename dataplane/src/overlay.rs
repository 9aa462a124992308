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

/// What the outer headers say.
#[derive(Clone, Copy, Debug)]
pub struct Outer {
    pub src_mac: Mac,
    pub dst_mac: Mac,
    pub src: Addr,
    pub dst: Addr,
    pub tunnel_port: u16,
    pub vni: u32,
    /// Of the inner flow, so that receivers spread it over queues.
    pub flow_hash: u64,
    /// Inner traffic class: DSCP and ECN are copied (RFC 6040, normal mode).
    pub tos: u8,
}

/// Writes the outer headers into the first [`OUTER_V4_BYTES`] of `frame`. The UDP checksum is zero, which VXLAN asks for
/// over IPv4.
#[inline]
pub fn write_outer(frame: &mut [u8], outer: &Outer) {
    let total = frame.len();
    let mut ethernet = EthernetFrame::new_unchecked(&mut *frame);
    ethernet.set_src_addr(EthernetAddress(outer.src_mac.0));
    ethernet.set_dst_addr(EthernetAddress(outer.dst_mac.0));
    ethernet.set_ethertype(EthernetProtocol::Ipv4);
    let mut ip = Ipv4Packet::new_unchecked(&mut frame[14..]);
    ip.set_version(4);
    ip.set_header_len(20);
    ip.set_dscp(outer.tos >> 2);
    ip.set_ecn(outer.tos & 3);
    ip.set_total_len((total - 14) as u16);
    ip.set_ident(0);
    ip.clear_flags();
    ip.set_dont_frag(true);
    ip.set_frag_offset(0);
    ip.set_hop_limit(OUTER_TTL);
    ip.set_next_header(IpProtocol::Udp);
    ip.set_src_addr(outer.src.v4_octets().into());
    ip.set_dst_addr(outer.dst.v4_octets().into());
    ip.fill_checksum();
    let mut udp = UdpPacket::new_unchecked(&mut frame[34..]);
    udp.set_src_port(source_port(outer.flow_hash));
    udp.set_dst_port(outer.tunnel_port);
    udp.set_len((total - 34) as u16);
    udp.set_checksum(0);
    let [_, a, b, c] = outer.vni.to_be_bytes();
    frame[42..OUTER_V4_BYTES].copy_from_slice(&[FLAG_VNI, 0, 0, 0, a, b, c, 0]);
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
            flow_hash: u64::MAX,
            tos: 0b1011_1001,
        };
        write_outer(&mut frame, &outer);
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
