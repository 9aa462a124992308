//! How long a worker is held up by one burst: without a change, when it pins changed tables and bumps scopes, and when it
//! revalidates flows. Measured around the device that delivers the packets, without the time that this device takes.
//! Bursts in which the thread did not run all the time are set apart.

use super::rig::Rig;
use super::steady::{SIZE, change_of_all, change_others, in_time};
use super::told;
use super::updates::Updates;
use crate::case::{AtMost, Cost, Group, Planned, Seen, Target};
use crate::cores;
use crate::device::Traffic;
use crate::device::of_memory;
use anyhow::Result;
use dataplane::io::Interface;
use dataplane::io::pool::FramePool;
use dataplane::packet::Burst;
use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tables::counters::WorkerCounter;
use tables::status::Status;

const TITLE: &str = "pauses while tables change";
const ABOUT: &str = "Bursts of 64 packets of 10k flows, one by one, by wall time: from the moment at which a device has delivered \
                     one to that at which it is asked for the next. In turns nothing changes, other services change \
                     1,000 times a second, and a policy that concerns all flows changes 200 times a second. Bursts in which \
                     the thread was not running all the time (its CPU time tells) are set apart.";
const FLOWS: u32 = 10_000;
const FLOWS_NAME: &str = "10k flows";
const ALL_PER_SECOND: u32 = 200;
const LIMIT_NS: u64 = 20_000;
const NONE: Target = Target { floor: Some(0.0), aim: None, ratio_min: None };
/// A turn of each.
const TURN: Duration = Duration::from_millis(250);
/// What a thread loses to another one at least; its clock is not finer.
const PREEMPTED_NS: u64 = 2_000;

pub fn groups(full: bool) -> Vec<Group> {
    let turns = if full { 40 } else { 8 };
    vec![Group { title: TITLE, about: ABOUT, cases: cases(turns) }]
}

/// What happened in a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Calm,
    Pinned,
    Renewed,
}

const KINDS: [(Kind, &str); 3] = [
    (Kind::Calm, "burst without a change"),
    (Kind::Pinned, "burst with a pin of changed tables"),
    (Kind::Renewed, "burst with revalidation"),
];

/// What is told of bursts of one kind.
#[derive(Clone, Default)]
struct Told {
    bursts: Seen,
    median: Seen,
    most: Seen,
    longest: Seen,
    above: Seen,
    beyond_chance: Seen,
    apart: Seen,
}

fn cases(turns: u32) -> Vec<Planned> {
    let all: [Told; 3] = Default::default();
    let filled = all.clone();
    let measure = move || {
        let log = measure(turns)?;
        let all: u64 = log.classes.iter().map(|class| class.histogram.len()).sum();
        filled.iter().zip(&log.classes).for_each(|(told, class)| class.tell(told, &log.classes[0]));
        Ok(Cost::plain(all as f64))
    };
    let bursts = Planned::ours("bursts looked at", FLOWS_NAME, move || Ok(AtMost { case: measure, rounds: 1 }));
    let mut cases = vec![bursts.unit("bursts")];
    for ((kind, name), of) in KINDS.into_iter().zip(all) {
        let row = |what: &str, seen, is_time| told(&format!("{name}: {what}"), FLOWS_NAME, seen, is_time);
        cases.push(row("how many", of.bursts, false).unit("bursts"));
        cases.push(row("median", of.median, true).unit("us"));
        cases.push(row("p99.9", of.most, true).unit("us"));
        cases.push(row("longest", of.longest, true).unit("us"));
        cases.push(row("above 20 us", of.above, false).unit("bursts"));
        if kind != Kind::Calm {
            cases.push(row("above 20 us, more than by chance", of.beyond_chance, false).unit("bursts").target(NONE));
        }
        cases.push(row("preempted, set apart", of.apart, false).unit("bursts"));
    }
    cases
}

fn measure(turns: u32) -> Result<Log> {
    let log = Arc::new(Mutex::new(Log::new()?));
    let theirs = log.clone();
    let deliver = move |inner, status: &Status| -> Box<dyn Interface> {
        Box::new(Timed { inner, status: status.clone(), begun: None, log: theirs })
    };
    let mut rig = Rig::new(SIZE, FLOWS, deliver)?;
    rig.load()?;
    *lock(&log) = Log::new()?;
    let core = cores::other()?;
    let (mut others, mut all) = (0, 0);
    for _ in 0..turns {
        rig.beside(core, |_, _| {
            sleep(TURN);
            Ok(())
        })?;
        let ((count, took), _) = rig.beside(core, |updates, _| change_others(updates, others, TURN))?;
        in_time(took, TURN)?;
        others += count;
        all = rig.beside(core, |updates, _| change_all(updates, all))?.0;
    }
    let log = std::mem::replace(&mut *lock(&log), Log::new()?);
    Ok(log)
}

fn change_all(updates: &mut Updates, mut number: u16) -> Result<u16> {
    for _ in 0..TURN.as_millis() as u32 * ALL_PER_SECOND / 1000 {
        number = number.wrapping_add(1);
        updates.put(change_of_all(number))?;
        sleep(Duration::from_secs(1) / ALL_PER_SECOND);
    }
    Ok(number)
}

/// Bursts of one kind.
struct Class {
    histogram: Histogram<u64>,
    apart: u64,
}

impl Class {
    fn new() -> Result<Class> {
        Ok(Class { histogram: Histogram::new_with_bounds(1, 10_000_000_000, 3)?, apart: 0 })
    }

    fn note(&mut self, wall_ns: u64, cpu_ns: u64) {
        if cpu_ns + PREEMPTED_NS < wall_ns {
            self.apart += 1;
        } else {
            self.histogram.saturating_record(wall_ns);
        }
    }

    fn above(&self, limit_ns: u64) -> u64 {
        self.histogram.iter_recorded().filter(|v| v.value_iterated_to() > limit_ns).map(|v| v.count_at_value()).sum()
    }

    /// The share of their time that bursts take which are longer than the limit: a change meets one with this probability.
    fn share_above(&self, limit_ns: u64) -> f64 {
        let time = |least: u64| {
            let values = self.histogram.iter_recorded().filter(|v| v.value_iterated_to() > least);
            values.map(|v| v.value_iterated_to() as f64 * v.count_at_value() as f64).sum::<f64>()
        };
        time(limit_ns) / time(0).max(1.0)
    }

    /// Bursts above the limit, less what there would be if changes only met bursts that are long anyway, three standard
    /// deviations included.
    fn beyond_chance(&self, calm: &Class) -> f64 {
        let expected = self.histogram.len() as f64 * calm.share_above(LIMIT_NS);
        (self.above(LIMIT_NS) as f64 - expected - 3.0 * expected.sqrt()).max(0.0).floor()
    }

    fn tell(&self, told: &Told, calm: &Class) {
        told.bursts.set(self.histogram.len() as f64);
        told.median.set(self.histogram.value_at_quantile(0.5) as f64);
        told.most.set(self.histogram.value_at_quantile(0.999) as f64);
        told.longest.set(self.histogram.max() as f64);
        told.above.set(self.above(LIMIT_NS) as f64);
        told.beyond_chance.set(self.beyond_chance(calm));
        told.apart.set(self.apart as f64);
    }
}

/// By [`Kind`].
struct Log {
    classes: [Class; 3],
}

impl Log {
    fn new() -> Result<Log> {
        Ok(Log { classes: [Class::new()?, Class::new()?, Class::new()?] })
    }
}

fn lock(log: &Mutex<Log>) -> std::sync::MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The state of things as a burst begins.
struct Begun {
    cpu_ns: u64,
    ack: u64,
    renewed: u64,
    /// Taken last.
    at: Instant,
}

/// A device that notes how long it was not asked.
struct Timed {
    inner: Traffic,
    status: Status,
    begun: Option<Begun>,
    log: Arc<Mutex<Log>>,
}

impl Timed {
    fn begin(&self) -> Begun {
        let block = self.status.block(0);
        let (ack, renewed) = (block.ack().load(Ordering::Relaxed), block.get(WorkerCounter::FlowsRevalidated));
        Begun { cpu_ns: thread_ns(), ack, renewed, at: Instant::now() }
    }

    fn end(&self, begun: Begun) {
        let wall_ns = begun.at.elapsed().as_nanos() as u64;
        let cpu_ns = thread_ns() - begun.cpu_ns;
        let block = self.status.block(0);
        let kind = match block.ack().load(Ordering::Relaxed) {
            _ if block.get(WorkerCounter::FlowsRevalidated) != begun.renewed => Kind::Renewed,
            ack if ack != begun.ack => Kind::Pinned,
            _ => Kind::Calm,
        };
        lock(&self.log).classes[kind as usize].note(wall_ns, cpu_ns);
    }
}

fn thread_ns() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

impl Interface for Timed {
    fn rx(&mut self, pool: &mut FramePool, burst: &mut Burst) {
        if let Some(begun) = self.begun.take() {
            self.end(begun);
        }
        self.inner.rx(pool, burst);
        self.begun = Some(self.begin());
    }

    fn tx(&mut self, pool: &mut FramePool, burst: &mut Burst) {
        self.inner.tx(pool, burst);
    }

    of_memory!();

    fn close(&mut self, pool: &mut FramePool) {
        self.inner.close(pool);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_that_was_preempted_is_set_apart() {
        let mut class = Class::new().unwrap();
        for (wall_ns, cpu_ns) in [(6_000, 6_300), (25_000, 25_200), (21_000, 20_900), (25_000, 6_000)] {
            class.note(wall_ns, cpu_ns);
        }
        assert_eq!((class.histogram.len(), class.above(LIMIT_NS), class.apart), (3, 2, 1));
        let told = Told::default();
        class.tell(&told, &class);
        assert!((25_000.0..25_100.0).contains(&told.longest.get()), "{}", told.longest.get());
    }

    #[test]
    fn a_change_that_meets_a_long_burst_did_not_make_it_long() {
        let [mut calm, mut pinned] = [(); 2].map(|()| Class::new().unwrap());
        (0..990).for_each(|_| calm.note(4_000, 4_000));
        (0..10).for_each(|_| calm.note(44_000, 44_000));
        assert!((0.09..0.11).contains(&calm.share_above(LIMIT_NS)), "{}", calm.share_above(LIMIT_NS));
        (0..90).for_each(|_| pinned.note(4_000, 4_000));
        (0..10).for_each(|_| pinned.note(44_000, 44_000));
        assert_eq!(pinned.beyond_chance(&calm), 0.0);
        (0..90).for_each(|_| pinned.note(44_000, 44_000));
        assert!(pinned.beyond_chance(&calm) > 50.0);
    }
}
