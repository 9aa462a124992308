//! How time is taken: a thread's CPU time, so that a machine that does other things too is no slower, only noisier; and
//! how many TSC ticks that is. Must not decide what is measured.

use crate::case::Cost;
use rustix::time::{ClockId, clock_gettime};
use std::sync::OnceLock;

/// The TSC's rate. The kernel calibrates "bogomips" from the TSC: two of them a megahertz.
pub fn tsc_ghz() -> Option<f64> {
    static GHZ: OnceLock<Option<f64>> = OnceLock::new();
    *GHZ.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
        let is_constant = text.lines().any(|line| line.starts_with("flags") && line.contains(" constant_tsc "));
        let line = text.lines().find(|line| line.starts_with("bogomips"))?;
        let bogomips: f64 = line.split_once(':')?.1.trim().parse().ok()?;
        is_constant.then_some(bogomips / 2000.0)
    })
}

/// How long a case runs once.
const RUN_NS: f64 = 40e6;

/// Time since it was made.
pub struct Stopwatch {
    clock: ClockId,
    start: f64,
}

impl Stopwatch {
    /// Time that this thread ran.
    pub fn cpu() -> Stopwatch {
        Stopwatch::start(ClockId::ThreadCPUTime)
    }

    pub fn wall() -> Stopwatch {
        Stopwatch::start(ClockId::Monotonic)
    }

    fn start(clock: ClockId) -> Stopwatch {
        Stopwatch { start: now_ns(&clock), clock }
    }

    pub fn ns(&self) -> f64 {
        now_ns(&self.clock) - self.start
    }

    /// What each of so many operations cost.
    pub fn per(&self, operations: u64) -> Cost {
        Cost::ns(self.ns() / operations as f64)
    }
}

/// Does `work`, which says how many operations it did, again and again for so long that the clock does not matter.
pub fn repeat(mut work: impl FnMut() -> u64) -> Cost {
    let (watch, mut operations) = (Stopwatch::cpu(), 0);
    loop {
        operations += work();
        let ns = watch.ns();
        if ns >= RUN_NS {
            return Cost::ns(ns / operations as f64);
        }
    }
}

fn now_ns(clock: &ClockId) -> f64 {
    let now = clock_gettime(*clock);
    now.tv_sec as f64 * 1e9 + now.tv_nsec as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_sleeps_uses_no_time() {
        let (cpu, wall) = (Stopwatch::cpu(), Stopwatch::wall());
        std::thread::sleep(std::time::Duration::from_millis(30));
        assert!(wall.ns() >= 30e6);
        assert!(cpu.ns() < 10e6);
    }
}
