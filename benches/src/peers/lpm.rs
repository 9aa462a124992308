//! Longest prefix match beside rte_fib and rte_lpm: routes of a cluster of 5,000 nodes, and its identities.

use super::{Agreement, BURST, Cursor, Lookups, keys, program, resident};
use crate::case::{Case, Group, Planned, Target};
use anyhow::Result;
use tables::lpm::Lpm;
use tables::{Addr, Publisher};

const WHAT: &str = "longest prefix match";
/// Few enough for the second-level cache: the table is to be measured, not the stream of addresses.
const ADDRESSES: u32 = 1 << 15;
const TARGET_RATIO: f64 = 1.0;

pub fn groups(full: bool) -> Vec<Group> {
    // rte_lpm's insertion is linear in its rules: 13 s for the identities.
    vec![
        group("5k routes", "nodes", (Lpm::Route, keys::NODES_PREFIXES), true),
        group("200k identities", "mixed", (Lpm::Identity, keys::MIXED_PREFIXES), full),
    ]
}

fn group(size: &str, set: &str, (table, prefixes): (Lpm, u32), with_rte_lpm: bool) -> Group {
    let agreement = Agreement::default();
    let dpdk = |peer, kind: &str| program((WHAT, size, peer), ("fib", &[kind, set]), &agreement);
    let ours_agrees = agreement.clone();
    let mut cases = vec![
        Planned::ours(WHAT, size, move || ours(table, prefixes, &ours_agrees)),
        dpdk("rte_fib", "fib").target(Target::ratio(TARGET_RATIO)),
    ];
    if with_rte_lpm {
        cases.extend([dpdk("rte_lpm", "lpm"), dpdk("rte_lpm x4", "lpmx4")]);
    }
    Group {
        title: "prefixes",
        about: "Random IPv4 addresses in bursts of 64. Ours holds both families. rte_fib: DIR24-8, its vector look-up.",
        cases,
    }
}

fn ours(table: Lpm, prefixes: u32, agreement: &Agreement) -> Result<impl Case + use<>> {
    let before = resident();
    let mut publisher = Publisher::create(7)?;
    let mut batch = publisher.batch([]).expect("nobody reads yet");
    for i in 0..prefixes {
        batch.insert_prefix(table, &keys::prefix(i), i as u64 + 1)?;
    }
    batch.publish();
    let bytes = resident().saturating_sub(before);
    let addrs: Vec<u32> = (0..ADDRESSES).map(keys::address).collect();
    let view = publisher.live();
    agreement.check(addrs.iter().map(|&addr| view.longest_match(table, Addr::v4_bits(addr)).unwrap_or(0)).sum())?;
    let (mut cursor, mut found) = (Cursor::new(addrs.len()), [0; BURST]);
    let bursts = move |count| {
        let (view, mut answers) = (publisher.live(), 0);
        for _ in 0..count {
            view.longest_match_burst(table, &addrs[cursor.advance()], &mut found);
            answers += found.iter().map(|&value| value as u64).sum::<u64>();
        }
        answers
    };
    Ok(Lookups { bytes, bursts })
}
