//! Maglev's table (Eisenbud et al., NSDI 2016): which backend a hash belongs to, so that every node answers alike and few
//! hashes move when a backend comes or goes. A pure function of the sorted backends; hashes here have no private seed,
//! since other nodes must find the same. Knows nothing of where rings lie.
//!
//! Each backend has its own order of all slots; in turns each takes the first one in its order that is still free.

use crate::flow::Tuple;
use crate::{Addr, hash};

/// Slots by number of backends: (at most so many, a prime). 500 slots or more for each backend, as long as there are few:
/// with 100 of them more flows move than the hundredth that must (measured: 2.0 % at 256 slots for each, 1.6 % at 512,
/// 1.4 % at 1,024). Far apart, since all moves when the number of slots does; with the two words of `Rings` just below
/// powers of two, as they are allocated.
const RUNGS: [(usize, u32); 7] = [
    (8, 4_079),
    (32, 16_369),
    (128, 65_521),
    (512, 262_133),
    (2_048, 1_048_559),
    (8_192, 4_194_287),
    (65_536, 8_388_593),
];
/// Slots in a word of shared memory.
pub const SLOTS_PER_WORD: usize = 4;

/// Fixed: part of what all nodes agree on.
const OFFSET_SEED: u64 = 0x6661_6972_7761_7921;
const SKIP_SEED: u64 = 0x6d61_676c_6576_2d32;
const FLOW_SEED: u64 = 0x6261_6c61_6e63_6521;

/// Slots of a ring for so many backends. None: there are none, or more than a slot can name.
pub fn slots(backends: usize) -> Option<u32> {
    RUNGS.iter().find(|(most, _)| (1..=*most).contains(&backends)).map(|(_, slots)| *slots)
}

/// Which backend, by its index, each slot belongs to. The backends must be sorted, and no two the same.
pub fn ring(backends: &[(Addr, u16)]) -> Vec<u16> {
    let Some(slots) = slots(backends.len()) else { return Vec::new() };
    let mut orders: Vec<(u32, u32)> = backends.iter().map(|backend| order(backend, slots)).collect();
    let (mut ring, mut left) = (vec![u16::MAX; slots as usize], slots);
    let mut is_taken = vec![false; slots as usize];
    loop {
        for (index, (next, skip)) in orders.iter_mut().enumerate() {
            while is_taken[*next as usize] {
                *next = (*next + *skip) % slots;
            }
            (ring[*next as usize], is_taken[*next as usize]) = (index as u16, true);
            left -= 1;
            if left == 0 {
                return ring;
            }
        }
    }
}

/// Where a backend's order of the slots begins, and its step. The number of slots is a prime, so that it meets all.
fn order(&(addr, port): &(Addr, u16), slots: u32) -> (u32, u32) {
    let [high, low] = addr.words();
    let hash = |seed| hash::hash(&[high, low, port as u64], seed);
    ((hash(OFFSET_SEED) % slots as u64) as u32, (hash(SKIP_SEED) % (slots as u64 - 1)) as u32 + 1)
}

/// A flow by its 5-tuple, as the client sees it.
pub fn of_flow(tuple: &Tuple) -> u64 {
    hash::hash_words(&tuple.words(), FLOW_SEED)
}

/// A client by its address alone.
pub fn of_client(client: Addr) -> u64 {
    hash::hash(&client.words(), FLOW_SEED)
}

/// The slot of a hash.
#[inline]
pub fn slot(hash: u64, slots: u32) -> u32 {
    (((hash >> 32) * slots as u64) >> 32) as u32
}

#[cfg(test)]
#[path = "maglev_tests.rs"]
mod tests;
