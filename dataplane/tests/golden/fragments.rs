//! Fragments: all of a packet fare as its first one does, in whatever order they come and whichever worker they come to.
//! What is sent is put together by the test and judged as one packet.

use crate::node;
use crate::support::fragments::{Passed, split};
use crate::support::packets::{echo, echo_reply, tcp};
use crate::support::rows::identity;
use crate::support::*;
use packets::{ACK, SYN};
use tables::Protocol;
use tables::counters::{DropReason, WorkerCounter};
use tables::policy::Direction;

pub const CUTS: [usize; 2] = [1000, 2000];
/// In order, the first one last, the first one in between, and the others.
pub const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [2, 1, 0], [1, 0, 2], [0, 2, 1], [1, 2, 0], [2, 0, 1]];

pub fn long(packet: Spec) -> Spec {
    packet.payload(&(0..2500).map(|i| i as u8).collect::<Vec<u8>>())
}

/// The packet's fragments as they come in at an interface; in the tunnel, if they come from the peer's pods.
pub fn fragments(node: &Node, interface: u32, packet: &Spec, id: u32) -> Vec<Vec<u8>> {
    if interface == UPLINK && [REMOTE, v6::REMOTE].contains(&packet.src) {
        let inner = packet.clone().macs(node.shape.inner_mac(2), node.shape.inner_mac(1)).bytes();
        return split(&inner, &CUTS, id).iter().map(|frame| node.peers_frame(frame).bytes()).collect();
    }
    split(&node.dressed(interface, packet).bytes(), &CUTS, id)
}

/// Passes a packet's fragments in this order and puts together what comes out.
pub fn pass(node: &mut Node, interface: u32, packet: &Spec, order: [usize; 3], id: u32) -> Outcome {
    let frames = fragments(node, interface, packet, id);
    node.pass_all(interface, None, order.map(|i| &frames[i])).together()
}

pub fn drops(reason: DropReason, count: usize) -> Outcome {
    Outcome { sent: Vec::new(), dropped: vec![reason; count] }
}

/// Asked, as the backend sees it; the answer, as the pod sees it.
fn conversations(ends: &Family, backend: Addr) -> [(Spec, Spec, Spec, Spec); 2] {
    let (a, server) = (ends.a, ends.service);
    [
        (
            long(udp((a, 1000), (server, 53))),
            long(udp((a, 1000), (backend, 5353))),
            long(udp((backend, 5353), (a, 1000))),
            long(udp((server, 53), (a, 1000))),
        ),
        (
            long(tcp((a, 1000), (server, 80), ACK)),
            long(tcp((a, 1000), (backend, 8080), ACK)),
            long(tcp((backend, 8080), (a, 1000), ACK)),
            long(tcp((server, 80), (a, 1000), ACK)),
        ),
    ]
}

/// Both families' services, with these backends.
fn services(node: &mut Node, backend: impl Fn(&Family) -> Addr) {
    node.publish(|rows| {
        for (i, ends) in FAMILIES.iter().enumerate() {
            let id = 1 + 2 * i as u32;
            rows.service(id, (ends.service, 53, Protocol::UDP), &[(backend(ends), 5353)]);
            rows.service(id + 1, (ends.service, 80, Protocol::TCP), &[(backend(ends), 8080)]);
        }
    });
}

#[test]
fn later_fragments_are_translated_to_a_remote_backend_and_back_in_any_order() {
    let mut node = node();
    services(&mut node, |ends| ends.remote);
    for (id, order) in (0..).zip(ORDERS) {
        for (asked, there, answer, back) in FAMILIES.iter().flat_map(|ends| conversations(ends, ends.remote)) {
            assert_eq!(pass(&mut node, POD_A, &asked, order, id), node.tunnelled(there.hop()), "{order:?}");
            assert_eq!(pass(&mut node, UPLINK, &answer, order, id), node.delivered(POD_A, back.hop()), "{order:?}");
        }
    }
    assert_eq!(node.flows(), 4);
    assert_eq!(node.count(WorkerCounter::FragmentsFollowed), 2 * 2 * 4 * 6);
}

/// All conversations between two local pods, in all orders.
fn talk_locally(node: &mut Node) {
    services(node, |ends| ends.b);
    for (id, order) in (0..).zip(ORDERS) {
        for (asked, there, answer, back) in FAMILIES.iter().flat_map(|ends| conversations(ends, ends.b)) {
            assert_eq!(pass(node, POD_A, &asked, order, id), node.delivered(POD_B, there.hop()), "{order:?}");
            assert_eq!(pass(node, POD_B, &answer, order, id), node.delivered(POD_A, back.hop()), "{order:?}");
        }
    }
    assert_eq!(node.flows(), 8);
}

#[test]
fn later_fragments_are_translated_between_local_pods_of_one_worker_and_of_two() {
    talk_locally(&mut node());
    talk_locally(&mut two_workers());
}

#[test]
fn later_fragments_are_masqueraded_and_their_answers_find_the_pod() {
    let mut node = node();
    for (id, order) in (0..).zip(ORDERS) {
        for Family { node: own, client, a, .. } in FAMILIES {
            for (asked, answer) in [
                (tcp((a, 1000), (client, 443), ACK), tcp((client, 443), (own, 0), ACK)),
                (udp((a, 1000), (client, 443)), udp((client, 443), (own, 0))),
                (echo(a, client, 1000), echo_reply(client, own, 0)),
            ] {
                let (asked, answer) = (long(asked), long(answer));
                let outcome = pass(&mut node, POD_A, &asked, order, id);
                let port = outcome.packet().src_port();
                assert_eq!(outcome, node.routed(ROUTER_MAC, asked.from(own, port).hop()));
                let answer = answer.to(own, port);
                let expected = node.delivered(POD_A, answer.clone().to(a, 1000).hop());
                assert_eq!(pass(&mut node, UPLINK, &answer, order, id), expected);
            }
        }
    }
    assert_eq!(node.flows(), 6);
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
        for Family { a, b, .. } in FAMILIES {
            let allowed = long(udp((b, 1000), (a, 53)));
            assert_eq!(pass(&mut node, POD_B, &allowed, order, 1), node.delivered(POD_A, allowed.hop()));
            for (id, forbidden) in (2..).zip([udp((b, 1000), (a, 54)), tcp((b, 1000), (a, 53), SYN)]) {
                let outcome = pass(&mut node, POD_B, &long(forbidden), order, id);
                assert_eq!(outcome, drops(DropReason::PolicyIngress, 3));
            }
        }
    }
}

#[test]
fn what_the_node_has_no_flow_for_goes_to_the_host_whole() {
    let mut node = node();
    for order in ORDERS {
        for Family { client, node: own, .. } in FAMILIES {
            let packet = long(udp((client, 1000), (own, 9999)));
            assert_eq!(pass(&mut node, UPLINK, &packet, order, 1), node.delivered(HOST, packet.hop()));
        }
    }
}

/// Two workers: A's is 0, B's is 1.
fn two_workers() -> Node {
    let pods = vec![(4, 0), (5, 1), (6, 0)];
    Node::new(Shape { workers: 2, uplink_queues: 2, pods, ..Shape::default() })
}

/// By both queues, as a NIC spreads first fragments by ports and others without, and with ids enough for both workers to
/// learn the ports.
fn at_each_queue(node: &mut Node, packet: &Spec, expected: &Outcome) {
    for id in 0..8 {
        for queue in [0, 1] {
            for order in ORDERS {
                let frames = fragments(node, UPLINK, packet, id);
                let mut passed = Passed::default();
                for i in order {
                    passed.add(node.pass_all(UPLINK, Some((queue + i as u16) % 2), [&frames[i]]));
                }
                assert_eq!(passed.together(), *expected, "queue {queue}, id {id}, {order:?}");
            }
        }
    }
}

#[test]
fn fragments_meet_their_first_one_whichever_worker_received_them() {
    let mut node = two_workers();
    for Family { client, node: own, remote, a, b, .. } in FAMILIES {
        for (interface, addr) in [(POD_A, a), (POD_B, b)] {
            let packet = long(udp((client, 1000), (addr, 53)));
            let expected = node.delivered(interface, packet.clone().hop());
            at_each_queue(&mut node, &packet, &expected);
            let inner = long(tcp((remote, 1000), (addr, 80), ACK));
            let expected = node.delivered(interface, inner.clone().hop());
            at_each_queue(&mut node, &inner, &expected);
            let asked = long(echo(addr, client, 1000));
            let port = pass(&mut node, interface, &asked, ORDERS[1], 1).packet().src_port();
            let answer = long(echo_reply(client, own, port));
            let expected = node.delivered(interface, answer.clone().to(addr, 1000).hop());
            at_each_queue(&mut node, &answer, &expected);
        }
    }
    assert_eq!(node.flows(), 12, "one flow each, at its owner");
}

#[test]
fn inner_fragments_pass_every_tunnel_both_ways() {
    for wrapped in [Wrapped::Vxlan, Wrapped::Geneve, Wrapped::Ip] {
        for underlay in [0, 1] {
            let mut node = Node::new(Shape { wrapped, underlay, ..Shape::default() });
            services(&mut node, |ends| ends.remote);
            for (id, order) in (0..).zip(ORDERS) {
                for (asked, there, answer, back) in FAMILIES.iter().flat_map(|ends| conversations(ends, ends.remote)) {
                    let shape = (wrapped, underlay, order);
                    assert_eq!(pass(&mut node, POD_A, &asked, order, id), node.tunnelled(there.hop()), "{shape:?}");
                    let outcome = pass(&mut node, UPLINK, &answer, order, id);
                    assert_eq!(outcome, node.delivered(POD_A, back.hop()), "{shape:?}");
                }
            }
        }
    }
}

/// Destination options are a part of what is cut: only the first fragment says what comes behind them.
#[test]
fn the_first_fragment_alone_says_which_protocol_it_is() {
    let mut node = two_workers();
    services(&mut node, |ends| ends.b);
    let asked = long(udp((v6::A, 1000), (v6::SERVICE, 53)));
    let whole = node.dressed(POD_A, &asked).bytes_with_extensions(&[60]);
    for (id, order) in (0..).zip(ORDERS) {
        let frames = split(&whole, &CUTS, id);
        let passed = node.pass_all(POD_A, None, order.map(|i| &frames[i]));
        assert_eq!(passed.together(), node.delivered(POD_B, asked.clone().to(v6::B, 5353).hop()), "{order:?}");
    }
    assert_eq!(node.flows(), 2);
}
