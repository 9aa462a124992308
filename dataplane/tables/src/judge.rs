//! What the tables say of a packet to policies of all tiers: at most two row look-ups and a bounded search among port
//! rules, whatever the number of policies. Which policy goes before which was decided by control. Workers judge by this,
//! and control what a change would do, so that there is one reading of the rows.

use crate::layout::Table;
use crate::limits::RULES_PER_ROW_MAX;
use crate::lpm::Lpm;
use crate::policy::{
    Direction, FLAG_AUDIT, FLAG_NAMESPACED, IDENTITY_ANY, IDENTITY_NODE, IDENTITY_WORLD, MODE_CLOSED, MODE_OPEN,
    MODE_TIERED, PolicyKey, PolicyRow, PolicySetRecord, RULE_NONE, RuleRecord, place,
};
use crate::{Addr, Protocol, View};

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

/// The same will be judged soon: fetches the row of this identity.
pub fn expect(view: &View, policy_set: u32, direction: Direction, identity: u32) {
    view.expect(Table::Policy, &PolicyKey::new(policy_set, direction, identity));
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
    let set: PolicySetRecord = view.row(Table::PolicySet, policy_set as usize);
    let mode = set.modes[direction as usize];
    // The kubelet's probes: a node reaches its own pods.
    if mode == MODE_OPEN || identity == IDENTITY_NODE && direction == Direction::Ingress {
        return Judged::OPEN;
    }
    let row = row(view, policy_set, direction, identity).filter(|_| mode != MODE_CLOSED);
    match row.and_then(|row| holding(view, row, place(protocol, port))) {
        Some(rule) => Judged::by(rule),
        None if mode == MODE_TIERED => Judged::OPEN,
        None => {
            let policy = Some(set.deny_policy[direction as usize]);
            Judged { allowed: false, policy, rule: None, is_namespaced: mode != MODE_CLOSED, is_audit: false }
        }
    }
}

/// The row of an identity, else that of everybody without one.
#[inline(always)]
fn row(view: &View, policy_set: u32, direction: Direction, identity: u32) -> Option<PolicyRow> {
    let of = |identity| view.find(Table::Policy, &PolicyKey::new(policy_set, direction, identity));
    of(identity).or_else(|| of(IDENTITY_ANY))
}

/// The rule of a row that holds a place, by halving.
#[inline(always)]
fn holding(view: &View, row: PolicyRow, place: u32) -> Option<RuleRecord> {
    let rule = |i: usize| view.row::<RuleRecord>(Table::Rule, row.rules_first as usize + i);
    let (mut at, mut count) = (0, (row.rules_count as usize).min(RULES_PER_ROW_MAX));
    while count > 1 {
        let half = count / 2;
        at += if rule(at + half).first <= place { half } else { 0 };
        count -= half;
    }
    (count == 1).then(|| rule(at)).filter(|rule| rule.holds(place))
}
