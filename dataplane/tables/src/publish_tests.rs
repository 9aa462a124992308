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
