//! ICMP errors: pods send, and errors about what left come back, cut, edited and from anywhere. An error that reaches a
//! pod is about a packet that this very pod sent, as it sent it, and its checksum is right.

use super::cluster::{
    self, GATEWAY, GATEWAY_MAC, NODE, OUTSIDE, OVERLAYS, PODS, REMOTE_POD, SERVICE, UPLINK, UPLINK_MAC,
};
use super::frames::{L4, encapsulated, frame};
use super::input::Input;
use super::path::Node;
use dataplane::parse::{Kind, Meta, Parsed, parse, quoted};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use std::collections::BTreeSet;
use tables::Addr;

const ERRORS_MAX: usize = 8;

/// Both ends and their ports, or the identifier of an echo, as etherparse reads them of what an IP header quotes.
type Ends = (Addr, Addr, u8, [u8; 4]);

pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let overlay = input.byte() as usize % OVERLAYS.len();
    let mut node = Node::new(&mut Input(&[4 * overlay as u8]));
    let mut said: [BTreeSet<Ends>; 2] = Default::default();
    for _ in 0..1 + input.byte() % 4 {
        let (pod, packet) = asked(&mut input);
        said[pod].insert(ends(&packet[14..]).expect("as it was built"));
        node.inject(PODS[pod], packet.into());
    }
    node.settle();
    let left: Vec<Vec<u8>> = std::mem::take(&mut node.sent).into_iter().map(|(_, packet)| packet.bytes).collect();
    for _ in 0..ERRORS_MAX {
        if input.is_empty() || left.is_empty() {
            break;
        }
        node.inject(UPLINK, error(&mut input, &left, overlay).into());
        node.settle();
        for (interface, packet) in std::mem::take(&mut node.sent) {
            if let Some(pod) = PODS.iter().position(|id| *id == interface) {
                check(&packet.bytes, &said[pod]);
            }
        }
    }
    node.check_frames();
}

/// What a pod sends.
fn asked(input: &mut Input) -> (usize, Vec<u8>) {
    let (pod, family) = (input.byte() as usize % 2, input.byte() as usize % 2);
    let dst = [SERVICE, REMOTE_POD, OUTSIDE, NODE][input.byte() as usize % 4][family];
    let port = 1000 + input.byte() as u16 % 4;
    let l4 = match input.byte() % 3 {
        0 => L4::Tcp(port, 80),
        1 => L4::Udp(port, 53),
        _ => L4::Echo(port),
    };
    (pod, frame((cluster::pod_mac(pod), GATEWAY_MAC), cluster::pod_addr(pod, family), dst, l4, &[7; 40]))
}

/// An error about something that left, plainly or in a tunnel.
fn error(input: &mut Input, left: &[Vec<u8>], overlay: usize) -> Vec<u8> {
    let about = &left[input.byte() as usize % left.len()];
    let skip = [14, 14 + 20 + 8 + 8 + 14, 14 + 40 + 8 + 8 + 14, 14 + 20, 14 + 40][input.byte() as usize % 5];
    let mut quote = about.get(skip..).unwrap_or(&about[14..]).to_vec();
    input.edit(&mut quote);
    quote.truncate(28 + input.byte() as usize);
    let v6 = quote.first().is_some_and(|first| first >> 4 == 6);
    let at = if v6 { 8 } else { 12 };
    let asker = match (v6, quote.get(at..at + 4), quote.get(at..at + 16)) {
        (false, Some(&[a, b, c, d]), _) => Addr::v4([a, b, c, d]),
        (true, _, Some(addr)) => Addr::v6(addr.try_into().expect("16 bytes")),
        _ => NODE[v6 as usize],
    };
    if asker.is_v4() == v6 {
        return quote;
    }
    let family = v6 as usize;
    let from = [OUTSIDE, REMOTE_POD, GATEWAY, NODE][input.byte() as usize % 4][family];
    let kind = input.byte();
    let l4 = if v6 {
        L4::Error(1 + kind % 4, kind / 4 % 2)
    } else {
        L4::Error([3, 11, 12, 4, 5][kind as usize % 5], kind / 8 % 5)
    };
    let mut bytes = frame((GATEWAY_MAC, UPLINK_MAC), from, asker, l4, &quote);
    if input.byte().is_multiple_of(2) {
        bytes = encapsulated(&bytes, OVERLAYS[overlay]);
    }
    input.edit(&mut bytes);
    bytes
}

/// What the IP packet at the start of `bytes` says of its ends, however short it was cut.
fn ends(bytes: &[u8]) -> Option<Ends> {
    let lax = etherparse::LaxSlicedPacket::from_ip(bytes).ok()?;
    let net = lax.net.as_ref()?;
    let payload = net.ip_payload_ref()?;
    let (src, dst) = match net {
        etherparse::LaxNetSlice::Ipv4(ip) => (Addr::v4(ip.header().source()), Addr::v4(ip.header().destination())),
        etherparse::LaxNetSlice::Ipv6(ip) => (Addr::v6(ip.header().source()), Addr::v6(ip.header().destination())),
        etherparse::LaxNetSlice::Arp(_) => return None,
    };
    let is_icmp = matches!(payload.ip_number.0, 1 | 58);
    let ports = if is_icmp {
        payload.payload.get(4..6).map(|id| [id[0], id[1], 0, 0])?
    } else {
        *payload.payload.first_chunk()?
    };
    Some((src, dst, payload.ip_number.0, ports))
}

fn check(delivered: &[u8], said: &BTreeSet<Ends>) {
    let Parsed::Ip(meta) = parse(delivered, delivered.len()) else { return };
    if meta.kind != Kind::IcmpError {
        return;
    }
    assert!(has_right_sum(delivered), "a wrong sum was delivered");
    let read = ends(&delivered[meta.l4 as usize + 8..]).expect("a quote");
    assert!(said.contains(&read), "{read:?} was never said: {said:?}");
    assert!(about(delivered, &meta, read.0));
}

/// Who is told is who is quoted.
fn about(delivered: &[u8], meta: &Meta, asker: Addr) -> bool {
    quoted(delivered, meta).is_some_and(|quoted| quoted.tuple.local == asker) && meta.dst == asker
}

fn has_right_sum(bytes: &[u8]) -> bool {
    let sliced = SlicedPacket::from_ethernet(bytes).expect("a packet");
    match (sliced.net, sliced.transport) {
        (_, Some(TransportSlice::Icmpv4(icmp))) => icmp.checksum() == icmp.icmp_type().calc_checksum(icmp.payload()),
        (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(icmp))) => {
            icmp.is_checksum_valid(ip.header().source(), ip.header().destination())
        }
        _ => false,
    }
}
