//! The flow table beside rte_hash and hashbrown: established flows found by their tuples, in random order.

use super::{Agreement, BURST, Cursor, Lookups, keys, program, short};
use crate::case::{By, Case, Group, Planned, Target};
use crate::node::shuffled;
use anyhow::{Result, anyhow};
use dataplane::flow::{FlowTable, Way};
use hashbrown::HashMap;
use tables::flow::{FlowLayout, FlowRecord, Hop, HopKind, Tuple};

const WHAT: &str = "flow look-up";
const SIZES: [u32; 4] = [10_000, 100_000, 1_000_000, 4_000_000];
/// From here on rte_hash is to be beaten by so much.
const TARGET_FLOWS: u32 = 1_000_000;
const TARGET_RATIO: f64 = 1.5;

pub fn groups() -> Vec<Group> {
    SIZES.into_iter().map(group).collect()
}

fn group(flows: u32) -> Group {
    let (size, agreement) = (format!("{} flows", short(flows)), Agreement::default());
    let target = if flows >= TARGET_FLOWS { Target::ratio(TARGET_RATIO) } else { Target::default() };
    let rte_hash = |peer, key_bytes: &str, answer: &str| {
        program((WHAT, &size, peer), ("hash", &[key_bytes, &flows.to_string(), answer]), &agreement)
    };
    let (first, second) = (agreement.clone(), agreement.clone());
    Group {
        title: "flow table",
        about: "From a tuple to its flow's record, of which a field is read; random order, bursts of 64, all sides fetch \
                ahead. Behind rte_hash's value stands a record of one cache line; \"value\" reads no more than what lies \
                beside the key. Its keys are our 40 bytes padded to 48, which it compares faster, or 16.",
        cases: vec![
            Planned::ours(WHAT, &size, move || ours(flows, &first)),
            rte_hash("rte_hash", "48", "record").target(target),
            rte_hash("rte_hash, value", "48", "value").target(target),
            rte_hash("rte_hash, 16 bytes", "16", "record"),
            rte_hash("rte_hash, 16, value", "16", "value"),
            Planned::ours(WHAT, &size, move || hashbrown(flows, &second)).by(By::Peer("hashbrown")),
        ],
    }
}

fn record(i: u32) -> FlowRecord {
    let inside = keys::tuple(i);
    let mut record = FlowRecord::new(inside, &inside);
    record.out = Hop::new(HopKind::Interface, i + 1);
    record
}

fn tuples(flows: u32) -> Vec<Tuple> {
    shuffled(flows).into_iter().map(keys::tuple).collect()
}

fn ours(flows: u32, agreement: &Agreement) -> Result<impl Case + use<>> {
    let layout = FlowLayout::for_capacity(flows as usize * 5 / 4);
    let mut table = FlowTable::new(layout.create(0, 1, 7, 0)?)?;
    for i in 0..flows {
        table.insert(record(i)).map_err(|reason| anyhow!("flow {i} of {flows} finds no room: {}", reason.name()))?;
    }
    let tuples = tuples(flows);
    let found = |tuple| table.find(tuple, Way::Out).map_or(0, |id| table.record(id).out.target as u64);
    agreement.check(tuples.iter().map(found).sum())?;
    let (mut cursor, mut found) = (Cursor::new(tuples.len()), [None; BURST]);
    let bursts = move |count| {
        let mut answers = 0;
        for _ in 0..count {
            table.find_burst(&tuples[cursor.advance()], Way::Out, &mut found);
            answers += found.iter().flatten().map(|&id| table.record(id).out.target as u64).sum::<u64>();
        }
        answers
    };
    Ok(Lookups { bytes: layout.region_words() as u64 * 8, bursts })
}

fn hashbrown(flows: u32, agreement: &Agreement) -> Result<impl Case + use<>> {
    // Words are hashed faster than the tuple's fields one by one.
    let words = |tuple: Tuple| -> [u64; 5] { bytemuck::cast(tuple) };
    let mut map: HashMap<[u64; 5], FlowRecord> = HashMap::with_capacity(flows as usize);
    map.extend((0..flows).map(|i| (words(keys::tuple(i)), record(i))));
    let keys: Vec<[u64; 5]> = tuples(flows).into_iter().map(words).collect();
    agreement.check(keys.iter().map(|key| map[key].out.target as u64).sum())?;
    let (bytes, mut cursor) = (map.allocation_size() as u64, Cursor::new(keys.len()));
    let bursts = move |count| {
        let bursts = (0..count).map(|_| cursor.advance());
        bursts.flat_map(|burst| &keys[burst]).map(|key| map.get(key).map_or(0, |record| record.out.target as u64)).sum()
    };
    Ok(Lookups { bytes, bursts })
}
