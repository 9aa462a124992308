//! Values by prefix, and which prefix covers another: the writer's side of longest prefix match.

use std::collections::HashMap;
use tables::{Addr, Prefix};

#[derive(Debug)]
pub struct Prefixes<V> {
    values: HashMap<Prefix, V>,
    /// Prefixes of each length; IPv4 ones have 96 and up.
    lengths: [usize; 129],
}

impl<V> Default for Prefixes<V> {
    fn default() -> Prefixes<V> {
        Prefixes { values: HashMap::new(), lengths: [0; 129] }
    }
}

impl<V> Prefixes<V> {
    pub fn get(&self, prefix: &Prefix) -> Option<&V> {
        self.values.get(prefix)
    }

    pub fn insert(&mut self, prefix: Prefix, value: V) -> Option<V> {
        let old = self.values.insert(prefix, value);
        if old.is_none() {
            self.lengths[prefix.mapped_length() as usize] += 1;
        }
        old
    }

    pub fn remove(&mut self, prefix: &Prefix) -> Option<V> {
        let old = self.values.remove(prefix);
        if old.is_some() {
            self.lengths[prefix.mapped_length() as usize] -= 1;
        }
        old
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Prefix, &V)> {
        self.values.iter()
    }

    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// The longest prefix shorter than `prefix` that covers it.
    pub fn covering(&self, prefix: &Prefix) -> Option<(Prefix, &V)> {
        self.longest(prefix.addr(), prefix.mapped_length() as usize)
    }

    /// The longest prefix that holds `addr`.
    pub fn matching(&self, addr: Addr) -> Option<(Prefix, &V)> {
        self.longest(addr, 129)
    }

    fn longest(&self, addr: Addr, below: usize) -> Option<(Prefix, &V)> {
        let shortest = if addr.is_v4() { 96 } else { 0 };
        (shortest..below.max(shortest)).rev().filter(|&length| self.lengths[length] > 0).find_map(|length| {
            let prefix = Prefix::mapped(addr, length as u8);
            Some((prefix, self.values.get(&prefix)?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_shorter_prefix_covers() {
        let mut prefixes = Prefixes::default();
        for (i, text) in ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "::/0", "2001:db8::/32"].into_iter().enumerate() {
            prefixes.insert(text.parse().unwrap(), i);
        }
        let covering = |text: &str| prefixes.covering(&text.parse().unwrap()).map(|(_, &i)| i);
        assert_eq!(covering("10.1.0.0/16"), Some(1));
        assert_eq!(covering("10.1.2.0/24"), Some(2));
        assert_eq!(covering("0.0.0.0/0"), None);
        assert_eq!(covering("2001:db8::/32"), Some(3));
        assert_eq!(prefixes.matching("10.1.0.1".parse().unwrap()).map(|(_, &i)| i), Some(2));
        assert_eq!(prefixes.matching("fd00::1".parse().unwrap()).map(|(_, &i)| i), Some(3));
    }
}
