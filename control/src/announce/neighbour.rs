//! The packets by which hosts of a link learn where an address lives, ARP (RFC 826, 5227) and neighbour discovery (RFC
//! 4861): who is asked for, the answer, and the announcement that nobody asked for. Pure.

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, Icmpv6Packet,
    Icmpv6Repr, IpProtocol, Ipv6Packet, Ipv6Repr, NdiscNeighborFlags, NdiscRepr,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tables::{Addr, Mac};

const ETHERNET_BYTES: usize = 14;
/// As neighbour discovery demands it, so that nothing from beyond a router counts.
const HOPS: u8 = 255;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: EthernetAddress = EthernetAddress([0x33, 0x33, 0, 0, 0, 1]);

/// Somebody asks for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    pub target: Addr,
    asker: Asker,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    V4(EthernetAddress, Ipv4Addr),
    /// None: it asks whether the address is free, and has none of its own yet.
    V6(EthernetAddress, Option<Ipv6Addr>),
}

/// What a frame asks for; None: nothing.
pub fn question(frame: &[u8]) -> Option<Question> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    if !frame.src_addr().is_unicast() {
        return None;
    }
    match frame.ethertype() {
        EthernetProtocol::Arp => arp_question(frame.payload()),
        EthernetProtocol::Ipv6 => solicitation(frame.payload(), frame.src_addr()),
        _ => None,
    }
}

fn arp_question(payload: &[u8]) -> Option<Question> {
    let ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: mac,
        source_protocol_addr: source,
        target_protocol_addr: target,
        ..
    } = ArpRepr::parse(&ArpPacket::new_checked(payload).ok()?).ok()?
    else {
        return None;
    };
    // Who asks for its own address announces it.
    (mac.is_unicast() && source != target).then(|| Question { target: target.into(), asker: Asker::V4(mac, source) })
}

fn solicitation(payload: &[u8], from: EthernetAddress) -> Option<Question> {
    let packet = Ipv6Packet::new_checked(payload).ok()?;
    let ip = Ipv6Repr::parse(&packet).ok()?;
    if ip.hop_limit != HOPS || ip.next_header != IpProtocol::Icmpv6 {
        return None;
    }
    let icmp = Icmpv6Packet::new_checked(packet.payload()).ok()?;
    let parsed = Icmpv6Repr::parse(&ip.src_addr, &ip.dst_addr, &icmp, &ChecksumCapabilities::default()).ok()?;
    let Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr, lladdr }) = parsed else { return None };
    let mac = lladdr.filter(|raw| raw.len() == 6).map_or(from, |raw| EthernetAddress::from_bytes(raw.as_bytes()));
    let asker = Asker::V6(mac, Some(ip.src_addr).filter(|addr| !addr.is_unspecified()));
    (mac.is_unicast() && !target_addr.is_multicast()).then(|| Question { target: target_addr.into(), asker })
}

/// "It lives here", to who asked.
pub fn answer(question: &Question, mac: Mac) -> Option<Vec<u8>> {
    let own = EthernetAddress(mac.0);
    match (question.asker, question.target.ip()) {
        (Asker::V4(to, source), IpAddr::V4(target)) => Some(arp(own, to, ArpOperation::Reply, target, (to, source))),
        (Asker::V6(to, Some(source)), IpAddr::V6(target)) => {
            let flags = NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE;
            Some(advertisement(own, (to, source), target, flags))
        }
        (Asker::V6(_, None), IpAddr::V6(target)) => Some(unsolicited(own, target)),
        _ => None,
    }
}

/// "It lives here from now on", to everybody: by ARP both as a request and as a reply, for some hear only one of them.
pub fn announcements(addr: Addr, mac: Mac) -> Vec<Vec<u8>> {
    let own = EthernetAddress(mac.0);
    let nobody = EthernetAddress([0; 6]);
    match addr.ip() {
        IpAddr::V4(v4) => vec![
            arp(own, EthernetAddress::BROADCAST, ArpOperation::Request, v4, (nobody, v4)),
            arp(own, EthernetAddress::BROADCAST, ArpOperation::Reply, v4, (own, v4)),
        ],
        IpAddr::V6(v6) => vec![unsolicited(own, v6)],
    }
}

/// The group at which an IPv6 address is asked for.
pub fn solicited_node(addr: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = addr.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | a as u16, u16::from_be_bytes([b, c]))
}

fn arp(
    own: EthernetAddress,
    to: EthernetAddress,
    operation: ArpOperation,
    addr: Ipv4Addr,
    target: (EthernetAddress, Ipv4Addr),
) -> Vec<u8> {
    let repr = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: own,
        source_protocol_addr: addr,
        target_hardware_addr: target.0,
        target_protocol_addr: target.1,
    };
    let mut bytes = frame(own, to, EthernetProtocol::Arp, repr.buffer_len());
    repr.emit(&mut ArpPacket::new_unchecked(&mut bytes[ETHERNET_BYTES..]));
    bytes
}

fn unsolicited(own: EthernetAddress, addr: Ipv6Addr) -> Vec<u8> {
    advertisement(own, (ALL_NODES_MAC, ALL_NODES), addr, NdiscNeighborFlags::OVERRIDE)
}

fn advertisement(
    own: EthernetAddress,
    (mac, to): (EthernetAddress, Ipv6Addr),
    addr: Ipv6Addr,
    flags: NdiscNeighborFlags,
) -> Vec<u8> {
    let advert = NdiscRepr::NeighborAdvert { flags, target_addr: addr, lladdr: Some(own.into()) };
    let icmp = Icmpv6Repr::Ndisc(advert);
    let ip = Ipv6Repr {
        src_addr: addr,
        dst_addr: to,
        next_header: IpProtocol::Icmpv6,
        payload_len: icmp.buffer_len(),
        hop_limit: HOPS,
    };
    let mut bytes = frame(own, mac, EthernetProtocol::Ipv6, ip.buffer_len() + icmp.buffer_len());
    let (header, message) = bytes[ETHERNET_BYTES..].split_at_mut(ip.buffer_len());
    // Only the header: the payload's length is in it, the payload behind it.
    let mut whole = Ipv6Packet::new_unchecked(header);
    ip.emit(&mut whole);
    let mut message = Icmpv6Packet::new_unchecked(message);
    icmp.emit(&addr, &to, &mut message, &ChecksumCapabilities::default());
    bytes
}

fn frame(own: EthernetAddress, to: EthernetAddress, ethertype: EthernetProtocol, payload: usize) -> Vec<u8> {
    let mut bytes = vec![0; ETHERNET_BYTES + payload];
    let repr = EthernetRepr { src_addr: own, dst_addr: to, ethertype };
    repr.emit(&mut EthernetFrame::new_unchecked(&mut bytes));
    bytes
}

#[cfg(test)]
#[path = "neighbour_tests.rs"]
mod tests;
