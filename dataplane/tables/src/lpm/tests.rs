use super::*;
use crate::publish::{Publisher, TableFull};
use proptest::prelude::*;
use std::collections::HashMap;

type Model = HashMap<Prefix, u64>;

fn publisher() -> Publisher {
    Publisher::create(0x5eed).unwrap()
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn addr(text: &str) -> Addr {
    text.parse().unwrap()
}

/// The value of the longest prefix that holds an address, by reading all of them.
fn naive(model: &Model, addr: Addr) -> Option<u64> {
    model.iter().filter(|(prefix, _)| prefix.contains(addr)).max_by_key(|(prefix, _)| prefix.length()).map(|(_, v)| *v)
}

/// Look-ups of all `asked` say what the model says, and those of IPv4 also in a burst, by any vectors and by the widest.
fn check(view: &View, table: Lpm, model: &Model, asked: &[Addr]) -> Result<(), TestCaseError> {
    for addr in asked {
        prop_assert_eq!(view.longest_match(table, *addr), naive(model, *addr), "{}", addr);
    }
    let v4: Vec<u32> = asked.iter().filter(|addr| addr.is_v4()).map(|addr| addr.low_bits()).collect();
    let (mut found, mut by_any, mut by_widest) = (vec![0; v4.len()], vec![0; v4.len()], vec![0; v4.len()]);
    view.longest_match_burst(table, &v4, &mut found);
    for (&bits, in_burst) in v4.iter().zip(found) {
        let addr = Addr::v4_bits(bits);
        let expected = naive(model, addr).map_or(NO_MATCH, |value| value as u32);
        prop_assert_eq!(in_burst, expected, "{} in a burst", addr);
    }
    let trie = Trie::<ROUTE_ENTRIES>::of(view, Lpm::Route).unwrap();
    cpu::Work::run(Lookups { trie, addrs: &v4, found: &mut by_any });
    view.longest_match_burst(Lpm::Route, &v4, &mut by_widest);
    prop_assert_eq!(by_any, by_widest);
    Ok(())
}

/// The words of both copies of a table of prefixes.
fn copies(publisher: &Publisher, table: Lpm) -> [Vec<u64>; 2] {
    let layout = crate::layout::Layout::full();
    [0, 1].map(|copy| {
        let words = &publisher.region().words()[layout.copy_start + copy * layout.copy_words..];
        // Of the trie the first groups, and the top.
        let groups = layout.place(table.trie()).capacity;
        let top = (groups - TOP_ENTRIES / GROUP_ENTRIES) * GROUP_WORDS..groups * GROUP_WORDS;
        let (all, trie) = (0..usize::MAX, [(table.trie(), 0..1024 * GROUP_WORDS), (table.trie(), top)]);
        let used = [(table.lengths(), all.clone()), (table.prefixes(), all)].into_iter().chain(trie);
        let places = used.flat_map(|(table, part)| {
            let place = layout.place(table);
            place.offset + part.start..place.offset + (place.record_words * place.capacity).min(part.end)
        });
        places.map(|at| words[at].load(Ordering::Relaxed)).collect()
    })
}

/// Addresses that share their first octets often, so that prefixes nest: four choices of each octet, at the edges.
fn any_addr() -> impl Strategy<Value = Addr> {
    let octet = || prop::sample::select(vec![0u8, 1, 128, 255]);
    let v4 = (octet(), octet(), octet(), octet()).prop_map(|(a, b, c, d)| Addr::v4([a, b, c, d]));
    let v6 = (octet(), octet(), octet()).prop_map(|(a, b, c)| {
        let mut octets = [0; 16];
        (octets[0], octets[8], octets[15]) = (a, b, c);
        Addr::v6(octets)
    });
    prop_oneof![3 => v4, 1 => v6]
}

fn any_prefix() -> impl Strategy<Value = Prefix> {
    // Few IPv4 prefixes shorter than 14: each changes thousands of entries.
    let v4_length = prop_oneof![8 => 14u8..=32, 1 => 0u8..=0, 1 => 7u8..14];
    (any_addr(), v4_length, 0u8..=128).prop_map(|(addr, v4_length, v6_length)| {
        Prefix::new(addr, if addr.is_v4() { v4_length } else { v6_length }).unwrap()
    })
}

#[derive(Clone, Debug)]
enum Change {
    Insert(Prefix, u64),
    /// The n-th of those there are.
    Remove(prop::sample::Index),
    Publish,
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        5 => (any_prefix(), 0..=VALUE_MAX).prop_map(|(prefix, value)| Change::Insert(prefix, value)),
        4 => any::<prop::sample::Index>().prop_map(Change::Remove),
        1 => Just(Change::Publish),
    ]
}

fn apply(change: Change, publisher: &mut Publisher, model: &mut Model) -> Result<(), TestCaseError> {
    let mut batch = publisher.batch([]).unwrap();
    match change {
        Change::Insert(prefix, value) => {
            batch.insert_prefix(Lpm::Route, &prefix, value).unwrap();
            model.insert(prefix, value);
        }
        Change::Remove(index) => {
            let mut known: Vec<Prefix> = model.keys().copied().collect();
            known.sort();
            let there = (!known.is_empty()).then(|| *index.get(&known));
            let prefix = there.unwrap_or(prefix("192.0.2.0/24"));
            prop_assert_eq!(batch.remove_prefix(Lpm::Route, &prefix), Ok(model.remove(&prefix).is_some()));
        }
        Change::Publish => {
            batch.publish();
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Whatever comes and goes: the idle copy says what the prefixes say, the live one what they said when published,
    /// and with the last prefix the last group goes.
    #[test]
    fn longest_match_is_the_longest(
        changes in prop::collection::vec(any_change(), 1..120),
        asked in prop::collection::vec(any_addr(), 60..70),
    ) {
        let mut publisher = publisher();
        let (mut model, mut published) = (Model::new(), Model::new());
        for change in changes {
            if matches!(change, Change::Publish) {
                published = model.clone();
            }
            apply(change, &mut publisher, &mut model)?;
            check(&publisher.batch([]).unwrap().view(), Lpm::Route, &model, &asked)?;
            check(&publisher.live(), Lpm::Route, &published, &asked)?;
        }
        for prefix in model.keys() {
            publisher.batch([]).unwrap().remove_prefix(Lpm::Route, prefix).unwrap();
        }
        check(&publisher.batch([]).unwrap().view(), Lpm::Route, &Model::new(), &asked)?;
        prop_assert_eq!(publisher.prefixes[Lpm::Route as usize].groups_used(), 0);
    }

    /// Numbers that nobody wrote: any answer, and soon, for readers and for the writer.
    #[test]
    fn damaged_memory_gives_some_answer(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>(), 0usize..6), 1..200),
        changes in prop::collection::vec(any_change(), 1..40),
        asked in prop::collection::vec(any_addr(), 64),
    ) {
        let mut publisher = publisher();
        let mut model = Model::new();
        let mut batch = publisher.batch([]).unwrap();
        let there = ["10.0.0.0/8", "10.1.0.0/16", "0.0.0.0/32", "1.1.1.1/32", "255.255.255.0/25"];
        for (i, text) in there.iter().enumerate() {
            batch.insert_prefix(Lpm::Route, &prefix(text), i as u64).unwrap();
        }
        let words = batch.view().table_words(Table::RouteTrie);
        let lengths = batch.view().table_words(Table::RouteLengths);
        for (index, value, part) in damage {
            // What look-ups come by in the top, and the first groups; half of the values name those.
            let top = words.len() - TOP_ENTRIES / 2;
            let place = match part {
                0 => lengths,
                1 => &words[..8 * GROUP_WORDS],
                part => &words[top + ((part - 2) << 6)..][..64],
            };
            let value = if value % 2 == 0 { value & 0x8000_0007_8000_0007 } else { value };
            index.get(place).store(value, Ordering::Relaxed);
        }
        let mut found = [0; 64];
        batch.view().longest_match_burst(Lpm::Route, &asked.iter().map(|addr| addr.low_bits()).collect::<Vec<_>>(), &mut found);
        for addr in &asked {
            batch.view().longest_match(Lpm::Route, *addr);
        }
        for change in changes {
            apply(change, &mut publisher, &mut model)?;
        }
    }
}

#[test]
fn taking_a_prefix_away_gives_its_addresses_to_the_next_shorter_one() {
    let mut publisher = publisher();
    let mut batch = publisher.batch([]).unwrap();
    let nested = ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32"];
    for (value, text) in nested.iter().enumerate() {
        batch.insert_prefix(Lpm::Identity, &prefix(text), value as u64).unwrap();
    }
    for (value, text) in nested.iter().enumerate().rev() {
        assert_eq!(batch.view().longest_match(Lpm::Identity, addr("10.1.2.3")), Some(value as u64));
        assert_eq!(batch.remove_prefix(Lpm::Identity, &prefix(text)), Ok(true));
        assert_eq!(batch.remove_prefix(Lpm::Identity, &prefix(text)), Ok(false));
    }
    assert_eq!(batch.view().longest_match(Lpm::Identity, addr("10.1.2.3")), None);
}

#[test]
fn a_change_writes_what_it_changes() {
    let mut publisher = publisher();
    publisher.batch([]).unwrap().expect_rows(Lpm::Route.prefixes(), 1);
    let mut words = |text: &str, is_there: bool| {
        let before = publisher.dirty_words();
        let mut batch = publisher.batch([]).unwrap();
        if is_there {
            batch.remove_prefix(Lpm::Route, &prefix(text)).unwrap();
        } else {
            batch.insert_prefix(Lpm::Route, &prefix(text), 7).unwrap();
        }
        publisher.dirty_words() - before
    };
    // A row of the hash table, perhaps the lengths, and: a group and an entry that names it; an entry; nothing.
    let (row, lengths, group) = (5, size_of::<Lengths>() / 8, GROUP_WORDS + 1);
    assert!(words("10.1.2.0/24", false) <= row + lengths + group + 1);
    assert!(words("10.1.3.0/24", false) <= row + 1);
    assert!(words("0.0.0.0/0", false) <= row + 2 * lengths);
    assert!(words("10.1.3.0/24", true) <= row + 1);
    assert!(words("10.1.3.4/32", false) <= row + lengths + group + 1);
    assert!(words("10.1.3.5/32", false) <= row + 1);
    assert!(words("10.1.0.0/16", false) <= row + lengths + 2 * GROUP_WORDS);
}

#[test]
fn both_copies_are_equal_after_two_publishes() {
    let mut publisher = publisher();
    for round in 0..3u64 {
        let mut batch = publisher.batch([]).unwrap();
        for i in 0..500u64 {
            let bits = crate::hash::hash(&[round, i], 1) as u32 & 0x000f_ffff;
            let prefix = Prefix::new(Addr::v4(bits.to_be_bytes()), (8 + i % 25) as u8).unwrap();
            match i % 3 {
                0 => drop(batch.remove_prefix(Lpm::Route, &prefix)),
                _ => batch.insert_prefix(Lpm::Route, &prefix, i).unwrap(),
            }
        }
        batch.publish();
        let [a, b] = copies(&publisher, Lpm::Route);
        assert!(a != b, "nothing was published");
        publisher.batch([]).unwrap().publish();
        publisher.batch([]).unwrap();
        let [a, b] = copies(&publisher, Lpm::Route);
        assert!(a == b, "after round {round}");
    }
}

/// Host routes each alone in its /24, the worst case for groups, up to the limit; one more is refused and changes
/// nothing.
#[test]
fn the_limit_holds_and_a_refusal_changes_nothing() {
    let host = |i: usize| Prefix::host(Addr::v4([10, (i >> 8) as u8, i as u8, 2]));
    let mut publisher = publisher();
    let mut batch = publisher.batch([]).unwrap();
    for i in 0..ROUTES_MAX {
        batch.insert_prefix(Lpm::Route, &host(i), i as u64).unwrap();
    }
    let before = batch.publisher.dirty_words();
    let full = TableFull { table: "route_prefix", limit: ROUTES_MAX };
    assert_eq!(batch.insert_prefix(Lpm::Route, &host(ROUTES_MAX), 1), Err(full.clone()));
    assert_eq!(batch.insert_prefix(Lpm::Route, &prefix("2001:db8::/32"), 1), Err(full));
    assert_eq!(batch.publisher.dirty_words(), before);
    assert_eq!(batch.view().longest_match(Lpm::Route, host(ROUTES_MAX).addr()), None);
    for i in 0..ROUTES_MAX {
        assert_eq!(batch.view().longest_match(Lpm::Route, host(i).addr()), Some(i as u64));
    }
    batch.insert_prefix(Lpm::Route, &host(5), 1 << 20).unwrap();
    assert_eq!(batch.remove_prefix(Lpm::Route, &host(6)), Ok(true));
    batch.insert_prefix(Lpm::Route, &host(ROUTES_MAX), 1).unwrap();
}

#[test]
fn a_value_that_cannot_be_said_is_refused() {
    let mut publisher = publisher();
    let mut batch = publisher.batch([]).unwrap();
    for text in ["10.0.0.0/8", "2001:db8::/32"] {
        assert!(batch.insert_prefix(Lpm::Route, &prefix(text), VALUE_MAX + 1).is_err());
        assert_eq!(batch.view().longest_match(Lpm::Route, prefix(text).addr()), None);
    }
}
