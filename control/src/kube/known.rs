//! Which objects of a kind there are, by name alone: so that a new list tells what is gone, and nothing is gone before the
//! list is whole.

use crate::object::{Kind, ObjectKey};
use crate::state::HashMap;
use std::collections::BTreeSet;

/// The names of a namespace, each with the list that it was last seen in.
type Names = HashMap<Box<str>, u32>;

#[derive(Debug)]
pub struct Known {
    kind: Kind,
    namespaces: HashMap<Box<str>, Names>,
    /// Counts the lists that were begun.
    list: u32,
    /// Of those that are known: which have something wrong.
    wrong: BTreeSet<ObjectKey>,
}

impl Known {
    pub fn new(kind: Kind) -> Known {
        Known { kind, namespaces: HashMap::default(), list: 0, wrong: BTreeSet::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.namespaces.is_empty()
    }

    /// What an earlier list saw does not count for this one.
    pub fn begin_list(&mut self) {
        self.list = self.list.wrapping_add(1);
    }

    /// One of an earlier process: known, but in no list so far.
    pub fn recall(&mut self, key: &ObjectKey) {
        let is_known = self.namespaces.get(key.namespace.as_str()).is_some_and(|n| n.contains_key(key.name.as_str()));
        if !is_known {
            self.note(key, self.list.wrapping_sub(1));
        }
    }

    pub fn see(&mut self, key: &ObjectKey) {
        self.note(key, self.list);
    }

    fn note(&mut self, key: &ObjectKey, list: u32) {
        if !self.namespaces.contains_key(key.namespace.as_str()) {
            self.namespaces.insert(key.namespace.as_str().into(), Names::default());
        }
        let names = self.namespaces.get_mut(key.namespace.as_str()).expect("just made");
        match names.get_mut(key.name.as_str()) {
            Some(seen) => *seen = list,
            None => drop(names.insert(key.name.as_str().into(), list)),
        }
    }

    /// Whether it was known.
    pub fn forget(&mut self, key: &ObjectKey) -> bool {
        self.wrong.remove(key);
        let Some(names) = self.namespaces.get_mut(key.namespace.as_str()) else { return false };
        let was_known = names.remove(key.name.as_str()).is_some();
        if names.is_empty() {
            self.namespaces.remove(key.namespace.as_str());
        }
        was_known
    }

    /// Whether there is something to say of that.
    pub fn set_wrong(&mut self, key: &ObjectKey, is_wrong: bool) -> bool {
        if !is_wrong {
            return self.wrong.remove(key);
        }
        self.wrong.insert(key.clone());
        true
    }

    /// The list is whole: what it did not hold is gone.
    pub fn end_list(&mut self) -> Vec<ObjectKey> {
        let mut unseen = Vec::new();
        for (namespace, names) in &self.namespaces {
            let old = names.iter().filter(|(_, list)| **list != self.list);
            unseen.extend(old.map(|(name, _)| self.key(namespace, name)));
        }
        for key in &unseen {
            self.forget(key);
        }
        unseen
    }

    fn key(&self, namespace: &str, name: &str) -> ObjectKey {
        ObjectKey { kind: self.kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_list_takes_away_and_a_list_begun_anew_counts_alone() {
        let mut known = Known::new(Kind::Pod);
        let key = |name: &str| known_key(name);
        known.begin_list();
        ["a", "b", "c"].iter().for_each(|name| known.see(&key(name)));
        assert_eq!(known.end_list(), []);
        known.begin_list();
        known.see(&key("a"));
        known.see(&key("b"));
        // It could not be read to its end; meanwhile b went.
        known.begin_list();
        known.see(&key("a"));
        let mut gone = known.end_list();
        gone.sort();
        assert_eq!(gone, [key("b"), key("c")]);
        assert!(known.forget(&key("a")) && !known.forget(&key("a")) && known.is_empty());
    }

    fn known_key(name: &str) -> ObjectKey {
        ObjectKey { kind: Kind::Pod, namespace: "n".into(), name: name.into() }
    }
}
