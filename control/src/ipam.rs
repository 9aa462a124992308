//! Addresses of the node's pod ranges: three reserved ones, the rest for pods, given out round robin so that a freed
//! address rests as long as possible; those of named pools only to who asks for them. Pure; `attachment.rs` keeps on disk
//! what is given out.

pub mod pool;

use pool::{PodPool, Span};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use tables::{Addr, Mac, Prefix};

/// Ethernet address under which pods and the host see Fairway.
pub const GATEWAY_MAC: Mac = Mac([2, 0xfa, 0, 0, 0, 1]);
/// Ethernet address of fairway0.
pub const HOST_MAC: Mac = Mac([2, 0xfa, 0, 0, 0, 2]);

const GATEWAY_OFFSET: u128 = 1;
const HOST_OFFSET: u128 = 2;
const SNAT_OFFSET: u128 = 3;
const POD_OFFSET: u128 = 4;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IpamError {
    #[error("this node has no pod range yet: its Node object is missing or says no spec.podCIDR")]
    NoRange,
    #[error("all {size} pod addresses of {range} are in use: delete pods, or give the node a larger spec.podCIDR")]
    Exhausted { range: Prefix, size: u128 },
    #[error(
        "address {0} cannot be given: it is none of the pod addresses of this node's ranges, or the second of its family"
    )]
    NotOurs(Addr),
    #[error("address {0} cannot be given: another pod has it")]
    InUse(Addr),
    #[error("there is no pool {0:?} of pod addresses: --pod-pool makes them")]
    UnknownPool(String),
    #[error("the pool {pool:?} has no pod address in this node's pod ranges ({ranges})")]
    PoolElsewhere { pool: String, ranges: String },
    #[error("all {size} addresses of the pool {pool:?} in {range} are in use")]
    PoolExhausted { pool: String, range: Prefix, size: u128 },
    #[error("address {addr} cannot be given: it is none of the pool {pool:?}")]
    NotInPool { addr: Addr, pool: String },
    #[error("pod range {0} is too small: at least 8 addresses are needed")]
    TooSmall(Prefix),
}

/// One pod range of this node and what its addresses are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodRange(Prefix);

impl PodRange {
    pub fn new(prefix: Prefix) -> Result<PodRange, IpamError> {
        if prefix.mapped_length() > 125 { Err(IpamError::TooSmall(prefix)) } else { Ok(PodRange(prefix)) }
    }

    pub fn prefix(&self) -> Prefix {
        self.0
    }

    fn nth(&self, offset: u128) -> Addr {
        Addr::from_bits(self.0.addr().bits() + offset)
    }

    /// Fairway answers for it.
    pub fn gateway(&self) -> Addr {
        self.nth(GATEWAY_OFFSET)
    }

    /// Of fairway0.
    pub fn host(&self) -> Addr {
        self.nth(HOST_OFFSET)
    }

    /// Source of what Fairway sends into the pod network for a non-pod.
    pub fn snat(&self) -> Addr {
        self.nth(SNAT_OFFSET)
    }

    /// What is never a pod's: the addresses in front of theirs.
    pub fn reserved(&self) -> Prefix {
        Prefix::mapped(self.0.addr(), 128 - POD_OFFSET.ilog2() as u8)
    }

    fn is_pod(&self, addr: Addr) -> bool {
        self.0.contains(addr) && (POD_OFFSET..POD_OFFSET + self.pods()).contains(&(addr.bits() - self.0.addr().bits()))
    }

    /// The place of the last pod address.
    fn last_pod(&self) -> u128 {
        POD_OFFSET + self.pods() - 1
    }

    /// Pod addresses: all but the reserved ones and the last, which is a broadcast address in IPv4.
    fn pods(&self) -> u128 {
        let size = 1u128 << (128 - self.0.mapped_length()).min(126);
        size - POD_OFFSET - 1
    }
}

/// The address that follows from where a pod's address lies: unique on a link as long as the last 32 bits are.
pub fn mac_of(addr: Addr) -> Mac {
    let [a, b, c, d] = addr.v4_octets();
    Mac([2, 0xfa, a, b, c, d])
}

/// Who has which address, and where the search goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ipam {
    ranges: Vec<PodRange>,
    pools: Vec<PodPool>,
    used: BTreeSet<Addr>,
    last: LastGiven,
}

/// By range, and pool, the address given out last; part of what survives a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LastGiven(BTreeMap<String, Addr>);

impl Ipam {
    /// Takes up where an earlier run stopped.
    pub fn new(used: impl IntoIterator<Item = Addr>, last: LastGiven) -> Ipam {
        Ipam { ranges: Vec::new(), pools: Vec::new(), used: used.into_iter().collect(), last }
    }

    /// At most one range a family counts, the first.
    pub fn set_ranges(&mut self, prefixes: &[Prefix]) -> Result<(), IpamError> {
        let first = |v4| prefixes.iter().find(|prefix| prefix.is_v4() == v4);
        let ranges = [first(true), first(false)].into_iter().flatten();
        self.ranges = ranges.map(|prefix| PodRange::new(*prefix)).collect::<Result<_, _>>()?;
        Ok(())
    }

    pub fn set_pools(&mut self, pools: &[PodPool]) {
        self.pools = pools.to_vec();
    }

    pub fn ranges(&self) -> &[PodRange] {
        &self.ranges
    }

    pub fn last_given(&self) -> &LastGiven {
        &self.last
    }

    pub fn used(&self) -> usize {
        self.used.len()
    }

    /// One address of each range, those that are asked for among them; all or none. A pool that has addresses of one family
    /// alone says nothing of the other.
    pub fn allocate(&mut self, asked: &[Addr], pool: Option<&str>) -> Result<Vec<Addr>, IpamError> {
        if self.ranges.is_empty() {
            return Err(IpamError::NoRange);
        }
        let pool = pool.map(|name| self.pool(name)).transpose()?;
        let found = self.ranges.iter().map(|range| match asked.iter().find(|addr| range.is_pod(**addr)) {
            Some(addr) if self.used.contains(addr) => Err(IpamError::InUse(*addr)),
            Some(addr) => allowed(range, *addr, pool),
            None => self.next_free(range, pool),
        });
        let found = found.collect::<Result<Vec<_>, _>>()?;
        if let Some(addr) = asked.iter().find(|addr| !found.contains(addr)) {
            return Err(IpamError::NotOurs(*addr));
        }
        let keys: Vec<String> = self.ranges.iter().map(|range| key(range, pool)).collect();
        for (key, addr) in keys.into_iter().zip(&found) {
            // What was asked for does not move the place where the search goes on.
            if !asked.contains(addr) {
                self.last.0.insert(key, *addr);
            }
            self.used.insert(*addr);
        }
        Ok(found)
    }

    fn pool(&self, name: &str) -> Result<&PodPool, IpamError> {
        let pool = self.pools.iter().find(|pool| pool.name == name);
        let pool = pool.ok_or_else(|| IpamError::UnknownPool(name.to_owned()))?;
        if self.ranges.iter().any(|range| has_any(range, pool)) {
            return Ok(pool);
        }
        let ranges: Vec<String> = self.ranges.iter().map(|range| range.0.to_string()).collect();
        Err(IpamError::PoolElsewhere { pool: name.to_owned(), ranges: ranges.join(", ") })
    }

    fn next_free(&self, range: &PodRange, pool: Option<&PodPool>) -> Result<Addr, IpamError> {
        let pool = pool.filter(|pool| has_any(range, pool));
        let spans = pool.map_or_else(|| pool::left(range, &self.pools), |pool| pool.spans(range));
        let size = spans.iter().map(|(first, last)| last - first + 1).sum();
        let last = self.last.0.get(&key(range, pool)).filter(|addr| range.0.contains(**addr));
        let start = last.map_or(0, |addr| before(&spans, addr.bits() - range.0.addr().bits() + 1));
        // No more than what is in use can be passed over before a free one.
        let tries = (self.used.len() as u128 + 1).min(size);
        let free = (0..tries)
            .filter_map(|step| nth(&spans, (start + step) % size))
            .map(|place| range.nth(place))
            .find(|addr| !self.used.contains(addr));
        free.ok_or_else(|| match pool {
            Some(pool) => IpamError::PoolExhausted { pool: pool.name.clone(), range: range.0, size },
            None => IpamError::Exhausted { range: range.0, size },
        })
    }

    pub fn release(&mut self, addrs: &[Addr]) {
        for addr in addrs {
            self.used.remove(addr);
        }
    }
}

fn has_any(range: &PodRange, pool: &PodPool) -> bool {
    !pool.spans(range).is_empty()
}

fn allowed(range: &PodRange, addr: Addr, pool: Option<&PodPool>) -> Result<Addr, IpamError> {
    match pool.filter(|pool| has_any(range, pool) && !pool.contains(range, addr)) {
        Some(pool) => Err(IpamError::NotInPool { addr, pool: pool.name.clone() }),
        None => Ok(addr),
    }
}

/// Under which the address is kept that was given out last.
fn key(range: &PodRange, pool: Option<&PodPool>) -> String {
    pool.map_or_else(|| range.0.to_string(), |pool| format!("{} {}", range.0, pool.name))
}

/// How many places of the spans come before this one.
fn before(spans: &[Span], place: u128) -> u128 {
    spans.iter().map(|&(first, last)| place.clamp(first, last + 1) - first).sum()
}

fn nth(spans: &[Span], mut number: u128) -> Option<u128> {
    for (first, last) in spans {
        let len = last - first + 1;
        if number < len {
            return Some(first + number);
        }
        number -= len;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ipam(range: &str) -> Ipam {
        let mut ipam = Ipam::default();
        ipam.set_ranges(&[range.parse().unwrap()]).unwrap();
        ipam
    }

    #[test]
    fn a_range_reserves_its_first_addresses() {
        let mut ipam = ipam("10.244.1.0/24");
        let range = ipam.ranges()[0];
        let reserved = [range.gateway(), range.host(), range.snat()].map(|addr| addr.to_string());
        assert_eq!(reserved, ["10.244.1.1", "10.244.1.2", "10.244.1.3"]);
        assert_eq!(ipam.allocate(&[], None).unwrap(), ["10.244.1.4".parse().unwrap()]);
        assert_eq!(mac_of("10.244.1.4".parse().unwrap()).to_string(), "02:fa:0a:f4:01:04");
    }

    #[test]
    fn a_freed_address_rests_until_all_others_had_their_turn() {
        let mut ipam = ipam("10.0.0.0/28");
        let all: Vec<Addr> = (0..11).map(|_| ipam.allocate(&[], None).unwrap()[0]).collect();
        assert_eq!(
            ipam.allocate(&[], None),
            Err(IpamError::Exhausted { range: "10.0.0.0/28".parse().unwrap(), size: 11 })
        );
        ipam.release(&[all[5]]);
        ipam.release(&[all[2]]);
        assert_eq!(
            ipam.allocate(&[], None).unwrap(),
            [all[2]],
            "the search goes on after the last, not at the first freed"
        );
        assert_eq!(ipam.allocate(&[], None).unwrap(), [all[5]]);
    }

    #[test]
    fn an_address_that_is_asked_for_is_given_if_it_may_be() {
        let mut ipam = Ipam::default();
        ipam.set_ranges(&["10.0.0.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()]).unwrap();
        let [nine, other]: [Addr; 2] = ["10.0.0.9", "10.0.0.10"].map(|text| text.parse().unwrap());
        let given = ipam.allocate(&[nine], None).unwrap();
        assert!(given[0] == nine && !given[1].is_v4(), "{given:?}");
        let before = ipam.clone();
        assert_eq!(ipam.allocate(&[nine], None), Err(IpamError::InUse(nine)));
        assert_eq!(ipam.allocate(&[other, nine], None), Err(IpamError::NotOurs(nine)), "two of one family");
        for reserved in ["10.0.0.3", "10.0.0.255", "10.0.1.9", "fd00:2::9"].map(|text| text.parse().unwrap()) {
            assert_eq!(ipam.allocate(&[reserved], None), Err(IpamError::NotOurs(reserved)));
        }
        assert_eq!(ipam, before, "a refusal must keep nothing");
        let others: Vec<Addr> = (0..8).map(|_| ipam.allocate(&[], None).unwrap()[0]).collect();
        assert!(!others.contains(&nine), "{others:?}");
    }

    #[test]
    fn both_families_are_given_together_or_not_at_all() {
        let mut ipam = Ipam::default();
        assert_eq!(ipam.allocate(&[], None), Err(IpamError::NoRange));
        ipam.set_ranges(&["fd00:1::/125".parse().unwrap(), "10.0.0.0/24".parse().unwrap()]).unwrap();
        for _ in 0..3 {
            assert_eq!(ipam.allocate(&[], None).unwrap().len(), 2);
        }
        let before = ipam.clone();
        assert!(matches!(ipam.allocate(&[], None), Err(IpamError::Exhausted { .. })));
        assert_eq!(ipam, before, "a refusal must keep nothing");
    }

    fn with_pools(pools: &[&str]) -> Ipam {
        let mut ipam = Ipam::default();
        ipam.set_ranges(&["10.0.0.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()]).unwrap();
        ipam.set_pools(&pools.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>());
        ipam
    }

    #[test]
    fn a_pools_addresses_are_for_who_asks_for_it() {
        let mut ipam = with_pools(&["gold=+4-5,+9", "four=10.0.0.10/32", "far=10.9.0.0/24"]);
        let given = |ipam: &mut Ipam, pool| {
            ipam.allocate(&[], pool).map(|addrs| addrs.iter().map(Addr::to_string).collect::<Vec<_>>())
        };
        let gold: Vec<_> = (0..3).map(|_| given(&mut ipam, Some("gold")).unwrap()).collect();
        assert_eq!(gold, [["10.0.0.4", "fd00:1::4"], ["10.0.0.5", "fd00:1::5"], ["10.0.0.9", "fd00:1::9"]]);
        let full = given(&mut ipam, Some("gold")).unwrap_err().to_string();
        assert_eq!(full, "all 3 addresses of the pool \"gold\" in 10.0.0.0/24 are in use");
        assert_eq!(given(&mut ipam, None).unwrap(), ["10.0.0.6", "fd00:1::6"]);
        // Of one family alone: the other is given as to all.
        assert_eq!(given(&mut ipam, Some("four")).unwrap(), ["10.0.0.10", "fd00:1::7"]);
        assert_eq!(given(&mut ipam, None).unwrap(), ["10.0.0.7", "fd00:1::8"]);
        assert!(matches!(given(&mut ipam, Some("far")), Err(IpamError::PoolElsewhere { .. })));
        assert_eq!(given(&mut ipam, Some("none")), Err(IpamError::UnknownPool("none".into())));
        ipam.release(&["10.0.0.5", "fd00:1::5"].map(|text| text.parse().unwrap()));
        assert_eq!(given(&mut ipam, Some("gold")).unwrap(), ["10.0.0.5", "fd00:1::5"]);
    }

    #[test]
    fn an_address_must_be_in_the_pool_that_is_asked_for_beside_it() {
        let mut ipam = with_pools(&["gold=+9-12"]);
        let [inside, outside]: [Addr; 2] = ["10.0.0.10", "10.0.0.20"].map(|text| text.parse().unwrap());
        let refused = ipam.allocate(&[outside], Some("gold"));
        assert_eq!(refused, Err(IpamError::NotInPool { addr: outside, pool: "gold".into() }));
        assert_eq!(ipam.allocate(&[inside], Some("gold")).unwrap()[0], inside);
        // Who names an address needs no pool.
        assert_eq!(ipam.allocate(&["10.0.0.11".parse().unwrap()], None).unwrap()[0].to_string(), "10.0.0.11");
    }

    proptest! {
        /// Any order of giving out, taking back and reopening: no address is given twice, none outside the range.
        #[test]
        fn no_address_is_given_twice(steps in prop::collection::vec(0u8..4, 1..200)) {
            let range: Prefix = "10.9.8.0/27".parse().unwrap();
            let mut ipam = Ipam::default();
            ipam.set_ranges(&[range]).unwrap();
            let mut held: Vec<Addr> = Vec::new();
            for step in steps {
                match step {
                    0 | 1 => match ipam.allocate(&[], None) {
                        Ok(given) => {
                            prop_assert!(!held.contains(&given[0]) && range.contains(given[0]));
                            prop_assert!((4..31).contains(&given[0].v4_octets()[3]));
                            held.push(given[0]);
                        }
                        Err(_) => prop_assert_eq!(held.len(), 27),
                    },
                    2 if !held.is_empty() => ipam.release(&[held.remove(held.len() / 2)]),
                    _ => {
                        ipam = Ipam::new(held.iter().copied(), ipam.last_given().clone());
                        ipam.set_ranges(&[range]).unwrap();
                    }
                }
            }
        }
    }
}
