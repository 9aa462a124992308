//! Which attachment is of which policy set: that of the policies that select its pod. Must not write rows.

use super::{Policies, PolicySet, SetKey, selects};
use crate::compile::plan::Plan;
use crate::compile::problem::{Problems, Subject};
use crate::compile::rows::Installed;
use crate::compile::rules::{DIRECTIONS, Lines, Source};
use crate::compile::spaces::Within;
use crate::object::{NamedPort, ObjectKey, Pod};
use crate::state::{Changes, State};
use std::collections::BTreeMap;
use std::sync::Arc;
use tables::layout::Table;
use tables::limits::POLICIES_MAX;
use tables::publish::TableFull;

/// An attachment and what is in common with those of its set; none: there is no such pod.
type Wanted = (String, Result<Option<SetKey>, TableFull>);

impl Policies {
    pub(super) fn mark(&mut self, state: &State, changes: &Changes) {
        self.dirty_members.extend(changes.attachments.iter().cloned());
        for pod in &changes.pods {
            self.dirty_members.extend(state.attachments_of(pod).cloned());
        }
        // NetworkPolicies do not ask for the labels of their own namespace.
        let asks = self.known.values().any(|known| matches!(known.within, Within::Selected(_)));
        if asks && !changes.namespaces.is_empty() {
            let endpoints = state.local().endpoints.iter();
            let concerned = endpoints.filter(|(_, endpoint)| changes.namespaces.contains(&endpoint.pod.namespace));
            self.dirty_members.extend(concerned.map(|(key, _)| key.clone()));
        }
    }

    pub(super) fn assign(&mut self, state: &State, problems: &mut Problems) {
        let wanted: Vec<Wanted> = std::mem::take(&mut self.dirty_members)
            .into_iter()
            .map(|attachment| {
                let pod = state.local().endpoints.get(&attachment).and_then(|endpoint| state.pod(&endpoint.pod));
                let key = pod.map(|pod| self.key_for(state, pod)).transpose();
                (attachment, key)
            })
            .collect();
        self.rename(state, &wanted);
        for (attachment, key) in wanted {
            let set = key.and_then(|key| key.map(|key| self.set_for(state, key)).transpose());
            if !problems.note(Subject::Attachment(attachment.clone()), set.as_ref().map(|_| ()).map_err(Clone::clone)) {
                self.dirty_members.insert(attachment.clone());
            }
            self.join(attachment, set.ok().flatten());
        }
    }

    /// Sets whose members all come to be of one other set of policies become that: of their rows only those change that
    /// differ, where else all would be written anew.
    fn rename(&mut self, state: &State, wanted: &[Wanted]) {
        let mut leaving: BTreeMap<u32, Vec<Option<&SetKey>>> = BTreeMap::new();
        for (attachment, key) in wanted {
            if let Some(&set) = self.members.get(attachment) {
                leaving.entry(set).or_default().push(key.as_ref().ok().and_then(Option::as_ref));
            }
        }
        for (id, keys) in leaving {
            let Some(Some(key)) = keys.first().copied() else { continue };
            let all = self.sets.get(&id).is_some_and(|set| set.members == keys.len());
            if all && keys.iter().all(|other| *other == Some(key)) && !key.policies.is_empty() {
                self.become_set(state, id, key);
            }
        }
    }

    fn become_set(&mut self, state: &State, id: u32, key: &SetKey) {
        if self.by_key.contains_key(key) {
            return;
        }
        let Some(set) = self.sets.get_mut(&id) else { return };
        let old = std::mem::replace(&mut set.key, key.clone());
        set.installed.is_whole &= old.ports == key.ports;
        self.by_key.remove(&old);
        self.by_key.insert(key.clone(), id);
        self.dirty_sets.insert(id);
        // What the old ones and the new ones have in common is not given up on the way.
        key.policies.iter().for_each(|policy| self.enter(state, *policy, id));
        old.policies.iter().filter(|policy| !key.policies.contains(policy)).for_each(|policy| self.leave(*policy, id));
    }

    /// A set is made of a policy from now on.
    fn enter(&mut self, state: &State, policy: u32, set: u32) {
        self.sets_of.entry(policy).or_default().insert(set);
        if !self.lines.contains_key(&policy)
            && let Some(known) = self.known.get(&policy)
            && let Some(source) = Source::of(state, &known.key)
        {
            let lines = Lines::acquire(state, &known.key, policy, source, &mut self.peers, &mut self.spaces);
            self.lines.insert(policy, Arc::new(lines));
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
            self.left.extend(before);
        }
        match set {
            Some(id) => self.members.insert(attachment.clone(), id),
            None => self.members.remove(&attachment),
        };
        self.reassigned.insert(attachment);
    }

    /// The set of these policies, made if there is none.
    fn set_for(&mut self, state: &State, key: SetKey) -> Result<u32, TableFull> {
        if key.policies.is_empty() {
            return Ok(0);
        }
        if let Some(&id) = self.by_key.get(&key) {
            return Ok(id);
        }
        let id = self.set_ids.alloc()?;
        key.policies.iter().for_each(|policy| self.enter(state, *policy, id));
        self.by_key.insert(key.clone(), id);
        let plans = DIRECTIONS.map(|direction| Plan::new(&[], direction));
        self.sets.insert(id, PolicySet { key, members: 0, plans, stays: [false; 2], installed: Installed::new() });
        self.dirty_sets.insert(id);
        self.left.insert(id);
        Ok(id)
    }

    fn key_for(&mut self, state: &State, pod: &Pod) -> Result<SetKey, TableFull> {
        let selects = |key: &ObjectKey| Source::of(state, key).is_some_and(|source| selects(state, source, pod));
        if self.unnumbered.iter().any(selects) {
            return Err(TableFull { table: Table::Policy.name(), limit: POLICIES_MAX });
        }
        let spaces = self.spaces.of(state, &pod.id.namespace);
        let candidates = self.subjects.candidates(&pod.id.namespace, spaces, &pod.labels);
        let selecting = |index: &u32| self.known.get(index).is_some_and(|known| known.pods.matches(&pod.labels));
        let mut policies: Vec<u32> = candidates.filter(selecting).collect();
        policies.sort_unstable();
        let named = |port: &&NamedPort| {
            let known = policies.iter().filter_map(|index| self.known.get(index));
            known.into_iter().any(|known| known.port_names.contains(&port.name))
        };
        let mut ports: Vec<NamedPort> = pod.ports.iter().filter(named).cloned().collect();
        ports.sort();
        Ok(SetKey { policies, ports })
    }
}
