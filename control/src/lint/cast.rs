//! Who plays a part in policies: the policies, pods by what policies can tell of them, and addresses by the blocks around
//! them; and who is among whose peers. Must not judge.

use super::RuleId;
use crate::object::{Kind, Labels, NamedPort, ObjectKey, Peer, PolicyRule, PortRange, Selector};
use crate::state::State;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tables::policy::FLAG_ALLOW;
use tables::{Addr, Prefix};

/// The tiers, in the order in which they are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Namespaced,
}

/// A policy of any kind.
pub struct Item<'a> {
    pub key: ObjectKey,
    pub level: Level,
    pods: &'a Selector,
    /// By direction; None: it says nothing in it.
    pub rules: [Option<&'a [PolicyRule]>; 2],
}

impl Item<'_> {
    pub fn flags(&self, _: &PolicyRule) -> u16 {
        FLAG_ALLOW
    }

    fn selects(&self, party: &Party) -> bool {
        party.pod.is_some_and(|pod| *pod.namespace == self.key.namespace && self.pods.matches(pod.labels))
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

/// Pods that policies cannot tell apart, or addresses that are no pods'.
pub struct Party<'a> {
    pub pod: Option<PodTraits<'a>>,
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
    peers: HashMap<RuleId, BTreeSet<usize>>,
}

impl<'a> Cast<'a> {
    pub fn of(state: &'a State) -> Cast<'a> {
        let mut items: Vec<Item> = state
            .policies()
            .map(|(id, policy)| Item {
                key: ObjectKey { kind: Kind::NetworkPolicy, namespace: id.namespace.clone(), name: id.name.clone() },
                level: Level::Namespaced,
                pods: &policy.pods,
                rules: [0, 1].map(|direction: usize| policy.rules[direction].as_deref()),
            })
            .collect();
        items.sort_by(|a, b| (a.level, &a.key).cmp(&(b.level, &b.key)));
        let blocks = blocks(&items);
        let mut parties = pods(state, &blocks);
        let pods = parties.len();
        let others = blocks.iter().copied().map(Some).chain([None]);
        parties.extend(others.map(|block| Party { pod: None, block, ports: &[] }));
        let mut cast = Cast { items, parties, pods, peers: HashMap::new() };
        let rules = (0..cast.items.len()).flat_map(|item| cast.rules_of(item).collect::<Vec<_>>()).collect::<Vec<_>>();
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

    /// Rules of these policies in the order in which they are asked.
    pub fn asked(&self, policies: &[usize], direction: usize) -> Vec<RuleId> {
        policies.iter().flat_map(|item| self.rules_of(*item)).filter(|id| id.1 == direction).collect()
    }

    /// Pods that a policy selects.
    pub fn selected(&self, item: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.pods).filter(move |pod| self.items[item].selects(&self.parties[*pod]))
    }

    /// Policies that select a pod.
    pub fn selecting(&self, pod: usize) -> Vec<usize> {
        (0..self.items.len()).filter(|item| self.items[*item].selects(&self.parties[pod])).collect()
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
        let missing = |port: &crate::object::PortMatch| match &port.port {
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
            let in_namespace = match namespaces {
                None => *pod.namespace == item.key.namespace,
                Some(selector) => selector.matches(&state.namespace_labels(pod.namespace)),
            };
            in_namespace && pods.matches(pod.labels)
        }
        (Peer::Pods { .. }, None) => false,
    }
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
            found.insert((traits, pod.ports.as_slice()), ());
        }
    }
    let party = |(pod, ports): (PodTraits<'a>, &'a [NamedPort])| Party { pod: Some(pod), block: pod.block, ports };
    found.into_keys().map(party).collect()
}
