//! Objects by namespace and name, without building a key for each look-up.

use crate::object::Named;
use std::collections::BTreeMap;

#[derive(Debug)]
pub struct ByName<T>(BTreeMap<String, BTreeMap<String, T>>);

impl<T> Default for ByName<T> {
    fn default() -> ByName<T> {
        ByName(BTreeMap::new())
    }
}

impl<T> ByName<T> {
    pub fn get(&self, id: &Named) -> Option<&T> {
        self.0.get(&id.namespace)?.get(&id.name)
    }

    /// Puts, replaces or (None) removes.
    pub fn set(&mut self, id: &Named, value: Option<T>) {
        match value {
            Some(value) => {
                self.0.entry(id.namespace.clone()).or_default().insert(id.name.clone(), value);
            }
            None => self.remove(id),
        }
    }

    fn remove(&mut self, id: &Named) {
        let Some(names) = self.0.get_mut(&id.namespace) else { return };
        names.remove(&id.name);
        if names.is_empty() {
            self.0.remove(&id.namespace);
        }
    }

    pub fn entry(&mut self, id: &Named) -> &mut T
    where
        T: Default,
    {
        self.0.entry(id.namespace.clone()).or_default().entry(id.name.clone()).or_default()
    }

    pub fn in_namespace(&self, namespace: &str) -> Option<&BTreeMap<String, T>> {
        self.0.get(namespace)
    }

    pub fn iter(&self) -> impl Iterator<Item = (Named, &T)> {
        self.0.iter().flat_map(|(ns, names)| names.iter().map(move |(name, v)| (Named::new(ns, name), v)))
    }

    pub fn len(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
