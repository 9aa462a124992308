//! What the node itself answers: ARP and echo for the gateway.

use crate::node;
use crate::support::packets::{echo, echo_reply};
use crate::support::*;
use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, NetSlice, PacketBuilder, SlicedPacket};
use tables::counters::{DropReason, WorkerCounter};

fn who_has(target: Addr) -> Vec<u8> {
    let (mac, zero) = (pod_mac(1, 4).0, [0; 6]);
    let (ours, theirs) = (A.v4_octets(), target.v4_octets());
    let (hardware, request) = (ArpHardwareId::ETHERNET, ArpOperation::REQUEST);
    let arp = ArpPacket::new(hardware, EtherType::IPV4, request, &mac, &ours, &zero, &theirs).unwrap();
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(mac, [0xff; 6]).arp(arp).write(&mut bytes).unwrap();
    bytes
}

#[test]
fn the_gateway_tells_its_ethernet_address() {
    let mut node = node();
    assert!(node.peer(POD_A).inject(who_has(GATEWAY)));
    node.run();
    let answer = node.peer(POD_A).take().unwrap();
    let sliced = SlicedPacket::from_ethernet(&answer.bytes).unwrap();
    let Some(NetSlice::Arp(arp)) = sliced.net else { panic!("no ARP") };
    assert_eq!((arp.operation(), arp.sender_hw_addr()), (ArpOperation::REPLY, &GATEWAY_MAC.0[..]));
    assert_eq!(
        (arp.sender_protocol_addr(), arp.target_protocol_addr()),
        (&GATEWAY.v4_octets()[..], &A.v4_octets()[..])
    );
    assert_eq!((&answer.bytes[..6], arp.target_hw_addr()), (&pod_mac(1, 4).0[..], &pod_mac(1, 4).0[..]));
    assert_eq!(node.count(WorkerCounter::Punted), 1);
}

#[test]
fn nobody_else_is_answered_for_and_arp_from_the_uplink_is_the_kernels() {
    let mut node = node();
    assert_eq!(node.pass_wire(POD_A, who_has(B)), Outcome::dropped(DropReason::LinkLocal));
    assert_eq!(node.pass_wire(POD_A, who_has(GATEWAY)[..20].to_vec()), Outcome::dropped(DropReason::LinkLocal));
    assert_eq!(node.pass_wire(UPLINK, who_has(GATEWAY)), Outcome::dropped(DropReason::EtherType));
}

#[test]
fn the_gateway_answers_an_echo_and_nothing_else() {
    let mut node = node();
    assert_eq!(node.pass(POD_A, &echo(A, GATEWAY, 9)), node.delivered(POD_A, echo_reply(GATEWAY, A, 9)));
    assert_eq!(node.pass(HOST, &echo(HOST_ADDR, GATEWAY, 9)), node.delivered(HOST, echo_reply(GATEWAY, HOST_ADDR, 9)));
    for Family { a, gateway, .. } in FAMILIES {
        let answer = node.pass(POD_A, &echo(a, gateway, 9).traffic_class(0xb8));
        assert_eq!(answer, node.delivered(POD_A, echo_reply(gateway, a, 9).traffic_class(0xb8)));
    }
    assert_eq!(node.pass(POD_A, &udp((A, 1), (GATEWAY, 53))), Outcome::dropped(DropReason::NoRoute));
    assert_eq!(node.flows(), 0);
}
