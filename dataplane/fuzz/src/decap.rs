//! What comes out of tunnels: whatever frame the uplink receives, a pod is given nothing but the packet that etherparse
//! finds inside, of our network, from the peer behind which its source lies, or of a client outside that the peer says asked it.

use super::cluster::{self, GATEWAY_MAC, OTHER_NODE, OUTSIDE, OVERLAYS, Overlay, PODS, REMOTE_POD, UPLINK, UPLINK_MAC};
use super::frames::{L4, direct, encapsulated, frame};
use super::input::Input;
use super::path::Node;
use dataplane::overlay::Encap;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use tables::{Addr, Prefix};

const FRAMES_MAX: usize = 8;

pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let index = input.byte() as usize % OVERLAYS.len();
    let mut node = Node::new(&mut Input(&[4 * index as u8]));
    for _ in 0..FRAMES_MAX {
        if input.is_empty() {
            break;
        }
        let received = received(&mut input);
        node.inject(UPLINK, received.clone().into());
        node.settle();
        for (interface, packet) in std::mem::take(&mut node.sent) {
            if PODS.contains(&interface) {
                check(&received, &packet.bytes, OVERLAYS[index]);
            }
        }
    }
    node.check_frames();
}

/// A packet of the remote pod in some overlay's headers, edited inside and out.
fn received(input: &mut Input) -> Vec<u8> {
    let (family, pod) = (input.byte() as usize % 2, input.byte() as usize % 2);
    let kind = input.byte();
    let l4 = match kind % 4 {
        0 => L4::Tcp(80, 8080),
        1 => L4::Udp(53, 80),
        2 => L4::Echo(7),
        _ => L4::Raw([47, 89, 253, 254][input.byte() as usize % 4]),
    };
    let macs = (GATEWAY_MAC, UPLINK_MAC);
    let pod = cluster::pod_addr(pod, family);
    let is_direct = kind >= 128;
    let (src, dst) = if is_direct { (OUTSIDE[family], cluster::SERVICE[family]) } else { (REMOTE_POD[family], pod) };
    let mut inner = frame(macs, src, dst, l4, input.take(40));
    input.edit(&mut inner);
    let inner = if inner.len() > 14 { inner } else { vec![0x45; 15] };
    let overlay = OVERLAYS[input.byte() as usize % OVERLAYS.len()];
    let mut bytes = if is_direct { direct(&inner, overlay, (pod, 80)) } else { encapsulated(&inner, overlay) };
    input.edit(&mut bytes);
    input.resize(&mut bytes);
    bytes
}

/// An IP packet: its ends, its protocol, and all behind its headers.
struct Read<'a> {
    src: Addr,
    dst: Addr,
    protocol: u8,
    payload: &'a [u8],
}

fn read<'a>(sliced: &SlicedPacket<'a>) -> Option<Read<'a>> {
    let (src, dst) = match sliced.net.as_ref()? {
        NetSlice::Ipv4(ip) => (Addr::v4(ip.header().source()), Addr::v4(ip.header().destination())),
        NetSlice::Ipv6(ip) => (Addr::v6(ip.header().source()), Addr::v6(ip.header().destination())),
        NetSlice::Arp(_) => return None,
    };
    let payload = sliced.net.as_ref()?.ip_payload_ref()?;
    Some(Read { src, dst, protocol: payload.ip_number.0, payload: payload.payload })
}

fn check(received: &[u8], delivered: &[u8], overlay: Overlay) {
    let outer = SlicedPacket::from_ethernet(received).expect("what was forwarded is a packet");
    let delivered = SlicedPacket::from_ethernet(delivered).expect("what is delivered is a packet");
    let (delivered, around) = (read(&delivered).expect("IP"), read(&outer).expect("IP"));
    if !cluster::NODE.contains(&around.dst) {
        return same(&delivered, &around);
    }
    if let Some(TransportSlice::Udp(udp)) = &outer.transport
        && udp.destination_port() == cluster::direct_port(overlay)
        && udp.payload()[1] & 0x40 != 0
    {
        return check_direct(&delivered, &around, udp.payload());
    }
    assert_eq!(around.src, OTHER_NODE[overlay.family], "only the peer tunnels");
    let inside = match (around.protocol, &outer.transport) {
        (4 | 41, _) if overlay.encap == Encap::Ip => SlicedPacket::from_ip(around.payload),
        (_, Some(TransportSlice::Udp(udp))) => {
            let header = udp.payload();
            let options = if overlay.encap == Encap::Geneve { 4 * (header[0] & 0x3f) as usize } else { 0 };
            assert_eq!((udp.destination_port(), header[4..7].to_vec()), (cluster::TUNNEL_PORT, vec![0, 0, 1]));
            SlicedPacket::from_ethernet(&header[8 + options..])
        }
        other => panic!("no tunnel packet: {other:?}"),
    };
    let inside = inside.expect("what was taken out is a packet");
    let inside = read(&inside).expect("IP");
    assert!(lies_in(inside.src, ["10.2.0.0/24", "2001:db8:2::/64"]), "{} is not the peer's", inside.src);
    same(&delivered, &inside);
}

fn lies_in(addr: Addr, ranges: [&str; 2]) -> bool {
    let ranges = ranges.map(|prefix| prefix.parse::<Prefix>().expect("a prefix"));
    ranges.iter().any(|range| range.covers(&Prefix::host(addr)))
}

/// A client's packet: to the backend that the one option names, all else as it was but for what names the service.
fn check_direct(delivered: &Read, around: &Read, geneve: &[u8]) {
    assert!(OTHER_NODE.contains(&around.src), "only a node says what it was asked");
    let options = 4 * (geneve[0] & 0x3f) as usize;
    let (option, frame) = geneve[8..].split_at(options);
    assert_eq!((geneve[4..7].to_vec(), option[..3].to_vec()), (vec![0, 0, 1], vec![0xff, 0x46, 0x81]));
    let backend = match option.len() {
        12 => Addr::v4(option[4..8].try_into().expect("four bytes")),
        24 => Addr::v6(option[4..20].try_into().expect("sixteen bytes")),
        other => panic!("an option of {other} bytes"),
    };
    let inside = SlicedPacket::from_ethernet(frame).expect("what was taken out is a packet");
    let inside = read(&inside).expect("IP");
    assert!(!lies_in(inside.src, ["10.0.0.0/8", "2001:db8::/32"]), "{} is not outside", inside.src);
    assert_eq!((delivered.src, delivered.dst, delivered.protocol), (inside.src, backend, inside.protocol));
    assert_eq!(delivered.payload.len(), inside.payload.len());
}

fn same(delivered: &Read, inside: &Read) {
    assert_eq!((delivered.src, delivered.dst, delivered.protocol), (inside.src, inside.dst, inside.protocol));
    assert_eq!(delivered.payload, inside.payload, "payload");
}
