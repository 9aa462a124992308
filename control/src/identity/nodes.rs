//! Which addresses are nodes', and what policies can see of a node: those of its labels that some policy asks for, so
//! that nodes which no policy tells apart share an identity. Without such a policy nodes are addresses like others.

use super::last_of;
use crate::object::{Labels, ObjectKey, Peer, Selector};
use crate::state::State;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use tables::{Addr, Prefix};

#[derive(Debug, Default)]
pub struct Nodes {
    /// Of this node.
    own: BTreeSet<Addr>,
    by_addr: BTreeMap<Addr, BTreeSet<String>>,
    addrs: HashMap<String, Vec<Addr>>,
    /// Of each node, the labels that are asked for.
    labels: HashMap<String, Arc<Labels>>,
    /// Label keys that policies ask for.
    asked: HashMap<ObjectKey, BTreeSet<String>>,
    keys: BTreeSet<String>,
}

impl Nodes {
    /// The addresses of this node itself; answers which to look at again, as the others do.
    pub fn set_own(&mut self, addrs: BTreeSet<Addr>) -> Vec<Addr> {
        let touched = self.own.symmetric_difference(&addrs).copied().collect();
        self.own = addrs;
        touched
    }

    pub fn set_node(&mut self, state: &State, name: &str) -> Vec<Addr> {
        let mut touched = self.addrs.remove(name).unwrap_or_default();
        for addr in &touched {
            if let Some(names) = self.by_addr.get_mut(addr) {
                names.remove(name);
                if names.is_empty() {
                    self.by_addr.remove(addr);
                }
            }
        }
        self.labels.remove(name);
        let Some(node) = state.node(name) else { return touched };
        let addrs: Vec<Addr> = node.addrs.iter().chain(&node.external_addrs).copied().collect();
        for addr in &addrs {
            self.by_addr.entry(*addr).or_default().insert(name.to_owned());
        }
        self.labels.insert(name.to_owned(), self.asked_for(&node.labels));
        touched.extend(&addrs);
        self.addrs.insert(name.to_owned(), addrs);
        touched
    }

    fn asked_for(&self, labels: &Labels) -> Arc<Labels> {
        Arc::new(labels.iter().filter(|(key, _)| self.keys.contains(*key)).collect())
    }

    /// Takes in what a policy asks of nodes.
    pub fn set_policy<'a>(
        &mut self,
        state: &State,
        policy: &ObjectKey,
        peers: impl Iterator<Item = &'a Peer>,
    ) -> Vec<Addr> {
        let selectors: Vec<&Selector> =
            peers.filter_map(|peer| if let Peer::Nodes(nodes) = peer { Some(nodes) } else { None }).collect();
        let was_asked = !self.asked.is_empty();
        match selectors.is_empty() {
            true => drop(self.asked.remove(policy)),
            false => {
                let keys = selectors.iter().flat_map(|selector| &selector.0).map(|r| r.key.clone()).collect();
                self.asked.insert(policy.clone(), keys);
            }
        }
        let keys: BTreeSet<String> = self.asked.values().flatten().cloned().collect();
        if keys == self.keys && was_asked != self.asked.is_empty() {
            return Vec::new();
        }
        self.keys = keys;
        let names: Vec<String> = self.addrs.keys().cloned().collect();
        for name in names {
            if let Some(node) = state.node(&name) {
                let labels = self.asked_for(&node.labels);
                self.labels.insert(name, labels);
            }
        }
        self.by_addr.keys().copied().collect()
    }

    /// Addresses of nodes that lie in a prefix.
    pub fn within(&self, prefix: &Prefix) -> impl Iterator<Item = Addr> {
        let prefix = *prefix;
        let others = self.by_addr.range(prefix.addr()..=last_of(&prefix)).map(|(&addr, _)| addr);
        self.own.iter().copied().chain(others).filter(move |&addr| prefix.contains(addr))
    }

    /// Some node has it, whether or not policies ask for nodes.
    pub fn has(&self, addr: Addr) -> bool {
        self.by_addr.contains_key(&addr)
    }

    pub fn is_own(&self, addr: Addr) -> bool {
        self.own.contains(&addr)
    }

    /// The labels of the node with this address, if policies ask for nodes. Of several the first by name has it.
    pub fn labels_of(&self, addr: Addr) -> Option<Arc<Labels>> {
        if self.asked.is_empty() {
            return None;
        }
        self.by_addr.get(&addr)?.first().and_then(|name| self.labels.get(name)).cloned()
    }
}
