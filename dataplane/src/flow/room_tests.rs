use super::*;
use crate::flow::Way;
use proptest::prelude::*;
use tables::counters::DropReason;
use tables::flow::{FlowLayout, Tuple};
use tables::{Addr, Protocol};

const SIZE: u32 = 1024;

fn table() -> FlowTable {
    FlowTable::new(FlowLayout::for_capacity(SIZE as usize).create(0, 1, 42, 0).unwrap()).unwrap()
}

/// The `i`-th flow, last seen then.
fn record(i: u32, flags: u8, last_seen_ms: u32) -> FlowRecord {
    let remote = Addr::v4((0xcb00_0000 | i).to_be_bytes());
    let (local, protocol) = (Addr::v4([10, 1, 0, 4]), Protocol::UDP);
    let tuple = Tuple { local, remote, local_port: 53, remote_port: 9, protocol, reserved: 0, network: 0 };
    let mut record = FlowRecord::new(tuple, &tuple);
    (record.flags, record.last_seen_ms) = (flags, last_seen_ms);
    record
}

fn insert(flows: &mut FlowTable, i: u32, flags: u8, last_seen_ms: u32) {
    flows.insert(record(i, flags, last_seen_ms)).unwrap();
}

fn holds(flows: &FlowTable, i: u32) -> bool {
    flows.find(&record(i, 0, 0).inside, Way::Out).is_some()
}

const CONFIRMED: u8 = FLAG_ANSWERED | FLAG_CONFIRMED;

#[test]
fn a_full_table_of_answered_flows_refuses_the_new_and_keeps_the_old() {
    let mut flows = table();
    (0..SIZE).for_each(|i| insert(&mut flows, i, CONFIRMED, 0));
    assert_eq!(flows.insert(record(SIZE, 0, 5_000)), Err(DropReason::FlowTableFull));
    assert!((0..SIZE).all(|i| holds(&flows, i)) && flows.take_evicted() == 0);
}

#[test]
fn among_answered_flows_unanswered_ones_make_room_and_no_other() {
    let mut flows = table();
    let is_answered = |i: u32| !i.is_multiple_of(16);
    (0..SIZE).for_each(|i| insert(&mut flows, i, if is_answered(i) { CONFIRMED } else { 0 }, 0));
    (SIZE..9 * SIZE).for_each(|i| insert(&mut flows, i, 0, 1));
    assert!((0..SIZE).all(|i| holds(&flows, i) == is_answered(i)));
    assert_eq!((flows.take_evicted(), flows.used()), (8 * SIZE as u64, SIZE as usize));
}

#[test]
fn the_latest_stay_longest() {
    let mut flows = table();
    (0..4 * SIZE).for_each(|i| insert(&mut flows, i, 0, 0));
    assert!((3 * SIZE..4 * SIZE).all(|i| holds(&flows, i)));
}

#[test]
fn a_flow_that_was_left_after_one_answer_makes_room_if_none_is_unanswered() {
    let mut flows = table();
    (0..SIZE).for_each(|i| insert(&mut flows, i, if i == 7 { FLAG_ANSWERED } else { CONFIRMED }, 1_000));
    assert_eq!(flows.insert(record(SIZE, 0, 2_999)), Err(DropReason::FlowTableFull), "perhaps it goes on");
    // The hand comes round in so many looks.
    let inserted = (0..SIZE).filter(|_| flows.insert(record(SIZE, CONFIRMED, 3_000)).is_ok()).count();
    assert_eq!((inserted, holds(&flows, 7), flows.take_evicted()), (1, false, 1));
}

#[test]
fn a_connection_that_its_opener_has_not_confirmed_makes_room_at_once() {
    let mut flows = table();
    (0..SIZE).for_each(|i| {
        let flags = if i < 8 { FLAG_ANSWERED } else { CONFIRMED };
        let mut half_open = record(i, flags, 1_000);
        half_open.inside.protocol = Protocol::TCP;
        flows.insert(half_open).unwrap();
    });
    (0..8).for_each(|i| insert(&mut flows, SIZE + i, CONFIRMED, 1_000));
    assert_eq!((flows.take_evicted(), flows.insert(record(9 * SIZE, 0, 1_000))), (8, Err(DropReason::FlowTableFull)));
}

#[test]
fn above_seven_eighths_unconfirmed_flows_leave_sooner_step_by_step() {
    let after = |used: u32, flags: u8, silent_ms: u32| {
        let mut flows = table();
        (0..used).for_each(|i| insert(&mut flows, i, flags, 0));
        flows.expire(SIZE as usize, silent_ms) > 0
    };
    let (eighth, unanswered_ms) = (SIZE / 8, 30_000);
    assert!(!after(7 * eighth, 0, unanswered_ms - 1) && after(7 * eighth, 0, unanswered_ms));
    let half = 7 * eighth + eighth / 2;
    assert!(!after(half, 0, unanswered_ms / 2 - 1) && after(half, 0, unanswered_ms / 2));
    assert!(!after(SIZE, 0, PRESSED_MS - 1) && after(SIZE, 0, PRESSED_MS));
    assert!(!after(SIZE, CONFIRMED, 119_999) && after(SIZE, CONFIRMED, 120_000));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// However many are looked at at once: who was silent for too long has left after one round, and nobody else.
    #[test]
    fn each_leaves_by_its_own_silence(
        seen_ms in prop::collection::vec(0u32..60_000, 1..(SIZE as usize / 8 * 7)),
        lot in 1usize..2 * SIZE as usize,
    ) {
        let mut flows = table();
        let translated = |i: usize| {
            let record = record(i as u32, 0, seen_ms[i]);
            let outside = if i.is_multiple_of(3) { Tuple { local_port: 7, ..record.inside } } else { record.inside };
            let mut translated = FlowRecord::new(record.inside, &outside);
            translated.last_seen_ms = seen_ms[i];
            translated
        };
        (0..seen_ms.len()).for_each(|i| { flows.insert(translated(i)).unwrap(); });
        let now_ms = 60_000;
        let expired: usize = (0..SIZE as usize).step_by(lot).map(|_| flows.expire(lot, now_ms)).sum();
        let stays = |i: usize| now_ms - seen_ms[i] < 30_000;
        prop_assert_eq!(expired, (0..seen_ms.len()).filter(|&i| !stays(i)).count());
        prop_assert_eq!(flows.used(), seen_ms.len() - expired);
        for i in 0..seen_ms.len() {
            let record = translated(i);
            prop_assert_eq!(flows.find(&record.inside, Way::Out).is_some(), stays(i));
            prop_assert_eq!(flows.find(&record.outside(), Way::Back).is_some(), stays(i));
        }
        prop_assert!(flows.parts.first().iter().all(|bucket| expired < seen_ms.len() || bucket.entries == [0; 12]));
    }
}
