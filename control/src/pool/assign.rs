//! Who gets which address, as a pure function of pools, services and what the services' status says: every node comes to
//! the same answer without asking another. First everybody keeps what status says, then wishes are granted, then the
//! rest is given out; each time in the order of names. The address that a service is given is chosen by its name, so that
//! nodes that know of different services for a moment rarely differ, and it stays the same where no status is written.

use super::{Pool, Range};
use crate::object::Named;
use std::collections::{BTreeMap, BTreeSet};
use tables::Addr;
use tables::node::family;

/// What a service asks for.
#[derive(Clone, Debug, Default)]
pub struct Claim {
    pub id: Named,
    /// Whether it serves IPv4, IPv6.
    pub families: [bool; 2],
    /// All its families or none (`RequireDualStack`).
    pub requires_all: bool,
    pub wished: Vec<Addr>,
    pub pool: Option<String>,
    /// What status says that it has.
    pub held: Vec<Addr>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("Service {service} asks for the address pool {pool:?}, which there is not: see --load-balancer-pool")]
    UnknownPool { service: Named, pool: String },
    #[error("Service {service} asks for {addr}, which is in none of its address pools")]
    Outside { service: Named, addr: Addr },
    #[error("Service {service} asks for {addr}, and {holder} has it: ask for another")]
    Taken { service: Named, addr: Addr, holder: String },
    #[error("Service {service} gets no {} address: none of its address pools has one left; add a range", name(*.v4))]
    NoneLeft { service: Named, v4: bool },
    #[error("Service {service} gets no address: it has to have one of each family, and there is none of {}", name(*.v4))]
    NotAll { service: Named, v4: bool },
    #[error("Service {service} gets no address: no address pool has any of its family")]
    NoPool { service: Named },
}

fn name(v4: bool) -> &'static str {
    if v4 { "IPv4" } else { "IPv6" }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assigned {
    /// One address a family at most, IPv4 first.
    pub addrs: BTreeMap<Named, Vec<Addr>>,
    pub problems: Vec<Problem>,
}

/// `taken`: addresses that nobody is given, and who has them. Every claim's name is its own.
pub fn assign(pools: &[Pool], claims: &[Claim], taken: BTreeMap<Addr, String>) -> Assigned {
    settle(pools, claims, taken, true)
}

/// Nobody is given anything new.
pub fn keep(pools: &[Pool], claims: &[Claim], taken: BTreeMap<Addr, String>) -> Assigned {
    settle(pools, claims, taken, false)
}

fn settle(pools: &[Pool], claims: &[Claim], taken: BTreeMap<Addr, String>, gives: bool) -> Assigned {
    let mut claims: Vec<&Claim> = claims.iter().collect();
    claims.sort_by_key(|claim| &claim.id);
    let mut giver = Giver { pools, taken, got: BTreeMap::new(), full: BTreeSet::new(), problems: Vec::new() };
    claims.iter().for_each(|claim| giver.keep(claim));
    if gives {
        claims.iter().for_each(|claim| giver.grant(claim));
        claims.iter().for_each(|claim| giver.complete(claim));
    }
    let mut addrs = BTreeMap::new();
    for claim in claims {
        let got: Vec<Addr> = giver.got.remove(&claim.id).into_iter().flatten().flatten().collect();
        addrs.insert(claim.id.clone(), got);
    }
    Assigned { addrs, problems: giver.problems }
}

struct Giver<'a> {
    pools: &'a [Pool],
    taken: BTreeMap<Addr, String>,
    /// By family.
    got: BTreeMap<&'a Named, [Option<Addr>; 2]>,
    /// Ranges that have nothing left, by the places of pool and range.
    full: BTreeSet<(usize, usize)>,
    problems: Vec<Problem>,
}

impl<'a> Giver<'a> {
    fn keep(&mut self, claim: &'a Claim) {
        for &addr in &claim.held {
            let is_wished = wishes(claim, addr.is_v4()).all(|wished| *wished == addr);
            if is_wished && self.is_allowed(claim, addr) && !self.taken.contains_key(&addr) {
                self.give(claim, addr);
            }
        }
    }

    fn grant(&mut self, claim: &'a Claim) {
        for &addr in &claim.wished {
            if self.has(claim, addr.is_v4()) == Some(addr) {
                continue;
            }
            let service = claim.id.clone();
            if !self.is_allowed(claim, addr) {
                self.problems.push(Problem::Outside { service, addr });
            } else if let Some(holder) = self.taken.get(&addr) {
                self.problems.push(Problem::Taken { service, addr, holder: holder.clone() });
            } else {
                self.give(claim, addr);
            }
        }
    }

    fn complete(&mut self, claim: &'a Claim) {
        if let Some(pool) = claim.pool.as_ref().filter(|name| !self.pools.iter().any(|pool| pool.name == **name)) {
            return self.problems.push(Problem::UnknownPool { service: claim.id.clone(), pool: pool.clone() });
        }
        for v4 in [true, false].into_iter().filter(|v4| claim.families[!v4 as usize]) {
            if self.has(claim, v4).is_none() && wishes(claim, v4).next().is_none() {
                self.choose(claim, v4);
            }
        }
        let lacks = |v4: &bool| claim.families[!v4 as usize] && self.has(claim, *v4).is_none();
        if let Some(v4) = [true, false].into_iter().find(lacks).filter(|_| claim.requires_all) {
            self.take_back(claim);
            self.problems.push(Problem::NotAll { service: claim.id.clone(), v4 });
        } else if !self.got.contains_key(&claim.id) && self.pools_of(claim).all(|(_, pool)| !has_family(pool, claim)) {
            self.problems.push(Problem::NoPool { service: claim.id.clone() });
        }
    }

    /// Nothing is wrong where no pool has this family: the service lives in the other one.
    fn choose(&mut self, claim: &'a Claim, v4: bool) {
        let hash = hash(&claim.id);
        let places: Vec<(usize, usize)> = self.places(claim, v4);
        for &place in &places {
            let range = self.range(place);
            let free = range.addrs_from(hash).find(|addr| !self.taken.contains_key(addr));
            match free {
                Some(addr) => return self.give(claim, addr),
                None => drop(self.full.insert(place)),
            }
        }
        if self.pools_of(claim).any(|(_, pool)| pool.has_family(v4)) {
            self.problems.push(Problem::NoneLeft { service: claim.id.clone(), v4 });
        }
    }

    fn places(&self, claim: &Claim, v4: bool) -> Vec<(usize, usize)> {
        let all = self.pools_of(claim).flat_map(|(i, pool)| (0..pool.ranges.len()).map(move |j| (i, j)));
        all.filter(|place| self.range(*place).first.is_v4() == v4 && !self.full.contains(place)).collect()
    }

    fn range(&self, (pool, range): (usize, usize)) -> &'a Range {
        &self.pools[pool].ranges[range]
    }

    fn pools_of(&self, claim: &Claim) -> impl Iterator<Item = (usize, &'a Pool)> {
        let name = claim.pool.clone();
        self.pools.iter().enumerate().filter(move |(_, pool)| name.as_ref().is_none_or(|name| *name == pool.name))
    }

    fn is_allowed(&self, claim: &Claim, addr: Addr) -> bool {
        let is_free = self.has(claim, addr.is_v4()).is_none();
        claim.families[family(addr)] && is_free && self.pools_of(claim).any(|(_, pool)| pool.contains(addr))
    }

    fn has(&self, claim: &Claim, v4: bool) -> Option<Addr> {
        self.got.get(&claim.id)?[!v4 as usize]
    }

    fn give(&mut self, claim: &'a Claim, addr: Addr) {
        self.taken.insert(addr, format!("Service {}", claim.id));
        self.got.entry(&claim.id).or_default()[family(addr)] = Some(addr);
    }

    fn take_back(&mut self, claim: &Claim) {
        for addr in self.got.remove(&claim.id).into_iter().flatten().flatten() {
            self.taken.remove(&addr);
            self.full.clear();
        }
    }
}

fn wishes(claim: &Claim, v4: bool) -> impl Iterator<Item = &Addr> {
    claim.wished.iter().filter(move |addr| addr.is_v4() == v4)
}

fn has_family(pool: &Pool, claim: &Claim) -> bool {
    [true, false].into_iter().any(|v4| claim.families[!v4 as usize] && pool.has_family(v4))
}

fn hash(id: &Named) -> u64 {
    crate::rendezvous::hash(id.to_string().as_bytes())
}
