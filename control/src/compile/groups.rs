//! Which rules of a plan speak of which identities: those of which the same ones do are a group, so that what holds for
//! them is worked out once. Filled for one plan after another. Must not know what rules say.

use crate::state::HashMap;
use std::collections::BTreeSet;

/// Of identities that have no row of their own, unless a rule speaks of them.
const NOBODY: u32 = 0;
/// Of this node's own ones of which no rule speaks.
const OWN: u32 = 1;

#[derive(Default)]
pub struct Groups {
    /// Identity -> its group. Beyond the end: [`NOBODY`].
    of: Vec<u32>,
    /// The identities of all groups, each once.
    identities: Vec<u32>,
    /// Group -> the rules that speak of it, sorted.
    speaking: Vec<Vec<u32>>,
}

impl Groups {
    /// By peers: the identities among them, and the rules that speak of them; and this node's own identities, which are in
    /// a group in any case.
    pub fn fill<'a>(
        &mut self,
        peers: impl Iterator<Item = (&'a BTreeSet<u32>, &'a [u32])>,
        own: impl Iterator<Item = u32>,
    ) {
        self.identities.drain(..).for_each(|identity| self.of[identity as usize] = NOBODY);
        self.speaking.clear();
        self.speaking.extend([Vec::new(), Vec::new()]);
        own.for_each(|identity| self.put(identity, OWN));
        let mut after: HashMap<u32, u32> = HashMap::default();
        for (members, rules) in peers {
            after.clear();
            for &identity in members {
                let before = self.of(identity);
                let group = *after.entry(before).or_insert_with(|| joined(&mut self.speaking, before, rules));
                self.put(identity, group);
            }
        }
    }

    fn put(&mut self, identity: u32, group: u32) {
        let at = identity as usize;
        if at >= self.of.len() {
            self.of.resize(at + 1, NOBODY);
        }
        if self.of[at] == NOBODY {
            self.identities.push(identity);
        }
        self.of[at] = group;
    }

    /// The group of an identity.
    pub fn of(&self, identity: u32) -> u32 {
        self.of.get(identity as usize).copied().unwrap_or(NOBODY)
    }

    pub fn has(&self, identity: u32) -> bool {
        self.of(identity) != NOBODY
    }

    pub fn identities(&self) -> &[u32] {
        &self.identities
    }

    /// The rules that speak of a group.
    pub fn speaking(&self, group: u32) -> &[u32] {
        &self.speaking[group as usize]
    }

    /// How many numbers groups have.
    pub fn count(&self) -> usize {
        self.speaking.len()
    }
}

/// The group of those who were of the group `before`, now that these rules speak of them, too.
fn joined(speaking: &mut Vec<Vec<u32>>, before: u32, rules: &[u32]) -> u32 {
    let mut all = [&speaking[before as usize], rules].concat();
    all.sort_unstable();
    all.dedup();
    speaking.push(all);
    speaking.len() as u32 - 1
}
