//! Policy beside rte_acl: is this identity allowed to this port of a pod with this policy set, and which policy says so?

use super::{Agreement, Cursor, Lookups, keys, program, resident, short};
use crate::case::{Case, Group, Planned, Target};
use anyhow::Result;
use bytemuck::Zeroable;
use tables::judge::judge;
use tables::layout::Table;
use tables::policy::{Direction, MODE_ISOLATED, PolicyKey, PolicyRow, PolicySetRecord, RuleRecord};
use tables::publish::Batch;
use tables::{Publisher, View};

const WHAT: &str = "policy look-up";
const SIZES: [u32; 3] = [10, 1000, 10_000];
const QUERIES: u32 = 1 << 16;
const TARGET_RULES: u32 = 10_000;
const TARGET_RATIO: f64 = 5.0;

pub fn groups() -> Vec<Group> {
    SIZES.into_iter().map(group).collect()
}

fn group(rules: u32) -> Group {
    let (size, agreement) = (format!("{} rules", short(rules)), Agreement::default());
    let target = if rules == TARGET_RULES { Target::ratio(TARGET_RATIO) } else { Target::default() };
    let first = agreement.clone();
    Group {
        title: "policy",
        about: "By policy set, identity, protocol, port and direction; 11 of 16 allowed; bursts of 64. Rows of four port \
                rules. rte_acl: its widest vector algorithm, one field for each.",
        cases: vec![
            Planned::ours(WHAT, &size, move || ours(rules, &first)),
            program((WHAT, &size, "rte_acl"), ("acl", &[&rules.to_string()]), &agreement).target(target),
        ],
    }
}

fn fill(batch: &mut Batch, rules: u32) -> Result<()> {
    let mut rules_first = 0;
    for first in (0..rules).step_by(keys::RULES_PER_ROW as usize) {
        let (policy_set, identity) = keys::row(first);
        let set = PolicySetRecord { modes: [MODE_ISOLATED; 2], ..PolicySetRecord::zeroed() };
        batch.set(Table::PolicySet, policy_set as usize, &set)?;
        let records = disjoint(first..rules.min(first + keys::RULES_PER_ROW));
        for (i, record) in records.iter().enumerate() {
            batch.set(Table::Rule, rules_first as usize + i, record)?;
        }
        let row = PolicyRow { rules_first, rules_count: records.len() as u32 };
        batch.insert(Table::Policy, &PolicyKey::new(policy_set, Direction::Ingress, identity), &row)?;
        rules_first += row.rules_count;
    }
    Ok(())
}

/// The rules of a row as control would write them: sorted, and what an earlier one says is left out of later ones.
fn disjoint(rules: std::ops::Range<u32>) -> Vec<RuleRecord> {
    let mut records: Vec<RuleRecord> = Vec::new();
    for i in rules {
        let rule = keys::rule(i);
        let whole = RuleRecord::ports(rule.protocol, rule.port_first, rule.port_last).allowed_by(i + 1);
        let free = |place: &u32| !records.iter().any(|record| record.holds(*place));
        let places: Vec<u32> = (whole.first..=whole.last).filter(free).collect();
        let runs = places.chunk_by(|a, b| a + 1 == *b);
        records.extend(runs.map(|run| RuleRecord { first: run[0], last: run[run.len() - 1], ..whole }));
    }
    records.sort_by_key(|record| record.first);
    records
}

/// The number of the policy that allows it, plus one; 0 if none does.
#[inline(always)]
fn answer(view: &View, query: &keys::Query) -> u64 {
    let keys::Query { policy_set, identity, protocol, port } = *query;
    let judged = judge(view, policy_set, Direction::Ingress, identity, protocol, port);
    judged.policy.filter(|_| judged.allowed).map_or(0, u64::from)
}

fn ours(rules: u32, agreement: &Agreement) -> Result<impl Case + use<>> {
    let before = resident();
    let mut publisher = Publisher::create(7)?;
    let mut batch = publisher.batch([]).expect("nobody reads yet");
    fill(&mut batch, rules)?;
    batch.publish();
    let bytes = resident().saturating_sub(before);
    let queries: Vec<keys::Query> = (0..QUERIES).map(|i| keys::query(i, rules)).collect();
    let view = publisher.live();
    agreement.check(queries.iter().map(|query| answer(&view, query)).sum())?;
    let mut cursor = Cursor::new(queries.len());
    let bursts = move |count| {
        let view = publisher.live();
        let bursts = (0..count).map(|_| cursor.advance());
        bursts.flat_map(|burst| &queries[burst]).map(|query| answer(&view, query)).sum()
    };
    Ok(Lookups { bytes, bursts })
}
