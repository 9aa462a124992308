use super::*;
use crate::parse::parse;
use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::icmpv6::{DestUnreachableCode, TimeExceededCode};
use etherparse::{Icmpv4Type, Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket, TransportSlice, icmpv4};

const FROM_V4: Addr = Addr::v4([10, 1, 0, 1]);
const FROM_V6: [u8; 16] = [3; 16];

fn datagram(v6: bool, size: usize) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let ip = if v6 { ethernet.ipv6([1; 16], [2; 16], 7) } else { ethernet.ipv4([10, 1, 0, 4], [172, 30, 0, 1], 7) };
    let mut bytes = Vec::new();
    ip.udp(1000, 53).write(&mut bytes, &vec![9; size]).unwrap();
    bytes
}

fn meta(bytes: &[u8]) -> Meta {
    parse(bytes, bytes.len()).ip().expect("an IP packet")
}

/// The error about a packet, as a worker makes it.
fn error_about(packet: &[u8], cause: Cause, from: Addr) -> Vec<u8> {
    let meta = meta(packet);
    let quote = quote_bytes(&meta, packet.len() - 14);
    let mut bytes = vec![0xaa; front_bytes(&meta)];
    bytes.extend(&packet[..14 + quote]);
    let said = write(&mut bytes, &meta, cause, from);
    assert_eq!((said.src, said.dst, said.ip_size()), (from, meta.src, bytes.len() - 14));
    bytes
}

fn told_v4(asked: &[u8], cause: Cause) -> (Icmpv4Type, Vec<u8>) {
    let told = error_about(asked, cause, FROM_V4);
    let sliced = SlicedPacket::from_ethernet(&told).unwrap();
    let Some(NetSlice::Ipv4(ip)) = &sliced.net else { panic!("no IPv4") };
    assert_eq!(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum());
    assert_eq!((ip.header().source(), ip.header().destination()), ([10, 1, 0, 1], [10, 1, 0, 4]));
    let Some(TransportSlice::Icmpv4(icmp)) = sliced.transport else { panic!("no ICMP") };
    assert_eq!(icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()));
    (icmp.icmp_type(), icmp.payload().to_vec())
}

fn told_v6(asked: &[u8], cause: Cause) -> (Icmpv6Type, Vec<u8>) {
    let told = error_about(asked, cause, Addr::from_bits(u128::from_be_bytes(FROM_V6)));
    let sliced = SlicedPacket::from_ethernet(&told).unwrap();
    let Some(TransportSlice::Icmpv6(icmp)) = sliced.transport else { panic!("no ICMPv6") };
    let computed = icmp.icmp_type().calc_checksum(FROM_V6, [1; 16], icmp.payload()).unwrap();
    assert_eq!(icmp.checksum(), computed);
    (icmp.icmp_type(), icmp.payload().to_vec())
}

#[test]
fn every_cause_is_read_by_others_as_what_it_is() {
    use Icmpv4Type::{DestinationUnreachable, TimeExceeded};
    let asked = datagram(false, 40);
    let too_big = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1450 };
    for (cause, expected) in [
        (Cause::TooBig { mtu: 1450 }, DestinationUnreachable(too_big)),
        (Cause::NoRoute, DestinationUnreachable(DestUnreachableHeader::Network)),
        (Cause::AddressUnreachable, DestinationUnreachable(DestUnreachableHeader::Host)),
        (Cause::PortUnreachable, DestinationUnreachable(DestUnreachableHeader::Port)),
        (Cause::TimeExceeded, TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit)),
    ] {
        assert_eq!(told_v4(&asked, cause), (expected, asked[14..].to_vec()));
    }
    let asked = datagram(true, 40);
    let unreachable = Icmpv6Type::DestinationUnreachable;
    for (cause, expected) in [
        (Cause::TooBig { mtu: 1450 }, Icmpv6Type::PacketTooBig { mtu: 1450 }),
        (Cause::NoRoute, unreachable(DestUnreachableCode::NoRoute)),
        (Cause::AddressUnreachable, unreachable(DestUnreachableCode::Address)),
        (Cause::PortUnreachable, unreachable(DestUnreachableCode::Port)),
        (Cause::TimeExceeded, Icmpv6Type::TimeExceeded(TimeExceededCode::HopLimitExceeded)),
    ] {
        assert_eq!(told_v6(&asked, cause), (expected, asked[14..].to_vec()));
    }
}

#[test]
fn a_quote_is_as_long_as_an_error_may_be() {
    let (_, quote) = told_v4(&datagram(false, 3000), Cause::TimeExceeded);
    assert_eq!(quote.len(), 576 - 28);
    let (_, quote) = told_v6(&datagram(true, 3000), Cause::TimeExceeded);
    assert_eq!(quote.len(), 1280 - 48);
}

#[test]
fn errors_crowds_and_nobody_are_told_nothing() {
    let one = [2, 0, 0, 0, 0, 1];
    let asked = meta(&datagram(false, 1));
    assert!(may_tell(&asked, one, Cause::NoRoute));
    assert!(!may_tell(&asked, [0xff; 6], Cause::NoRoute), "a broadcast on the link");
    let about = |change: &dyn Fn(&mut Meta)| {
        let mut meta = asked;
        change(&mut meta);
        may_tell(&meta, one, Cause::NoRoute)
    };
    assert!(!about(&|meta| meta.kind = Kind::IcmpError));
    assert!(!about(&|meta| meta.src = Addr::v4([0; 4])));
    assert!(!about(&|meta| meta.src = Addr::v4([224, 0, 0, 1])));
    assert!(!about(&|meta| meta.dst = Addr::v4([224, 0, 0, 1])));
    assert!(!about(&|meta| meta.dst = Addr::v4([255; 4])));
    let many: Addr = "ff05::7".parse().unwrap();
    let to_many = Meta { dst: many, ..meta(&datagram(true, 1)) };
    assert!(may_tell(&to_many, one, Cause::TooBig { mtu: 1280 }) && !may_tell(&to_many, one, Cause::TimeExceeded));
}
