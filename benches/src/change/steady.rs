//! What established flows pay while others change, and what all of them pay for a change that concerns all: pairs of runs
//! with and without, in turns.

use super::rig::Rig;
use super::told_each_round;
use super::updates::Updates;
use super::world::{self, Size};
use crate::case::{By, Case, Cost, Derived, Group, Planned, Seen, Target, Watched};
use crate::clock::Stopwatch;
use crate::cluster::SERVICES_USED;
use crate::cores;
use crate::device::Traffic;
use crate::engine::EmptyBurst;
use crate::node::{Kind, ROUND};
use anyhow::{Context, Result, ensure};
use control::object::ObjectChange;
use std::cell::RefCell;
use std::rc::Rc;
use std::thread::sleep;
use std::time::{Duration, Instant};
use tables::counters::WorkerCounter;

const TITLE: &str = "others while tables change";
const ABOUT: &str = "Packets of established flows, encapsulated, among 10k services x 10; thread CPU time, less what the bench \
                     takes to make and swallow them. Elsewhere: an endpoint of another service is replaced 1,000 times a \
                     second, for 2.75 seconds a round, which is half a minute in eleven, in slices that take turns with \
                     slices without. All: a policy of the pod changes, then each flow comes once.";
pub const SIZE: Size = Size { services: 10_000, endpoints: 10, name: "10k services x 10" };
const PER_SECOND: u32 = 1000;
/// With changes, in each round, and as long without.
const RUN: Duration = Duration::from_millis(2750);
/// Of a run, with changes and as many without.
const SLICES: u32 = 25;
/// How often a pass is repeated in a run.
const PASSES: u64 = 4;
const ELSEWHERE: Target = Target { floor: Some(1.05), aim: None, ratio_min: None };
const ALL: Target = Target { floor: Some(2.0), aim: None, ratio_min: None };
const NONE_MORE: Target = Target { floor: Some(0.0), aim: None, ratio_min: None };

/// Flows, in whole rounds.
const FLOWS: [(u32, &str); 2] = [(80 * ROUND as u32, "10k flows"), (800 * ROUND as u32, "100k flows")];

type Shared = Rc<RefCell<Option<Rig>>>;

pub fn groups() -> Vec<Group> {
    FLOWS.iter().map(|&(flows, size)| Group { title: TITLE, about: ABOUT, cases: cases(flows, size) }).collect()
}

fn cases(flows: u32, size: &'static str) -> Vec<Planned> {
    let shared = Shared::default();
    let off = Seen::default();
    let (seen, fill) = (off.clone(), shared.clone());
    let reference = Planned::ours("empty burst", size, move || {
        let mut rig = Rig::new(SIZE, flows, |traffic: Traffic, _| Box::new(traffic))?;
        rig.load()?;
        *fill.borrow_mut() = Some(rig);
        Ok(Watched { case: EmptyBurst::new(Kind::Encap, SERVICES_USED, flows), seen })
    });
    let mut cases = vec![reference.by(By::Reference)];
    cases.extend(elsewhere(flows, size, &shared, &off));
    cases.extend(all(flows, size, &shared, &off));
    cases
}

/// With and without changes of other services.
fn elsewhere(flows: u32, size: &'static str, shared: &Shared, off: &Seen) -> [Planned; 5] {
    let [quiet, busy, lost, renewed] = [(); 4].map(|()| Seen::default());
    let case = Steady {
        shared: shared.clone(),
        flows,
        changes: 0,
        busy: busy.clone(),
        lost: lost.clone(),
        renewed: renewed.clone(),
    };
    let seen = quiet.clone();
    [
        Planned::ours("established, nothing changes", size, move || Ok(Watched { case, seen })).subtract(),
        told_each_round("established, 1,000 changes/s elsewhere", size, busy.clone(), true).subtract(),
        // Scopes share slots: some changes concern flows that do not depend on them.
        told_each_round("flows looked at again for each change elsewhere", size, renewed, false).unit("flows"),
        ratio("cost of changes elsewhere", size, [&busy, &quiet, off]).target(ELSEWHERE),
        told_each_round("packets lost with changes, less those without", size, lost, false)
            .unit("packets")
            .target(NONE_MORE),
    ]
}

/// A pass over all flows after a change of all, and one without.
fn all(flows: u32, size: &'static str, shared: &Shared, off: &Seen) -> [Planned; 3] {
    let [plain, touched] = [(); 2].map(|()| Seen::default());
    let pass = |what: &str, touches: bool, cost: &Seen| {
        let (case, seen) = (Pass { shared: shared.clone(), flows, touches, changes: 0 }, cost.clone());
        Planned::ours(what, size, move || Ok(Watched { case, seen })).subtract()
    };
    [
        pass("one pass over all flows", false, &plain),
        pass("one pass after a change of all", true, &touched),
        ratio("cost of a change of all", size, [&touched, &plain, off]).target(ALL),
    ]
}

fn ratio(what: &str, size: &str, of: [&Seen; 3]) -> Planned {
    let how = |costs: &[f64]| (costs[0] - costs[2]) / (costs[1] - costs[2]);
    let ratio = Derived { of: of.map(Seen::clone).to_vec(), how, is_time: false };
    Planned::ours(what, size, move || Ok(ratio)).unit("ratio")
}

/// Some time of forwarding, and as much with changes of services that the flows do not use: in short slices of either, since
/// a shared machine's speed changes within a second.
struct Steady {
    shared: Shared,
    flows: u32,
    changes: u32,
    /// The cost with changes; without them it is the case's own.
    busy: Seen,
    /// Packets lost with changes, less those lost without.
    lost: Seen,
    /// Flows that were looked at again, for each change.
    renewed: Seen,
}

/// What the slices of one kind took.
#[derive(Default)]
struct Slices {
    ns: f64,
    took: Duration,
    packets: u64,
    changes: u32,
    renewed: u64,
    lost: u64,
}

impl Case for Steady {
    fn run(&mut self) -> Result<Cost> {
        let mut shared = self.shared.borrow_mut();
        let rig = shared.as_mut().context("the node was not set up")?;
        [&self.busy, &self.lost, &self.renewed].into_iter().for_each(|told| told.set(f64::NAN));
        let (run, [mut quiet, mut busy]) = (RUN / SLICES, [Slices::default(), Slices::default()]);
        for slice in 0..SLICES {
            // Neither is always the first of its pair.
            for is_busy in [slice % 2 == 1, slice % 2 == 0] {
                if is_busy {
                    let first = self.changes + busy.changes;
                    busy.add(rig, self.flows, |updates| change_others(updates, first, run))?;
                } else {
                    quiet.add(rig, self.flows, |_| {
                        sleep(run);
                        Ok((0, run))
                    })?;
                }
            }
        }
        in_time(busy.took, RUN)?;
        self.changes += busy.changes;
        self.busy.set(busy.ns / busy.packets as f64);
        self.lost.set(busy.lost as f64 - quiet.lost as f64);
        self.renewed.set(busy.renewed as f64 / busy.changes as f64);
        Ok(Cost::ns(quiet.ns / quiet.packets as f64))
    }
}

impl Slices {
    /// Forwards while control does `work`, which says how many changes it made and how long that took; before, a pass in
    /// which each flow sees what changed earlier.
    fn add<W>(&mut self, rig: &mut Rig, flows: u32, work: W) -> Result<()>
    where
        W: FnOnce(&mut Updates) -> Result<(u32, Duration)> + Send,
    {
        rig.forward(flows as u64);
        let (renewed, dropped) = (rig.count(WorkerCounter::FlowsRevalidated), rig.dropped());
        let watch = Stopwatch::cpu();
        let ((changes, took), packets) = rig.beside(cores::other()?, |updates, _| work(updates))?;
        self.ns += watch.ns();
        self.took += took;
        self.packets += packets;
        self.changes += changes;
        self.renewed += rig.count(WorkerCounter::FlowsRevalidated) - renewed;
        self.lost += rig.dropped() - dropped;
        Ok(())
    }
}

/// Replaces endpoints of one service after the other, 1,000 a second. How many, and how long it took.
pub fn change_others(updates: &mut Updates, first: u32, run: Duration) -> Result<(u32, Duration)> {
    let (start, count) = (Instant::now(), (run.as_secs_f64() * PER_SECOND as f64) as u32);
    for i in 0..count {
        sleep((Duration::from_secs(1) / PER_SECOND * i).saturating_sub(start.elapsed()));
        updates.put(other(first + i))?;
    }
    Ok((count, start.elapsed()))
}

/// An error if changes took longer than they were to.
pub fn in_time(took: Duration, run: Duration) -> Result<()> {
    ensure!(took < run * 11 / 10, "control needed {took:?} for changes that were due in {run:?}");
    Ok(())
}

fn other(change: u32) -> ObjectChange {
    const STRIDE: u32 = 7919;
    let service = change.wrapping_mul(STRIDE) % SIZE.services;
    let mut addrs = SIZE.addrs(service);
    addrs[(change % SIZE.endpoints) as usize] = world::fresh(change);
    ObjectChange::Put(world::slice(SIZE.number(service), &addrs))
}

/// Each flow once.
struct Pass {
    shared: Shared,
    flows: u32,
    touches: bool,
    changes: u16,
}

impl Case for Pass {
    fn run(&mut self) -> Result<Cost> {
        let mut shared = self.shared.borrow_mut();
        let rig = shared.as_mut().context("the node was not set up")?;
        // Changes before this may have concerned some flows.
        rig.forward(self.flows as u64);
        let mut ns = 0.0;
        for _ in 0..PASSES {
            self.changes += 1;
            let change = self.touches.then(|| change_of_all(self.changes));
            rig.meanwhile(cores::other()?, |updates| change.map_or(Ok(()), |change| updates.put(change)))?;
            ns += self.pass(rig)?;
        }
        Ok(Cost::ns(ns / (PASSES * self.flows as u64) as f64))
    }
}

impl Pass {
    fn pass(&self, rig: &mut Rig) -> Result<f64> {
        let (renewed, opened) = (rig.count(WorkerCounter::FlowsRevalidated), rig.count(WorkerCounter::FlowsInserted));
        let watch = Stopwatch::cpu();
        rig.forward(self.flows as u64);
        let ns = watch.ns();
        let renewed = rig.count(WorkerCounter::FlowsRevalidated) - renewed;
        let expected = if self.touches { self.flows as u64 } else { 0 };
        ensure!(renewed == expected, "{renewed} flows were looked at again instead of {expected}");
        ensure!(rig.count(WorkerCounter::FlowsInserted) == opened, "flows were opened anew");
        Ok(ns)
    }
}

/// Alternates: what it allows is needed by no flow.
pub fn change_of_all(number: u16) -> ObjectChange {
    ObjectChange::Put(world::policy(1 + number % 2))
}
