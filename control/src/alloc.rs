//! Stable numbers for rows: single ids, and contiguous ranges by size class (a buddy allocator). Pure arithmetic; the
//! rows themselves are written elsewhere.

use std::collections::{BTreeSet, VecDeque};
use tables::publish::TableFull;

/// Hands out ids `first..limit`. A freed id waits behind all others, so that it is not soon somebody else's.
#[derive(Debug)]
pub struct Ids {
    table: &'static str,
    next: u32,
    limit: u32,
    used: u32,
    free: VecDeque<u32>,
}

impl Ids {
    pub fn new(table: &'static str, first: u32, limit: usize) -> Ids {
        Ids { table, next: first, limit: limit as u32, used: 0, free: VecDeque::new() }
    }

    pub fn alloc(&mut self) -> Result<u32, TableFull> {
        let id = if self.next < self.limit {
            self.next += 1;
            self.next - 1
        } else {
            self.free.pop_front().ok_or(TableFull { table: self.table, limit: self.limit as usize })?
        };
        self.used += 1;
        Ok(id)
    }

    pub fn free(&mut self, id: u32) {
        self.used -= 1;
        self.free.push_back(id);
    }

    pub fn used(&self) -> usize {
        self.used as usize
    }

    pub fn limit(&self) -> usize {
        self.limit as usize
    }
}

/// Where a run of rows lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Range {
    pub first: u32,
    pub count: u32,
}

impl Range {
    /// Whether its block has room for that many rows, and a smaller one has not.
    fn holds(self, count: usize) -> bool {
        self.count > 0 && count > 0 && order_of(self.count as usize) == order_of(count)
    }
}

/// Hands out ranges of rows, each within a block of the next power of two; free neighbours merge again.
#[derive(Debug)]
pub struct Ranges {
    table: &'static str,
    /// Free blocks by order (log2 of their size).
    free: Vec<BTreeSet<u32>>,
    used: usize,
}

impl Ranges {
    /// `capacity` rows, a power of two.
    pub fn new(table: &'static str, capacity: usize) -> Ranges {
        let orders = capacity.trailing_zeros() as usize;
        let mut free = vec![BTreeSet::new(); orders + 1];
        free[orders].insert(0);
        Ranges { table, free, used: 0 }
    }

    pub fn capacity(&self) -> usize {
        1 << (self.free.len() - 1)
    }

    /// Rows in use.
    pub fn used(&self) -> usize {
        self.used
    }

    /// No rows need no place: the range is empty and need not be freed (but may).
    pub fn alloc(&mut self, count: usize) -> Result<Range, TableFull> {
        if count == 0 {
            return Ok(Range::default());
        }
        let full = TableFull { table: self.table, limit: self.capacity() };
        let order = order_of(count);
        let from = (order..self.free.len()).find(|&o| !self.free[o].is_empty()).ok_or(full)?;
        let first = self.free[from].pop_first().expect("not empty: just looked");
        for split in (order..from).rev() {
            self.free[split].insert(first + (1 << split));
        }
        self.used += count;
        Ok(Range { first, count: count as u32 })
    }

    pub fn free(&mut self, range: Range) {
        if range.count == 0 {
            return;
        }
        self.used -= range.count as usize;
        let (mut first, mut order) = (range.first, order_of(range.count as usize));
        while order + 1 < self.free.len() && self.free[order].remove(&(first ^ 1 << order)) {
            first &= !(1 << order);
            order += 1;
        }
        self.free[order].insert(first);
    }

    /// The same place for another number of rows if its block holds them, else a new one.
    pub fn resize(&mut self, range: Range, count: usize) -> Result<Range, TableFull> {
        let new = self.place(range, count)?;
        self.settle(range, new);
        Ok(new)
    }

    /// The first half of [`Ranges::resize`]: the old range stays until `settle` takes it or `undo` keeps it.
    pub fn place(&mut self, range: Range, count: usize) -> Result<Range, TableFull> {
        match range.holds(count) {
            true => Ok(Range { first: range.first, count: count as u32 }),
            false => self.alloc(count),
        }
    }

    pub fn settle(&mut self, old: Range, new: Range) {
        match old.holds(new.count as usize) {
            true => self.used = self.used - old.count as usize + new.count as usize,
            false => self.free(old),
        }
    }

    pub fn undo(&mut self, old: Range, new: Range) {
        if !old.holds(new.count as usize) {
            self.free(new);
        }
    }
}

fn order_of(count: usize) -> usize {
    count.next_power_of_two().trailing_zeros() as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_freed_id_is_the_last_to_come_back() {
        let mut ids = Ids::new("test", 1, 4);
        assert_eq!([(); 2].map(|()| ids.alloc().unwrap()), [1, 2]);
        ids.free(1);
        assert_eq!(ids.alloc(), Ok(3));
        assert_eq!(ids.alloc(), Ok(1));
        let full = ids.alloc().unwrap_err();
        assert!(full.to_string().contains("test") && full.limit == 4, "{full}");
        assert_eq!(ids.used(), 3);
    }

    proptest! {
        /// Live ranges never overlap, all can be had back, and afterwards the whole table is free again.
        #[test]
        fn ranges_are_disjoint_and_merge_again(ops in prop::collection::vec((0usize..9, any::<prop::sample::Index>(), 0u8..3), 0..200)) {
            let mut ranges = Ranges::new("test", 64);
            let mut live: Vec<Range> = Vec::new();
            for (count, which, op) in ops {
                if op == 0 || live.is_empty() {
                    live.extend(ranges.alloc(count).ok());
                } else if op == 1 {
                    ranges.free(live.swap_remove(which.index(live.len())));
                } else {
                    let i = which.index(live.len());
                    if let Ok(range) = ranges.resize(live[i], count) {
                        live[i] = range;
                    }
                }
                let mut rows: Vec<u32> = live.iter().flat_map(|r| r.first..r.first + r.count).collect();
                prop_assert_eq!(rows.len(), ranges.used());
                rows.sort_unstable();
                prop_assert!(rows.windows(2).all(|w| w[0] < w[1]) && rows.last().is_none_or(|&last| last < 64));
            }
            live.into_iter().for_each(|range| ranges.free(range));
            prop_assert_eq!(ranges.alloc(64), Ok(Range { first: 0, count: 64 }));
        }
    }
}
