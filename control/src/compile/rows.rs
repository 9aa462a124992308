//! The rows of policy sets, written where they differ from what is installed. A row that would say the same as that of
//! everybody is not there.

use super::groups::Groups;
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
use tables::policy::{
    Direction, IDENTITY_ANY, MODE_CLOSED, MODE_OPEN, PolicyKey, PolicySetRecord, PolicySide, RuleRecord,
};
use tables::publish::{Batch, TableFull};
use tables::scope::Scope;

/// Rows that are fetched ahead.
const AHEAD: usize = 8;

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

impl Outcome {
    /// Where there is no room there is no row.
    fn noted(&mut self, list: Result<Option<ListId>, TableFull>) -> Option<ListId> {
        list.unwrap_or_else(|full| {
            self.full = Err(full);
            None
        })
    }
}

/// Writes the rows of one set after another.
pub struct Rows<'a, 'b> {
    pub identities: &'a Identities,
    pub born: &'a BTreeSet<u32>,
    pub peers: &'a Peers,
    pub groups: &'a mut Groups,
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
    /// Of the identity at hand.
    speaking: Vec<u32>,
    cut: bool,
}

/// The list that the row of an identity is to have; None: no row.
type Change = (u32, Option<ListId>);

impl Rows<'_, '_> {
    pub fn write_all(&mut self, target: &mut Target) -> Outcome {
        let mut outcome = Outcome { full: Ok(()), cut: false };
        let stays = target.stays;
        for direction in DIRECTIONS.into_iter().filter(|direction| !stays[*direction as usize]) {
            let changes = self.changes(target, direction, &mut outcome);
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

    /// What the rows of a direction are to be, of all identities that have one or are to have one.
    fn changes(&mut self, target: &Target, direction: Direction, outcome: &mut Outcome) -> Vec<Change> {
        let (plan, rows) = (&target.plans[direction as usize], &target.installed.rows[direction as usize]);
        if plan.mode == MODE_OPEN {
            return rows.keys().map(|&identity| (identity, None)).collect();
        }
        let peers = plan.peers().filter_map(|(peer, rules)| Some((self.peers.members(peer)?, rules)));
        self.groups.fill(peers, self.peers.own().iter().copied());
        let mut answers = Answers::of(target, direction);
        let any = if answers.any.is_empty() { Ok(None) } else { self.lists.intern(&answers.any, self.batch).map(Some) };
        let mut changes = vec![(IDENTITY_ANY, outcome.noted(any))];
        let is_gone = |identity: &u32| *identity != IDENTITY_ANY && !self.groups.has(*identity);
        changes.extend(rows.keys().copied().filter(is_gone).map(|identity| (identity, None)));
        self.add_groups(target, direction, &mut answers, &mut changes, outcome);
        outcome.cut |= answers.cut;
        changes
    }

    /// Those of the groups: each answer that holds for all of a group is worked out once.
    fn add_groups(
        &mut self,
        target: &Target,
        direction: Direction,
        answers: &mut Answers,
        changes: &mut Vec<Change>,
        outcome: &mut Outcome,
    ) {
        let plan = &target.plans[direction as usize];
        let mut lists: Vec<Option<Option<ListId>>> = vec![None; self.groups.count()];
        let groups = std::mem::take(self.groups);
        for &identity in groups.identities() {
            let group = groups.of(identity);
            let is_plain = self.is_plain(plan, identity);
            let known = lists[group as usize].filter(|_| is_plain);
            let list = known.unwrap_or_else(|| {
                outcome.noted(self.list(target, direction, identity, groups.speaking(group), answers))
            });
            if is_plain {
                lists[group as usize] = Some(list);
            }
            changes.push((identity, list));
        }
        *self.groups = groups;
    }

    /// What holds for it is told by the rules that speak of it alone.
    fn is_plain(&self, plan: &Plan, identity: u32) -> bool {
        !plan.asks_ports && !self.peers.own().contains(&identity)
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
        if plan.mode == MODE_OPEN {
            return None;
        }
        let mut speaking = std::mem::take(&mut answers.speaking);
        speaking.clear();
        for peer in self.peers.among(identity) {
            speaking.extend_from_slice(plan.of_peer(*peer));
        }
        speaking.sort_unstable();
        speaking.dedup();
        let list = outcome.noted(self.list(target, direction, identity, &speaking, answers));
        answers.speaking = speaking;
        list
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
        let is_plain = self.is_plain(plan, identity);
        if let Some(list) = answers.found.get(speaking).copied().filter(|_| is_plain) {
            return Ok(list);
        }
        let class = self.identities.class(identity).map(|class| &**class);
        let (rules, fits) = plan.answer(speaking, class, target.ports);
        answers.cut |= !fits;
        let list = if rules == answers.any { None } else { Some(self.lists.intern(&rules, self.batch)?) };
        if is_plain {
            answers.found.insert(speaking.to_vec(), list);
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
            // That of everybody is part of the set's record.
            let is_any = identity == IDENTITY_ANY;
            match if is_any { Ok(()) } else { self.batch.insert(Table::Policy, &key, &row) } {
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

    /// Writes what holds where no row of an identity says anything. Where deny rules are missing all is denied.
    fn conclude(&mut self, target: &mut Target, outcome: &Outcome) {
        let sides = DIRECTIONS.map(|direction| {
            let (plan, rows) = (&target.plans[direction as usize], &target.installed.rows[direction as usize]);
            let mode = if outcome.full.is_err() && plan.denies { MODE_CLOSED } else { plan.mode };
            PolicySide::new(mode, plan.deny_policy, self.lists.row(rows.get(&IDENTITY_ANY)))
        });
        let record = PolicySetRecord { sides };
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
        Answers { any, found: HashMap::default(), speaking: Vec::new(), cut: !fits }
    }
}
