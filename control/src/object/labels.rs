//! The labels of one object, in one piece of memory.

use super::Common;
use crate::state::Shared;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;

/// Ends each key and each value. The API allows it in neither; from elsewhere it does not get in.
const END: char = '\0';

/// Sorted by key, each key once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels(Common<str>);

impl Labels {
    pub fn new() -> Labels {
        Labels::default()
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find(|(other, _)| *other == key).map(|(_, value)| value)
    }

    pub fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> Iter<'_> {
        Iter(&self.0)
    }

    /// One memory for all equal ones.
    pub fn share(&mut self, among: &mut Shared<str>) {
        self.0.share(among);
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.iter().map(|(key, _)| key)
    }

    /// With one more pair, or another value of that key.
    pub fn with(&self, key: &str, value: &str) -> Labels {
        self.iter().chain([(key, value)]).collect()
    }
}

pub struct Iter<'a>(&'a str);

impl<'a> Iter<'a> {
    fn part(&mut self) -> Option<&'a str> {
        let (part, rest) = self.0.split_once(END)?;
        self.0 = rest;
        Some(part)
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<(&'a str, &'a str)> {
        Some((self.part()?, self.part()?))
    }
}

impl<'a> IntoIterator for &'a Labels {
    type Item = (&'a str, &'a str);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// Of one key the last value counts.
impl<K: AsRef<str>, V: AsRef<str>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Labels {
        let pairs: Vec<(K, V)> = pairs.into_iter().collect();
        let sorted: BTreeMap<&str, &str> = pairs.iter().map(|(key, value)| (key.as_ref(), value.as_ref())).collect();
        let mut text = String::new();
        for part in sorted.iter().flat_map(|(key, value)| [key, value]) {
            text.extend(part.chars().filter(|&c| c != END));
            text.push(END);
        }
        Labels(text.into())
    }
}

impl From<BTreeMap<String, String>> for Labels {
    fn from(pairs: BTreeMap<String, String>) -> Labels {
        pairs.into_iter().collect()
    }
}

impl<const N: usize> From<[(String, String); N]> for Labels {
    fn from(pairs: [(String, String); N]) -> Labels {
        pairs.into_iter().collect()
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self)
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Labels, D::Error> {
        BTreeMap::<String, String>::deserialize(deserializer).map(Labels::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The same as a map, whatever stands in it.
        #[test]
        fn a_set_is_a_map(
            pairs in prop::collection::btree_map("[a-c./]{0,3}", "[a-c]{0,2}", 0..5), key in "[a-c./]{0,3}") {
            let labels = Labels::from(pairs.clone());
            prop_assert!(labels.iter().eq(pairs.iter().map(|(k, v)| (k.as_str(), v.as_str()))));
            prop_assert_eq!(labels.get(&key), pairs.get(&key).map(String::as_str));
            prop_assert_eq!(labels.is_empty(), pairs.is_empty());
            let text = serde_json::to_string(&labels).unwrap();
            prop_assert_eq!(&text, &serde_json::to_string(&pairs).unwrap());
            prop_assert_eq!(serde_json::from_str::<Labels>(&text).unwrap(), labels.clone());
            let mut more = pairs;
            more.insert(key.clone(), "new".to_owned());
            prop_assert_eq!(labels.with(&key, "new"), Labels::from(more));
        }
    }

    #[test]
    fn what_ends_a_part_cannot_forge_another_pair() {
        let labels: Labels = [("a", "b\0c\0d")].into_iter().collect();
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("a", "bcd")]);
    }
}
