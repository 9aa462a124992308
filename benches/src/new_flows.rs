//! What the first packet of a flow costs and what its end costs, by what the tables hold. Both are in the figure: choice of
//! the backend, policy, insert, encap; then the flow's expiry and its share of looking through the table.

use crate::case::{By, Case, Cost, Derived, Group, Planned, Seen, Target, Watched};
use crate::clock::Stopwatch;
use crate::cluster::Shape;
use crate::engine::EmptyBurst;
use crate::node::{Kind, Node, ROUND, shuffled};
use anyhow::{Result, ensure};
use tables::counters::WorkerCounter;

pub const TITLE: &str = "new flow";
const ABOUT: &str = "The first packet of a flow, from the choice of its backend to the wire, and the flow's expiry \
                     later. All memory was used before, so that no page fault is in it: flows, buckets and tables come from \
                     the last-level cache; flows lie on huge pages if the run has them, tables on pages of 4 KiB. VPP took \
                     1,680 ns for the first packet alone, measured elsewhere.";
/// Flows that are opened before they are forgotten again; their memory is warm.
const FLOWS: u32 = 65_536;
pub const ENCAP: &str = "new: pod to ClusterIP, encap";
const OUTSIDE: &str = "new: client outside to local pod";
const RELAY: &str = "new: client outside to remote, masquerade, encap";
const LOCAL: &str = "new: local pod to pod, both halves";
pub const USUAL: &str = "11k services";
const TARGET: Target = Target { floor: Some(500.0), aim: Some(250.0), ratio_min: None };
const GROWTH: Target = Target { floor: Some(1.3), aim: Some(1.1), ratio_min: None };

pub fn groups() -> Vec<Group> {
    let usual = Kind::Encap.shape();
    let cases = vec![
        empty_burst(usual.services, USUAL, Seen::default()),
        opened(Kind::Encap, ENCAP, USUAL, usual, Seen::default()).target(TARGET),
        opened(Kind::Local, LOCAL, USUAL, usual, Seen::default()),
        opened(Kind::Outside, OUTSIDE, USUAL, Kind::Outside.shape(), Seen::default()),
        opened(Kind::Relay, RELAY, USUAL, Kind::Relay.shape(), Seen::default()),
    ];
    let base = Shape { services_more: 0, ..usual };
    let services = |services| Shape { services, ..base };
    // So many backends that each of the policies allows one.
    let policies = |policies| Shape { services: 2_500, policies, ..base };
    let mut more = compare("services", [("100 services", services(100)), ("30,000 services", services(30_000))]);
    more.extend(compare("policies", [("10 policies", policies(10)), ("10,000 policies", policies(10_000))]));
    vec![Group { title: TITLE, about: ABOUT, cases }, Group { title: TITLE, about: ABOUT, cases: more }]
}

/// The same with few and many rows, each less its own empty burst, and how much more many cost.
fn compare(what: &str, shapes: [(&'static str, Shape); 2]) -> Vec<Planned> {
    let (mut cases, mut of) = (Vec::new(), Vec::new());
    for (size, shape) in shapes {
        let (all, off) = (Seen::default(), Seen::default());
        cases.push(empty_burst(shape.services, size, off.clone()));
        cases.push(opened(Kind::Encap, ENCAP, size, shape, all.clone()));
        of.extend([all, off]);
    }
    let how = |costs: &[f64]| (costs[2] - costs[3]) / (costs[0] - costs[1]);
    let size = format!("{} / {}", shapes[1].0, shapes[0].0);
    let make = move || Ok(Derived { of, how, is_time: false });
    cases.push(Planned::ours(&format!("new: cost of more {what}"), &size, make).unit("ratio").target(GROWTH));
    cases
}

fn empty_burst(services: u32, size: &str, seen: Seen) -> Planned {
    let make = move || Ok(Watched { case: EmptyBurst::new(Kind::Encap, services, FLOWS), seen });
    Planned::ours("empty burst", size, make).by(By::Reference)
}

fn opened(kind: Kind, what: &str, size: &str, shape: Shape, seen: Seen) -> Planned {
    let make = move || {
        let mut node = Node::new(shape, 2 * FLOWS as usize * kind.flows_each());
        node.connect(kind, shuffled(FLOWS));
        node.run(2 * FLOWS as u64);
        let bytes = node.bytes();
        Ok(Watched { case: Opened { node, bytes }, seen })
    };
    Planned::ours(what, size, make).subtract()
}

struct Opened {
    node: Node,
    bytes: u64,
}

impl Opened {
    /// As expiry does when all flows have been silent for long.
    fn forget_all(&mut self) {
        let path = self.node.worker.path();
        let later = path.now_ms.wrapping_add(1 << 30);
        path.flows.expire(path.flows.capacity(), later);
        assert_eq!(path.flows.used(), 0, "flows are left");
    }
}

impl Case for Opened {
    fn run(&mut self) -> Result<Cost> {
        // The first round does what was left undone while other cases ran: expiry goes by the clock.
        self.node.worker.round();
        self.forget_all();
        let opened = self.node.count(WorkerCounter::FlowsInserted);
        let watch = Stopwatch::cpu();
        (0..FLOWS as u64 / ROUND).for_each(|_| assert_eq!(self.node.worker.round() as u64, ROUND));
        self.forget_all();
        let cost = watch.per(FLOWS as u64);
        self.node.assert_all_forwarded();
        let opened = self.node.count(WorkerCounter::FlowsInserted) - opened;
        ensure!(opened >= FLOWS as u64, "only {opened} of {FLOWS} flows were new");
        Ok(cost)
    }

    fn bytes(&self) -> Option<u64> {
        Some(self.bytes)
    }
}
