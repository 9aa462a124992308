//! Many flows found at once, for whoever has all tuples at hand and nothing to do between its steps: all that a step reads is
//! asked for before the next one. A worker takes the same steps one by one. Must not change the table.

use super::{FlowId, FlowTable, Likely, Way, index};
use crate::packet::BURST_MAX;
use tables::cpu::prefetch_far;
use tables::flow::Tuple;

impl FlowTable {
    /// As `find` of each tuple; of the two slices the shorter counts.
    pub fn find_burst(&self, tuples: &[Tuple], way: Way, found: &mut [Option<FlowId>]) {
        let count = tuples.len().min(found.len());
        for (tuples, found) in tuples[..count].chunks(BURST_MAX).zip(found[..count].chunks_mut(BURST_MAX)) {
            self.find_together(tuples, way, found);
        }
    }

    #[inline(always)]
    fn find_together(&self, tuples: &[Tuple], way: Way, found: &mut [Option<FlowId>]) {
        let (buckets, records) = (self.parts.first(), self.parts.second());
        let (mut hashes, mut likely) = ([0; BURST_MAX], [Likely::NONE; BURST_MAX]);
        for (tuple, hash) in tuples.iter().zip(&mut hashes) {
            *hash = self.hash(tuple);
            prefetch_far(&buckets[index::home(buckets, *hash)]);
        }
        for (&hash, likely) in hashes[..tuples.len()].iter().zip(&mut likely) {
            *likely = self.likely(hash);
            if let Some(record) = records.get(likely.0 as usize) {
                prefetch_far(record.half(way == Way::Out));
            }
        }
        for (((tuple, hash), likely), found) in tuples.iter().zip(hashes).zip(likely).zip(found) {
            *found = self.confirm(likely, &tuple.words(), way, hash);
        }
    }
}

#[cfg(test)]
#[path = "burst_tests.rs"]
mod tests;
