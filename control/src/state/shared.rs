//! Values that many objects have in common, each kept once.

use crate::object::{NamedPort, Pod};
use foldhash::fast::RandomState;
use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

/// Fewer are not looked through.
const MANY_MIN: usize = 1_000;

#[derive(Debug)]
pub struct Shared<T: ?Sized> {
    all: HashSet<Arc<T>, RandomState>,
    /// So many are worth a look whether anybody still has them.
    many: usize,
}

impl<T: ?Sized> Default for Shared<T> {
    fn default() -> Shared<T> {
        Shared { all: HashSet::default(), many: MANY_MIN }
    }
}

impl<T: ?Sized + Hash + Eq> Shared<T> {
    /// The one that is equal to `new`, which may be itself.
    pub fn share(&mut self, new: Arc<T>) -> Arc<T> {
        if let Some(known) = self.all.get(&new) {
            return known.clone();
        }
        if self.all.len() >= self.many {
            self.all.retain(|value| Arc::strong_count(value) > 1);
            self.many = MANY_MIN + 2 * self.all.len();
        }
        self.all.insert(new.clone());
        new
    }
}

/// What pods of a cluster have in common.
#[derive(Default)]
pub struct SharedParts {
    /// Labels, and names of nodes.
    texts: Shared<str>,
    ports: Shared<[NamedPort]>,
}

impl SharedParts {
    pub fn enter(&mut self, pod: &mut Pod) {
        pod.labels.share(&mut self.texts);
        pod.ports.share(&mut self.ports);
        pod.node.iter_mut().for_each(|node| node.share(&mut self.texts));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_and_what_nobody_has_goes() {
        let mut shared: Shared<str> = Shared::default();
        let kept = shared.share("a".into());
        assert!(Arc::ptr_eq(&kept, &shared.share("a".into())));
        (0..10 * MANY_MIN).for_each(|i| drop(shared.share(i.to_string().into())));
        assert!(shared.all.len() <= MANY_MIN + 2, "{}", shared.all.len());
        assert!(Arc::ptr_eq(&kept, &shared.share("a".into())));
    }
}
