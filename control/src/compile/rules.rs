//! What policies say, in the form that rows are made of: whom each rule speaks of as peers that are known once for all
//! policies, and which ports as places. Pure.

use super::cover::FLAG_PASS;
use super::policy_peers::{PeerId, Peers, Whom};
use super::spaces::{Spaces, Within};
use crate::object::{Action, Kind, NamedPort, ObjectKey, Peer, PolicyRule, PortRange, Selector, Tier};
use crate::state::State;
use std::collections::BTreeSet;
use tables::Protocol;
use tables::policy::{Direction, FLAG_ALLOW, FLAG_NAMESPACED, RuleRecord, place};

pub const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// A policy of any kind, as it was written.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub within: Reach<'a>,
    pub pods: &'a Selector,
    pub level: Level,
    pub priority: u16,
    /// None: it says nothing in this direction.
    pub rules: [Option<&'a [PolicyRule]>; 2],
    /// It is only being tried.
    pub audit: bool,
}

/// The namespaces whose pods a policy may select.
#[derive(Clone, Copy)]
pub enum Reach<'a> {
    Namespace(&'a str),
    Selected(&'a Selector),
}

/// In the order in which policies are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Admin,
    Namespaced,
    Baseline,
}

impl<'a> Source<'a> {
    pub fn of(state: &'a State, key: &'a ObjectKey) -> Option<Source<'a>> {
        if key.kind == Kind::NetworkPolicy {
            let policy = state.policies.in_namespace(&key.namespace)?.get(&key.name)?;
            let rules = [0, 1].map(|direction: usize| policy.rules[direction].as_deref());
            let within = Reach::Namespace(&key.namespace);
            let audit = policy.audit || state.is_audit_namespace(&key.namespace);
            return Some(Source { within, pods: &policy.pods, level: Level::Namespaced, priority: 0, rules, audit });
        }
        let policy = state.cluster_policies.get(key)?;
        let speaks = |rules: &'a Vec<PolicyRule>| (!rules.is_empty()).then_some(rules.as_slice());
        Some(Source {
            within: Reach::Selected(&policy.subject.namespaces),
            pods: &policy.subject.pods,
            level: if policy.tier == Tier::Admin { Level::Admin } else { Level::Baseline },
            priority: policy.priority,
            rules: [speaks(&policy.rules[0]), speaks(&policy.rules[1])],
            audit: policy.audit,
        })
    }

    /// Some rule denies: then it is in force for pods of whose namespace only the name is known.
    pub fn denies(&self) -> bool {
        self.rules.into_iter().flatten().flatten().any(|rule| rule.action == Action::Deny)
    }

    /// Names of the ports that its ingress rules leave to the receiving pod.
    pub fn ingress_port_names(&self) -> BTreeSet<&'a str> {
        let rules = self.rules[Direction::Ingress as usize].into_iter().flatten();
        let ports = rules.flat_map(|rule| &rule.ports);
        ports
            .filter_map(|port| match &port.port {
                PortRange::Name(name) => Some(name.as_str()),
                PortRange::Numbers(..) => None,
            })
            .collect()
    }
}

/// Named ports of a receiver.
#[derive(Clone, Copy)]
pub enum Ports<'a> {
    Known(&'a [NamedPort]),
    /// It may be any pod: to rules that deny each of its ports may have any name, to others none has one.
    Any,
}

/// A rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    flags: u16,
    /// None: it speaks of everybody.
    pub peers: Option<Vec<PeerId>>,
    /// Of a rule for everybody: peers for whom it says more, by their own ports' names.
    pub named: Vec<PeerId>,
    places: Vec<(u32, u32)>,
    /// Ports that the receiver names.
    names: Vec<(String, Protocol)>,
}

impl Line {
    /// What it says of a receiver with these named ports.
    pub fn records<'a>(&'a self, ports: Ports<'a>) -> impl Iterator<Item = RuleRecord> + 'a {
        let named = self.names.iter().filter_map(move |(name, protocol)| match ports {
            Ports::Known(ports) => {
                let found = ports.iter().find(|port| port.name == *name && port.protocol == *protocol)?;
                Some((place(*protocol, found.port), place(*protocol, found.port)))
            }
            Ports::Any => self.denies().then(|| (place(*protocol, 0), place(*protocol, u16::MAX))),
        });
        let zeroed: RuleRecord = bytemuck::Zeroable::zeroed();
        let record = move |(first, last)| RuleRecord { first, last, flags: self.flags, ..zeroed };
        self.places.iter().copied().chain(named).map(record)
    }

    fn denies(&self) -> bool {
        self.flags & (FLAG_ALLOW | FLAG_PASS) == 0
    }

    pub fn allows(&self) -> bool {
        self.flags & FLAG_ALLOW != 0
    }

    pub fn has_names(&self) -> bool {
        !self.names.is_empty()
    }
}

/// A policy whose peers are acquired.
#[derive(Debug)]
pub struct Lines {
    /// The policy's index.
    pub index: u32,
    pub level: Level,
    pub priority: u16,
    pub key: ObjectKey,
    /// It is only being tried.
    pub audit: bool,
    /// By direction. None: it says nothing in it.
    pub sides: [Option<Vec<Line>>; 2],
}

impl Lines {
    pub fn acquire(
        state: &State,
        key: &ObjectKey,
        index: u32,
        source: Source,
        peers: &mut Peers,
        spaces: &mut Spaces,
    ) -> Lines {
        let sides = DIRECTIONS.map(|direction| {
            let mut acquire = |rule| line(state, key, source.level, direction, rule, (&mut *peers, &mut *spaces));
            source.rules[direction as usize].map(|rules| rules.iter().map(&mut acquire).collect())
        });
        Lines { index, level: source.level, priority: source.priority, key: key.clone(), audit: source.audit, sides }
    }

    pub fn release(&self, peers: &mut Peers, spaces: &mut Spaces) {
        for line in self.sides.iter().flatten().flatten() {
            line.peers.iter().flatten().chain(&line.named).for_each(|&peer| peers.release(peer, spaces));
        }
    }

    /// Policies are asked in this order: of equal priority the first by name.
    pub fn order(&self) -> (Level, u16, &str, &ObjectKey) {
        (self.level, self.priority, &self.key.name, &self.key)
    }
}

fn line(
    state: &State,
    key: &ObjectKey,
    level: Level,
    direction: Direction,
    rule: &PolicyRule,
    (peers, spaces): (&mut Peers, &mut Spaces),
) -> Line {
    let mut line = Line {
        flags: flags(level, rule.action),
        peers: None,
        named: Vec::new(),
        places: Vec::new(),
        names: Vec::new(),
    };
    if rule.ports.is_empty() {
        line.places.push((0, tables::policy::PLACE_LAST));
    }
    for port in &rule.ports {
        match &port.port {
            PortRange::Numbers(first, last) => {
                line.places.push((place(port.protocol, *first), place(port.protocol, *last)));
            }
            PortRange::Name(name) => line.names.push((name.clone(), port.protocol)),
        }
    }
    if !rule.peers.is_empty() {
        let whom = rule.peers.iter().filter_map(|peer| whom(state, key, (rule.action, peer), spaces));
        let whom: Vec<Whom> = whom.chain(rule.denies_pods().then_some(Whom::Unclaimed)).collect();
        line.peers = Some(whom.into_iter().map(|whom| peers.acquire(whom, spaces)).collect());
    } else if direction == Direction::Egress {
        let names: BTreeSet<&String> = line.names.iter().map(|(name, _)| name).collect();
        let unclaimed = rule.denies_unclaimed().then_some(Whom::Unclaimed);
        let named = names.into_iter().map(|name| Whom::Port(name.clone())).chain(unclaimed);
        line.named = named.map(|whom| peers.acquire(whom, spaces)).collect();
    }
    line
}

fn flags(level: Level, action: Action) -> u16 {
    let of_level = if level == Level::Namespaced { FLAG_NAMESPACED } else { 0 };
    of_level
        | match action {
            Action::Accept => FLAG_ALLOW,
            Action::Deny => 0,
            Action::Pass => FLAG_PASS,
        }
}

/// None for nobody.
fn whom(state: &State, key: &ObjectKey, (action, peer): (Action, &Peer), spaces: &mut Spaces) -> Option<Whom> {
    Some(match peer {
        Peer::Block { cidr, except } => Whom::Block { cidr: *cidr, except: except.clone() },
        Peer::Nodes(nodes) => Whom::Nodes(nodes.clone()),
        Peer::Nobody => return None,
        Peer::Pods { namespaces, pods } => {
            let within = match namespaces {
                None => Within::Namespace(key.namespace.clone()),
                Some(namespaces) => Within::Selected(spaces.acquire(state, namespaces, action == Action::Deny)),
            };
            Whom::Pods { within, pods: pods.clone() }
        }
    })
}
