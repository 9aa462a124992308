//! One policy set in one direction: the rules of its policies in the order in which they are asked, and the answer that
//! they come to for a peer. Pure.
//!
//! The Admin tier goes first, by priority; what it passes on and what it says nothing of is up to the NetworkPolicies.
//! If any of these isolates the pods, what none of them allows is denied; else it is up to the Baseline tier, and what
//! that passes on or says nothing of is allowed. The node is always allowed by NetworkPolicies.
//!
//! Policies that are only being tried do not decide, but what they would deny is marked in what the others allow.

use super::cover::Cover;
use super::policy_peers::PeerId;
use super::rules::{Level, Lines, Ports};
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
    /// The first policy that isolates, of those in force and of all.
    isolating: [Option<u32>; 2],
    /// Some policies are only being tried.
    tries: bool,
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
        let isolates = |lines: &&Arc<Lines>| lines.level == Level::Namespaced && side(lines);
        let isolating = policies.iter().filter(isolates).find(|lines| !lines.audit);
        let any = policies.iter().find(isolates);
        let counts = |lines: &Arc<Lines>| side(lines) && (isolating.is_none() || lines.level != Level::Baseline);
        let policies: Vec<Arc<Lines>> = policies.iter().filter(|lines| counts(lines)).cloned().collect();
        let mut plan = Plan {
            direction,
            rules: Vec::new(),
            admin_end: 0,
            isolating: [isolating, any].map(|lines| lines.map(|lines| lines.index)),
            tries: policies.iter().any(|lines| lines.audit),
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

    /// Whether it comes to the same answers as another one of the same direction, peers and named ports being the same.
    pub fn says_the_same(&self, other: &Plan) -> bool {
        let direction = self.direction as usize;
        let is_same = |(a, b): (&Arc<Lines>, &Arc<Lines>)| {
            let [this, that] = [a, b].map(|lines| (lines.index, lines.level, lines.audit, &lines.sides[direction]));
            Arc::ptr_eq(a, b) || this == that
        };
        self.isolating == other.isolating
            && self.policies.len() == other.policies.len()
            && self.policies.iter().zip(&other.policies).all(is_same)
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
            Direction::Ingress => Ports::Known(own),
            Direction::Egress => match class {
                Some(Class::Unclaimed { .. }) => Ports::Any,
                class => Ports::Known(class.and_then(Class::traits).map_or(&[], |traits| &traits.ports)),
            },
        };
        let mut rules = [&self.everybody, speaking].concat();
        rules.sort_unstable();
        rules.dedup();
        let is_own_node = class.is_some_and(Class::is_own_node);
        if !self.tries {
            return self.cover(&rules, self.isolating[0], is_own_node, ports).into_rules();
        }
        let in_force: Vec<u32> = rules.iter().copied().filter(|&rule| !self.is_tried(rule)).collect();
        let [now, then] = [(&in_force, self.isolating[0]), (&rules, self.isolating[1])].map(|(rules, isolating)| {
            let mut cover = self.cover(rules, isolating, is_own_node, ports);
            // What no rule says is said, so that the two can be compared.
            cover.lay(unsaid(isolating));
            cover
        });
        now.audited(then).into_rules()
    }

    /// What these rules come to. `isolating`: the first policy that isolates.
    fn cover(&self, rules: &[u32], isolating: Option<u32>, is_own_node: bool, ports: Ports) -> Cover {
        let (admin, others) = rules.split_at(rules.partition_point(|&rule| (rule as usize) < self.admin_end));
        let mut cover = Cover::default();
        admin.iter().for_each(|&rule| self.lay(rule, ports, &mut cover));
        cover.next_tier();
        if isolating.is_some() && is_own_node {
            cover.lay(RuleRecord { rule: RULE_NONE, flags: FLAG_ALLOW | FLAG_NAMESPACED, ..RuleRecord::everything() });
        } else {
            let is_asked = |rule: u32| isolating.is_none() || self.lines_of(rule).level != Level::Baseline;
            let asked = others.iter().filter(|&&rule| is_asked(rule));
            asked.for_each(|&rule| self.lay(rule, ports, &mut cover));
            cover.next_tier();
        }
        cover
    }

    fn lines_of(&self, rule: u32) -> &Lines {
        &self.policies[self.rules[rule as usize].0 as usize]
    }

    fn is_tried(&self, rule: u32) -> bool {
        self.lines_of(rule).audit
    }

    fn lay(&self, rule: u32, ports: Ports, cover: &mut Cover) {
        let (policy, number) = self.rules[rule as usize];
        let lines = &self.policies[policy as usize];
        let line = &lines.sides[self.direction as usize].as_ref().expect("it speaks")[number as usize];
        for record in line.records(ports) {
            cover.lay(RuleRecord { policy: lines.index, rule: number, ..record });
        }
    }
}

/// What holds where no rule says anything.
fn unsaid(isolating: Option<u32>) -> RuleRecord {
    let record = RuleRecord { rule: RULE_NONE, ..RuleRecord::everything() };
    match isolating {
        Some(policy) => RuleRecord { policy, flags: FLAG_NAMESPACED, ..record },
        None => RuleRecord { flags: FLAG_ALLOW, ..record },
    }
}
