//! What the tables say of a packet to policies of all tiers: at most two row look-ups and a bounded search among port
//! rules, whatever the number of policies. Which policy goes before which was decided by control. Workers judge by this,
//! and control what a change would do, so that there is one reading of the rows.

use crate::cpu::prefetch;
use crate::layout::Table;
use crate::limits::RULES_PER_ROW_MAX;
use crate::lpm::Lpm;
use crate::policy::{
    Direction, FLAG_AUDIT, FLAG_NAMESPACED, IDENTITY_ANY, IDENTITY_NODE, IDENTITY_WORLD, MODE_CLOSED, MODE_OPEN,
    MODE_TIERED, PolicyKey, PolicyRow, PolicySetRecord, RULE_NONE, RuleRecord, place,
};
use crate::view::read_record;
use crate::{Addr, Protocol, View};
use std::sync::atomic::AtomicU64;

/// What a policy set says of a packet, and which policy says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    pub allowed: bool,
    pub policy: Option<u32>,
    /// Which of the policy's rules; None if that no rule allows it is what denies it.
    pub rule: Option<u16>,
    /// A NetworkPolicy says it.
    pub is_namespaced: bool,
    /// It is allowed because the policy, which would deny it, is only being tried.
    pub is_audit: bool,
}

impl Judged {
    const OPEN: Judged = Judged { allowed: true, policy: None, rule: None, is_namespaced: false, is_audit: false };

    fn by(rule: RuleRecord) -> Judged {
        Judged {
            allowed: rule.allows(),
            policy: (rule.policy != 0).then_some(rule.policy),
            rule: (rule.rule != RULE_NONE).then_some(rule.rule),
            is_namespaced: rule.flags & FLAG_NAMESPACED != 0,
            is_audit: rule.flags & FLAG_AUDIT != 0,
        }
    }

    /// What remains of it for a pod that asks itself: only cluster-wide policies part a pod from itself.
    pub fn of_itself(self) -> Judged {
        if self.is_namespaced { Judged::OPEN } else { self }
    }
}

/// Who an address is to policies.
#[inline]
pub fn identity(view: &View, addr: Addr) -> u32 {
    view.longest_match(Lpm::Identity, addr).map_or(IDENTITY_WORLD, |identity| identity as u32)
}

/// The same will be judged soon: fetches the row of this identity, whose tag this is.
#[inline(always)]
pub fn expect(view: &View, policy_set: u32, direction: Direction, identity: u32) -> u64 {
    let tag = view.tag(&PolicyKey::new(policy_set, direction, identity));
    view.expect_tag(Table::Policy, tag);
    tag
}

/// ... and then the rules of the row with this tag.
#[inline(always)]
pub fn expect_rules(view: &View, tag: u64) {
    let Some(row): Option<PolicyRow> = view.guess::<PolicyKey, _>(Table::Policy, tag) else { return };
    let rules = run(view, row);
    rules.chunks(64 / 8).take(RULE_LINES).for_each(|line| prefetch(&line[0]));
}

/// Judges (policy set, direction, identity, protocol, destination port).
#[inline]
pub fn judge(
    view: &View,
    policy_set: u32,
    direction: Direction,
    identity: u32,
    protocol: Protocol,
    port: u16,
) -> Judged {
    judge_tagged(view, policy_set, direction, identity, place(protocol, port), None)
}

/// The same of a [`place`], with the tag of the identity's row if that is at hand.
#[inline(always)]
pub fn judge_tagged(
    view: &View,
    policy_set: u32,
    direction: Direction,
    identity: u32,
    place: u32,
    tag: Option<u64>,
) -> Judged {
    let set: PolicySetRecord = view.row(Table::PolicySet, policy_set as usize);
    let mode = set.modes[direction as usize];
    // The kubelet's probes: a node reaches its own pods.
    if mode == MODE_OPEN || identity == IDENTITY_NODE && direction == Direction::Ingress {
        return Judged::OPEN;
    }
    let row = row(view, policy_set, direction, identity, tag).filter(|_| mode != MODE_CLOSED);
    match row.and_then(|row| holding(view, row, place)) {
        Some(rule) => Judged::by(rule),
        None if mode == MODE_TIERED => Judged::OPEN,
        None => {
            let policy = Some(set.deny_policy[direction as usize]);
            Judged { allowed: false, policy, rule: None, is_namespaced: mode != MODE_CLOSED, is_audit: false }
        }
    }
}

/// The row of an identity, else that of everybody without one. The key is lent to nobody: it would lie in memory, written in
/// parts and read as a whole.
#[inline(always)]
fn row(view: &View, policy_set: u32, direction: Direction, identity: u32, tag: Option<u64>) -> Option<PolicyRow> {
    let key = PolicyKey::new(policy_set, direction, identity);
    let own = view.find_tagged(Table::Policy, &key, tag.unwrap_or_else(|| view.tag(&key)));
    if own.is_some() { own } else { row_of_any(view, policy_set, direction) }
}

#[cold]
#[inline(never)]
fn row_of_any(view: &View, policy_set: u32, direction: Direction) -> Option<PolicyRow> {
    view.find(Table::Policy, &PolicyKey::new(policy_set, direction, IDENTITY_ANY))
}

/// The rule of a row that holds a place, by halving. A row whose rules are beyond the table has none.
#[inline(always)]
fn holding(view: &View, row: PolicyRow, place: u32) -> Option<RuleRecord> {
    let rules = run(view, row);
    let (mut at, mut count) = (0, rules.len() / RULE_WORDS);
    while count > 1 {
        let half = count / 2;
        at += if first_place(rules, at + half) <= place { half } else { 0 };
        count -= half;
    }
    (count == 1).then(|| read_record::<RuleRecord>(rules, at * RULE_WORDS)).filter(|rule| rule.holds(place))
}

const RULE_WORDS: usize = size_of::<RuleRecord>() / 8;
/// Cache lines of rules that are fetched ahead: most rows have fewer.
const RULE_LINES: usize = 4;

#[inline(always)]
fn run<'a>(view: &View<'a>, row: PolicyRow) -> &'a [AtomicU64] {
    view.run(Table::Rule, row.rules_first as usize, (row.rules_count as usize).min(RULES_PER_ROW_MAX))
}

/// Where rule `at` of a run begins.
#[inline(always)]
fn first_place(rules: &[AtomicU64], at: usize) -> u32 {
    let [first, _]: [u32; 2] = read_record(rules, at * RULE_WORDS);
    first
}
