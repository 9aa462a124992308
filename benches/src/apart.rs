//! How far two cores are apart: what a word written by one takes until the other has read it. Cores of one processor
//! that share a cache need a fifth of what others do, and a virtual machine's cores may be moved at any time; what threads do
//! together is to be read beside it. Must not decide what it means.

use crate::case::Cost;
use crate::clock::Stopwatch;
use crate::cores;
use anyhow::{Result, anyhow};
use crossbeam::utils::CachePadded;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// There and back so often, a few times: what is least was disturbed least.
const TRIPS: u64 = 2_000;
const TIMES: u64 = 5;

type Line = CachePadded<AtomicU64>;

fn wait_for(line: &Line, word: u64) {
    while line.load(Ordering::Acquire) != word {
        std::hint::spin_loop();
    }
}

/// One way between the measuring core and another one, where nothing else runs.
pub fn cores_apart() -> Result<Cost> {
    let (here, there) = (cores::measuring()?, cores::other()?);
    let (asked, answered) = (Line::default(), Line::default());
    let answer = || {
        core_affinity::set_for_current(there);
        for word in 1..=TRIPS * TIMES {
            wait_for(&asked, word);
            answered.store(word, Ordering::Release);
        }
    };
    let ask = || {
        core_affinity::set_for_current(here);
        let time = |time: u64| {
            let watch = Stopwatch::wall();
            for word in time * TRIPS + 1..=(time + 1) * TRIPS {
                asked.store(word, Ordering::Release);
                wait_for(&answered, word);
            }
            watch.per(2 * TRIPS).ns
        };
        (0..TIMES).map(time).fold(f64::INFINITY, f64::min)
    };
    let least = thread::scope(|scope| {
        scope.spawn(answer);
        scope.spawn(ask).join()
    });
    least.map(Cost::ns).map_err(|_| anyhow!("a thread ended"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_takes_longer_than_one_that_nobody_waits_for() {
        // A machine of one core has nobody to send it to.
        assert_eq!(cores_apart().is_ok(), cores::all().len() > 1);
        let ns = cores_apart().map_or(10.0, |cost| cost.ns);
        assert!((3.0..100_000.0).contains(&ns), "{ns} ns");
    }
}
