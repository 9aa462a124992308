//! Well-formed frames of every kind that the dataplane tells apart, between the ends of `cluster`. Built by etherparse.

use super::cluster::{self, GATEWAY_MAC, NODE, OTHER_NODE, OUTSIDE, OVERLAYS, Overlay, UPLINK_MAC};
use super::input::Input;
use dataplane::overlay::Encap;
use etherparse::{IpHeaders, IpNumber, PacketBuilder, PacketBuilderStep};
use std::net::{IpAddr, Ipv4Addr};
use tables::{Addr, Mac};

/// What layer 4 of a frame is.
#[derive(Clone, Copy, Debug)]
pub enum L4 {
    Tcp(u16, u16),
    Udp(u16, u16),
    Echo(u16),
    EchoReply(u16),
    /// An ICMP error (type, code) that quotes the payload.
    Error(u8, u8),
    /// Another protocol.
    Raw(u8),
}

/// A frame from `src` to `dst` with right checksums.
pub fn frame(macs: (Mac, Mac), src: Addr, dst: Addr, l4: L4, payload: &[u8]) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(macs.0.0, macs.1.0);
    let v6 = !src.is_v4();
    let ip: PacketBuilderStep<IpHeaders> = match (src.ip(), dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ethernet.ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => ethernet.ipv6(src.octets(), dst.octets(), 64),
        _ => panic!("{src} and {dst} are of two families"),
    };
    let mut bytes = Vec::new();
    match l4 {
        L4::Tcp(from, to) => ip.tcp(from, to, 1, 64_000).syn().write(&mut bytes, payload),
        L4::Udp(from, to) => ip.udp(from, to).write(&mut bytes, payload),
        L4::Echo(id) if v6 => ip.icmpv6_echo_request(id, 1).write(&mut bytes, payload),
        L4::Echo(id) => ip.icmpv4_echo_request(id, 1).write(&mut bytes, payload),
        L4::EchoReply(id) if v6 => ip.icmpv6_echo_reply(id, 1).write(&mut bytes, payload),
        L4::EchoReply(id) => ip.icmpv4_echo_reply(id, 1).write(&mut bytes, payload),
        L4::Error(kind, code) if v6 => ip.icmpv6_raw(kind, code, [0; 4]).write(&mut bytes, payload),
        L4::Error(kind, code) => ip.icmpv4_raw(kind, code, [0; 4]).write(&mut bytes, payload),
        L4::Raw(protocol) => ip.write(&mut bytes, IpNumber(protocol), payload),
    }
    .expect("a vector takes all bytes");
    bytes
}

/// The frame in a tunnel packet from the other node.
pub fn encapsulated(inner: &[u8], overlay: Overlay) -> Vec<u8> {
    let header = match overlay.encap {
        Encap::Vxlan => &[8, 0, 0, 0, 0, 0, cluster::VNI as u8, 0][..],
        // With an option that may be ignored.
        Encap::Geneve => &[1, 0, 0x65, 0x58, 0, 0, cluster::VNI as u8, 0, 1, 1, 1, 0],
        Encap::Ip => &[],
    };
    let l4 = match (overlay.encap, inner[14] >> 4) {
        (Encap::Ip, 4) => L4::Raw(4),
        (Encap::Ip, _) => L4::Raw(41),
        _ => L4::Udp(50_000, cluster::TUNNEL_PORT),
    };
    let inner = if overlay.encap == Encap::Ip { &inner[14..] } else { inner };
    let (src, dst) = (OTHER_NODE[overlay.family], NODE[overlay.family]);
    frame((GATEWAY_MAC, UPLINK_MAC), src, dst, l4, &[header, inner].concat())
}

/// What a client outside asked the other node, for a backend of this one.
pub fn direct(inner: &[u8], overlay: Overlay, (addr, port): (Addr, u16)) -> Vec<u8> {
    let addr = if addr.is_v4() { addr.v4_octets().to_vec() } else { addr.v6_octets().to_vec() };
    let words = (addr.len() / 4) as u8;
    let geneve = [words + 2, 0x40, 0x65, 0x58, 0, 0, cluster::VNI as u8, 0];
    let [high, low] = port.to_be_bytes();
    let payload = [&geneve[..], &[0xff, 0x46, 0x81, words + 1], &addr, &[high, low, 0, 0], inner].concat();
    let (src, dst) = (OTHER_NODE[overlay.family], NODE[overlay.family]);
    frame((GATEWAY_MAC, UPLINK_MAC), src, dst, L4::Udp(50_000, cluster::direct_port(overlay)), &payload)
}

/// Who-has the gateway.
pub fn arp(mac: Mac, addr: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let head = [&[0xff; 6][..], &mac.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &mac.0];
    [&head.concat()[..], &addr.octets(), &[0; 6], &target.octets()].concat()
}

/// Who has `target`? Of a neighbour that has an address already.
pub fn solicitation(mac: Mac, addr: Addr, target: Addr) -> Vec<u8> {
    let [.., a, b, c] = target.v6_octets();
    let to = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c];
    let payload = [&target.v6_octets()[..], &[1, 1], &mac.0].concat();
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(mac.0, [0x33, 0x33, 0xff, a, b, c])
        .ipv6(addr.v6_octets(), to, 255)
        .icmpv6_raw(135, 0, [0; 4])
        .write(&mut bytes, &payload)
        .expect("a vector takes all bytes");
    bytes
}

/// Frames that pod `pod` or the host would send.
fn from_local(mac: Mac, own: Addr) -> Vec<Vec<u8>> {
    let family = !own.is_v4() as usize;
    let to = |dst: Addr, l4: L4| frame((mac, GATEWAY_MAC), own, dst, l4, &[7; 40]);
    let error = if family == 0 { L4::Error(3, 4) } else { L4::Error(2, 0) };
    let heard = frame((mac, mac), cluster::REMOTE_POD[family], own, L4::Tcp(80, 1000), &[]);
    vec![
        to(cluster::SERVICE[family], L4::Tcp(1000, 80)),
        to(cluster::SERVICE[family], L4::Udp(1000, 53)),
        to(cluster::SERVICE[family], L4::Udp(1000, 54)),
        to(cluster::SERVICE[family], L4::Tcp(1000, 81)),
        to(cluster::REMOTE_POD[family], L4::Tcp(1000, 80)),
        to(cluster::REMOTE_POD[family], L4::Echo(5)),
        to(cluster::pod_addr(1, family), L4::Udp(1000, 80)),
        to(cluster::GATEWAY[family], L4::Echo(5)),
        to(OUTSIDE[family], L4::Udp(1000, 53)),
        to(OUTSIDE[family], L4::Echo(6)),
        frame((mac, GATEWAY_MAC), own, cluster::REMOTE_POD[family], error, &heard[14..]),
    ]
}

/// Frames that the uplink would receive.
fn from_outside() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let macs = (GATEWAY_MAC, UPLINK_MAC);
    for family in [0, 1] {
        let (pod, peer) = (cluster::pod_addr(1, family), cluster::REMOTE_POD[family]);
        let error = if family == 0 { L4::Error(3, 4) } else { L4::Error(2, 0) };
        let sent = frame(macs, pod, peer, L4::Tcp(1000, 80), &[]);
        let inner = [
            frame(macs, peer, pod, L4::Tcp(80, 1000), &[1; 30]),
            frame(macs, peer, pod, L4::Udp(80, 1000), &[1; 30]),
            frame(macs, peer, pod, L4::EchoReply(5), &[1; 30]),
            frame(macs, peer, pod, error, &sent[14..]),
        ];
        frames.extend(OVERLAYS.iter().flat_map(|overlay| inner.iter().map(|inner| encapsulated(inner, *overlay))));
        frames.push(frame(macs, OUTSIDE[family], pod, L4::Tcp(5000, 80), &[]));
    }
    for family in [0, 1] {
        frames.push(frame(macs, OUTSIDE[family], NODE[family], L4::Udp(53, 40_000), &[2; 20]));
        frames.push(frame(macs, OUTSIDE[family], NODE[family], L4::EchoReply(40_001), &[2; 20]));
        let (pod, service) = (cluster::pod_addr(0, family), cluster::SERVICE[family]);
        let asked = frame(macs, OUTSIDE[family], service, L4::Tcp(5000, 8000), &[3; 20]);
        let (answer, error) =
            (frame(macs, service, OUTSIDE[family], L4::Tcp(8000, 5000), &[]), [(3, 4), (2, 0)][family]);
        let about = frame(macs, OUTSIDE[family], service, L4::Error(error.0, error.1), &answer[14..]);
        for inner in [&asked, &about] {
            frames.extend(OVERLAYS.iter().map(|overlay| direct(inner, *overlay, (pod, 8080))));
        }
        frames.extend([asked, about]);
    }
    frames
}

/// Everything an interface may receive; also something that is no frame at all.
pub fn all(interface: u32) -> Vec<Vec<u8>> {
    let Some((mac, addrs)) = cluster::local_end(interface) else { return from_outside() };
    let mut frames: Vec<_> = addrs.into_iter().flat_map(|addr| from_local(mac, addr)).collect();
    frames.push(arp(mac, Ipv4Addr::from(addrs[0].v4_octets()), Ipv4Addr::from(cluster::GATEWAY[0].v4_octets())));
    for target in [cluster::GATEWAY[1], cluster::pod_addr(1, 1)] {
        frames.push(solicitation(mac, addrs[1], target));
    }
    frames
}

thread_local! {
    static ALL: Vec<(u32, Vec<Vec<u8>>)> = cluster::INTERFACES.into_iter().map(|id| (id, all(id))).collect();
}

/// One of `all`.
fn one_of(interface: u32, index: usize) -> Vec<u8> {
    ALL.with(|all| {
        let frames = all.iter().find(|(id, _)| *id == interface).map_or(&[][..], |(_, frames)| frames);
        frames[index % frames.len()].clone()
    })
}

/// The frame that the input asks for: one of `all`, edited, or bytes as they are.
pub fn chosen(input: &mut Input, interface: u32) -> Vec<u8> {
    let index = input.byte() as usize;
    if index >= 200 {
        let size = input.byte() as usize;
        return input.take(size).to_vec();
    }
    let mut bytes = one_of(interface, index);
    input.edit(&mut bytes);
    input.resize(&mut bytes);
    bytes
}
