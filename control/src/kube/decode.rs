//! What the server sends -> objects, one at a time. A mistake is treated as in files: a policy with one is closed, of
//! anything else what was known before stays. Fields that only a newer API has are no mistake, except in policies, where
//! nobody knows what they restrict.

use crate::file::typed;
use crate::object::{Kind, Object, ObjectKey};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::fmt;

/// An object of the server's.
#[derive(Debug)]
pub struct Item {
    pub key: ObjectKey,
    /// None: it cannot be read.
    pub object: Option<Object>,
    /// What is wrong with it, as a sentence that names it.
    pub problem: Option<String>,
}

/// None: it has no name, which nothing lacks that a server keeps.
pub fn key(kind: Kind, value: &Value) -> Option<ObjectKey> {
    let text = |field: &str| value.get("metadata")?.get(field)?.as_str().filter(|text| !text.is_empty());
    let namespace = if kind.is_namespaced() { text("namespace")? } else { "" };
    Some(ObjectKey { kind, namespace: namespace.to_owned(), name: text("name")?.to_owned() })
}

pub fn item(kind: Kind, value: &Value) -> Option<Item> {
    let key = key(kind, value)?;
    let typed::Outcome { object, closed, .. } = typed::object(kind, value);
    let (object, problem) = match object {
        Ok(object) => {
            let wrong = closed.first();
            let told = wrong.map(|w| format!("{key}: {}: {}; it is closed where this counts", w.field, w.message));
            (Some(object), told)
        }
        Err(wrong) => {
            let told = format!("{key}: {}: {}; what was known of it before stays", wrong.field, wrong.message);
            (None, Some(told))
        }
    };
    Some(Item { key, object, problem })
}

/// A page of a list.
#[derive(Debug, Default)]
pub struct Page {
    pub items: Vec<Item>,
    /// Of the whole list.
    pub resource_version: String,
    /// Empty: this is the last page.
    pub next: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ListMeta {
    resource_version: Option<String>,
    r#continue: Option<String>,
}

pub fn page(kind: Kind, text: &str) -> serde_json::Result<Page> {
    PageOf(kind).deserialize(&mut serde_json::Deserializer::from_str(text))
}

struct PageOf(Kind);

impl<'de> DeserializeSeed<'de> for PageOf {
    type Value = Page;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Page, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for PageOf {
    type Value = Page;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of {}", self.0.name())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Page, A::Error> {
        let mut page = Page::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "metadata" => {
                    let meta: ListMeta = map.next_value()?;
                    page.resource_version = meta.resource_version.unwrap_or_default();
                    page.next = meta.r#continue.unwrap_or_default();
                }
                "items" => page.items = map.next_value_seed(ItemsOf(self.0))?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(page)
    }
}

struct ItemsOf(Kind);

impl<'de> DeserializeSeed<'de> for ItemsOf {
    type Value = Vec<Item>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Item>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ItemsOf {
    type Value = Vec<Item>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "objects of kind {}", self.0.name())
    }

    /// `items: null`, as Go writes a list without any.
    fn visit_unit<E>(self) -> Result<Vec<Item>, E> {
        Ok(Vec::new())
    }

    /// The whole of an object lives only until its few fields are read.
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Item>, A::Error> {
        let mut items = Vec::new();
        while let Some(value) = seq.next_element::<Value>()? {
            items.extend(item(self.0, &value));
        }
        Ok(items)
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
