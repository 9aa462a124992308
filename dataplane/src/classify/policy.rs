//! NetworkPolicy: at most two row look-ups and a bounded scan of port rules, whatever the number of policies.

use tables::layout::Table;
use tables::limits::RULES_PER_ROW_MAX;
use tables::lpm::Lpm;
use tables::policy::{
    Direction, IDENTITY_ANY, IDENTITY_NODE, IDENTITY_WORLD, PolicyKey, PolicyRow, PolicySetRecord, RuleRecord,
};
use tables::{Addr, Protocol, View};

/// What a policy set says of a packet, and which policy says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    pub allowed: bool,
    pub policy: Option<u32>,
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
    if set.isolated[direction as usize] == 0 {
        return Judged { allowed: true, policy: None };
    }
    // The kubelet's probes: a node reaches its own pods.
    if identity == IDENTITY_NODE && direction == Direction::Ingress {
        return Judged { allowed: true, policy: None };
    }
    let allowed = [identity, IDENTITY_ANY]
        .into_iter()
        .find_map(|identity| allowing(view, &PolicyKey::new(policy_set, direction, identity), protocol, port));
    match allowed {
        Some(policy) => Judged { allowed: true, policy: Some(policy) },
        None => Judged { allowed: false, policy: Some(set.deny_policy[direction as usize]) },
    }
}

/// The policy of the first rule in a row that allows the port.
#[inline(always)]
fn allowing(view: &View, key: &PolicyKey, protocol: Protocol, port: u16) -> Option<u32> {
    let row: PolicyRow = view.find(Table::Policy, key)?;
    let count = (row.rules_count as usize).min(RULES_PER_ROW_MAX);
    (0..count)
        .map(|i| view.row::<RuleRecord>(Table::Rule, row.rules_first as usize + i))
        .find(|rule| rule.allows(protocol, port))
        .map(|rule| rule.policy)
}
