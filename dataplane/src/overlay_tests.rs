use super::*;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use tables::counters::DropReason;

const V4: [Addr; 2] = [Addr::v4([192, 168, 0, 1]), Addr::v4([192, 168, 0, 2])];
const V6: [Addr; 2] = [Addr::v6([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]), Addr::v6([0xfd; 16])];
const INNER_BYTES: usize = 60;
const TRAFFIC_CLASS: u8 = 0b1011_1001;

fn outer(encap: Encap, [src, dst]: [Addr; 2]) -> Outer {
    let (src_mac, dst_mac) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
    Outer { encap, src_mac, dst_mac, src, dst, inner_mac: None, tunnel_port: 4789, vni: 0x123456 }
}

/// The headers in front of an Ethernet header and an IPv4 or IPv6 packet of 46 bytes.
fn written(outer: &Outer, flow_hash: u64, first: u8) -> Vec<u8> {
    let headers = OuterHeaders::new(outer);
    let mut frame = vec![0xaa; headers.size() + INNER_BYTES];
    frame[headers.size() + 14] = first;
    headers.write(&mut frame, headers.size() + INNER_BYTES, flow_hash, TRAFFIC_CLASS);
    frame
}

/// Addresses, traffic class, hop limit, flow label, and what is in the IP packet, with its protocol.
type Read = (Addr, Addr, u8, u8, u32, u8, Vec<u8>);

fn ip(frame: &[u8]) -> Read {
    match SlicedPacket::from_ethernet(frame).unwrap().net.unwrap() {
        NetSlice::Ipv4(ip) => {
            let (header, payload) = (ip.header(), ip.payload());
            assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
            assert!(header.dont_fragment());
            let traffic_class = header.dcp().value() << 2 | header.ecn().value();
            let (src, dst) = (Addr::v4(header.source()), Addr::v4(header.destination()));
            (src, dst, traffic_class, header.ttl(), 0, payload.ip_number.0, payload.payload.to_vec())
        }
        NetSlice::Ipv6(ip) => {
            let (header, payload) = (ip.header().to_header(), ip.payload());
            let (src, dst) = (Addr::v6(header.source), Addr::v6(header.destination));
            let (label, protocol) = (header.flow_label.value(), payload.ip_number.0);
            assert_eq!(header.payload_length as usize, payload.payload.len());
            (src, dst, header.traffic_class, header.hop_limit, label, protocol, payload.payload.to_vec())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_independent_parser_reads_the_outer_headers_of_tunnels_over_both_families() {
    for (encap, ends) in [(Encap::Vxlan, V4), (Encap::Geneve, V4), (Encap::Vxlan, V6), (Encap::Geneve, V6)] {
        let outer = outer(encap, ends);
        let frame = written(&outer, u64::MAX, 0x45);
        let (src, dst, traffic_class, ttl, ..) = ip(&frame);
        assert_eq!((src, dst, traffic_class, ttl), (outer.src, outer.dst, TRAFFIC_CLASS, 64));
        let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(TransportSlice::Udp(udp)) = sliced.transport else { panic!("no UDP") };
        assert_eq!((udp.destination_port(), udp.checksum()), (4789, 0));
        assert!(udp.source_port() >= SOURCE_PORT_FIRST);
        let (header, inner) = udp.payload().split_at(TUNNEL_BYTES);
        assert_eq!(inner.len(), INNER_BYTES);
        match encap {
            Encap::Vxlan => assert_eq!((vni(header), header[0]), (Some(0x123456), 8)),
            _ => assert_eq!(geneve(header), Ok(Geneve { vni: 0x123456, size: 8, is_direct: false })),
        }
        let inner = EthernetFrame::new_checked(inner).unwrap();
        let (src, dst) = (inner_mac(outer.src), inner_mac(outer.dst));
        assert_eq!((inner.src_addr().0, inner.dst_addr().0), (src.0, dst.0));
        assert_eq!(inner.payload()[1..], [0xaa; 45]);
    }
}

#[test]
fn ip_in_ip_says_by_its_protocol_what_is_inside_and_has_no_inner_ethernet_header() {
    for ends in [V4, V6] {
        for (first, number) in [(0x45, 4), (0x60, 41)] {
            let outer = outer(Encap::Ip, ends);
            let (src, dst, traffic_class, ttl, _, protocol, payload) = ip(&written(&outer, 7, first));
            assert_eq!((src, dst, traffic_class, ttl), (outer.src, outer.dst, TRAFFIC_CLASS, 64));
            assert_eq!((protocol, payload.len(), payload[0]), (number, INNER_BYTES - 14, first));
            assert_eq!(payload[1..], [0xaa; 45]);
        }
    }
}

#[test]
fn a_tunnel_over_ipv6_labels_its_flows() {
    for encap in [Encap::Vxlan, Encap::Ip] {
        let labels = [1u64, 2, u64::MAX >> 13].map(|flow| ip(&written(&outer(encap, V6), flow << 12, 0x45)).4);
        assert_eq!(labels, [1, 2, 0xf_ffff]);
    }
}

#[test]
fn what_is_written_is_as_large_as_it_says() {
    let size = |encap, ends| OuterHeaders::new(&outer(encap, ends)).size();
    assert_eq!([size(Encap::Vxlan, V4), size(Encap::Geneve, V4), size(Encap::Ip, V4)], [50, 50, 20]);
    assert_eq!([size(Encap::Vxlan, V6), size(Encap::Geneve, V6), size(Encap::Ip, V6)], [70, 70, 40]);
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

#[test]
fn geneve_options_are_counted_and_what_must_not_be_ignored_is_named() {
    let header = |first: u8, flags: u8, protocol: u8| geneve(&[first, flags, 0x65, protocol, 0, 0, 1, 0]);
    let read = |size| Ok(Geneve { vni: 1, size, is_direct: false });
    assert_eq!([header(0, 0, 0x58), header(3, 0, 0x58), header(63, 0, 0x58)], [8, 20, 260].map(read));
    assert_eq!(header(0x40, 0, 0x58), Err(DropReason::Malformed));
    assert_eq!(header(0, 0x80, 0x58), Err(DropReason::TunnelControl));
    assert_eq!(geneve(&[1, 0x40, 0x65, 0x58, 0, 0, 1, 0, 0, 0, 0, 0]), Err(DropReason::TunnelOption));
    assert_eq!(header(1, 0x40, 0x58), Err(DropReason::Truncated));
    assert_eq!(header(0, 0, 0x59), Err(DropReason::EtherType));
    assert_eq!(geneve(&[0; 7]), Err(DropReason::Truncated));
}

#[test]
fn congestion_met_on_the_way_is_told_inside() {
    // RFC 6040, figure 4: rows are inner, columns outer, each Not-ECT, ECT(0), ECT(1), CE.
    const NOT: u8 = 0b00;
    const ECT0: u8 = 0b10;
    const ECT1: u8 = 0b01;
    const CE: u8 = 0b11;
    let table = [
        (NOT, [Some(NOT), Some(NOT), Some(NOT), None]),
        (ECT0, [Some(ECT0), Some(ECT0), Some(ECT1), Some(CE)]),
        (ECT1, [Some(ECT1), Some(ECT1), Some(ECT1), Some(CE)]),
        (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
    ];
    for (inner, row) in table {
        let told = [NOT, ECT0, ECT1, CE].map(|outer| ecn(0xb8 | outer, 0x28 | inner));
        assert_eq!(told, row, "inner {inner:#b}");
        for outer in [NOT, ECT0] {
            assert!(!may_change(outer) && ecn(outer, inner) == Some(inner));
        }
    }
}

#[test]
fn inside_a_tunnel_a_peer_is_sent_to_by_the_address_that_it_said_and_else_by_the_one_that_follows() {
    let said = Mac([0x9e, 1, 2, 3, 4, 5]);
    for (inner_mac, wanted) in [(Some(said), said), (None, Mac([2, 0xfa, 192, 168, 0, 2]))] {
        let frame = written(&Outer { inner_mac, ..outer(Encap::Vxlan, V4) }, 1, 0x45);
        let (.., payload) = ip(&frame);
        let inner = etherparse::Ethernet2HeaderSlice::from_slice(&payload[8 + TUNNEL_BYTES..]).unwrap();
        assert_eq!(Mac(inner.destination()), wanted);
        assert_eq!(Mac(inner.source()), Mac([2, 0xfa, 192, 168, 0, 1]));
    }
}
