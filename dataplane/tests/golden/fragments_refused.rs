//! Fragments that must not pass, or not yet: overlapping, tiny, late, forged, too many; and those that only their receiver
//! could put together.

use crate::fragments::{CUTS, ORDERS, drops, fragments, long, pass};
use crate::node;
use crate::support::fragments::{part, split};
use crate::support::packets::{echo, error, raw, tcp};
use crate::support::rows::NEIGHBOUR_PEER;
use crate::support::*;
use dataplane::fragments::{LIFE_MS, PATIENCE_MS};
use dataplane::io::mem::WirePacket;
use dataplane::packet::Checksum;
use packets::ACK;
use tables::Protocol;
use tables::counters::{DropReason, WorkerCounter};

#[test]
fn a_sender_is_looked_at_in_every_fragment() {
    let mut node = node();
    let own = fragments(&node, POD_A, &long(udp((A, 1000), (REMOTE, 53))), 1);
    let lent = fragments(&node, POD_A, &long(udp((B, 1000), (REMOTE, 53))), 1);
    let passed = node.pass_all(POD_A, None, [&own[0], &lent[1], &own[1], &own[2]]);
    assert_eq!(passed.dropped, [DropReason::SpoofedAddress]);
    assert_eq!(passed.sent.len(), 3);
}

#[test]
fn an_overlap_loses_the_packet_and_a_copy_does_not() {
    FAMILIES.iter().for_each(overlap);
}

fn overlap(ends: &Family) {
    let mut node = node();
    let packet = long(udp((ends.client, 1000), (ends.a, 53)));
    let whole = node.dressed(UPLINK, &packet).bytes();
    let parts = split(&whole, &CUTS, 1);
    let passed = node.pass_all(UPLINK, None, [&parts[1], &parts[1], &parts[0], &parts[0], &parts[1], &parts[2]]);
    let copies = vec![DropReason::FragmentOverlap; 3];
    assert_eq!(passed.together(), Outcome { dropped: copies, ..node.delivered(POD_A, packet.hop()) });

    let overlapping = part(&whole, (992, 1400), true, 2);
    let parts = split(&whole, &CUTS, 2);
    let passed = node.pass_all(UPLINK, None, [&parts[0], &overlapping, &parts[1], &parts[2]]);
    assert_eq!((passed.sent.len(), passed.dropped), (1, vec![DropReason::FragmentOverlap; 3]));
    let passed = node.pass_all(UPLINK, None, &split(&whole, &CUTS, 3));
    assert_eq!(passed.sent.len(), 3, "the next packet is another");
}

#[test]
fn tiny_fragments_are_named() {
    let mut node = node();
    let whole = node.dressed(POD_A, &long(tcp((A, 1000), (REMOTE, 80), ACK))).bytes();
    for (range, more) in [((0, 16), true), ((8, 1000), true), ((0, 1001), true), ((1000, 1004), true)] {
        let tiny = part(&whole, range, more, 1);
        let passed = node.pass_all(POD_A, None, [&tiny]);
        assert_eq!(passed.dropped, [DropReason::FragmentTiny], "{range:?}");
    }
    let udp = node.dressed(POD_A, &long(udp((A, 1000), (REMOTE, 80)))).bytes();
    let late = part(&udp, (8, 1000), true, 1);
    let mut far = late.clone();
    far[20..22].copy_from_slice(&0x3fffu16.to_be_bytes());
    assert_eq!(node.pass_all(POD_A, None, [&far]).dropped, [DropReason::Malformed], "behind the largest packet");
    assert_eq!(node.pass_all(POD_A, None, [&late]).dropped, [], "one of UDP may begin there");
}

#[test]
fn who_waits_in_vain_is_dropped_by_name() {
    let mut node = node();
    let frames = fragments(&node, UPLINK, &long(udp((CLIENT, 1000), (A, 53))), 1);
    let passed = node.pass_all(UPLINK, None, &frames[1..]);
    assert_eq!((passed.sent.len(), passed.dropped), (0, vec![]));
    node.let_fragments_expire(PATIENCE_MS + 1000);
    assert_eq!(node.drops(DropReason::FragmentLost), 2);
    assert_eq!(node.frames_free(), node.frames());

    assert_eq!(node.pass_all(UPLINK, None, &frames[..2]).sent.len(), 2);
    node.let_fragments_expire(LIFE_MS + 1000);
    assert_eq!(node.pass_all(UPLINK, None, &frames[2..]).sent.len(), 0, "its first fragment is forgotten");
}

#[test]
fn too_many_waiting_fragments_are_dropped_by_name_and_the_others_go_on() {
    let mut node = node();
    let packet = long(udp((CLIENT, 1000), (A, 53)));
    let sent: usize = (0..400)
        .map(|id| {
            let frames = fragments(&node, UPLINK, &packet, id);
            node.pass_all(UPLINK, None, [&frames[1]]).sent.len()
        })
        .sum();
    let full = node.drops(DropReason::FragmentsFull);
    assert!(sent == 0 && full > 0 && full < 400, "{full}");
    let order = ORDERS[0];
    assert_eq!(pass(&mut node, UPLINK, &packet, order, 500), node.delivered(POD_A, packet.clone().hop()));
    assert_eq!(pass(&mut node, UPLINK, &packet, [0, 1, 2], 0).dropped, [DropReason::FragmentOverlap], "one had waited");
}

#[test]
fn fragments_of_tunnel_packets_and_of_errors_are_not_put_together() {
    let mut node = node();
    let inner = long(udp((REMOTE, 1), (A, 2)));
    let mut whole = vec![node.peers_packet(&inner).bytes()];
    for Family { a, client, router, .. } in FAMILIES {
        let sent = node.pass(POD_A, &udp((a, 1000), (client, 53))).packet().clone();
        let about = error(router, L4::TimeExceeded, &sent);
        let quote = [&about.payload[..], &[0; 2500]].concat();
        whole.push(node.dressed(UPLINK, &about.payload(&quote)).bytes());
    }
    for frame in whole {
        for order in ORDERS {
            let frames = split(&frame, &CUTS, 1);
            let passed = node.pass_all(UPLINK, None, order.map(|i| &frames[i]));
            assert_eq!((passed.sent.len(), passed.dropped), (0, vec![DropReason::Fragment; 3]));
            node.let_fragments_expire(LIFE_MS + 1);
        }
    }
}

#[test]
fn the_gateway_answers_no_fragment() {
    let mut node = node();
    for Family { a, gateway, .. } in FAMILIES {
        let outcome = pass(&mut node, POD_A, &long(echo(a, gateway, 5)), ORDERS[0], 1);
        assert_eq!(outcome, drops(DropReason::NoRoute, 3));
    }
}

#[test]
fn a_refused_packet_is_answered_once() {
    let mut node = node();
    node.publish(|rows| rows.service(1, (SERVICE, 53, Protocol::UDP), &[]));
    let frames = fragments(&node, POD_A, &long(udp((A, 1000), (SERVICE, 53))), 1);
    let passed = node.pass_all(POD_A, None, &frames);
    assert_eq!((passed.sent.len(), node.count(WorkerCounter::Rejected)), (1, 3));
    assert_eq!(Spec::judge(&passed.sent[0].1).l4, L4::Unreachable { code: 3 });
}

#[test]
fn fragments_do_not_wait_for_a_neighbour() {
    let mut node = node();
    node.publish(|rows| rows.neighbour(NEIGHBOUR_PEER, PEER, None));
    let packet = long(udp((A, 1000), (REMOTE, 53)));
    assert_eq!(pass(&mut node, POD_A, &packet, ORDERS[0], 1), drops(DropReason::NeighbourUnknown, 3));
    node.publish(|rows| rows.neighbour(NEIGHBOUR_PEER, PEER, Some(uplink_mac(2))));
    assert_eq!(pass(&mut node, POD_A, &packet, ORDERS[0], 2), node.tunnelled(packet.hop()));
}

#[test]
fn a_fragment_with_work_left_to_do_is_dropped() {
    let mut node = node();
    let frames = fragments(&node, POD_A, &long(udp((A, 1000), (REMOTE, 53))), 1);
    let checksum = Checksum::Partial { start: 34, offset: 6 };
    let packet = WirePacket { checksum, ..frames[0].clone().into() };
    assert_eq!(node.pass_wire(POD_A, packet), Outcome::dropped(DropReason::BadChecksum));
}

/// RFC 6946: it says of itself that it is a part, and is all.
#[test]
fn an_atomic_fragment_passes_as_the_packet_that_it_is() {
    let mut node = node();
    let packet = udp((v6::A, 1000), (v6::REMOTE, 53));
    let frame = node.dressed(POD_A, &packet).bytes();
    let atomic = part(&frame, (0, frame.len() - 54), false, 7);
    for _ in 0..2 {
        assert_eq!(node.pass_all(POD_A, None, [&atomic]).together(), node.tunnelled(packet.clone().hop()));
    }
}

#[test]
fn a_protocol_without_ports_is_followed_by_its_addresses() {
    let mut node = node();
    for (id, order) in (0..).zip(ORDERS) {
        for Family { a, b, .. } in FAMILIES {
            let packet = raw(a, b, 47, &[9; 2500]);
            assert_eq!(pass(&mut node, POD_A, &packet, order, id), node.delivered(POD_B, packet.hop()));
        }
    }
}
