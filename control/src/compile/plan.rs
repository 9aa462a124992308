//! One policy set in one direction: the rules of its policies in the order in which they are asked, and the answer that
//! they come to for a peer. Pure.
//!
//! The Admin tier goes first, by priority; what it passes on and what it says nothing of is up to the NetworkPolicies.
//! If any of these isolates the pods, what none of them allows is denied; else it is up to the Baseline tier, and what
//! that passes on or says nothing of is allowed. The node is always allowed by NetworkPolicies.

use super::cover::Cover;
use super::policy_peers::PeerId;
use super::rules::{Level, Lines};
use crate::identity::Class;
use crate::object::NamedPort;
use crate::state::HashMap;
use std::sync::Arc;
use tables::policy::{
    Direction, FLAG_ALLOW, FLAG_NAMESPACED, MODE_ISOLATED, MODE_OPEN, MODE_TIERED, RULE_NONE, RuleRecord,
};

pub struct Plan {
    direction: Direction,
    policies: Vec<Arc<Lines>>,
    /// Which policy, and which of its rules.
    rules: Vec<(u32, u16)>,
    /// The first rule that is not of the Admin tier.
    admin_end: usize,
    /// Rules for everybody.
    everybody: Vec<u32>,
    by_peer: HashMap<PeerId, Vec<u32>>,
    /// See [`tables::policy`].
    pub mode: u16,
    /// The first policy that isolates.
    pub deny_policy: u32,
    /// Not all of its rules allow.
    pub denies: bool,
    /// What it says of a peer depends on the peer's own ports.
    pub asks_ports: bool,
}

impl Plan {
    /// `policies` are in the order in which they are asked.
    pub fn new(policies: &[Arc<Lines>], direction: Direction) -> Plan {
        let side = |lines: &Arc<Lines>| lines.sides[direction as usize].is_some();
        let isolating = policies.iter().find(|lines| lines.level == Level::Namespaced && side(lines));
        let counts = |lines: &Arc<Lines>| side(lines) && (isolating.is_none() || lines.level != Level::Baseline);
        let policies: Vec<Arc<Lines>> = policies.iter().filter(|lines| counts(lines)).cloned().collect();
        let mut plan = Plan {
            direction,
            rules: Vec::new(),
            admin_end: 0,
            everybody: Vec::new(),
            by_peer: HashMap::default(),
            mode: if isolating.is_some() { MODE_ISOLATED } else { MODE_TIERED },
            deny_policy: isolating.map_or(0, |lines| lines.index),
            denies: false,
            asks_ports: false,
            policies,
        };
        if plan.policies.is_empty() {
            plan.mode = MODE_OPEN;
        }
        for policy in 0..plan.policies.len() {
            plan.add(policy as u32);
        }
        plan
    }

    fn add(&mut self, policy: u32) {
        let lines = self.policies[policy as usize].clone();
        for (number, line) in lines.sides[self.direction as usize].iter().flatten().enumerate() {
            let at = self.rules.len() as u32;
            self.rules.push((policy, number as u16));
            let mut speaks_of = |peer: &PeerId| {
                let rules = self.by_peer.entry(*peer).or_default();
                if rules.last() != Some(&at) {
                    rules.push(at);
                }
            };
            line.peers.iter().flatten().chain(&line.named).for_each(&mut speaks_of);
            if line.peers.is_none() {
                self.everybody.push(at);
            }
            self.denies |= !line.allows();
            self.asks_ports |= self.direction == Direction::Egress && line.has_names();
        }
        if lines.level == Level::Admin {
            self.admin_end = self.rules.len();
        }
    }

    /// The rules that speak of a peer, and not of everybody.
    pub fn of_peer(&self, peer: PeerId) -> &[u32] {
        self.by_peer.get(&peer).map_or(&[], |rules| rules)
    }

    pub fn peers(&self) -> impl Iterator<Item = (PeerId, &[u32])> {
        self.by_peer.iter().map(|(&peer, rules)| (peer, rules.as_slice()))
    }

    /// What holds for a class (None: for those without one) of which these rules speak, and whether it could be said in
    /// full. `own` are the named ports of the set's pods.
    pub fn answer(&self, speaking: &[u32], class: Option<&Class>, own: &[NamedPort]) -> (Vec<RuleRecord>, bool) {
        let ports = match self.direction {
            Direction::Ingress => own,
            Direction::Egress => class.and_then(Class::traits).map_or(&[][..], |traits| &traits.ports),
        };
        let mut rules = [&self.everybody, speaking].concat();
        rules.sort_unstable();
        rules.dedup();
        let (admin, others) = rules.split_at(rules.partition_point(|&rule| (rule as usize) < self.admin_end));
        let mut cover = Cover::default();
        admin.iter().for_each(|&rule| self.lay(rule, ports, &mut cover));
        cover.next_tier();
        if self.mode == MODE_ISOLATED && class.is_some_and(Class::is_own_node) {
            cover.lay(RuleRecord { rule: RULE_NONE, flags: FLAG_ALLOW | FLAG_NAMESPACED, ..RuleRecord::everything() });
        } else {
            others.iter().for_each(|&rule| self.lay(rule, ports, &mut cover));
            cover.next_tier();
        }
        cover.into_rules()
    }

    fn lay(&self, rule: u32, ports: &[NamedPort], cover: &mut Cover) {
        let (policy, number) = self.rules[rule as usize];
        let lines = &self.policies[policy as usize];
        let line = &lines.sides[self.direction as usize].as_ref().expect("it speaks")[number as usize];
        for record in line.records(ports) {
            cover.lay(RuleRecord { policy: lines.index, rule: number, ..record });
        }
    }
}
