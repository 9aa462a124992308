use super::burst::judge_burst;
use super::*;
use crate::Publisher;
use crate::policy::{
    FLAG_ALLOW, FLAG_AUDIT, FLAG_NAMESPACED, IDENTITY_ANY, IDENTITY_NODE, MODE_CLOSED, MODE_ISOLATED, MODE_OPEN,
    MODE_TIERED, PLACE_LAST, POLICY_SET_OPEN, PolicySetRecord, RuleRecord,
};
use crate::publish::Batch;
use crate::rules::{RuleBlock, blocks_of};
use bytemuck::Zeroable;
use proptest::prelude::*;
use std::collections::BTreeMap;

const MODES: [u16; 4] = [MODE_OPEN, MODE_ISOLATED, MODE_TIERED, MODE_CLOSED];
const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];
/// From the first that may be written on.
const SETS: std::ops::Range<u32> = POLICY_SET_OPEN + 1..POLICY_SET_OPEN + 5;
/// Everybody, the world, the node, and some.
const IDENTITIES: u32 = 24;

/// Policies as control knows them.
#[derive(Debug, Default)]
struct Model {
    /// Mode and the policy that denies, by set and direction.
    modes: BTreeMap<(u32, usize), (u16, u32)>,
    /// Rules, by set, direction and identity.
    rows: BTreeMap<(u32, usize, u32), Vec<RuleRecord>>,
}

impl Model {
    /// (allowed, policy, rule, namespaced, audit).
    fn judge(
        &self,
        set: u32,
        direction: usize,
        identity: u32,
        place: u32,
    ) -> (bool, Option<u32>, Option<u16>, bool, bool) {
        let open = (true, None, None, false, false);
        let (mode, denies) = self.modes[&(set, direction)];
        if mode == MODE_OPEN || identity == IDENTITY_NODE && direction == 0 {
            return open;
        }
        let denied = (false, (denies != 0).then_some(denies), None, mode == MODE_ISOLATED, false);
        if mode == MODE_CLOSED {
            return denied;
        }
        let row = |identity| self.rows.get(&(set, direction, identity));
        let rules = row(identity).or(row(IDENTITY_ANY)).map_or(&[][..], Vec::as_slice);
        match rules.iter().find(|rule| rule.first <= place && place <= rule.last) {
            Some(rule) => {
                let has = |flag| rule.flags & flag != 0;
                let policy = (rule.policy != 0).then_some(rule.policy);
                (has(FLAG_ALLOW), policy, Some(rule.rule), has(FLAG_NAMESPACED), has(FLAG_AUDIT))
            }
            None if mode == MODE_TIERED => open,
            None => denied,
        }
    }

    fn write(&self, batch: &mut Batch) {
        for set in SETS {
            let modes = [0, 1].map(|direction| self.modes[&(set, direction)]);
            let sides = modes.map(|(mode, denies)| PolicySide::new(mode, denies, PolicyRow::zeroed()));
            batch.set(Table::PolicySet, set as usize, &PolicySetRecord { sides }).unwrap();
        }
        let mut first = 1;
        for (&(set, direction, identity), rules) in &self.rows {
            let row = batch.set_rules(first, rules).unwrap();
            first += blocks_of(rules.len()) as u32;
            batch.set_policy_row(&PolicyKey::new(set, DIRECTIONS[direction], identity), row).unwrap();
        }
    }
}

/// Up to so many rules with gaps between some of them.
fn rules(most: usize) -> impl Strategy<Value = Vec<RuleRecord>> {
    let one = (0u32..3, 0u32..900, 0u32..5, 0u16..4, 0u16..8);
    prop::collection::vec(one, 0..=most).prop_map(|parts| {
        let mut next = 0;
        let rule = |(gap, more, policy, rule, flags)| {
            let first = next + gap;
            next = first + more + 1;
            RuleRecord { first, last: next - 1, policy, rule, flags }
        };
        let mut rules: Vec<RuleRecord> = parts.into_iter().map(rule).collect();
        if let Some(last) = rules.last_mut().filter(|last| last.policy == 1) {
            last.last = PLACE_LAST;
        }
        rules
    })
}

fn model() -> impl Strategy<Value = Model> {
    let modes = prop::collection::vec((0usize..4, 0u32..3), 2 * SETS.len());
    let key = (SETS, 0usize..2, 0..IDENTITIES);
    let rows = prop::collection::btree_map(key, prop_oneof![4 => rules(6), 1 => rules(256)], 0..60);
    (modes, rows).prop_map(|(modes, rows)| {
        let modes = modes.into_iter().enumerate();
        let modes =
            modes.map(|(i, (mode, denies))| ((SETS.start + i as u32 / 2, i % 2), (MODES[mode], denies))).collect();
        Model { modes, rows }
    })
}

/// Most near the ends of rules, which lie low.
fn questions(most: usize) -> impl Strategy<Value = Vec<(u32, usize, u32, u32)>> {
    let place = prop_oneof![0u32..40, 0u32..3000, 0..=PLACE_LAST, Just(PLACE_LAST)];
    prop::collection::vec((SETS, 0usize..2, 0..IDENTITIES + 4, place), 0..=most)
}

fn asked(&(set, direction, identity, place): &(u32, usize, u32, u32)) -> Question {
    Question::new(set, DIRECTIONS[direction], identity, place)
}

/// The answers of a burst, after it was made sure that they are those to each alone.
fn answers(view: &View, questions: &[(u32, usize, u32, u32)]) -> Vec<Judged> {
    let questions: Vec<Question> = questions.iter().map(asked).collect();
    let mut judged = vec![Judged::OPEN; questions.len()];
    judge_burst(view, &questions, &mut judged);
    let alone: Vec<Judged> = questions.iter().map(|question| answer(view, question)).collect();
    assert_eq!(judged, alone);
    judged
}

#[test]
fn a_question_of_everybody_becomes_that_of_anybody() {
    for (direction, identity) in
        DIRECTIONS.into_iter().flat_map(|direction| [(direction, IDENTITY_NODE), (direction, 77)])
    {
        let whole = Question::new(5, direction, identity, 9);
        assert_eq!(Question::new(5, direction, IDENTITY_ANY, 9).of(identity), whole);
        let is_open = whole.key.policy_set() == POLICY_SET_OPEN;
        assert_eq!(is_open, identity == IDENTITY_NODE && direction == Direction::Ingress);
    }
}

/// Of ranges that overlap or hold nothing, most of which lead to one of the first eight blocks.
fn damaged_block() -> impl Strategy<Value = RuleBlock> {
    let bound = || prop_oneof![3 => 0u32..40, 1 => any::<u32>()];
    let end = prop_oneof![2 => Just(PLACE_LAST), 1 => bound()];
    let says = prop_oneof![3 => (0u32..8).prop_map(|block| Judged::by_block(block).to_word()), 1 => any::<u64>()];
    prop::array::uniform4((bound(), end, says)).prop_map(|ranges| {
        let pair = |words: [u32; 4]| bytemuck::cast::<[u32; 4], [u64; 2]>(words);
        let ([a, b], [c, d]) = (pair(ranges.map(|range| range.0)), pair(ranges.map(|range| range.1)));
        let [e, f, g, h] = ranges.map(|range| range.2);
        bytemuck::cast::<[u64; 8], RuleBlock>([a, b, c, d, e, f, g, h])
    })
}

proptest! {
    #[test]
    fn one_by_one_and_in_bursts_rows_say_what_they_were_made_of(model in model(), questions in questions(150)) {
        let mut publisher = Publisher::create(11).unwrap();
        let mut batch = publisher.batch([]).unwrap();
        model.write(&mut batch);
        batch.publish();
        for (question, judged) in questions.iter().zip(answers(&publisher.live(), &questions)) {
            let &(set, direction, identity, place) = question;
            let found = (judged.allowed(), judged.policy(), judged.rule(), judged.is_namespaced(), judged.is_audit());
            prop_assert_eq!(found, model.judge(set, direction, identity, place), "{:?}", question);
        }
    }

    /// Blocks of blocks that go round in circles, and rows beyond the table, too.
    #[test]
    fn damaged_tables_give_the_same_answer_both_ways(
        blocks in prop::collection::vec(damaged_block(), 8),
        sides in prop::collection::vec(any::<u64>(), 4 * SETS.len()),
        rows in prop::collection::vec((SETS, 0usize..2, 0..IDENTITIES, prop_oneof![any::<u32>(), 0u32..8]), 0..30),
        questions in questions(64),
    ) {
        let mut publisher = Publisher::create(11).unwrap();
        let mut batch = publisher.batch([]).unwrap();
        for (i, block) in blocks.iter().enumerate() {
            batch.set(Table::Rule, i, block).unwrap();
        }
        for (i, words) in sides.as_chunks::<4>().0.iter().enumerate() {
            batch.set(Table::PolicySet, SETS.start as usize + i, words).unwrap();
        }
        for (set, direction, identity, block) in rows {
            batch.insert(Table::Policy, &PolicyKey::new(set, DIRECTIONS[direction], identity), &PolicyRow::new(block)).unwrap();
        }
        batch.publish();
        answers(&publisher.live(), &questions);
    }
}

/// Rows whose slot was taken by others, and those that moved when one of these went.
#[test]
fn rows_that_share_a_slot_are_told_apart() {
    let mut publisher = Publisher::create(11).unwrap();
    let key = |identity| PolicyKey::new(1, Direction::Egress, identity);
    let slot = |view: &View, identity| view.tag(&key(identity)) as usize & (SLOTS - 1);
    let mut batch = publisher.batch([]).unwrap();
    batch.set(Table::PolicySet, 1, &PolicySetRecord::of_modes([MODE_ISOLATED; 2])).unwrap();
    let mut by_slot: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    (16..40_000).for_each(|identity| by_slot.entry(slot(&batch.view(), identity)).or_default().push(identity));
    let shared: Vec<u32> = by_slot.into_values().filter(|shared| shared.len() > 1).flatten().collect();
    assert!(shared.len() > 100);
    for (i, &identity) in shared.iter().enumerate() {
        let rule = RuleRecord::everything().allowed_by(identity % 1000 + 1);
        let row = batch.set_rules(1 + i as u32, &[rule]).unwrap();
        batch.set_policy_row(&key(identity), row).unwrap();
    }
    batch.publish();
    let questions: Vec<_> = shared.iter().map(|&identity| (1, 1, identity, 7)).collect();
    let said = |view: &View| answers(view, &questions).iter().map(|judged| judged.policy()).collect::<Vec<_>>();
    let expected = |identity: &u32| Some(identity % 1000 + 1);
    assert_eq!(said(&publisher.live()), shared.iter().map(expected).collect::<Vec<_>>());
    let mut batch = publisher.batch([]).unwrap();
    let gone = |identity: &u32| identity.is_multiple_of(3);
    shared
        .iter()
        .filter(|identity| gone(identity))
        .for_each(|&identity| assert!(batch.remove(Table::Policy, &key(identity))));
    batch.publish();
    let left = shared.iter().map(|identity| expected(identity).filter(|_| !gone(identity)));
    assert_eq!(said(&publisher.live()), left.collect::<Vec<_>>());
}
