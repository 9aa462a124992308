//! Policy sets: what the pods here that the same policies select have in common, and its rows. Set 0 is of the pods that
//! no policy selects.

use super::cover::Cover;
use super::problem::{CompileError, Problems, Subject};
use super::rule_lists::{RuleLists, Rules};
use super::rules::{self, DIRECTIONS, Side};
use crate::alloc::Ids;
use crate::identity::{Class, Identities};
use crate::object::{Named, NamedPort, Pod};
use crate::state::{Changes, State};
use bytemuck::Zeroable;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tables::layout::Table;
use tables::limits::{POLICIES_MAX, POLICY_ROWS_MAX, POLICY_SETS_MAX};
use tables::policy::{
    Direction, IDENTITY_ANY, IDENTITY_NODE, MODE_ISOLATED, MODE_OPEN, PolicyKey, PolicySetRecord, RuleRecord,
};
use tables::publish::{Batch, TableFull};
use tables::scope::Scope;

/// What makes two pods' policies equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct SetKey {
    /// Sorted by name.
    policies: Vec<Named>,
    /// Those named ports of the pods that the policies' ingress rules name.
    ports: Vec<NamedPort>,
}

struct PolicySet {
    key: SetKey,
    members: usize,
    record: PolicySetRecord,
    rows: HashMap<(Direction, u32), Rules>,
}

/// Index 0 is no policy.
pub struct Policies {
    ids: Ids,
    index: HashMap<Named, u32>,
    /// Policies that found no index.
    unnumbered: BTreeSet<Named>,
    set_ids: Ids,
    by_key: HashMap<SetKey, u32>,
    sets: BTreeMap<u32, PolicySet>,
    lists: RuleLists,
    rows_used: usize,
    /// Attachment -> its policy set. Those whose policies are not in force are missing.
    members: HashMap<String, u32>,
    dirty_members: BTreeSet<String>,
    dirty_sets: BTreeSet<u32>,
    reassigned: BTreeSet<String>,
}

impl Policies {
    pub fn new() -> Policies {
        Policies {
            ids: Ids::new(Table::Policy.name(), 1, POLICIES_MAX),
            index: HashMap::new(),
            unnumbered: BTreeSet::new(),
            set_ids: Ids::new(Table::PolicySet.name(), 1, POLICY_SETS_MAX),
            by_key: HashMap::new(),
            sets: BTreeMap::new(),
            lists: RuleLists::new(),
            rows_used: 0,
            members: HashMap::new(),
            dirty_members: BTreeSet::new(),
            dirty_sets: BTreeSet::new(),
            reassigned: BTreeSet::new(),
        }
    }

    pub fn update(
        &mut self,
        state: &State,
        changes: &Changes,
        identities: &Identities,
        batch: &mut Batch,
        problems: &mut Problems,
    ) {
        self.reassigned.clear();
        self.forget_gone(state, changes);
        self.number(state, changes, problems);
        self.mark(state, changes);
        self.assign(state, problems);
        self.drop_empty(batch, problems);
        self.compile(state, changes, identities, batch, problems);
    }

    /// New policies get an index. While one has none, the pods that it selects may not speak.
    fn number(&mut self, state: &State, changes: &Changes, problems: &mut Problems) {
        let candidates = std::mem::take(&mut self.unnumbered).into_iter().chain(changes.policies.iter().cloned());
        for id in candidates.collect::<BTreeSet<Named>>() {
            let subject = Subject::NetworkPolicy(id.clone());
            if state.policies.get(&id).is_none() || self.index.contains_key(&id) {
                problems.clear(&subject);
                continue;
            }
            let index = self.ids.alloc();
            if !problems.note(subject, index.as_ref().map(|_| ()).map_err(Clone::clone)) {
                self.unnumbered.insert(id);
            } else if let Ok(index) = index {
                self.index.insert(id, index);
            }
        }
    }

    fn mark(&mut self, state: &State, changes: &Changes) {
        let changed = |set: &PolicySet| set.key.policies.iter().any(|policy| changes.policies.contains(policy));
        self.dirty_sets.extend(self.sets.iter().filter(|(_, set)| changed(set)).map(|(&id, _)| id));
        self.dirty_members.extend(changes.attachments.iter().cloned());
        for pod in &changes.pods {
            self.dirty_members.extend(state.attachments_of(pod).cloned());
        }
        let namespaces: BTreeSet<&str> = changes.policies.iter().map(|id| id.namespace.as_str()).collect();
        if !namespaces.is_empty() {
            let endpoints = state.local().endpoints.iter();
            let concerned = endpoints.filter(|(_, endpoint)| namespaces.contains(endpoint.pod.namespace.as_str()));
            self.dirty_members.extend(concerned.map(|(key, _)| key.clone()));
        }
    }

    fn assign(&mut self, state: &State, problems: &mut Problems) {
        for attachment in std::mem::take(&mut self.dirty_members) {
            let pod = state.local().endpoints.get(&attachment).and_then(|endpoint| state.pod(&endpoint.pod));
            let set = pod.map(|pod| self.set_for(state, pod)).transpose();
            if !problems.note(Subject::Attachment(attachment.clone()), set.as_ref().map(|_| ()).map_err(Clone::clone)) {
                self.dirty_members.insert(attachment.clone());
            }
            self.join(attachment, set.ok().flatten());
        }
    }

    fn join(&mut self, attachment: String, set: Option<u32>) {
        let before = self.members.get(&attachment).copied();
        if before == set {
            return;
        }
        if let Some(joined) = set.and_then(|id| self.sets.get_mut(&id)) {
            joined.members += 1;
        }
        if let Some(left) = before.and_then(|id| self.sets.get_mut(&id)) {
            left.members -= 1;
        }
        match set {
            Some(id) => self.members.insert(attachment.clone(), id),
            None => self.members.remove(&attachment),
        };
        self.reassigned.insert(attachment);
    }

    /// The set of a pod's policies, made if there is none.
    fn set_for(&mut self, state: &State, pod: &Pod) -> Result<u32, TableFull> {
        let key = self.key_for(state, pod)?;
        if key.policies.is_empty() {
            return Ok(0);
        }
        if let Some(&id) = self.by_key.get(&key) {
            return Ok(id);
        }
        let id = self.set_ids.alloc()?;
        self.by_key.insert(key.clone(), id);
        let set = PolicySet { key, members: 0, record: PolicySetRecord::zeroed(), rows: HashMap::new() };
        self.sets.insert(id, set);
        self.dirty_sets.insert(id);
        Ok(id)
    }

    fn key_for(&self, state: &State, pod: &Pod) -> Result<SetKey, TableFull> {
        let mut key = SetKey { policies: Vec::new(), ports: Vec::new() };
        let mut names = BTreeSet::new();
        for policy in state.policies.in_namespace(&pod.id.namespace).into_iter().flat_map(|all| all.values()) {
            if !policy.pods.matches(&pod.labels) {
                continue;
            }
            if !self.index.contains_key(&policy.id) {
                return Err(TableFull { table: Table::Policy.name(), limit: POLICIES_MAX });
            }
            names.extend(rules::ingress_port_names(policy));
            key.policies.push(policy.id.clone());
        }
        key.policies.sort();
        key.ports = pod.ports.iter().filter(|port| names.contains(port.name.as_str())).cloned().collect();
        key.ports.sort();
        Ok(key)
    }

    /// Sets that the last pod left.
    fn drop_empty(&mut self, batch: &mut Batch, problems: &mut Problems) {
        let empty: Vec<u32> = self.sets.iter().filter(|(_, set)| set.members == 0).map(|(&id, _)| id).collect();
        for id in empty {
            let Some(set) = self.sets.remove(&id) else { continue };
            for ((direction, identity), rules) in &set.rows {
                batch.remove(Table::Policy, &PolicyKey::new(id, *direction, *identity));
                self.lists.release(rules);
            }
            self.rows_used -= set.rows.len();
            // Cannot fail: the index is within the table.
            let _ = batch.set(Table::PolicySet, id as usize, &PolicySetRecord::zeroed());
            batch.touch(Scope::PolicySet(id));
            self.by_key.remove(&set.key);
            self.dirty_sets.remove(&id);
            self.set_ids.free(id);
            problems.clear(&Subject::PolicySet(id));
        }
    }

    fn compile(
        &mut self,
        state: &State,
        changes: &Changes,
        identities: &Identities,
        batch: &mut Batch,
        problems: &mut Problems,
    ) {
        let relabelled = |class: &Class| class.traits().is_some_and(|t| changes.namespaces.contains(&t.namespace));
        let mut peers: BTreeSet<u32> = identities.born().collect();
        if !changes.namespaces.is_empty() {
            peers.extend(identities.iter().filter(|(_, class)| relabelled(class)).map(|(id, _)| id));
        }
        let dirty = std::mem::take(&mut self.dirty_sets);
        let ids: Vec<u32> = self.sets.keys().copied().collect();
        for id in ids {
            let mut rows = Rows { state, identities, lists: &mut self.lists, rows_used: &mut self.rows_used, batch };
            let Some(set) = self.sets.get_mut(&id) else { continue };
            let outcome = if dirty.contains(&id) {
                rows.compile_all(id, set, &self.index)
            } else {
                rows.compile_some(id, set, &self.index, &peers)
            };
            self.settle(id, outcome, dirty.contains(&id), problems);
        }
    }

    fn settle(&mut self, id: u32, outcome: Outcome, was_whole: bool, problems: &mut Problems) {
        let subject = Subject::PolicySet(id);
        if let Err(full) = outcome.full {
            self.dirty_sets.insert(id);
            problems.note(subject, Err(full));
        } else if outcome.cut {
            problems.set(subject.clone(), CompileError::TooManyRules { subject });
        } else if was_whole {
            problems.clear(&subject);
        }
    }

    /// Sets that still name these policies lose their last pod in this very update.
    fn forget_gone(&mut self, state: &State, changes: &Changes) {
        for id in changes.policies.iter().filter(|id| state.policies.get(id).is_none()) {
            if let Some(index) = self.index.remove(id) {
                self.ids.free(index);
            }
        }
    }

    /// The policy set of an attachment; None while its policies are not in force.
    pub fn set_of(&self, attachment: &str) -> Option<u32> {
        self.members.get(attachment).copied()
    }

    /// Attachments whose set changed in the last update.
    pub fn reassigned(&self) -> &BTreeSet<String> {
        &self.reassigned
    }

    pub fn index_of(&self, policy: &Named) -> Option<u32> {
        self.index.get(policy).copied()
    }

    pub fn name_of(&self, index: u32) -> Option<&Named> {
        self.index.iter().find(|(_, i)| **i == index).map(|(id, _)| id)
    }

    /// Which policies make up a set.
    pub fn policies_of_set(&self, set: u32) -> &[Named] {
        self.sets.get(&set).map_or(&[], |set| &set.key.policies)
    }

    /// Attachments whose set a policy is part of.
    pub fn members_of(&self, policy: &Named) -> usize {
        self.sets.values().filter(|set| set.key.policies.contains(policy)).map(|set| set.members).sum()
    }

    /// (policies, sets, rows, rules) in use.
    pub fn used(&self) -> [(usize, usize); 4] {
        [
            (self.ids.used(), self.ids.limit()),
            (self.set_ids.used(), self.set_ids.limit()),
            (self.rows_used, POLICY_ROWS_MAX),
            (self.lists.used(), tables::limits::RULES_MAX),
        ]
    }
}

struct Outcome {
    full: Result<(), TableFull>,
    /// A row had more rules than fit.
    cut: bool,
}

/// Writes the rows of one set after another.
struct Rows<'a, 'b> {
    state: &'a State,
    identities: &'a Identities,
    lists: &'a mut RuleLists,
    rows_used: &'a mut usize,
    batch: &'a mut Batch<'b>,
}

type Index = HashMap<Named, u32>;

impl Rows<'_, '_> {
    fn compile_all(&mut self, id: u32, set: &mut PolicySet, index: &Index) -> Outcome {
        let mut wanted: HashMap<(Direction, u32), Cover> = HashMap::new();
        let mut record = PolicySetRecord::zeroed();
        for (isolated, side) in sides(self.state, &set.key, index) {
            let direction = side.direction as usize;
            if isolated && record.modes[direction] == MODE_OPEN {
                record.modes[direction] = MODE_ISOLATED;
                record.deny_policy[direction] = side.index;
            }
        }
        for direction in DIRECTIONS.into_iter().filter(|d| record.modes[*d as usize] != MODE_OPEN) {
            for (identity, class) in self.identities.iter() {
                wanted.insert((direction, identity), self.cover(&set.key, index, direction, Some(class)));
            }
            let mut node = Cover::default();
            node.lay(rules::allow_all());
            wanted.insert((direction, IDENTITY_NODE), node);
            wanted.insert((direction, IDENTITY_ANY), self.cover(&set.key, index, direction, None));
        }
        let gone: Vec<_> = set.rows.keys().filter(|key| !wanted.contains_key(*key)).copied().collect();
        let mut all: Vec<_> = gone.into_iter().map(|key| (key, Cover::default())).chain(wanted).collect();
        // First what the others are compared with.
        all.sort_by_key(|((_, identity), _)| *identity != IDENTITY_ANY);
        let outcome = self.put_all(id, set, all, |_| true);
        if record != set.record {
            // Cannot fail: the index is within the table.
            let _ = self.batch.set(Table::PolicySet, id as usize, &record);
            self.batch.touch(Scope::PolicySet(id));
            set.record = record;
        }
        outcome
    }

    /// Only the rows of some identities, and of those that are gone.
    fn compile_some(&mut self, id: u32, set: &mut PolicySet, index: &Index, peers: &BTreeSet<u32>) -> Outcome {
        let mut wanted = Vec::new();
        for &identity in peers {
            let Some(class) = self.identities.class(identity) else { continue };
            wanted.extend(DIRECTIONS.map(|d| ((d, identity), self.cover(&set.key, index, d, Some(class)))));
        }
        let gone = self.identities.died().iter();
        wanted.extend(gone.flat_map(|&identity| DIRECTIONS.map(|d| ((d, identity), Cover::default()))));
        // No flow depends on an identity that was not there before, or is no more.
        let born: BTreeSet<u32> = self.identities.born().collect();
        let identities = self.identities;
        self.put_all(id, set, wanted, |identity| !born.contains(&identity) && identities.class(identity).is_some())
    }

    fn cover(&self, key: &SetKey, index: &Index, direction: Direction, class: Option<&Class>) -> Cover {
        let mut cover = Cover::default();
        let sides = sides(self.state, key, index).filter(|(_, side)| side.direction == direction);
        sides.for_each(|(_, side)| side.lay(self.state, class, &mut cover));
        cover
    }

    fn put_all(
        &mut self,
        id: u32,
        set: &mut PolicySet,
        rows: Vec<((Direction, u32), Cover)>,
        matters: impl Fn(u32) -> bool,
    ) -> Outcome {
        let mut outcome = Outcome { full: Ok(()), cut: false };
        for (key, cover) in rows {
            let (mut rules, fits) = cover.into_rules();
            outcome.cut |= !fits;
            if key.1 != IDENTITY_ANY && set.rows.get(&(key.0, IDENTITY_ANY)).is_some_and(|any| **any == *rules) {
                rules.clear();
            }
            match self.put(id, set, key, rules) {
                Ok(true) if matters(key.1) => self.batch.touch(Scope::PolicySet(id)),
                Ok(_) => {}
                Err(full) => outcome.full = Err(full),
            }
        }
        outcome
    }

    /// True if the row changed. No rules: no row.
    fn put(
        &mut self,
        id: u32,
        set: &mut PolicySet,
        (direction, identity): (Direction, u32),
        rules: Vec<RuleRecord>,
    ) -> Result<bool, TableFull> {
        let installed = set.rows.get(&(direction, identity));
        if installed.map_or(&[][..], |rules| rules) == rules {
            return Ok(false);
        }
        let key = PolicyKey::new(id, direction, identity);
        let before = if rules.is_empty() {
            self.batch.remove(Table::Policy, &key);
            set.rows.remove(&(direction, identity))
        } else {
            let rules: Rules = rules.into();
            let row = self.lists.acquire(&rules, self.batch)?;
            self.batch.insert(Table::Policy, &key, &row).inspect_err(|_| self.lists.release(&rules))?;
            set.rows.insert((direction, identity), rules)
        };
        *self.rows_used =
            *self.rows_used + set.rows.contains_key(&(direction, identity)) as usize - before.is_some() as usize;
        if let Some(before) = before {
            self.lists.release(&before);
        }
        Ok(true)
    }
}

/// Each policy of a set in each direction, and whether it isolates in it.
fn sides<'a>(state: &'a State, key: &'a SetKey, index: &'a Index) -> impl Iterator<Item = (bool, Side<'a>)> {
    let policies = key.policies.iter().filter_map(|id| Some((state.policies.get(id)?, *index.get(id)?)));
    policies.flat_map(|(policy, index)| {
        DIRECTIONS.map(|direction| {
            let isolated = policy.rules[direction as usize].is_some();
            (isolated, Side { policy, index, direction, ports: &key.ports })
        })
    })
}
