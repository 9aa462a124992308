//! One worker's flow table: tuple -> record, fixed capacity, never shared, never locked. It lies in memory that outlives
//! the process (`tables::flow`), so that a successor adopts it.
//!
//! A record is reached by its inside tuple (packets from the local end) and, if translated, by its outside tuple
//! (packets towards it). A burst asks in steps, so that memory is fetched while other packets are worked on: `look_up`
//! finds the likely record of each packet, and each is then confirmed. This file must not decide what becomes of a packet.
//!
//! A packet amid a connection whose flow is not known (after a restart without the predecessor's memory, or after expiry)
//! is picked up: it is classified as a first one would be. Untranslated flows go on as they were; one to a service gets
//! the backend that the same hash picks, which is the same one while the backends are; a reply to a translated port finds
//! nobody (`NoFlow`), and SCTP that would have to be translated is dropped (`SctpOutOfBlue`).

mod burst;
mod gone;
mod in_use;
mod index;
mod room;
pub mod sctp;
pub mod tcp;
pub mod timeouts;

use crate::balance::affinity::Affinities;
use crate::balance::loads::Loads;
use crate::parse::{Kind, Meta, tcp_flag};
pub use burst::Asked;
use bytemuck::Zeroable;
use in_use::InUse;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tables::counters::DropReason;
use tables::cpu::prefetch;
use tables::flow::{
    Bucket, FLAG_ANSWERED, FLAG_CONFIRMED, FLAG_COUNTED, FLAG_OPENED_LOCALLY, FLAG_TRANSLATED, FLAG_USED, FlowLayout,
    FlowRecord, FlowRegionError, HopKind, INDEX_START, Tuple, WORD_FLOW_SEED, WORD_WORKER, WORD_WORKERS,
};
use tables::region::Parts;
use tables::{Protocol, Region, hash};
use timeouts::Timeouts;

/// Which way a packet goes through a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the local end.
    Out,
    /// Towards it.
    Back,
}

impl Way {
    #[inline(always)]
    pub fn other(self) -> Way {
        if self == Way::Out { Way::Back } else { Way::Out }
    }
}

/// A record's number.
pub type FlowId = u32;

/// The record that a tuple most likely has, to be confirmed, or none: one word, so that it is kept and asked for by one
/// comparison. None is a number that no table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Likely(FlowId);

impl From<Option<FlowId>> for Likely {
    #[inline(always)]
    fn from(id: Option<FlowId>) -> Likely {
        Likely(id.unwrap_or(NONE))
    }
}

impl Likely {
    pub const NONE: Likely = Likely(NONE);

    #[inline(always)]
    pub fn is_none(self) -> bool {
        self == Likely::NONE
    }
}

pub struct FlowTable {
    parts: Parts<Bucket, FlowRecord>,
    masks: hash::Masks,
    free_head: u32,
    in_use: InUse,
    /// Next record that expiry looks at, or who looks for room.
    hand: usize,
    /// Not told yet.
    evicted: u64,
    gone: gone::Gone,
    timeouts: Timeouts,
    /// The backends that clients have had.
    pub affinities: Affinities,
    /// How many flows backends have.
    pub loads: Arc<Loads>,
}

const NONE: u32 = u32::MAX;

impl FlowTable {
    /// An empty table in fresh memory.
    pub fn new(region: Region) -> Result<FlowTable, FlowRegionError> {
        let mut table = FlowTable::over(region)?;
        table.chain_free();
        Ok(table)
    }

    /// Takes over a predecessor's table after a bounded check: every used record is reachable by its own tuples, else it
    /// is forgotten. Returns how many flows live on. `stale` must make every record revalidate.
    pub fn adopt(region: Region, worker: u16, workers: u16) -> Result<Option<FlowTable>, FlowRegionError> {
        let word = |i: usize| region.words()[i].load(Ordering::Relaxed);
        if region.words().len() <= INDEX_START
            || (word(WORD_WORKER), word(WORD_WORKERS)) != (worker as u64, workers as u64)
        {
            return Ok(None);
        }
        let mut table = FlowTable::over(region)?;
        table.rebuild();
        table.affinities.check();
        Ok(Some(table))
    }

    fn over(region: Region) -> Result<FlowTable, FlowRegionError> {
        let layout = FlowLayout::read(&region)?;
        let masks = hash::Masks::new(region.words()[WORD_FLOW_SEED].load(Ordering::Relaxed));
        let (index, records) = ((INDEX_START, layout.buckets), (layout.records_start(), layout.capacity));
        let (affinities, loads) = (Affinities::beside(&region)?, Arc::default());
        let parts = region.into_parts(index, records).expect("the layout was checked against the region's size");
        let timeouts = Timeouts::default();
        let gone = gone::Gone::default();
        Ok(FlowTable {
            parts,
            masks,
            free_head: NONE,
            in_use: InUse::default(),
            hand: 0,
            evicted: 0,
            gone,
            timeouts,
            affinities,
            loads,
        })
    }

    /// Counts its backends' flows, also those that are there, together with other workers' from now on.
    pub fn count_with(&mut self, loads: Arc<Loads>) {
        self.loads = loads;
        for id in 0..self.capacity() as u32 {
            let record = *self.record(id);
            let is_counted = record.flags & FLAG_USED != 0 && record.flags & FLAG_COUNTED != 0;
            if is_counted && !self.loads.add(&record) {
                self.record_mut(id).flags &= !FLAG_COUNTED;
            }
        }
    }

    fn chain_free(&mut self) {
        let mut free_head = NONE;
        let mut in_use = InUse::of(self.capacity());
        for (i, record) in self.parts.second_mut().iter_mut().enumerate().rev() {
            if record.flags & FLAG_USED != 0 {
                in_use.set(i as u32);
            } else {
                record.free(free_head);
                free_head = i as u32;
            }
        }
        (self.free_head, self.in_use) = (free_head, in_use);
    }

    /// Forgets the index and writes it anew from the records: a half-written change of a killed predecessor is undone.
    fn rebuild(&mut self) {
        self.parts.first_mut().fill(Bucket::zeroed());
        for id in 0..self.capacity() as u32 {
            let record = *self.record(id);
            let is_used = record.flags & FLAG_USED != 0;
            if is_used && !(ends_here(&record) && self.index_record(id, &record)) {
                self.record_mut(id).flags = 0;
            } else if is_used && record.flags & FLAG_COUNTED != 0 && !self.loads.add(&record) {
                self.record_mut(id).flags &= !FLAG_COUNTED;
            }
        }
        self.chain_free();
    }

    fn index_record(&mut self, id: FlowId, record: &FlowRecord) -> bool {
        self.index_hashed(id, record.flags, [self.hash(&record.inside), self.hash(&record.outside())])
    }

    /// Makes a record reachable by the hashes of its inside and, if translated, its outside tuple: by both or neither.
    fn index_hashed(&mut self, id: FlowId, flags: u8, [inside, outside]: [u64; 2]) -> bool {
        let buckets = self.parts.first_mut();
        if !index::insert(buckets, inside, id) {
            return false;
        }
        if flags & FLAG_TRANSLATED != 0 && !index::insert(buckets, outside, id) {
            index::remove(buckets, inside, id);
            return false;
        }
        true
    }

    pub fn set_timeouts(&mut self, timeouts: Timeouts) {
        self.timeouts = timeouts;
    }

    pub fn region(&self) -> &Region {
        self.parts.region()
    }

    pub fn used(&self) -> usize {
        self.in_use.count()
    }

    pub fn capacity(&self) -> usize {
        self.parts.second().len()
    }

    #[inline(always)]
    pub fn hash(&self, tuple: &Tuple) -> u64 {
        self.hash_words(&tuple.words())
    }

    /// As `hash`, of a tuple's words.
    #[inline(always)]
    pub fn hash_words(&self, words: &[u64; 5]) -> u64 {
        self.masks.hash_words(words)
    }

    #[inline(always)]
    pub fn record(&self, id: FlowId) -> &FlowRecord {
        &self.parts.second()[id as usize]
    }

    #[inline(always)]
    pub fn record_mut(&mut self, id: FlowId) -> &mut FlowRecord {
        &mut self.parts.second_mut()[id as usize]
    }

    /// A packet with this hash will be looked up soon.
    #[inline(always)]
    pub fn expect(&self, hash: u64) {
        let buckets = self.parts.first();
        prefetch(&buckets[index::home(buckets, hash)]);
    }

    /// The number of a likely record that this table has.
    #[inline(always)]
    pub fn known(&self, likely: Likely) -> Option<FlowId> {
        ((likely.0 as usize) < self.capacity()).then_some(likely.0)
    }

    /// It is nearly time for one that was expected.
    #[inline(always)]
    pub fn expect_soon(&self, likely: Likely) {
        if let Some(record) = self.parts.second().get(likely.0 as usize) {
            prefetch(record.half(true));
            prefetch(record.half(false));
        }
    }

    /// The record whose tuple in this way has these words, given the one that was likely before other packets were
    /// handled.
    #[inline(always)]
    pub fn confirm(&self, likely: Likely, words: &[u64; 5], way: Way, hash: u64) -> Option<FlowId> {
        self.known(likely)
            .filter(|&id| self.record(id).is_of(words, way == Way::Out))
            .or_else(|| self.find_hashed(words, way, hash))
    }

    /// The record whose tuple in this way is `tuple`.
    pub fn find(&self, tuple: &Tuple, way: Way) -> Option<FlowId> {
        let words = tuple.words();
        self.find_hashed(&words, way, self.hash_words(&words))
    }

    /// As `find`, with the tuple's words and hash at hand.
    #[inline(never)]
    pub fn find_hashed(&self, words: &[u64; 5], way: Way, hash: u64) -> Option<FlowId> {
        let records = self.parts.second();
        let is_it = |id: FlowId| records.get(id as usize).is_some_and(|record| record.is_of(words, way == Way::Out));
        index::find(self.parts.first(), hash, is_it)
    }

    /// Inserts a new flow. Refused if one of its tuples is taken, or if there is no room and nobody makes any (`room`).
    pub fn insert(&mut self, record: FlowRecord) -> Result<FlowId, DropReason> {
        let (inside, outside) = (record.inside.words(), record.outside().words());
        let hashes = [self.hash_words(&inside), self.hash_words(&outside)];
        let clashes = self.find_hashed(&outside, Way::Back, hashes[1]).is_some()
            || self.find_hashed(&inside, Way::Out, hashes[0]).is_some();
        if clashes {
            return Err(DropReason::TupleClash);
        }
        let id = self.claim(record.last_seen_ms)?;
        *self.record_mut(id) = record;
        self.enter(id, hashes)?;
        Ok(id)
    }

    /// An unused record for a flow that is known to be absent. To be written where it stands and then [entered](Self::enter):
    /// handed over it would be copied as a whole while its parts are still on their way to memory, for which a processor
    /// waits.
    #[inline(always)]
    pub fn claim(&mut self, now_ms: u32) -> Result<FlowId, DropReason> {
        if self.free_head == NONE && !self.make_room(now_ms) {
            return Err(DropReason::FlowTableFull);
        }
        let id = self.free_head;
        self.free_head = self.record(id).next_free();
        if let Some(after) = self.parts.second().get(self.free_head as usize) {
            prefetch(after.half(true));
            prefetch(after.half(false));
        }
        Ok(id)
    }

    /// Makes a claimed record, which was written, a flow. These are the hashes of its inside and outside tuple, for which the
    /// caller has looked before.
    #[inline(always)]
    pub fn enter(&mut self, id: FlowId, hashes: [u64; 2]) -> Result<(), DropReason> {
        let record = self.record(id);
        let is_translated = hashes[0] != hashes[1] || record.is_translated();
        let flags = record.flags & !FLAG_TRANSLATED | if is_translated { FLAG_TRANSLATED } else { 0 };
        if !self.index_hashed(id, flags, hashes) {
            let free_head = self.free_head;
            self.record_mut(id).free(free_head);
            self.free_head = id;
            return Err(DropReason::FlowTableFull);
        }
        let is_uncounted = flags & FLAG_COUNTED != 0 && !self.loads.add(self.record(id));
        let flags = if is_uncounted { flags & !FLAG_COUNTED } else { flags };
        self.record_mut(id).flags = flags | FLAG_USED;
        self.in_use.set(id);
        Ok(())
    }

    pub fn remove(&mut self, id: FlowId) {
        let record = self.record(id);
        if record.flags & FLAG_USED != 0 {
            self.remove_hashed(id, self.hashes(record));
        }
    }

    /// Of the inside and the outside tuple.
    #[inline(always)]
    fn hashes(&self, record: &FlowRecord) -> [u64; 2] {
        let inside = self.hash_words(&record.words(true));
        let is_translated = record.flags & FLAG_TRANSLATED != 0;
        [inside, if is_translated { self.hash_words(&record.words(false)) } else { inside }]
    }

    /// As `remove`, of a flow that is in use and has these hashes.
    #[inline(always)]
    fn remove_hashed(&mut self, id: FlowId, [inside, outside]: [u64; 2]) {
        let flags = self.record(id).flags;
        index::remove(self.parts.first_mut(), inside, id);
        if flags & FLAG_TRANSLATED != 0 {
            index::remove(self.parts.first_mut(), outside, id);
        }
        if flags & FLAG_COUNTED != 0 {
            self.loads.remove(self.record(id));
        }
        let free_head = self.free_head;
        self.record_mut(id).free(free_head);
        self.free_head = id;
        self.in_use.clear(id);
    }

    /// Whether a SYN or INIT of this way opens a new connection over the remains of an old one: a closed one, or one whose
    /// opener has forgotten it.
    pub fn may_reopen(&self, id: FlowId, way: Way, now_ms: u32) -> bool {
        let record = self.record(id);
        let is_quiet = now_ms.wrapping_sub(record.last_seen_ms) >= tcp::FORGOTTEN_MS;
        is_by_opener(record, way) && is_quiet || self.is_closed(id)
    }

    /// Both ends have closed, or one has reset.
    pub fn is_closed(&self, id: FlowId) -> bool {
        let record = self.record(id);
        match record.inside.protocol {
            Protocol::TCP => tcp::is_closed(record.state),
            Protocol::SCTP => sctp::is_closed(record.state),
            _ => false,
        }
    }
}

#[inline(always)]
fn is_by_opener(record: &FlowRecord, way: Way) -> bool {
    (record.flags & FLAG_OPENED_LOCALLY != 0) == (way == Way::Out)
}

/// Notes a packet in its flow: time, direction, progress. `bytes` are those of its head frame.
#[inline(always)]
pub fn note<'a>(record: &mut FlowRecord, way: Way, meta: &Meta, bytes: impl FnOnce() -> &'a [u8], now_ms: u32) {
    let is_life = match meta.protocol {
        // Without a header of its own.
        _ if meta.kind == Kind::Piece => true,
        Protocol::TCP => {
            let header = bytes().get(meta.l4 as usize..).and_then(|l4| l4.first_chunk());
            header.is_some_and(|header| tcp::note(record, way, meta.tcp_flags, header))
        }
        Protocol::SCTP => sctp::note(record, way, bytes().get(meta.l4 as usize..).unwrap_or(&[])),
        _ => true,
    };
    note_seen(record, way, is_life, now_ms);
}

/// The same of a packet amid its flow: UDP if it has no TCP header, else one that neither opens nor ends it.
#[inline(always)]
pub fn note_amid(record: &mut FlowRecord, way: Way, tcp: Option<&tcp::Header>, now_ms: u32) {
    let is_life = tcp.is_none_or(|header| tcp::note(record, way, tcp_flag::ACK, header));
    note_seen(record, way, is_life, now_ms);
}

/// By what of its flags there is news of a flow.
const NEWS_FLAGS: u8 = FLAG_OPENED_LOCALLY | FLAG_ANSWERED | FLAG_CONFIRMED;

/// The flags that a packet `out` of the local end, or towards it, adds to these. Confirmed is an answer after which the opener
/// spoke on.
const fn news(flags: u8, out: bool) -> u8 {
    let is_by_opener = (flags & FLAG_OPENED_LOCALLY != 0) == out;
    let said = match is_by_opener {
        true if flags & FLAG_ANSWERED == 0 => 0,
        true => FLAG_CONFIRMED,
        false => FLAG_ANSWERED,
    };
    said & !flags
}

/// A bit for each combination of [`NEWS_FLAGS`] to which it adds any: asked by one look-up.
const fn newsworthy(out: bool) -> u32 {
    let (mut bits, mut flags) = (0, 0);
    while flags <= NEWS_FLAGS {
        bits |= ((news(flags, out) != 0) as u32) << flags;
        flags += 1;
    }
    bits
}

const NEWSWORTHY_OUT: u32 = newsworthy(true);
const NEWSWORTHY_BACK: u32 = newsworthy(false);

#[inline(always)]
fn note_seen(record: &mut FlowRecord, way: Way, is_life: bool, now_ms: u32) {
    if is_life {
        record.last_seen_ms = now_ms;
    }
    record.packets = record.packets.wrapping_add(1);
    let newsworthy = if way == Way::Out { NEWSWORTHY_OUT } else { NEWSWORTHY_BACK };
    // Written when there is news alone: what stands beside it is read soon, and a processor waits for parts just written.
    if newsworthy >> (record.flags & NEWS_FLAGS) & 1 != 0 {
        record.flags |= news(record.flags, way == Way::Out);
    }
}

/// Notes what a packet from the local end, which opened the flow, says of the other side, whose packets pass elsewhere: who
/// goes on was answered. A first packet says nothing, so that who invents sources invents two packets each.
pub fn note_unseen(record: &mut FlowRecord, meta: &Meta, bytes: &[u8]) {
    if record.packets < 2 || meta.kind == Kind::Piece {
        return;
    }
    let l4 = bytes.get(meta.l4 as usize..).unwrap_or(&[]);
    let is_confirmed = match meta.protocol {
        Protocol::TCP => l4.first_chunk().is_some_and(|header| tcp::note_unseen(record, meta.tcp_flags, header)),
        Protocol::SCTP => sctp::note_unseen(record, meta.tcp_flags),
        _ => return record.flags |= FLAG_ANSWERED,
    };
    if is_confirmed {
        record.flags |= FLAG_ANSWERED | FLAG_CONFIRMED;
    }
}

/// Towards its local end a flow ends at an interface, or a client outside: a damaged record that says otherwise would send its packets round
/// for ever.
fn ends_here(record: &FlowRecord) -> bool {
    matches!(record.back.kind(), HopKind::None | HopKind::Drop | HopKind::Interface | HopKind::Uplink)
}

#[cfg(test)]
#[path = "flow_tests.rs"]
mod tests;
