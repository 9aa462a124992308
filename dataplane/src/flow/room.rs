//! Who leaves the flow table: flows that were silent for too long; when little room is left, flows that nobody has
//! answered yet, sooner; and when none is left, one of those for each new flow. A flow that was answered, and whose opener
//! spoke on, stays until its own time is over, whatever comes: a flood from invented sources finds it there.

use super::in_use::places;
use super::{FlowId, FlowTable, NONE};
use crate::flow::timeouts::{FlowState, Timeouts};
use std::ops::Range;
use tables::Protocol;
use tables::cpu::prefetch_far;
use tables::flow::{FLAG_ANSWERED, FLAG_CONFIRMED, FlowRecord};

/// Records that are looked at for one that makes room.
const LOOK: usize = 64;
/// One answer and no more for so long: nobody misses it, or a flood is being answered.
const LEFT_MS: u32 = 2_000;
/// However little room there is, an answer has so long to come.
const PRESSED_MS: u32 = 1_000;
/// No pressure: the whole timeout.
const WHOLE: u32 = 256;

/// Records that are looked at together; a divisor of 64.
const LOT: usize = 16;

/// What a flow must have been silent for.
struct Rule {
    timeouts: Timeouts,
    share: u32,
    shortest_ms: i32,
    now_ms: u32,
}

impl Rule {
    /// Wrapping time: ages of over 24 days do not occur, since expiry comes round far more often.
    #[inline(always)]
    fn age_ms(&self, record: &FlowRecord) -> i32 {
        self.now_ms.wrapping_sub(record.last_seen_ms) as i32
    }

    #[inline(always)]
    fn is_over(&self, record: &FlowRecord) -> bool {
        self.age_ms(record) >= timeout_ms(record, &self.timeouts, self.share) as i32
    }
}

/// A flow that has timed out.
#[derive(Clone, Copy, Default)]
struct Silent {
    id: FlowId,
    hashes: [u64; 2],
}

impl FlowTable {
    /// The share of their timeout, of 256, that unconfirmed flows have: all of it while an eighth of the table is free,
    /// from there on as much as is left of that eighth.
    fn share(&self) -> u32 {
        let eighth = (self.capacity() / 8).max(1);
        let free = self.capacity() - self.used();
        (free * WHOLE as usize / eighth).min(WHOLE as usize) as u32
    }

    /// Looks at the next `count` records and removes those that have timed out. Returns how many.
    pub fn expire(&mut self, count: usize, now_ms: u32) -> usize {
        let (mut left, mut expired) = (count.min(self.capacity()), 0);
        let share = self.share();
        let shortest_ms = pressed(self.timeouts.shortest_ms(), share) as i32;
        let rule = Rule { timeouts: self.timeouts, share, shortest_ms, now_ms };
        while left > 0 {
            let lot = self.lot(self.hand, left);
            left -= lot.len();
            self.hand = self.wrapped(lot.end);
            expired += self.expire_lot(lot, &rule);
        }
        expired
    }

    /// Where a hand goes on that has come so far.
    #[inline(always)]
    pub(super) fn wrapped(&self, next: usize) -> usize {
        if next < self.capacity() { next } else { 0 }
    }

    /// So many records at most from this one on.
    #[inline(always)]
    pub(super) fn lot(&self, start: usize, count: usize) -> Range<usize> {
        start..(start + count).min((start / LOT + 1) * LOT).min(self.capacity())
    }

    /// The same of some records, by steps for all of them: each fetches what the next one reads, and that the next lot.
    #[inline(always)]
    fn expire_lot(&mut self, lot: Range<usize>, rule: &Rule) -> usize {
        let (records, next) = (self.parts.second(), self.lot(lot.end, LOT));
        places(self.in_use.bits(&next)).for_each(|place| prefetch_far(records[next.start + place].half(false)));
        let (mut old, mut found) = ([0; LOT], 0);
        for id in places(self.in_use.bits(&lot)).map(|place| lot.start + place) {
            // A record that was used of late is judged by one of its lines alone.
            if rule.age_ms(&records[id]) >= rule.shortest_ms {
                prefetch_far(records[id].half(true));
                old[found % LOT] = id as FlowId;
                found += 1;
            }
        }
        let (mut silent, mut expired) = ([Silent::default(); LOT], 0);
        for &id in old.iter().take(found) {
            let record = self.record(id);
            if rule.is_over(record) {
                let hashes = self.hashes(record);
                hashes.iter().for_each(|&hash| self.expect(hash));
                silent[expired % LOT] = Silent { id, hashes };
                expired += 1;
            }
        }
        silent.iter().take(expired).for_each(|silent| self.remove_hashed(silent.id, silent.hashes));
        expired
    }

    /// Makes room for one flow. False: among the next records there is none that may go.
    #[cold]
    #[inline(never)]
    pub(super) fn make_room(&mut self, now_ms: u32) -> bool {
        let mut left = None;
        for _ in 0..LOOK.min(self.capacity()) {
            let id = self.advance();
            let record = self.record(id);
            if is_unanswered(record) {
                return self.evict(id);
            }
            let is_left = record.flags & FLAG_CONFIRMED == 0 && now_ms.wrapping_sub(record.last_seen_ms) >= LEFT_MS;
            left = left.or(is_left.then_some(id));
        }
        left.is_some_and(|id| self.evict(id))
    }

    fn evict(&mut self, id: FlowId) -> bool {
        self.remove(id);
        self.evicted += 1;
        self.free_head != NONE
    }

    /// Flows that made room since the last time this was asked.
    pub fn take_evicted(&mut self) -> u64 {
        std::mem::take(&mut self.evicted)
    }

    /// The record under the hand, which goes on: what was looked at, or came into its place, is looked at last.
    fn advance(&mut self) -> FlowId {
        let id = self.hand as FlowId;
        self.hand = self.wrapped(self.hand + 1);
        id
    }
}

/// Nobody has answered; or a connection's opener has not yet answered to that: a server answers every SYN.
fn is_unanswered(record: &FlowRecord) -> bool {
    let needed = match record.inside.protocol {
        Protocol::TCP | Protocol::SCTP => FLAG_CONFIRMED,
        _ => FLAG_ANSWERED,
    };
    record.flags & needed == 0
}

fn timeout_ms(record: &FlowRecord, timeouts: &Timeouts, share: u32) -> u32 {
    let timeout_ms = timeouts.of(FlowState::of(record));
    if record.flags & FLAG_CONFIRMED != 0 { timeout_ms } else { pressed(timeout_ms, share) }
}

/// A timeout under pressure.
fn pressed(timeout_ms: u32, share: u32) -> u32 {
    let part = (timeout_ms as u64 * share as u64 / WHOLE as u64) as u32;
    part.max(PRESSED_MS.min(timeout_ms))
}

#[cfg(test)]
#[path = "room_tests.rs"]
mod tests;
