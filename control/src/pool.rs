//! Address pools: ranges out of which services of type LoadBalancer get their addresses. It must not know services.

pub mod assign;
#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;

use std::str::FromStr;
use tables::{Addr, Prefix};

/// How much of a range new addresses are spread over, so that those of wide ranges stay short.
const SPREAD_MAX: u128 = 1 << 16;

/// A pool as it is typed: `NAME=CIDR,FIRST-LAST,...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    pub name: String,
    ranges: Vec<Range>,
}

/// Both ends included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    first: Addr,
    last: Addr,
    /// Given only to who asks for them: the ends of a CIDR, which on a link of that size are the network's own.
    spares_ends: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    #[error("{0:?} is no pool: NAME=RANGE,... is expected, each RANGE a CIDR or FIRST-LAST")]
    Shape(String),
    #[error("{0:?} is neither a CIDR nor FIRST-LAST of one family")]
    Range(String),
    #[error("pool {0:?} is given twice")]
    Twice(String),
    #[error("the pools {0:?} and {1:?} overlap: an address can be in one pool alone")]
    Overlap(String, String),
}

impl FromStr for Pool {
    type Err = PoolError;
    fn from_str(text: &str) -> Result<Pool, PoolError> {
        let (name, ranges) = split(text)?;
        let ranges = ranges.map(str::parse).collect::<Result<Vec<Range>, _>>()?;
        Ok(Pool { name: name.to_owned(), ranges })
    }
}

/// Name and ranges of `NAME=RANGE,...`.
pub fn split(text: &str) -> Result<(&str, impl Iterator<Item = &str>), PoolError> {
    let shape = || PoolError::Shape(text.to_owned());
    let (name, ranges) = text.split_once('=').ok_or_else(shape)?;
    let is_word = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if name.is_empty() || !name.chars().all(is_word) {
        return Err(shape());
    }
    Ok((name, ranges.split(',').map(str::trim)))
}

impl FromStr for Range {
    type Err = PoolError;
    fn from_str(text: &str) -> Result<Range, PoolError> {
        let wrong = || PoolError::Range(text.to_owned());
        if let Ok(prefix) = text.parse::<Prefix>() {
            return Ok(Range::of(prefix));
        }
        let (first, last) = text.split_once('-').ok_or_else(wrong)?;
        let (first, last) = (first.trim().parse().map_err(|_| wrong())?, last.trim().parse().map_err(|_| wrong())?);
        let range = Range { first, last, spares_ends: false };
        if first.is_v4() == last.is_v4() && first <= last { Ok(range) } else { Err(wrong()) }
    }
}

impl Range {
    fn of(prefix: Prefix) -> Range {
        let host_bits = u128::MAX.checked_shr(prefix.mapped_length().into()).unwrap_or(0);
        let first = prefix.addr();
        let last = Addr::from_bits(first.bits() | host_bits);
        Range { first, last, spares_ends: host_bits > 1 }
    }

    fn contains(&self, addr: Addr) -> bool {
        self.first <= addr && addr <= self.last
    }

    /// The first and the last address.
    pub fn ends(&self) -> (Addr, Addr) {
        (self.first, self.last)
    }

    fn overlaps(&self, other: &Range) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }

    /// Everything that may be given to who asks for nothing, once, from a place on that `hash` chooses.
    fn addrs_from(&self, hash: u64) -> impl Iterator<Item = Addr> {
        let margin = self.spares_ends as u128;
        let (first, last) = (self.first.bits() + margin, self.last.bits() - margin);
        let spread = (last - first).saturating_add(1).min(SPREAD_MAX);
        let start = first + hash as u128 % spread;
        (start..=last).chain(first..start).map(Addr::from_bits)
    }
}

impl Pool {
    pub fn contains(&self, addr: Addr) -> bool {
        self.ranges.iter().any(|range| range.contains(addr))
    }

    pub fn has_family(&self, v4: bool) -> bool {
        self.ranges.iter().any(|range| range.first.is_v4() == v4)
    }
}

/// No two of one name, and no address in two.
pub fn check(pools: &[Pool]) -> Result<(), PoolError> {
    for (i, pool) in pools.iter().enumerate() {
        for other in &pools[..i] {
            if pool.name == other.name {
                return Err(PoolError::Twice(pool.name.clone()));
            }
            let overlaps = |range: &Range| other.ranges.iter().any(|theirs| range.overlaps(theirs));
            if pool.ranges.iter().any(overlaps) {
                return Err(PoolError::Overlap(other.name.clone(), pool.name.clone()));
            }
        }
    }
    Ok(())
}
