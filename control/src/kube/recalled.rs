//! What an earlier process knew, handed to the followers of its kinds: as long as the server has said nothing at all, and
//! never after that.

use crate::object::{Kind, ObjectKey};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Default)]
struct Inside {
    has_heard: bool,
    keys: BTreeMap<Kind, Vec<ObjectKey>>,
}

#[derive(Clone, Default)]
pub struct Recalled(Arc<Mutex<Inside>>);

impl Recalled {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A follower has an answer: what it says of objects is newer than anything recalled.
    pub fn heard(&self) {
        self.inside().has_heard = true;
    }

    pub fn has_heard(&self) -> bool {
        self.inside().has_heard
    }

    /// False, and nothing is done, if the server has spoken.
    pub fn recall(&self, keys: impl Iterator<Item = ObjectKey>) -> bool {
        let mut inside = self.inside();
        if inside.has_heard {
            return false;
        }
        keys.for_each(|key| inside.keys.entry(key.kind).or_default().push(key));
        true
    }

    pub fn take(&self, kind: Kind) -> Vec<ObjectKey> {
        self.inside().keys.remove(&kind).unwrap_or_default()
    }
}
