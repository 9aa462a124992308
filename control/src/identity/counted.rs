//! Prefixes and how often each is named, and which of them lie around or within another. Must not know who names them.

use crate::compile::prefixes::Prefixes;
use std::collections::BTreeSet;
use tables::{Addr, Prefix};

#[derive(Debug, Default)]
pub struct Counted {
    counts: Prefixes<usize>,
    ordered: BTreeSet<Prefix>,
}

impl Counted {
    /// Named once more; whether it was not before.
    pub fn add(&mut self, prefix: Prefix) -> bool {
        let before = self.counts.get(&prefix).copied().unwrap_or(0);
        self.counts.insert(prefix, before + 1);
        self.ordered.insert(prefix)
    }

    /// Named once less; whether it is no more.
    pub fn remove(&mut self, prefix: Prefix) -> bool {
        match self.counts.get(&prefix).copied().unwrap_or(0) {
            0 => false,
            1 => {
                self.counts.remove(&prefix);
                self.ordered.remove(&prefix)
            }
            before => {
                self.counts.insert(prefix, before - 1);
                false
            }
        }
    }

    pub fn contains(&self, prefix: &Prefix) -> bool {
        self.counts.get(prefix).is_some()
    }

    /// The longest that covers `prefix`, which may be itself.
    pub fn around(&self, prefix: &Prefix) -> Option<Prefix> {
        let itself = self.contains(prefix).then_some(*prefix);
        itself.or_else(|| self.counts.covering(prefix).map(|(around, _)| around))
    }

    /// Those that `prefix` covers, itself among them.
    pub fn within(&self, prefix: &Prefix) -> impl Iterator<Item = Prefix> {
        let prefix = *prefix;
        let first = Prefix::mapped(prefix.addr(), prefix.mapped_length());
        let last = Prefix::host(last_of(&prefix));
        self.ordered.range(first..=last).copied().filter(move |other| prefix.covers(other))
    }

    pub fn iter(&self) -> impl Iterator<Item = Prefix> {
        self.ordered.iter().copied()
    }
}

/// The last address of a prefix.
pub fn last_of(prefix: &Prefix) -> Addr {
    Addr::from_bits(prefix.addr().bits() | u128::MAX.checked_shr(prefix.mapped_length() as u32).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn a_prefix_stays_as_long_as_somebody_names_it_and_lies_in_what_covers_it() {
        let mut counted = Counted::default();
        let all = ["10.0.0.0/8", "10.1.0.0/16", "10.1.0.0/24", "10.2.0.0/16", "::/0"].map(prefix);
        assert!(all.iter().all(|prefix| counted.add(*prefix)));
        assert!(!counted.add(all[1]) && !counted.remove(all[1]), "it is named twice");
        assert_eq!(counted.around(&prefix("10.1.0.0/16")), Some(all[1]), "around itself");
        assert_eq!(counted.around(&prefix("10.1.0.0/17")), Some(all[1]), "not the longest that has its first address");
        assert_eq!(counted.within(&prefix("10.1.0.0/16")).collect::<Vec<_>>(), [all[1], all[2]]);
        assert_eq!(counted.within(&prefix("0.0.0.0/0")).collect::<Vec<_>>(), [all[0], all[1], all[2], all[3]]);
        assert!(counted.remove(all[1]) && !counted.contains(&all[1]));
        assert_eq!(counted.around(&prefix("10.1.0.0/17")), Some(all[0]));
    }
}
