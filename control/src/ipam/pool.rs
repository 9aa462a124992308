//! Named pools of pod addresses: parts of nodes' pod ranges that are given only to pods that ask for them. They lie inside
//! the ranges, so that routes and what the NIC is asked for stay as they are, and nodes need not agree. Not to be confused
//! with [`crate::pool`], out of which services get theirs.

use super::{POD_OFFSET, PodRange};
use crate::pool::{PoolError, Range, split};
use std::str::FromStr;
use tables::Addr;

/// A pool as it is typed: `NAME=PART,...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPool {
    pub name: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// `+128-191`: these of every pod range, counted from its first address.
    Each(u128, u128),
    /// What of it lies in a pod range.
    Range(Range),
}

/// First and last, counted from a range's first address.
pub type Span = (u128, u128);

impl FromStr for PodPool {
    type Err = PoolError;
    fn from_str(text: &str) -> Result<PodPool, PoolError> {
        let (name, parts) = split(text)?;
        let parts = parts.map(str::parse).collect::<Result<_, _>>()?;
        Ok(PodPool { name: name.to_owned(), parts })
    }
}

impl FromStr for Part {
    type Err = PoolError;
    fn from_str(text: &str) -> Result<Part, PoolError> {
        let Some(places) = text.strip_prefix('+') else { return Ok(Part::Range(text.parse()?)) };
        let wrong = || PoolError::Range(text.to_owned());
        let (first, last) = places.split_once('-').unwrap_or((places, places));
        let (first, last) = (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
        if first <= last { Ok(Part::Each(first, last)) } else { Err(wrong()) }
    }
}

impl PodPool {
    /// Its addresses of a range, in order and without overlaps.
    pub fn spans(&self, range: &PodRange) -> Vec<Span> {
        merged(self.parts_of(range), range.last_pod())
    }

    fn parts_of(&self, range: &PodRange) -> impl Iterator<Item = Span> {
        let (first, last) = (range.nth(0).bits(), range.nth(0).bits() + range.last_pod());
        let of_part = move |part: &Part| match part {
            Part::Each(first, last) => Some((*first, *last)),
            Part::Range(part) => {
                let (from, to) = part.ends();
                let (from, to) = (from.bits().max(first), to.bits().min(last));
                (from <= to).then(|| (from - first, to - first))
            }
        };
        self.parts.iter().filter_map(of_part)
    }

    pub fn contains(&self, range: &PodRange, addr: Addr) -> bool {
        let is_in = |(first, last): Span| (first..=last).contains(&(addr.bits() - range.nth(0).bits()));
        range.is_pod(addr) && self.spans(range).into_iter().any(is_in)
    }
}

/// What pools leave of a range, in order and without overlaps.
pub fn left(range: &PodRange, pools: &[PodPool]) -> Vec<Span> {
    let taken = merged(pools.iter().flat_map(|pool| pool.parts_of(range)), range.last_pod());
    between(&taken, range.last_pod())
}

/// Sorted, each once, and within the places of pods.
fn merged(spans: impl Iterator<Item = Span>, last_pod: u128) -> Vec<Span> {
    let clipped = spans.map(|(first, last)| (first.max(POD_OFFSET), last.min(last_pod)));
    let mut all: Vec<Span> = clipped.filter(|(first, last)| first <= last).collect();
    all.sort_unstable();
    let mut merged: Vec<Span> = Vec::new();
    for (first, last) in all {
        match merged.last_mut() {
            Some(before) if first <= before.1 + 1 => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

/// What sorted spans leave of the places of pods.
fn between(spans: &[Span], last_pod: u128) -> Vec<Span> {
    let (mut next, mut left) = (POD_OFFSET, Vec::new());
    for (first, last) in spans {
        if next < *first {
            left.push((next, first - 1));
        }
        next = last + 1;
    }
    if next <= last_pod {
        left.push((next, last_pod));
    }
    left
}

/// No two of one name.
pub fn check(pools: &[PodPool]) -> Result<(), PoolError> {
    let is_twice = |(i, pool): (usize, &PodPool)| pools[..i].iter().any(|other| other.name == pool.name);
    let twice = (0..pools.len()).find(|&i| is_twice((i, &pools[i])));
    twice.map_or(Ok(()), |i| Err(PoolError::Twice(pools[i].name.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range() -> PodRange {
        PodRange::new("10.244.1.0/24".parse().unwrap()).unwrap()
    }

    fn pool(text: &str) -> PodPool {
        text.parse().unwrap()
    }

    #[test]
    fn parts_lie_in_a_nodes_range() {
        let spans = |text| pool(text).spans(&range());
        assert_eq!(spans("a=+128-191,10.244.0.0/23"), [(4, 254)]);
        assert_eq!(spans("a=+200,10.244.1.64/28,+0-9,10.244.2.0/24"), [(4, 9), (64, 79), (200, 200)]);
        assert_eq!(spans("a=10.244.1.250-10.244.2.9,fd00::/64"), [(250, 254)]);
        let v6 = PodRange::new("fd00:1::/64".parse().unwrap()).unwrap();
        assert_eq!(pool("a=+128-191,fd00:1::1:0/112").spans(&v6), [(128, 191), (0x10000, 0x1ffff)]);
        for wrong in ["a", "=+1", "a=+9-1", "a=+x", "a=10.0.0.9-10.0.0.1", "a=+1-2-3"] {
            assert!(wrong.parse::<PodPool>().is_err(), "{wrong}");
        }
        assert!(check(&[pool("a=+9"), pool("b=+9")]).is_ok() && check(&[pool("a=+9"), pool("a=+8")]).is_err());
    }

    proptest! {
        #[test]
        fn every_address_is_in_pools_or_left(parts in prop::collection::vec((0u8.., 0u8..), 1..6), last in 0u8..) {
            let parts: Vec<String> = parts.iter().map(|(a, b)| format!("+{}-{}", a.min(b), a.max(b))).collect();
            let pools = [pool(&format!("a={}", parts.join(",")))];
            let addr = range().nth(last.into());
            let is_in = |spans: &[Span]| spans.iter().filter(|(a, b)| (*a..=*b).contains(&last.into())).count();
            let [inside, left] = [pools[0].spans(&range()), left(&range(), &pools)].map(|spans| is_in(&spans));
            prop_assert_eq!(inside + left, usize::from(range().is_pod(addr)));
            prop_assert_eq!(pools[0].contains(&range(), addr), inside == 1);
        }
    }
}
