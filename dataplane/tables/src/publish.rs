//! Left-right publishing: two copies of the tables, one word that names the live one, and no lock on either side.
//!
//! Contract, in the order it matters:
//! - The *generation* word counts publishes; its lowest bit names the live copy. Only the publisher writes it.
//! - Each reader owns one *acknowledgement* word: `ASLEEP | tag of the region | generation`. Only that reader writes it.
//! - A reader may read the copy of generation `g` only while its word says `(awake, this region, g)` **and** it has
//!   seen the generation to be `g` after writing that ([`pin`]). One that is pinned and finds the generation unchanged
//!   needs a single load.
//! - The publisher writes the idle copy, stores the new generation, and touches the copy that was live only after every
//!   reader's word says asleep, another region, or the new generation ([`acknowledged`]). The fences on both sides make
//!   it impossible that the publisher misses a reader that missed the new generation (Dekker's pattern; see tests/loom.rs).
//! - What a publish changed is kept as ranges and copied to the other copy before the next change: O(change).
//! - A journal names the scopes touched by each of the last publishes, so that a reader that slept over several bumps
//!   just those. A reader that slept longer bumps everything.
//!
//! This file must not know what rows mean.

use crate::layout::{self, JOURNAL_ENTRY_WORDS, Layout, LayoutError, TABLES, Table, WORD_GENERATION, WORD_SEED};
use crate::limits::JOURNAL_PUBLISHES;
use crate::lpm::{self, LPMS};
use crate::region::{Access, Region, RegionError};
use crate::scope::{Scope, ScopeCounters, Touched};
use crate::view::{View, write_record};
use crate::word::Word;
use bytemuck::Pod;
use std::sync::atomic::{AtomicU64, Ordering};

/// Set in an acknowledgement word while its reader reads nothing.
pub const ASLEEP: u64 = 1 << 63;
const TAG_SHIFT: u32 = 48;
const GENERATION_MASK: u64 = (1 << TAG_SHIFT) - 1;

/// The part of an acknowledgement word that names a region: 15 bits of its seed, never 0 (0 is "no region yet").
pub fn region_tag(seed: u64) -> u64 {
    ((seed & 0x7fff) | 1) << TAG_SHIFT
}

/// Acknowledges the live generation and returns it; from then on its copy is the caller's to read until it pins again or
/// sleeps. `tag` as from [`region_tag`].
#[inline]
pub fn pin<W: Word>(generation: &W, ack: &W, tag: u64) -> u64 {
    let mut live = generation.load(Ordering::Acquire);
    if ack.load(Ordering::Relaxed) == tag | live {
        return live;
    }
    loop {
        ack.store(tag | live, Ordering::Release);
        W::fence();
        let again = generation.load(Ordering::Acquire);
        if again == live {
            return live;
        }
        live = again;
    }
}

/// Gives up what was pinned.
pub fn unpin<W: Word>(ack: &W) {
    ack.store(ack.load(Ordering::Relaxed) | ASLEEP, Ordering::Release);
}

/// Makes the other copy live.
pub fn flip<W: Word>(generation: &W, next: u64) {
    generation.store(next, Ordering::Release);
    W::fence();
}

/// Whether a reader with this acknowledgement word can no longer be reading the copy that `live` replaced.
pub fn acknowledged<W: Word>(ack: &W, tag: u64, live: u64) -> bool {
    let word = ack.load(Ordering::Acquire);
    word & ASLEEP != 0 || word & !(GENERATION_MASK | ASLEEP) != tag || word & GENERATION_MASK >= live
}

/// Whether a reader reads what `live` made live, or will as soon as it wakes: one that is still at another region, asleep or
/// not, has yet to be told of this one.
pub fn in_force<W: Word>(ack: &W, tag: u64, live: u64) -> bool {
    ack.load(Ordering::Acquire) & !(GENERATION_MASK | ASLEEP) == tag && acknowledged(ack, tag, live)
}

/// A full table.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
#[error("table {table} is full at its limit of {limit}: raise the limit in tables/src/limits.rs or remove objects")]
pub struct TableFull {
    pub table: &'static str,
    pub limit: usize,
}

/// Words of a copy, by offset within it.
type Range = (u32, u32);

/// The only writer of a tables region.
pub struct Publisher {
    pub(crate) region: Region,
    layout: Layout,
    pub(crate) seed: u64,
    live: u64,
    /// Changed in the idle copy since it was last equal to the live one.
    dirty: Vec<Range>,
    /// Changed by the last publish, still to be copied from the live copy to the idle one.
    behind: Vec<Range>,
    touched: Touched,
    /// Words of both copies that many changes will be spread over, until the second copy has its memory.
    pub(crate) expected: Vec<std::ops::Range<usize>>,
    /// Rows of each hash table.
    pub(crate) rows: [usize; TABLES.len()],
    /// By `Lpm`.
    pub(crate) prefixes: [lpm::Writer; LPMS.len()],
}

impl Publisher {
    /// A fresh region with empty tables. `seed` should be random.
    pub fn create(seed: u64) -> Result<Publisher, RegionError> {
        let layout = Layout::full();
        let region = Region::create(c"fairway-tables", layout.region_words())?;
        for (at, value) in layout.header(seed) {
            region.words()[at].store(value, Ordering::Relaxed);
        }
        let (dirty, behind, expected) = (Vec::new(), Vec::new(), Vec::new());
        let (touched, prefixes) = (Touched::default(), LPMS.map(lpm::Writer::new));
        let rows = [0; TABLES.len()];
        Ok(Publisher { region, layout, seed, live: 0, dirty, behind, touched, expected, rows, prefixes })
    }

    pub fn region(&self) -> &Region {
        &self.region
    }

    pub fn generation(&self) -> u64 {
        self.live
    }

    /// Whether nobody reads the idle copy any more, so that it may be written.
    pub fn is_acknowledged<'a>(&self, acks: impl IntoIterator<Item = &'a AtomicU64>) -> bool {
        let tag = region_tag(self.seed);
        acks.into_iter().all(|ack| acknowledged(ack, tag, self.live))
    }

    /// Whether all of these readers judge by the last publish.
    pub fn is_in_force<'a>(&self, acks: impl IntoIterator<Item = &'a AtomicU64>) -> bool {
        let tag = region_tag(self.seed);
        acks.into_iter().all(|ack| in_force(ack, tag, self.live))
    }

    /// Opens the idle copy for changes, or None while a reader may still be in it. Changes may go on over several
    /// batches; readers see none of them until `Batch::publish`.
    pub fn batch<'a>(&mut self, acks: impl IntoIterator<Item = &'a AtomicU64>) -> Option<Batch<'_>> {
        if !self.is_acknowledged(acks) {
            return None;
        }
        self.catch_up();
        Some(Batch { publisher: self })
    }

    fn copy_start(&self, generation: u64) -> usize {
        self.layout.copy_start + (generation & 1) as usize * self.layout.copy_words
    }

    fn catch_up(&mut self) {
        let (live, idle) = (self.copy_start(self.live), self.copy_start(self.live + 1));
        let words = self.region.words();
        for words in self.expected.drain(..) {
            self.region.expect_writes(idle + words.start..idle + words.end);
        }
        for &(at, count) in &self.behind {
            for i in at as usize..(at + count) as usize {
                words[idle + i].store(words[live + i].load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
        self.behind.clear();
    }

    /// The copy that a batch writes.
    pub(crate) fn idle(&self) -> View<'_> {
        let start = self.copy_start(self.live + 1);
        let words = &self.region.words()[start..start + self.layout.copy_words];
        View::new(words, &self.layout, self.seed, self.live + 1)
    }

    /// The copy that readers see.
    pub fn live(&self) -> View<'_> {
        let start = self.copy_start(self.live);
        let words = &self.region.words()[start..start + self.layout.copy_words];
        View::new(words, &self.layout, self.seed, self.live)
    }

    pub(crate) fn place(&self, table: Table) -> layout::Place {
        self.layout.place(table)
    }

    #[cfg(test)]
    pub(crate) fn dirty_words(&self) -> usize {
        self.dirty.iter().map(|(_, count)| *count as usize).sum()
    }

    /// Where the copy begins that a batch writes.
    pub(crate) fn idle_start(&self) -> usize {
        self.copy_start(self.live + 1)
    }

    /// Writes words of the idle copy, from word `at` of it.
    pub(crate) fn put<T: Pod>(&mut self, at: usize, value: &T) {
        let start = self.copy_start(self.live + 1);
        write_record(self.region.words(), start + at, value);
        self.note_written(at, size_of::<T>() / 8);
    }

    /// So many words of the idle copy were written, from word `at` of it.
    pub(crate) fn note_written(&mut self, at: usize, count: usize) {
        let (at, count) = (at as u32, count as u32);
        match self.dirty.last_mut() {
            // Most writes go on where the last one ended, or repeat it.
            Some((start, size)) if (*start..=*start + *size).contains(&at) => *size = (*size).max(at + count - *start),
            _ => self.dirty.push((at, count)),
        }
    }

    /// Changes words of the idle copy; those that stay as they are cost a look.
    pub(crate) fn change(&mut self, words: std::ops::Range<usize>, mut change: impl FnMut(u64) -> u64) {
        let start = self.copy_start(self.live + 1);
        for at in words {
            let old = self.region.words()[start + at].load(Ordering::Relaxed);
            let new = change(old);
            if new != old {
                self.put(at, &new);
            }
        }
    }
}

/// The idle copy, open for changes.
pub struct Batch<'p> {
    pub(crate) publisher: &'p mut Publisher,
}

impl Batch<'_> {
    /// What the tables will say once published.
    pub fn view(&self) -> View<'_> {
        self.publisher.idle()
    }

    /// Sets a row of an array table.
    pub fn set<T: Pod>(&mut self, table: Table, index: usize, value: &T) -> Result<(), TableFull> {
        let place = self.publisher.layout.place(table);
        debug_assert_eq!(place.record_words * 8, size_of::<T>());
        if index >= place.capacity {
            return Err(TableFull { table: table.name(), limit: place.capacity });
        }
        self.publisher.put(place.offset + index * place.record_words, value);
        Ok(())
    }

    /// Flows that depend on this are looked at again once published.
    pub fn touch(&mut self, scope: Scope) {
        self.publisher.touched.touch(scope);
    }

    pub fn touch_all(&mut self) {
        self.publisher.touched.touch_all();
    }

    pub fn is_empty(&self) -> bool {
        self.publisher.dirty.is_empty() && self.publisher.touched.is_empty()
    }

    /// Makes the changes live. Returns the new generation, which each live reader will acknowledge.
    pub fn publish(self) -> u64 {
        let publisher = self.publisher;
        let next = publisher.live + 1;
        let words = publisher.region.words();
        let journal = journal_at(next);
        for (i, word) in publisher.touched.words().enumerate() {
            words[journal + i].store(word, Ordering::Relaxed);
        }
        flip(&words[WORD_GENERATION], next);
        publisher.live = next;
        publisher.touched.clear();
        publisher.behind = std::mem::take(&mut publisher.dirty);
        next
    }
}

fn journal_at(generation: u64) -> usize {
    layout::JOURNAL_START + generation as usize % JOURNAL_PUBLISHES * JOURNAL_ENTRY_WORDS
}

/// Why a region that was handed over is not read.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error(transparent)]
    Region(#[from] RegionError),
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// One reader's hold on a tables region.
pub struct Reader {
    region: std::sync::Arc<Region>,
    layout: Layout,
    seed: u64,
    /// Generation whose scopes were last bumped; None before the first pin.
    seen: Option<u64>,
}

impl Reader {
    /// Checks everything that can be checked once.
    pub fn attach(region: std::sync::Arc<Region>) -> Result<Reader, LayoutError> {
        let words = region.words();
        let word = |i: usize| words.get(i).map_or(0, |w| AtomicU64::load(w, Ordering::Relaxed));
        let layout = Layout::read(word, words.len())?;
        let seed = word(WORD_SEED);
        Ok(Reader { region, layout, seed, seen: None })
    }

    /// Maps a region from a file descriptor and attaches to it.
    pub fn from_fd(fd: std::os::fd::OwnedFd) -> Result<Reader, AttachError> {
        let region = Region::attach(fd, Access::ReadOnly)?;
        Ok(Reader::attach(std::sync::Arc::new(region))?)
    }

    /// Another reader of the same region (another worker's).
    pub fn another(&self) -> Reader {
        Reader { region: self.region.clone(), layout: self.layout.clone(), seed: self.seed, seen: None }
    }

    /// Pins the live copy and bumps the scopes of every publish since the last pin. True if the generation moved.
    #[inline(always)]
    pub fn pin(&mut self, ack: &AtomicU64, scopes: &mut ScopeCounters) -> bool {
        let live = pin(&self.region.words()[WORD_GENERATION], ack, region_tag(self.seed));
        if self.seen == Some(live) {
            return false;
        }
        self.bump(live, scopes);
        self.seen = Some(live);
        true
    }

    #[cold]
    fn bump(&self, live: u64, scopes: &mut ScopeCounters) {
        let missed = self.seen.map_or(u64::MAX, |seen| live.wrapping_sub(seen));
        if missed >= JOURNAL_PUBLISHES as u64 / 2 {
            return scopes.bump_all();
        }
        let words = self.region.words();
        for generation in (0..missed).rev().map(|ago| live.wrapping_sub(ago)) {
            let entry = &words[journal_at(generation)..][..JOURNAL_ENTRY_WORDS];
            scopes.bump(entry.iter().map(|word| AtomicU64::load(word, Ordering::Relaxed)));
        }
    }

    /// The copy that was pinned last. Only valid between `pin` and the next `pin` or `unpin` with the same word.
    #[inline(always)]
    pub fn view(&self) -> View<'_> {
        let generation = self.seen.unwrap_or(0);
        let start = self.layout.copy_start + (generation & 1) as usize * self.layout.copy_words;
        let words = self.region.words().get(start..start + self.layout.copy_words).unwrap_or(&[]);
        View::new(words, &self.layout, self.seed, generation)
    }

    pub fn generation(&self) -> u64 {
        self.seen.unwrap_or(0)
    }
}

#[cfg(test)]
#[path = "publish_tests.rs"]
mod tests;
