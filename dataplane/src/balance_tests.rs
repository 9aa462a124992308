//! What each algorithm gives, over tables that are published and read as a worker does. Seeds are drawn for each run and
//! printed.

use super::*;
use bytemuck::Zeroable;
use std::collections::BTreeMap;
use std::sync::Arc;
use tables::flow::{FlowLayout, FlowRecord, Tuple};
use tables::layout::Table;
use tables::maglev;
use tables::publish::Reader;
use tables::service::{FLAG_WEIGHTED, Rings, Rows, ServiceRecord};
use tables::{Protocol, Publisher, hash};

const PORT: u16 = 8080;

/// One service in published tables, and a worker's memory.
struct Bench {
    reader: Reader,
    _publisher: Publisher,
    service: ServiceRecord,
    affinities: Affinities,
    loads: Arc<Loads>,
    turns: Turns,
    seed: u64,
    now_ms: u32,
}

fn addr(i: usize) -> Addr {
    Addr::v4([10, 2, (i >> 8) as u8, i as u8])
}

fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let seed = std::collections::hash_map::RandomState::new().build_hasher().finish();
    println!("seed {seed:#x}");
    seed
}

impl Bench {
    /// `weights` may be all the same.
    fn new(algorithm: Algorithm, backends: &[usize], weights: &[u16]) -> Bench {
        let mut publisher = Publisher::create(1).unwrap();
        let mut batch = publisher.batch([]).unwrap();
        let list: Vec<(Addr, u16)> = backends.iter().map(|&i| (addr(i), PORT)).collect();
        for (i, (&(addr, port), &weight)) in list.iter().zip(weights).enumerate() {
            batch.set(Table::Backend, 5 + i, &BackendRecord { addr, port, weight, id: i as u32 }).unwrap();
        }
        let rows = Rows { first: 5, count: list.len() as u32 };
        let ring = maglev::ring(&list);
        let place = Rows { first: 3, count: ring.len() as u32 };
        let rings: [Rows; 2] = bytemuck::cast(Rings { inside: place, outside: place });
        rings.iter().enumerate().for_each(|(i, rows)| batch.set(Table::Ring, 1 + i, rows).unwrap());
        for (i, slots) in ring.chunks(4).enumerate() {
            let word: [u16; 4] = std::array::from_fn(|at| slots.get(at).copied().unwrap_or(0));
            batch.set(Table::Ring, 3 + i, &word).unwrap();
        }
        let has_ring = matches!(algorithm, Algorithm::Maglev | Algorithm::SourceHash);
        let flags = if weights.windows(2).any(|w| w[0] != w[1]) { FLAG_WEIGHTED } else { 0 };
        let (inside, outside, algorithm) = (rows, rows, algorithm as u8);
        let service = ServiceRecord {
            id: 1,
            inside,
            outside,
            algorithm,
            flags,
            ring: has_ring as u32,
            ..ServiceRecord::zeroed()
        };
        batch.publish();
        let fd = publisher.region().fd().try_clone_to_owned().unwrap();
        let mut reader = Reader::from_fd(fd).unwrap();
        reader.pin(&Default::default(), &mut Default::default());
        let memory = FlowLayout::for_capacity(64).create(0, 1, 7, 0).unwrap();
        let (affinities, loads, seed) = (Affinities::beside(&memory).unwrap(), Arc::<Loads>::default(), random());
        let turns = Turns::seeded(seed);
        Bench { reader, _publisher: publisher, service, affinities, loads, turns, seed, now_ms: 0 }
    }

    fn even(algorithm: Algorithm, backends: usize) -> Bench {
        Bench::new(algorithm, &Vec::from_iter(0..backends), &vec![1; backends])
    }

    /// The backend of the flow of a client from a port.
    fn choose(&mut self, client: u32, port: u16) -> Addr {
        let tuple = tuple(client, port);
        let asked = Asked { tuple: &tuple, service: &self.service, backends: self.service.inside };
        let pick = hash::hash_words(&tuple.words(), self.seed) ^ self.seed.rotate_left(17);
        let (affinities, loads, turns) = (&mut self.affinities, &self.loads, &self.turns);
        let mut chooser = Chooser { pick, now_ms: self.now_ms, affinities, loads, turns };
        chooser.choose(&self.reader.view(), &asked).expect("a backend").0
    }

    /// As a worker does it with a flow of a service by least connections.
    fn open(&mut self, client: u32, port: u16) -> (Addr, FlowRecord) {
        let backend = self.choose(client, port);
        let inside = tuple(client, port);
        let record = FlowRecord::new(inside, &Tuple { remote: backend, remote_port: PORT, ..inside });
        assert!(self.loads.add(&record));
        (backend, record)
    }

    fn shares(&mut self, flows: u32) -> BTreeMap<Addr, u64> {
        let mut shares = BTreeMap::new();
        let seed = self.seed;
        for i in 0..flows {
            let client = hash::fold(seed ^ i as u64, 0x9e37_79b9_7f4a_7c15) as u32;
            *shares.entry(self.choose(client, 1024 + i as u16 % 50_000)).or_default() += 1;
        }
        shares
    }
}

fn tuple(client: u32, port: u16) -> Tuple {
    Tuple {
        local: Addr::v4(client.to_be_bytes()),
        remote: Addr::v4([172, 30, 0, 10]),
        local_port: port,
        remote_port: 80,
        protocol: Protocol::TCP,
        reserved: 0,
        network: 0,
    }
}

/// Pearson's sum, and what it stays below but once in more than a million times: by Wilson and Hilferty's approximation, at
/// five standard deviations (3e-7).
fn chi_squared(shares: &BTreeMap<Addr, u64>, backends: usize) -> (f64, f64) {
    let expected = shares.values().sum::<u64>() as f64 / backends as f64;
    let missing = (backends - shares.len()) as f64 * expected;
    let sum: f64 = shares.values().map(|&share| (share as f64 - expected).powi(2) / expected).sum();
    let (freedom, z) = (backends as f64 - 1.0, 5.0);
    let part = 2.0 / (9.0 * freedom);
    (sum + missing, freedom * (1.0 - part + z * part.sqrt()).powi(3))
}

#[test]
fn every_algorithm_spreads_flows_evenly() {
    for algorithm in Algorithm::ALL {
        for backends in [2, 3, 7, 100] {
            let mut bench = Bench::even(algorithm, backends);
            let (found, limit) = chi_squared(&bench.shares(100_000), backends);
            println!("{algorithm:?}, {backends} backends: chi-squared {found:.1}, limit {limit:.1}");
            assert!(found < limit, "{algorithm:?}, {backends} backends: {found} >= {limit}");
        }
    }
}

#[test]
fn an_uneven_spread_is_found_out() {
    // A tenth more for one of ten.
    let shares = (0..10).map(|i| (addr(i), if i == 0 { 11_000 } else { 10_000 })).collect();
    let (found, limit) = chi_squared(&shares, 10);
    assert!(found > limit, "{found} <= {limit}");
}

#[test]
fn turns_go_round() {
    let mut bench = Bench::even(Algorithm::RoundRobin, 7);
    let first: Vec<Addr> = (0..7).map(|i| bench.choose(1, 1000 + i)).collect();
    assert_eq!(first.iter().collect::<std::collections::BTreeSet<_>>().len(), 7);
    for round in 1..20 {
        let again: Vec<Addr> = (0..7).map(|i| bench.choose(round, 1000 + i)).collect();
        assert_eq!(again, first);
    }
}

#[test]
fn turns_by_weight_are_exact_in_each_round_and_interleaved() {
    let weights = [5, 1, 0, 3, 1];
    let mut bench = Bench::new(Algorithm::RoundRobin, &[0, 1, 2, 3, 4], &weights);
    for _ in 0..10 {
        let round: Vec<Addr> = (0..10).map(|i| bench.choose(1, 1000 + i)).collect();
        for (i, &weight) in weights.iter().enumerate() {
            assert_eq!(round.iter().filter(|&&a| a == addr(i)).count(), weight as usize, "{round:?}");
        }
        assert!(!round.windows(4).any(|w| w.iter().all(|&a| a == w[0])), "{round:?}");
    }
}

#[test]
fn weights_of_zero_alone_do_not_stop_a_service() {
    // The flag says that they differ; a damaged row may lie.
    for algorithm in [Algorithm::RoundRobin, Algorithm::LeastConnections] {
        let mut bench = Bench::new(algorithm, &[0, 1], &[0, 0]);
        bench.service.flags = FLAG_WEIGHTED;
        bench.choose(1, 1000);
    }
}

#[test]
fn who_has_the_fewest_connections_gets_the_next_one() {
    let mut bench = Bench::even(Algorithm::LeastConnections, 5);
    let open: Vec<(Addr, FlowRecord)> = (0..500).map(|i| bench.open(i, 1000)).collect();
    let count = |bench: &Bench, i| bench.loads.of(addr(i), PORT, Protocol::TCP);
    assert!((0..5).all(|i| count(&bench, i) == 100));
    // All of one backend's end: it gets all of the next ones.
    open.iter().filter(|(backend, _)| *backend == addr(3)).for_each(|(_, record)| bench.loads.remove(record));
    assert_eq!(count(&bench, 3), 0);
    for i in 0..100 {
        assert_eq!(bench.open(1000 + i, 1000).0, addr(3));
    }
}

#[test]
fn connections_are_weighed() {
    let weights = [1, 2, 5, 0];
    let mut bench = Bench::new(Algorithm::LeastConnections, &[0, 1, 2, 3], &weights);
    for i in 0..800 {
        bench.open(i, 1000);
    }
    for (i, weight) in weights.into_iter().enumerate() {
        assert_eq!(bench.loads.of(addr(i), PORT, Protocol::TCP), 100 * weight as u32);
    }
}

#[test]
fn a_source_keeps_its_backend_whatever_its_port_and_the_worker() {
    let (mut one, mut other) = (Bench::even(Algorithm::SourceHash, 9), Bench::even(Algorithm::SourceHash, 9));
    for client in 0..200 {
        let backend = one.choose(client, 1000);
        assert!((1001..1010).all(|port| one.choose(client, port) == backend && other.choose(client, port) == backend));
    }
}

#[test]
fn by_maglev_all_nodes_choose_alike_and_few_flows_move_when_a_backend_goes() {
    let all: Vec<usize> = (0..100).collect();
    let left: Vec<usize> = all.iter().copied().filter(|&i| i != 42).collect();
    let mut nodes = [&all, &all, &left].map(|list| Bench::new(Algorithm::Maglev, list, &vec![1; list.len()]));
    let (mut moved, flows) = (0, 50_000);
    for i in 0..flows {
        let [one, two, after] = nodes.each_mut().map(|node| node.choose(i / 50, 1000 + (i % 50) as u16));
        assert_eq!(one, two);
        moved += (one != after) as u32;
    }
    println!("{:.2} % of flows moved", moved as f64 * 100.0 / flows as f64);
    assert!(moved * 100 < flows * 2, "{moved} of {flows}");
}

#[test]
fn a_damaged_ring_costs_evenness_and_nothing_else() {
    let mut bench = Bench::even(Algorithm::Maglev, 10);
    for ring in [0, 2, 3, 100, u32::MAX] {
        bench.service.ring = ring;
        bench.choose(1, 1000);
    }
}

#[test]
fn a_client_comes_back_to_its_backend_by_every_algorithm() {
    for algorithm in Algorithm::ALL {
        let mut bench = Bench::even(algorithm, 50);
        bench.service.affinity_s = 10;
        let backend = bench.choose(1, 1000);
        (1..50).for_each(|i| assert_eq!(bench.choose(1, 1000 + i), backend));
        bench.now_ms = 9_999;
        assert_eq!(bench.choose(1, 5000), backend);
        bench.now_ms = 19_998;
        assert_eq!(bench.choose(1, 5001), backend, "renewed");
        // After its time it is chosen anew, as for a client that was never seen.
        bench.now_ms = 29_998;
        let later: Vec<Addr> = (0..20).map(|client| bench.choose(client + 1, 6000)).collect();
        let is_by_client = algorithm == Algorithm::SourceHash;
        assert!(is_by_client || later.iter().any(|&b| b != backend), "{algorithm:?}");
    }
}

#[test]
fn a_backend_that_does_not_serve_is_forgotten() {
    let mut bench = Bench::even(Algorithm::Random, 50);
    bench.service.affinity_s = 86_400;
    let first: Vec<Addr> = (0..8).map(|client| bench.choose(client, 1000)).collect();
    // Half of them go.
    bench.service.inside = Rows { first: 5, count: 25 };
    for (client, backend) in first.into_iter().enumerate() {
        let now = bench.choose(client as u32, 2000);
        let serves = (0..25).any(|i| addr(i) == backend);
        assert!((0..25).any(|i| addr(i) == now) && (!serves || now == backend));
        assert_eq!(bench.choose(client as u32, 3000), now);
    }
}
