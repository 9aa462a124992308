//! One packet of each kind that a node sends, with the stack of protocols that it must be: every tunnel with both families
//! inside, translated or not, whole, in fragments or cut from a super-frame; answers and errors of the node's own.

use crate::scapy;
use crate::support::fragments::split;
use crate::support::packets::{ACK, SYN, echo, tcp};
use crate::support::*;
use dataplane::io::mem::WirePacket;
use dataplane::packet::{Checksum, Gso};

/// A stack of protocols as tshark names it, and the packet.
pub type Sent = (String, Vec<u8>);

pub fn all() -> Vec<Sent> {
    let mut sent = Vec::new();
    for (kind, mut node) in scapy::nodes() {
        let around = around(&kind);
        for ends in FAMILIES {
            through_the_tunnel(&mut node, &ends, &around, &mut sent);
            cut_for_the_tunnel(&mut node, &ends, &around, &mut sent);
            if kind == "vxlan4" {
                without_tunnel(&mut node, &ends, &mut sent);
            }
        }
    }
    sent
}

/// What stands in front of the inner packet.
fn around(kind: &str) -> String {
    let ip = if kind.ends_with('4') { "ip" } else { "ipv6" };
    match kind.trim_end_matches(char::is_numeric) {
        "ipip" => format!("eth:{ip}:"),
        tunnel => format!("eth:{ip}:udp:{tunnel}:eth:"),
    }
}

fn ip_of(ends: &Family) -> &'static str {
    if ends.a.is_v4() { "ip" } else { "ipv6" }
}

/// Everything that a packet gives, of this stack.
fn pass(node: &mut Node, interface: u32, frames: &[Vec<u8>], stack: String, sent: &mut Vec<Sent>) {
    let out = node.pass_all(interface, None, frames).sent;
    assert!(!out.is_empty(), "{stack}");
    sent.extend(out.into_iter().map(|(_, bytes)| (stack.clone(), bytes)));
}

fn through_the_tunnel(node: &mut Node, ends: &Family, around: &str, sent: &mut Vec<Sent>) {
    let (ip, icmp) = if ends.a.is_v4() { ("ip", "icmp") } else { ("ipv6", "icmpv6") };
    for (inner, packet) in [
        ("udp:data", udp((ends.a, 47_100), (ends.remote, 47_200))),
        ("udp:data", udp((ends.a, 47_100), (ends.service, 700))),
        ("tcp", tcp((ends.a, 47_100), (ends.service, 701), SYN)),
        ("tcp:data", tcp((ends.a, 47_100), (ends.remote, 47_201), ACK).payload(b"data")),
        (&format!("{icmp}:data"), echo(ends.a, ends.remote, 7)),
    ] {
        let frame = node.dressed(POD_A, &packet).bytes();
        pass(node, POD_A, &[frame], format!("{around}{ip}:{inner}"), sent);
    }
    let expired = node.peers_packet(&udp((ends.remote, 47_100), (ends.a, 47_200)).ttl(1)).bytes();
    pass(node, UPLINK, &[expired], format!("{around}{ip}:{icmp}:{ip}:udp:data"), sent);
}

/// Fragments, in the last of which tshark sees the whole packet, and the segments of a super-frame.
fn cut_for_the_tunnel(node: &mut Node, ends: &Family, around: &str, sent: &mut Vec<Sent>) {
    let ip = ip_of(ends);
    let packet = udp((ends.a, 47_100), (ends.service, 700)).payload(&[7; 2000]);
    let parts = split(&node.dressed(POD_A, &packet).bytes(), &[1000], 77);
    let fragment = if ends.a.is_v4() { "" } else { ":ipv6.fraghdr" };
    pass(node, POD_A, &parts[..1], format!("{around}{ip}{fragment}:data"), sent);
    pass(node, POD_A, &parts[1..], format!("{around}{ip}{fragment}:udp:data"), sent);
    let super_frame = node.dressed(POD_A, &tcp((ends.a, 47_101), (ends.remote, 47_201), ACK).payload(&[7; 10_001]));
    assert!(node.peer(POD_A).inject(partial(&super_frame, ends.a.is_v4())));
    node.run();
    pass(node, POD_A, &[], format!("{around}{ip}:tcp:data"), sent);
}

/// TCP as a pod's kernel with offloads sends it.
fn partial(packet: &Spec, v4: bool) -> WirePacket {
    let mut bytes = packet.bytes();
    let (start, addrs, gso) = if v4 { (34, 26..34, Gso::Tcp4(1300)) } else { (54, 22..54, Gso::Tcp6(1300)) };
    let size = (bytes.len() - start) as u16;
    let pseudo = etherparse::checksum::Sum16BitWords::new().add_slice(&bytes[addrs]).add_2bytes([0, 6]);
    let pseudo = !pseudo.add_2bytes(size.to_be_bytes()).ones_complement();
    bytes[start + 16..start + 18].copy_from_slice(&pseudo.to_ne_bytes());
    let checksum = Checksum::Partial { start: start as u16, offset: 16 };
    WirePacket { bytes, checksum, gso, gso_ecn: false }
}

/// To and from the world outside, between pods, and what the node itself says.
fn without_tunnel(node: &mut Node, ends: &Family, sent: &mut Vec<Sent>) {
    let (ip, icmp) = if ends.a.is_v4() { ("ip", "icmp") } else { ("ipv6", "icmpv6") };
    let error = format!("{icmp}:{ip}:udp:data");
    for (interface, stack, packet) in [
        (POD_A, "udp:data", udp((ends.a, 47_100), (ends.client, 47_200))),
        (POD_A, "tcp", tcp((ends.a, 47_100), (ends.client, 47_200), SYN)),
        (POD_A, &format!("{icmp}:data"), echo(ends.a, ends.client, 7)),
        (POD_A, "udp:data", udp((ends.a, 47_100), (ends.b, 47_200))),
        (UPLINK, "udp:data", udp((ends.client, 47_100), (ends.a, 47_200))),
        (POD_A, &format!("{icmp}:data"), echo(ends.a, ends.gateway, 7)),
        (POD_A, &error, udp((ends.a, 47_100), (ends.client, 47_200)).ttl(1)),
        (POD_A, &error, udp((ends.a, 47_100), (ends.client, 47_200)).payload(&[7; 3000])),
        (POD_A, &error, udp((ends.a, 47_100), (ends.service, 9))),
        (POD_A, "tcp", tcp((ends.a, 47_100), (ends.service, 9), SYN)),
    ] {
        let frame = node.dressed(interface, &packet).bytes();
        pass(node, interface, &[frame], format!("eth:{ip}:{stack}"), sent);
    }
}
