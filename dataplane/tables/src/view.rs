//! One consistent copy of the tables, as a worker or a test sees it: rows by index and by key. Reads only; every index
//! and length is a claim that is checked, a row out of range reads as zeroes.

use crate::cpu::prefetch;
use crate::layout::{Layout, Place, Table};
use crate::limits::PROBES_MAX;
use crate::{hash, lpm};
use bytemuck::Pod;
use std::sync::atomic::{AtomicU64, Ordering};

/// Copies a record out of shared words, word by word.
#[inline(always)]
pub fn read_record<T: Pod>(words: &[AtomicU64], at: usize) -> T {
    const { assert!(size_of::<T>().is_multiple_of(8) && size_of::<T>() > 0) };
    let mut value = T::zeroed();
    let Some(source) = words.get(at..at.wrapping_add(size_of::<T>() / 8)) else { return value };
    for (bytes, word) in bytemuck::bytes_of_mut(&mut value).chunks_exact_mut(8).zip(source) {
        bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
    }
    value
}

/// Copies a record into shared words.
#[inline(always)]
pub fn write_record<T: Pod>(words: &[AtomicU64], at: usize, value: &T) {
    const { assert!(size_of::<T>().is_multiple_of(8)) };
    for (bytes, word) in bytemuck::bytes_of(value).chunks_exact(8).zip(&words[at..at + size_of::<T>() / 8]) {
        word.store(u64::from_ne_bytes(bytes.try_into().expect("chunks of eight")), Ordering::Relaxed);
    }
}

/// A key's place in a hash table.
pub(crate) enum Slot {
    Has(usize),
    Free(usize),
    /// All that may be looked at are others'.
    Full,
}

/// One copy of the tables.
#[derive(Clone, Copy)]
pub struct View<'a> {
    words: &'a [AtomicU64],
    layout: &'a Layout,
    seed: u64,
    generation: u64,
}

impl<'a> View<'a> {
    /// `copy_words` are the words of one copy (already checked against the layout).
    pub(crate) fn new(copy_words: &'a [AtomicU64], layout: &'a Layout, seed: u64, generation: u64) -> View<'a> {
        View { words: copy_words, layout, seed, generation }
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Row `index` of an array table; zeroes if there is none.
    #[inline(always)]
    pub fn row<T: Pod>(&self, table: Table, index: usize) -> T {
        let place = self.layout.place(table);
        debug_assert_eq!(place.record_words * 8, size_of::<T>());
        if index >= place.capacity {
            return T::zeroed();
        }
        read_record(self.words, place.offset + index * place.record_words)
    }

    /// All words of a table.
    #[inline(always)]
    pub(crate) fn table_words(&self, table: Table) -> &'a [AtomicU64] {
        let Place { record_words, capacity, offset } = self.layout.place(table);
        self.words.get(offset..offset + record_words * capacity).unwrap_or(&[])
    }

    /// All words from the start of a table on, also those of the tables behind it.
    #[inline(always)]
    pub(crate) fn words_from(&self, table: Table) -> &'a [AtomicU64] {
        self.words.get(self.layout.place(table).offset..).unwrap_or(&[])
    }

    /// Word `at` of a table; zero if there is none.
    #[inline(always)]
    pub(crate) fn word(&self, table: Table, at: usize) -> u64 {
        self.table_words(table).get(at).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// The value of `key` in a hash table.
    #[inline(always)]
    pub fn find<K: Pod + PartialEq, V: Pod>(&self, table: Table, key: &K) -> Option<V> {
        self.find_tagged(table, key, self.tag(key))
    }

    /// The same with the key's tag at hand.
    #[inline(always)]
    pub fn find_tagged<K: Pod + PartialEq, V: Pod>(&self, table: Table, key: &K, tag: u64) -> Option<V> {
        match self.slot(table, key, tag) {
            Slot::Has(slot) => Some(self.value(table, slot, size_of::<K>())),
            Slot::Free(_) | Slot::Full => None,
        }
    }

    /// By what a tag is cut to one of the slots that a hash table uses. Never more than it has: a damaged word leads astray
    /// within it.
    #[inline(always)]
    pub(crate) fn slot_mask(&self, table: Table) -> usize {
        let at = self.layout.place(Table::Masks).offset + table as usize;
        self.words.get(at).map_or(0, |word| word.load(Ordering::Relaxed) as usize)
            & (self.layout.place(table).capacity - 1)
    }

    /// What a key is found by.
    #[inline(always)]
    pub fn tag<K: Pod>(&self, key: &K) -> u64 {
        hash::tag(key, self.seed)
    }

    /// `key` will be looked up soon.
    #[inline]
    pub fn expect<K: Pod>(&self, table: Table, key: &K) {
        self.expect_tag(table, self.tag(key));
    }

    /// The key of this tag will be looked up soon.
    #[inline(always)]
    pub fn expect_tag(&self, table: Table, tag: u64) {
        let place = self.layout.place(table);
        let slot = tag as usize & self.slot_mask(table);
        self.expect_words(place.offset + slot * place.record_words, place.record_words);
    }

    /// What stands under a tag, whatever its key is: a guess to fetch other things by, and nothing to decide by.
    #[inline(always)]
    pub fn guess<K: Pod, V: Pod>(&self, table: Table, tag: u64) -> Option<V> {
        let (place, mask) = (self.layout.place(table), self.slot_mask(table));
        for probe in 0..PROBES_MAX {
            let slot = (tag as usize).wrapping_add(probe) & mask;
            match self.tag_at(place, slot) {
                0 => return None,
                found if found == tag => return Some(self.value(table, slot, size_of::<K>())),
                _ => {}
            }
        }
        None
    }

    /// Row `index` of an array table will be read soon.
    #[inline(always)]
    pub fn expect_row(&self, table: Table, index: usize) {
        let place = self.layout.place(table);
        self.expect_words(place.offset + index * place.record_words, place.record_words);
    }

    /// A row is a cache line or two.
    #[inline(always)]
    fn expect_words(&self, at: usize, count: usize) {
        for word in [at, at + count - 1].into_iter().filter_map(|at| self.words.get(at)) {
            prefetch(word);
        }
    }

    /// Where `key` stands, if it does.
    #[inline]
    pub(crate) fn find_slot<K: Pod + PartialEq>(&self, table: Table, key: &K) -> Option<usize> {
        match self.slot(table, key, self.tag(key)) {
            Slot::Has(slot) => Some(slot),
            Slot::Free(_) | Slot::Full => None,
        }
    }

    /// Where `key` stands, or could. Probes are bounded: a damaged table costs time, never a hang.
    #[inline(always)]
    pub(crate) fn slot<K: Pod + PartialEq>(&self, table: Table, key: &K, tag: u64) -> Slot {
        let (place, mask) = (self.layout.place(table), self.slot_mask(table));
        for probe in 0..PROBES_MAX {
            let slot = (tag as usize).wrapping_add(probe) & mask;
            let found = self.tag_at(place, slot);
            if found == 0 {
                return Slot::Free(slot);
            }
            if found == tag && self.key_at::<K>(place, slot) == *key {
                return Slot::Has(slot);
            }
        }
        Slot::Full
    }

    #[inline(always)]
    pub(crate) fn tag_at(&self, place: Place, slot: usize) -> u64 {
        self.words.get(place.offset + slot * place.record_words).map_or(0, |w| w.load(Ordering::Relaxed))
    }

    #[inline(always)]
    pub(crate) fn key_at<K: Pod>(&self, place: Place, slot: usize) -> K {
        read_record(self.words, place.offset + slot * place.record_words + 1)
    }

    #[inline(always)]
    fn value<V: Pod>(&self, table: Table, slot: usize, key_bytes: usize) -> V {
        let place = self.layout.place(table);
        read_record(self.words, place.offset + slot * place.record_words + 1 + key_bytes / 8)
    }

    /// Longest match of `addr` in one of the two prefix tables.
    #[inline]
    pub fn longest_match(&self, table: lpm::Lpm, addr: crate::Addr) -> Option<u64> {
        lpm::longest_match(self, table, addr)
    }

    /// Longest match of each of a burst of IPv4 addresses, as of `Addr::v4_bits`: `found[i]` becomes the value for
    /// `addrs[i]`, or `lpm::NO_MATCH`.
    #[inline]
    pub fn longest_match_burst(&self, table: lpm::Lpm, addrs: &[u32], found: &mut [u32]) {
        lpm::longest_match_burst(self, table, addrs, found);
    }

    /// All rows of a hash table, for listings. O(slots in use).
    pub fn rows<K: Pod, V: Pod>(&self, table: Table) -> impl Iterator<Item = (K, V)> + '_ {
        let place = self.layout.place(table);
        (0..=self.slot_mask(table))
            .filter(move |&slot| self.tag_at(place, slot) != 0)
            .map(move |slot| (self.key_at(place, slot), self.value(table, slot, size_of::<K>())))
    }
}
