//! What one policy says to one peer, as port rules. Pure.

use crate::identity::Class;
use crate::object::{NamedPort, NetworkPolicy, Peer, PolicyRule, PortMatch, PortRange};
use crate::state::State;
use bytemuck::Zeroable;
use std::collections::BTreeSet;
use tables::Protocol;
use tables::limits::RULES_PER_ROW_MAX;
use tables::policy::{Direction, RuleRecord};

pub const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// One policy in one direction, seen from the pods of one policy set.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    pub policy: &'a NetworkPolicy,
    /// The policy's index.
    pub index: u32,
    pub direction: Direction,
    /// Named ports of the set's own pods.
    pub ports: &'a [NamedPort],
}

impl Side<'_> {
    fn rules(&self) -> &[PolicyRule] {
        self.policy.rules[self.direction as usize].as_deref().unwrap_or_default()
    }

    /// Rules for every peer. Named egress ports are left out: they depend on the peer.
    pub fn for_all(&self, rules: &mut Vec<RuleRecord>) {
        for rule in self.rules().iter().filter(|rule| rule.peers.is_empty()) {
            self.push(rule, None, rules);
        }
    }

    /// Rules that hold for the peers of a class and not for every peer.
    pub fn for_class(&self, state: &State, class: &Class, rules: &mut Vec<RuleRecord>) {
        for rule in self.rules() {
            if rule.peers.is_empty() {
                if self.direction == Direction::Egress {
                    self.push_named(rule, class, rules);
                }
            } else if rule.peers.iter().any(|peer| self.is_peer(state, peer, class)) {
                self.push(rule, Some(class), rules);
            }
        }
    }

    fn is_peer(&self, state: &State, peer: &Peer, class: &Class) -> bool {
        match (peer, class.traits()) {
            (Peer::Block { cidr, except }, _) => {
                class.atom().is_some_and(|atom| cidr.covers(&atom) && !except.iter().any(|e| e.covers(&atom)))
            }
            (Peer::Pods { .. }, None) => false,
            (Peer::Pods { namespaces, pods }, Some(traits)) => {
                let in_namespace = match namespaces {
                    None => traits.namespace == self.policy.id.namespace,
                    Some(selector) => selector.matches(&state.namespace_labels(&traits.namespace)),
                };
                in_namespace && pods.matches(&traits.labels)
            }
        }
    }

    fn push(&self, rule: &PolicyRule, class: Option<&Class>, rules: &mut Vec<RuleRecord>) {
        if rule.ports.is_empty() {
            rules.push(self.record(Protocol(0), 0, u16::MAX));
        }
        rules.extend(rule.ports.iter().filter_map(|port| self.numbered(port, class)));
    }

    /// Only the named ports of a rule.
    fn push_named(&self, rule: &PolicyRule, class: &Class, rules: &mut Vec<RuleRecord>) {
        let named = rule.ports.iter().filter(|port| matches!(port.port, PortRange::Name(_)));
        rules.extend(named.filter_map(|port| self.numbered(port, Some(class))));
    }

    fn numbered(&self, port: &PortMatch, class: Option<&Class>) -> Option<RuleRecord> {
        let (first, last) = match &port.port {
            PortRange::Numbers(first, last) => (*first, *last),
            PortRange::Name(name) => {
                let receiver = match self.direction {
                    Direction::Ingress => self.ports,
                    Direction::Egress => &class?.traits()?.ports,
                };
                let found = receiver.iter().find(|p| p.name == *name && p.protocol == port.protocol)?;
                (found.port, found.port)
            }
        };
        Some(self.record(port.protocol, first, last))
    }

    fn record(&self, protocol: Protocol, port_first: u16, port_last: u16) -> RuleRecord {
        RuleRecord { protocol, port_first, port_last, policy: self.index, ..RuleRecord::zeroed() }
    }
}

/// Every protocol and port, by no policy in particular.
pub fn allow_all() -> RuleRecord {
    RuleRecord { port_last: u16::MAX, ..RuleRecord::zeroed() }
}

/// The shortest equal list, sorted; of equal rules the first stays, so that the outcome depends on the order of the
/// policies' names and not on their indexes. False if it had to be cut.
pub fn normalise(rules: &mut Vec<RuleRecord>) -> bool {
    rules.sort_by_key(|rule| (rule.protocol, rule.port_first, rule.port_last));
    if rules.first().is_some_and(|rule| rule.protocol == Protocol(0)) {
        rules.truncate(1);
    }
    rules.dedup_by_key(|rule| (rule.protocol, rule.port_first, rule.port_last));
    let fits = rules.len() <= RULES_PER_ROW_MAX;
    rules.truncate(RULES_PER_ROW_MAX);
    fits
}

/// Names of the ports that a policy's ingress rules leave to the receiving pod.
pub fn ingress_port_names(policy: &NetworkPolicy) -> BTreeSet<&str> {
    let rules = policy.rules[Direction::Ingress as usize].iter().flatten();
    let ports = rules.flat_map(|rule| &rule.ports);
    ports
        .filter_map(|port| match &port.port {
            PortRange::Name(name) => Some(name.as_str()),
            PortRange::Numbers(..) => None,
        })
        .collect()
}
