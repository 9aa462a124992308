//! Which objects of a namespace carry a label.

use crate::object::Named;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// A name is kept once for all labels.
type Names = BTreeSet<Arc<str>>;

/// namespace -> key -> value -> names.
#[derive(Debug, Default)]
pub struct LabelIndex {
    namespaces: HashMap<String, BTreeMap<String, BTreeMap<String, Names>>>,
    nobody: Names,
}

impl LabelIndex {
    pub fn insert<'a>(&mut self, id: &Named, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) {
        let keys = self.namespaces.entry(id.namespace.clone()).or_default();
        let name: Arc<str> = id.name.as_str().into();
        for (key, value) in pairs {
            let values = keys.entry(key.to_owned()).or_default();
            values.entry(value.to_owned()).or_default().insert(name.clone());
        }
    }

    pub fn remove<'a>(&mut self, id: &Named, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) {
        let Some(keys) = self.namespaces.get_mut(&id.namespace) else { return };
        for (key, value) in pairs {
            let Some(values) = keys.get_mut(key) else { continue };
            let Some(names) = values.get_mut(value) else { continue };
            names.remove(id.name.as_str());
            if names.is_empty() {
                values.remove(value);
            }
            if values.is_empty() {
                keys.remove(key);
            }
        }
        if keys.is_empty() {
            self.namespaces.remove(&id.namespace);
        }
    }

    pub fn with(&self, namespace: &str, (key, value): (&str, &str)) -> &Names {
        let find = || self.namespaces.get(namespace)?.get(key)?.get(value);
        find().unwrap_or(&self.nobody)
    }
}
