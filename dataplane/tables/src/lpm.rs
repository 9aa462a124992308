//! Longest prefix match for both families: one hash table of prefixes, and the set of lengths in use. A look-up probes
//! the lengths from the longest down; a change is one hash-table change. Clusters use a handful of lengths, and only
//! the first packet of a flow comes here.

use crate::layout::Table;
use crate::view::View;
use crate::{Addr, Prefix};
use bytemuck::{Pod, Zeroable};

/// The two prefix tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lpm {
    /// address -> route id
    Route,
    /// address -> identity
    Identity,
}

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
}

/// How many prefixes there are of each length 0 to 128 (128-bit lengths; IPv4 ones are 96 and up), and the bitmap of
/// those in use, bit 0 of word 0 for length 0.
#[derive(Clone, Copy, Pod, Zeroable, Debug)]
#[repr(C)]
pub struct Lengths {
    pub used_v4: u64,
    pub used_v6: [u64; 3],
    pub count: [[u32; 2]; 132],
}

pub const LENGTHS_WORDS: usize = size_of::<Lengths>() / 8;

/// Bits of lengths in use by a family, longest last: IPv4 lengths count from 96.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Used {
    v4: u64,
    v6: [u64; 3],
}

impl Lengths {
    /// Adds or takes away one prefix.
    pub fn change(&mut self, prefix: &Prefix, by: i32) {
        let (v4, length) = (prefix.is_v4(), prefix.mapped_length() as usize);
        let count = &mut self.count[length][v4 as usize];
        *count = count.saturating_add_signed(by);
        let (word, bit) =
            if v4 { (&mut self.used_v4, length - 96) } else { (&mut self.used_v6[length / 64], length % 64) };
        *word = *word & !(1 << bit) | ((*count > 0) as u64) << bit;
    }
}

/// Probes the lengths in use from the longest down.
#[inline]
pub(crate) fn longest_match(view: &View, table: Lpm, addr: Addr) -> Option<u64> {
    let used: Used = view.leading(table.lengths());
    if addr.is_v4() {
        return probe(view, table, addr, used.v4, 96);
    }
    (0..3).rev().find_map(|i| probe(view, table, addr, used.v6[i], 64 * i))
}

#[inline(always)]
fn probe(view: &View, table: Lpm, addr: Addr, mut used: u64, base: usize) -> Option<u64> {
    while used != 0 {
        let bit = 63 - used.leading_zeros() as usize;
        used &= !(1 << bit);
        // A damaged length beyond 128 masks nothing and finds nothing.
        let prefix = Prefix::mapped(addr, (base + bit).min(128) as u8);
        if let Some(value) = view.find(table.prefixes(), &prefix) {
            return Some(value);
        }
    }
    None
}
