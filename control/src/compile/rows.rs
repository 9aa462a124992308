//! The rows of policy sets, written where they differ from what is installed. A row that would say the same as that of
//! everybody is not there.

use super::plan::Plan;
use super::policy_peers::Peers;
use super::rule_lists::{ListId, RuleLists};
use super::rules::DIRECTIONS;
use crate::identity::Identities;
use crate::object::NamedPort;
use crate::state::HashMap;
use bytemuck::Zeroable;
use std::collections::BTreeSet;
use tables::layout::Table;
use tables::policy::{Direction, IDENTITY_ANY, MODE_CLOSED, MODE_OPEN, PolicyKey, PolicySetRecord, RuleRecord};
use tables::publish::{Batch, TableFull};
use tables::scope::Scope;

/// What is installed of a policy set.
pub struct Installed {
    pub record: PolicySetRecord,
    /// By direction: identity -> list of rules.
    pub rows: [HashMap<u32, ListId>; 2],
}

impl Installed {
    pub fn new() -> Installed {
        Installed { record: PolicySetRecord::zeroed(), rows: Default::default() }
    }
}

pub struct Outcome {
    pub full: Result<(), TableFull>,
    /// A row had more rules than fit.
    pub cut: bool,
}

/// Writes the rows of one set after another.
pub struct Rows<'a, 'b> {
    pub identities: &'a Identities,
    pub born: &'a BTreeSet<u32>,
    pub peers: &'a Peers,
    pub lists: &'a mut RuleLists,
    pub used: &'a mut usize,
    pub batch: &'a mut Batch<'b>,
}

/// A set whose rows are written.
pub struct Target<'a> {
    pub id: u32,
    pub plans: &'a [Plan; 2],
    /// Named ports of the set's pods.
    pub ports: &'a [NamedPort],
    pub installed: &'a mut Installed,
}

/// The answers of one plan so far.
struct Answers {
    any: Vec<RuleRecord>,
    /// By the rules that speak of a peer; None: the answer is that of everybody.
    found: HashMap<Vec<u32>, Option<ListId>>,
    cut: bool,
}

impl Rows<'_, '_> {
    pub fn write_all(&mut self, target: &mut Target) -> Outcome {
        let mut outcome = Outcome { full: Ok(()), cut: false };
        for direction in DIRECTIONS {
            let wanted = self.wanted(target, direction, &mut outcome);
            let rows = &target.installed.rows[direction as usize];
            let gone: Vec<u32> = rows.keys().filter(|identity| !wanted.contains_key(*identity)).copied().collect();
            let all = gone.into_iter().map(|identity| (identity, None));
            for (identity, list) in all.chain(wanted.into_iter().map(|(identity, list)| (identity, Some(list)))) {
                if self.put(target, direction, identity, list, &mut outcome) {
                    self.batch.touch(Scope::PolicySet(target.id));
                }
            }
        }
        self.conclude(target, &outcome);
        outcome
    }

    /// Only the rows of these identities.
    pub fn write_some(&mut self, target: &mut Target, identities: &BTreeSet<u32>) -> Outcome {
        let mut outcome = Outcome { full: Ok(()), cut: false };
        for direction in DIRECTIONS {
            let mut answers = Answers::of(target, direction);
            for &identity in identities {
                let list = self.answer(target, direction, identity, &mut answers, &mut outcome);
                // No flow depends on an identity that was not there before, or is no more.
                let matters = !self.born.contains(&identity) && self.identities.class(identity).is_some();
                if self.put(target, direction, identity, list, &mut outcome) && matters {
                    self.batch.touch(Scope::PolicySet(target.id));
                }
            }
            outcome.cut |= answers.cut;
        }
        self.conclude(target, &outcome);
        outcome
    }

    /// Every row of a direction.
    fn wanted(&mut self, target: &Target, direction: Direction, outcome: &mut Outcome) -> HashMap<u32, ListId> {
        let plan = &target.plans[direction as usize];
        let mut wanted = HashMap::default();
        if plan.mode == MODE_OPEN {
            return wanted;
        }
        let mut answers = Answers::of(target, direction);
        let mut put = |identity, list: Result<Option<ListId>, TableFull>| match list {
            Ok(list) => wanted.extend(list.map(|list| (identity, list))),
            Err(full) => outcome.full = Err(full),
        };
        if !answers.any.is_empty() {
            put(IDENTITY_ANY, self.lists.intern(&answers.any, self.batch).map(Some));
        }
        for (identity, speaking) in self.spoken_of(plan) {
            put(identity, self.list(target, direction, identity, speaking, &mut answers));
        }
        outcome.cut |= answers.cut;
        wanted
    }

    /// The identities of which rules speak, and the rules that do.
    fn spoken_of(&self, plan: &Plan) -> Vec<(u32, Vec<u32>)> {
        const NONE: u32 = u32::MAX;
        let mut pairs: Vec<(u32, u32)> = self.peers.own().iter().map(|&identity| (identity, NONE)).collect();
        for (peer, rules) in plan.peers() {
            pairs.extend(self.peers.members(peer).flat_map(|identity| rules.iter().map(move |&rule| (identity, rule))));
        }
        pairs.sort_unstable();
        pairs.dedup();
        let rules = |run: &[(u32, u32)]| run.iter().map(|(_, rule)| *rule).filter(|rule| *rule != NONE).collect();
        pairs.chunk_by(|a, b| a.0 == b.0).map(|run| (run[0].0, rules(run))).collect()
    }

    /// The list of an identity; None: it needs no row.
    fn answer(
        &mut self,
        target: &Target,
        direction: Direction,
        identity: u32,
        answers: &mut Answers,
        outcome: &mut Outcome,
    ) -> Option<ListId> {
        let plan = &target.plans[direction as usize];
        if plan.mode == MODE_OPEN || self.identities.class(identity).is_none() {
            return None;
        }
        let among = self.peers.among(identity).iter();
        let mut speaking: Vec<u32> = among.flat_map(|peer| plan.of_peer(*peer)).copied().collect();
        speaking.sort_unstable();
        speaking.dedup();
        self.list(target, direction, identity, speaking, answers).unwrap_or_else(|full| {
            outcome.full = Err(full);
            None
        })
    }

    fn list(
        &mut self,
        target: &Target,
        direction: Direction,
        identity: u32,
        speaking: Vec<u32>,
        answers: &mut Answers,
    ) -> Result<Option<ListId>, TableFull> {
        let plan = &target.plans[direction as usize];
        let class = self.identities.class(identity).map(|class| &**class);
        let is_plain = !plan.asks_ports && !class.is_some_and(crate::identity::Class::is_own_node);
        if let Some(list) = answers.found.get(&speaking).filter(|_| is_plain) {
            return Ok(*list);
        }
        let (rules, fits) = plan.answer(&speaking, class, target.ports);
        answers.cut |= !fits;
        let list = if rules == answers.any { None } else { Some(self.lists.intern(&rules, self.batch)?) };
        if is_plain {
            answers.found.insert(speaking, list);
        }
        Ok(list)
    }

    /// True if the row changed. No list: no row. Where there is no room the old row goes, too: without one less is allowed.
    fn put(
        &mut self,
        target: &mut Target,
        direction: Direction,
        identity: u32,
        list: Option<ListId>,
        outcome: &mut Outcome,
    ) -> bool {
        let rows = &mut target.installed.rows[direction as usize];
        if rows.get(&identity).copied() == list {
            return false;
        }
        let key = PolicyKey::new(target.id, direction, identity);
        let before = rows.remove(&identity);
        let mut is_there = false;
        if let Some(list) = list {
            let row = self.lists.acquire(list);
            match self.batch.insert(Table::Policy, &key, &row) {
                Ok(()) => {
                    is_there = true;
                    rows.insert(identity, list);
                }
                Err(full) => {
                    self.lists.release(list);
                    outcome.full = Err(full);
                }
            }
        }
        if !is_there && before.is_some() {
            self.batch.remove(Table::Policy, &key);
        }
        *self.used = *self.used + is_there as usize - before.is_some() as usize;
        before.into_iter().for_each(|list| self.lists.release(list));
        true
    }

    /// Writes what holds where no row says anything. Where deny rules are missing all is denied.
    fn conclude(&mut self, target: &mut Target, outcome: &Outcome) {
        let mode = |plan: &Plan| if outcome.full.is_err() && plan.denies { MODE_CLOSED } else { plan.mode };
        let [ingress, egress] = target.plans;
        let record = PolicySetRecord {
            modes: [mode(ingress), mode(egress)],
            deny_policy: [ingress.deny_policy, egress.deny_policy],
            ..PolicySetRecord::zeroed()
        };
        if record != target.installed.record {
            // Cannot fail: the index is within the table.
            let _ = self.batch.set(Table::PolicySet, target.id as usize, &record);
            self.batch.touch(Scope::PolicySet(target.id));
            target.installed.record = record;
        }
    }
}

impl Answers {
    fn of(target: &Target, direction: Direction) -> Answers {
        let (any, fits) = target.plans[direction as usize].answer(&[], None, target.ports);
        Answers { any, found: HashMap::default(), cut: !fits }
    }
}
