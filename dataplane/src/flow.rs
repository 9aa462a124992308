//! One worker's flow table: tuple -> record, fixed capacity, never shared, never locked. It lies in memory that outlives
//! the process (`tables::flow`), so that a successor adopts it.
//!
//! The index is buckets of eight 8-byte entries (`tag << 32 | record + 1`), a cache line each, two candidate buckets a
//! tuple. A record is reached by its inside tuple (packets from the local end) and, if translated, by its outside tuple
//! (packets towards it). This file must not decide what becomes of a packet.

use tables::counters::DropReason;
use tables::flow::{
    ENTRIES_PER_BUCKET, FLAG_ANSWERED, FLAG_OPENED_LOCALLY, FLAG_TRANSLATED, FLAG_USED, FlowLayout, FlowRecord,
    FlowRegionError, HopKind, INDEX_START, Tuple, WORD_FLOW_SEED, WORD_WORKER, WORD_WORKERS,
};
use tables::{Protocol, Region, hash};

use crate::parse::tcp_flag;
use std::sync::atomic::Ordering;

type Bucket = [u64; ENTRIES_PER_BUCKET];

/// TCP progress in `FlowRecord::state`.
pub mod tcp_state {
    pub const FIN_OUT: u8 = 1;
    pub const FIN_BACK: u8 = 2;
    pub const RESET: u8 = 4;
    /// An ACK without SYN was seen from the side that opened: the handshake is over.
    pub const ESTABLISHED: u8 = 8;
    pub const FINS: u8 = FIN_OUT | FIN_BACK;
}

/// Milliseconds without a packet after which a flow goes, by what it is.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    pub tcp_opening_ms: u32,
    pub tcp_established_ms: u32,
    pub tcp_closing_ms: u32,
    pub unanswered_ms: u32,
    pub answered_ms: u32,
}

impl Default for Timeouts {
    /// Those of Linux conntrack where they are sensible for a node's own pods; established TCP as Cilium keeps it.
    fn default() -> Timeouts {
        Timeouts {
            tcp_opening_ms: 60_000,
            tcp_established_ms: 21_600_000,
            tcp_closing_ms: 10_000,
            unanswered_ms: 30_000,
            answered_ms: 120_000,
        }
    }
}

/// Which way a packet goes through a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the local end.
    Out,
    /// Towards it.
    Back,
}

/// A record's number.
pub type FlowId = u32;

pub struct FlowTable {
    region: Region,
    layout: FlowLayout,
    seed: u64,
    free_head: u32,
    used: usize,
    /// Next record that expiry looks at.
    hand: usize,
    timeouts: Timeouts,
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
        Ok(Some(table))
    }

    fn over(region: Region) -> Result<FlowTable, FlowRegionError> {
        let layout = FlowLayout::read(&region)?;
        let seed = region.words()[WORD_FLOW_SEED].load(Ordering::Relaxed);
        Ok(FlowTable { region, layout, seed, free_head: NONE, used: 0, hand: 0, timeouts: Timeouts::default() })
    }

    /// Index and records.
    #[inline(always)]
    fn parts(&mut self) -> (&mut [Bucket], &mut [FlowRecord]) {
        let index = (INDEX_START, self.layout.buckets);
        let records = (self.layout.records_start(), self.layout.capacity);
        self.region.slices_mut(index, records).expect("the layout was checked against the region's size")
    }

    fn chain_free(&mut self) {
        let mut free_head = NONE;
        let mut used = 0;
        for (i, record) in self.parts().1.iter_mut().enumerate().rev() {
            if record.flags & FLAG_USED != 0 {
                used += 1;
            } else {
                record.next_free = free_head;
                free_head = i as u32;
            }
        }
        (self.free_head, self.used) = (free_head, used);
    }

    /// Forgets the index and writes it anew from the records: a half-written change of a killed predecessor is undone.
    fn rebuild(&mut self) {
        self.parts().0.fill([0; ENTRIES_PER_BUCKET]);
        for id in 0..self.layout.capacity as u32 {
            let record = *self.record(id);
            let is_used = record.flags & FLAG_USED != 0;
            if is_used && !(ends_here(&record) && self.index_record(id, &record)) {
                self.record_mut(id).flags = 0;
            }
        }
        self.chain_free();
    }

    fn index_record(&mut self, id: FlowId, record: &FlowRecord) -> bool {
        if !self.insert_entry(&record.inside, id) {
            return false;
        }
        if record.flags & FLAG_TRANSLATED != 0 && !self.insert_entry(&record.outside, id) {
            self.remove_entry(&record.inside, id);
            return false;
        }
        true
    }

    pub fn region(&self) -> &Region {
        &self.region
    }

    pub fn used(&self) -> usize {
        self.used
    }

    pub fn capacity(&self) -> usize {
        self.layout.capacity
    }

    #[inline(always)]
    pub fn hash(&self, tuple: &Tuple) -> u64 {
        hash::hash(tuple, self.seed)
    }

    #[inline(always)]
    pub fn record(&mut self, id: FlowId) -> &FlowRecord {
        &self.parts().1[id as usize]
    }

    #[inline(always)]
    pub fn record_mut(&mut self, id: FlowId) -> &mut FlowRecord {
        &mut self.parts().1[id as usize]
    }

    /// The two buckets of a hash.
    #[inline(always)]
    fn buckets(&self, hash: u64) -> [usize; 2] {
        let mask = self.layout.buckets - 1;
        let first = hash as usize & mask;
        [first, first ^ ((hash >> 40) as usize | 1) & mask]
    }

    /// The record whose tuple in this way is `tuple`.
    #[inline(always)]
    pub fn find(&mut self, tuple: &Tuple, way: Way) -> Option<FlowId> {
        self.find_hashed(tuple, way, self.hash(tuple))
    }

    /// As `find`, with the hash at hand.
    #[inline]
    pub fn find_hashed(&mut self, tuple: &Tuple, way: Way, hash: u64) -> Option<FlowId> {
        let buckets = self.buckets(hash);
        let (index, records) = self.parts();
        for bucket in buckets {
            for entry in index[bucket] {
                if entry >> 32 == hash >> 32 && entry != 0 {
                    let id = (entry as u32).wrapping_sub(1);
                    let Some(record) = records.get(id as usize) else { continue };
                    let held = if way == Way::Out { &record.inside } else { &record.outside };
                    if held == tuple {
                        return Some(id);
                    }
                }
            }
        }
        None
    }

    fn insert_entry(&mut self, tuple: &Tuple, id: FlowId) -> bool {
        let hash = self.hash(tuple);
        let buckets = self.buckets(hash);
        let entry = (hash >> 32) << 32 | (id + 1) as u64;
        let index = self.parts().0;
        let load = |bucket: usize| index[bucket].iter().filter(|&&e| e != 0).count();
        let bucket = if load(buckets[0]) <= load(buckets[1]) { buckets[0] } else { buckets[1] };
        match index[bucket].iter_mut().find(|e| **e == 0) {
            Some(slot) => *slot = entry,
            None => return false,
        }
        true
    }

    fn remove_entry(&mut self, tuple: &Tuple, id: FlowId) {
        let hash = self.hash(tuple);
        let buckets = self.buckets(hash);
        let entry = (hash >> 32) << 32 | (id + 1) as u64;
        let index = self.parts().0;
        for bucket in buckets {
            if let Some(slot) = index[bucket].iter_mut().find(|e| **e == entry) {
                *slot = 0;
                return;
            }
        }
    }

    /// Inserts a new flow. Refused if its outside tuple is taken, or if there is no room; an old flow never makes way.
    pub fn insert(&mut self, mut record: FlowRecord) -> Result<FlowId, DropReason> {
        if self.find(&record.outside, Way::Back).is_some() || self.find(&record.inside, Way::Out).is_some() {
            return Err(DropReason::TupleClash);
        }
        if self.free_head == NONE {
            return Err(DropReason::FlowTableFull);
        }
        let id = self.free_head;
        let next = self.record(id).next_free;
        record.flags |= FLAG_USED;
        record.flags &= !FLAG_TRANSLATED;
        if record.inside != record.outside {
            record.flags |= FLAG_TRANSLATED;
        }
        if !self.index_record(id, &record) {
            return Err(DropReason::FlowTableFull);
        }
        *self.record_mut(id) = record;
        self.free_head = next;
        self.used += 1;
        Ok(id)
    }

    pub fn remove(&mut self, id: FlowId) {
        let record = *self.record(id);
        if record.flags & FLAG_USED == 0 {
            return;
        }
        self.remove_entry(&record.inside, id);
        if record.flags & FLAG_TRANSLATED != 0 {
            self.remove_entry(&record.outside, id);
        }
        let free_head = self.free_head;
        let record = self.record_mut(id);
        record.flags = 0;
        record.next_free = free_head;
        self.free_head = id;
        self.used -= 1;
    }

    /// Notes a packet: time, direction, TCP's progress.
    #[inline(always)]
    pub fn note(&mut self, id: FlowId, way: Way, tcp_flags: u8, now_ms: u32) {
        let record = self.record_mut(id);
        record.last_seen_ms = now_ms;
        record.packets[way as usize] = record.packets[way as usize].wrapping_add(1);
        let by_opener = (record.flags & FLAG_OPENED_LOCALLY != 0) == (way == Way::Out);
        if !by_opener {
            record.flags |= FLAG_ANSWERED;
        }
        if record.inside.protocol == Protocol::TCP {
            record.state = advance(record.state, way, by_opener, tcp_flags);
        }
    }

    /// Whether a SYN of this way opens a new connection over the remains of an old one: a closed one, or one whose opener
    /// has forgotten it (its SYN comes long after the handshake).
    pub fn may_reopen(&mut self, id: FlowId, way: Way) -> bool {
        let record = self.record(id);
        let by_opener = (record.flags & FLAG_OPENED_LOCALLY != 0) == (way == Way::Out);
        let forgotten = by_opener && record.state & tcp_state::ESTABLISHED != 0;
        forgotten || self.is_closed(id)
    }

    /// Both ends have closed, or one has reset.
    pub fn is_closed(&mut self, id: FlowId) -> bool {
        let state = self.record(id).state;
        state & tcp_state::RESET != 0 || state & tcp_state::FINS == tcp_state::FINS
    }

    /// Looks at the next `count` records and removes those that have timed out. Returns how many.
    pub fn expire(&mut self, count: usize, now_ms: u32) -> usize {
        let mut expired = 0;
        let timeouts = self.timeouts;
        for _ in 0..count.min(self.layout.capacity) {
            let id = self.hand as u32;
            self.hand = (self.hand + 1) % self.layout.capacity;
            let record = self.record(id);
            // Wrapping time: ages of over 24 days do not occur, since expiry comes round far more often.
            let age = now_ms.wrapping_sub(record.last_seen_ms);
            if record.flags & FLAG_USED != 0 && age as i32 >= timeout_ms(record, &timeouts) as i32 {
                self.remove(id);
                expired += 1;
            }
        }
        expired
    }
}

/// Towards its local end a flow ends at an interface: a damaged record that says otherwise would send its packets round
/// for ever.
fn ends_here(record: &FlowRecord) -> bool {
    matches!(record.back.kind(), HopKind::None | HopKind::Drop | HopKind::Interface)
}

fn advance(state: u8, way: Way, by_opener: bool, tcp_flags: u8) -> u8 {
    let mut state = state;
    if tcp_flags & tcp_flag::FIN != 0 {
        state |= if way == Way::Out { tcp_state::FIN_OUT } else { tcp_state::FIN_BACK };
    }
    if tcp_flags & tcp_flag::RST != 0 {
        state |= tcp_state::RESET;
    }
    if by_opener && tcp_flags & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::ACK {
        state |= tcp_state::ESTABLISHED;
    }
    state
}

fn timeout_ms(record: &FlowRecord, timeouts: &Timeouts) -> u32 {
    if record.inside.protocol != Protocol::TCP {
        let answered = record.flags & FLAG_ANSWERED != 0;
        return if answered { timeouts.answered_ms } else { timeouts.unanswered_ms };
    }
    if record.state & tcp_state::RESET != 0 || record.state & tcp_state::FINS == tcp_state::FINS {
        return timeouts.tcp_closing_ms;
    }
    if record.state & tcp_state::ESTABLISHED != 0 { timeouts.tcp_established_ms } else { timeouts.tcp_opening_ms }
}

#[cfg(test)]
#[path = "flow_tests.rs"]
mod tests;
