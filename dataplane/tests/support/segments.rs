//! TCP segments that say how large those towards them may be: built and read with etherparse.

use super::packets::{ACK, SYN};
use super::*;
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice};

/// A SYN, or the answer to one, that announces this segment size behind two other options, with an odd number of bytes in
/// between.
pub fn opening(src_mac: Mac, src: (Addr, u16), dst: (Addr, u16), flags: u8, mss: u16) -> Vec<u8> {
    use TcpOptionElement::{MaximumSegmentSize, Noop, WindowScale};
    let ethernet = PacketBuilder::ethernet2(src_mac.0, GATEWAY_MAC.0);
    let ip = match src.0.is_v4() {
        true => ethernet.ipv4(src.0.v4_octets(), dst.0.v4_octets(), 64),
        false => ethernet.ipv6(src.0.v6_octets(), dst.0.v6_octets(), 64),
    };
    assert!(flags == SYN || flags == SYN | ACK);
    let tcp = ip.tcp(src.1, dst.1, 1, 500).syn();
    let tcp = if flags & ACK != 0 { tcp.ack(9000) } else { tcp };
    let options = [WindowScale(7), MaximumSegmentSize(mss), Noop];
    let mut bytes = Vec::new();
    tcp.options(&options).unwrap().write(&mut bytes, &[]).unwrap();
    bytes
}

/// The segment size that such a segment announces; its checksum is judged.
pub fn announced(bytes: &[u8]) -> u16 {
    let sliced = SlicedPacket::from_ethernet(bytes).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!("no TCP") };
    let right = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()),
        Some(NetSlice::Ipv6(ip)) => tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination()),
        other => panic!("no IP: {other:?}"),
    };
    assert_eq!(tcp.checksum(), right.unwrap());
    let mss = |option| if let Ok(TcpOptionElement::MaximumSegmentSize(mss)) = option { Some(mss) } else { None };
    tcp.options_iterator().find_map(mss).expect("a segment size")
}
