//! A policy that is only being tried: what it would deny passes and is counted for it, and so is what it allows.

use crate::node;
use crate::support::packets::tcp;
use crate::support::*;
use packets::{ACK, SYN};
use tables::Protocol;
use tables::layout::Table;
use tables::policy::Direction::Ingress;
use tables::policy::RuleRecord;
use tables::policy::{
    FLAG_ALLOW, FLAG_AUDIT, IDENTITY_ANY, MODE_ISOLATED, PolicyKey, PolicyRow, PolicySetRecord, PolicySide,
};
use tables::scope::Scope;
use tables::status::PolicyFlows;

const POLICY: u32 = 41;

fn counted(node: &Node, what: PolicyFlows) -> u64 {
    node.status.blocks().map(|block| block.policy_flows(what, POLICY as usize)).sum()
}

/// Port 80 is allowed by the policy, all else by its being tried.
fn rows(rows: &mut Rows) {
    let mut record: PolicySetRecord = rows.batch.view().row(Table::PolicySet, 1);
    record.sides[Ingress as usize] = PolicySide::new(MODE_ISOLATED, 0, PolicyRow::new(0));
    rows.batch.set(Table::PolicySet, 1, &record).unwrap();
    let tried = RuleRecord { flags: FLAG_ALLOW | FLAG_AUDIT, ..RuleRecord::everything().allowed_by(POLICY) };
    let port = RuleRecord::ports(Protocol::TCP, 80, 80).allowed_by(POLICY);
    let before = RuleRecord { last: port.first - 1, ..tried };
    let after = RuleRecord { first: port.last + 1, ..tried };
    let row = rows.batch.set_rules(1, &[before, port, after]).unwrap();
    rows.batch.set_policy_row(&PolicyKey::new(1, Ingress, IDENTITY_ANY), row).unwrap();
    rows.batch.touch(Scope::PolicySet(1));
    rows.pod(5, 0, 1);
}

#[test]
fn what_a_policy_on_trial_would_deny_passes_and_is_counted_once_a_flow() {
    let mut node = node();
    node.publish(rows);
    for (port, allowed, audited) in [(80, 1, 0), (81, 1, 1), (82, 1, 2)] {
        for flags in [SYN, ACK] {
            let packet = tcp((A, 1000), (B, port), flags);
            assert_eq!(node.pass(POD_A, &packet), node.delivered(POD_B, packet.hop()));
        }
        assert_eq!(counted(&node, PolicyFlows::Allowed), allowed, "port {port}");
        assert_eq!(counted(&node, PolicyFlows::Audited), audited, "port {port}");
    }
}
