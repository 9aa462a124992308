//! Policy sets: what the pods here that the same policies select have in common, and its rows. Set 0 is of the pods that
//! no policy selects. Of policies that select nobody here only is known whom they would select.

mod members;

use super::groups::Groups;
use super::plan::Plan;
use super::policy_peers::Peers;
use super::problem::{CompileError, Problems, Subject};
use super::rows::{Installed, Outcome, Rows, Target};
use super::rule_lists::RuleLists;
use super::rules::{DIRECTIONS, Lines, Reach, Source};
use super::spaces::{PodSelectors, Spaces, Within};
use crate::alloc::Ids;
use crate::identity::Identities;
use crate::object::{Kind, NamedPort, ObjectKey, Pod, Selector};
use crate::state::{Changes, HashMap, State};
use bytemuck::Zeroable;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tables::layout::Table;
use tables::limits::{POLICIES_MAX, POLICY_ROWS_MAX, POLICY_SETS_MAX};
use tables::policy::{POLICY_SET_OPEN, PolicyKey, PolicySetRecord};
use tables::publish::Batch;
use tables::scope::Scope;

/// What makes two pods' policies equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct SetKey {
    /// Indexes, sorted.
    policies: Vec<u32>,
    /// Those named ports of the pods that the policies' ingress rules name.
    ports: Vec<NamedPort>,
}

struct PolicySet {
    key: SetKey,
    members: usize,
    plans: [Plan; 2],
    /// By direction: the last change of its policies left its rows as they are.
    stays: [bool; 2],
    installed: Installed,
}

/// A policy that has an index.
struct Known {
    key: ObjectKey,
    within: Within,
    pods: Selector,
    /// That its ingress rules leave to the receiver.
    port_names: BTreeSet<String>,
}

/// Index 0 is no policy.
pub struct Policies {
    ids: Ids,
    index: HashMap<ObjectKey, u32>,
    known: HashMap<u32, Known>,
    subjects: PodSelectors,
    spaces: Spaces,
    peers: Peers,
    /// Of the policies that sets are made of.
    lines: HashMap<u32, Arc<Lines>>,
    /// Policies that found no index.
    unnumbered: BTreeSet<ObjectKey>,
    set_ids: Ids,
    by_key: HashMap<SetKey, u32>,
    sets: BTreeMap<u32, PolicySet>,
    sets_of: HashMap<u32, BTreeSet<u32>>,
    groups: Groups,
    lists: RuleLists,
    rows_used: usize,
    /// Attachment -> its policy set. Those whose policies are not in force are missing.
    members: HashMap<String, u32>,
    dirty_members: BTreeSet<String>,
    dirty_sets: BTreeSet<u32>,
    /// Sets that a pod left or never came to.
    left: BTreeSet<u32>,
    reassigned: BTreeSet<String>,
}

impl Policies {
    pub fn new() -> Policies {
        Policies {
            ids: Ids::new(Table::Policy.name(), 1, POLICIES_MAX),
            index: HashMap::default(),
            known: HashMap::default(),
            subjects: PodSelectors::default(),
            spaces: Spaces::default(),
            peers: Peers::default(),
            lines: HashMap::default(),
            unnumbered: BTreeSet::new(),
            set_ids: Ids::new(Table::PolicySet.name(), POLICY_SET_OPEN + 1, POLICY_SETS_MAX),
            by_key: HashMap::default(),
            sets: BTreeMap::new(),
            sets_of: HashMap::default(),
            groups: Groups::default(),
            lists: RuleLists::new(),
            rows_used: 0,
            members: HashMap::default(),
            dirty_members: BTreeSet::new(),
            dirty_sets: BTreeSet::new(),
            left: BTreeSet::new(),
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
        self.peers.update(state, changes, identities, &mut self.spaces);
        self.take_policies(state, changes, problems);
        self.mark(state, changes);
        self.assign(state, problems);
        self.drop_empty(batch, problems);
        self.write(identities, batch, problems);
        self.lists.sweep();
    }

    fn take_policies(&mut self, state: &State, changes: &Changes, problems: &mut Problems) {
        if changes.policies.is_empty() && self.unnumbered.is_empty() {
            return;
        }
        let (gone, there): (Vec<_>, Vec<_>) = changes.policies.iter().partition(|key| Source::of(state, key).is_none());
        // First those that are gone: they leave indexes.
        for key in gone {
            self.unnumbered.remove(key);
            problems.clear(&Subject::Policy(key.clone()));
            if let Some(index) = self.index.remove(key) {
                self.forget(index);
                self.ids.free(index);
            }
        }
        let pods = local_pods(state);
        let waiting = std::mem::take(&mut self.unnumbered);
        for key in waiting.iter().chain(there).collect::<BTreeSet<_>>() {
            let Some(source) = Source::of(state, key) else { continue };
            match self.number(key, problems) {
                Some(index) => self.put(state, index, key, source, &pods),
                None => self.dirty_members.extend(selected(state, source, &pods)),
            }
        }
    }

    /// New policies get an index. While one has none, the pods that it selects may not speak.
    fn number(&mut self, key: &ObjectKey, problems: &mut Problems) -> Option<u32> {
        let index = self.index.get(key).map_or_else(|| self.ids.alloc(), |&index| Ok(index));
        problems.note(Subject::Policy(key.clone()), index.as_ref().map(|_| ()).map_err(Clone::clone));
        match index {
            Ok(index) => {
                self.index.insert(key.clone(), index);
                Some(index)
            }
            Err(_) => {
                self.unnumbered.insert(key.clone());
                None
            }
        }
    }

    /// The policy of an index is gone, or is another one now.
    fn forget(&mut self, index: u32) {
        let members: Vec<String> = self.members_of_index(index).cloned().collect();
        self.dirty_members.extend(members);
        self.dirty_sets.extend(self.sets_of.get(&index).into_iter().flatten());
        if let Some(known) = self.known.remove(&index) {
            self.subjects.remove(index, &known.within, &known.pods);
            if let Within::Selected(space) = known.within {
                self.spaces.release(space);
            }
        }
        if let Some(lines) = self.lines.remove(&index) {
            lines.release(&mut self.peers, &mut self.spaces);
        }
    }

    /// Takes in a policy as it is now.
    fn put(&mut self, state: &State, index: u32, key: &ObjectKey, source: Source, pods: &LocalPods) {
        let before: BTreeSet<String> = self.members_of_index(index).cloned().collect();
        let now = selected(state, source, pods);
        let within = match source.within {
            Reach::Namespace(name) => Within::Namespace(name.to_owned()),
            Reach::Selected(selector) => Within::Selected(self.spaces.acquire(state, selector, source.denies())),
        };
        let port_names: BTreeSet<String> = source.ingress_port_names().into_iter().map(str::to_owned).collect();
        let known = Known { key: key.clone(), within, pods: source.pods.clone(), port_names };
        let is_in_use = self.sets_of.contains_key(&index);
        // What the old one and the new one have in common is not given up on the way.
        let lines = is_in_use.then(|| Lines::acquire(state, key, index, source, &mut self.peers, &mut self.spaces));
        let waiting = std::mem::take(&mut self.dirty_members);
        let names_differ = self.known.get(&index).is_some_and(|old| old.port_names != known.port_names);
        self.forget(index);
        self.dirty_members = waiting;
        match names_differ {
            true => self.dirty_members.extend(before.union(&now).cloned()),
            false => self.dirty_members.extend(before.symmetric_difference(&now).cloned()),
        }
        self.subjects.insert(index, &known.within, &known.pods);
        self.known.insert(index, known);
        self.lines.extend(lines.map(|lines| (index, Arc::new(lines))));
    }

    fn members_of_index(&self, index: u32) -> impl Iterator<Item = &String> {
        let sets = self.sets_of.get(&index);
        let is_in = move |set: &u32| sets.is_some_and(|sets| sets.contains(set));
        let members = sets.map(|_| &self.members).into_iter().flatten();
        members.filter(move |(_, set)| is_in(set)).map(|(attachment, _)| attachment)
    }

    /// Sets that the last pod left.
    fn drop_empty(&mut self, batch: &mut Batch, problems: &mut Problems) {
        for id in std::mem::take(&mut self.left) {
            if self.sets.get(&id).is_none_or(|set| set.members > 0) {
                continue;
            }
            let Some(set) = self.sets.remove(&id) else { continue };
            for (direction, rows) in DIRECTIONS.into_iter().zip(set.installed.rows) {
                self.rows_used -= rows.len();
                for (identity, list) in rows {
                    batch.remove(Table::Policy, &PolicyKey::new(id, direction, identity));
                    self.lists.release(list);
                }
            }
            // Cannot fail: the index is within the table.
            let _ = batch.set(Table::PolicySet, id as usize, &PolicySetRecord::zeroed());
            batch.touch(Scope::PolicySet(id));
            set.key.policies.iter().for_each(|policy| self.leave(*policy, id));
            self.by_key.remove(&set.key);
            self.dirty_sets.remove(&id);
            self.set_ids.free(id);
            problems.clear(&Subject::PolicySet(id));
        }
    }

    /// A set is made of a policy no more.
    fn leave(&mut self, policy: u32, set: u32) {
        let Some(sets) = self.sets_of.get_mut(&policy) else { return };
        sets.remove(&set);
        if sets.is_empty() {
            self.sets_of.remove(&policy);
            if let Some(lines) = self.lines.remove(&policy) {
                lines.release(&mut self.peers, &mut self.spaces);
            }
        }
    }

    fn write(&mut self, identities: &Identities, batch: &mut Batch, problems: &mut Problems) {
        let dirty = std::mem::take(&mut self.dirty_sets);
        let is_quiet = self.peers.moves().is_empty() && self.peers.own_moves().is_empty();
        for id in &dirty {
            let Some(set) = self.sets.get_mut(id) else { continue };
            let mut policies: Vec<_> = set.key.policies.iter().filter_map(|p| self.lines.get(p)).cloned().collect();
            policies.sort_by(|a, b| a.order().cmp(&b.order()));
            for (direction, old) in DIRECTIONS.into_iter().zip(&mut set.plans) {
                let new = Plan::new(&policies, direction);
                set.stays[direction as usize] = is_quiet && set.installed.is_whole && new.says_the_same(old);
                *old = new;
            }
        }
        let moved = self.moved(&dirty);
        let born: BTreeSet<u32> = identities.born().collect();
        let (peers, groups) = (&self.peers, &mut self.groups);
        let (lists, used) = (&mut self.lists, &mut self.rows_used);
        let mut rows = Rows { identities, born: &born, peers, groups, lists, used, batch };
        let mut outcomes = Vec::new();
        for id in dirty.iter().chain(moved.keys()) {
            let Some(PolicySet { key, plans, stays, installed, .. }) = self.sets.get_mut(id) else { continue };
            let mut target = Target { id: *id, plans, stays: *stays, ports: &key.ports, installed };
            outcomes.push(match moved.get(id) {
                None => (*id, true, rows.write_all(&mut target)),
                Some(identities) => (*id, false, rows.write_some(&mut target, identities)),
            });
        }
        for (id, is_whole, outcome) in outcomes {
            self.settle(id, outcome, is_whole, problems);
        }
    }

    /// Sets of which only some rows may differ, and the identities of these.
    fn moved(&self, dirty: &BTreeSet<u32>) -> BTreeMap<u32, BTreeSet<u32>> {
        let mut by_peer: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for &(identity, peer) in self.peers.moves() {
            by_peer.entry(peer).or_default().push(identity);
        }
        let mut moved: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for (&id, set) in self.sets.iter().filter(|(id, _)| !dirty.contains(id)) {
            let concerned = by_peer.iter().filter(|(peer, _)| set.plans.iter().any(|p| !p.of_peer(**peer).is_empty()));
            let mut identities: BTreeSet<u32> = concerned.flat_map(|(_, identities)| identities).copied().collect();
            identities.extend(self.peers.own_moves());
            if !identities.is_empty() {
                moved.insert(id, identities);
            }
        }
        moved
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

    /// The policy set of an attachment; None while its policies are not in force.
    pub fn set_of(&self, attachment: &str) -> Option<u32> {
        self.members.get(attachment).copied()
    }

    /// Attachments whose set changed in the last update.
    pub fn reassigned(&self) -> &BTreeSet<String> {
        &self.reassigned
    }

    pub fn index_of(&self, policy: &ObjectKey) -> Option<u32> {
        self.index.get(policy).copied()
    }

    pub fn name_of(&self, index: u32) -> Option<&ObjectKey> {
        self.known.get(&index).map(|known| &known.key)
    }

    /// Which policies make up a set.
    pub fn policies_of_set(&self, set: u32) -> Vec<&ObjectKey> {
        let indexes = self.sets.get(&set).map_or(&[][..], |set| &set.key.policies);
        let mut keys: Vec<_> = indexes.iter().filter_map(|index| self.name_of(*index)).collect();
        keys.sort();
        keys
    }

    /// Attachments whose set a policy is part of.
    pub fn members_of(&self, policy: &ObjectKey) -> usize {
        let sets = self.index_of(policy).and_then(|index| self.sets_of.get(&index)).into_iter().flatten();
        sets.filter_map(|set| self.sets.get(set)).map(|set| set.members).sum()
    }

    /// (policies, sets, rows, rules) in use.
    pub fn used(&self) -> [(usize, usize); 4] {
        [
            (self.ids.used(), self.ids.limit()),
            (self.set_ids.used(), self.set_ids.limit()),
            (self.rows_used, POLICY_ROWS_MAX),
            (self.lists.used(), tables::limits::RULE_BLOCKS_MAX),
        ]
    }
}

/// Attachments here and their pods, by namespace.
type LocalPods<'a> = HashMap<&'a str, Vec<(&'a String, &'a Pod)>>;

fn local_pods(state: &State) -> LocalPods<'_> {
    let mut pods = LocalPods::default();
    for (attachment, endpoint) in &state.local().endpoints {
        if let Some(pod) = state.pod(&endpoint.pod) {
            pods.entry(endpoint.pod.namespace.as_str()).or_default().push((attachment, pod));
        }
    }
    pods
}

/// The attachments here that a policy selects.
fn selected(state: &State, source: Source, pods: &LocalPods) -> BTreeSet<String> {
    let namespaces: Vec<&str> = match source.within {
        Reach::Namespace(name) => vec![name],
        Reach::Selected(selector) => {
            pods.keys().copied().filter(|name| state.selects_namespace(selector, name, source.denies())).collect()
        }
    };
    let pods = namespaces.into_iter().filter_map(|name| pods.get(name)).flatten();
    pods.filter(|(_, pod)| source.pods.matches(&pod.labels)).map(|(attachment, _)| (*attachment).clone()).collect()
}

fn selects(state: &State, source: Source, pod: &Pod) -> bool {
    let is_within = match source.within {
        Reach::Namespace(name) => name == pod.id.namespace,
        Reach::Selected(selector) => state.selects_namespace(selector, &pod.id.namespace, source.denies()),
    };
    is_within && source.pods.matches(&pod.labels)
}

/// How people call a policy: a NetworkPolicy by namespace and name, others by kind and name.
pub fn shown(key: &ObjectKey) -> String {
    match key.kind {
        Kind::NetworkPolicy => format!("{}/{}", key.namespace, key.name),
        kind => format!("{} {}", kind.name(), key.name),
    }
}
