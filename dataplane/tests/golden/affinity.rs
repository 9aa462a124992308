//! Clients that come back to a service: they get the backend that they had, whichever worker receives them, and over a
//! restart, until it serves no more. Turns and connections are counted by all workers together.

use crate::support::packets::tcp;
use crate::support::rows::Served;
use crate::support::*;
use packets::SYN;
use std::collections::{BTreeMap, HashSet};
use std::os::fd::OwnedFd;
use tables::Protocol;
use tables::service::{Algorithm, FLAG_MASQUERADE_ALL};

const NODE_PORT: (Addr, u16, Protocol) = (NODE, 30_080, Protocol::TCP);
const BACKENDS: [(Addr, u16); 4] = [(REMOTE, 8080), (REMOTE_TWO, 8080), (REMOTE, 8081), (REMOTE_TWO, 8081)];

fn served(affinity_s: u32, backends: &[(Addr, u16)]) -> Served<'_> {
    Served { inside: backends, outside: backends, flags: FLAG_MASQUERADE_ALL, affinity_s, ..Served::default() }
}

fn shape(workers: u16) -> Shape {
    Shape { workers, uplink_queues: workers, ..Shape::default() }
}

/// The backends that a client's connections get, from a port each, by all queues in turns.
fn backends(node: &mut Node, client: Addr, ports: std::ops::Range<u16>) -> HashSet<(Addr, u16)> {
    let workers = node.shape.workers;
    let to = |spec: &Spec| match spec.l4 {
        L4::Tcp { dst, .. } => (spec.dst, dst),
        _ => panic!("no TCP: {spec:?}"),
    };
    ports
        .map(|port| {
            let asked = node.dressed(UPLINK, &tcp((client, port), (NODE, 30_080), SYN));
            to(node.pass_queue(UPLINK, Some(port % workers), asked.bytes()).packet())
        })
        .collect()
}

#[test]
fn a_client_outside_keeps_its_backend_whichever_queue_it_comes_by() {
    for workers in [1, 2] {
        let mut node = Node::new(shape(workers));
        node.publish(|rows| rows.serve(1, NODE_PORT, served(10, &BACKENDS)));
        let clients = (1..40).map(|last| Addr::v4([203, 0, 113, last]));
        let all: Vec<_> = clients.map(|client| backends(&mut node, client, 2000..2006)).collect();
        assert!(all.iter().all(|of_one| of_one.len() == 1), "{all:?}");
        let used: HashSet<_> = all.into_iter().flatten().collect();
        assert_eq!(used.len(), 4, "the clients together have all of them");
        node.publish(|rows| rows.serve(1, NODE_PORT, served(0, &BACKENDS)));
        assert_eq!(backends(&mut node, CLIENT, 3000..3040).len(), 4, "without affinity one client has all of them");
    }
}

#[test]
fn a_pod_keeps_its_backend_over_a_restart_and_until_it_serves_no_more() {
    let asked = |port| tcp((A, port), (SERVICE, 80), SYN);
    let publish = |node: &mut Node, backends: &[(Addr, u16)]| {
        node.publish(|rows| {
            rows.serve(1, (SERVICE, 80, Protocol::TCP), Served { flags: 0, ..served(10_800, backends) })
        });
    };
    let mut old = Node::new(Shape::default());
    publish(&mut old, &BACKENDS[..2]);
    let backend = old.pass(POD_A, &asked(1000)).packet().dst;
    assert!((1001..1020).all(|port| old.pass(POD_A, &asked(port)).packet().dst == backend));
    let flows: OwnedFd = old.workers[0].path().flows.region().fd().try_clone_to_owned().unwrap();
    drop(old);
    let mut new = Node::with_flows(Shape::default(), |_| Some(flows.try_clone().unwrap()));
    publish(&mut new, &BACKENDS[..2]);
    assert!((2000..2020).all(|port| new.pass(POD_A, &asked(port)).packet().dst == backend), "adopted");
    let other = if backend == REMOTE { (REMOTE_TWO, 8080) } else { (REMOTE, 8080) };
    publish(&mut new, &[other]);
    assert_eq!(new.pass(POD_A, &asked(3000)).packet().dst, other.0);
    publish(&mut new, &BACKENDS[..2]);
    assert_eq!(new.pass(POD_A, &asked(3001)).packet().dst, other.0, "the new one is remembered");
}

/// The backends of connections of 60 clients outside, in their order, and by how many workers they were kept.
fn given(node: &mut Node, algorithm: Algorithm) -> Vec<(Addr, u16)> {
    let served = Served { algorithm, ..served(0, &BACKENDS) };
    node.publish(|rows| rows.serve(1, NODE_PORT, served));
    let given = (1..=60).flat_map(|last| backends(node, Addr::v4([203, 0, 113, last]), 2000..2001)).collect();
    assert!(node.workers.iter_mut().all(|worker| worker.path().flows.used() > 5), "each worker keeps some");
    given
}

#[test]
fn workers_take_turns_together() {
    let mut node = Node::new(shape(3));
    let given = given(&mut node, Algorithm::RoundRobin);
    assert!(given.windows(4).all(|turn| turn.iter().collect::<HashSet<_>>().len() == 4), "{given:?}");
}

#[test]
fn connections_of_all_workers_count_also_those_of_a_predecessor() {
    let mut old = Node::new(shape(3));
    let of_each = |given: &[(Addr, u16)]| {
        given.iter().fold(BTreeMap::<_, usize>::new(), |mut all, backend| {
            *all.entry(*backend).or_default() += 1;
            all
        })
    };
    let first = given(&mut old, Algorithm::LeastConnections);
    assert!(of_each(&first).values().all(|&flows| flows == 15), "{:?}", of_each(&first));
    let flows: Vec<OwnedFd> =
        old.workers.iter_mut().map(|w| w.path().flows.region().fd().try_clone_to_owned().unwrap()).collect();
    drop(old);
    let mut new = Node::with_flows(shape(3), |worker| Some(flows[worker as usize].try_clone().unwrap()));
    let served = |backends| Served { algorithm: Algorithm::LeastConnections, ..served(0, backends) };
    new.publish(|rows| rows.serve(1, NODE_PORT, served(&[BACKENDS[0], (REMOTE, 8082)])));
    let next: Vec<_> =
        (100..115).flat_map(|last| backends(&mut new, Addr::v4([203, 0, 113, last]), 2000..2001)).collect();
    assert!(next.iter().all(|&backend| backend == (REMOTE, 8082)), "the other has 15 already: {next:?}");
}
