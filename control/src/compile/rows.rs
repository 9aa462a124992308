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

/// Rows that are fetched ahead.
const AHEAD: usize = 8;
/// Stands for no rule, behind all others.
const RULES_NONE: u32 = u32::MAX;

/// What is installed of a policy set.
pub struct Installed {
    pub record: PolicySetRecord,
    /// By direction: identity -> list of rules.
    pub rows: [HashMap<u32, ListId>; 2],
    /// They all are as they should be.
    pub is_whole: bool,
}

impl Installed {
    pub fn new() -> Installed {
        Installed { record: PolicySetRecord::zeroed(), rows: Default::default(), is_whole: false }
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
    /// By direction: the rows are what the plan says already.
    pub stays: [bool; 2],
    /// Named ports of the set's pods.
    pub ports: &'a [NamedPort],
    pub installed: &'a mut Installed,
}

/// The answers of one plan so far.
struct Answers {
    any: Vec<RuleRecord>,
    /// By the rules that speak of a peer; None: the answer is that of everybody.
    found: HashMap<Vec<u32>, Option<ListId>>,
    /// The last one of them: who comes next is often spoken of alike.
    last: Option<(Vec<u32>, Option<ListId>)>,
    cut: bool,
}

/// The list that the row of an identity is to have; None: no row.
type Change = (u32, Option<ListId>);

impl Rows<'_, '_> {
    pub fn write_all(&mut self, target: &mut Target) -> Outcome {
        let mut outcome = Outcome { full: Ok(()), cut: false };
        let stays = target.stays;
        for direction in DIRECTIONS.into_iter().filter(|direction| !stays[*direction as usize]) {
            let wanted = self.wanted(target, direction, &mut outcome);
            let rows = &target.installed.rows[direction as usize];
            let is_gone = |identity: &&u32| wanted.binary_search_by_key(*identity, |(wanted, _)| *wanted).is_err();
            let mut changes: Vec<Change> = rows.keys().filter(is_gone).map(|&identity| (identity, None)).collect();
            changes.extend(wanted.into_iter().map(|(identity, list)| (identity, Some(list))));
            self.put_all(target, direction, changes, |_| true, &mut outcome);
        }
        target.installed.is_whole = outcome.full.is_ok() && !outcome.cut;
        self.conclude(target, &outcome);
        outcome
    }

    /// Only the rows of these identities.
    pub fn write_some(&mut self, target: &mut Target, identities: &BTreeSet<u32>) -> Outcome {
        let mut outcome = Outcome { full: Ok(()), cut: false };
        // No flow depends on an identity that was not there before, or is no more.
        let (born, known) = (self.born, self.identities);
        let matters = |identity: u32| !born.contains(&identity) && known.class(identity).is_some();
        for direction in DIRECTIONS {
            let mut answers = Answers::of(target, direction);
            let mut changes = Vec::with_capacity(identities.len());
            for &identity in identities {
                changes.push((identity, self.answer(target, direction, identity, &mut answers, &mut outcome)));
            }
            outcome.cut |= answers.cut;
            self.put_all(target, direction, changes, matters, &mut outcome);
        }
        target.installed.is_whole &= outcome.full.is_ok() && !outcome.cut;
        self.conclude(target, &outcome);
        outcome
    }

    /// Every row of a direction, by identity.
    fn wanted(&mut self, target: &Target, direction: Direction, outcome: &mut Outcome) -> Vec<(u32, ListId)> {
        let plan = &target.plans[direction as usize];
        if plan.mode == MODE_OPEN {
            return Vec::new();
        }
        let mut answers = Answers::of(target, direction);
        let mut wanted = Vec::new();
        let mut put = |identity, list: Result<Option<ListId>, TableFull>| match list {
            Ok(list) => wanted.extend(list.map(|list| (identity, list))),
            Err(full) => outcome.full = Err(full),
        };
        if !answers.any.is_empty() {
            put(IDENTITY_ANY, self.lists.intern(&answers.any, self.batch).map(Some));
        }
        let pairs = self.spoken_of(plan);
        let mut rules: &[u32] = &pairs.iter().map(|(_, rule)| *rule).collect::<Vec<_>>();
        for run in pairs.chunk_by(|a, b| a.0 == b.0) {
            let (mut speaking, rest) = rules.split_at(run.len());
            rules = rest;
            if let [before @ .., RULES_NONE] = speaking {
                speaking = before;
            }
            put(run[0].0, self.list(target, direction, run[0].0, speaking, &mut answers));
        }
        outcome.cut |= answers.cut;
        wanted
    }

    /// Each identity of which rules speak with each rule that does, sorted; and those of this node with none.
    fn spoken_of(&self, plan: &Plan) -> Vec<(u32, u32)> {
        let mut pairs: Vec<_> = self.peers.own().iter().map(|&identity| (identity, RULES_NONE)).collect();
        for (peer, rules) in plan.peers() {
            pairs.extend(self.peers.members(peer).flat_map(|identity| rules.iter().map(move |&rule| (identity, rule))));
        }
        pairs.sort_unstable();
        pairs.dedup();
        pairs
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
        self.list(target, direction, identity, &speaking, answers).unwrap_or_else(|full| {
            outcome.full = Err(full);
            None
        })
    }

    fn list(
        &mut self,
        target: &Target,
        direction: Direction,
        identity: u32,
        speaking: &[u32],
        answers: &mut Answers,
    ) -> Result<Option<ListId>, TableFull> {
        let plan = &target.plans[direction as usize];
        let class = self.identities.class(identity).map(|class| &**class);
        let is_plain = !plan.asks_ports && !class.is_some_and(crate::identity::Class::is_own_node);
        if is_plain && let Some((_, list)) = answers.last.as_ref().filter(|(last, _)| last == speaking) {
            return Ok(*list);
        }
        if let Some(list) = answers.found.get(speaking).copied().filter(|_| is_plain) {
            answers.remember(speaking, list);
            return Ok(list);
        }
        let (rules, fits) = plan.answer(speaking, class, target.ports);
        answers.cut |= !fits;
        let list = if rules == answers.any { None } else { Some(self.lists.intern(&rules, self.batch)?) };
        if is_plain {
            answers.found.insert(speaking.to_vec(), list);
            answers.remember(speaking, list);
        }
        Ok(list)
    }

    /// Writes what differs; a scope is touched if a row that matters does.
    fn put_all(
        &mut self,
        target: &mut Target,
        direction: Direction,
        mut changes: Vec<Change>,
        matters: impl Fn(u32) -> bool,
        outcome: &mut Outcome,
    ) {
        let rows = &target.installed.rows[direction as usize];
        changes.retain(|(identity, list)| rows.get(identity) != list.as_ref());
        for (i, &(identity, list)) in changes.iter().enumerate() {
            // Rows lie scattered: each is fetched while others are written.
            if let Some((ahead, _)) = changes.get(i + AHEAD) {
                self.batch.view().expect(Table::Policy, &PolicyKey::new(target.id, direction, *ahead));
            }
            self.put(target, direction, identity, list, outcome);
        }
        if changes.iter().any(|(identity, _)| matters(*identity)) {
            self.batch.touch(Scope::PolicySet(target.id));
        }
    }

    /// No list: no row. Where there is no room the old row goes, too: without one less is allowed.
    fn put(
        &mut self,
        target: &mut Target,
        direction: Direction,
        identity: u32,
        list: Option<ListId>,
        outcome: &mut Outcome,
    ) {
        let rows = &mut target.installed.rows[direction as usize];
        let key = PolicyKey::new(target.id, direction, identity);
        let mut is_there = false;
        if let Some(list) = list {
            let row = self.lists.acquire(list);
            match self.batch.insert(Table::Policy, &key, &row) {
                Ok(()) => is_there = true,
                Err(full) => {
                    self.lists.release(list);
                    outcome.full = Err(full);
                }
            }
        }
        let before = match list.filter(|_| is_there) {
            Some(list) => rows.insert(identity, list),
            None => rows.remove(&identity),
        };
        if !is_there && before.is_some() {
            self.batch.remove(Table::Policy, &key);
        }
        *self.used = *self.used + is_there as usize - before.is_some() as usize;
        before.into_iter().for_each(|list| self.lists.release(list));
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
        Answers { any, found: HashMap::default(), last: None, cut: !fits }
    }

    fn remember(&mut self, speaking: &[u32], list: Option<ListId>) {
        let (last, found) = self.last.get_or_insert_default();
        last.clear();
        last.extend_from_slice(speaking);
        *found = list;
    }
}
