//! Fragments: all of a packet fare as its first one does, in whatever order they come, and whoever tries to write over
//! what was judged loses the packet. What is sent is put together by the test and judged as one packet.

use crate::node;
use crate::support::fragments::{part, split};
use crate::support::packets::{echo, echo_reply, error, tcp};
use crate::support::rows::{NEIGHBOUR_PEER, identity};
use crate::support::*;
use dataplane::fragments::{LIFE_MS, PATIENCE_MS};
use dataplane::io::mem::WirePacket;
use dataplane::packet::Checksum;
use packets::{ACK, SYN};
use tables::Protocol;
use tables::counters::{DropReason, WorkerCounter};
use tables::policy::Direction;

const CUTS: [usize; 2] = [1000, 2000];
/// In order, the first one last, the first one in between, and the others.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [2, 1, 0], [1, 0, 2], [0, 2, 1], [1, 2, 0], [2, 0, 1]];

fn long(packet: Spec) -> Spec {
    packet.payload(&(0..2500).map(|i| i as u8).collect::<Vec<u8>>())
}

/// The packet's fragments as they come in at an interface; in the tunnel, if they come from the peer's pods.
fn fragments(node: &Node, interface: u32, packet: &Spec, id: u32) -> Vec<Vec<u8>> {
    let is_peers = interface == UPLINK && (packet.src == REMOTE || packet.src == REMOTE_TWO);
    if is_peers {
        let inner = packet.clone().macs(inner_mac(2), inner_mac(1)).bytes();
        return split(&inner, &CUTS, id).iter().map(|frame| node.peers_frame(frame)).collect();
    }
    split(&node.dressed(interface, packet).bytes(), &CUTS, id)
}

/// Passes a packet's fragments in this order and puts together what comes out.
fn pass(node: &mut Node, interface: u32, packet: &Spec, order: [usize; 3], id: u32) -> Outcome {
    let frames = fragments(node, interface, packet, id);
    node.pass_all(interface, None, order.map(|i| &frames[i])).together()
}

fn drops(reason: DropReason, count: usize) -> Outcome {
    Outcome { sent: Vec::new(), dropped: vec![reason; count] }
}

/// Asked, as the backend sees it; the answer, as the pod sees it.
fn conversations(server: Addr, backend: Addr) -> [(Spec, Spec, Spec, Spec); 2] {
    [
        (
            long(udp((A, 1000), (server, 53))),
            long(udp((A, 1000), (backend, 5353))),
            long(udp((backend, 5353), (A, 1000))),
            long(udp((server, 53), (A, 1000))),
        ),
        (
            long(tcp((A, 1000), (server, 80), ACK)),
            long(tcp((A, 1000), (backend, 8080), ACK)),
            long(tcp((backend, 8080), (A, 1000), ACK)),
            long(tcp((server, 80), (A, 1000), ACK)),
        ),
    ]
}

fn services(node: &mut Node, backend: Addr) {
    node.publish(|rows| {
        rows.service(1, (SERVICE, 53, Protocol::UDP), &[(backend, 5353)]);
        rows.service(2, (SERVICE, 80, Protocol::TCP), &[(backend, 8080)]);
    });
}

#[test]
fn later_fragments_are_translated_to_a_remote_backend_and_back_in_any_order() {
    let mut node = node();
    services(&mut node, REMOTE);
    for (id, order) in ORDERS.into_iter().enumerate() {
        for (asked, there, answer, back) in conversations(SERVICE, REMOTE) {
            let id = id as u32;
            assert_eq!(pass(&mut node, POD_A, &asked, order, id), node.tunnelled(there.hop()), "{order:?}");
            assert_eq!(pass(&mut node, UPLINK, &answer, order, id), node.delivered(POD_A, back.hop()), "{order:?}");
        }
    }
    assert_eq!(node.flows(), 2);
    assert_eq!(node.count(WorkerCounter::FragmentsFollowed), 2 * 2 * 2 * 6);
}

#[test]
fn later_fragments_are_translated_between_local_pods_in_any_order() {
    let mut node = node();
    services(&mut node, B);
    for (id, order) in ORDERS.into_iter().enumerate() {
        for (asked, there, answer, back) in conversations(SERVICE, B) {
            let id = id as u32;
            assert_eq!(pass(&mut node, POD_A, &asked, order, id), node.delivered(POD_B, there.hop()), "{order:?}");
            assert_eq!(pass(&mut node, POD_B, &answer, order, id), node.delivered(POD_A, back.hop()), "{order:?}");
        }
    }
}

#[test]
fn later_fragments_are_masqueraded_and_their_answers_find_the_pod() {
    let mut node = node();
    for (id, order) in ORDERS.into_iter().enumerate() {
        for (asked, answer) in [
            (tcp((A, 1000), (CLIENT, 443), ACK), tcp((CLIENT, 443), (NODE, 0), ACK)),
            (udp((A, 1000), (CLIENT, 443)), udp((CLIENT, 443), (NODE, 0))),
            (echo(A, CLIENT, 1000), echo_reply(CLIENT, NODE, 0)),
        ] {
            let (asked, answer) = (long(asked), long(answer));
            let outcome = pass(&mut node, POD_A, &asked, order, id as u32);
            let port = outcome.packet().src_port();
            assert_eq!(outcome, node.routed(ROUTER_MAC, asked.from(NODE, port).hop()));
            let answer = answer.to(NODE, port);
            let expected = node.delivered(POD_A, answer.clone().to(A, 1000).hop());
            assert_eq!(pass(&mut node, UPLINK, &answer, order, id as u32), expected);
        }
    }
    assert_eq!(node.flows(), 3);
}

#[test]
fn a_policy_on_ports_holds_for_all_fragments() {
    let mut node = node();
    node.publish(|rows| {
        let (identity, protocol) = (identity(1, 5), Protocol::UDP);
        rows.policy(3, Direction::Ingress, &[Rule { identity, protocol, port: 53, policy: 7 }]);
        rows.pod(4, 0, 3);
    });
    for order in ORDERS {
        let allowed = long(udp((B, 1000), (A, 53)));
        assert_eq!(pass(&mut node, POD_B, &allowed, order, 1), node.delivered(POD_A, allowed.hop()));
        for forbidden in [udp((B, 1000), (A, 54)), tcp((B, 1000), (A, 53), SYN)] {
            let outcome = pass(&mut node, POD_B, &long(forbidden), order, 2);
            assert_eq!(outcome, drops(DropReason::PolicyIngress, 3));
        }
    }
}

#[test]
fn what_the_node_has_no_flow_for_goes_to_the_host_whole() {
    let mut node = node();
    for order in ORDERS {
        let packet = long(udp((CLIENT, 1000), (NODE, 9999)));
        assert_eq!(pass(&mut node, UPLINK, &packet, order, 1), node.delivered(HOST, packet.hop()));
    }
}

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
    let mut node = node();
    let packet = long(udp((CLIENT, 1000), (A, 53)));
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
    let outer = node.peers_packet(&inner).bytes();
    let sent = node.pass(POD_A, &udp((A, 1000), (CLIENT, 53))).packet().clone();
    let about = error(ROUTER, L4::TimeExceeded, &sent);
    let quote = [&about.payload[..], &[0; 2500]].concat();
    let about = node.dressed(UPLINK, &about.payload(&quote)).bytes();
    for frame in [outer, about] {
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
    let outcome = pass(&mut node, POD_A, &long(echo(A, GATEWAY, 5)), ORDERS[0], 1);
    assert_eq!(outcome, drops(DropReason::NoRoute, 3));
}

#[test]
fn a_refused_packet_is_answered_once() {
    let mut node = node();
    node.publish(|rows| rows.service(1, (SERVICE, 53, Protocol::UDP), &[]));
    let frames = fragments(&node, POD_A, &long(udp((A, 1000), (SERVICE, 53))), 1);
    let passed = node.pass_all(POD_A, None, &frames);
    assert_eq!((passed.sent.len(), passed.dropped), (1, vec![DropReason::NoRoute; 2]));
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

/// Two workers: A's is 0, B's is 1.
fn two_workers() -> Node {
    let pods = vec![(4, 0), (5, 1), (6, 0)];
    Node::new(Shape { workers: 2, uplink_queues: 2, pods, ..Shape::default() })
}

/// By each queue, and with ids enough for both workers to learn the ports.
fn at_each_queue(node: &mut Node, frames: impl Fn(&Node, u32) -> Vec<Vec<u8>>, expected: &Outcome) {
    for id in 0..8 {
        for queue in [0, 1] {
            for order in ORDERS {
                let frames = frames(node, id);
                let passed = node.pass_all(UPLINK, Some(queue), order.map(|i| &frames[i]));
                assert_eq!(passed.together(), *expected, "queue {queue}, id {id}, {order:?}");
            }
        }
    }
}

#[test]
fn fragments_meet_their_first_one_whichever_worker_received_them() {
    let mut node = two_workers();
    for (interface, addr) in [(POD_A, A), (POD_B, B)] {
        let packet = long(udp((CLIENT, 1000), (addr, 53)));
        let expected = node.delivered(interface, packet.clone().hop());
        at_each_queue(&mut node, |node, id| fragments(node, UPLINK, &packet, id), &expected);
        let inner = long(tcp((REMOTE, 1000), (addr, 80), ACK));
        let expected = node.delivered(interface, inner.clone().hop());
        at_each_queue(&mut node, |node, id| fragments(node, UPLINK, &inner, id), &expected);
        let asked = long(echo(addr, CLIENT, 1000));
        let port = pass(&mut node, interface, &asked, ORDERS[1], 1).packet().src_port();
        let answer = long(echo_reply(CLIENT, NODE, port));
        let expected = node.delivered(interface, answer.clone().to(addr, 1000).hop());
        at_each_queue(&mut node, |node, id| fragments(node, UPLINK, &answer, id), &expected);
    }
    assert_eq!(node.flows(), 6, "one flow each, at its owner");
}

#[test]
fn fragments_between_pods_of_different_workers_keep_their_ports() {
    let mut node = two_workers();
    services(&mut node, B);
    for order in ORDERS {
        for (asked, there, answer, back) in conversations(SERVICE, B) {
            assert_eq!(pass(&mut node, POD_A, &asked, order, 1), node.delivered(POD_B, there.hop()), "{order:?}");
            assert_eq!(pass(&mut node, POD_B, &answer, order, 2), node.delivered(POD_A, back.hop()), "{order:?}");
        }
    }
    assert_eq!(node.flows(), 4);
}

/// The packet as a frame that may be fragmented.
fn may_be_cut(node: &Node, packet: &Spec) -> Vec<u8> {
    let frame = node.dressed(POD_A, packet).bytes();
    part(&frame, (0, frame.len() - 34), false, 77)
}

#[test]
fn what_is_larger_than_the_way_out_is_cut_if_it_may_be() {
    for (dst, ip_size_max) in [(REMOTE, 1450), (CLIENT, 1500)] {
        let mut node = node();
        let packet = udp((A, 1000), (dst, 53)).payload(&[7; 1700]);
        let frame = may_be_cut(&node, &packet);
        let passed = node.pass_all(POD_A, None, [&frame]);
        assert_eq!((passed.sent.len(), node.count(WorkerCounter::FragmentsCut)), (2, 2));
        assert!(passed.sent.iter().all(|(_, frame)| frame.len() <= 1514));
        let outcome = passed.together();
        let port = outcome.packet().src_port();
        let hop = packet.clone().hop();
        let expected = if dst == REMOTE { node.tunnelled(hop) } else { node.routed(ROUTER_MAC, hop.from(NODE, port)) };
        assert_eq!(outcome, expected);
        let whole = node.dressed(POD_A, &packet).bytes();
        assert_eq!(node.pass_all(POD_A, None, [&whole]).dropped, [DropReason::TooBig], "{ip_size_max}: don't fragment");
    }
}

#[test]
fn a_fragment_that_is_too_large_is_cut_further() {
    let mut node = node();
    let packet = udp((A, 1000), (REMOTE, 53)).payload(&[7; 4000]);
    let frame = node.dressed(POD_A, &packet).bytes();
    for cuts in [vec![1480, 2960], vec![1720, 3440], vec![1440, 2880]] {
        for order in [[0, 1, 2], [2, 1, 0]] {
            let frames = split(&frame, &cuts, 9);
            let passed = node.pass_all(POD_A, None, order.map(|i| &frames[i]));
            assert_eq!(passed.together(), node.tunnelled(packet.clone().hop()), "{cuts:?}");
        }
    }
}

#[test]
fn a_packet_without_its_checksum_gets_it_before_it_is_cut() {
    let mut node = node();
    let packet = udp((A, 1000), (REMOTE, 53)).payload(&[7; 1700]);
    let mut bytes = may_be_cut(&node, &packet);
    let ends = [A.v4_octets(), REMOTE.v4_octets()].concat();
    let size = (bytes.len() - 34) as u16;
    let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&ends).add_2bytes([0, 17]);
    let sum = !sum.add_2bytes(size.to_be_bytes()).ones_complement();
    bytes[40..42].copy_from_slice(&sum.to_ne_bytes());
    let checksum = Checksum::Partial { start: 34, offset: 6 };
    node.peer(POD_A).inject(WirePacket { checksum, ..bytes.into() });
    node.run();
    let passed = node.pass_all(POD_A, None, []);
    assert_eq!(passed.together(), node.tunnelled(packet.hop()));
}
