//! ICMP errors: pods send, and errors about what left come back, cut, edited and from anywhere. An error that reaches a
//! pod is about a packet that this very pod sent or would answer what it received with, as it sends it; it is addressed
//! to the pod, and its checksum is right.

use super::cluster::{
    self, GATEWAY, GATEWAY_MAC, NODE, OUTSIDE, OVERLAYS, PODS, REMOTE_POD, SERVICE, UPLINK, UPLINK_MAC,
};
use super::frames::{L4, encapsulated, frame};
use super::input::Input;
use super::path::Node;
use dataplane::io::mem::WirePacket;
use dataplane::parse::{Kind, Meta, Parsed, parse, quoted};
use etherparse::checksum::Sum16BitWords;
use etherparse::{Icmpv6Slice, Ipv6ExtensionsSlice, LaxNetSlice, LaxSlicedPacket, ip_number};
use std::collections::BTreeSet;
use std::net::IpAddr;
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
    let left = taken(&mut node, &mut said);
    for _ in 0..ERRORS_MAX {
        if input.is_empty() || left.is_empty() {
            break;
        }
        node.inject(UPLINK, error(&mut input, &left, overlay).into());
        node.settle();
        taken(&mut node, &mut said);
    }
    node.check_frames();
}

/// What went out meanwhile, looked at where it went to a pod.
fn taken(node: &mut Node, said: &mut [BTreeSet<Ends>; 2]) -> Vec<Vec<u8>> {
    let look = |(interface, packet): (u32, WirePacket)| {
        if let Some(pod) = PODS.iter().position(|id| *id == interface) {
            check(&packet.bytes, &mut said[pod]);
        }
        packet.bytes
    };
    std::mem::take(&mut node.sent).into_iter().map(look).collect()
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

/// What the IP packet at the start of `bytes` says of its ends, however short it was cut and whatever size it claims.
fn ends(bytes: &[u8]) -> Option<Ends> {
    let bytes = without_size(bytes);
    let lax = LaxSlicedPacket::from_ip(&bytes).ok()?;
    let net = lax.net.as_ref()?;
    let payload = net.ip_payload_ref()?;
    let (src, dst) = match net {
        LaxNetSlice::Ipv4(ip) => (Addr::v4(ip.header().source()), Addr::v4(ip.header().destination())),
        LaxNetSlice::Ipv6(ip) => (Addr::v6(ip.header().source()), Addr::v6(ip.header().destination())),
        LaxNetSlice::Arp(_) => return None,
    };
    let (mut protocol, mut l4) = (payload.ip_number, payload.payload);
    // Hop-by-hop options that do not come first: etherparse stops there, stacks read on in what is quoted.
    while protocol == ip_number::IPV6_HOP_BY_HOP {
        let (_, next, behind, _) = Ipv6ExtensionsSlice::from_slice_lax(protocol, l4);
        (behind.len() < l4.len()).then(|| (protocol, l4) = (next, behind))?;
    }
    let is_icmp = matches!(protocol.0, 1 | 58);
    let ports = if is_icmp { l4.get(4..6).map(|id| [id[0], id[1], 0, 0])? } else { *l4.first_chunk()? };
    Some((src, dst, protocol.0, ports))
}

/// Nobody holds the size that a quoted packet claims against it; etherparse reads to the end of one that claims none.
fn without_size(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let at = if bytes.first().is_some_and(|first| first >> 4 == 6) { 4 } else { 2 };
    bytes.iter_mut().skip(at).take(2).for_each(|byte| *byte = 0);
    bytes
}

/// The ends of what would answer this.
fn answer((src, dst, protocol, [a, b, c, d]): Ends) -> Ends {
    let ports = if matches!(protocol, 1 | 58) { [a, b, c, d] } else { [c, d, a, b] };
    (dst, src, protocol, ports)
}

fn check(delivered: &[u8], said: &mut BTreeSet<Ends>) {
    let Parsed::Ip(meta) = parse(delivered, delivered.len()) else { return };
    if meta.kind != Kind::IcmpError {
        return said.extend(ends(&delivered[14..]).map(answer));
    }
    assert!(has_right_sum(delivered, &meta), "a wrong sum was delivered");
    let read = ends(&delivered[meta.l4 as usize + 8..]).expect("a quote");
    assert!(said.contains(&read), "{read:?} was never said: {said:?}");
    assert!(about(delivered, &meta, read.0), "{} is told of what {} sent", meta.dst, read.0);
}

/// Who is told is who is quoted.
fn about(delivered: &[u8], meta: &Meta, asker: Addr) -> bool {
    quoted(delivered, meta).is_some_and(|quoted| quoted.tuple.local == asker) && meta.dst == asker
}

/// Of the bytes as they are: etherparse's ICMP headers do not keep those that their types leave unused.
fn has_right_sum(bytes: &[u8], meta: &Meta) -> bool {
    let l4 = &bytes[meta.l4 as usize..meta.end as usize];
    match (meta.src.ip(), meta.dst.ip()) {
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            Icmpv6Slice::from_slice(l4).is_ok_and(|icmp| icmp.is_checksum_valid(src.octets(), dst.octets()))
        }
        _ => Sum16BitWords::new().add_slice(l4).ones_complement() == 0,
    }
}
