//! The flows of many packets found at once: all that a step reads is asked for before the next one, into the second-level
//! cache, which has places enough for a burst. Must not change the table.

use super::{FlowId, FlowTable, Likely, Way, index};
use crate::packet::BURST_MAX;
use tables::cpu::prefetch_far;
use tables::flow::Tuple;

/// What is asked for one packet, and what was found.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Of its tuple: written and compared as words.
    pub words: [u64; 5],
    /// Of these, once they were looked up.
    pub hash: u64,
    /// The flow that the packet most likely belongs to.
    pub likely: Likely,
}

impl Asked {
    /// Nothing yet.
    pub const NONE: Asked = Asked { words: [0; 5], hash: 0, likely: Likely::NONE };
}

impl FlowTable {
    /// Finds the likely record of each, and fetches all of these. Returns how many have none.
    #[inline(always)]
    pub fn look_up<T>(&self, burst: &mut [T], asked: impl Fn(&mut T) -> &mut Asked) -> usize {
        burst.chunks_mut(BURST_MAX).map(|burst| self.look_up_together(burst, &asked)).sum()
    }

    #[inline(always)]
    fn look_up_together<T>(&self, burst: &mut [T], asked: impl Fn(&mut T) -> &mut Asked) -> usize {
        // Of its own, so that they stay in registers while the burst is written.
        let (masks, buckets, records) = (self.masks, self.parts.first(), self.parts.second());
        for item in burst.iter_mut() {
            let asked = asked(item);
            asked.hash = masks.hash_words(&asked.words);
            prefetch_far(buckets.as_ptr().wrapping_add(index::home(buckets, asked.hash)));
        }
        let mut unknown = 0;
        for item in burst {
            let asked = asked(item);
            let home = &buckets[index::home(buckets, asked.hash)];
            let likely = index::likely_at(home, asked.hash, records.len());
            match likely.and_then(|id| records.get(id as usize)) {
                Some(record) => {
                    prefetch_far(record.half(true));
                    prefetch_far(record.half(false));
                }
                None => unknown += 1,
            }
            asked.likely = Likely::from(likely);
        }
        unknown
    }

    /// As `find` of each tuple; of the two slices the shorter counts.
    pub fn find_burst(&self, tuples: &[Tuple], way: Way, found: &mut [Option<FlowId>]) {
        let count = tuples.len().min(found.len());
        for (tuples, found) in tuples[..count].chunks(BURST_MAX).zip(found[..count].chunks_mut(BURST_MAX)) {
            let mut burst = [Asked::NONE; BURST_MAX];
            let burst = &mut burst[..tuples.len()];
            tuples.iter().zip(&mut *burst).for_each(|(tuple, asked)| asked.words = tuple.words());
            self.look_up_together(burst, |asked| asked);
            for (asked, found) in burst.iter().zip(found) {
                *found = self.confirm(asked.likely, &asked.words, way, asked.hash);
            }
        }
    }
}

#[cfg(test)]
#[path = "burst_tests.rs"]
mod tests;
