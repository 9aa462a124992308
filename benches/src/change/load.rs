//! All services at once, then one endpoint after the other, into a dataplane that runs.

use super::eye::Eye;
use super::rig::{Rig, wait_for_other};
use super::updates::Updates;
use super::waits::Waits;
use super::world::{self, Size};
use super::{DELTA, FULL, told};
use crate::case::{AtMost, Case, Cost, Planned, Seen, Target};
use crate::cores;
use crate::device::Traffic;
use anyhow::{Context, Result, ensure};
use control::object::ObjectChange;
use core_affinity::CoreId;
use hdrhistogram::Histogram;
use std::cell::RefCell;
use std::rc::Rc;
use std::thread::sleep;
use std::time::Duration;
use tables::Addr;

/// Flows that go through the dataplane meanwhile.
const FLOWS: u32 = 10_000;
/// How often everything is loaded, and how many changes follow.
const LOADS: usize = 3;
const CHANGES: u32 = 1000;
/// In each further round, for the median beside that of the peer.
const CHANGES_AGAIN: u32 = 100;
/// Between two changes, and how much more it may be: they come at any moment of a round.
const GAP: Duration = Duration::from_millis(1);
const JITTER_NS: u64 = 300_000;
/// At least one of so many changes must be left, not set apart: fewer say nothing of the rest.
const LEFT_ONE_OF: u32 = 3;
/// What looking for it takes at most.
const PREEMPTED_NS: u64 = 2_000;
const LONGEST_NS: u64 = 100_000_000_000;
const FULL_TARGET: Target = Target { floor: Some(1000.0), aim: None, ratio_min: None };
const DELTA_TARGET: Target = Target { floor: Some(1000.0), aim: Some(100.0), ratio_min: None };

/// The rig that all cases of a size share; loaded by the first of them.
type Shared = Rc<RefCell<Option<Rig>>>;

/// What changes cost, for the rows that stand behind the one that measured them.
#[derive(Clone, Default)]
struct Spread {
    p99: Seen,
    max: Seen,
    /// Until control has published, median.
    control: Seen,
    /// Changes set apart.
    apart: Seen,
}

/// What is told of one size, where a peer makes a change so often.
pub fn cases(size: Size, rounds: usize) -> Vec<Planned> {
    let (shared, behind, bytes) = (Shared::default(), Seen::default(), Seen::default());
    let [own, same] = [Spread::default(), Spread::default()];
    let full = Full { size, shared: shared.clone(), behind: behind.clone() };
    let full = Planned::ours(FULL, size.name, move || Ok(AtMost { case: full, rounds: LOADS }));
    let mut cases = vec![
        full.unit("ms").target(FULL_TARGET),
        told("until the other copy has it too", size.name, behind, true).unit("ms"),
        delta(DELTA, size, rounds, &shared, Place::OwnCore, (&own, &bytes)),
        told("of it in control, until it is published", size.name, own.control, true).unit("us"),
        told("one endpoint change: p99", size.name, own.p99, true).unit("us").target(DELTA_TARGET),
        told("one endpoint change: longest", size.name, own.max, true).unit("us"),
        told("one endpoint change: preempted, set apart", size.name, own.apart, false).unit("changes"),
        told("tables, both copies", size.name, bytes, false).unit("bytes"),
    ];
    let what = "one endpoint change, control on the worker's core: median";
    cases.push(delta(what, size, 1, &shared, Place::WorkersCore, (&same, &Seen::default())));
    cases.push(told("the same: p99", size.name, same.p99, true).unit("us"));
    cases.push(told("the same: longest", size.name, same.max, true).unit("us"));
    cases
}

/// Everything at once.
struct Full {
    size: Size,
    shared: Shared,
    /// How long until the other copy is as new; a change that comes meanwhile waits.
    behind: Seen,
}

impl Case for Full {
    fn run(&mut self) -> Result<Cost> {
        let mut shared = self.shared.borrow_mut();
        let mut rig = match shared.take() {
            Some(rig) => rig,
            None => Rig::new(self.size, FLOWS, |traffic: Traffic, _| Box::new(traffic.trickling()))?.with_prober(),
        };
        rig.start_anew()?;
        let objects = self.size.load();
        let core = cores::other()?;
        let (ns, _) = rig.beside(core, move |updates, eye| {
            let start = eye.now_ns();
            objects.into_iter().for_each(|change| updates.apply(change));
            updates.publish()?;
            let seen = wait_for_other(eye, None, std::hint::spin_loop)?;
            ensure!(updates.is_acknowledged(), "a packet was treated by tables that are not acknowledged");
            Ok(seen.saturating_sub(start))
        })?;
        let caught_up = move |updates: &mut Updates, eye: &Eye| {
            let start = eye.now_ns();
            updates.catch_up();
            Ok(eye.now_ns() - start)
        };
        self.behind.set(rig.beside(core, caught_up)?.0 as f64);
        *shared = Some(rig);
        Ok(Cost { ticks: f64::NAN, ..Cost::ns(ns as f64) })
    }
}

/// One endpoint of the last service is replaced by a fresh one: that to which the watched flow goes.
struct Changes {
    service: u32,
    addrs: Vec<Addr>,
    next: u32,
    /// When the last one was published, after its event.
    published_ns: u64,
    worker: Waits,
    /// How long control until then, and the worker until the packet, were kept from running.
    waited_ns: u64,
}

impl Changes {
    /// To be made on the worker's thread.
    fn of(rig: &Rig) -> Changes {
        let worker = Waits::of_this_thread();
        let last = rig.size.services - 1;
        Changes {
            service: rig.size.number(last),
            addrs: rig.size.addrs(last),
            next: 0,
            published_ns: 0,
            worker,
            waited_ns: 0,
        }
    }

    /// From the event to the first packet treated by it.
    fn one(&mut self, updates: &mut Updates, eye: &Eye) -> Result<u64> {
        let now = eye.backend();
        let at = self.addrs.iter().position(|&addr| Some(addr) == now).context("the flow goes to no backend")?;
        self.addrs[at] = world::fresh(self.next);
        self.next += 1;
        let event = ObjectChange::Put(world::slice(self.service, &self.addrs));
        let control = Waits::of_this_thread();
        let waited = control.ns()? + self.worker.ns()?;
        let start = eye.now_ns();
        updates.put(event)?;
        self.published_ns = eye.now_ns() - start;
        let control_ns = control.ns()?;
        // Control has nothing else to do; where it shares the core, it must not hold the worker up.
        let seen = wait_for_other(eye, now, || sleep(Duration::from_micros(20)))?;
        updates.catch_up();
        self.waited_ns = control_ns + self.worker.ns()? - waited;
        Ok(seen.saturating_sub(start))
    }
}

/// The median of many changes. The rest of them goes to others, once: of the first round, which is the longest.
fn delta(
    what: &str,
    size: Size,
    rounds: usize,
    shared: &Shared,
    place: Place,
    (spread, bytes): (&Spread, &Seen),
) -> Planned {
    let (shared, spread, bytes) = (shared.clone(), spread.clone(), bytes.clone());
    let mut is_first = true;
    let case = move || {
        let mut shared = shared.borrow_mut();
        let rig = shared.as_mut().context("nothing was loaded")?;
        let many = Many::run(rig, place, if is_first { CHANGES } else { CHANGES_AGAIN })?;
        if std::mem::take(&mut is_first) {
            bytes.set(rig.updates.bytes()? as f64);
            many.tell(&spread);
        }
        Ok(Cost { ticks: f64::NAN, ..Cost::ns(many.all.value_at_quantile(0.5) as f64) })
    };
    Planned::ours(what, size.name, move || Ok(AtMost { case, rounds })).unit("us")
}

/// Where control runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    OwnCore,
    WorkersCore,
}

impl Place {
    fn core(self) -> Result<CoreId> {
        match self {
            Place::OwnCore => cores::other(),
            Place::WorkersCore => cores::measuring(),
        }
    }

    /// On one core they have to wait for each other; with a core each they have not, unless others use the machine.
    fn may_wait_ns(self) -> u64 {
        match self {
            Place::OwnCore => PREEMPTED_NS,
            Place::WorkersCore => u64::MAX,
        }
    }
}

/// What many changes took.
struct Many {
    /// From the event to the packet.
    all: Histogram<u64>,
    /// Of it in control.
    control: Histogram<u64>,
    /// Changes during which control or the worker was kept from running: in neither.
    apart: u32,
}

impl Many {
    fn run(rig: &mut Rig, place: Place, count: u32) -> Result<Many> {
        rig.start_anew()?;
        rig.load()?;
        let changes = Changes::of(rig);
        Ok(rig.beside(place.core()?, move |updates, eye| Many::changes(changes, count, place, updates, eye))?.0)
    }

    fn changes(mut changes: Changes, count: u32, place: Place, updates: &mut Updates, eye: &Eye) -> Result<Many> {
        let histogram = || Histogram::new_with_bounds(1, LONGEST_NS, 3);
        let mut many = Many { all: histogram()?, control: histogram()?, apart: 0 };
        for i in 0..count as u64 {
            sleep(GAP + Duration::from_nanos(i * 7919 * 31 % JITTER_NS));
            let ns = changes.one(updates, eye)?;
            if changes.waited_ns > place.may_wait_ns() {
                many.apart += 1;
            } else {
                many.all.record(ns)?;
                many.control.record(changes.published_ns)?;
            }
        }
        ensure!(
            many.all.len() >= (count / LEFT_ONE_OF) as u64,
            "others kept control or the worker from running in {} of {count} changes",
            many.apart
        );
        Ok(many)
    }

    fn tell(&self, spread: &Spread) {
        spread.p99.set(self.all.value_at_quantile(0.99) as f64);
        spread.max.set(self.all.max() as f64);
        spread.control.set(self.control.value_at_quantile(0.5) as f64);
        spread.apart.set(self.apart as f64);
    }
}
