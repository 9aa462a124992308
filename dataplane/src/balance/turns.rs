//! Round robin: whose turn it is at each service. All workers take turns from one counter, so that new flows go to one
//! backend after the other whichever worker they come to. Begins anywhere; not kept over a restart.

use crate::classify::service::Asked;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use tables::limits::SERVICES_MAX;
use tables::service::FLAG_WEIGHTED;
use tables::{View, hash};

pub struct Turns {
    /// By service id, for clients on this node and for all others.
    taken: Box<[[AtomicU32; 2]]>,
    seed: u64,
}

impl Default for Turns {
    fn default() -> Turns {
        Turns::seeded(0)
    }
}

impl Turns {
    /// Nobody's turn was yet; where each service begins, the seed says.
    pub fn seeded(seed: u64) -> Turns {
        Turns { taken: (0..SERVICES_MAX).map(|_| Default::default()).collect(), seed }
    }

    /// The index of the next backend.
    pub fn next(&self, view: &View, asked: &Asked) -> Option<u32> {
        let id = asked.service.id;
        let is_outside = asked.backends != asked.service.inside;
        let taken = self.taken.get(id as usize)?.get(is_outside as usize)?.fetch_add(1, Relaxed);
        let start = hash::fold(self.seed ^ id as u64, 0x9e37_79b9_7f4a_7c15) as u32;
        let turn = start.wrapping_add(taken);
        match weights(view, asked) {
            Some(sum) => Some(of_weight(view, asked, interleaved(turn as u64, sum))),
            None => turn.checked_rem(asked.backends.count),
        }
    }
}

/// The sum of the backends' weights. None: they are all the same.
fn weights(view: &View, asked: &Asked) -> Option<u64> {
    let is_weighted = asked.service.flags & FLAG_WEIGHTED != 0;
    let sum = || asked.indices().map(|i| asked.backend(view, i).weight as u64).sum();
    is_weighted.then(sum).filter(|&sum| sum > 0)
}

/// Turn `turn` of a round of `sum`, in an order that does not give one backend all of its turns in a row: in steps of
/// about the golden ratio, which meet every place once.
fn interleaved(turn: u64, sum: u64) -> u64 {
    let golden = (sum as f64 * 0.618_033_988_75) as u64;
    let step = (golden.max(1)..).find(|&step| gcd(step, sum) == 1).unwrap_or(1);
    turn % sum * step % sum
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The backend that a place of the round belongs to.
fn of_weight(view: &View, asked: &Asked, mut place: u64) -> u32 {
    for i in asked.indices() {
        let weight = asked.backend(view, i).weight as u64;
        if place < weight {
            return i;
        }
        place -= weight;
    }
    0
}
