//! Which objects of a namespace carry a label.

use crate::object::{Common, Named};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Of one namespace, each kept once for all labels.
type Ids = BTreeSet<Common<Named>>;

/// namespace -> key -> value -> names.
#[derive(Debug, Default)]
pub struct LabelIndex {
    namespaces: HashMap<String, BTreeMap<String, BTreeMap<String, Ids>>>,
    nobody: Ids,
}

impl LabelIndex {
    pub fn insert<'a>(&mut self, id: &Common<Named>, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) {
        let keys = self.namespaces.entry(id.namespace.clone()).or_default();
        for (key, value) in pairs {
            let values = keys.entry(key.to_owned()).or_default();
            values.entry(value.to_owned()).or_default().insert(id.clone());
        }
    }

    pub fn remove<'a>(&mut self, id: &Named, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) {
        let Some(keys) = self.namespaces.get_mut(&id.namespace) else { return };
        for (key, value) in pairs {
            let Some(values) = keys.get_mut(key) else { continue };
            let Some(ids) = values.get_mut(value) else { continue };
            ids.remove(id);
            if ids.is_empty() {
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

    pub fn with(&self, namespace: &str, (key, value): (&str, &str)) -> &Ids {
        let find = || self.namespaces.get(namespace)?.get(key)?.get(value);
        find().unwrap_or(&self.nobody)
    }
}
