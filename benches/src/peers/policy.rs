//! Policy beside rte_acl: is this identity allowed to this port of a pod with this policy set, and which policy says so?

use super::{Agreement, BURST, Cursor, Lookups, keys, program, resident, short};
use crate::case::{Case, Group, Planned, Target};
use anyhow::Result;
use tables::Publisher;
use tables::judge::Question;
use tables::judge::burst::judge_burst;
use tables::judged::Judged;
use tables::layout::Table;
use tables::policy::{Direction, MODE_ISOLATED, PolicyKey, PolicySetRecord, RuleRecord, place};
use tables::publish::Batch;
use tables::rules::blocks_of;

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
    let mut block = 1;
    for first in (0..rules).step_by(keys::RULES_PER_ROW as usize) {
        let (policy_set, identity) = keys::row(first);
        batch.set(Table::PolicySet, policy_set as usize, &PolicySetRecord::of_modes([MODE_ISOLATED; 2]))?;
        let records = disjoint(first..rules.min(first + keys::RULES_PER_ROW));
        let row = batch.set_rules(block, &records)?;
        batch.set_policy_row(&PolicyKey::new(policy_set, Direction::Ingress, identity), row)?;
        block += blocks_of(records.len()) as u32;
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

fn question(query: keys::Query) -> Question {
    let keys::Query { policy_set, identity, protocol, port } = query;
    Question::new(policy_set, Direction::Ingress, identity, place(protocol, port))
}

/// The number of the policy that allows it, plus one; 0 if none does.
#[inline(always)]
fn policy(judged: Judged) -> u64 {
    judged.policy().filter(|_| judged.allowed()).map_or(0, u64::from)
}

fn ours(rules: u32, agreement: &Agreement) -> Result<impl Case + use<>> {
    let before = resident();
    let mut publisher = Publisher::create(7)?;
    let mut batch = publisher.batch([]).expect("nobody reads yet");
    fill(&mut batch, rules)?;
    batch.publish();
    let bytes = resident().saturating_sub(before);
    let questions: Vec<Question> = (0..QUERIES).map(|i| question(keys::query(i, rules))).collect();
    let (mut cursor, mut judged) = (Cursor::new(questions.len()), [Judged::CLOSED; BURST]);
    let mut bursts = move |count| {
        let (view, mut answers) = (publisher.live(), 0);
        for _ in 0..count {
            judge_burst(&view, &questions[cursor.advance()], &mut judged);
            answers += judged.iter().map(|&judged| policy(judged)).sum::<u64>();
        }
        answers
    };
    agreement.check(bursts(QUERIES as usize / BURST))?;
    Ok(Lookups { bytes, bursts })
}
