//! Any value -> an upstream type, noting the path of what is wrong and of fields that the type does not have.
//!
//! One concrete deserializer, because the upstream types are large: each further (generic) one that they meet costs
//! minutes of build time. Where a path stands in the text is looked up afterwards, only for what is wrong.

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::fmt;

/// The API takes plain numbers for these strings.
const QUANTITY: &str = "Quantity";

#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    pub field: String,
    pub message: String,
}

/// The value as a `T`, and the fields that `T` does not have.
pub fn read<'de, T: de::Deserialize<'de>>(value: &'de Value) -> (Result<T, Wrong>, Vec<String>) {
    let notes = RefCell::new(Notes::default());
    let outcome = T::deserialize(Reader { value, path: &Path::Root, notes: &notes, as_text: false });
    let Notes { failed, unknown } = notes.into_inner();
    let wrong = |Message(message)| Wrong { field: failed.unwrap_or_default(), message };
    (outcome.map_err(wrong), unknown)
}

#[derive(Default)]
struct Notes {
    /// The innermost field that could not be read.
    failed: Option<String>,
    unknown: Vec<String>,
}

enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Key(Path::Root, key) => f.write_str(key),
            Path::Key(parent, key) => write!(f, "{parent}.{key}"),
            Path::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

#[derive(Debug)]
struct Message(String);

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Message {}

impl de::Error for Message {
    fn custom<T: fmt::Display>(message: T) -> Message {
        Message(message.to_string())
    }
}

#[derive(Clone, Copy)]
struct Reader<'de, 'a> {
    value: &'de Value,
    path: &'a Path<'a>,
    notes: &'a RefCell<Notes>,
    as_text: bool,
}

impl<'de> Reader<'de, '_> {
    fn any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Message> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::String(value) => visitor.visit_borrowed_str(value),
            Value::Array(items) => visitor.visit_seq(Items { items: items.iter(), next: 0, reader: self }),
            Value::Object(map) => visitor.visit_map(Entries { entries: map.iter(), current: None, reader: self }),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(value), _) => visitor.visit_u64(value),
                (_, Some(value)) => visitor.visit_i64(value),
                _ => visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN)),
            },
        }
    }

    /// Reads a part of this value; the first, innermost failure is the one to tell of.
    fn part<S: DeserializeSeed<'de>>(self, seed: S, value: &'de Value, path: &Path) -> Result<S::Value, Message> {
        let reader = Reader { value, path, notes: self.notes, as_text: false };
        seed.deserialize(reader).inspect_err(|_| {
            self.notes.borrow_mut().failed.get_or_insert_with(|| path.to_string());
        })
    }
}

impl<'de> Deserializer<'de> for Reader<'de, '_> {
    type Error = Message;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Message> {
        self.any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Message> {
        if self.value.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Message> {
        visitor.visit_newtype_struct(Reader { as_text: name == QUANTITY, ..self })
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Message> {
        match self.value {
            Value::Number(number) if self.as_text => visitor.visit_string(number.to_string()),
            _ => self.any(visitor),
        }
    }

    /// Asked for where a field is not known.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Message> {
        self.notes.borrow_mut().unknown.push(self.path.to_string());
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct enum identifier
    }
}

struct Items<'de, 'a> {
    items: std::slice::Iter<'de, Value>,
    next: usize,
    reader: Reader<'de, 'a>,
}

impl<'de> SeqAccess<'de> for Items<'de, '_> {
    type Error = Message;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Message> {
        let Some(value) = self.items.next() else { return Ok(None) };
        let path = Path::Index(self.reader.path, self.next);
        self.next += 1;
        self.reader.part(seed, value, &path).map(Some)
    }
}

struct Entries<'de, 'a> {
    entries: <&'de Map<String, Value> as IntoIterator>::IntoIter,
    current: Option<(&'de String, &'de Value)>,
    reader: Reader<'de, 'a>,
}

impl<'de> MapAccess<'de> for Entries<'de, '_> {
    type Error = Message;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Message> {
        self.current = self.entries.next();
        let Some((key, _)) = self.current else { return Ok(None) };
        let key: StrDeserializer<Message> = key.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Message> {
        let Some((key, value)) = self.current else { return Err(de::Error::custom("a value without a key")) };
        self.reader.part(seed, value, &Path::Key(self.reader.path, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{Container, Service};
    use serde_json::json;

    #[test]
    fn the_innermost_wrong_field_is_named() {
        let value = json!({"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 80}, {"port": "x"}]}});
        let wrong = read::<Service>(&value).0.unwrap_err();
        assert_eq!(wrong.field, "spec.ports[1].port");
        assert!(wrong.message.contains("invalid type: string \"x\""), "{}", wrong.message);
    }

    #[test]
    fn unknown_fields_are_noted_and_numbers_are_quantities() {
        let value = json!({"name": "a", "prots": [], "resources": {"limits": {"cpu": 1.5}}});
        let (container, unknown) = read::<Container>(&value);
        assert_eq!(container.unwrap().resources.unwrap().limits.unwrap()["cpu"].0, "1.5");
        assert_eq!(unknown, ["prots"]);
    }
}
