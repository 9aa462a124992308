//! How far two cores are apart: what a word written by one takes until the other has read it. Cores of one processor
//! that share a cache need a fifth of what others do, and a virtual machine's cores may be moved at any time; what threads do
//! together is to be read beside it. Must not decide what it means.

use crate::case::Cost;
use crate::cores;
use anyhow::{Context, Result, anyhow, ensure};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

/// There and back so often, a few times: what is least was disturbed least.
const TRIPS: u64 = 2_000;
const TIMES: u64 = 5;

/// A cache line, and the one that a processor fetches with it.
#[repr(align(128))]
#[derive(Default)]
struct Line(AtomicU64);

impl Line {
    fn tell(&self, word: u64) {
        self.0.store(word, Ordering::Release);
    }

    fn wait_for(&self, word: u64) {
        while self.0.load(Ordering::Acquire) != word {
            std::hint::spin_loop();
        }
    }
}

/// One way between the first core and the last, where nothing else runs.
pub fn cores_apart() -> Result<Cost> {
    let [Some(here), Some(there)] = [cores::all().last(), cores::all().first()] else {
        return Err(anyhow!("no core is known"));
    };
    ensure!(here != there, "this needs two cores");
    let (asked, answered) = (Line::default(), Line::default());
    let answer = || {
        core_affinity::set_for_current(*there);
        (1..=TRIPS * TIMES).for_each(|word| {
            asked.wait_for(word);
            answered.tell(word);
        });
    };
    let ask = || {
        core_affinity::set_for_current(*here);
        let trip = |word: u64| {
            asked.tell(word);
            answered.wait_for(word);
        };
        let time = |time: u64| {
            let start = Instant::now();
            (1..=TRIPS).for_each(|i| trip(time * TRIPS + i));
            start.elapsed().as_nanos() as f64 / (2 * TRIPS) as f64
        };
        (0..TIMES).map(time).fold(f64::INFINITY, f64::min)
    };
    thread::scope(|scope| {
        scope.spawn(answer);
        scope.spawn(ask).join()
    })
    .map(Cost::ns)
    .map_err(|_| anyhow!("a thread ended"))
    .context("between two cores")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_word_takes_its_time() {
        let ns = super::cores_apart().unwrap().ns;
        assert!((1.0..100_000.0).contains(&ns), "{ns} ns");
    }
}
