//! What a flow of the cases has to look like to real sockets, and what is asked for that. Must not send anything.
//!
//! - `forward`: every connection is answered by one of the backends, so many that each of them has answered; the backend saw
//!   the client's address, or one of the node's where a masquerade is expected. With affinity one backend answers all.
//! - `reject`: refused at once, by a TCP reset or a port unreachable. The node itself listens on all of its ports that the
//!   cases name, so it is not the kernel that refuses there.
//! - `drop`: silence, and (unless another verdict would do) a counter of what services drop moved.
//! - `pass`: to an address where somebody listens (the node, a pod): he answers and saw the client; elsewhere silence; and
//!   no counter of what services drop moved.

use super::format::{Expect, Flow};
use lab::agent::question::Outcome;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// That a backend is missed by chance although it is served: for one flow; there are some hundreds.
const FALSE_ALARM: f64 = 1e-9;
/// For what is answered alike each time.
const A_FEW: usize = 3;
/// With affinity: that all of these go to one backend by chance is as good as impossible, if there are several.
const WITH_AFFINITY: usize = 40;

/// What became of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    Forwarded,
    Rejected,
    Dropped,
    Passed,
}

impl Way {
    fn of(verdict: &str) -> Option<Way> {
        let all = [Way::Forwarded, Way::Rejected, Way::Dropped, Way::Passed];
        ["forward", "reject", "drop", "pass"].iter().zip(all).find(|(name, _)| **name == verdict).map(|(_, way)| way)
    }
}

/// Connections after which each of `backends` has been chosen, but for a chance of [`FALSE_ALARM`]: by the union bound that
/// one is missed by all has at most the probability backends * (1 - 1 / backends) ^ connections.
pub fn connections(backends: usize) -> usize {
    match backends {
        0 | 1 => A_FEW,
        _ => {
            let backends = backends as f64;
            ((FALSE_ALARM / backends).ln() / (1.0 - 1.0 / backends).ln()).ceil() as usize
        }
    }
}

pub fn connections_of(flow: &Flow) -> usize {
    match (flow.expect.verdict.as_str(), flow.expect.sticky_seconds) {
        ("forward", None) => connections(flow.expect.backends.len()),
        ("forward", Some(_)) => WITH_AFFINITY,
        _ => 2,
    }
}

/// Who listens, beside backends, and whose addresses a masquerade may show.
pub struct Judge {
    pub node_addresses: BTreeSet<IpAddr>,
    pub witnesses: BTreeSet<IpAddr>,
}

impl Judge {
    /// The way that a flow went, if it is one that is expected.
    pub fn way(&self, flow: &Flow, outcomes: &[Outcome]) -> Result<Way, String> {
        let expect = &flow.expect;
        let allowed = std::iter::once(&expect.verdict).chain(&expect.also_ok);
        let mut wrong = Vec::new();
        for way in allowed.filter_map(|verdict| Way::of(verdict)) {
            match self.looks(way, flow, outcomes) {
                Ok(()) => return Ok(way),
                Err(why) => wrong.push(why),
            }
        }
        Err(format!("{} expected: {}", expect.verdict, wrong.join("; ")))
    }

    fn looks(&self, way: Way, flow: &Flow, outcomes: &[Outcome]) -> Result<(), String> {
        let to = flow.to.ip();
        match way {
            Way::Forwarded => self.looks_forwarded(flow, outcomes),
            Way::Rejected => all_are(&Outcome::Refused, outcomes),
            Way::Passed if self.witnesses.contains(&to) => {
                let by = SocketAddr::new(to, flow.port);
                all_are(&Outcome::Answered { by, saw: flow.from.ip() }, outcomes)
            }
            Way::Dropped | Way::Passed => all_are(&Outcome::Silence, outcomes),
        }
    }

    fn looks_forwarded(&self, flow: &Flow, outcomes: &[Outcome]) -> Result<(), String> {
        let Expect { backends, masquerade, sticky_seconds, .. } = &flow.expect;
        let from = flow.from.ip();
        let mut answered = BTreeSet::new();
        for outcome in outcomes {
            let Outcome::Answered { by, saw } = outcome else { return Err(told(outcomes)) };
            let is_right = if *masquerade { self.node_addresses.contains(saw) } else { *saw == from };
            if !is_right {
                return Err(format!("masquerade {masquerade} expected: {by} saw {saw}, asked by {from}"));
            }
            answered.insert(*by);
        }
        let is_right = match sticky_seconds {
            Some(_) => answered.len() == 1 && answered.is_subset(backends),
            None => answered == *backends,
        };
        if is_right { Ok(()) } else { Err(format!("backends {backends:?} expected: {}", told(outcomes))) }
    }
}

fn all_are(expected: &Outcome, outcomes: &[Outcome]) -> Result<(), String> {
    let are = !outcomes.is_empty() && outcomes.iter().all(|outcome| outcome == expected);
    if are { Ok(()) } else { Err(format!("not {expected:?}: {}", told(outcomes))) }
}

/// What came of all connections, each kind once with its number.
fn told(outcomes: &[Outcome]) -> String {
    let mut kinds: BTreeMap<&Outcome, usize> = BTreeMap::new();
    outcomes.iter().for_each(|outcome| *kinds.entry(outcome).or_default() += 1);
    kinds.iter().map(|(outcome, count)| format!("{count} x {outcome:?}")).collect::<Vec<_>>().join(", ")
}

#[test]
fn so_many_connections_miss_a_backend_hardly_ever_and_fewer_would() {
    for backends in 2..=10usize {
        let missed = |n: usize| backends as f64 * (1.0 - 1.0 / backends as f64).powi(n as i32);
        let enough = connections(backends);
        assert!(missed(enough) <= FALSE_ALARM && missed(enough - 1) > FALSE_ALARM, "{backends}: {enough}");
    }
}
