//! Direct server return: what a client outside asks one node, a pod of another one answers by itself. Two nodes: what the
//! first sends is put in at the second.

use crate::support::packets::{ACK, FIN, Outer, RST, SYN, encapsulate, error, quoted, tcp};
use crate::support::rows::{Rule, Served};
use crate::support::segments::{announced, opening};
use crate::support::*;
use tables::Protocol;
use tables::counters::{DropReason, WorkerCounter};
use tables::policy::{Direction, IDENTITY_WORLD};
use tables::service::{FLAG_DIRECT, FLAG_MASQUERADE_ALL};

pub const FLAGS: u16 = FLAG_MASQUERADE_ALL | FLAG_DIRECT;
pub const NODE_PORT: u16 = 30_080;

/// The node that is asked, and the node of its backends.
pub struct Pair {
    pub asked: Node,
    pub serving: Node,
}

impl Pair {
    pub fn new(shape: &Shape) -> Pair {
        Pair { asked: Node::new(shape.clone()), serving: Node::new(Shape { number: 2, ..shape.clone() }) }
    }

    /// A node port of the first one with these backends.
    pub fn serves(&mut self, id: u32, key: (Addr, u16, Protocol), backends: &[(Addr, u16)]) {
        let served = Served { inside: backends, outside: backends, flags: FLAGS, ..Served::default() };
        self.asked.publish(|rows| rows.serve(id, key, served));
    }

    /// What the first one sends to the second for a backend.
    pub fn forwarded(&self, backend: (Addr, u16), inner: Spec) -> Outcome {
        Outcome::sent(Sent::Tunnel(self.outer(1, backend, inner.traffic_class), self.inner(1, inner)))
    }

    pub fn outer(&self, from: u8, backend: (Addr, u16), traffic_class: u8) -> Outer {
        let usual = Shape { wrapped: Wrapped::Geneve, ..self.asked.shape.clone() }.outer(from, 3 - from);
        Outer { wrapped: Wrapped::Direct(backend.0, backend.1), traffic_class, ..usual }
    }

    fn inner(&self, from: u8, inner: Spec) -> Spec {
        let shape = Shape { wrapped: Wrapped::Geneve, ..self.asked.shape.clone() };
        inner.macs(shape.inner_mac(from), shape.inner_mac(3 - from))
    }

    /// Puts a client's packet in at the second as the first one sends it.
    pub fn arrives(&mut self, backend: (Addr, u16), inner: &Spec) -> Outcome {
        let outer = self.outer(1, backend, inner.traffic_class);
        let inner = self.inner(1, inner.clone());
        self.serving.pass_wire(UPLINK, encapsulate(&outer, 55_555, &inner.bytes()).bytes())
    }

    /// A client's packet through both; it must reach this backend, as the client sent it.
    pub fn asks(&mut self, packet: &Spec, backend: (Addr, u16)) {
        let sent = self.asked.pass(UPLINK, packet);
        assert_eq!(sent, self.forwarded(backend, packet.clone().hop()));
        let interface = backend.0.v6_octets()[15] as u32;
        let delivered = self.serving.delivered(interface, packet.clone().hop().hop().to(backend.0, backend.1));
        assert_eq!(self.arrives(backend, &packet.clone().hop()), delivered);
    }

    /// Its answer, from the second node to the client.
    pub fn answers(&mut self, answer: &Spec, service: (Addr, u16)) {
        let interface = answer.src.v6_octets()[15] as u32;
        let told = self.serving.routed(ROUTER_MAC, answer.clone().from(service.0, service.1).hop());
        assert_eq!(self.serving.pass(interface, answer), told);
    }
}

fn usual() -> Pair {
    let mut pair = Pair::new(&Shape::default());
    pair.serves(1, (NODE, NODE_PORT, Protocol::TCP), &[(REMOTE, 8080)]);
    pair.serves(2, (NODE, NODE_PORT, Protocol::UDP), &[(REMOTE, 53)]);
    pair
}

fn segment(flags: u8) -> Spec {
    tcp((CLIENT, 5000), (NODE, NODE_PORT), flags)
}

#[test]
fn a_client_keeps_its_address_and_the_backends_node_answers_it() {
    for ((wrapped, underlay, _), workers) in KINDS.into_iter().flat_map(|kind| [(kind, 1), (kind, 2)]) {
        let pods = vec![(4, 0), (5, workers - 1)];
        let shape = Shape { wrapped, underlay, workers, uplink_queues: workers, pods, ..Shape::default() };
        let mut pair = Pair::new(&shape);
        for (id, Family { node, client, .. }) in FAMILIES.into_iter().enumerate() {
            let far = [pod_in(id, 2, 4), pod_in(id, 2, 5)];
            for (i, pod) in far.into_iter().enumerate() {
                let (port, backend) = (NODE_PORT + i as u16, (pod, 8080));
                for (n, protocol) in [Protocol::TCP, Protocol::UDP].into_iter().enumerate() {
                    pair.serves((8 * id + 2 * i + n) as u32 + 1, (node, port, protocol), &[backend]);
                }
                for client_port in [5000, 5001, 5003] {
                    for flags in [SYN, ACK, FIN | ACK] {
                        pair.asks(&tcp((client, client_port), (node, port), flags), backend);
                        let answer = tcp(backend, (client, client_port), flags | ACK);
                        pair.answers(&answer, (node, port));
                    }
                    pair.asks(&udp((client, client_port), (node, port)).traffic_class(0xb8), backend);
                    pair.answers(&udp(backend, (client, client_port)), (node, port));
                }
            }
        }
        assert_eq!((pair.asked.flows(), pair.serving.flows()), (24, 24), "{shape:?}");
    }
}

#[test]
fn a_backend_of_the_asked_node_itself_sees_the_client_too() {
    let mut node = usual().asked;
    let backends = &[(B, 8080)][..];
    let served = Served { inside: backends, outside: backends, flags: FLAGS, ..Served::default() };
    node.publish(|rows| rows.serve(1, (NODE, NODE_PORT, Protocol::TCP), served));
    for flags in [SYN, ACK] {
        assert_eq!(node.pass(UPLINK, &segment(flags)), node.delivered(POD_B, segment(flags).to(B, 8080).hop()));
        let answer = tcp((B, 8080), (CLIENT, 5000), flags | ACK);
        assert_eq!(node.pass(POD_B, &answer), node.routed(ROUTER_MAC, answer.from(NODE, NODE_PORT).hop()));
    }
}

#[test]
fn pods_clients_that_are_nodes_and_backends_that_are_no_pods_are_masqueraded() {
    let mut pair = usual();
    let outcome = pair.asked.pass(POD_A, &tcp((A, 1000), (NODE, NODE_PORT), SYN));
    assert_eq!((outcome.packet().src, outcome.packet().dst), (SNAT, REMOTE));
    for backend in [PEER, Addr::v4([203, 0, 113, 77])] {
        pair.serves(1, (NODE, NODE_PORT, Protocol::TCP), &[(backend, 8080)]);
        let packet = tcp((CLIENT, 6000), (NODE, NODE_PORT), SYN);
        if backend == PEER {
            pair.asked.publish(|rows| rows.resolved(PEER, uplink_mac(2)));
        }
        assert_eq!(pair.asked.pass(UPLINK, &packet).packet().src, NODE);
    }
    pair.serves(1, (NODE, NODE_PORT, Protocol::TCP), &[(REMOTE, 8080)]);
    let outcome = pair.asked.pass(UPLINK, &tcp((PEER, 1000), (NODE, NODE_PORT), SYN));
    assert_eq!((outcome.packet().src, outcome.packet().dst), (SNAT, REMOTE));
}

#[test]
fn without_encapsulation_the_way_to_the_backends_node_is_the_same() {
    let mut pair = usual();
    for node in [&mut pair.asked, &mut pair.serving] {
        let (number, peer) = (node.shape.number, node_addr(3 - node.shape.number));
        node.publish(|rows| {
            let mut via = tables::route::RouteRecord::new(tables::route::RouteKind::Via);
            (via.peer, via.next_hop) = (peer, rows::NEIGHBOUR_PEER);
            rows.route(rows::ROUTE_PEER, tables::Prefix::new(pod(3 - number, 0), 24).unwrap(), via);
        });
    }
    pair.asks(&segment(SYN), (REMOTE, 8080));
    pair.answers(&tcp((REMOTE, 8080), (CLIENT, 5000), SYN | ACK), (NODE, NODE_PORT));
    let forged = pair.arrives((REMOTE, 8080), &tcp((A, 5000), (NODE, NODE_PORT), SYN));
    assert_eq!(forged, Outcome::dropped(DropReason::ForgedOutside));
}

#[test]
fn what_does_not_fit_with_all_headers_is_told_to_the_client_and_tcp_knows_from_the_start() {
    for (wrapped, underlay, _) in KINDS {
        let shape = Shape { wrapped, underlay, ..Shape::default() };
        let mut pair = Pair::new(&shape);
        for (id, Family { node, client, .. }) in FAMILIES.into_iter().enumerate() {
            let (v4, backend) = (id == 0, (pod_in(id, 2, 4), 8080));
            pair.serves(id as u32 + 1, (node, NODE_PORT, Protocol::TCP), &[backend]);
            let room = 1500 - if underlay == 0 { 50 } else { 70 } - if v4 { 12 } else { 24 };
            let headers = if v4 { 40 } else { 60 };
            let asked = |size: usize| tcp((client, 5000), (node, NODE_PORT), ACK).payload(&bulk(size - headers));
            pair.asks(&asked(room), backend);
            let frame = pair.asked.dressed(UPLINK, &asked(room + 1)).bytes();
            let told = pair.asked.pass_all(UPLINK, None, [&frame]);
            assert_eq!(told.dropped, [DropReason::TooBig]);
            let (_, bytes) = &told.sent[0];
            let mtu = if v4 { &bytes[40..42] } else { &bytes[60..62] };
            assert_eq!(u16::from_be_bytes([mtu[0], mtu[1]]) as usize, room);
            let told = Spec::judge(bytes);
            let (src, dst, _, _) = quoted(&told);
            assert_eq!((told.src, src, dst), (node, client, node), "as the client sent it");
            // The backend's node has IPv4 to tunnel over.
            let room = if v4 { 1438 } else { 1426 };
            let mac = pod_mac(2, 4);
            let answer = opening(mac, backend, (client, 5000), SYN | ACK, 1460);
            let told = pair.serving.pass_all(POD_A, None, [&answer]);
            assert_eq!(announced(&told.sent[0].1) as usize, room - headers);
        }
    }
}

#[test]
fn a_datagram_that_may_be_cut_arrives_in_parts_and_so_does_what_the_client_cut() {
    let (mut pair, backend) = (usual(), (REMOTE, 53));
    for (size, cuts) in [(1450, vec![]), (3000, vec![1480, 2960]), (3000, vec![800, 1600, 2400])] {
        let packet = udp((CLIENT, 7000 + size as u16 + cuts.len() as u16), (NODE, NODE_PORT)).payload(&bulk(size));
        let frame = pair.asked.dressed(UPLINK, &packet).bytes();
        let frames = if cuts.is_empty() {
            vec![fragments::part(&frame, (0, frame.len() - 34), false, 5)]
        } else {
            fragments::split(&frame, &cuts, 5)
        };
        let sent = pair.asked.pass_all(UPLINK, None, frames.iter().rev());
        assert!(sent.sent.len() > cuts.len() && sent.sent.iter().all(|(_, frame)| frame.len() <= 1514), "{cuts:?}");
        assert_eq!(sent.together(), pair.forwarded(backend, packet.clone().hop()));
        let delivered = pair.serving.pass_all(UPLINK, None, sent.sent.iter().map(|(_, frame)| frame));
        assert_eq!(delivered.together(), pair.serving.delivered(POD_A, packet.hop().hop().to(REMOTE, 53)));
    }
}

#[test]
fn fragments_find_the_worker_of_the_backend_in_both_families() {
    let pods = vec![(4, 1), (5, 0)];
    let shape = Shape { workers: 2, uplink_queues: 2, pods, ..Shape::default() };
    let mut pair = Pair::new(&shape);
    for (id, Family { node, client, .. }) in FAMILIES.into_iter().enumerate() {
        let backend = (pod_in(id, 2, 4), 53);
        pair.serves(id as u32 + 1, (node, NODE_PORT, Protocol::UDP), &[backend]);
        for (client_port, order) in (6000..).zip([[0, 1, 2], [2, 1, 0], [1, 0, 2]]) {
            let packet = udp((client, client_port), (node, NODE_PORT)).payload(&bulk(1200));
            let parts = fragments::split(&pair.asked.dressed(UPLINK, &packet).bytes(), &[400, 800], client_port as u32);
            let sent = pair.asked.pass_all(UPLINK, Some(client_port % 2), order.map(|i| &parts[i]));
            assert_eq!(sent.together(), pair.forwarded(backend, packet.clone().hop()));
            let queue = Some(1 - client_port % 2);
            let delivered = pair.serving.pass_all(UPLINK, queue, sent.sent.iter().rev().map(|(_, frame)| frame));
            let expected = pair.serving.delivered(POD_A, packet.hop().hop().to(backend.0, backend.1));
            assert_eq!(delivered.together(), expected);
        }
    }
}

#[test]
fn errors_about_answers_reach_the_backend_and_its_own_the_client() {
    for (id, Family { node, client, router, .. }) in FAMILIES.into_iter().enumerate() {
        for workers in [1, 2] {
            let shape = Shape { workers, uplink_queues: workers, pods: vec![(4, workers - 1)], ..Shape::default() };
            let (mut pair, backend) = (Pair::new(&shape), (pod_in(id, 2, 4), 53));
            pair.serves(1, (node, NODE_PORT, Protocol::UDP), &[backend]);
            let asked = udp((client, 5000), (node, NODE_PORT));
            pair.asks(&asked, backend);
            let answered = pair.serving.pass(POD_A, &udp(backend, (client, 5000))).packet().clone();
            for from in [router, client] {
                let about = error(from, L4::TimeExceeded, &answered);
                assert_eq!(pair.asked.pass(UPLINK, &about), pair.forwarded(backend, about.clone().hop()));
                let outcome = pair.arrives(backend, &about.hop());
                let told = outcome.packet();
                assert_eq!((told.src, told.dst, told.ttl, &told.l4), (from, backend.0, 62, &L4::TimeExceeded));
                let (src, dst, _, quote) = quoted(told);
                assert_eq!((src, dst, &quote[..2]), (backend.0, client, &53u16.to_be_bytes()[..]));
            }
            let received = udp((client, 5000), backend);
            let refused = error(backend.0, L4::Unreachable { code: 3 }, &received);
            let told = pair.serving.pass(POD_A, &refused);
            assert_eq!((told.packet().src, told.packet().dst), (node, client));
            let (src, dst, _, quote) = quoted(told.packet());
            assert_eq!((src, dst, &quote[2..4]), (client, node, &NODE_PORT.to_be_bytes()[..]));
        }
    }
}

#[test]
fn both_nodes_are_hops_and_say_so_about_what_the_client_sent() {
    let mut pair = usual();
    for (packet, speaker) in [(segment(SYN).ttl(1), NODE), (segment(SYN).ttl(2), PEER)] {
        let outcome = pair.asked.pass(UPLINK, &packet);
        let outcome = if speaker == NODE { outcome } else { pair.arrives((REMOTE, 8080), &packet.hop()) };
        let told = outcome.packet_of_any();
        assert_eq!((told.src, told.dst, &told.l4), (speaker, CLIENT, &L4::TimeExceeded));
        let (src, dst, _, _) = quoted(told);
        assert_eq!((src, dst), (CLIENT, NODE));
    }
}

#[test]
fn the_backends_policies_judge_the_client() {
    let mut pair = usual();
    let rule = Rule { identity: IDENTITY_WORLD, protocol: Protocol::TCP, port: 8080, policy: 3 };
    pair.serving.publish(|rows| {
        rows.policy(1, Direction::Ingress, &[rule]);
        rows.pod(4, 0, 1);
    });
    pair.asks(&segment(SYN), (REMOTE, 8080));
    pair.answers(&tcp((REMOTE, 8080), (CLIENT, 5000), SYN | ACK), (NODE, NODE_PORT));
    pair.serving.publish(|rows| rows.forbid(1, Direction::Ingress, IDENTITY_WORLD));
    let denied = Outcome::dropped(DropReason::PolicyIngress);
    assert_eq!(pair.arrives((REMOTE, 8080), &segment(ACK)), denied);
    assert_eq!(pair.serving.pass(POD_A, &tcp((REMOTE, 8080), (CLIENT, 5000), ACK)), denied);
    assert_eq!(pair.arrives((REMOTE, 53), &udp((CLIENT, 5000), (NODE, NODE_PORT))), denied);
    pair.serving.publish(|rows| rows.pod(4, 0, 0));
    pair.asks(&segment(ACK), (REMOTE, 8080));
}

#[test]
fn when_a_backend_goes_datagrams_move_at_once_and_connections_are_reset() {
    let mut pair = usual();
    let datagram = udp((CLIENT, 5000), (NODE, NODE_PORT));
    pair.asks(&segment(SYN), (REMOTE, 8080));
    pair.asks(&segment(ACK), (REMOTE, 8080));
    pair.asks(&datagram, (REMOTE, 53));
    pair.serves(1, (NODE, NODE_PORT, Protocol::TCP), &[(REMOTE_TWO, 8080)]);
    pair.serves(2, (NODE, NODE_PORT, Protocol::UDP), &[(REMOTE_TWO, 53)]);
    // On the same node: there the flow is another one from now on.
    pair.asks(&datagram, (REMOTE_TWO, 53));
    pair.answers(&udp((REMOTE_TWO, 53), (CLIENT, 5000)), (NODE, NODE_PORT));
    let outcome = pair.asked.pass(UPLINK, &segment(ACK));
    let L4::Tcp { flags, .. } = outcome.packet().l4 else { panic!("no TCP") };
    assert_eq!((outcome.packet().src, outcome.packet().dst, flags & RST), (NODE, CLIENT, RST));
    pair.asks(&segment(SYN), (REMOTE_TWO, 8080));
}

#[test]
fn a_connection_stays_as_it_is_when_the_service_changes_to_the_other_way() {
    let mut pair = usual();
    let backends = &[(REMOTE, 8080)][..];
    let by = |flags| Served { inside: backends, outside: backends, flags, ..Served::default() };
    let key = (NODE, NODE_PORT, Protocol::TCP);
    pair.asks(&segment(SYN), (REMOTE, 8080));
    pair.asked.publish(|rows| rows.serve(1, key, by(FLAG_MASQUERADE_ALL)));
    pair.asks(&segment(ACK), (REMOTE, 8080));
    let other = tcp((CLIENT, 5001), (NODE, NODE_PORT), SYN);
    let port = pair.asked.pass(UPLINK, &other).packet().src_port();
    pair.asked.publish(|rows| rows.serve(1, key, by(FLAGS)));
    let later = tcp((CLIENT, 5001), (NODE, NODE_PORT), ACK);
    let expected = pair.asked.tunnelled(later.clone().from(SNAT, port).to(REMOTE, 8080).hop());
    assert_eq!(pair.asked.pass(UPLINK, &later), expected);
    pair.asks(&segment(ACK), (REMOTE, 8080));
}

#[test]
fn of_two_services_with_one_backend_the_second_from_one_port_is_masqueraded() {
    let mut pair = usual();
    pair.serves(3, (NODE, NODE_PORT + 1, Protocol::TCP), &[(REMOTE, 8080)]);
    pair.asks(&segment(SYN), (REMOTE, 8080));
    pair.asks(&segment(ACK), (REMOTE, 8080));
    let second = tcp((CLIENT, 5000), (NODE, NODE_PORT + 1), SYN);
    let outcome = pair.asked.pass(UPLINK, &second);
    let port = outcome.packet().src_port();
    assert_eq!(outcome, pair.asked.tunnelled(second.from(SNAT, port).to(REMOTE, 8080).hop()));
    let answer = tcp((REMOTE, 8080), (SNAT, port), SYN | ACK);
    let told = answer.clone().from(NODE, NODE_PORT + 1).to(CLIENT, 5000).hop();
    assert_eq!(pair.asked.pass_tunnel(&answer), pair.asked.routed(ROUTER_MAC, told));
    pair.asks(&segment(ACK), (REMOTE, 8080));
}

#[test]
fn a_service_whose_address_moves_to_the_backends_node_goes_on_there_and_back() {
    let address = Addr::v4([198, 51, 100, 10]);
    let (key, backend) = ((address, 80, Protocol::TCP), (REMOTE, 8080));
    let mut pair = usual();
    pair.serves(3, key, &[backend]);
    let backends = &[backend][..];
    let served = Served { inside: backends, outside: backends, flags: FLAGS, ..Served::default() };
    pair.serving.publish(|rows| rows.serve(3, key, served));
    let asks = |flags| tcp((CLIENT, 5000), (address, 80), flags);
    let answer = tcp(backend, (CLIENT, 5000), ACK);
    pair.asks(&asks(SYN), backend);
    pair.answers(&answer, (address, 80));
    pair.asks(&asks(ACK), backend);
    for _ in 0..2 {
        let here = pair.serving.pass(UPLINK, &asks(ACK));
        assert_eq!(here, pair.serving.delivered(POD_A, asks(ACK).to(REMOTE, 8080).hop()));
        pair.answers(&answer, (address, 80));
        pair.asks(&asks(ACK), backend);
        pair.answers(&answer, (address, 80));
    }
}

#[test]
fn explain_names_the_node_that_answers() {
    use tables::message::ExplainQuery;
    let node = usual().asked;
    let (src, dst, dst_port) = (CLIENT, NODE, NODE_PORT);
    let query = ExplainQuery { interface: None, src, dst, src_port: 5000, dst_port, protocol: Protocol::TCP };
    let told = dataplane::explain::explain(node.publisher.live(), &query);
    assert_eq!((&told.verdict[..], told.direct, told.masquerade), ("forward", Some(PEER), false));
    assert!(
        told.steps
            .iter()
            .any(|(what, result)| what.ends_with("direct server return") && result.contains("192.168.0.2"))
    );
}

#[test]
fn a_flood_leaves_connections_whose_clients_went_on_and_new_ones_find_no_room_at_last() {
    let mut pair = Pair::new(&Shape { flows_max: 64, ..Shape::default() });
    for (id, protocol) in [(1, Protocol::TCP), (2, Protocol::UDP)] {
        pair.serves(id, (NODE, NODE_PORT, protocol), &[(REMOTE, 8080)]);
    }
    let asked = |port, flags| tcp((CLIENT, port), (NODE, NODE_PORT), flags);
    for port in 5000..5032 {
        pair.asked.pass(UPLINK, &asked(port, SYN)).packet();
        pair.asked.pass(UPLINK, &asked(port, ACK)).packet();
    }
    // Forged: each comes once, be it a SYN, amid a connection, or a datagram.
    for port in 6000..6100 {
        pair.asked.pass(UPLINK, &asked(port, SYN));
        pair.asked.pass(UPLINK, &asked(port + 1000, ACK));
        pair.asked.pass(UPLINK, &udp((CLIENT, port), (NODE, NODE_PORT)));
    }
    let evicted = |pair: &Pair| pair.asked.count(WorkerCounter::FlowsEvicted);
    assert_eq!((pair.asked.flows(), evicted(&pair)), (64, 300 - 32));
    let inserted = pair.asked.count(WorkerCounter::FlowsInserted);
    (5000..5032).for_each(|port| drop(pair.asked.pass(UPLINK, &asked(port, ACK)).packet().clone()));
    assert_eq!(pair.asked.count(WorkerCounter::FlowsInserted), inserted, "all were there");
}
