//! Objects by namespace and name, without building a key for each look-up; and the sets and maps that keep as many.

use crate::object::Named;
use foldhash::fast::RandomState;
use indexmap::{IndexMap, IndexSet};

/// Keyed anew in each process, and faster than the standard library's.
pub type HashMap<K, V> = std::collections::HashMap<K, V, RandomState>;
/// In the order in which they came: neighbours in it are neighbours in memory, too.
pub type NumberSet = IndexSet<u32, RandomState>;
/// In no particular order.
pub type Names<T> = IndexMap<String, T, RandomState>;

#[derive(Debug)]
pub struct ByName<T>(HashMap<String, Names<T>>);

impl<T> Default for ByName<T> {
    fn default() -> ByName<T> {
        ByName(HashMap::default())
    }
}

impl<T> ByName<T> {
    pub fn get(&self, id: &Named) -> Option<&T> {
        self.0.get(&id.namespace)?.get(&id.name)
    }

    pub fn get_mut(&mut self, id: &Named) -> Option<&mut T> {
        self.0.get_mut(&id.namespace)?.get_mut(&id.name)
    }

    /// Puts, replaces or (None) removes.
    pub fn set(&mut self, id: &Named, value: Option<T>) {
        let Some(value) = value else { return self.remove(id) };
        let names = self.names(&id.namespace);
        match names.get_mut(&id.name) {
            Some(have) => *have = value,
            None => drop(names.insert(id.name.clone(), value)),
        }
    }

    fn names(&mut self, namespace: &str) -> &mut Names<T> {
        if !self.0.contains_key(namespace) {
            self.0.insert(namespace.to_owned(), Names::default());
        }
        self.0.get_mut(namespace).expect("just made")
    }

    fn remove(&mut self, id: &Named) {
        let Some(names) = self.0.get_mut(&id.namespace) else { return };
        names.swap_remove(&id.name);
        if names.is_empty() {
            self.0.remove(&id.namespace);
        }
    }

    pub fn entry(&mut self, id: &Named) -> &mut T
    where
        T: Default,
    {
        self.names(&id.namespace).entry(id.name.clone()).or_default()
    }

    pub fn in_namespace(&self, namespace: &str) -> Option<&Names<T>> {
        self.0.get(namespace)
    }

    /// In no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (Named, &T)> {
        self.0.iter().flat_map(|(ns, names)| names.iter().map(move |(name, v)| (Named::new(ns, name), v)))
    }

    pub fn len(&self) -> usize {
        self.0.values().map(Names::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
