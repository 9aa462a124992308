//! Which selectors may hold for an object, without asking each: by a label that every object selected must have. Pure.

use crate::object::selector::{Labels, Selector, Test};
use crate::state::HashMap;
use std::hash::Hash;

/// Ids of selectors by what they hang on.
#[derive(Debug, Default)]
pub struct SelectorIndex {
    pairs: HashMap<String, HashMap<String, Vec<u32>>>,
    keys: HashMap<String, Vec<u32>>,
    /// Those that no label has to be there for.
    rest: Vec<u32>,
}

/// The requirement that leaves the fewest objects, as far as that can be told without these.
enum Anchor<'a> {
    Pairs(&'a str, Vec<&'a String>),
    Key(&'a str),
    None,
}

fn anchor(selector: &Selector) -> Anchor<'_> {
    let tests = || selector.0.iter().map(|requirement| (requirement.key.as_str(), &requirement.test));
    let values = tests().filter_map(|(key, test)| if let Test::In(values) = test { Some((key, values)) } else { None });
    if let Some((key, values)) = values.min_by_key(|(_, values)| values.len()) {
        let mut values: Vec<&String> = values.iter().collect();
        values.sort_unstable();
        values.dedup();
        return Anchor::Pairs(key, values);
    }
    tests().find(|(_, test)| matches!(test, Test::Exists)).map_or(Anchor::None, |(key, _)| Anchor::Key(key))
}

impl SelectorIndex {
    pub fn insert(&mut self, id: u32, selector: &Selector) {
        match anchor(selector) {
            Anchor::Pairs(key, values) => {
                let by_value = self.pairs.entry(key.to_owned()).or_default();
                values.into_iter().for_each(|value| by_value.entry(value.clone()).or_default().push(id));
            }
            Anchor::Key(key) => self.keys.entry(key.to_owned()).or_default().push(id),
            Anchor::None => self.rest.push(id),
        }
    }

    pub fn remove(&mut self, id: u32, selector: &Selector) {
        match anchor(selector) {
            Anchor::Pairs(key, values) => {
                let Some(by_value) = self.pairs.get_mut(key) else { return };
                values.into_iter().for_each(|value| forget(by_value, value, id));
                if by_value.is_empty() {
                    self.pairs.remove(key);
                }
            }
            Anchor::Key(key) => forget(&mut self.keys, key, id),
            Anchor::None => self.rest.retain(|other| *other != id),
        }
    }

    /// Each at most once.
    pub fn candidates<'a>(&'a self, labels: &'a Labels) -> impl Iterator<Item = u32> + 'a {
        let pairs = labels.iter().filter_map(|(key, value)| self.pairs.get(key)?.get(value)).flatten();
        let keys = labels.keys().filter_map(|key| self.keys.get(key)).flatten();
        pairs.chain(keys).chain(&self.rest).copied()
    }

    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty() && self.keys.is_empty() && self.rest.is_empty()
    }
}

fn forget<K: Eq + Hash + std::borrow::Borrow<Q>, Q: Eq + Hash + ?Sized>(
    ids: &mut HashMap<K, Vec<u32>>,
    key: &Q,
    id: u32,
) {
    if let Some(all) = ids.get_mut(key) {
        all.retain(|other| *other != id);
        if all.is_empty() {
            ids.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::selector::Requirement;
    use proptest::prelude::*;

    fn requirement() -> impl Strategy<Value = Requirement> {
        let values = || prop::collection::vec(prop::sample::select(vec!["x".to_owned(), "y".to_owned()]), 1..3);
        let test = prop_oneof![
            values().prop_map(Test::In),
            values().prop_map(Test::NotIn),
            Just(Test::Exists),
            Just(Test::DoesNotExist)
        ];
        (prop::sample::select(vec!["a", "b"]), test).prop_map(|(key, test)| Requirement { key: key.into(), test })
    }

    proptest! {
        /// Candidates are asked, so it is enough that none is missing and none comes twice; and nothing is left behind.
        #[test]
        fn whatever_selects_an_object_is_a_candidate_once(
            selectors in prop::collection::vec(prop::collection::vec(requirement(), 0..3).prop_map(Selector), 0..8),
            labels in prop::collection::btree_map(prop::sample::select(vec!["a".to_owned(), "b".to_owned()]),
                prop::sample::select(vec!["x".to_owned(), "y".to_owned(), "z".to_owned()]), 0..3),
        ) {
            let labels = Labels::from(labels);
            let mut index = SelectorIndex::default();
            for (id, selector) in selectors.iter().enumerate() {
                index.insert(id as u32, selector);
            }
            let mut found: Vec<u32> = index.candidates(&labels).collect();
            let all = found.len();
            found.sort_unstable();
            found.dedup();
            prop_assert_eq!(found.len(), all);
            for (id, selector) in selectors.iter().enumerate() {
                prop_assert!(!selector.matches(&labels) || found.contains(&(id as u32)));
            }
            for (id, selector) in selectors.iter().enumerate() {
                index.remove(id as u32, selector);
            }
            prop_assert!(index.is_empty());
        }
    }
}
