use super::*;
use crate::Addr;
use crate::layout::Layout;
use crate::limits::PEERS_MAX;
use crate::node::PeerRecord;
use crate::policy::{Direction, PolicyKey, PolicyRow};
use bytemuck::Zeroable;
use proptest::prelude::*;
use std::collections::HashMap;

fn addr(n: u32) -> Addr {
    Addr::from_bits(u128::from(n) << 40 | 7)
}

fn peer(nodes: u32) -> PeerRecord {
    PeerRecord { nodes, ..PeerRecord::zeroed() }
}

fn publisher() -> Publisher {
    Publisher::create(0x5eed).unwrap()
}

/// What a table says of any of so many keys, in each way that there is to ask.
fn check(view: &View, model: &HashMap<u32, u32>, keys: u32) -> Result<(), TestCaseError> {
    for key in 0..keys {
        let found: Option<PeerRecord> = view.find(Table::Peer, &addr(key));
        prop_assert_eq!(found, model.get(&key).map(|nodes| peer(*nodes)));
    }
    let rows: HashMap<Addr, PeerRecord> = view.rows(Table::Peer).collect();
    prop_assert_eq!(rows, model.iter().map(|(key, nodes)| (addr(*key), peer(*nodes))).collect());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Runs of insertions and removals, with and without a word about how many come: a map, in either copy, however large.
    #[test]
    fn a_table_that_grows_is_a_map(ops in prop::collection::vec((0u32..1500, 1u32..400, 0u8..5, any::<bool>()), 1..24)) {
        let (mut publisher, mut model) = (publisher(), HashMap::new());
        for (i, (first, count, op, is_told)) in ops.into_iter().enumerate() {
            let mut batch = publisher.batch([]).unwrap();
            if is_told && op > 1 {
                batch.expect_rows(Table::Peer, count as usize);
            }
            for key in first..first + count {
                if op < 2 {
                    prop_assert_eq!(batch.remove(Table::Peer, &addr(key)), model.remove(&key).is_some());
                } else {
                    batch.insert(Table::Peer, &addr(key), &peer(i as u32)).unwrap();
                    model.insert(key, i as u32);
                }
            }
            check(&batch.view(), &model, 1900)?;
            prop_assert_eq!(publisher.rows[Table::Peer as usize], model.len());
            if op != 2 {
                publisher.batch([]).unwrap().publish();
                check(&publisher.live(), &model, 1900)?;
            }
        }
    }
}

#[test]
fn slots_follow_the_rows_up_to_what_the_table_has() {
    let mut publisher = publisher();
    let mut batch = publisher.batch([]).unwrap();
    assert_eq!(batch.view().slot_mask(Table::Peer), 0, "nothing was ever written");
    let mut grown = Vec::new();
    for n in 0..PEERS_MAX as u32 {
        batch.insert(Table::Peer, &addr(n), &peer(1)).unwrap();
        let slots = batch.view().slot_mask(Table::Peer) + 1;
        assert!(slots >= (4 * (n as usize + 1)).min(2 * PEERS_MAX) && slots.is_power_of_two(), "{n}: {slots}");
        if grown.last() != Some(&slots) {
            grown.push(slots);
        }
    }
    assert_eq!(grown, [256, 512, 1024, 2048, 4096, 8192, 16384, 32768]);
    batch.expect_rows(Table::Service, 10_000);
    assert_eq!(batch.view().slot_mask(Table::Service) + 1, 65_536, "at once");
}

#[test]
fn a_table_that_is_full_says_so_and_keeps_what_it_has() {
    let mut publisher = publisher();
    let mut batch = publisher.batch([]).unwrap();
    let inserted = (0..).take_while(|n| batch.insert(Table::Peer, &addr(*n), &peer(1)).is_ok()).count();
    assert!((PEERS_MAX..=2 * PEERS_MAX).contains(&inserted), "{inserted}");
    assert_eq!(batch.view().rows::<Addr, PeerRecord>(Table::Peer).count(), inserted);
    assert_eq!(batch.insert(Table::Peer, &addr(0), &peer(2)), Ok(()), "that row is there");
}

#[test]
fn a_damaged_count_of_slots_leads_nowhere_outside_of_the_table() {
    let mut publisher = publisher();
    let mut batch = publisher.batch([]).unwrap();
    let key = PolicyKey::new(1, Direction::Ingress, 7);
    batch.insert(Table::Policy, &key, &PolicyRow::zeroed()).unwrap();
    batch.insert(Table::Peer, &addr(1), &peer(1)).unwrap();
    let masks = Layout::full().place(Table::Masks);
    for damaged in [0, 5, u64::MAX, 1 << 63, 0x5555_5555_5555_5555] {
        (0..masks.capacity).for_each(|table| publisher.put(masks.offset + table, &damaged));
        let view = publisher.idle();
        for table in [Table::Peer, Table::Policy] {
            assert!(view.slot_mask(table) < Layout::full().place(table).capacity);
        }
        let _: Option<PeerRecord> = view.find(Table::Peer, &addr(1));
        assert!(view.rows::<Addr, PeerRecord>(Table::Peer).count() <= 2);
    }
}
