//! Packets as values: built with etherparse, read back with etherparse, every checksum judged on the way. So nothing
//! here shares code with what is tested.

use super::{GENEVE_PORT, TUNNEL_PORT, VNI};
use etherparse::{IpHeaders, IpNumber, Ipv4Header, Ipv6Header, NetSlice, PacketBuilder, PacketBuilderStep};
use etherparse::{SlicedPacket, TcpHeader, TransportSlice, UdpHeader};
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
    /// ICMP type 3, or ICMPv6 type 1, with this code; the payload is the quote.
    Unreachable {
        code: u8,
    },
    TimeExceeded,
    /// Any other message of the family's ICMP; `rest` are the four bytes behind the checksum.
    Icmp {
        kind: u8,
        code: u8,
        rest: [u8; 4],
    },
    /// Another protocol, whose bytes are the payload.
    Raw {
        protocol: u8,
    },
}

/// An Ethernet frame with an IP packet. IPv6 extension headers are read over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    pub src_mac: Mac,
    pub dst_mac: Mac,
    pub src: Addr,
    pub dst: Addr,
    pub ttl: u8,
    pub traffic_class: u8,
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

/// An ICMP message of the addresses' family.
pub fn icmp(src: Addr, dst: Addr, (kind, code): (u8, u8), rest: [u8; 4]) -> Spec {
    Spec::new(src, dst, L4::Icmp { kind, code, rest })
}

/// A packet of a protocol that has no ports.
pub fn raw(src: Addr, dst: Addr, protocol: u8, payload: &[u8]) -> Spec {
    Spec::new(src, dst, L4::Raw { protocol }).payload(payload)
}

/// An error from `src` to the sender of `about`, quoting its IP header and eight bytes.
pub fn error(src: Addr, l4: L4, about: &Spec) -> Spec {
    let header = if about.src.is_v4() { 20 } else { 40 };
    Spec::new(src, about.src, l4).payload(&about.bytes()[14..14 + header + 8])
}

impl Spec {
    fn new(src: Addr, dst: Addr, l4: L4) -> Spec {
        let (src_mac, dst_mac) = Default::default();
        Spec { src_mac, dst_mac, src, dst, ttl: 64, traffic_class: 0, l4, payload: Vec::new() }
    }

    pub fn macs(self, src_mac: Mac, dst_mac: Mac) -> Spec {
        Spec { src_mac, dst_mac, ..self }
    }

    pub fn ttl(self, ttl: u8) -> Spec {
        Spec { ttl, ..self }
    }

    pub fn traffic_class(self, traffic_class: u8) -> Spec {
        Spec { traffic_class, ..self }
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
            L4::Unreachable { .. } | L4::TimeExceeded | L4::Icmp { .. } | L4::Raw { .. } => {}
        }
        self
    }

    pub fn to(mut self, dst: Addr, port: u16) -> Spec {
        self.dst = dst;
        match &mut self.l4 {
            L4::Udp { dst, .. } | L4::Tcp { dst, .. } => *dst = port,
            L4::Echo { id } | L4::EchoReply { id } => *id = port,
            L4::Unreachable { .. } | L4::TimeExceeded | L4::Icmp { .. } | L4::Raw { .. } => {}
        }
        self
    }

    /// The port (or echo id) of the sender.
    pub fn src_port(&self) -> u16 {
        match self.l4 {
            L4::Udp { src, .. } | L4::Tcp { src, .. } => src,
            L4::Echo { id } | L4::EchoReply { id } => id,
            L4::Unreachable { .. } | L4::TimeExceeded | L4::Icmp { .. } | L4::Raw { .. } => 0,
        }
    }

    fn ip(&self) -> PacketBuilderStep<IpHeaders> {
        let ip = if self.src.is_v4() {
            let (src, dst) = (self.src.v4_octets(), self.dst.v4_octets());
            let mut header = Ipv4Header::new(0, self.ttl, IpNumber(0), src, dst).unwrap();
            header.dscp = (self.traffic_class >> 2).try_into().unwrap();
            header.ecn = (self.traffic_class & 3).try_into().unwrap();
            IpHeaders::Ipv4(header, Default::default())
        } else {
            let header = Ipv6Header {
                traffic_class: self.traffic_class,
                hop_limit: self.ttl,
                source: self.src.v6_octets(),
                destination: self.dst.v6_octets(),
                ..Ipv6Header::default()
            };
            IpHeaders::Ipv6(header, Default::default())
        };
        PacketBuilder::ethernet2(self.src_mac.0, self.dst_mac.0).ip(ip)
    }

    pub fn bytes(&self) -> Vec<u8> {
        let (ip, v6, mut bytes) = (self.ip(), !self.src.is_v4(), Vec::new());
        let icmp = |kind: u8, code: u8, rest: [u8; 4], bytes: &mut Vec<u8>| match v6 {
            true => self.ip().icmpv6_raw(kind, code, rest).write(bytes, &self.payload),
            false => self.ip().icmpv4_raw(kind, code, rest).write(bytes, &self.payload),
        };
        let echo = |id: u16| [(id >> 8) as u8, id as u8, 0, 1];
        match self.l4 {
            L4::Udp { src, dst } => ip.udp(src, dst).write(&mut bytes, &self.payload),
            L4::Tcp { src, dst, flags, seq, ack } => {
                ip.tcp_header(tcp_header(src, dst, flags, seq, ack)).write(&mut bytes, &self.payload)
            }
            L4::Echo { id } => icmp(if v6 { 128 } else { 8 }, 0, echo(id), &mut bytes),
            L4::EchoReply { id } => icmp(if v6 { 129 } else { 0 }, 0, echo(id), &mut bytes),
            L4::Unreachable { code } => icmp(if v6 { 1 } else { 3 }, code, [0; 4], &mut bytes),
            L4::TimeExceeded => icmp(if v6 { 3 } else { 11 }, 0, [0; 4], &mut bytes),
            L4::Icmp { kind, code, rest } => icmp(kind, code, rest, &mut bytes),
            L4::Raw { protocol } => ip.write(&mut bytes, IpNumber(protocol), &self.payload),
        }
        .unwrap();
        bytes
    }

    /// The same bytes with IPv6 extension headers of eight bytes each, empty options inside.
    pub fn bytes_with_extensions(&self, kinds: &[u8]) -> Vec<u8> {
        let mut bytes = self.bytes();
        for kind in kinds.iter().rev() {
            let next = std::mem::replace(&mut bytes[20], *kind);
            // PadN over six bytes; of a routing header: type 4, no segments left, reserved.
            let body = if *kind == 43 { [4, 0, 0, 0, 0, 0] } else { [1, 4, 0, 0, 0, 0] };
            let header = [&[next, 0][..], &body].concat();
            bytes.splice(54..54, header);
            let size = u16::from_be_bytes([bytes[18], bytes[19]]) + 8;
            bytes[18..20].copy_from_slice(&size.to_be_bytes());
        }
        bytes
    }

    /// Reads a frame. Panics if etherparse cannot, or if a checksum is not what it computes.
    pub fn judge(bytes: &[u8]) -> Spec {
        let sliced = SlicedPacket::from_ethernet(bytes).unwrap_or_else(|error| panic!("{error}: {bytes:02x?}"));
        let ethernet = sliced.link.as_ref().and_then(|link| link.to_header()).and_then(|h| h.ethernet2()).unwrap();
        let (ip, protocol, raw) = match sliced.net.as_ref().expect("IP") {
            NetSlice::Ipv4(ip) => {
                let header = ip.header().to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum(), "IPv4 checksum of {bytes:02x?}");
                (IpHeaders::Ipv4(header, Default::default()), ip.payload().ip_number, ip.payload().payload)
            }
            NetSlice::Ipv6(ip) => {
                let payload = ip.payload();
                (IpHeaders::Ipv6(ip.header().to_header(), Default::default()), payload.ip_number, payload.payload)
            }
            other => panic!("no IP: {other:?}"),
        };
        let (l4, payload) = match &sliced.transport {
            Some(slice) => transport(&ip, slice),
            None => (L4::Raw { protocol: protocol.0 }, raw.to_vec()),
        };
        let (src, dst, ttl, traffic_class) = ends(&ip);
        let (src_mac, dst_mac) = (Mac(ethernet.source), Mac(ethernet.destination));
        Spec { src_mac, dst_mac, src, dst, ttl, traffic_class, l4, payload }
    }
}

/// Addresses, time to live and traffic class.
fn ends(ip: &IpHeaders) -> (Addr, Addr, u8, u8) {
    match ip {
        IpHeaders::Ipv4(ip, _) => {
            let traffic_class = ip.dscp.value() << 2 | ip.ecn.value();
            (Addr::v4(ip.source), Addr::v4(ip.destination), ip.time_to_live, traffic_class)
        }
        IpHeaders::Ipv6(ip, _) => (Addr::v6(ip.source), Addr::v6(ip.destination), ip.hop_limit, ip.traffic_class),
    }
}

fn tcp_header(src: u16, dst: u16, flags: u8, seq: u32, ack: u32) -> TcpHeader {
    let has = |flag: u8| flags & flag != 0;
    let mut header = TcpHeader::new(src, dst, seq, 4096);
    (header.syn, header.ack, header.rst, header.fin, header.psh) = (has(SYN), has(ACK), has(RST), has(FIN), has(PSH));
    header.acknowledgment_number = ack;
    header
}

fn transport(ip: &IpHeaders, slice: &TransportSlice) -> (L4, Vec<u8>) {
    match slice {
        TransportSlice::Udp(udp) => {
            let header: UdpHeader = udp.to_header();
            let (is_v4, right) = match ip {
                IpHeaders::Ipv4(ip, _) => (true, header.calc_checksum_ipv4(ip, udp.payload()).unwrap()),
                IpHeaders::Ipv6(ip, _) => (false, header.calc_checksum_ipv6(ip, udp.payload()).unwrap()),
            };
            // Without one over IPv4, and of tunnels over IPv6 (RFC 6935).
            let may_lack = is_v4 || [TUNNEL_PORT, GENEVE_PORT].contains(&header.destination_port);
            assert!(
                header.checksum == right || header.checksum == 0 && may_lack,
                "UDP checksum {:#x}",
                header.checksum
            );
            (L4::Udp { src: header.source_port, dst: header.destination_port }, udp.payload().to_vec())
        }
        TransportSlice::Tcp(tcp) => {
            let h = tcp.to_header();
            let right = match ip {
                IpHeaders::Ipv4(ip, _) => h.calc_checksum_ipv4(ip, tcp.payload()).unwrap(),
                IpHeaders::Ipv6(ip, _) => h.calc_checksum_ipv6(ip, tcp.payload()).unwrap(),
            };
            assert_eq!(h.checksum, right, "TCP checksum");
            let flag = |set: bool, flag: u8| if set { flag } else { 0 };
            let flags = flag(h.syn, SYN) | flag(h.ack, ACK) | flag(h.rst, RST) | flag(h.fin, FIN) | flag(h.psh, PSH);
            let (src, dst, seq, ack) = (h.source_port, h.destination_port, h.sequence_number, h.acknowledgment_number);
            (L4::Tcp { src, dst, flags, seq, ack }, tcp.payload().to_vec())
        }
        TransportSlice::Icmpv4(icmp) => {
            assert_eq!(icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()), "ICMP checksum");
            let all = icmp.slice();
            (icmp_l4(false, all), all[8..].to_vec())
        }
        TransportSlice::Icmpv6(icmp) => {
            let IpHeaders::Ipv6(ip, _) = ip else { panic!("ICMPv6 over IPv4") };
            assert!(icmp.is_checksum_valid(ip.source, ip.destination), "ICMPv6 checksum");
            let all = icmp.slice();
            (icmp_l4(true, all), all[8..].to_vec())
        }
        other => panic!("unexpected {other:?}"),
    }
}

fn icmp_l4(v6: bool, bytes: &[u8]) -> L4 {
    let (kind, code, rest) = (bytes[0], bytes[1], [bytes[4], bytes[5], bytes[6], bytes[7]]);
    let id = u16::from_be_bytes([rest[0], rest[1]]);
    match (v6, kind, code) {
        (false, 8, 0) | (true, 128, 0) => L4::Echo { id },
        (false, 0, 0) | (true, 129, 0) => L4::EchoReply { id },
        (false, 3, code) | (true, 1, code) => L4::Unreachable { code },
        (false, 11, 0) | (true, 3, 0) => L4::TimeExceeded,
        _ => L4::Icmp { kind, code, rest },
    }
}

/// What an ICMP error quotes: an IP header, whose checksum is judged, and the first eight bytes behind it.
pub fn quoted(error: &Spec) -> (Addr, Addr, IpNumber, [u8; 8]) {
    if error.src.is_v4() {
        let (ip, rest) = Ipv4Header::from_slice(&error.payload).unwrap();
        assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "checksum of the quoted header");
        return (Addr::v4(ip.source), Addr::v4(ip.destination), ip.protocol, rest[..8].try_into().unwrap());
    }
    let (ip, rest) = Ipv6Header::from_slice(&error.payload).unwrap();
    (Addr::v6(ip.source), Addr::v6(ip.destination), ip.next_header, rest[..8].try_into().unwrap())
}

/// How packets between nodes are wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrapped {
    Vxlan,
    Geneve,
    /// IP in IP: no VNI, no source port, no inner Ethernet header.
    Ip,
    /// Direct server return: Geneve that names a backend.
    Direct(Addr, u16),
}

/// The outer headers of a tunnel packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outer {
    pub src_mac: Mac,
    pub dst_mac: Mac,
    pub src: Addr,
    pub dst: Addr,
    pub ttl: u8,
    pub traffic_class: u8,
    pub wrapped: Wrapped,
    pub vni: u32,
}

/// Puts a tunnel's headers around a frame.
pub fn encapsulate(outer: &Outer, src_port: u16, inner: &[u8]) -> Spec {
    let [_, a, b, c] = outer.vni.to_be_bytes();
    let packet = match outer.wrapped {
        Wrapped::Vxlan => udp((outer.src, src_port), (outer.dst, TUNNEL_PORT))
            .payload(&[&[8, 0, 0, 0, a, b, c, 0][..], inner].concat()),
        Wrapped::Geneve => udp((outer.src, src_port), (outer.dst, GENEVE_PORT))
            .payload(&[&[0, 0, 0x65, 0x58, a, b, c, 0][..], inner].concat()),
        Wrapped::Direct(addr, port) => {
            let option = direct_option(addr, port);
            let header = [&[(option.len() / 4) as u8, 0x40, 0x65, 0x58, a, b, c, 0][..], &option, inner].concat();
            udp((outer.src, src_port), (outer.dst, GENEVE_PORT)).payload(&header)
        }
        Wrapped::Ip => {
            let protocol = if inner[14] >> 4 == 4 { 4 } else { 41 };
            raw(outer.src, outer.dst, protocol, &inner[14..])
        }
    };
    packet.macs(outer.src_mac, outer.dst_mac).ttl(outer.ttl).traffic_class(outer.traffic_class)
}

/// The Geneve option (RFC 8926, 3.5) that names a backend: class, type with the critical bit, words of data; address, port.
pub fn direct_option(addr: Addr, port: u16) -> Vec<u8> {
    let addr = if addr.is_v4() { addr.v4_octets().to_vec() } else { addr.v6_octets().to_vec() };
    let [high, low] = port.to_be_bytes();
    [&[0xff, 0x46, 0x81, addr.len() as u8 / 4 + 1][..], &addr, &[high, low, 0, 0]].concat()
}

fn direct_backend(option: &[u8]) -> (Addr, u16) {
    let data = option.len() - 8;
    let addr = match data {
        4 => Addr::v4(option[4..8].try_into().unwrap()),
        _ => Addr::v6(option[4..20].try_into().unwrap()),
    };
    let port = u16::from_be_bytes([option[4 + data], option[5 + data]]);
    assert_eq!(option, direct_option(addr, port), "the one option that names a backend");
    (addr, port)
}

/// Takes a tunnel's headers off: outer headers, UDP source port, inner packet (of IP in IP without Ethernet addresses).
/// None if it is no tunnel packet.
pub fn decapsulate(packet: &Spec) -> Option<(Outer, u16, Spec)> {
    unwrap(packet).map(|(outer, port, inner)| (outer, port, Spec::judge(&inner)))
}

/// As `decapsulate`, the inner frame as it is.
pub fn unwrap(packet: &Spec) -> Option<(Outer, u16, Vec<u8>)> {
    let (wrapped, port, vni, inner) = match packet.l4 {
        L4::Udp { src, dst: TUNNEL_PORT } => {
            let (header, inner) = packet.payload.split_at(8);
            assert_eq!((header[0], &header[1..4], header[7]), (8, &[0; 3][..], 0), "VXLAN flags and reserved bytes");
            (Wrapped::Vxlan, src, &header[4..7], inner.to_vec())
        }
        L4::Udp { src, dst: GENEVE_PORT } if packet.payload[0] != 0 => {
            let (header, rest) = packet.payload.split_at(8);
            let (option, inner) = rest.split_at(header[0] as usize * 4);
            assert_eq!((&header[1..4], header[7]), (&[0x40, 0x65, 0x58][..], 0), "Geneve with a critical option");
            let (addr, port) = direct_backend(option);
            (Wrapped::Direct(addr, port), src, &header[4..7], inner.to_vec())
        }
        L4::Udp { src, dst: GENEVE_PORT } => {
            let (header, inner) = packet.payload.split_at(8);
            assert_eq!((&header[..4], header[7]), (&[0, 0, 0x65, 0x58][..], 0), "Geneve without options, Ethernet");
            (Wrapped::Geneve, src, &header[4..7], inner.to_vec())
        }
        L4::Raw { protocol: protocol @ (4 | 41) } => {
            let ethertype: [u8; 2] = if protocol == 4 { [8, 0] } else { [0x86, 0xdd] };
            (Wrapped::Ip, 0, &[0; 3][..], [&[0; 12][..], &ethertype, &packet.payload].concat())
        }
        _ => return None,
    };
    let vni = u32::from_be_bytes([0, vni[0], vni[1], vni[2]]);
    let Spec { src_mac, dst_mac, src, dst, ttl, traffic_class, .. } = packet.clone();
    Some((Outer { src_mac, dst_mac, src, dst, ttl, traffic_class, wrapped, vni }, port, inner))
}

/// The usual outer headers between two nodes.
pub fn outer(from: Addr, from_mac: Mac, to: Addr, to_mac: Mac) -> Outer {
    let (ttl, traffic_class, wrapped) = (64, 0, Wrapped::Vxlan);
    Outer { src_mac: from_mac, dst_mac: to_mac, src: from, dst: to, ttl, traffic_class, wrapped, vni: VNI }
}
