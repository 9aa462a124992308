//! What happens over time: neighbours appear, backends go, tables fill, devices die, processes are replaced.

use crate::node;
use crate::support::node::Sent;
use crate::support::packets::tcp;
use crate::support::rows::{NEIGHBOUR_PEER, NEIGHBOUR_ROUTER};
use crate::support::*;
use packets::{ACK, FIN, RST, SYN};
use tables::counters::{DropReason, WorkerCounter};
use tables::{Mac, Protocol};

const HTTP: (Addr, u16, Protocol) = (SERVICE, 80, Protocol::TCP);
const DNS: (Addr, u16, Protocol) = (SERVICE, 53, Protocol::UDP);
const OTHER_MAC: Mac = Mac([2, 0xbb, 0, 0, 0, 1]);

fn asked_for(node: &Node) -> Vec<Addr> {
    let mut asked = Vec::new();
    node.status.block(0).requests(0, |addr| asked.push(addr));
    asked
}

#[test]
fn the_first_packet_to_an_unknown_peer_waits_and_goes_once_it_is_known() {
    let mut node = node();
    node.publish(|rows| rows.neighbour(NEIGHBOUR_PEER, PEER, None));
    let first = tcp((A, 1000), (REMOTE, 80), SYN);
    assert_eq!(node.pass(POD_A, &first), Outcome::default(), "held");
    let second = tcp((A, 1001), (REMOTE, 80), SYN);
    assert_eq!(node.pass(POD_A, &second), Outcome::dropped(DropReason::NeighbourUnknown), "one for each address");
    assert!(asked_for(&node).contains(&PEER));
    node.publish(|rows| rows.neighbour(NEIGHBOUR_PEER, PEER, Some(uplink_mac(2))));
    assert_eq!(Outcome { sent: node.sent(), dropped: vec![] }, node.tunnelled(first.hop()));
}

#[test]
fn the_first_packet_to_an_unknown_address_on_the_link_waits_too() {
    let mut node = node();
    let first = udp((A, 1000), (NEIGHBOUR, 53));
    assert_eq!(node.pass(POD_A, &first), Outcome::default(), "held");
    assert_eq!(asked_for(&node), [NEIGHBOUR]);
    node.publish(|rows| rows.resolved(NEIGHBOUR, OTHER_MAC));
    let outcome = Outcome { sent: node.sent(), dropped: vec![] };
    let port = outcome.packet().src_port();
    assert_eq!(outcome, node.routed(OTHER_MAC, first.from(NODE, port).hop()));
}

#[test]
fn the_answer_to_a_client_on_the_link_goes_once_it_is_known() {
    let mut node = node();
    let asked = udp((NEIGHBOUR, 4000), (A, 53));
    assert_eq!(node.pass(UPLINK, &asked), node.delivered(POD_A, asked.hop()));
    assert!(asked_for(&node).contains(&NEIGHBOUR), "asked for before the answer is there");
    node.publish(|rows| rows.resolved(NEIGHBOUR, OTHER_MAC));
    let answer = udp((A, 53), (NEIGHBOUR, 4000));
    assert_eq!(node.pass(POD_A, &answer), node.routed(OTHER_MAC, answer.hop()));
}

#[test]
fn an_answer_that_is_quicker_than_its_neighbour_waits_for_it() {
    let mut node = node();
    let asked = udp((NEIGHBOUR, 4000), (A, 53));
    assert_eq!(node.pass(UPLINK, &asked), node.delivered(POD_A, asked.hop()));
    let answer = udp((A, 53), (NEIGHBOUR, 4000));
    assert_eq!(node.pass(POD_A, &answer), Outcome::default(), "held");
    node.publish(|rows| rows.resolved(NEIGHBOUR, OTHER_MAC));
    assert_eq!(Outcome { sent: node.sent(), dropped: vec![] }, node.routed(OTHER_MAC, answer.hop()));
}

#[test]
fn packets_of_one_burst_share_the_flow_that_its_first_packet_opens() {
    let mut node = node();
    let packet = udp((A, 1000), (CLIENT, 53));
    let wire = node.dressed(POD_A, &packet).bytes();
    for _ in 0..3 {
        assert!(node.peer(POD_A).inject(wire.clone()));
    }
    node.run();
    let sent = node.sent().into_iter().map(|sent| Outcome { sent: vec![sent], dropped: vec![] });
    let ports: Vec<u16> = sent.map(|outcome| outcome.packet().src_port()).collect();
    assert!(ports.len() == 3 && ports.iter().all(|port| *port == ports[0]), "one port for one flow: {ports:?}");
    assert_eq!(node.flows(), 1);
}

#[test]
fn a_next_hops_new_ethernet_address_counts_from_the_next_packet_on() {
    let mut node = node();
    let packet = udp((HOST_ADDR, 1000), (CLIENT, 53));
    assert_eq!(node.pass(HOST, &packet), node.routed(ROUTER_MAC, packet.clone().hop()));
    node.publish(|rows| rows.neighbour(NEIGHBOUR_ROUTER, ROUTER, Some(OTHER_MAC)));
    assert_eq!(node.pass(HOST, &packet), node.routed(OTHER_MAC, packet.hop()));
}

#[test]
fn a_peers_new_ethernet_address_counts_from_the_next_packet_on() {
    let mut node = node();
    let packet = udp((A, 1000), (REMOTE, 53));
    assert_eq!(node.pass(POD_A, &packet), node.tunnelled(packet.clone().hop()));
    node.publish(|rows| rows.neighbour(NEIGHBOUR_PEER, PEER, Some(OTHER_MAC)));
    let mut moved = node.tunnelled(packet.clone().hop());
    let Sent::Tunnel(outer, _) = &mut moved.sent[0] else { panic!("not tunnelled") };
    outer.dst_mac = OTHER_MAC;
    assert_eq!(node.pass(POD_A, &packet), moved);
}

#[test]
fn a_client_that_a_pod_speaks_to_as_the_node_does_not_break_into_that_flow() {
    let mut node = node();
    let asked = node.pass(POD_A, &udp((A, 1000), (CLIENT, 53))).packet().src_port();
    let intrusion = udp((CLIENT, 53), (A, 1000));
    assert_eq!(node.pass(UPLINK, &intrusion), Outcome::dropped(DropReason::TupleClash));
    assert_eq!(node.pass(POD_A, &udp((A, 1000), (CLIENT, 53))).packet().src_port(), asked);
}

#[test]
fn while_a_backend_leaves_udp_moves_and_tcp_stays() {
    let mut node = node();
    node.publish(|rows| {
        rows.service(1, HTTP, &[(REMOTE, 8080)]);
        rows.service(2, DNS, &[(REMOTE, 5353)]);
    });
    let (of_tcp, of_udp) = (tcp((A, 1000), (SERVICE, 80), SYN), udp((A, 1000), (SERVICE, 53)));
    node.pass(POD_A, &of_tcp);
    node.pass(POD_A, &of_udp);
    node.publish(|rows| {
        rows.service_left(1, HTTP, &[(REMOTE_TWO, 8080)], &[(REMOTE, 8080)]);
        rows.service_left(2, DNS, &[(REMOTE_TWO, 5353)], &[(REMOTE, 5353)]);
    });
    let later = tcp((A, 1000), (SERVICE, 80), ACK);
    assert_eq!(node.pass(POD_A, &later), node.tunnelled(later.to(REMOTE, 8080).hop()));
    assert_eq!(node.pass(POD_A, &of_udp), node.tunnelled(of_udp.to(REMOTE_TWO, 5353).hop()));
    assert_eq!(node.pass(POD_A, &tcp((A, 1001), (SERVICE, 80), SYN)).packet().dst, REMOTE_TWO);
}

#[test]
fn when_a_backend_is_gone_its_connections_are_reset_and_begin_anew() {
    let mut node = node();
    node.publish(|rows| rows.service(1, HTTP, &[(REMOTE, 8080)]));
    let of = |flags| tcp((A, 1000), (SERVICE, 80), flags);
    node.pass(POD_A, &of(SYN)).packet();
    for backends in [&[(REMOTE_TWO, 8080)][..], &[]] {
        node.publish(|rows| rows.service(1, HTTP, backends));
        let late = tcp((REMOTE, 8080), (A, 1000), ACK);
        assert_eq!(node.pass_tunnel(&late).sent, []);
        let L4::Tcp { flags, .. } = node.pass(POD_A, &of(ACK)).packet().l4 else { panic!("no TCP") };
        assert_eq!(flags & RST, RST, "{backends:?}");
        node.publish(|rows| rows.service(1, HTTP, &[(REMOTE, 8080)]));
        assert_eq!(node.pass(POD_A, &of(SYN)).packet().dst, REMOTE, "a new connection");
    }
}

#[test]
fn a_connection_that_nobody_answered_opens_at_a_living_backend_when_its_own_is_gone() {
    let mut node = node();
    node.publish(|rows| rows.service(1, HTTP, &[(REMOTE, 8080)]));
    let again = tcp((A, 1000), (SERVICE, 80), SYN);
    assert_eq!(node.pass(POD_A, &again).packet().dst, REMOTE);
    node.publish(|rows| rows.service(1, HTTP, &[(REMOTE_TWO, 8080)]));
    assert_eq!(node.pass(POD_A, &again).packet().dst, REMOTE_TWO);
}

#[test]
fn flows_of_one_pod_to_one_backend_are_renewed_alike_until_the_next_change() {
    let mut node = node();
    node.publish(|rows| rows.service(2, DNS, &[(REMOTE, 5353)]));
    let asked: Vec<_> = (1000..1004).map(|port| udp((A, port), (SERVICE, 53))).collect();
    let elsewhere = udp((A, 1000), (REMOTE_TWO, 53));
    asked.iter().chain([&elsewhere]).for_each(|packet| drop(node.pass(POD_A, packet)));
    for backends in
        [&[(REMOTE, 5353), (REMOTE_TWO, 5353)][..], &[(REMOTE_TWO, 5353)], &[(REMOTE_TWO, 5353), (REMOTE, 5353)]]
    {
        node.publish(|rows| rows.service(2, DNS, backends));
        let stays = if backends.contains(&(REMOTE, 5353)) && backends[0].0 == REMOTE { REMOTE } else { REMOTE_TWO };
        for packet in &asked {
            assert_eq!(node.pass(POD_A, packet), node.tunnelled(packet.clone().to(stays, 5353).hop()), "{backends:?}");
        }
        assert_eq!(node.pass(POD_A, &elsewhere), node.tunnelled(elsewhere.clone().hop()));
    }
}

/// A flow that was seen since the last change is not asked for its scopes, which takes a tick of the clock to be told.
#[test]
fn flows_that_went_on_for_a_while_since_the_last_change_see_the_next_one() {
    let mut node = node();
    let asked = [1000, 1001].map(|port| udp((A, port), (SERVICE, 53)));
    for backend in [REMOTE, REMOTE_TWO, REMOTE] {
        node.publish(|rows| rows.service(2, DNS, &[(backend, 5353)]));
        for _ in 0..3 {
            for packet in &asked {
                assert_eq!(node.pass(POD_A, packet), node.tunnelled(packet.clone().to(backend, 5353).hop()));
            }
            std::thread::sleep(std::time::Duration::from_millis(3));
        }
    }
}

#[test]
fn when_a_backend_comes_established_flows_stay_where_they_are() {
    let mut node = node();
    node.publish(|rows| rows.service(2, DNS, &[(REMOTE, 5353)]));
    (1000..1050).for_each(|port| drop(node.pass(POD_A, &udp((A, port), (SERVICE, 53)))));
    node.publish(|rows| rows.service(2, DNS, &[(REMOTE_TWO, 5353), (REMOTE, 5353)]));
    for port in 1000..1050 {
        assert_eq!(node.pass(POD_A, &udp((A, port), (SERVICE, 53))).packet().dst, REMOTE);
    }
}

#[test]
fn a_service_that_goes_and_comes_back_under_another_id_serves_the_same_client_port_again() {
    let mut node = node();
    for (id, flow) in [(1, udp((A, 1000), (SERVICE, 53))), (2, udp((A, 1001), (SERVICE, 53)))] {
        node.publish(|rows| rows.service(id, DNS, &[(REMOTE, 5353)]));
        assert_eq!(node.pass(POD_A, &flow).packet().dst, REMOTE);
        node.publish(|rows| rows.remove_service(id, DNS));
        assert_eq!(node.pass(POD_A, &flow), Outcome::dropped(DropReason::ServiceUnknown));
        node.publish(|rows| rows.service(id + 10, DNS, &[(REMOTE_TWO, 5353)]));
        assert_eq!(node.pass(POD_A, &flow).packet().dst, REMOTE_TWO);
        node.publish(|rows| rows.remove_service(id + 10, DNS));
    }
}

#[test]
fn a_pod_that_moves_to_another_node_is_followed_there() {
    let mut node = node();
    let packet = udp((A, 1000), (C, 53));
    assert_eq!(node.pass(POD_A, &packet), node.delivered(POD_C, packet.clone().hop()));
    node.publish(|rows| {
        let mut tunnel = tables::route::RouteRecord::new(tables::route::RouteKind::Tunnel);
        (tunnel.peer, tunnel.next_hop) = (PEER, NEIGHBOUR_PEER);
        assert!(rows.batch.remove(tables::layout::Table::Endpoint, &C));
        rows.route(rows::ROUTE_OWN + 6, tables::Prefix::host(C), tunnel);
    });
    assert_eq!(node.pass(POD_A, &packet), node.tunnelled(packet.hop()));
}

#[test]
fn a_full_flow_table_refuses_the_new_by_name_and_keeps_what_was_answered() {
    let mut node = Node::new(Shape { flows_max: 64, ..Shape::default() });
    let (asked, answered) = (|port| udp((A, port), (REMOTE, 53)), |port| udp((REMOTE, 53), (A, port)));
    for port in 1000..1064 {
        for outcome in
            [node.pass(POD_A, &asked(port)), node.pass_tunnel(&answered(port)), node.pass(POD_A, &asked(port))]
        {
            outcome.packet();
        }
    }
    assert_eq!(node.pass(POD_A, &asked(2000)), Outcome::dropped(DropReason::FlowTableFull));
    (1000..1064).for_each(|port| assert!(node.pass_tunnel(&answered(port)).dropped.is_empty()));
    assert_eq!((node.count(WorkerCounter::FlowsInserted), node.count(WorkerCounter::FlowsEvicted)), (64, 0));
}

#[test]
fn in_a_full_flow_table_the_unanswered_make_room() {
    let mut node = Node::new(Shape { flows_max: 64, ..Shape::default() });
    for port in 1000..1100 {
        node.pass(POD_A, &udp((A, port), (REMOTE, 53))).packet();
    }
    assert_eq!((node.flows(), node.count(WorkerCounter::FlowsEvicted)), (64, 36));
}

#[test]
fn a_closed_connection_makes_room_for_a_new_one_on_the_same_ports() {
    for end in [[FIN | ACK, FIN | ACK], [RST, ACK]] {
        let mut node = node();
        node.publish(|rows| rows.service(1, HTTP, &[(REMOTE, 8080)]));
        let out = |flags| tcp((A, 1000), (SERVICE, 80), flags);
        assert_eq!(node.pass(POD_A, &out(SYN)).packet().dst, REMOTE);
        node.publish(|rows| rows.service_left(1, HTTP, &[(REMOTE_TWO, 8080)], &[(REMOTE, 8080)]));
        assert_eq!(node.pass(POD_A, &out(end[0])).packet().dst, REMOTE);
        node.pass_tunnel(&tcp((REMOTE, 8080), (A, 1000), end[1]));
        assert_eq!(node.pass(POD_A, &out(SYN)).packet().dst, REMOTE_TWO, "a new connection, a new choice");
        assert_eq!(node.flows(), 1);
    }
}

#[test]
fn a_full_ring_and_a_dead_device_are_counted() {
    let mut node = Node::new(Shape { ring_len: 4, ..Shape::default() });
    for i in 0..6 {
        let packet = node.dressed(POD_A, &udp((A, i), (B, 53)));
        assert!(node.peer(POD_A).inject(packet.bytes()));
        node.run();
    }
    assert_eq!((node.drops(DropReason::TxFull), node.peer(POD_B).take_all().len()), (2, 4));
    node.peer(POD_B).remove_device();
    assert_eq!(node.pass(POD_A, &udp((A, 1), (B, 53))), Outcome::dropped(DropReason::InterfaceGone));
}

#[test]
fn a_successor_adopts_flows_and_looks_at_each_again() {
    let mut old = node();
    old.publish(|rows| rows.service(1, HTTP, &[(REMOTE, 8080)]));
    let packet = |flags| tcp((A, 1000), (SERVICE, 80), flags);
    old.pass(POD_A, &packet(SYN));
    let outside = old.pass(POD_A, &udp((B, 7), (CLIENT, 53)));
    assert_eq!(outside, Outcome::dropped(DropReason::SpoofedAddress));
    let port = old.pass(POD_B, &udp((B, 7), (CLIENT, 53))).packet().src_port();
    let flows = old.workers[0].path().flows.region().fd().try_clone_to_owned().unwrap();
    drop(old);
    let mut new = Node::with_flows(Shape::default(), |_| Some(flows.try_clone().unwrap()));
    new.publish(|rows| rows.service_left(1, HTTP, &[(REMOTE_TWO, 8080)], &[(REMOTE, 8080)]));
    assert_eq!(new.flows(), 2);
    assert_eq!(new.pass(POD_A, &packet(ACK)).packet().dst, REMOTE, "the connection stays with its backend");
    let answer = udp((CLIENT, 53), (NODE, port));
    assert_eq!(new.pass(UPLINK, &answer), new.delivered(POD_B, answer.to(B, 7).hop()));
    assert_eq!((new.count(WorkerCounter::FlowsRevalidated), new.count(WorkerCounter::FlowsInserted)), (2, 0));
}

#[test]
fn a_successor_with_other_workers_starts_empty() {
    let mut old = node();
    old.pass(POD_A, &udp((A, 1), (REMOTE, 2)));
    let fd = old.workers[0].path().flows.region().fd().try_clone_to_owned().unwrap();
    let region = tables::Region::attach(fd, tables::region::Access::ReadWrite).unwrap();
    assert!(dataplane::flow::FlowTable::adopt(region, 0, 2).unwrap().is_none());
}
