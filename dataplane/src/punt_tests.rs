use super::*;
use crate::parse::{Parsed, parse};
use etherparse::{ArpHardwareId, ArpOperation as Operation, ArpPacket as Arp, EtherType, Icmpv4Type, NetSlice};
use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use tables::Addr;

const GATEWAY: Addr = Addr::v4([10, 1, 0, 1]);
const GATEWAY_MAC: Mac = Mac([2, 0xfa, 0, 0, 0, 1]);

fn arp_request(target: [u8; 4]) -> Vec<u8> {
    let arp = Arp::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        Operation::REQUEST,
        &[2; 6],
        &[10, 1, 0, 4],
        &[0; 6],
        &target,
    );
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2([2; 6], [0xff; 6]).arp(arp.unwrap()).write(&mut bytes).unwrap();
    bytes
}

fn meta(bytes: &[u8]) -> Meta {
    match parse(bytes, bytes.len()) {
        Parsed::Ip(meta) => meta,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_gateway_answers_for_itself_alone() {
    let mut bytes = arp_request([10, 1, 0, 1]);
    assert!(answer_arp(&mut bytes, GATEWAY, GATEWAY_MAC));
    let sliced = SlicedPacket::from_ethernet(&bytes).unwrap();
    let Some(NetSlice::Arp(arp)) = sliced.net else { panic!("no ARP") };
    assert_eq!(arp.operation(), Operation::REPLY);
    assert_eq!((arp.sender_hw_addr(), arp.sender_protocol_addr()), (&GATEWAY_MAC.0[..], &[10u8, 1, 0, 1][..]));
    assert_eq!((arp.target_hw_addr(), arp.target_protocol_addr()), (&[2u8; 6][..], &[10u8, 1, 0, 4][..]));
    assert!(!answer_arp(&mut arp_request([10, 1, 0, 5]), GATEWAY, GATEWAY_MAC));
    assert!(!answer_arp(&mut bytes.clone(), GATEWAY, GATEWAY_MAC), "a reply is not a request");
}

#[test]
fn an_echo_comes_back_as_it_went() {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2([2; 6], GATEWAY_MAC.0)
        .ipv4([10, 1, 0, 4], [10, 1, 0, 1], 9)
        .icmpv4_echo_request(7, 3)
        .write(&mut bytes, b"hello")
        .unwrap();
    let asked = meta(&bytes);
    assert_eq!(answer_echo(&mut bytes, &asked, GATEWAY_MAC), Some(bytes.len()));
    let sliced = SlicedPacket::from_ethernet(&bytes).unwrap();
    let Some(TransportSlice::Icmpv4(icmp)) = sliced.transport else { panic!("no ICMP") };
    assert!(matches!(icmp.icmp_type(), Icmpv4Type::EchoReply(echo) if echo.id == 7 && echo.seq == 3));
    assert_eq!(icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()));
    assert_eq!(icmp.payload(), b"hello");
    assert_eq!(meta(&bytes).dst.to_string(), "10.1.0.4");
}

#[test]
fn a_refused_syn_is_reset_so_that_its_sender_believes_it() {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([10, 1, 0, 4], [172, 30, 0, 1], 64)
        .tcp(1000, 80, 100, 500)
        .syn()
        .options(&[etherparse::TcpOptionElement::MaximumSegmentSize(1400)])
        .unwrap()
        .write(&mut bytes, b"")
        .unwrap();
    let asked = meta(&bytes);
    let end = refuse(&mut bytes, &asked, GATEWAY_MAC).unwrap();
    let sliced = SlicedPacket::from_ethernet(&bytes[..end]).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("no TCP") };
    assert!(tcp.rst() && tcp.ack() && !tcp.syn());
    assert_eq!((tcp.acknowledgment_number(), tcp.destination_port()), (101, 1000));
    assert_eq!(tcp.checksum(), tcp.calc_checksum_ipv4([172, 30, 0, 1], [10, 1, 0, 4]).unwrap());
    let answered = meta(&bytes[..end]);
    assert_eq!(refuse(&mut bytes.clone(), &answered, GATEWAY_MAC), None, "a reset is never answered");
}

#[test]
fn what_is_no_segment_is_not_reset_however_short_it_is() {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([10, 1, 0, 4], [172, 30, 0, 1], 64)
        .udp(1000, 53)
        .write(&mut bytes, b"")
        .unwrap();
    let asked = meta(&bytes);
    assert_eq!(refuse(&mut bytes, &asked, GATEWAY_MAC), None);
}
