//! Rows by key: how a hash table is written, and how it grows. A reader cuts a key's tag to the slots that are in use, so
//! that few rows lie on few pages of memory, and many find room for as long as there is any (limits.rs). A table that grows
//! is laid out anew in the idle copy: what that costs, the rows it has room for pay once.
//!
//! This file must not know what rows mean.

use crate::hash;
use crate::layout::{Place, Table};
use crate::publish::{Batch, Publisher, TableFull};
use crate::view::{Slot, View, read_record};
use bytemuck::Pod;
use std::sync::atomic::Ordering;

/// Words of a page.
const PAGE_WORDS: usize = 512;
/// As few slots as a table that has rows uses: a page or a few.
const SLOTS_MIN: usize = 256;

/// Slots for each row, at least, while there are any more: few rows then stand elsewhere than where they are looked for
/// first. Rows of policies are looked up in bursts, in which each of these costs most.
const fn slots_per_row(table: Table) -> usize {
    if matches!(table, Table::Policy) { 16 } else { 4 }
}

impl Batch<'_> {
    /// So many rows of a hash table are about to be inserted. They lie all over it.
    pub fn expect_rows(&mut self, table: Table, count: usize) {
        let publisher = &mut *self.publisher;
        publisher.make_room(table, publisher.rows[table as usize] + count);
        let words = publisher.slot_words(table);
        // On most of its pages there will be one.
        if count >= words.len() / PAGE_WORDS / 2 {
            publisher.expect_writes(words);
        }
    }

    /// Inserts or replaces a row of a hash table.
    pub fn insert<K: Pod + PartialEq, V: Pod>(&mut self, table: Table, key: &K, value: &V) -> Result<(), TableFull> {
        let tag = hash::tag(key, self.publisher.seed);
        let place = self.publisher.place(table);
        let (slot, is_new) = match self.view().slot(table, key, tag) {
            Slot::Has(slot) => (slot, false),
            Slot::Free(_) | Slot::Full => (self.room(table, key, tag)?, true),
        };
        let at = place.offset + slot * place.record_words;
        if is_new {
            self.publisher.rows[table as usize] += 1;
            self.publisher.put(at, &tag);
            self.publisher.put(at + 1, key);
        }
        self.publisher.put(at + 1 + size_of::<K>() / 8, value);
        Ok(())
    }

    /// A slot for one more row.
    fn room<K: Pod + PartialEq>(&mut self, table: Table, key: &K, tag: u64) -> Result<usize, TableFull> {
        self.publisher.make_room(table, self.publisher.rows[table as usize] + 1);
        match self.view().slot(table, key, tag) {
            Slot::Has(slot) | Slot::Free(slot) => Ok(slot),
            Slot::Full => Err(TableFull { table: table.name(), limit: self.publisher.place(table).capacity / 2 }),
        }
    }

    /// Removes a row of a hash table; later rows of the same run shift back, so that no tombstone is left.
    pub fn remove<K: Pod + PartialEq>(&mut self, table: Table, key: &K) -> bool {
        let Some(mut hole) = self.view().find_slot(table, key) else { return false };
        let (place, mask) = (self.publisher.place(table), self.view().slot_mask(table));
        let mut slot = hole;
        loop {
            slot = (slot + 1) & mask;
            let tag = self.view().tag_at(place, slot);
            if tag == 0 {
                break;
            }
            // A row may fill the hole if its home does not lie between the hole and itself.
            let from_home = slot.wrapping_sub(tag as usize) & mask;
            if from_home >= (slot.wrapping_sub(hole) & mask) {
                self.move_row(place, slot, hole);
                hole = slot;
            }
        }
        // The key, too: some readers go by it alone.
        self.publisher.put(place.offset + hole * place.record_words, &[0u64; 2]);
        self.publisher.rows[table as usize] -= 1;
        true
    }

    fn move_row(&mut self, place: Place, from: usize, to: usize) {
        for word in 0..place.record_words {
            let start = self.publisher.idle_start() + place.offset;
            let value: u64 = read_record(self.publisher.region.words(), start + from * place.record_words + word);
            self.publisher.put(place.offset + to * place.record_words + word, &value);
        }
    }
}

impl Publisher {
    /// Words of a copy that the slots in use take.
    fn slot_words(&self, table: Table) -> std::ops::Range<usize> {
        let place = self.place(table);
        place.offset..place.offset + (self.idle().slot_mask(table) + 1) * place.record_words
    }

    /// Both copies will be written all over these words.
    fn expect_writes(&mut self, words: std::ops::Range<usize>) {
        let start = self.idle_start();
        self.region.expect_writes(start + words.start..start + words.end);
        self.expected.push(words);
    }

    /// Sees that so many rows have the slots that they should have, if the table has so many.
    fn make_room(&mut self, table: Table, rows: usize) {
        let wanted = (rows * slots_per_row(table)).next_power_of_two().max(SLOTS_MIN).min(self.place(table).capacity);
        if wanted > self.idle().slot_mask(table) + 1 {
            self.grow(table, wanted);
        }
    }

    /// Lays a table out anew over so many slots.
    fn grow(&mut self, table: Table, slots: usize) {
        let place = self.place(table);
        let rows = take_rows(&self.idle(), table, place);
        self.put(self.place(Table::Masks).offset + table as usize, &(slots as u64 - 1));
        let words = self.slot_words(table);
        if words.len() > PAGE_WORDS {
            self.expect_writes(words.clone());
        }
        let shared = &self.region.words()[self.idle_start() + words.start..][..words.len()];
        for row in rows.chunks_exact(place.record_words) {
            let mut slot = row[0] as usize & (slots - 1);
            while shared[slot * place.record_words].load(Ordering::Relaxed) != 0 {
                slot = (slot + 1) & (slots - 1);
            }
            for (word, value) in shared[slot * place.record_words..].iter().zip(row) {
                word.store(*value, Ordering::Relaxed);
            }
        }
        self.note_written(words.start, words.len());
    }
}

/// All rows of a table, one behind the other; their slots are empty then.
fn take_rows(copy: &View, table: Table, place: Place) -> Vec<u64> {
    let used = (copy.slot_mask(table) + 1) * place.record_words;
    let slots = copy.table_words(table)[..used].chunks_exact(place.record_words);
    let rows = slots.filter(|slot| slot[0].load(Ordering::Relaxed) != 0);
    rows.flatten().map(|word| word.swap(0, Ordering::Relaxed)).collect()
}

#[cfg(test)]
#[path = "keyed_tests.rs"]
mod tests;
