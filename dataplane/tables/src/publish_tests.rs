use super::*;
use crate::lpm::{Lpm, VALUE_MAX};
use crate::status::Status;
use crate::{Addr, Prefix};
use proptest::prelude::*;
use std::collections::HashMap;

fn publisher() -> (Publisher, Status) {
    (Publisher::create(0x5eed).unwrap(), Status::create(1).unwrap())
}

fn key(n: u64) -> Addr {
    Addr::from_bits(n as u128)
}

#[test]
fn a_reader_sees_a_change_only_once_published_and_the_writer_waits_for_it() {
    let (mut publisher, status) = publisher();
    let fd = publisher.region().fd().try_clone_to_owned().unwrap();
    let mut reader = Reader::from_fd(fd).unwrap();
    let mut scopes = ScopeCounters::default();
    reader.pin(status.block(0).ack(), &mut scopes);

    let mut batch = publisher.batch(status.acks()).unwrap();
    batch.insert_prefix(Lpm::Route, &"10.0.0.0/8".parse().unwrap(), 7).unwrap();
    assert_eq!(reader.view().longest_match(Lpm::Route, "10.1.1.1".parse().unwrap()), None);
    batch.publish();
    assert!(publisher.batch(status.acks()).is_none(), "the reader still reads the copy that would be written");
    assert!(reader.pin(status.block(0).ack(), &mut scopes));
    assert_eq!(reader.view().longest_match(Lpm::Route, "10.1.1.1".parse().unwrap()), Some(7));
    assert!(publisher.batch(status.acks()).is_some());
}

#[test]
fn a_sleeping_reader_holds_nobody_up_and_bumps_what_it_missed() {
    let (mut publisher, status) = publisher();
    let fd = publisher.region().fd().try_clone_to_owned().unwrap();
    let mut reader = Reader::from_fd(fd).unwrap();
    let mut scopes = ScopeCounters::default();
    reader.pin(status.block(0).ack(), &mut scopes);
    let [first, second, other] = [Scope::Service(1), Scope::Service(2), Scope::Service(3)]
        .map(|scope| scopes.depend([Some(scope), None, None, None]));
    unpin(status.block(0).ack());
    for id in [1, 2] {
        let mut batch = publisher.batch(status.acks()).expect("a sleeper counts as gone");
        batch.touch(Scope::Service(id));
        batch.publish();
    }
    reader.pin(status.block(0).ack(), &mut scopes);
    assert!(!scopes.is_current(&first) && !scopes.is_current(&second));
    assert!(scopes.is_current(&other));
}

#[test]
fn a_reader_of_another_region_holds_no_writer_up_but_does_not_judge_by_this_one() {
    let (old, status) = publisher();
    let mut new = Publisher::create(0xbeef).unwrap();
    let acks = || status.worker_acks();
    let pin = |publisher: &Publisher| {
        let mut reader = Reader::from_fd(publisher.region().fd().try_clone_to_owned().unwrap()).unwrap();
        reader.pin(status.block(0).ack(), &mut ScopeCounters::default());
    };
    assert!(!old.is_in_force(acks()), "nobody has heard of it");
    pin(&old);
    assert!(old.is_in_force(acks()));
    for is_asleep in [false, true] {
        if is_asleep {
            unpin(status.block(0).ack());
        }
        assert!(new.is_acknowledged(status.acks()) && !new.is_in_force(acks()), "asleep: {is_asleep}");
    }
    pin(&new);
    assert!(new.is_in_force(acks()));
    new.batch(status.acks()).unwrap().publish();
    assert!(!new.is_in_force(acks()), "the old copy is still pinned");
    unpin(status.block(0).ack());
    assert!(new.is_in_force(acks()), "a sleeper pins the new one when it wakes");
}

#[test]
fn a_full_table_names_itself_and_its_limit() {
    let (mut publisher, _) = publisher();
    let mut batch = publisher.batch([]).unwrap();
    let full = batch.set(Table::Neighbour, crate::limits::NEIGHBOURS_MAX, &crate::neighbour::NeighbourRecord::zeroed());
    let text = full.unwrap_err().to_string();
    assert!(text.contains("neighbour") && text.contains("8192"), "{text}");
}

use bytemuck::Zeroable;

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Any sequence of inserts, removes and publishes: both copies stay what a HashMap says.
    #[test]
    fn the_table_is_a_map(ops in prop::collection::vec((0u64..60, 0..=VALUE_MAX, 0u8..4), 1..300)) {
        let (mut publisher, _) = publisher();
        let mut model: HashMap<u64, u64> = HashMap::new();
        for (k, value, op) in ops {
            let prefix = Prefix::host(key(k));
            let mut batch = publisher.batch([]).unwrap();
            match op {
                0 => {
                    prop_assert_eq!(batch.remove_prefix(Lpm::Identity, &prefix).unwrap(), model.remove(&k).is_some());
                }
                3 => {
                    batch.publish();
                    let live = publisher.live();
                    for k in 0..60 {
                        prop_assert_eq!(live.longest_match(Lpm::Identity, key(k)), model.get(&k).copied());
                    }
                    continue;
                }
                _ => {
                    batch.insert_prefix(Lpm::Identity, &prefix, value).unwrap();
                    model.insert(k, value);
                }
            }
            for k in 0..60 {
                prop_assert_eq!(batch.view().longest_match(Lpm::Identity, key(k)), model.get(&k).copied());
            }
        }
    }
}
