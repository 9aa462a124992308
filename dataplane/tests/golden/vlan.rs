//! An uplink in a VLAN: on the wire everything has its tag, inside nothing has.

use crate::support::*;
use dataplane::io::mem::WirePacket;
use etherparse::{SingleVlanHeader, SlicedPacket, VlanSlice};
use tables::counters::DropReason;

const VLAN: u16 = 5;

fn tag(frame: &[u8], vlan: u16) -> Vec<u8> {
    [&frame[..12], &[0x81, 0x00], &vlan.to_be_bytes(), &frame[12..]].concat()
}

/// The frame without its tag, which must be there.
fn untag(frame: &[u8]) -> Vec<u8> {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(VlanSlice::SingleVlan(tag)) = sliced.vlan() else { panic!("{sliced:?}") };
    let SingleVlanHeader { vlan_id, pcp, drop_eligible_indicator, .. } = tag.to_header();
    assert_eq!((vlan_id.value(), pcp.value(), drop_eligible_indicator), (VLAN, 0, false));
    [&frame[..12], &frame[16..]].concat()
}

/// Carries all that left one node's uplink to the other's.
fn carry(from: &Node, to: &Node) -> usize {
    let frames = from.peer(UPLINK).take_all();
    let count = frames.len();
    for WirePacket { bytes, .. } in frames {
        untag(&bytes);
        assert!(to.peer(UPLINK).inject(bytes));
    }
    count
}

#[test]
fn two_nodes_in_a_vlan_talk_and_a_third_outside_is_not_heard() {
    let shape = |number, uplink_mtu| Shape { number, vlan: VLAN, uplink_mtu, ..Shape::default() };
    for mtu in [UPLINK_MTU, 9000] {
        let (mut one, mut two) = (Node::new(shape(1, mtu)), Node::new(shape(2, mtu)));
        for (a, b, headers) in [(A, REMOTE, 28), (v6::A, v6::REMOTE, 48)] {
            let packet = udp((a, 1), (b, 2)).payload(&vec![7; mtu as usize - 50 - headers]);
            assert!(one.peer(POD_A).inject(one.dressed(POD_A, &packet).bytes()));
            one.run();
            assert_eq!(carry(&one, &two), 1);
            two.run();
            let received = two.peer(POD_A).take_all();
            let expected = packet.hop().hop().macs(GATEWAY_MAC, pod_mac(2, 4));
            assert_eq!(received.iter().map(|packet| Spec::judge(&packet.bytes)).collect::<Vec<_>>(), [expected]);
        }
        assert_eq!((one.frames_free(), two.frames_free()), (one.frames(), two.frames()));
    }
}

#[test]
fn frames_without_or_with_another_tag_are_dropped_by_name() {
    let mut node = Node::new(Shape { vlan: VLAN, ..Shape::default() });
    let frame = node.peers_packet(&udp((REMOTE, 2), (A, 1))).bytes();
    for other in [frame.clone(), tag(&frame, 0), tag(&frame, 6), tag(&tag(&frame, VLAN), 6)] {
        assert_eq!(node.pass_wire(UPLINK, other), Outcome::dropped(DropReason::Vlan));
    }
    let inside = tag(&tag(&frame, VLAN), VLAN);
    assert_eq!(node.pass_wire(UPLINK, inside), Outcome::dropped(DropReason::Vlan), "one tag is taken off");
    assert_eq!(node.pass_wire(UPLINK, tag(&frame, VLAN)).sent.len(), 1);
}
