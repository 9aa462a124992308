//! Identities: what a policy can tell apart. Addresses fall into classes: a pod by its namespace, labels, named ports and
//! the most specific ipBlock prefix (*atom*) around its address; a node by labels and atom; any other address by its atom
//! alone. An atom lies
//! either wholly inside or wholly outside of every block, so a class is as good as its members wherever a policy looks.
//! Addresses of pod ranges that no pod claims are a class of their own while rules deny by what pods' objects say.
//! Namespace labels are not part of a class: they are looked up when a policy is evaluated.

mod claims;
mod counted;
mod nodes;
mod ranges;
#[cfg(test)]
mod tests;

use crate::alloc::Ids;
use crate::compile::prefixes::Prefixes;
use crate::compile::problem::{Problems, Subject};
use crate::object::{Labels, Named, NamedPort, ObjectKey, Peer};
use crate::state::State;
use claims::Claims;
use counted::Counted;
pub use counted::last_of;
use nodes::Nodes;
use ranges::{Ranges, reserved_of};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use tables::layout::Table;
use tables::limits::IDENTITIES_MAX;
use tables::lpm::Lpm;
use tables::policy::{IDENTITY_FIRST, IDENTITY_NODE, IDENTITY_WORLD};
use tables::publish::{Batch, TableFull};
use tables::scope::Scope;
use tables::{Addr, Prefix};

/// What a policy can see of a pod.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Traits {
    pub namespace: String,
    pub labels: Labels,
    pub ports: Vec<NamedPort>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub enum Class {
    Pod {
        traits: Arc<Traits>,
        atom: Option<Prefix>,
    },
    /// This node, or one of those that policies ask for, with the labels that they ask for. Addresses of this node that
    /// no Node object has have none.
    Node {
        is_own: bool,
        labels: Option<Arc<Labels>>,
        atom: Option<Prefix>,
    },
    /// Of the pod ranges, without a pod that is known: may be any pod to rules that deny, and is none to others.
    Unclaimed {
        atom: Option<Prefix>,
    },
    Block(Prefix),
}

/// The class of [`IDENTITY_NODE`].
const NODE: Class = Class::Node { is_own: true, labels: None, atom: None };

impl Class {
    pub fn traits(&self) -> Option<&Traits> {
        match self {
            Class::Pod { traits, .. } => Some(traits),
            Class::Node { .. } | Class::Unclaimed { .. } | Class::Block(_) => None,
        }
    }

    pub fn is_own_node(&self) -> bool {
        matches!(self, Class::Node { is_own: true, .. })
    }

    /// The most specific ipBlock prefix around the class's addresses.
    pub fn atom(&self) -> Option<Prefix> {
        match self {
            Class::Pod { atom, .. } | Class::Node { atom, .. } | Class::Unclaimed { atom } => *atom,
            Class::Block(prefix) => Some(*prefix),
        }
    }
}

impl std::fmt::Display for Class {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Class::Block(prefix) => write!(f, "block {prefix}"),
            Class::Unclaimed { atom } => {
                f.write_str("unclaimed pod addresses")?;
                atom.map_or(Ok(()), |atom| write!(f, " in {atom}"))
            }
            Class::Pod { traits, atom } => {
                write!(f, "pods {}[{}]", traits.namespace, listed(&traits.labels))?;
                atom.map_or(Ok(()), |atom| write!(f, " in {atom}"))
            }
            Class::Node { is_own, labels, atom } => {
                f.write_str(if *is_own { "node" } else { "nodes" })?;
                labels.as_ref().map_or(Ok(()), |labels| write!(f, " [{}]", listed(labels)))?;
                atom.map_or(Ok(()), |atom| write!(f, " in {atom}"))
            }
        }
    }
}

fn listed(labels: &Labels) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

struct Known {
    class: Arc<Class>,
    /// Installed prefixes that have it.
    prefixes: usize,
}

pub struct Identities {
    ids: Ids,
    by_class: HashMap<Arc<Class>, u32>,
    known: BTreeMap<u32, Known>,
    claims: Claims,
    /// Prefixes named by ipBlocks.
    atoms: Counted,
    blocks: HashMap<ObjectKey, Vec<Prefix>>,
    nodes: Nodes,
    ranges: Ranges,
    of_node: Arc<Class>,
    installed: Prefixes<u32>,
    dirty: BTreeSet<Prefix>,
    born: BTreeSet<u32>,
    died: BTreeSet<u32>,
    moved: BTreeSet<Addr>,
}

impl Identities {
    pub fn new() -> Identities {
        Identities {
            ids: Ids::new(Table::IdentityPrefix.name(), IDENTITY_FIRST, IDENTITIES_MAX),
            by_class: HashMap::new(),
            known: BTreeMap::new(),
            claims: Claims::default(),
            atoms: Counted::default(),
            blocks: HashMap::new(),
            nodes: Nodes::default(),
            ranges: Ranges::default(),
            of_node: Arc::new(NODE),
            installed: Prefixes::default(),
            dirty: BTreeSet::new(),
            born: BTreeSet::new(),
            died: BTreeSet::new(),
            moved: BTreeSet::new(),
        }
    }

    /// Takes in what is known of a pod now. Pods in the host's network have no identity of their own.
    pub fn set_pod(&mut self, state: &State, id: &Named) {
        let touched = self.claims.set(state, id);
        self.dirty.extend(touched.into_iter().map(Prefix::host));
    }

    /// Takes in the blocks and nodes that a policy names, if there is one of this key.
    pub fn set_policy(&mut self, state: &State, key: &ObjectKey) {
        let peers: Vec<&Peer> = state.policy_rules(key).flat_map(|rule| &rule.peers).collect();
        let touched = self.nodes.set_policy(state, key, peers.iter().copied());
        self.dirty.extend(touched.into_iter().map(Prefix::host));
        let ranges = self.ranges.set_policy(key, state.policy_rules(key));
        ranges.into_iter().for_each(|range| self.look_into(range));
        let new = blocks(&peers);
        for prefix in &new {
            if self.atoms.add(*prefix) {
                self.look_around(*prefix);
            }
        }
        for prefix in self.blocks.remove(key).unwrap_or_default() {
            if self.atoms.remove(prefix) {
                self.look_around(prefix);
            }
        }
        if !new.is_empty() {
            self.blocks.insert(key.clone(), new);
        }
    }

    /// An atom came or went.
    fn look_around(&mut self, atom: Prefix) {
        self.dirty.insert(atom);
        self.dirty.extend(self.claims.within(&atom).map(Prefix::host));
        self.dirty.extend(self.nodes.within(&atom).map(Prefix::host));
        self.dirty.extend(self.ranges.within(&atom));
    }

    /// A pod range came or went, or matters now, or does no more.
    fn look_into(&mut self, range: Prefix) {
        self.dirty.insert(range);
        self.dirty.extend(reserved_of(range));
        self.dirty.extend(self.ranges.within(&range));
        self.dirty.extend(self.atoms.within(&range));
        self.dirty.extend(self.nodes.within(&range).map(Prefix::host));
    }

    /// The addresses of this node itself.
    pub fn set_own(&mut self, addrs: impl Iterator<Item = Addr>) {
        let touched = self.nodes.set_own(addrs.collect());
        self.dirty.extend(touched.into_iter().map(Prefix::host));
    }

    /// Takes in what is known of a node now.
    pub fn set_node(&mut self, state: &State, name: &str) {
        let touched = self.nodes.set_node(state, name);
        self.dirty.extend(touched.into_iter().map(Prefix::host));
        let ranges = self.ranges.set_node(state, name);
        ranges.into_iter().for_each(|range| self.look_into(range));
    }

    /// Writes what differs from what is installed.
    pub fn settle(&mut self, batch: &mut Batch, problems: &mut Problems) {
        let mut again = BTreeSet::new();
        for prefix in std::mem::take(&mut self.dirty) {
            let outcome = self.settle_prefix(prefix, batch);
            if !problems.note(Subject::Identity(prefix), outcome) {
                again.insert(prefix);
            }
        }
        self.dirty = again;
        self.bury();
    }

    fn settle_prefix(&mut self, prefix: Prefix, batch: &mut Batch) -> Result<(), TableFull> {
        let new = self.wanted(prefix)?;
        let old = self.installed.get(&prefix).copied();
        if new == old {
            return Ok(());
        }
        match new {
            Some(id) => {
                let written = batch.insert_prefix(Lpm::Identity, &prefix, id as u64);
                written.inspect_err(|_| self.note_unused(id))?;
                self.count(id, 1);
                self.installed.insert(prefix, id);
            }
            None => {
                batch.remove_prefix(Lpm::Identity, &prefix)?;
                self.installed.remove(&prefix);
            }
        }
        if let Some(old) = old {
            self.count(old, -1);
        }
        let covering = self.installed.covering(&prefix).map_or(IDENTITY_WORLD, |(_, &id)| id);
        batch.touch(Scope::Identity(old.unwrap_or(covering)));
        batch.touch(Scope::Identity(new.unwrap_or(covering)));
        if prefix.mapped_length() == 128 {
            self.moved.insert(prefix.addr());
        }
        Ok(())
    }

    /// The identity of those addresses of a prefix that no longer one holds; None: that of the prefix around it.
    fn wanted(&mut self, prefix: Prefix) -> Result<Option<u32>, TableFull> {
        let addr = (prefix.mapped_length() == 128).then(|| prefix.addr());
        let atom = self.atoms.around(&prefix);
        if let Some(class) = addr.and_then(|addr| self.class_of(addr, atom)) {
            return self.identity(class).map(Some);
        }
        let may_be_a_pod = self.ranges.holds(&prefix);
        let is_a_node = addr.is_some_and(|addr| self.nodes.has(addr));
        let stands_out = is_a_node && may_be_a_pod;
        if !stands_out && !self.atoms.contains(&prefix) && !self.ranges.parts(&prefix) {
            return Ok(None);
        }
        match atom {
            atom if may_be_a_pod && !is_a_node => self.identity(Class::Unclaimed { atom }).map(Some),
            Some(atom) => self.identity(Class::Block(atom)).map(Some),
            None => Ok(Some(IDENTITY_WORLD)),
        }
    }

    /// Of an address that is known by itself.
    fn class_of(&self, addr: Addr, atom: Option<Prefix>) -> Option<Class> {
        if self.nodes.is_own(addr) {
            return Some(Class::Node { is_own: true, labels: self.nodes.labels_of(addr), atom });
        }
        if let Some(traits) = self.claims.winner(addr) {
            return Some(Class::Pod { traits, atom });
        }
        let labels = self.nodes.labels_of(addr)?;
        Some(Class::Node { is_own: false, labels: Some(labels), atom })
    }

    fn identity(&mut self, class: Class) -> Result<u32, TableFull> {
        if class == NODE {
            return Ok(IDENTITY_NODE);
        }
        if let Some(&id) = self.by_class.get(&class) {
            return Ok(id);
        }
        let id = self.ids.alloc()?;
        let class = Arc::new(class);
        self.by_class.insert(class.clone(), id);
        self.known.insert(id, Known { class, prefixes: 0 });
        self.born.insert(id);
        Ok(id)
    }

    fn count(&mut self, id: u32, by: isize) {
        if let Some(known) = self.known.get_mut(&id) {
            known.prefixes = known.prefixes.saturating_add_signed(by);
            if known.prefixes == 0 {
                self.died.insert(id);
            } else {
                self.died.remove(&id);
            }
        }
    }

    fn note_unused(&mut self, id: u32) {
        self.count(id, 0);
    }

    /// Identities that nobody has any more. Their numbers are given back later, when their rows are gone.
    fn bury(&mut self) {
        for id in &self.died {
            if let Some(known) = self.known.remove(id) {
                self.by_class.remove(&known.class);
            }
        }
    }

    /// Everybody has seen [`Self::born`], [`Self::died`] and [`Self::moved`].
    pub fn forget_changes(&mut self) {
        self.born.clear();
        self.moved.clear();
        for id in std::mem::take(&mut self.died) {
            self.ids.free(id);
        }
    }

    /// Identities that are new.
    pub fn born(&self) -> impl Iterator<Item = u32> {
        self.born.iter().copied().filter(|id| self.known.contains_key(id))
    }

    /// Identities that are gone.
    pub fn died(&self) -> &BTreeSet<u32> {
        &self.died
    }

    /// Addresses whose identity changed.
    pub fn moved(&self) -> &BTreeSet<Addr> {
        &self.moved
    }

    /// The identity of an address, as a worker finds it.
    pub fn of(&self, addr: Addr) -> u32 {
        self.installed.matching(addr).map_or(IDENTITY_WORLD, |(_, &id)| id)
    }

    pub fn class(&self, id: u32) -> Option<&Arc<Class>> {
        if id == IDENTITY_NODE { Some(&self.of_node) } else { self.known.get(&id).map(|known| &known.class) }
    }

    /// Installed prefixes.
    pub fn used(&self) -> usize {
        self.installed.len()
    }
}

impl Default for Identities {
    fn default() -> Identities {
        Identities::new()
    }
}

/// Every prefix that a policy names.
fn blocks(peers: &[&Peer]) -> Vec<Prefix> {
    let named = peers.iter().flat_map(|peer| match peer {
        Peer::Block { cidr, except } => std::iter::once(cidr).chain(except).copied().collect(),
        Peer::Pods { .. } | Peer::Nodes(_) | Peer::Nobody => Vec::new(),
    });
    named.collect()
}
