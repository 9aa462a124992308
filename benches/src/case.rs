//! What can be measured and how it is announced: a [`Group`] plans cases, [`crate::run`] makes and runs them. This file
//! must not measure or print anything.

use crate::clock;
use anyhow::{Result, ensure};
use std::cell::Cell;
use std::rc::Rc;

/// What one operation costs. Times are nanoseconds whatever unit is printed; `ratio` and `bytes` are the number itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    pub ns: f64,
    /// TSC ticks; NaN where there are none.
    pub ticks: f64,
}

impl Cost {
    /// A time, with the ticks that this machine's TSC makes in it.
    pub fn ns(ns: f64) -> Cost {
        Cost { ns, ticks: clock::tsc_ghz().map_or(f64::NAN, |ghz| ns * ghz) }
    }

    /// A number that is no time: a ratio, bytes.
    pub fn plain(value: f64) -> Cost {
        Cost { ns: value, ticks: f64::NAN }
    }
}

/// One thing that is measured, set up and ready.
pub trait Case {
    /// Runs once, long enough to be stable (20-200 ms); the cost of one operation. Thread CPU time for what runs on the
    /// measuring thread alone ([`clock::Stopwatch::cpu`]), wall time only where it must be.
    fn run(&mut self) -> Result<Cost>;

    /// Memory of the working set, all included, if it means something.
    fn bytes(&self) -> Option<u64> {
        None
    }

    /// Runs in so many rounds at most, without one to warm up: for what takes long.
    fn rounds_max(&self) -> Option<usize> {
        None
    }
}

/// Any closure is a case.
impl<F: FnMut() -> Result<Cost>> Case for F {
    fn run(&mut self) -> Result<Cost> {
        self()
    }
}

/// Whose work is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    Ours,
    /// Another program or library doing the same: compared with ours of the same `what` and `size` in its group.
    Peer(&'static str),
    /// What the bench costs itself: printed, and taken off the cases after it that say `subtract`, until the next one.
    Reference,
}

impl Case for Box<dyn Case> {
    fn run(&mut self) -> Result<Cost> {
        (**self).run()
    }

    fn bytes(&self) -> Option<u64> {
        (**self).bytes()
    }

    fn rounds_max(&self) -> Option<usize> {
        (**self).rounds_max()
    }
}

/// A case that takes too long for every round.
pub struct AtMost<C> {
    pub case: C,
    pub rounds: usize,
}

impl<C: Case> Case for AtMost<C> {
    fn run(&mut self) -> Result<Cost> {
        self.case.run()
    }

    fn bytes(&self) -> Option<u64> {
        self.case.bytes()
    }

    fn rounds_max(&self) -> Option<usize> {
        Some(self.rounds)
    }
}

/// What a case should reach, in the unit that is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Target {
    /// More than this fails.
    pub floor: Option<f64>,
    /// Better than this is what we want.
    pub aim: Option<f64>,
    /// Ours is at least so many times faster than the peer (stands on the peer's row). On a row of ours that is a ratio: it is
    /// at least this, and the aim is more still.
    pub ratio_min: Option<f64>,
}

impl Target {
    pub fn at_most(floor: f64, aim: f64) -> Target {
        Target { floor: Some(floor), aim: Some(aim), ratio_min: None }
    }

    pub fn ratio(min: f64) -> Target {
        Target { ratio_min: Some(min), ..Target::default() }
    }
}

/// Sets a case up, right before its group runs.
pub type Make = Box<dyn FnOnce() -> Result<Box<dyn Case>>>;

/// A case that is not set up yet.
pub struct Planned {
    pub what: String,
    /// Of the working set: "10k flows".
    pub size: String,
    /// What is printed: "ns", "us", "ms", "s", "ratio", "bytes"; "ns more" for a difference.
    pub unit: &'static str,
    pub by: By,
    pub subtract: bool,
    pub target: Target,
    pub make: Make,
}

impl Planned {
    /// Our own case in ns, with nothing taken off and no target; the rest is set with struct update syntax or below.
    pub fn ours<C: Case + 'static>(what: &str, size: &str, make: impl FnOnce() -> Result<C> + 'static) -> Planned {
        let make: Make = Box::new(move || Ok(Box::new(make()?)));
        let (what, size) = (what.to_owned(), size.to_owned());
        Planned { what, size, unit: "ns", by: By::Ours, subtract: false, target: Target::default(), make }
    }

    pub fn by(self, by: By) -> Planned {
        Planned { by, ..self }
    }

    pub fn unit(self, unit: &'static str) -> Planned {
        Planned { unit, ..self }
    }

    pub fn subtract(self) -> Planned {
        Planned { subtract: true, ..self }
    }

    pub fn target(self, target: Target) -> Planned {
        Planned { target, ..self }
    }
}

/// Cases that are set up together and then run in turns. Groups of one title are one chapter of the table; a working set
/// that needs much memory is a group of its own.
pub struct Group {
    pub title: &'static str,
    pub about: &'static str,
    pub cases: Vec<Planned>,
}

/// What a watched case cost in this round, for a case that is made of others.
pub type Seen = Rc<Cell<f64>>;

/// A case that also tells others of its group what it cost.
pub struct Watched<C> {
    pub case: C,
    pub seen: Seen,
}

impl<C: Case> Case for Watched<C> {
    fn run(&mut self) -> Result<Cost> {
        self.seen.set(f64::NAN);
        let cost = self.case.run()?;
        self.seen.set(cost.ns);
        Ok(cost)
    }

    fn bytes(&self) -> Option<u64> {
        self.case.bytes()
    }

    fn rounds_max(&self) -> Option<usize> {
        self.case.rounds_max()
    }
}

/// A number made of what others of its group cost in the same round; stands behind them.
pub struct Derived {
    pub of: Vec<Seen>,
    pub how: fn(&[f64]) -> f64,
    /// The answer is a time; else a ratio.
    pub is_time: bool,
}

impl Case for Derived {
    fn run(&mut self) -> Result<Cost> {
        let costs: Vec<f64> = self.of.iter().map(|seen| seen.get()).collect();
        ensure!(costs.iter().all(|cost| cost.is_finite()), "a case that it is made of did not run");
        let answer = (self.how)(&costs);
        Ok(if self.is_time { Cost::ns(answer) } else { Cost::plain(answer) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quotient_needs_both_of_its_cases() {
        let (of, to) = (Seen::default(), Seen::default());
        let mut quotient = Derived { of: vec![of.clone(), to.clone()], how: |c| c[0] / c[1], is_time: false };
        let mut works = Watched { case: || Ok(Cost::plain(3.0)), seen: of };
        let mut fails = Watched { case: || anyhow::bail!("broken"), seen: to.clone() };
        works.run().unwrap();
        assert!(fails.run().is_err());
        assert!(quotient.run().is_err());
        to.set(2.0);
        assert_eq!(quotient.run().unwrap().ns, 1.5);
    }
}
