//! Whom policies speak of: each distinct peer once, with the identities that are among it. A change of an identity or a
//! namespace tells which identities came among which peers or left them, so that rows are looked at for these alone.

use super::prefixes::Prefixes;
use super::spaces::{PodSelectors, Spaces, Within};
use crate::identity::{Class, Identities, last_of};
use crate::object::Selector;
use crate::state::{Changes, HashMap, State};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tables::policy::IDENTITY_NODE;
use tables::{Addr, Prefix};

pub type PeerId = u32;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Whom {
    Pods {
        within: Within,
        pods: Selector,
    },
    Block {
        cidr: Prefix,
        except: Vec<Prefix>,
    },
    Nodes(Selector),
    /// Pods with a port of this name.
    Port(String),
    /// Addresses that may be any pod's.
    Unclaimed,
}

struct Known {
    whom: Arc<Whom>,
    users: usize,
    members: BTreeSet<u32>,
}

#[derive(Default)]
pub struct Peers {
    ids: HashMap<Arc<Whom>, PeerId>,
    known: HashMap<PeerId, Known>,
    next: PeerId,
    pods: PodSelectors,
    blocks: Prefixes<Vec<PeerId>>,
    nodes: BTreeSet<PeerId>,
    ports: HashMap<String, PeerId>,
    unclaimed: Option<PeerId>,
    /// The identities that there are.
    classes: HashMap<u32, Arc<Class>>,
    by_namespace: HashMap<String, BTreeSet<u32>>,
    by_atom: BTreeMap<Addr, BTreeSet<u32>>,
    of_nodes: BTreeSet<u32>,
    of_unclaimed: BTreeSet<u32>,
    /// Those of this node itself.
    own: BTreeSet<u32>,
    /// The peers that an identity is among.
    among: HashMap<u32, Vec<PeerId>>,
    moves: Vec<(u32, PeerId)>,
    own_moves: Vec<u32>,
}

impl Peers {
    /// Takes in what became of identities and namespaces.
    pub fn update(&mut self, state: &State, changes: &Changes, identities: &Identities, spaces: &mut Spaces) {
        self.moves.clear();
        self.own_moves.clear();
        identities.died().iter().for_each(|&id| self.forget(id));
        for name in &changes.namespaces {
            let (left, joined) = spaces.change(state, name);
            left.into_iter().for_each(|space| self.part(name, space));
            joined.into_iter().for_each(|space| self.meet(name, space));
        }
        self.own.insert(IDENTITY_NODE);
        for id in identities.born() {
            if let Some(class) = identities.class(id) {
                self.place(state, id, class.clone(), spaces);
            }
        }
    }

    fn forget(&mut self, id: u32) {
        for peer in self.among.remove(&id).unwrap_or_default() {
            if let Some(known) = self.known.get_mut(&peer) {
                known.members.remove(&id);
                self.moves.push((id, peer));
            }
        }
        if self.own.remove(&id) {
            self.own_moves.push(id);
        }
        self.of_nodes.remove(&id);
        self.of_unclaimed.remove(&id);
        let Some(class) = self.classes.remove(&id) else { return };
        if let Some(traits) = class.traits()
            && let Some(ids) = self.by_namespace.get_mut(&traits.namespace)
        {
            ids.remove(&id);
        }
        if let Some(atom) = class.atom()
            && let Some(ids) = self.by_atom.get_mut(&atom.addr())
        {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_atom.remove(&atom.addr());
            }
        }
    }

    fn place(&mut self, state: &State, id: u32, class: Arc<Class>, spaces: &mut Spaces) {
        let found = self.peers_of_class(state, &class, spaces);
        found.iter().for_each(|&peer| self.join(id, peer));
        if let Some(atom) = class.atom() {
            self.by_atom.entry(atom.addr()).or_default().insert(id);
        }
        match &*class {
            Class::Pod { traits, .. } => {
                self.by_namespace.entry(traits.namespace.clone()).or_default().insert(id);
            }
            Class::Node { .. } => {
                self.of_nodes.insert(id);
            }
            Class::Unclaimed { .. } => {
                self.of_unclaimed.insert(id);
            }
            Class::Block(_) => {}
        }
        if class.is_own_node() {
            self.own.insert(id);
            self.own_moves.push(id);
        }
        self.classes.insert(id, class);
    }

    /// The peers that a class is among.
    fn peers_of_class(&self, state: &State, class: &Class, spaces: &mut Spaces) -> Vec<PeerId> {
        let mut found = Vec::new();
        if let Some(traits) = class.traits() {
            let spaces = spaces.of(state, &traits.namespace);
            let candidates = self.pods.candidates(&traits.namespace, spaces, &traits.labels);
            found.extend(candidates.filter(|peer| self.selects(*peer, class)));
            let mut names: Vec<&str> = traits.ports.iter().map(|port| port.name.as_str()).collect();
            names.dedup();
            found.extend(names.into_iter().filter_map(|name| self.ports.get(name)));
        }
        let mut around = class.atom();
        while let Some(prefix) = around {
            let here = self.blocks.get(&prefix).into_iter().flatten();
            found.extend(here.filter(|peer| self.selects(**peer, class)));
            around = self.blocks.covering(&prefix).map(|(prefix, _)| prefix);
        }
        found.extend(self.nodes.iter().chain(&self.unclaimed).filter(|peer| self.selects(**peer, class)));
        found
    }

    /// Whether a class is among a peer, given that its namespace is.
    fn selects(&self, peer: PeerId, class: &Class) -> bool {
        self.known.get(&peer).is_some_and(|known| selects(&known.whom, class))
    }

    fn join(&mut self, id: u32, peer: PeerId) {
        if let Some(known) = self.known.get_mut(&peer)
            && known.members.insert(id)
        {
            self.among.entry(id).or_default().push(peer);
            self.moves.push((id, peer));
        }
    }

    /// A selector of namespaces selects this one no more.
    fn part(&mut self, namespace: &str, space: u32) {
        for id in self.by_namespace.get(namespace).cloned().unwrap_or_default() {
            let Some(among) = self.among.get_mut(&id) else { continue };
            let is_of_space = |peer: &PeerId| {
                let whom = self.known.get(peer).map(|known| &*known.whom);
                matches!(whom, Some(Whom::Pods { within: Within::Selected(other), .. }) if *other == space)
            };
            let left: Vec<PeerId> = among.extract_if(.., |peer| is_of_space(peer)).collect();
            for peer in left {
                self.known.get_mut(&peer).expect("just found").members.remove(&id);
                self.moves.push((id, peer));
            }
        }
    }

    /// A selector of namespaces selects this one now.
    fn meet(&mut self, namespace: &str, space: u32) {
        for id in self.by_namespace.get(namespace).cloned().unwrap_or_default() {
            let Some(class) = self.classes.get(&id).cloned() else { continue };
            let Some(traits) = class.traits() else { continue };
            let found: Vec<PeerId> = self.pods.in_space(space, &traits.labels).collect();
            found
                .into_iter()
                .filter(|peer| self.selects(*peer, &class))
                .collect::<Vec<_>>()
                .into_iter()
                .for_each(|peer| self.join(id, peer));
        }
    }

    /// A peer for one more user. It takes over its user's hold on a selector of namespaces.
    pub fn acquire(&mut self, whom: Whom, spaces: &mut Spaces) -> PeerId {
        if let Some(&id) = self.ids.get(&whom) {
            self.known.get_mut(&id).expect("has an id").users += 1;
            if let Whom::Pods { within: Within::Selected(space), .. } = &whom {
                spaces.release(*space);
            }
            return id;
        }
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        let whom = Arc::new(whom);
        let members = self.members_now(&whom, spaces);
        for &member in &members {
            self.among.entry(member).or_default().push(id);
        }
        match &*whom {
            Whom::Pods { within, pods } => self.pods.insert(id, within, pods),
            Whom::Block { cidr, .. } => {
                let mut here = self.blocks.remove(cidr).unwrap_or_default();
                here.push(id);
                self.blocks.insert(*cidr, here);
            }
            Whom::Nodes(_) => drop(self.nodes.insert(id)),
            Whom::Port(name) => drop(self.ports.insert(name.clone(), id)),
            Whom::Unclaimed => self.unclaimed = Some(id),
        }
        self.ids.insert(whom.clone(), id);
        self.known.insert(id, Known { whom, users: 1, members });
        id
    }

    fn members_now(&self, whom: &Whom, spaces: &Spaces) -> BTreeSet<u32> {
        let all = |ids: &BTreeSet<u32>| -> Vec<u32> {
            ids.iter().copied().filter(|id| self.classes.get(id).is_some_and(|class| selects(whom, class))).collect()
        };
        let in_namespace = |name: &String| self.by_namespace.get(name).map_or_else(Vec::new, all);
        match whom {
            Whom::Pods { within: Within::Namespace(name), .. } => in_namespace(name).into_iter().collect(),
            Whom::Pods { within: Within::Selected(space), .. } => spaces.names(*space).flat_map(in_namespace).collect(),
            Whom::Block { cidr, .. } => {
                let around = self.by_atom.range(cidr.addr()..=last_of(cidr));
                around.flat_map(|(_, ids)| all(ids)).collect()
            }
            Whom::Nodes(_) => all(&self.of_nodes).into_iter().collect(),
            Whom::Unclaimed => self.of_unclaimed.clone(),
            Whom::Port(_) => {
                let with_port = self.classes.iter().filter(|(_, class)| selects(whom, class));
                with_port.map(|(&id, _)| id).collect()
            }
        }
    }

    pub fn release(&mut self, id: PeerId, spaces: &mut Spaces) {
        let Some(known) = self.known.get_mut(&id) else { return };
        known.users -= 1;
        if known.users > 0 {
            return;
        }
        let Some(known) = self.known.remove(&id) else { return };
        for member in &known.members {
            if let Some(among) = self.among.get_mut(member) {
                among.retain(|other| *other != id);
            }
        }
        match &*known.whom {
            Whom::Pods { within, pods } => self.pods.remove(id, within, pods),
            Whom::Block { cidr, .. } => {
                let mut here = self.blocks.remove(cidr).unwrap_or_default();
                here.retain(|other| *other != id);
                if !here.is_empty() {
                    self.blocks.insert(*cidr, here);
                }
            }
            Whom::Nodes(_) => drop(self.nodes.remove(&id)),
            Whom::Port(name) => drop(self.ports.remove(name)),
            Whom::Unclaimed => self.unclaimed = None,
        }
        if let Whom::Pods { within: Within::Selected(space), .. } = &*known.whom {
            spaces.release(*space);
        }
        self.ids.remove(&known.whom);
    }

    /// Which identities came among or left which peers in the last update.
    pub fn moves(&self) -> &[(u32, PeerId)] {
        &self.moves
    }

    /// Identities of this node itself that came or went in the last update.
    pub fn own_moves(&self) -> &[u32] {
        &self.own_moves
    }

    /// The identities among a peer.
    pub fn members(&self, peer: PeerId) -> Option<&BTreeSet<u32>> {
        self.known.get(&peer).map(|known| &known.members)
    }

    pub fn among(&self, identity: u32) -> &[PeerId] {
        self.among.get(&identity).map_or(&[], |peers| peers)
    }

    pub fn own(&self) -> &BTreeSet<u32> {
        &self.own
    }
}

/// Whether a class is among a peer, given that its namespace is.
fn selects(whom: &Whom, class: &Class) -> bool {
    match whom {
        Whom::Pods { pods, .. } => class.traits().is_some_and(|traits| pods.matches(&traits.labels)),
        Whom::Block { cidr, except } => {
            class.atom().is_some_and(|atom| cidr.covers(&atom) && !except.iter().any(|e| e.covers(&atom)))
        }
        Whom::Nodes(nodes) => match class {
            Class::Node { labels: Some(labels), .. } => nodes.matches(labels),
            _ => false,
        },
        Whom::Unclaimed => matches!(class, Class::Unclaimed { .. }),
        Whom::Port(name) => class.traits().is_some_and(|traits| traits.ports.iter().any(|port| port.name == *name)),
    }
}
