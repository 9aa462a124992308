//! Packets as values: built with etherparse, read back with etherparse, every checksum judged on the way. So nothing
//! here shares code with what is tested.

use super::{TUNNEL_PORT, VNI};
use etherparse::{IcmpEchoHeader, Icmpv4Header, Icmpv4Type, IpNumber, Ipv4Header, NetSlice, PacketBuilder};
use etherparse::{SlicedPacket, TcpHeader, TransportSlice, UdpHeader, icmpv4};
use tables::{Addr, Mac};

pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;
pub const PSH: u8 = 8;
pub const FIN: u8 = 1;

/// Layer 4 as far as tests look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum L4 {
    Udp {
        src: u16,
        dst: u16,
    },
    Tcp {
        src: u16,
        dst: u16,
        flags: u8,
        seq: u32,
        ack: u32,
    },
    Echo {
        id: u16,
    },
    EchoReply {
        id: u16,
    },
    /// ICMP type 3 with this code; the payload is the quote.
    Unreachable {
        code: u8,
    },
    TimeExceeded,
}

/// An Ethernet frame with an IPv4 packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    pub src_mac: Mac,
    pub dst_mac: Mac,
    pub src: Addr,
    pub dst: Addr,
    pub ttl: u8,
    pub l4: L4,
    pub payload: Vec<u8>,
}

pub fn udp(src: (Addr, u16), dst: (Addr, u16)) -> Spec {
    Spec::new(src.0, dst.0, L4::Udp { src: src.1, dst: dst.1 }).payload(b"a datagram")
}

pub fn tcp(src: (Addr, u16), dst: (Addr, u16), flags: u8) -> Spec {
    let ack = if flags & ACK != 0 { 9000 } else { 0 };
    Spec::new(src.0, dst.0, L4::Tcp { src: src.1, dst: dst.1, flags, seq: 1000, ack })
}

pub fn echo(src: Addr, dst: Addr, id: u16) -> Spec {
    Spec::new(src, dst, L4::Echo { id }).payload(b"echo echo")
}

pub fn echo_reply(src: Addr, dst: Addr, id: u16) -> Spec {
    Spec::new(src, dst, L4::EchoReply { id }).payload(b"echo echo")
}

/// An error from `src` to the sender of `about`, quoting its IP header and eight bytes.
pub fn error(src: Addr, l4: L4, about: &Spec) -> Spec {
    Spec::new(src, about.src, l4).payload(&about.bytes()[14..14 + 28])
}

impl Spec {
    fn new(src: Addr, dst: Addr, l4: L4) -> Spec {
        Spec { src_mac: Mac::default(), dst_mac: Mac::default(), src, dst, ttl: 64, l4, payload: Vec::new() }
    }

    pub fn macs(self, src_mac: Mac, dst_mac: Mac) -> Spec {
        Spec { src_mac, dst_mac, ..self }
    }

    pub fn ttl(self, ttl: u8) -> Spec {
        Spec { ttl, ..self }
    }

    pub fn payload(self, payload: &[u8]) -> Spec {
        Spec { payload: payload.to_vec(), ..self }
    }

    /// One hop further: what a node that the packet entered has taken off.
    pub fn hop(self) -> Spec {
        Spec { ttl: self.ttl - 1, ..self }
    }

    pub fn from(mut self, src: Addr, port: u16) -> Spec {
        self.src = src;
        match &mut self.l4 {
            L4::Udp { src, .. } | L4::Tcp { src, .. } => *src = port,
            L4::Echo { id } | L4::EchoReply { id } => *id = port,
            L4::Unreachable { .. } | L4::TimeExceeded => {}
        }
        self
    }

    pub fn to(mut self, dst: Addr, port: u16) -> Spec {
        self.dst = dst;
        match &mut self.l4 {
            L4::Udp { dst, .. } | L4::Tcp { dst, .. } => *dst = port,
            L4::Echo { id } | L4::EchoReply { id } => *id = port,
            L4::Unreachable { .. } | L4::TimeExceeded => {}
        }
        self
    }

    /// The port (or echo id) of the sender.
    pub fn src_port(&self) -> u16 {
        match self.l4 {
            L4::Udp { src, .. } | L4::Tcp { src, .. } => src,
            L4::Echo { id } | L4::EchoReply { id } => id,
            L4::Unreachable { .. } | L4::TimeExceeded => 0,
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let ip = PacketBuilder::ethernet2(self.src_mac.0, self.dst_mac.0).ipv4(
            self.src.v4_octets(),
            self.dst.v4_octets(),
            self.ttl,
        );
        let mut bytes = Vec::new();
        match self.l4 {
            L4::Udp { src, dst } => ip.udp(src, dst).write(&mut bytes, &self.payload),
            L4::Tcp { src, dst, flags, seq, ack } => {
                ip.tcp_header(tcp_header(src, dst, flags, seq, ack)).write(&mut bytes, &self.payload)
            }
            L4::Echo { id } => ip.icmpv4_echo_request(id, 1).write(&mut bytes, &self.payload),
            L4::EchoReply { id } => ip.icmpv4_echo_reply(id, 1).write(&mut bytes, &self.payload),
            L4::Unreachable { code } => ip.icmpv4_raw(3, code, [0; 4]).write(&mut bytes, &self.payload),
            L4::TimeExceeded => ip.icmpv4_raw(11, 0, [0; 4]).write(&mut bytes, &self.payload),
        }
        .unwrap();
        bytes
    }

    /// Reads a frame. Panics if etherparse cannot, or if a checksum is not what it computes.
    pub fn judge(bytes: &[u8]) -> Spec {
        let sliced = SlicedPacket::from_ethernet(bytes).unwrap_or_else(|error| panic!("{error}: {bytes:02x?}"));
        let ethernet = sliced.link.as_ref().and_then(|link| link.to_header()).and_then(|h| h.ethernet2()).unwrap();
        let Some(NetSlice::Ipv4(ip)) = &sliced.net else { panic!("no IPv4: {:?}", sliced.net) };
        let header = ip.header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum(), "IPv4 checksum of {bytes:02x?}");
        let (l4, payload) = transport(&header, sliced.transport.as_ref().expect("a transport header"));
        Spec {
            src_mac: Mac(ethernet.source),
            dst_mac: Mac(ethernet.destination),
            src: Addr::v4(header.source),
            dst: Addr::v4(header.destination),
            ttl: header.time_to_live,
            l4,
            payload,
        }
    }
}

fn tcp_header(src: u16, dst: u16, flags: u8, seq: u32, ack: u32) -> TcpHeader {
    let has = |flag: u8| flags & flag != 0;
    let mut header = TcpHeader::new(src, dst, seq, 4096);
    (header.syn, header.ack, header.rst, header.fin, header.psh) = (has(SYN), has(ACK), has(RST), has(FIN), has(PSH));
    header.acknowledgment_number = ack;
    header
}

fn transport(ip: &Ipv4Header, slice: &TransportSlice) -> (L4, Vec<u8>) {
    match slice {
        TransportSlice::Udp(udp) => {
            let header: UdpHeader = udp.to_header();
            let right = header.calc_checksum_ipv4(ip, udp.payload()).unwrap();
            assert!(header.checksum == right || header.checksum == 0, "UDP checksum {:#x}", header.checksum);
            (L4::Udp { src: header.source_port, dst: header.destination_port }, udp.payload().to_vec())
        }
        TransportSlice::Tcp(tcp) => {
            let h = tcp.to_header();
            assert_eq!(h.checksum, h.calc_checksum_ipv4(ip, tcp.payload()).unwrap(), "TCP checksum");
            let flag = |set: bool, flag: u8| if set { flag } else { 0 };
            let flags = flag(h.syn, SYN) | flag(h.ack, ACK) | flag(h.rst, RST) | flag(h.fin, FIN) | flag(h.psh, PSH);
            let (src, dst, seq, ack) = (h.source_port, h.destination_port, h.sequence_number, h.acknowledgment_number);
            (L4::Tcp { src, dst, flags, seq, ack }, tcp.payload().to_vec())
        }
        TransportSlice::Icmpv4(icmp) => {
            let Icmpv4Header { icmp_type, checksum } = icmp.header();
            assert_eq!(checksum, icmp_type.calc_checksum(icmp.payload()), "ICMP checksum");
            (icmp_l4(&icmp_type), icmp.payload().to_vec())
        }
        other => panic!("unexpected {other:?}"),
    }
}

fn icmp_l4(icmp_type: &Icmpv4Type) -> L4 {
    match icmp_type {
        Icmpv4Type::EchoRequest(IcmpEchoHeader { id, .. }) => L4::Echo { id: *id },
        Icmpv4Type::EchoReply(IcmpEchoHeader { id, .. }) => L4::EchoReply { id: *id },
        Icmpv4Type::DestinationUnreachable(header) => L4::Unreachable { code: header.code_u8() },
        Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit) => L4::TimeExceeded,
        other => panic!("unexpected {other:?}"),
    }
}

/// What an ICMP error quotes: an IPv4 header, whose checksum is judged, and the first eight bytes behind it.
pub fn quoted(error: &Spec) -> (Addr, Addr, IpNumber, [u8; 8]) {
    let (ip, rest) = Ipv4Header::from_slice(&error.payload).unwrap();
    assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "checksum of the quoted header");
    (Addr::v4(ip.source), Addr::v4(ip.destination), ip.protocol, rest[..8].try_into().unwrap())
}

/// The outer headers of a tunnel packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outer {
    pub src_mac: Mac,
    pub dst_mac: Mac,
    pub src: Addr,
    pub dst: Addr,
    pub ttl: u8,
    pub vni: u32,
}

/// Puts VXLAN (RFC 7348) around a packet.
pub fn encapsulate(outer: &Outer, src_port: u16, inner: &[u8]) -> Spec {
    let [_, a, b, c] = outer.vni.to_be_bytes();
    let payload = [&[8, 0, 0, 0, a, b, c, 0][..], inner].concat();
    udp((outer.src, src_port), (outer.dst, TUNNEL_PORT)).macs(outer.src_mac, outer.dst_mac).payload(&payload)
}

/// Takes VXLAN off: outer headers, UDP source port, inner packet. None if it is no tunnel packet.
pub fn decapsulate(packet: &Spec) -> Option<(Outer, u16, Spec)> {
    let L4::Udp { src, dst: TUNNEL_PORT } = packet.l4 else { return None };
    let (header, inner) = packet.payload.split_at(8);
    assert_eq!((header[0], &header[1..4], header[7]), (8, &[0; 3][..], 0), "VXLAN flags and reserved bytes");
    let vni = u32::from_be_bytes([0, header[4], header[5], header[6]]);
    let Spec { src_mac, dst_mac, src: from, dst: to, ttl, .. } = packet.clone();
    Some((Outer { src_mac, dst_mac, src: from, dst: to, ttl, vni }, src, Spec::judge(inner)))
}

/// The usual outer headers between two nodes.
pub fn outer(from: Addr, from_mac: Mac, to: Addr, to_mac: Mac) -> Outer {
    Outer { src_mac: from_mac, dst_mac: to_mac, src: from, dst: to, ttl: 64, vni: VNI }
}
