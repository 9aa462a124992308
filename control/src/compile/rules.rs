//! What one policy says to one peer, as port rules. Pure.

use super::cover::Cover;
use crate::identity::Class;
use crate::object::{NamedPort, NetworkPolicy, Peer, PolicyRule, PortMatch, PortRange};
use crate::state::State;
use std::collections::BTreeSet;
use tables::policy::{Direction, FLAG_ALLOW, FLAG_NAMESPACED, RULE_NONE, RuleRecord};

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

    /// What holds for a class, from the first rule on; for those without one if there is none.
    pub fn lay(&self, state: &State, class: Option<&Class>, cover: &mut Cover) {
        for (number, rule) in self.rules().iter().enumerate() {
            let is_peer = |peer| class.is_some_and(|class| self.is_peer(state, peer, class));
            if rule.peers.is_empty() || rule.peers.iter().any(is_peer) {
                self.lay_ports(number, rule, class, cover);
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

    fn lay_ports(&self, number: usize, rule: &PolicyRule, class: Option<&Class>, cover: &mut Cover) {
        let (rule_number, flags) = (number as u16, FLAG_ALLOW | FLAG_NAMESPACED);
        let mut lay = |places| cover.lay(RuleRecord { policy: self.index, rule: rule_number, flags, ..places });
        if rule.ports.is_empty() {
            lay(RuleRecord::everything());
        }
        rule.ports.iter().filter_map(|port| self.numbered(port, class)).for_each(lay);
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
        Some(RuleRecord::ports(port.protocol, first, last))
    }
}

/// Every protocol and port, by no policy in particular.
pub fn allow_all() -> RuleRecord {
    RuleRecord { rule: RULE_NONE, flags: FLAG_ALLOW, ..RuleRecord::everything() }
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
