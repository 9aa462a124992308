//! Round robin: whose turn it is at each service. Each worker has turns of its own and begins anywhere, so that several
//! workers together are never more than one flow each away from equal shares. Not kept over a restart.

use crate::classify::service::Asked;
use tables::limits::SERVICES_MAX;
use tables::service::FLAG_WEIGHTED;
use tables::{View, hash};

pub struct Turns {
    /// By service id, for clients on this node and for all others.
    taken: Vec<[u32; 2]>,
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
        Turns { taken: vec![[0; 2]; SERVICES_MAX], seed }
    }

    /// The index of the next backend.
    pub fn next(&mut self, view: &View, asked: &Asked) -> Option<u32> {
        let id = asked.service.id;
        let is_outside = asked.backends != asked.service.inside;
        let taken = self.taken.get_mut(id as usize)?.get_mut(is_outside as usize)?;
        let start = hash::fold(self.seed ^ id as u64, 0x9e37_79b9_7f4a_7c15) as u32;
        let turn = start.wrapping_add(*taken);
        *taken = taken.wrapping_add(1);
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
