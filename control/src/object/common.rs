//! A value that does not change, in memory that its copies share; [`Shared`] makes one memory of equal ones. Of each pod
//! of the cluster there are some.

use super::Named;
use crate::state::Shared;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Borrow;
use std::ops::Deref;
use std::sync::Arc;

/// Compared, hashed, read and written as the value itself.
#[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Common<T: ?Sized>(Arc<T>);

impl<T: ?Sized> Clone for Common<T> {
    fn clone(&self) -> Common<T> {
        Common(self.0.clone())
    }
}

impl<T: ?Sized + std::hash::Hash + Eq> Common<T> {
    /// One memory for all equal ones.
    pub fn share(&mut self, among: &mut Shared<T>) {
        self.0 = among.share(self.0.clone());
    }
}

impl<T: ?Sized> Deref for Common<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized> Borrow<T> for Common<T> {
    fn borrow(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized> Default for Common<T>
where
    Arc<T>: Default,
{
    fn default() -> Common<T> {
        Common(Arc::default())
    }
}

impl<T: ?Sized, V: Into<Arc<T>>> From<V> for Common<T> {
    fn from(value: V) -> Common<T> {
        Common(value.into())
    }
}

impl<T> FromIterator<T> for Common<[T]> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Common<[T]> {
        Common(items.into_iter().collect())
    }
}

impl<T: ?Sized + Serialize> Serialize for Common<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        T::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Common<str> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Common<str>, D::Error> {
        String::deserialize(deserializer).map(Common::from)
    }
}

impl<'de> Deserialize<'de> for Common<Named> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Common<Named>, D::Error> {
        Named::deserialize(deserializer).map(Common::from)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Common<[T]> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Common<[T]>, D::Error> {
        Vec::deserialize(deserializer).map(Common::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_its_value_to_all_and_equal_ones_become_one() {
        let mut ports: Common<[u16]> = vec![80, 443].into();
        let text = serde_json::to_string(&ports).unwrap();
        assert_eq!(text, "[80,443]");
        let mut read: Common<[u16]> = serde_json::from_str(&text).unwrap();
        assert!(read == ports && !Arc::ptr_eq(&read.0, &ports.0));
        let mut among = Shared::default();
        ports.share(&mut among);
        read.share(&mut among);
        assert!(Arc::ptr_eq(&read.0, &ports.0));
        let pod: Common<Named> = serde_json::from_str(r#"{"namespace":"a","name":"b"}"#).unwrap();
        assert_eq!(*pod, Named::new("a", "b"));
    }
}
