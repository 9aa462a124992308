//! Ethernet/IP/UDP around the numbered payload: built once by etherparse, then patched per packet; found again at the sink.
//! Only the UDP source port, the stamp and the UDP checksum change from packet to packet.

use crate::{
    error::{Error, Result},
    payload::{self, STAMP_SIZE},
};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice, UdpSlice, checksum::Sum16BitWords, ip_number};
use std::net::IpAddr;

/// Largest frame: 1500 bytes of IP packet behind an Ethernet header, one frame of UMEM whatever the interface.
pub const SIZE_MAX: usize = 1514;
const ETHERNET_SIZE: usize = 14;
const UDP_SIZE: usize = 8;
const HOP_LIMIT: u8 = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    pub src_mac: [u8; 6],
    pub dst_mac: [u8; 6],
    pub src_ip: IpAddr,
    pub dst_ip: IpAddr,
    pub src_port: u16,
    pub dst_port: u16,
}

/// One frame of the run without its number, and the part of its UDP checksum that never changes.
pub struct Template {
    frame: Vec<u8>,
    udp_at: usize,
    constant_sum: Sum16BitWords,
    src_port: u16,
    flows: u16,
}

impl Template {
    pub fn new(addresses: &Addresses, size: usize, flows: u16) -> Result<Self> {
        let (udp_at, constant_sum) = pseudo_header(addresses)?;
        let min = udp_at + UDP_SIZE + STAMP_SIZE;
        if !(min..=SIZE_MAX).contains(&size) {
            return Err(Error::Size { size, min, max: SIZE_MAX });
        }
        let src_port = addresses.src_port;
        if flows == 0 || src_port.checked_add(flows - 1).is_none() {
            return Err(Error::Flows { flows, src_port });
        }
        let mut payload = vec![0; size - udp_at - UDP_SIZE];
        payload::fill(&mut payload[STAMP_SIZE..]);
        let udp_size = ((size - udp_at) as u16).to_be_bytes();
        let constant_sum = constant_sum
            .add_2bytes(udp_size) // in the pseudo header
            .add_2bytes(udp_size) // in the UDP header
            .add_2bytes(addresses.dst_port.to_be_bytes())
            .add_slice(&payload[STAMP_SIZE..]);
        Ok(Template { frame: build(addresses, &payload), udp_at, constant_sum, src_port, flows })
    }

    pub fn frame(&self) -> &[u8] {
        &self.frame
    }

    /// Makes `frame`, a copy of the template, the packet of this number.
    pub fn stamp(&self, frame: &mut [u8], number: u32, stamp: &[u8; STAMP_SIZE]) {
        let src_port = (self.src_port + (number % u32::from(self.flows)) as u16).to_be_bytes();
        let sum = self.constant_sum.clone().add_2bytes(src_port).add_slice(stamp);
        let udp = &mut frame[self.udp_at..];
        udp[..2].copy_from_slice(&src_port);
        // Sum16BitWords works in memory order on native words; etherparse's own writers use `to_be` likewise.
        udp[6..8].copy_from_slice(&sum.to_ones_complement_with_no_zero().to_ne_bytes());
        udp[UDP_SIZE..UDP_SIZE + STAMP_SIZE].copy_from_slice(stamp);
    }
}

/// Offset of the UDP header, and the sum over addresses and protocol.
fn pseudo_header(addresses: &Addresses) -> Result<(usize, Sum16BitWords)> {
    let mut sum = Sum16BitWords::new();
    match (addresses.src_ip, addresses.dst_ip) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            sum = sum.add_4bytes(src.octets()).add_4bytes(dst.octets());
            Ok((ETHERNET_SIZE + 20, sum.add_2bytes([0, ip_number::UDP.0])))
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            sum = sum.add_16bytes(src.octets()).add_16bytes(dst.octets());
            Ok((ETHERNET_SIZE + 40, sum.add_2bytes([0, ip_number::UDP.0])))
        }
        (src, dst) => Err(Error::MixedFamilies { src, dst }),
    }
}

fn build(addresses: &Addresses, payload: &[u8]) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(addresses.src_mac, addresses.dst_mac);
    let ip = match (addresses.src_ip, addresses.dst_ip) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ethernet.ipv4(src.octets(), dst.octets(), HOP_LIMIT),
        (src, dst) => ethernet.ipv6(v6_octets(src), v6_octets(dst), HOP_LIMIT),
    };
    let udp = ip.udp(addresses.src_port, addresses.dst_port);
    let mut frame = Vec::with_capacity(udp.size(payload.len()));
    udp.write(&mut frame, payload).expect("a Vec takes everything and the size was checked");
    frame
}

fn v6_octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V6(address) => address.octets(),
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
    }
}

/// An unfragmented UDP packet found in a received frame.
pub struct Udp<'a> {
    net: NetSlice<'a>,
    udp: UdpSlice<'a>,
}

impl<'a> Udp<'a> {
    pub fn find(frame: &'a [u8]) -> Option<Self> {
        let sliced = SlicedPacket::from_ethernet(frame).ok()?;
        match (sliced.net?, sliced.transport?) {
            (net, TransportSlice::Udp(udp)) => Some(Udp { net, udp }),
            _ => None,
        }
    }

    pub fn payload(&self) -> &'a [u8] {
        self.udp.payload()
    }

    /// Whether IPv4 header and UDP checksum are right; a UDP/IPv4 checksum of zero means none and passes (RFC 768).
    pub fn checksums_are_right(&self) -> bool {
        let header = self.udp.to_header();
        match &self.net {
            NetSlice::Ipv4(ip) => {
                let ip = ip.header().to_header();
                let udp = header.calc_checksum_ipv4_raw(ip.source, ip.destination, self.payload());
                ip.header_checksum == ip.calc_header_checksum() && (header.checksum == 0 || udp == Ok(header.checksum))
            }
            NetSlice::Ipv6(ip) => {
                let ip = ip.header();
                header.calc_checksum_ipv6_raw(ip.source(), ip.destination(), self.payload()) == Ok(header.checksum)
            }
            NetSlice::Arp(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{Judged, RunId, Stamp, judge};

    fn addresses(src: &str, dst: &str) -> Addresses {
        let (src_ip, dst_ip) = (src.parse().unwrap(), dst.parse().unwrap());
        Addresses {
            src_mac: [2, 0, 0, 0, 0, 1],
            dst_mac: [2, 0, 0, 0, 0, 2],
            src_ip,
            dst_ip,
            src_port: 9000,
            dst_port: 9,
        }
    }

    #[test]
    fn etherparse_reads_back_what_was_stamped_with_right_checksums() {
        let run = RunId(42);
        for (src, dst) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            for size in [84, 85, 128, 1513, SIZE_MAX] {
                let template = Template::new(&addresses(src, dst), size, 3).unwrap();
                let mut frame = template.frame().to_vec();
                for number in 0..2000 {
                    let stamp = Stamp { number, sent_ns: u64::from(number) << 21 };
                    template.stamp(&mut frame, number, &stamp.encode(run));
                    let udp = Udp::find(&frame).unwrap();
                    assert!(udp.checksums_are_right(), "{src} size {size} number {number}");
                    assert_eq!(udp.udp.source_port(), 9000 + (number % 3) as u16);
                    assert_eq!(judge(run, udp.payload()), Judged::Intact(stamp));
                }
            }
        }
    }

    #[test]
    fn a_wrong_checksum_is_noticed() {
        let template = Template::new(&addresses("10.0.0.1", "10.0.0.2"), 64, 1).unwrap();
        let mut frame = template.frame().to_vec();
        template.stamp(&mut frame, 0, &Stamp { number: 0, sent_ns: 0 }.encode(RunId(1)));
        for at in [22, 26, 40] {
            let mut wrong = frame.clone();
            wrong[at] ^= 1; // TTL, source address, UDP checksum
            assert!(!Udp::find(&wrong).unwrap().checksums_are_right(), "byte {at}");
        }
    }

    #[test]
    fn impossible_requests_are_refused() {
        let v4 = addresses("10.0.0.1", "10.0.0.2");
        assert!(matches!(Template::new(&v4, 63, 1), Err(Error::Size { min: 64, .. })));
        assert!(matches!(Template::new(&v4, SIZE_MAX + 1, 1), Err(Error::Size { .. })));
        assert!(matches!(Template::new(&addresses("fd00::1", "fd00::2"), 83, 1), Err(Error::Size { min: 84, .. })));
        assert!(matches!(Template::new(&addresses("fd00::1", "10.0.0.2"), 84, 1), Err(Error::MixedFamilies { .. })));
        assert!(Template::new(&v4, 64, u16::MAX - 9000 + 1).is_ok());
        assert!(matches!(Template::new(&v4, 64, u16::MAX - 9000 + 2), Err(Error::Flows { .. })));
    }

    #[test]
    fn what_is_not_udp_is_not_found() {
        assert!(Udp::find(&[]).is_none());
        assert!(Udp::find(&[0xff; 60]).is_none());
    }
}
