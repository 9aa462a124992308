//! What a packet of an established flow costs, by way and by number of flows. The whole path runs as in production: pin,
//! scope check, counters, expiry and ownership.

use crate::case::{By, Case, Cost, Derived, Group, Planned, Seen, Target, Watched};
use crate::clock::{self, Stopwatch};
use crate::cluster::SERVICES_USED;
use crate::device::Traffic;
use crate::node::{Kind, Node, ROUND, pools, shuffled, traffic};
use anyhow::{Result, ensure};
use dataplane::io::Interface;
use dataplane::io::pool::FramePool;
use dataplane::packet::{BURST_MAX, Burst};
use tables::counters::WorkerCounter;

pub const TITLE: &str = "established flow";
const ABOUT: &str = "One packet of 64 bytes through everything that a node does to it, flows in random order; what the \
                     bench takes to make and swallow the packet is taken off.";

/// Numbers of flows: a name, whether the short run measures all ways, floor and aim of the way that encapsulates. Floors are
/// a third of what VPP needs for the same (at 10k what it needs at 1k, at 4M at 1M).
struct Size {
    flows: u32,
    name: &'static str,
    is_always_full: bool,
    floor: f64,
    aim: Option<f64>,
}

const SIZES: [Size; 5] = [
    Size { flows: 1_000, name: "1k flows", is_always_full: false, floor: 97.0 / 3.0, aim: None },
    Size { flows: 10_000, name: "10k flows", is_always_full: true, floor: 97.0 / 3.0, aim: Some(30.0) },
    Size { flows: 100_000, name: "100k flows", is_always_full: false, floor: 742.0 * 0.385 / 3.0, aim: None },
    Size { flows: 1_000_000, name: "1M flows", is_always_full: true, floor: 325.0 / 3.0, aim: Some(60.0) },
    Size { flows: 4_000_000, name: "4M flows", is_always_full: false, floor: 325.0 / 3.0, aim: None },
];

/// What VPP took for the encapsulating way on another such machine: flows, ns.
pub const VPP_ELSEWHERE: [(f64, f64); 3] = [(1e3, 97.0), (1e5, 742.0 * 0.385), (1e6, 325.0)];
pub const ENCAP: &str = "pod to ClusterIP, encap";
pub const DECAP: &str = "decap, policy, deliver";
pub const LOCAL: &str = "local pod to pod, both halves";
pub const ENCAP_V6: &str = "IPv6 pod to ClusterIP, encap";
const ADDED_NS_AIM: f64 = 8.0;

const WAYS: [(Kind, &str); 5] = [
    (Kind::Encap, ENCAP),
    (Kind::Plain, "pod to ClusterIP, no tunnel"),
    (Kind::Decap, DECAP),
    (Kind::PlainBack, "no tunnel, policy, deliver"),
    (Kind::Local, LOCAL),
];

/// Of IPv6, each with its place in `WAYS`; the short run asks this, as what follows, of one size.
const WAYS_V6: [(Kind, &str, usize); 3] = [
    (Kind::EncapV6, ENCAP_V6, 0),
    (Kind::DecapV6, "IPv6 decap, policy, deliver", 2),
    (Kind::LocalV6, "IPv6 local pod to pod, both halves", 4),
];

/// Of clients outside.
const WAYS_OUTSIDE: [(Kind, &str); 4] = [
    (Kind::Outside, OUTSIDE),
    (Kind::OutsideBack, "local pod to client outside"),
    (Kind::Relay, RELAY),
    (Kind::RelayBack, "remote to client outside, decap"),
];
pub const OUTSIDE: &str = "client outside to local pod";
pub const RELAY: &str = "client outside to remote, masquerade, encap";
const ONE_SIZE: &str = "10k flows";

pub fn groups(full: bool) -> Vec<Group> {
    SIZES.iter().map(|size| Group { title: TITLE, about: ABOUT, cases: cases(size, full) }).collect()
}

fn cases(size: &'static Size, full: bool) -> Vec<Planned> {
    let is_full = full || size.is_always_full;
    let mut cases = Vec::new();
    let mut measure = |kind, what| {
        let seen = [Seen::default(), Seen::default()];
        cases.push(empty_burst(kind, what, size, seen[1].clone()));
        cases.push(established(kind, what, size, seen[0].clone()));
        seen
    };
    let ways = &WAYS[..if is_full { WAYS.len() } else { 1 }];
    let seen: Vec<[Seen; 2]> = ways.iter().map(|&(kind, what)| measure(kind, what)).collect();
    let is_chosen = is_full && (full || size.name == ONE_SIZE);
    let (v6, outside) = if is_chosen { (&WAYS_V6[..], &WAYS_OUTSIDE[..]) } else { (&[][..], &[][..]) };
    let seen_v6: Vec<[Seen; 2]> = v6.iter().map(|&(kind, what, _)| measure(kind, what)).collect();
    outside.iter().for_each(|&(kind, what)| drop(measure(kind, what)));
    if let [encap, plain, decap, back, ..] = &seen[..] {
        cases.push(added("what encap adds", size, encap, plain));
        cases.push(added("what decap adds", size, decap, back));
    }
    let beside = |(&(_, what, v4), seen_v6)| times(&format!("{what}, in times of IPv4"), size, seen_v6, &seen[v4]);
    cases.extend(v6.iter().zip(&seen_v6).map(beside));
    cases
}

fn established(kind: Kind, what: &str, size: &'static Size, seen: Seen) -> Planned {
    let is_encap = kind == Kind::Encap;
    let target = Target { floor: Some(size.floor), aim: size.aim, ratio_min: None };
    Planned::ours(what, size.name, move || {
        let mut node = Node::established(kind, size.flows);
        let bytes = node.bytes();
        Ok(Watched { case: Established { node, bytes }, seen })
    })
    .subtract()
    .target(if is_encap { target } else { Target::default() })
}

fn empty_burst(kind: Kind, what: &str, size: &'static Size, seen: Seen) -> Planned {
    let make = move || Ok(Watched { case: EmptyBurst::new(kind, SERVICES_USED, size.flows), seen });
    Planned::ours(&format!("empty burst of: {what}"), size.name, make).by(By::Reference)
}

/// How much more one way costs than another, each less its own empty burst.
fn added(what: &str, size: &Size, more: &[Seen; 2], less: &[Seen; 2]) -> Planned {
    let of = more.iter().chain(less).cloned().collect();
    let how = |costs: &[f64]| costs[0] - costs[1] - (costs[2] - costs[3]);
    let target = Target { aim: Some(ADDED_NS_AIM), ..Target::default() };
    Planned::ours(what, size.name, move || Ok(Derived { of, how, is_time: true })).unit("ns more").target(target)
}

/// How many times as much one way costs as another, each less its own empty burst.
fn times(what: &str, size: &Size, one: &[Seen; 2], other: &[Seen; 2]) -> Planned {
    let of = one.iter().chain(other).cloned().collect();
    let how = |costs: &[f64]| (costs[0] - costs[1]) / (costs[2] - costs[3]);
    Planned::ours(what, size.name, move || Ok(Derived { of, how, is_time: false })).unit("ratio")
}

struct Established {
    node: Node,
    bytes: u64,
}

impl Case for Established {
    fn run(&mut self) -> Result<Cost> {
        // Does what was left undone while other cases ran: expiry goes by the clock.
        self.node.worker.round();
        let inserted = self.node.count(WorkerCounter::FlowsInserted);
        let cost = clock::repeat(|| {
            const ROUNDS: u64 = 64;
            (0..ROUNDS).for_each(|_| assert_eq!(self.node.worker.round() as u64, ROUND));
            ROUNDS * ROUND
        });
        self.node.assert_all_forwarded();
        let again = self.node.count(WorkerCounter::FlowsInserted) - inserted;
        ensure!(again == 0, "{again} flows timed out before their turn came and were opened anew");
        Ok(cost)
    }

    fn bytes(&self) -> Option<u64> {
        Some(self.bytes)
    }
}

/// What the bench costs itself: packets are made and swallowed.
pub struct EmptyBurst {
    device: Traffic,
    pool: FramePool,
    burst: Burst,
}

impl EmptyBurst {
    pub fn new(kind: Kind, services: u32, flows: u32) -> EmptyBurst {
        let (template, patch) = traffic(kind, services);
        let device = Traffic::new(1, template, patch, shuffled(flows));
        EmptyBurst { device, pool: pools(1).remove(0), burst: Burst::default() }
    }
}

impl Case for EmptyBurst {
    fn run(&mut self) -> Result<Cost> {
        Ok(clock::repeat(|| {
            const BURSTS: u64 = 256;
            for _ in 0..BURSTS {
                self.device.rx(&mut self.pool, &mut self.burst);
                self.device.tx(&mut self.pool, &mut self.burst);
            }
            BURSTS * BURST_MAX as u64
        }))
    }
}

impl Drop for EmptyBurst {
    fn drop(&mut self) {
        self.device.close(&mut self.pool);
    }
}

/// A round in which nothing comes, for the whole of the round.
pub fn empty_round() -> Group {
    let make = || {
        let mut node = Node::new(Kind::Encap.shape(), 1024);
        node.connect(Kind::Encap, Vec::new());
        Ok(move || {
            let (watch, rounds) = (Stopwatch::cpu(), 200_000);
            (0..rounds).for_each(|_| assert_eq!(node.worker.round(), 0));
            Ok(watch.per(rounds))
        })
    };
    let case = Planned::ours("empty round", "-", make).by(By::Reference);
    Group { title: "empty", about: "What a worker costs that has nothing to do.", cases: vec![case] }
}
