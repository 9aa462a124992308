//! Questions built and answers judged by etherparse; a bystander's view of both.

use super::*;
use etherparse::{ArpHardwareId, ArpOperation as Operation, EtherType, Ethernet2Header, Icmpv6Header, Icmpv6Type};
use etherparse::{Ipv6FlowLabel, Ipv6Header, LinkSlice, NetSlice, SlicedPacket, TransportSlice, ip_number};
use proptest::prelude::*;

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
const CLIENT: [u8; 6] = [2, 0, 0, 0, 0, 9];
const BROADCAST: [u8; 6] = [0xff; 6];

fn addr(text: &str) -> Addr {
    text.parse().unwrap()
}

fn framed(source: [u8; 6], destination: [u8; 6], ether_type: EtherType, payload: &[u8]) -> Vec<u8> {
    let mut frame = Ethernet2Header { source, destination, ether_type }.to_bytes().to_vec();
    frame.extend(payload);
    frame
}

fn arp_frame(operation: Operation, source: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let hardware = ArpHardwareId::ETHERNET;
    let arp =
        etherparse::ArpPacket::new(hardware, EtherType::IPV4, operation, &CLIENT, &source, &[0; 6], &target).unwrap();
    framed(CLIENT, BROADCAST, EtherType::ARP, &arp.to_bytes())
}

fn solicit(source: &str, destination: &str, target: &str, hops: u8, with_option: bool) -> Vec<u8> {
    let octets = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
    let mut body = octets(target).to_vec();
    if with_option {
        body.extend([1, 1]);
        body.extend(CLIENT);
    }
    let ask = Icmpv6Type::NeighborSolicitation;
    let icmp = Icmpv6Header::with_checksum(ask, octets(source), octets(destination), &body).unwrap();
    let ip = Ipv6Header {
        traffic_class: 0,
        flow_label: Ipv6FlowLabel::ZERO,
        payload_length: (icmp.header_len() + body.len()) as u16,
        next_header: ip_number::IPV6_ICMP,
        hop_limit: hops,
        source: octets(source),
        destination: octets(destination),
    };
    let payload = [&ip.to_bytes()[..], &icmp.to_bytes(), &body].concat();
    framed(CLIENT, [0x33, 0x33, 0xff, 0, 0, 7], EtherType::IPV6, &payload)
}

/// Ethernet and IPv4 address.
type Pair = ([u8; 6], [u8; 4]);

/// (Ethernet source and destination, operation, sender, target) of an ARP frame.
fn arp_of(frame: &[u8]) -> ([u8; 6], [u8; 6], Operation, Pair, Pair) {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(LinkSlice::Ethernet2(ethernet)) = sliced.link else { panic!("no Ethernet header") };
    let Some(NetSlice::Arp(arp)) = sliced.net else { panic!("no ARP") };
    let pair = |hardware: &[u8], protocol: &[u8]| (hardware.try_into().unwrap(), protocol.try_into().unwrap());
    let sender = pair(arp.sender_hw_addr(), arp.sender_protocol_addr());
    let target = pair(arp.target_hw_addr(), arp.target_protocol_addr());
    (ethernet.source(), ethernet.destination(), arp.operation(), sender, target)
}

/// (Ethernet destination, IPv6 source and destination, flags, target, option) of an advertisement.
fn advert_of(frame: &[u8]) -> ([u8; 6], Addr, Addr, u8, Addr, [u8; 6]) {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(LinkSlice::Ethernet2(ethernet)) = sliced.link else { panic!("no Ethernet header") };
    let Some(NetSlice::Ipv6(ip)) = &sliced.net else { panic!("no IPv6") };
    let Some(TransportSlice::Icmpv6(icmp)) = &sliced.transport else { panic!("no ICMPv6") };
    let header = ip.header();
    assert_eq!(header.hop_limit(), 255);
    assert!(icmp.is_checksum_valid(header.source(), header.destination()));
    let bytes = icmp.slice();
    assert_eq!((bytes[0], bytes[1], bytes.len()), (136, 0, 32));
    assert_eq!(bytes[24..26], [2, 1], "the target's link-layer address, eight octets");
    let target = Addr::v6(bytes[8..24].try_into().unwrap());
    let (source, destination) = (Addr::v6(header.source()), Addr::v6(header.destination()));
    (ethernet.destination(), source, destination, bytes[4], target, bytes[26..32].try_into().unwrap())
}

#[test]
fn an_arp_request_is_answered_to_who_asked() {
    let question = question(&arp_frame(Operation::REQUEST, [192, 0, 2, 9], [192, 0, 2, 7])).unwrap();
    assert_eq!(question.target, addr("192.0.2.7"));
    let reply = answer(&question, Mac(OWN)).unwrap();
    let expected = (OWN, CLIENT, Operation::REPLY, (OWN, [192, 0, 2, 7]), (CLIENT, [192, 0, 2, 9]));
    assert_eq!(arp_of(&reply), expected);
}

#[test]
fn replies_and_announcements_of_others_ask_for_nothing() {
    assert_eq!(question(&arp_frame(Operation::REPLY, [192, 0, 2, 9], [192, 0, 2, 7])), None);
    assert_eq!(question(&arp_frame(Operation::REQUEST, [192, 0, 2, 7], [192, 0, 2, 7])), None);
    assert!(question(&arp_frame(Operation::REQUEST, [0; 4], [192, 0, 2, 7])).is_some(), "a probe is answered");
    let mut from_group = arp_frame(Operation::REQUEST, [192, 0, 2, 9], [192, 0, 2, 7]);
    from_group[6] |= 1;
    assert_eq!(question(&from_group), None);
}

#[test]
fn a_solicitation_is_answered_to_who_asked_or_to_all_where_it_has_no_address() {
    let group = "ff02::1:ff00:7";
    for with_option in [true, false] {
        let asked = question(&solicit("2001:db8::9", group, "2001:db8::7", 255, with_option)).unwrap();
        let advert = answer(&asked, Mac(OWN)).unwrap();
        let expected = (CLIENT, addr("2001:db8::7"), addr("2001:db8::9"), 0x60, addr("2001:db8::7"), OWN);
        assert_eq!(advert_of(&advert), expected, "solicited, overriding");
    }
    let probe = question(&solicit("::", group, "2001:db8::7", 255, false)).unwrap();
    let all = ([0x33, 0x33, 0, 0, 0, 1], addr("2001:db8::7"), addr("ff02::1"), 0x20, addr("2001:db8::7"), OWN);
    assert_eq!(advert_of(&answer(&probe, Mac(OWN)).unwrap()), all, "overriding");
}

#[test]
fn a_solicitation_from_beyond_a_router_or_with_a_wrong_checksum_is_none() {
    let group = "ff02::1:ff00:7";
    assert_eq!(question(&solicit("2001:db8::9", group, "2001:db8::7", 254, true)), None);
    let mut wrong = solicit("2001:db8::9", group, "2001:db8::7", 255, true);
    *wrong.last_mut().unwrap() ^= 1;
    assert_eq!(question(&wrong), None);
    assert_eq!(question(&solicit("2001:db8::9", group, "ff02::1", 255, true)), None);
}

#[test]
fn a_new_owner_tells_everybody() {
    let [ask, tell] = announcements(addr("192.0.2.7"), Mac(OWN)).try_into().unwrap();
    let vip = [192, 0, 2, 7];
    assert_eq!(arp_of(&ask), (OWN, BROADCAST, Operation::REQUEST, (OWN, vip), ([0; 6], vip)));
    assert_eq!(arp_of(&tell), (OWN, BROADCAST, Operation::REPLY, (OWN, vip), (OWN, vip)));
    assert_eq!(question(&ask), None);
    let [advert] = announcements(addr("2001:db8::7"), Mac(OWN)).try_into().unwrap();
    let all = ([0x33, 0x33, 0, 0, 0, 1], addr("2001:db8::7"), addr("ff02::1"), 0x20, addr("2001:db8::7"), OWN);
    assert_eq!(advert_of(&advert), all);
}

#[test]
fn groups_of_solicited_nodes_follow_the_last_octets() {
    let group = |text: &str| solicited_node(text.parse().unwrap()).to_string();
    assert_eq!(group("4037::1:800:200e:8c6c"), "ff02::1:ff0e:8c6c", "the example of RFC 4291");
    assert_eq!(group("2001:db8::7"), "ff02::1:ff00:7");
}

proptest! {
    #[test]
    fn no_frame_makes_it_panic(mut frame in prop::collection::vec(any::<u8>(), 0..120), kind in 0..3) {
        if frame.len() > 60 {
            let (ethertype, rest) = [([8, 6], vec![0, 1, 8, 0, 6, 4, 0, 1]), ([0x86, 0xdd], vec![0x60]), ([8, 0], vec![])][kind as usize].clone();
            frame[12..14].copy_from_slice(&ethertype);
            frame[14..14 + rest.len()].copy_from_slice(&rest);
        }
        let _ = question(&frame).map(|question| answer(&question, Mac(OWN)));
    }
}
