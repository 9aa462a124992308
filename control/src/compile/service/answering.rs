//! Where this node itself serves clients outside that keep their addresses, by whom it is so. Must not decide where that is.

use super::Owner;
use crate::compile::Single;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Default)]
pub struct Answering {
    /// Those who have any.
    by_owner: BTreeMap<Owner, BTreeSet<Single>>,
    all: Arc<BTreeSet<Single>>,
}

impl Answering {
    /// Several owners may have the same.
    pub fn set(&mut self, owner: &Owner, answering: BTreeSet<Single>) {
        if self.by_owner.get(owner).unwrap_or(&BTreeSet::new()) == &answering {
            return;
        }
        match answering.is_empty() {
            true => self.by_owner.remove(owner),
            false => self.by_owner.insert(owner.clone(), answering),
        };
        self.all = Arc::new(self.by_owner.values().flatten().copied().collect());
    }

    pub fn all(&self) -> Arc<BTreeSet<Single>> {
        self.all.clone()
    }
}
