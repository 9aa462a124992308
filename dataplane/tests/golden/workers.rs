//! Two workers: every path with equal and with different owners, and with one uplink queue. The hand-off counters prove
//! which way a packet went.

use crate::support::packets::{echo, error, tcp};
use crate::support::*;
use packets::{ACK, SYN};
use tables::Protocol;
use tables::counters::WorkerCounter::{HandoffsIn, HandoffsOut};
use tables::owner::SnatPorts;

/// A and C belong to worker 0, B to worker 1.
fn node(uplink_queues: u16) -> Node {
    let pods = vec![(4, 0), (5, 1), (6, 0)];
    Node::new(Shape { workers: 2, uplink_queues, pods, host_owner: 0, ..Shape::default() })
}

/// Passes a packet and tells how many hand-offs it took; what one worker hands over another takes.
fn hops(node: &mut Node, pass: impl FnOnce(&mut Node) -> Outcome) -> (Outcome, u64) {
    let before = node.count(HandoffsOut);
    let outcome = pass(node);
    assert_eq!(node.count(HandoffsOut), node.count(HandoffsIn));
    let handed = node.count(HandoffsOut) - before;
    (outcome, handed)
}

fn at_queue(worker: u16, packet: Spec) -> impl FnOnce(&mut Node) -> Outcome {
    move |node| node.pass_queue(UPLINK, Some(worker), packet.bytes())
}

#[test]
fn between_local_pods_a_packet_is_handed_over_if_and_only_if_owners_differ() {
    let mut node = node(2);
    for (from, src, to, dst, handed) in [(POD_A, A, POD_C, C, 0), (POD_A, A, POD_B, B, 1), (POD_B, B, POD_C, C, 1)] {
        let packet = udp((src, 1), (dst, 2));
        assert_eq!(hops(&mut node, |n| n.pass(from, &packet)), (node.delivered(to, packet.clone().hop()), handed));
        let answer = udp((dst, 2), (src, 1));
        assert_eq!(hops(&mut node, |n| n.pass(to, &answer)), (node.delivered(from, answer.clone().hop()), handed));
    }
    let used: Vec<usize> = node.workers.iter_mut().map(|worker| worker.path().flows.used()).collect();
    assert_eq!(used, [4, 2], "each half at its own end's owner");
}

#[test]
fn what_comes_by_the_wrong_queue_is_handed_to_its_owner() {
    let mut node = node(2);
    for (interface, addr, owner) in [(POD_A, A, 0), (POD_B, B, 1)] {
        for queue in [0, 1] {
            let inner = udp((REMOTE, 1), (addr, 2));
            let packet = node.peers_packet(&inner);
            let expected = (node.delivered(interface, inner.hop()), (owner != queue) as u64);
            assert_eq!(hops(&mut node, at_queue(queue, packet)), expected);
        }
    }
    assert_eq!(node.flows(), 2, "the queue does not matter to the flow");
}

#[test]
fn a_worker_without_uplink_queue_hands_over_what_it_sends() {
    for (queues, expected) in [(1, 1), (2, 0)] {
        let mut node = node(queues);
        let packet = udp((B, 1), (REMOTE, 2));
        assert_eq!(hops(&mut node, |n| n.pass(POD_B, &packet)), (node.tunnelled(packet.clone().hop()), expected));
        let packet = udp((A, 1), (REMOTE, 2));
        assert_eq!(hops(&mut node, |n| n.pass(POD_A, &packet)), (node.tunnelled(packet.clone().hop()), 0));
    }
}

#[test]
fn a_masqueraded_flow_takes_a_port_of_its_workers_block_and_its_answer_finds_that_worker() {
    let snat = SnatPorts::new(SNAT_FIRST, SNAT_LAST, 2).unwrap();
    let mut node = node(2);
    for (interface, addr, owner) in [(POD_A, A, 0), (POD_B, B, 1)] {
        for src in 1000..1020 {
            let port = node.pass(interface, &udp((addr, src), (CLIENT, 53))).packet().src_port();
            assert!(snat.block(owner).contains(&port), "{port} is not of worker {owner}");
            for queue in [0, 1] {
                let answer = node.dressed(UPLINK, &udp((CLIENT, 53), (NODE, port)));
                let expected = node.delivered(interface, answer.clone().to(addr, src).hop());
                assert_eq!(hops(&mut node, at_queue(queue, answer)), (expected, (queue != owner) as u64));
            }
        }
    }
}

#[test]
fn services_are_translated_at_the_clients_owner_whoever_owns_the_backend() {
    for (backend_interface, backend) in [(POD_B, B), (POD_C, C)] {
        let mut node = node(1);
        node.publish(|rows| rows.service(1, (SERVICE, 80, Protocol::TCP), &[(backend, 8080)]));
        let handed = (backend == B) as u64;
        let asked = tcp((A, 1000), (SERVICE, 80), SYN);
        let there = node.delivered(backend_interface, asked.clone().to(backend, 8080).hop());
        assert_eq!(hops(&mut node, |n| n.pass(POD_A, &asked)), (there, handed));
        let answer = tcp((backend, 8080), (A, 1000), SYN | ACK);
        let back = node.delivered(POD_A, answer.clone().from(SERVICE, 80).hop());
        assert_eq!(hops(&mut node, |n| n.pass(backend_interface, &answer)), (back, handed));
    }
}

#[test]
fn an_answer_by_the_wrong_queue_bears_its_services_address_as_one_by_the_right_queue() {
    let mut node = node(2);
    node.publish(|rows| rows.service(1, (SERVICE, 80, Protocol::TCP), &[(REMOTE, 8080)]));
    for (pod, addr, owner) in [(POD_A, A, 0), (POD_B, B, 1)] {
        let asked = tcp((addr, 1000), (SERVICE, 80), SYN);
        let expected = node.tunnelled(asked.clone().to(REMOTE, 8080).hop());
        assert_eq!(node.pass(pod, &asked), expected);
        for (flags, ttl) in [(SYN | ACK, 64), (ACK, 64), (ACK, 2), (ACK, 64)] {
            for queue in [0, 1] {
                let answer = tcp((REMOTE, 8080), (addr, 1000), flags).ttl(ttl);
                let expected = (node.delivered(pod, answer.clone().from(SERVICE, 80).hop()), (owner != queue) as u64);
                let packet = node.peers_packet(&answer);
                assert_eq!(hops(&mut node, at_queue(queue, packet)), expected, "pod {pod}, queue {queue}");
            }
        }
    }
}

#[test]
fn hairpin_stays_with_its_worker() {
    let mut node = node(1);
    node.publish(|rows| rows.service(1, (SERVICE, 80, Protocol::TCP), &[(B, 8080)]));
    let asked = tcp((B, 1000), (SERVICE, 80), SYN);
    let (outcome, handed) = hops(&mut node, |n| n.pass(POD_B, &asked));
    let port = outcome.packet().src_port();
    assert_eq!((handed, outcome), (0, node.delivered(POD_B, asked.from(SNAT, port).to(B, 8080).hop())));
    let answer = tcp((B, 8080), (SNAT, port), SYN | ACK);
    let back = node.delivered(POD_B, answer.clone().from(SERVICE, 80).to(B, 1000).hop());
    assert_eq!(hops(&mut node, |n| n.pass(POD_B, &answer)), (back, 0));
}

#[test]
fn the_host_and_pods_of_another_worker_reach_each_other_and_services() {
    let mut node = node(1);
    node.publish(|rows| rows.service(1, (SERVICE, 80, Protocol::TCP), &[(B, 8080)]));
    for addr in [HOST_ADDR, NODE] {
        let asked = tcp((B, 1000), (addr, 10_250), SYN);
        assert_eq!(hops(&mut node, |n| n.pass(POD_B, &asked)), (node.delivered(HOST, asked.clone().hop()), 1));
        let answer = tcp((addr, 10_250), (B, 1000), SYN | ACK);
        assert_eq!(hops(&mut node, |n| n.pass(HOST, &answer)), (node.delivered(POD_B, answer.clone().hop()), 1));
    }
    let asked = tcp((HOST_ADDR, 5000), (SERVICE, 80), SYN);
    let (outcome, handed) = hops(&mut node, |n| n.pass(HOST, &asked));
    assert_eq!(handed, 1);
    let answer = tcp((B, 8080), (SNAT, outcome.packet().src_port()), SYN | ACK);
    let back = node.delivered(HOST, answer.clone().from(SERVICE, 80).to(HOST_ADDR, 5000).hop());
    assert_eq!(hops(&mut node, |n| n.pass(POD_B, &answer)), (back, 1));
}

#[test]
fn an_icmp_error_finds_the_owner_of_the_packet_it_quotes() {
    let mut node = node(2);
    for queue in [0, 1] {
        let sent = node.pass(POD_B, &udp((B, 1000), (CLIENT, 53))).packet().clone();
        let packet = node.dressed(UPLINK, &error(ROUTER, L4::TimeExceeded, &sent));
        let (outcome, handed) = hops(&mut node, at_queue(queue, packet));
        assert_eq!((outcome.packet().dst, handed), (B, (queue == 0) as u64));
    }
}

#[test]
fn frames_go_home_however_long_traffic_crosses() {
    let mut node = node(1);
    for i in 0..5000u16 {
        let outcome = node.pass(POD_B, &echo(B, C, i % 8));
        assert!(outcome.dropped.is_empty());
    }
    assert_eq!(node.frames_free(), node.frames());
}
