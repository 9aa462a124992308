//! Neighbour discovery: what pods and the host ask, and whom the node answers for.

use crate::node;
use crate::support::packets::{echo, echo_reply, icmp};
use crate::support::v6::*;
use crate::support::{
    Addr, GATEWAY_MAC, HOST, L4, Mac, Node, Outcome, POD_A, POD_B, Sent, Spec, UPLINK, pod_mac, pod_v6,
};
use tables::counters::{DropReason, WorkerCounter};

const NOBODY: Addr = Addr::UNSPECIFIED;
const ALL_NODES: Addr = Addr::v6([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
const ALL_NODES_MAC: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);
/// A link-local address, as every pod has one.
const LINK_LOCAL: Addr = Addr::v6([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4]);
const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

fn solicited_node(addr: Addr) -> Addr {
    let [.., a, b, c] = addr.v6_octets();
    Addr::v6([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// Who has the target? With the sender's Ethernet address, unless it has no address yet.
fn solicitation(src: Addr, dst: Addr, target: Addr) -> Spec {
    let option = [&[1, 1][..], &pod_mac(1, 4).0].concat();
    let option = if src == NOBODY { &[][..] } else { &option };
    icmp(src, dst, (135, 0), [0; 4]).payload(&[&target.v6_octets(), option].concat()).ttl(255)
}

/// The advertisement that the node sends.
fn advertisement(target: Addr, dst: Addr, flags: u8) -> Spec {
    let option = [&[2, 1][..], &GATEWAY_MAC.0].concat();
    icmp(target, dst, (136, 0), [flags, 0, 0, 0]).payload(&[&target.v6_octets(), &option[..]].concat()).ttl(255)
}

fn dropped(node: &mut Node, packet: &Spec, reason: DropReason) {
    assert_eq!(node.pass(POD_A, packet), Outcome::dropped(reason), "{packet:?}");
}

#[test]
fn the_gateway_tells_its_ethernet_address_to_pods_and_host() {
    let mut node = node();
    for (interface, src) in [(POD_A, A), (POD_A, LINK_LOCAL), (HOST, HOST_ADDR), (HOST, LINK_LOCAL)] {
        for dst in [solicited_node(GATEWAY), GATEWAY] {
            let answer = advertisement(GATEWAY, src, ROUTER | SOLICITED | OVERRIDE);
            assert_eq!(node.pass(interface, &solicitation(src, dst, GATEWAY)), node.delivered(interface, answer));
        }
    }
    assert_eq!((node.count(WorkerCounter::Punted), node.flows()), (8, 0));
}

#[test]
fn the_gateway_stands_for_everybody_else_of_the_range() {
    let mut node = node();
    for other in [B, HOST_ADDR, pod_v6(1, 99)] {
        let answer = advertisement(other, A, ROUTER | SOLICITED);
        assert_eq!(node.pass(POD_A, &solicitation(A, solicited_node(other), other)), node.delivered(POD_A, answer));
    }
    for elsewhere in [A, REMOTE, CLIENT, LINK_LOCAL] {
        dropped(&mut node, &solicitation(A, solicited_node(elsewhere), elsewhere), DropReason::LinkLocal);
    }
}

#[test]
fn who_takes_an_address_is_told_if_another_has_it_and_left_alone_with_its_own() {
    let mut node = node();
    let detects = |target| solicitation(NOBODY, solicited_node(target), target);
    for (taken, flags) in [(GATEWAY, ROUTER | OVERRIDE), (B, ROUTER)] {
        let told = advertisement(taken, ALL_NODES, flags).macs(GATEWAY_MAC, ALL_NODES_MAC);
        assert_eq!(node.pass(POD_A, &detects(taken)), Outcome::sent(Sent::Plain(POD_A, told)));
    }
    for own in [A, LINK_LOCAL, pod_v6(1, 99)] {
        dropped(&mut node, &detects(own), DropReason::LinkLocal);
    }
}

#[test]
fn a_solicitation_that_is_not_as_neighbours_send_it_is_not_answered() {
    let mut node = node();
    let good = solicitation(A, solicited_node(GATEWAY), GATEWAY);
    dropped(&mut node, &good.clone().ttl(254), DropReason::Malformed);
    let coded = Spec { l4: L4::Icmp { kind: 135, code: 1, rest: [0; 4] }, ..good.clone() };
    dropped(&mut node, &coded, DropReason::Malformed);
    dropped(&mut node, &solicitation(A, ALL_NODES, ALL_NODES), DropReason::Malformed);
    dropped(&mut node, &solicitation(NOBODY, GATEWAY, GATEWAY), DropReason::Malformed);
    dropped(&mut node, &good.clone().payload(&good.payload[..15]), DropReason::Truncated);
    for option in [&[1, 0, 0, 0, 0, 0, 0, 0][..], &[1, 2, 0, 0, 0, 0, 0, 0], &[1]] {
        let payload = [&good.payload[..16], option].concat();
        dropped(&mut node, &good.clone().payload(&payload), DropReason::Malformed);
    }
    let told = Spec { src: NOBODY, ..good.clone() };
    dropped(&mut node, &told, DropReason::Malformed);
    let mut bytes = node.dressed(POD_A, &good).bytes();
    *bytes.last_mut().unwrap() ^= 1;
    assert_eq!(node.pass_wire(POD_A, bytes), Outcome::dropped(DropReason::BadChecksum));
}

#[test]
fn a_pod_asks_by_its_own_addresses() {
    let mut node = node();
    let packet = solicitation(B, solicited_node(GATEWAY), GATEWAY);
    dropped(&mut node, &packet, DropReason::SpoofedAddress);
    let packet = solicitation(A, solicited_node(GATEWAY), GATEWAY).macs(pod_mac(1, 5), GATEWAY_MAC);
    assert_eq!(node.pass_wire(POD_A, packet.bytes()), Outcome::dropped(DropReason::SpoofedMac));
}

#[test]
fn what_else_neighbours_say_ends_here() {
    let mut node = node();
    let routers = Addr::v6([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    for (kind, dst) in
        [(133, routers), (134, ALL_NODES), (136, ALL_NODES), (136, B), (137, A), (131, routers), (143, routers)]
    {
        for src in [A, LINK_LOCAL] {
            let packet = icmp(src, dst, (kind, 0), [0; 4]).payload(&[0; 32]).ttl(255);
            dropped(&mut node, &packet, DropReason::LinkLocal);
        }
    }
    let report = icmp(LINK_LOCAL, routers, (143, 0), [0; 4]).payload(&[0; 32]).ttl(1);
    let with_router_alert = node.dressed(POD_A, &report).bytes_with_extensions(&[0]);
    assert_eq!(node.pass_wire(POD_A, with_router_alert), Outcome::dropped(DropReason::LinkLocal));
    assert_eq!(node.flows(), 0);
}

#[test]
fn a_link_local_address_is_good_for_neighbours_alone() {
    let mut node = node();
    for dst in [B, REMOTE, CLIENT, GATEWAY] {
        dropped(&mut node, &echo(LINK_LOCAL, dst, 1), DropReason::LinkLocal);
    }
    dropped(&mut node, &echo(A, LINK_LOCAL, 1), DropReason::LinkLocal);
}

#[test]
fn the_gateway_answers_an_echo_with_no_extension_headers_of_its_own() {
    let mut node = node();
    let asked = node.dressed(POD_B, &echo(B, GATEWAY, 9));
    let answer = node.delivered(POD_B, echo_reply(GATEWAY, B, 9));
    assert_eq!(node.pass(POD_B, &asked), answer);
    for kinds in [&[60][..], &[0, 60], &[43]] {
        assert!(node.peer(POD_B).inject(asked.bytes_with_extensions(kinds)));
        node.run();
        let sent = node.peer(POD_B).take().unwrap();
        assert_eq!((sent.bytes.len(), sent.bytes[20]), (asked.bytes().len(), 58));
        assert_eq!(Outcome::sent(Sent::Plain(POD_B, Spec::judge(&sent.bytes))), answer);
    }
    assert_eq!(node.pass(UPLINK, &echo(CLIENT, GATEWAY, 9)).sent, []);
}
