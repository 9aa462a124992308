//! Longest prefix match for both families: how a reader finds it, and what lies in memory. Writing is `writer`.
//!
//! The truth is one hash table of prefixes (`prefix -> value`), for listings and for changes. On top of it:
//! - **IPv4: a trie** of 32-bit entries, in groups of 256. The top (the last 65,536 entries) names for each /16 the
//!   group of its 256 /24s; each of these is either the longest prefix (pushed down, so that a look-up never goes back
//!   up) or names the group of its 256 addresses. Number 0 is the empty group, so that fresh memory is an empty trie and
//!   the top is read without a branch. This is DIR-24-8 (Gupta, Lin, McKeown: "Routing Lookups in Hardware at Memory
//!   Access Speeds", 1998) with its 64 MiB table in pages that exist only where there are prefixes: one more load, which
//!   the cache answers, and none of the misses that addresses from everywhere make in 64 MiB. `0.0.0.0/0` stands aside:
//!   it changes one word.
//! - **IPv6: the set of lengths in use**, probed in the hash table from the longest down; clusters use a handful.
//!
//! | bits of an entry | meaning |
//! |---|---|
//! | 31 | 1: it names a group; 0: it is a prefix |
//! | 8-30 of a group | its number: with an octet below it that is where the octet's entry stands |
//! | 25-30 of a prefix | its length, 1 to 32; 0 means that none but the default covers this |
//! | 0-24 of a prefix | its value |
//!
//! Every number read is a claim: a group's number is cut to those that exist, and a look-up loads at most three entries
//! whatever they say. This file must not write.

use crate::cpu;
use crate::layout::Table;
use crate::limits::{IDENTITIES_MAX, ROUTES_MAX, trie_groups};
use crate::region::halves;
use crate::view::View;
use crate::{Addr, Prefix};
use bytemuck::{Pod, Zeroable};
use std::sync::atomic::{AtomicU32, Ordering};

#[path = "lpm/writer.rs"]
mod writer;
pub(crate) use writer::Writer;

/// The two prefix tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lpm {
    /// address -> route id
    Route,
    /// address -> identity
    Identity,
}

pub const LPMS: [Lpm; 2] = [Lpm::Route, Lpm::Identity];

impl Lpm {
    pub fn prefixes(self) -> Table {
        match self {
            Lpm::Route => Table::RoutePrefix,
            Lpm::Identity => Table::IdentityPrefix,
        }
    }

    pub fn lengths(self) -> Table {
        match self {
            Lpm::Route => Table::RouteLengths,
            Lpm::Identity => Table::IdentityLengths,
        }
    }

    pub fn trie(self) -> Table {
        match self {
            Lpm::Route => Table::RouteTrie,
            Lpm::Identity => Table::IdentityTrie,
        }
    }

    /// Prefixes of both families that fit.
    pub fn limit(self) -> usize {
        match self {
            Lpm::Route => ROUTES_MAX,
            Lpm::Identity => IDENTITIES_MAX,
        }
    }
}

/// What a look-up in a burst says where no prefix holds the address.
pub const NO_MATCH: u32 = u32::MAX;
/// Values are ids of 25 bits.
pub const VALUE_MAX: u64 = (1 << VALUE_BITS) - 1;
const VALUE_BITS: u32 = 25;
const OCTET_BITS: u32 = 8;

/// Entries of a group, and its words.
pub(crate) const GROUP_ENTRIES: usize = 256;
pub const GROUP_WORDS: usize = GROUP_ENTRIES / 2;
/// Entries of the top: /16s.
pub const TOP_ENTRIES: usize = 1 << 16;
const ROUTE_ENTRIES: usize = trie_groups(ROUTES_MAX) * GROUP_ENTRIES;
const IDENTITY_ENTRIES: usize = trie_groups(IDENTITIES_MAX) * GROUP_ENTRIES;

/// The lengths in use, and what stands aside.
#[derive(Clone, Copy, Pod, Zeroable, Debug, PartialEq)]
#[repr(C)]
pub struct Lengths {
    /// One more than the value of `0.0.0.0/0`; 0: there is no such prefix.
    pub default_v4: u64,
    /// Bit `n`: there are IPv4 prefixes of length `n`.
    pub used_v4: u64,
    /// The same for IPv6, bit 0 of word 0 for length 0.
    pub used_v6: [u64; 3],
}

/// One entry of the trie, as said above.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry(pub u32);

impl Entry {
    pub const NONE: Entry = Entry(0);
    const GROUP: u32 = 1 << 31;

    /// `length` is 1 to 32, `value` at most `VALUE_MAX`.
    pub fn prefix(length: u8, value: u64) -> Entry {
        Entry((length as u32) << VALUE_BITS | value as u32)
    }

    pub fn group(number: u32) -> Entry {
        Entry(Entry::GROUP | number << OCTET_BITS)
    }

    #[inline(always)]
    fn is_group(self) -> bool {
        self.0 & Entry::GROUP != 0
    }

    fn number(self) -> usize {
        ((self.0 & !Entry::GROUP) >> OCTET_BITS) as usize
    }

    fn length(self) -> u8 {
        (self.0 >> VALUE_BITS & 0x3f) as u8
    }

    /// The value of a prefix; `default` for none, and for a group below the last level.
    #[inline(always)]
    fn value_or(self, default: u32) -> u32 {
        if self.0 as i32 > 0 { self.0 & VALUE_MAX as u32 } else { default }
    }
}

/// The IPv4 side of a prefix table. `ENTRIES` is a power of two, so that cutting an index to it is all of the checking.
#[derive(Clone, Copy)]
struct Trie<'a, const ENTRIES: usize> {
    entries: &'a [AtomicU32; ENTRIES],
    /// What those without a prefix of their own get.
    default: u32,
}

impl<'a, const ENTRIES: usize> Trie<'a, ENTRIES> {
    /// None if the table has another size, which attaching refuses.
    #[inline(always)]
    fn of(view: &View<'a>, table: Lpm) -> Option<Trie<'a, ENTRIES>> {
        const { assert!(ENTRIES.is_power_of_two() && ENTRIES > TOP_ENTRIES && ENTRIES <= 1 << 31) };
        let entries = halves(view.words_from(table.trie())).first_chunk()?;
        let default = view.words_from(table.lengths()).first()?.load(Ordering::Relaxed) as u32;
        Some(Trie { entries, default: default.wrapping_sub(1) })
    }

    #[inline(always)]
    fn entry(&self, at: u32) -> Entry {
        Entry(self.entries[at as usize & (ENTRIES - 1)].load(Ordering::Relaxed))
    }

    /// Where the entry of an address's /24 stands.
    #[inline(always)]
    fn at_24(&self, addr: u32) -> u32 {
        below(self.entry((ENTRIES - TOP_ENTRIES) as u32 + (addr >> 16)), addr >> 8)
    }

    /// The value for an address, or NO_MATCH.
    #[inline(always)]
    fn find(&self, addr: u32) -> u32 {
        let at = self.at_24(addr);
        let entry = self.entry(at);
        self.entry(if entry.is_group() { below(entry, addr) } else { at }).value_or(self.default)
    }
}

/// Look-ups of a burst's IPv4 addresses.
struct Lookups<'a, const ENTRIES: usize> {
    trie: Trie<'a, ENTRIES>,
    addrs: &'a [u32],
    /// As many.
    found: &'a mut [u32],
}

impl<const ENTRIES: usize> cpu::Work for Lookups<'_, ENTRIES> {
    /// By short passes over all of them, so that their loads overlap. Each leaves its entries where the values will be.
    #[inline(always)]
    fn run(self) {
        let Lookups { trie, addrs, found } = self;
        for (&addr, found) in addrs.iter().zip(&mut *found) {
            *found = trie.entry(trie.at_24(addr)).0;
        }
        let any = found.iter().fold(0, |any, entry| any | entry);
        if Entry(any).is_group() {
            for (&addr, found) in addrs.iter().zip(&mut *found) {
                let entry = Entry(*found);
                *found = if entry.is_group() { trie.entry(below(entry, addr)).0 } else { entry.0 };
            }
        }
        for found in found {
            *found = Entry(*found).value_or(trie.default);
        }
    }
}

/// Where an octet's entry stands in the group that an entry names, before it is cut to the entries that exist, which drops
/// the bit that says "group".
#[inline(always)]
fn below(entry: Entry, octet: u32) -> u32 {
    entry.0 | octet & 0xff
}

/// The value of the longest prefix that holds `addr`.
#[inline]
pub(crate) fn longest_match(view: &View, table: Lpm, addr: Addr) -> Option<u64> {
    if !addr.is_v4() {
        return longest_v6(view, table, addr);
    }
    let found = match table {
        Lpm::Route => Trie::<ROUTE_ENTRIES>::of(view, table)?.find(addr.low_bits()),
        Lpm::Identity => Trie::<IDENTITY_ENTRIES>::of(view, table)?.find(addr.low_bits()),
    };
    (found != NO_MATCH).then_some(found as u64)
}

/// The same for many IPv4 addresses at once, their first octet highest, so that their loads overlap. `found` says NO_MATCH
/// for those without a prefix; of the two slices the shorter counts.
#[inline]
pub(crate) fn longest_match_burst(view: &View, table: Lpm, addrs: &[u32], found: &mut [u32]) {
    match table {
        Lpm::Route => find_v4::<ROUTE_ENTRIES>(view, table, addrs, found),
        Lpm::Identity => find_v4::<IDENTITY_ENTRIES>(view, table, addrs, found),
    }
}

#[inline(always)]
fn find_v4<const ENTRIES: usize>(view: &View, table: Lpm, addrs: &[u32], found: &mut [u32]) {
    let count = addrs.len().min(found.len());
    let (addrs, found) = (&addrs[..count], &mut found[..count]);
    if let Some(trie) = Trie::<ENTRIES>::of(view, table) {
        cpu::widest(Lookups { trie, addrs, found });
    }
}

/// Probes the lengths in use from the longest down.
#[inline]
fn longest_v6(view: &View, table: Lpm, addr: Addr) -> Option<u64> {
    let lengths: Lengths = view.row(table.lengths(), 0);
    let longest = |i: usize| probe(view, table, addr, lengths.used_v6[i], 64 * i);
    (0..3).rev().find_map(longest).map(|(_, value)| value)
}

/// `used`: a bitmap of lengths, its lowest bit for length `base`. Answers the bit and the value.
#[inline(always)]
fn probe(view: &View, table: Lpm, addr: Addr, mut used: u64, base: usize) -> Option<(u8, u64)> {
    while used != 0 {
        let bit = 63 - used.leading_zeros() as usize;
        used &= !(1 << bit);
        // A damaged length beyond 128 masks nothing and finds nothing.
        let prefix = Prefix::mapped(addr, (base + bit).min(128) as u8);
        if let Some(value) = view.find(table.prefixes(), &prefix) {
            return Some((bit as u8, value));
        }
    }
    None
}

#[cfg(test)]
#[path = "lpm/tests.rs"]
mod tests;
