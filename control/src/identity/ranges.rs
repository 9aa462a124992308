//! The nodes' pod ranges, as far as it matters which of their addresses no pod is known to have: to rules that deny pods
//! such an address may be any pod's, whose object comes later. While there is no such rule nobody asks, and ranges are
//! addresses like others. What a range keeps for its node (see `ipam`) is never a pod's. Must not know pods or identities.

use super::counted::Counted;
use crate::ipam::PodRange;
use crate::object::{ObjectKey, PolicyRule};
use crate::state::State;
use std::collections::{HashMap, HashSet};
use tables::Prefix;

#[derive(Debug, Default)]
pub struct Ranges {
    of_node: HashMap<String, Vec<Prefix>>,
    ranges: Counted,
    /// Of each range, what it keeps for its node.
    reserved: Counted,
    /// Policies with such a rule.
    asking: HashSet<ObjectKey>,
}

impl Ranges {
    /// Takes in a node's ranges; answers those to look into again.
    pub fn set_node(&mut self, state: &State, name: &str) -> Vec<Prefix> {
        let new = state.node(name).map_or_else(Vec::new, |node| node.pod_cidrs.clone());
        let mut touched = Vec::new();
        for &range in &new {
            touched.extend(self.ranges.add(range).then_some(range));
            if let Some(part) = reserved_of(range) {
                self.reserved.add(part);
            }
        }
        for range in self.of_node.remove(name).unwrap_or_default() {
            touched.extend(self.ranges.remove(range).then_some(range));
            if let Some(part) = reserved_of(range) {
                self.reserved.remove(part);
            }
        }
        if !new.is_empty() {
            self.of_node.insert(name.to_owned(), new);
        }
        touched.retain(|_| self.is_asked());
        touched
    }

    /// Takes in whether a policy asks; answers the ranges to look into again.
    pub fn set_policy<'a>(&mut self, key: &ObjectKey, mut rules: impl Iterator<Item = &'a PolicyRule>) -> Vec<Prefix> {
        let was_asked = self.is_asked();
        match rules.any(PolicyRule::denies_unclaimed) {
            true => drop(self.asking.insert(key.clone())),
            false => drop(self.asking.remove(key)),
        }
        if was_asked == self.is_asked() { Vec::new() } else { self.ranges.iter().collect() }
    }

    fn is_asked(&self) -> bool {
        !self.asking.is_empty()
    }

    /// It parts addresses that may be any pod's from others.
    pub fn parts(&self, prefix: &Prefix) -> bool {
        self.is_asked() && (self.ranges.contains(prefix) || self.reserved.contains(prefix))
    }

    /// Those of a prefix may be any pod's, as far as nothing that lies within it says otherwise.
    pub fn holds(&self, prefix: &Prefix) -> bool {
        self.is_asked() && self.ranges.around(prefix).is_some() && self.reserved.around(prefix).is_none()
    }

    /// What within a prefix parts addresses.
    pub fn within(&self, prefix: &Prefix) -> impl Iterator<Item = Prefix> {
        let all = self.ranges.within(prefix).chain(self.reserved.within(prefix));
        all.filter(|_| self.is_asked())
    }
}

/// Ranges too small for a node keep nothing.
pub fn reserved_of(range: Prefix) -> Option<Prefix> {
    PodRange::new(range).ok().map(|range| range.reserved())
}
