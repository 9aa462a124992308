//! Which fragments belong together: later ones learn their ports from the first one of their packet, and wait for it if
//! they come before it. Nothing is put together, but what of a packet has passed is remembered, so that no part of it
//! passes twice. A bounded memory of one worker, taken once. Must not touch packets: whatever waits is a `T` to it.
//!
//! Sources: RFC 815 (what is there is kept as holes or, here, bits), RFC 5722 (an overlap ends its packet; for IPv4,
//! too), RFC 8200 4.5 (a duplicate may be dropped alone).

use crate::parse::{Fragment, Meta, UNIT_BYTES};
use std::collections::VecDeque;
use tables::counters::DropReason;
use tables::{Addr, Protocol, hash};

/// Fragmented packets under way at once: 2 MiB of bits, which are touched as they are needed.
const PACKETS_MAX: usize = 2048;
/// Fragments that wait at once; each holds a frame.
const WAITING_MAX: usize = 256;
/// Of one packet: one of 64 KiB has 45 in an MTU of 1500, and some senders send the last part first.
const WAITING_OF_ONE_MAX: usize = 64;
/// How long later fragments wait for the first one: it is not slower by more than a path's delay.
pub const PATIENCE_MS: u32 = 2_000;
/// How long a packet may take (RFC 791, 3.2, recommends 15 seconds): its id may come again after that.
pub const LIFE_MS: u32 = 15_000;

/// Units of eight bytes in the largest packet, 64 in a word.
const WORDS: usize = 65_536 / UNIT_BYTES / 64;
const NONE: u32 = u32::MAX;

/// What all fragments of a packet have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key([u64; 8]);

impl Key {
    /// `side` and `peer` say where it came from: nobody elsewhere shall have a say in the packet. IPv6 tells packets apart
    /// without their protocol, which may be another in each fragment (RFC 8200, 4.5).
    pub fn new(src: Addr, dst: Addr, protocol: Protocol, id: u32, side: u32, peer: Addr) -> Key {
        let ([a, b], [c, d], [e, f]) = (src.words(), dst.words(), peer.words());
        let protocol = if src.is_v4() { protocol.0 as u64 } else { 0 };
        Key([a, b, c, d, e, f, (id as u64) << 32 | side as u64, protocol])
    }
}

/// What only the first fragment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    pub src_port: u16,
    pub dst_port: u16,
    pub protocol: Protocol,
}

impl Ends {
    pub fn of(meta: &Meta) -> Ends {
        Ends { src_port: meta.src_port, dst_port: meta.dst_port, protocol: meta.protocol }
    }
}

/// What is to be done with a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// It goes on with these ports.
    On(Ends),
    /// It is to be kept by `wait`.
    Wait(Place),
    Drop(DropReason),
}

/// Where a fragment may wait, until the next call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u32);

#[derive(Clone, Copy)]
enum State {
    Unused,
    /// The first fragment has not come.
    Unknown,
    Known(Ends),
    /// Nothing of it goes on any more.
    Refused(DropReason),
}

/// A packet of which fragments have come.
#[derive(Clone, Copy)]
struct Entry {
    key: Key,
    state: State,
    since_ms: u32,
    /// The next one of its bucket, or of the unused ones.
    next: u32,
    /// First and last of those that wait.
    waiting: [u32; 2],
    waiting_count: u32,
    /// Units that have come, and where the last of them ends.
    units: u32,
    end: u32,
    /// Where the packet ends, once its last fragment has come.
    total: Option<u32>,
}

const UNUSED: Entry = Entry {
    key: Key([0; 8]),
    state: State::Unused,
    since_ms: 0,
    next: NONE,
    waiting: [NONE; 2],
    waiting_count: 0,
    units: 0,
    end: 0,
    total: None,
};

struct Waiting<T> {
    what: Option<T>,
    next: u32,
}

/// A worker's fragmented packets.
pub struct Fragments<T> {
    seed: u64,
    /// First entry by hash; there are as many buckets as entries.
    buckets: Box<[u32]>,
    entries: Box<[Entry]>,
    /// By entry, which units have come.
    bits: Box<[[u64; WORDS]]>,
    unused: u32,
    used: usize,
    waiting: Box<[Waiting<T>]>,
    free: Vec<u32>,
    /// What waited and now goes on, or is dropped.
    leaving: VecDeque<(T, Result<Ends, DropReason>)>,
    waiting_of_one_max: usize,
    /// Where expiry goes on.
    swept: usize,
}

impl<T> Default for Fragments<T> {
    fn default() -> Fragments<T> {
        Fragments::new(PACKETS_MAX, WAITING_MAX, WAITING_OF_ONE_MAX)
    }
}

impl<T> Fragments<T> {
    /// Room for a power of two of packets.
    pub fn new(packets_max: usize, waiting_max: usize, waiting_of_one_max: usize) -> Fragments<T> {
        let packets_max = packets_max.next_power_of_two();
        let mut entries = vec![UNUSED; packets_max].into_boxed_slice();
        (1..packets_max).for_each(|i| entries[i - 1].next = i as u32);
        Fragments {
            seed: 0,
            buckets: vec![NONE; packets_max].into_boxed_slice(),
            entries,
            bits: vec![[0; WORDS]; packets_max].into_boxed_slice(),
            unused: 0,
            used: 0,
            waiting: (0..waiting_max).map(|_| Waiting { what: None, next: NONE }).collect(),
            free: (0..waiting_max as u32).collect(),
            leaving: VecDeque::with_capacity(waiting_max),
            waiting_of_one_max,
            swept: 0,
        }
    }

    /// Makes it unpredictable which packets share a bucket. Before the first packet only.
    pub fn seed(&mut self, seed: u64) {
        debug_assert!(self.is_empty());
        self.seed = seed;
    }

    pub fn capacity(&self) -> usize {
        self.entries.len()
    }

    /// Packets under way.
    pub fn len(&self) -> usize {
        self.used
    }

    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Fragments that wait or are leaving.
    pub fn waiting(&self) -> usize {
        self.waiting.len() - self.free.len() + self.leaving.len()
    }

    /// Judges a fragment that came in; `first` is what its packet's first fragment says of all, or the reason why none of
    /// them may pass.
    pub fn judge(
        &mut self,
        key: &Key,
        fragment: &Fragment,
        first: Option<Result<Ends, DropReason>>,
        now_ms: u32,
    ) -> Judged {
        let found = self.find(key, now_ms);
        let state = found.map_or(State::Unknown, |at| self.entries[at as usize].state);
        if let State::Refused(reason) = state {
            return Judged::Drop(reason);
        }
        let waits = matches!((state, first), (State::Unknown, None));
        let Some(at) = found.or_else(|| self.insert(key, now_ms)).filter(|&at| !waits || self.has_room(at)) else {
            return Judged::Drop(DropReason::FragmentsFull);
        };
        if let Err(overlaps) = self.cover(at, fragment) {
            return self.overlap(at, overlaps);
        }
        match (first, state) {
            (Some(Ok(ends)), _) => self.learn(at, ends),
            (Some(Err(reason)), _) => self.refuse(at, reason),
            (None, State::Known(ends)) => self.go_on(at, ends),
            (None, _) => Judged::Wait(Place(at)),
        }
    }

    /// Keeps a fragment that was judged to wait.
    pub fn wait(&mut self, place: Place, what: T) {
        let Some(slot) = self.free.pop() else { unreachable!("judged without room") };
        self.waiting[slot as usize] = Waiting { what: Some(what), next: NONE };
        let entry = &mut self.entries[place.0 as usize];
        let [first, last] = entry.waiting;
        entry.waiting_count += 1;
        entry.waiting = [if first == NONE { slot } else { first }, slot];
        if last != NONE {
            self.waiting[last as usize].next = slot;
        }
    }

    /// The next one that has waited, in order of arrival: it goes on with these ports, or is dropped.
    pub fn take_leaving(&mut self) -> Option<(T, Result<Ends, DropReason>)> {
        self.leaving.pop_front()
    }

    pub fn has_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Forgets packets that took too long, looking at some.
    pub fn expire(&mut self, count: usize, now_ms: u32) {
        if self.used == 0 {
            return;
        }
        for _ in 0..count.min(self.entries.len()) {
            let at = self.swept as u32;
            self.swept = (self.swept + 1) % self.entries.len();
            if self.is_expired(at, now_ms) {
                self.remove(at, DropReason::FragmentLost);
            }
        }
    }

    fn is_expired(&self, at: u32, now_ms: u32) -> bool {
        let entry = &self.entries[at as usize];
        let age_ms = now_ms.wrapping_sub(entry.since_ms);
        match entry.state {
            State::Unused => false,
            State::Unknown => age_ms > PATIENCE_MS,
            State::Known(_) | State::Refused(_) => age_ms > LIFE_MS,
        }
    }

    fn bucket(&self, key: &Key) -> usize {
        hash::hash(&key.0, self.seed) as usize & (self.buckets.len() - 1)
    }

    /// The packet of this key, unless it is older than it may be.
    fn find(&mut self, key: &Key, now_ms: u32) -> Option<u32> {
        let mut at = self.buckets[self.bucket(key)];
        while at != NONE && self.entries[at as usize].key != *key {
            at = self.entries[at as usize].next;
        }
        if at != NONE && self.is_expired(at, now_ms) {
            self.remove(at, DropReason::FragmentLost);
            return None;
        }
        (at != NONE).then_some(at)
    }

    fn insert(&mut self, key: &Key, now_ms: u32) -> Option<u32> {
        let at = self.unused;
        let bucket = self.bucket(key);
        let entry = self.entries.get_mut(at as usize)?;
        self.unused = entry.next;
        *entry = Entry { key: *key, state: State::Unknown, since_ms: now_ms, next: self.buckets[bucket], ..UNUSED };
        self.buckets[bucket] = at;
        self.bits[at as usize].fill(0);
        self.used += 1;
        Some(at)
    }

    /// Takes a packet out; what still waits leaves for this reason.
    fn remove(&mut self, at: u32, reason: DropReason) {
        self.let_go(at, Err(reason));
        let Entry { key, next, .. } = self.entries[at as usize];
        let bucket = self.bucket(&key);
        let mut before = self.buckets[bucket];
        if before == at {
            self.buckets[bucket] = next;
        } else {
            while self.entries[before as usize].next != at {
                before = self.entries[before as usize].next;
            }
            self.entries[before as usize].next = next;
        }
        self.entries[at as usize] = Entry { next: self.unused, ..UNUSED };
        self.unused = at;
        self.used -= 1;
    }

    fn has_room(&mut self, at: u32) -> bool {
        let entry = &self.entries[at as usize];
        let (count, is_new) = (entry.waiting_count as usize, entry.units == 0);
        let has_room = count < self.waiting_of_one_max && self.waiting() < self.waiting.len();
        if !has_room && is_new {
            self.remove(at, DropReason::FragmentsFull);
        }
        has_room
    }

    /// Notes what of the packet a fragment is. `Err`: some of it was there before, but not all (true), or all of it.
    fn cover(&mut self, at: u32, fragment: &Fragment) -> Result<(), bool> {
        let entry = &mut self.entries[at as usize];
        let first = fragment.offset as u32;
        let count = (fragment.size as u32).div_ceil(UNIT_BYTES as u32);
        let end = first + count;
        if entry.total.is_some_and(|total| end > total) || !fragment.more && entry.end > end {
            return Err(true);
        }
        let bits = &mut self.bits[at as usize];
        let known: u32 = masks(first, end).map(|(word, mask)| (bits[word] & mask).count_ones()).sum();
        if known > 0 {
            return Err(known < count);
        }
        masks(first, end).for_each(|(word, mask)| bits[word] |= mask);
        entry.units += count;
        entry.end = entry.end.max(end);
        if !fragment.more {
            entry.total = Some(end);
        }
        Ok(())
    }

    /// A copy of what has come is dropped alone; anything else that overlaps ends its packet.
    fn overlap(&mut self, at: u32, is_partial: bool) -> Judged {
        if is_partial {
            self.refuse(at, DropReason::FragmentOverlap)
        } else {
            Judged::Drop(DropReason::FragmentOverlap)
        }
    }

    fn refuse(&mut self, at: u32, reason: DropReason) -> Judged {
        self.let_go(at, Err(reason));
        self.entries[at as usize].state = State::Refused(reason);
        Judged::Drop(reason)
    }

    /// The first fragment is there.
    fn learn(&mut self, at: u32, ends: Ends) -> Judged {
        self.let_go(at, Ok(ends));
        self.entries[at as usize].state = State::Known(ends);
        self.go_on(at, ends)
    }

    fn go_on(&mut self, at: u32, ends: Ends) -> Judged {
        let entry = &self.entries[at as usize];
        if entry.total == Some(entry.units) {
            self.remove(at, DropReason::FragmentLost);
        }
        Judged::On(ends)
    }

    /// Lets all that wait leave.
    fn let_go(&mut self, at: u32, how: Result<Ends, DropReason>) {
        let entry = &mut self.entries[at as usize];
        let mut slot = entry.waiting[0];
        (entry.waiting, entry.waiting_count) = ([NONE; 2], 0);
        while slot != NONE {
            let waiting = &mut self.waiting[slot as usize];
            self.leaving.extend(waiting.what.take().map(|what| (what, how)));
            self.free.push(slot);
            slot = waiting.next;
        }
    }
}

/// The words of a bitmap that hold the units from `first` to before `end`, and which bits of each.
fn masks(first: u32, end: u32) -> impl Iterator<Item = (usize, u64)> {
    (first / 64..end.div_ceil(64)).map(move |word| {
        let (low, high) = (first.max(word * 64) % 64, end.min(word * 64 + 64) - word * 64);
        (word as usize, u64::MAX << low & u64::MAX >> (64 - high))
    })
}

#[cfg(test)]
#[path = "fragments_tests.rs"]
mod tests;
