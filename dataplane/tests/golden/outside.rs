//! Clients outside the cluster that ask a service: by a node's address and port, or by a load balancer's address.

use crate::node;
use crate::support::packets::{echo, error, quoted, tcp};
use crate::support::rows::{Rule, Served, identity};
use crate::support::*;
use packets::{ACK, RST, SYN};
use tables::counters::DropReason;
use tables::policy::{Direction, IDENTITY_WORLD};
use tables::service::*;
use tables::{Prefix, Protocol};

const NODE_PORT: (Addr, u16, Protocol) = (NODE, 30_080, Protocol::TCP);
const BALANCER: Addr = Addr::v4([198, 51, 100, 10]);

/// A node whose port 30080 is served by these, as with `externalTrafficPolicy: Cluster`.
fn with_cluster(shape: Shape, backends: &[(Addr, u16)]) -> Node {
    let mut node = Node::new(shape);
    let flags = FLAG_MASQUERADE_ALL;
    node.publish(|rows| {
        rows.serve(1, NODE_PORT, Served { inside: backends, outside: backends, flags, ..Served::default() })
    });
    node
}

/// The same with `Local`: clients outside are served by the second list.
fn with_local(shape: Shape, inside: &[(Addr, u16)], outside: &[(Addr, u16)]) -> Node {
    let mut node = Node::new(shape);
    node.publish(|rows| rows.serve(1, NODE_PORT, Served { inside, outside, ..Served::default() }));
    node
}

fn asks(flags: u8) -> Spec {
    tcp((CLIENT, 5000), (NODE, 30_080), flags)
}

#[test]
fn a_client_of_a_node_port_speaks_to_a_backend_elsewhere_as_snat() {
    let mut node = with_cluster(Shape::default(), &[(REMOTE, 8080)]);
    for flags in [SYN, ACK] {
        let outcome = node.pass(UPLINK, &asks(flags));
        let port = outcome.packet().src_port();
        assert!((SNAT_FIRST..=SNAT_LAST).contains(&port));
        assert_eq!(outcome, node.tunnelled(asks(flags).from(SNAT, port).to(REMOTE, 8080).hop()));
        let answer = tcp((REMOTE, 8080), (SNAT, port), SYN | ACK);
        let told = answer.clone().from(NODE, 30_080).to(CLIENT, 5000).hop();
        assert_eq!(node.pass_tunnel(&answer), node.routed(ROUTER_MAC, told));
    }
    assert_eq!(node.flows(), 1);
}

#[test]
fn a_client_of_a_node_port_speaks_to_a_backend_here_as_snat() {
    for workers in [1, 2] {
        for (queue, port) in (0..workers).flat_map(|queue| [(queue, 5000), (queue, 5001), (queue, 5003)]) {
            let pods = vec![(4, 0), (5, workers - 1)];
            let shape = Shape { workers, uplink_queues: workers, pods, ..Shape::default() };
            let mut node = with_cluster(shape, &[(B, 8080)]);
            let asked = tcp((CLIENT, port), (NODE, 30_080), SYN);
            let outcome = node.pass_queue(UPLINK, Some(queue), node.dressed(UPLINK, &asked).bytes());
            let as_snat = outcome.packet().src_port();
            assert_eq!(outcome, node.delivered(POD_B, asked.clone().from(SNAT, as_snat).to(B, 8080).hop()));
            let answer = tcp((B, 8080), (SNAT, as_snat), SYN | ACK);
            let told = answer.clone().from(NODE, 30_080).to(CLIENT, port).hop();
            assert_eq!(node.pass(POD_B, &answer), node.routed(ROUTER_MAC, told));
            assert_eq!(node.flows(), 2, "a half for each end");
        }
    }
}

#[test]
fn by_local_policy_the_backend_sees_the_client_and_the_client_the_service() {
    for workers in [1, 2] {
        for (queue, port) in (0..workers).flat_map(|queue| [(queue, 5000), (queue, 5001), (queue, 5003)]) {
            let pods = vec![(4, 0), (5, workers - 1)];
            let shape = Shape { workers, uplink_queues: workers, pods, ..Shape::default() };
            let mut node = with_local(shape, &[(REMOTE, 8080)], &[(B, 8080)]);
            for flags in [SYN, ACK] {
                let asked = tcp((CLIENT, port), (NODE, 30_080), flags);
                let outcome = node.pass_queue(UPLINK, Some(queue), node.dressed(UPLINK, &asked).bytes());
                assert_eq!(outcome, node.delivered(POD_B, asked.to(B, 8080).hop()));
                let answer = tcp((B, 8080), (CLIENT, port), flags | ACK);
                let told = answer.clone().from(NODE, 30_080).hop();
                assert_eq!(node.pass(POD_B, &answer), node.routed(ROUTER_MAC, told));
            }
            // Pods are not outside.
            let outcome = node.pass(POD_A, &tcp((A, 1000), (NODE, 30_080), SYN));
            assert_eq!((outcome.packet().src, outcome.packet().dst), (A, REMOTE));
        }
    }
}

/// One of the services has affinity, so that not the same worker need decide: one worker gives the second connection
/// another port, of two neither knows the other's.
#[test]
fn one_port_of_a_client_at_two_services_that_share_a_backend_is_never_one_flow() {
    let mut clashes = [0, 0];
    for (workers, port) in [1, 2].into_iter().flat_map(|workers| (5000..5016).map(move |port| (workers, port))) {
        let shape = Shape { workers, uplink_queues: workers, ..Shape::default() };
        let mut node = with_local(shape, &[], &[(B, 8080)]);
        let other = Served { outside: &[(B, 8080)], affinity_s: 60, ..Served::default() };
        node.publish(|rows| rows.serve(2, (NODE, 30_081, Protocol::TCP), other));
        let asks = |service| tcp((CLIENT, port), (NODE, service), SYN);
        let first = node.pass(UPLINK, &asks(30_080));
        assert_eq!(first, node.delivered(POD_B, asks(30_080).to(B, 8080).hop()));
        let second = node.pass(UPLINK, &asks(30_081));
        if second == Outcome::dropped(DropReason::TupleClash) {
            clashes[workers as usize - 1] += 1;
        } else {
            assert_ne!(second.packet().src_port(), port);
        }
        assert_eq!(node.pass(UPLINK, &asks(30_080)), first, "it may ask again");
        let answer = tcp((B, 8080), (CLIENT, port), SYN | ACK);
        let told = answer.clone().from(NODE, 30_080).hop();
        assert_eq!(node.pass(POD_B, &answer), node.routed(ROUTER_MAC, told));
    }
    assert!(clashes[0] == 0 && (1..16).contains(&clashes[1]), "{clashes:?}");
}

/// As where pods and others are not told apart, and a cluster address is routed here.
#[test]
fn a_client_that_keeps_its_address_hears_a_backend_elsewhere_by_any_queue() {
    let backends = [(REMOTE, 8080)];
    for (workers, affinity_s) in [(1, 0), (2, 0), (3, 60)] {
        let mut node = Node::new(Shape { workers, uplink_queues: workers, ..Shape::default() });
        for (id, affinity_s) in [(1, affinity_s), (2, 0)] {
            let key = (NODE, 30_080 + id as u16, Protocol::TCP);
            node.publish(|rows| rows.serve(id, key, Served { outside: &backends, affinity_s, ..Served::default() }));
        }
        for (port, service) in (5000..5016).flat_map(|port| [(port, 30_081), (port, 30_082)]) {
            let asked = tcp((CLIENT, port), (NODE, service), SYN);
            let outcome = node.pass(UPLINK, &asked);
            // At the second service another port, if one worker keeps both.
            let seen = outcome.packet().src_port();
            assert_eq!(outcome, node.tunnelled(asked.from(CLIENT, seen).to(REMOTE, 8080).hop()));
            for queue in 0..workers {
                let answer = tcp((REMOTE, 8080), (CLIENT, seen), SYN | ACK);
                let told = answer.clone().from(NODE, service).to(CLIENT, port).hop();
                let answered = node.pass_queue(UPLINK, Some(queue), node.peers_packet(&answer).bytes());
                let is_other = affinity_s != 0 && service == 30_082 && seen == port;
                if !is_other {
                    assert_eq!(answered, node.routed(ROUTER_MAC, told), "{workers} {service} {port} {seen}");
                }
            }
        }
    }
}

#[test]
fn a_cut_that_is_lifted_again_leaves_answers_with_their_way_to_the_client() {
    let mut node = with_local(Shape::default(), &[], &[(B, 8080)]);
    let answer = tcp((B, 8080), (CLIENT, 5000), ACK);
    let told = node.routed(ROUTER_MAC, answer.clone().from(NODE, 30_080).hop());
    node.pass(UPLINK, &asks(SYN)).packet();
    assert_eq!(node.pass(POD_B, &answer), told);
    node.publish(|rows| {
        rows.policy(1, Direction::Ingress, &[]);
        rows.pod(5, 0, 1);
    });
    assert_eq!(node.pass(UPLINK, &asks(ACK)), Outcome::dropped(DropReason::PolicyIngress));
    assert_eq!(node.pass(POD_B, &answer), Outcome::dropped(DropReason::PolicyIngress));
    node.publish(|rows| rows.pod(5, 0, 0));
    assert_eq!(node.pass(UPLINK, &asks(ACK)), node.delivered(POD_B, asks(ACK).to(B, 8080).hop()));
    assert_eq!(node.pass(POD_B, &answer), told);
}

#[test]
fn where_no_backend_may_serve_a_client_hears_so_or_nothing() {
    let mut node = with_cluster(Shape::default(), &[]);
    let outcome = node.pass(UPLINK, &asks(SYN));
    let L4::Tcp { flags, .. } = outcome.packet().l4 else { panic!("no TCP") };
    assert_eq!((outcome.packet().src, outcome.packet().dst, flags & RST), (NODE, CLIENT, RST));
    assert_eq!((outcome.packet().src_mac, outcome.packet().dst_mac), (uplink_mac(1), ROUTER_MAC));
    let key = (BALANCER, 53, Protocol::UDP);
    node.publish(|rows| rows.serve(2, key, Served::default()));
    let told = node.pass(UPLINK, &udp((CLIENT, 5000), (BALANCER, 53)));
    assert_eq!((told.packet().src, &told.packet().l4), (BALANCER, &L4::Unreachable { code: 3 }));
    node.publish(|rows| {
        rows.serve(2, key, Served { inside: &[(REMOTE, 53)], flags: FLAG_DROP_OUTSIDE, ..Served::default() });
    });
    let outcome = node.pass(UPLINK, &udp((CLIENT, 5000), (BALANCER, 53)));
    assert_eq!(outcome, Outcome::dropped(DropReason::NoLocalBackend));
}

#[test]
fn only_clients_of_the_source_ranges_get_in() {
    let mut node = node();
    let ranges: [Prefix; 2] = ["192.168.0.0/24".parse().unwrap(), "203.0.113.8/29".parse().unwrap()];
    let key = (BALANCER, 80, Protocol::TCP);
    let backends = &[(REMOTE, 8080)][..];
    let served = Served {
        inside: backends,
        outside: backends,
        sources: &ranges,
        flags: FLAG_MASQUERADE_ALL,
        ..Served::default()
    };
    node.publish(|rows| rows.serve(1, key, served));
    let from = |node: &mut Node, interface, addr| node.pass(interface, &tcp((addr, 5000), (BALANCER, 80), SYN));
    assert_eq!(from(&mut node, UPLINK, CLIENT).packet().dst, REMOTE);
    let other = Addr::v4([203, 0, 113, 16]);
    assert_eq!(from(&mut node, UPLINK, other), Outcome::dropped(DropReason::SourceRange));
    assert_eq!(from(&mut node, POD_A, A), Outcome::dropped(DropReason::SourceRange));
    assert_eq!(from(&mut node, HOST, HOST_ADDR).packet().dst, REMOTE, "the node is by any of its addresses");
}

#[test]
fn behind_a_masquerade_policies_still_judge_who_asks() {
    let rule = Rule { identity: IDENTITY_WORLD, protocol: Protocol::TCP, port: 8080, policy: 3 };
    let of_pod = Rule { identity: identity(1, 4), ..rule };
    for (allowed, rules) in [([true, false], [rule]), ([false, true], [of_pod])] {
        let mut node = with_cluster(Shape::default(), &[(B, 8080)]);
        node.publish(|rows| {
            rows.policy(1, Direction::Ingress, &rules);
            rows.pod(5, 0, 1);
        });
        let pod_asks = tcp((A, 1000), (NODE, 30_080), SYN);
        for ((interface, packet), allowed) in [(UPLINK, asks(SYN)), (POD_A, pod_asks)].into_iter().zip(allowed) {
            let outcome = node.pass(interface, &packet);
            if allowed {
                assert_eq!((outcome.packet().src, outcome.packet().dst), (SNAT, B));
                node.publish(|rows| rows.forbid(1, Direction::Ingress, rules[0].identity));
                assert_eq!(
                    node.pass(interface, &packet),
                    Outcome::dropped(DropReason::PolicyIngress),
                    "the next packet"
                );
            } else {
                assert_eq!(outcome, Outcome::dropped(DropReason::PolicyIngress));
            }
        }
    }
}

#[test]
fn what_asks_no_service_is_the_nodes_own_and_forged_clients_are_refused() {
    let mut node = with_cluster(Shape::default(), &[(REMOTE, 8080)]);
    for other in [tcp((CLIENT, 5000), (NODE, 30_081), SYN), udp((CLIENT, 5000), (NODE, 30_080)), echo(CLIENT, NODE, 7)]
    {
        assert_eq!(node.pass(UPLINK, &other), node.delivered(HOST, other.clone().hop()));
    }
    for forged in [A, REMOTE, HOST_ADDR, NODE] {
        let packet = tcp((forged, 1000), (NODE, 30_080), SYN);
        assert_eq!(node.pass(UPLINK, &packet), Outcome::dropped(DropReason::ForgedOutside), "{forged}");
    }
    // Nor does one break into the flow of a pod that asked.
    node.pass(POD_A, &tcp((A, 1000), (NODE, 30_080), SYN)).packet();
    let forged = tcp((A, 1000), (NODE, 30_080), ACK);
    assert_eq!(node.pass(UPLINK, &forged), Outcome::dropped(DropReason::ForgedOutside));
}

#[test]
fn a_client_on_the_link_waits_until_its_neighbour_is_known() {
    let mut node = with_cluster(Shape::default(), &[(REMOTE, 8080)]);
    let asked = tcp((NEIGHBOUR, 5000), (NODE, 30_080), SYN);
    assert_eq!(node.pass(UPLINK, &asked), Outcome::default(), "held");
    let mut wanted = Vec::new();
    node.status.block(0).requests(0, |addr| wanted.push(addr));
    assert_eq!(wanted, [NEIGHBOUR]);
    let mac = tables::Mac([2, 0xcc, 0, 0, 0, 1]);
    node.publish(|rows| rows.resolved(NEIGHBOUR, mac));
    node.run();
    node.workers[0].path().retry_held();
    node.run();
    let sent = node.sent();
    assert_eq!(sent.len(), 1, "{sent:?}");
    let port = node.pass(UPLINK, &tcp((NEIGHBOUR, 5000), (NODE, 30_080), ACK)).packet().src_port();
    let answer = tcp((REMOTE, 8080), (SNAT, port), ACK);
    let told = answer.clone().from(NODE, 30_080).to(NEIGHBOUR, 5000).hop();
    assert_eq!(node.pass_tunnel(&answer), node.routed(mac, told));
}

#[test]
fn a_backend_outside_the_cluster_hears_the_nodes_own_address() {
    let outside = Addr::v4([203, 0, 113, 77]);
    let mut node = with_cluster(Shape::default(), &[(outside, 8080)]);
    let outcome = node.pass(UPLINK, &asks(SYN));
    let port = outcome.packet().src_port();
    assert_eq!(outcome, node.routed(ROUTER_MAC, asks(SYN).from(NODE, port).to(outside, 8080).hop()));
    let answer = tcp((outside, 8080), (NODE, port), SYN | ACK);
    let told = answer.clone().from(NODE, 30_080).to(CLIENT, 5000).hop();
    assert_eq!(node.pass(UPLINK, &answer), node.routed(ROUTER_MAC, told));
}

#[test]
fn errors_on_either_side_reach_the_other_end_translated() {
    let mut node = with_cluster(Shape::default(), &[(REMOTE, 8080)]);
    let sent = node.pass(UPLINK, &asks(SYN)).packet().clone();
    let told = node.pass_tunnel(&error(REMOTE, L4::Unreachable { code: 3 }, &sent));
    assert_eq!((told.packet().src, told.packet().dst, told.packet().src_mac), (NODE, CLIENT, uplink_mac(1)));
    let (src, dst, _, quote) = quoted(told.packet());
    assert_eq!((src, dst, &quote[..4]), (CLIENT, NODE, &[5000u16.to_be_bytes(), 30_080u16.to_be_bytes()].concat()[..]));
    let answer = tcp((REMOTE, 8080), (SNAT, sent.src_port()), SYN | ACK);
    let answered = node.pass_tunnel(&answer).packet().clone();
    for router in [ROUTER, Addr::v4([198, 51, 100, 99])] {
        let outcome = node.pass(UPLINK, &error(router, L4::TimeExceeded, &answered));
        let told = outcome.packet();
        assert_eq!((told.src, told.dst), (SNAT, REMOTE), "nobody outside is known there");
        let (src, dst, _, _) = quoted(told);
        assert_eq!((src, dst), (REMOTE, SNAT));
    }
}

#[test]
fn nobody_outside_tells_a_backend_errors_about_a_pods_connection() {
    let mut node = with_cluster(Shape::default(), &[(REMOTE, 8080)]);
    node.pass(POD_A, &tcp((A, 1000), (NODE, 30_080), SYN)).packet();
    let never_left = tcp((NODE, 30_080), (A, 1000), SYN | ACK);
    let forged = error(CLIENT, L4::Unreachable { code: 1 }, &never_left);
    assert_eq!(node.pass(UPLINK, &forged), Outcome::dropped(DropReason::IcmpUnrelated));
}

#[test]
fn a_client_whose_packets_run_out_of_hops_or_are_too_big_hears_of_the_node() {
    let mut node = with_cluster(Shape::default(), &[(REMOTE, 8080)]);
    let outcome = node.pass(UPLINK, &asks(SYN).ttl(1));
    assert_eq!((outcome.packet_of_any().src, &outcome.packet_of_any().l4), (NODE, &L4::TimeExceeded));
    let outcome = node.pass(UPLINK, &asks(ACK).payload(&[1; 1460]));
    assert_eq!(outcome.dropped, [DropReason::TooBig]);
    assert_eq!((outcome.packet_of_any().src, &outcome.packet_of_any().l4), (NODE, &L4::Unreachable { code: 4 }));
}

#[test]
fn a_client_of_the_other_family_is_served_the_same_way() {
    let key = (v6::NODE, 30_080, Protocol::TCP);
    for workers in [1, 2] {
        let mut node = Node::new(Shape { workers, uplink_queues: workers, ..Shape::default() });
        let backends = &[(v6::REMOTE, 8080)][..];
        let flags = FLAG_MASQUERADE_ALL;
        node.publish(|rows| {
            rows.serve(1, key, Served { inside: backends, outside: backends, flags, ..Served::default() })
        });
        for queue in 0..workers {
            let asked = tcp((v6::CLIENT, 5000 + queue), (v6::NODE, 30_080), SYN);
            let outcome = node.pass_queue(UPLINK, Some(queue), node.dressed(UPLINK, &asked).bytes());
            let port = outcome.packet().src_port();
            assert_eq!(outcome, node.tunnelled(asked.clone().from(v6::SNAT, port).to(v6::REMOTE, 8080).hop()));
            let answer = tcp((v6::REMOTE, 8080), (v6::SNAT, port), SYN | ACK);
            let told = answer.clone().from(v6::NODE, 30_080).to(v6::CLIENT, 5000 + queue).hop();
            assert_eq!(node.pass_tunnel(&answer), node.routed(ROUTER_MAC, told));
        }
    }
}

#[test]
fn fragments_of_a_client_follow_their_first_one_to_its_backend() {
    let key = (NODE, 30_053, Protocol::UDP);
    for workers in [1, 2] {
        let pods = vec![(4, 0), (5, workers - 1)];
        for client_port in 5000..5004 {
            let shape = Shape { workers, uplink_queues: workers, pods: pods.clone(), ..Shape::default() };
            let mut node = Node::new(shape);
            node.publish(|rows| rows.serve(1, key, Served { outside: &[(B, 53)], ..Served::default() }));
            let packet = udp((CLIENT, client_port), (NODE, 30_053)).payload(&[7; 1200]);
            let parts = fragments::split(&node.dressed(UPLINK, &packet).bytes(), &[400, 800], client_port as u32);
            // The first one comes last.
            let parts: Vec<Vec<u8>> = parts.into_iter().rev().collect();
            let passed = node.pass_all(UPLINK, None, &parts);
            assert_eq!(passed.together(), node.delivered(POD_B, packet.to(B, 53).hop()));
        }
    }
}
