//! Who plays a part in policies: the policies, pods by what policies can tell of them, and addresses by the blocks around
//! them; and who is among whose peers. Must not judge.

use super::RuleId;
use crate::compile::cover::FLAG_PASS;
use crate::object::{
    Action, ClusterPolicy, Labels, NamedPort, NetworkPolicy, ObjectKey, Peer, PolicyRule, PortMatch, PortRange,
    Selector, Tier,
};
use crate::state::{State, policy_key};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tables::policy::FLAG_ALLOW;
use tables::{Addr, Prefix};

/// The tiers, in the order in which they are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Admin,
    Namespaced,
    Baseline,
}

/// A policy of any kind.
pub struct Item<'a> {
    pub key: ObjectKey,
    pub level: Level,
    priority: u16,
    /// None: its own namespace.
    namespaces: Option<&'a Selector>,
    pods: &'a Selector,
    /// By direction; None: it says nothing in it.
    pub rules: [Option<&'a [PolicyRule]>; 2],
}

impl<'a> Item<'a> {
    fn namespaced(policy: &'a NetworkPolicy) -> Item<'a> {
        Item {
            key: policy_key(&policy.id),
            level: Level::Namespaced,
            priority: 0,
            namespaces: None,
            pods: &policy.pods,
            rules: [0, 1].map(|direction: usize| policy.rules[direction].as_deref()),
        }
    }

    fn cluster(policy: &'a ClusterPolicy) -> Item<'a> {
        Item {
            key: policy.key(),
            level: if policy.tier == Tier::Admin { Level::Admin } else { Level::Baseline },
            priority: policy.priority,
            namespaces: Some(&policy.subject.namespaces),
            pods: &policy.subject.pods,
            rules: [0, 1].map(|direction: usize| Some(policy.rules[direction].as_slice())),
        }
    }

    pub fn flags(&self, rule: &PolicyRule) -> u16 {
        match rule.action {
            Action::Accept => FLAG_ALLOW,
            Action::Deny => 0,
            Action::Pass => FLAG_PASS,
        }
    }

    fn selects(&self, state: &State, party: &Party) -> bool {
        party.pod.is_some_and(|pod| {
            is_within(state, self.namespaces, &self.key, pod.namespace) && self.pods.matches(pod.labels)
        })
    }
}

/// Whether a namespace is among those of a selector; None: it is the policy's own.
fn is_within(state: &State, namespaces: Option<&Selector>, own: &ObjectKey, name: &String) -> bool {
    match namespaces {
        None => *name == own.namespace,
        Some(selector) => selector.matches(&state.namespace_labels(name)),
    }
}

/// What policies can tell of a pod.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodTraits<'a> {
    pub namespace: &'a String,
    pub labels: &'a Labels,
    /// The most specific block around its address.
    block: Option<Prefix>,
}

/// Pods that policies cannot tell apart, a node, or addresses that are neither's.
pub struct Party<'a> {
    pub pod: Option<PodTraits<'a>>,
    node: Option<&'a Labels>,
    /// The most specific block around its addresses.
    block: Option<Prefix>,
    pub ports: &'a [NamedPort],
}

pub struct Cast<'a> {
    /// In the order in which they are asked.
    pub items: Vec<Item<'a>>,
    /// Pods come first.
    pub parties: Vec<Party<'a>>,
    pub pods: usize,
    selecting: Vec<Vec<usize>>,
    peers: HashMap<RuleId, BTreeSet<usize>>,
}

impl<'a> Cast<'a> {
    pub fn of(state: &'a State) -> Cast<'a> {
        let namespaced = state.policies().map(|(_, policy)| Item::namespaced(policy));
        let mut items: Vec<Item> = namespaced.chain(state.cluster_policies().map(Item::cluster)).collect();
        items.sort_by(|a, b| order(a).cmp(&order(b)));
        let blocks = blocks(&items);
        let mut parties = pods(state, &blocks);
        let pods = parties.len();
        parties.extend(others(state, &blocks));
        let mut cast = Cast { items, parties, pods, peers: HashMap::new(), selecting: Vec::new() };
        let selecting =
            |pod: usize| (0..cast.items.len()).filter(|i| cast.items[*i].selects(state, &cast.parties[pod])).collect();
        cast.selecting = (0..pods).map(selecting).collect();
        let rules: Vec<RuleId> = (0..cast.items.len()).flat_map(|item| cast.rules_of(item)).collect();
        cast.peers = rules.into_iter().map(|id| (id, cast.find_peers(state, id))).collect();
        cast
    }

    pub fn rule(&self, (item, direction, number): RuleId) -> &'a PolicyRule {
        &self.items[item].rules[direction].expect("it has rules")[number]
    }

    pub fn rules_of(&self, item: usize) -> impl Iterator<Item = RuleId> + '_ {
        let count = move |direction: usize| self.items[item].rules[direction].map_or(0, <[_]>::len);
        [0, 1].into_iter().flat_map(move |direction| (0..count(direction)).map(move |number| (item, direction, number)))
    }

    /// Rules of these policies in the order in which they are asked. Where a NetworkPolicy isolates, the Baseline tier is not.
    pub fn asked(&self, policies: &[usize], direction: usize) -> Vec<RuleId> {
        let isolates = |item: &Item| item.level == Level::Namespaced && item.rules[direction].is_some();
        let is_isolated = policies.iter().any(|item| isolates(&self.items[*item]));
        let asked = policies.iter().filter(|item| !is_isolated || self.items[**item].level != Level::Baseline);
        asked.flat_map(|item| self.rules_of(*item)).filter(|id| id.1 == direction).collect()
    }

    /// Pods that a policy selects.
    pub fn selected(&self, item: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.pods).filter(move |pod| self.selecting[*pod].contains(&item))
    }

    /// Policies that select a pod, in the order in which they are asked.
    pub fn selecting(&self, pod: usize) -> &[usize] {
        &self.selecting[pod]
    }

    /// Of whom a rule speaks.
    pub fn peers_of(&self, id: RuleId) -> &BTreeSet<usize> {
        static NOBODY: BTreeSet<usize> = BTreeSet::new();
        self.peers.get(&id).unwrap_or(&NOBODY)
    }

    fn find_peers(&self, state: &State, id: RuleId) -> BTreeSet<usize> {
        let rule = self.rule(id);
        let is_peer = |party: &Party| rule.peers.iter().any(|peer| is_peer(state, &self.items[id.0], peer, party));
        let all = self.parties.iter().enumerate();
        all.filter(|(_, party)| rule.peers.is_empty() || is_peer(party)).map(|(number, _)| number).collect()
    }

    /// Named ports of a rule that none of its receivers has.
    pub fn missing_ports(&self, id: RuleId) -> Vec<String> {
        let receivers: Vec<usize> =
            if id.1 == 0 { self.selected(id.0).collect() } else { self.peers_of(id).iter().copied().collect() };
        let has = |name: &String, protocol| {
            let ports = receivers.iter().flat_map(|party| self.parties[*party].ports);
            ports.into_iter().any(|port| port.name == *name && port.protocol == protocol)
        };
        let missing = |port: &PortMatch| match &port.port {
            PortRange::Name(name) if !has(name, port.protocol) => Some(name.clone()),
            _ => None,
        };
        self.rule(id).ports.iter().filter_map(missing).collect()
    }
}

fn is_peer(state: &State, item: &Item, peer: &Peer, party: &Party) -> bool {
    match (peer, party.pod) {
        (Peer::Block { cidr, except }, _) => {
            party.block.is_some_and(|block| cidr.covers(&block) && !except.iter().any(|out| out.covers(&block)))
        }
        (Peer::Pods { namespaces, pods }, Some(pod)) => {
            is_within(state, namespaces.as_ref(), &item.key, pod.namespace) && pods.matches(pod.labels)
        }
        (Peer::Nodes(nodes), _) => party.node.is_some_and(|labels| nodes.matches(labels)),
        (Peer::Pods { .. }, None) | (Peer::Nobody, _) => false,
    }
}

fn order<'i>(item: &'i Item) -> (Level, u16, &'i str, &'i ObjectKey) {
    (item.level, item.priority, &item.key.name, &item.key)
}

/// Nodes, and what is neither a node nor a pod.
fn others<'a>(state: &'a State, blocks: &BTreeSet<Prefix>) -> Vec<Party<'a>> {
    let nodes = state.nodes.values().map(|node| Party {
        pod: None,
        node: Some(&node.labels),
        block: node.addrs.first().and_then(|addr| around(blocks, *addr)),
        ports: &[],
    });
    let of_block = |block| Party { pod: None, node: None, block, ports: &[] };
    nodes.chain(blocks.iter().copied().map(Some).chain([None]).map(of_block)).collect()
}

/// Every prefix that a policy names.
fn blocks(items: &[Item]) -> BTreeSet<Prefix> {
    let rules = items.iter().flat_map(|item| item.rules.into_iter().flatten()).flatten();
    let named = rules.flat_map(|rule| &rule.peers).filter_map(|peer| match peer {
        Peer::Block { cidr, except } => Some(std::iter::once(cidr).chain(except)),
        _ => None,
    });
    named.flatten().copied().collect()
}

fn around(blocks: &BTreeSet<Prefix>, addr: Addr) -> Option<Prefix> {
    blocks.iter().filter(|block| block.contains(addr)).max_by_key(|block| block.mapped_length()).copied()
}

/// Pods that policies can speak of, each kind once.
fn pods<'a>(state: &'a State, blocks: &BTreeSet<Prefix>) -> Vec<Party<'a>> {
    let mut found: BTreeMap<(PodTraits, &[NamedPort]), ()> = BTreeMap::new();
    for (_, pod) in state.pods().filter(|(_, pod)| !pod.host_network && !pod.finished) {
        let atoms: BTreeSet<Option<Prefix>> = pod.addrs.iter().map(|addr| around(blocks, *addr)).collect();
        for block in if atoms.is_empty() { BTreeSet::from([None]) } else { atoms } {
            let traits = PodTraits { namespace: &pod.id.namespace, labels: &pod.labels, block };
            found.insert((traits, &*pod.ports), ());
        }
    }
    let party =
        |(pod, ports): (PodTraits<'a>, &'a [NamedPort])| Party { pod: Some(pod), node: None, block: pod.block, ports };
    found.into_keys().map(party).collect()
}
