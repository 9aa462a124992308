//! Has anything become slower? A few cases run in turns with two yardsticks that do not depend on Fairway, and what each
//! costs in yardsticks is compared with a baseline: so the machine's clock, and mostly the machine, cancel out.

use crate::case::{By, Case, Derived, Group, Planned, Seen, Watched};
use crate::figures::Row;
use crate::node::shuffled;
use crate::{clock, engine, lookups, new_flows};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;

/// A case that moved by more than this share, up or down, fails the check: faster ones want a new baseline, or the next
/// slower one goes unnoticed.
const MARGIN: f64 = 0.25;
const TITLE: &str = "check";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Yardstick {
    /// Arithmetic, each step waiting for the one before.
    Clock,
    /// Reads all over much memory, each waiting for the one before.
    Memory,
}

impl Yardstick {
    fn name(self) -> &'static str {
        if self == Yardstick::Clock { "hash steps" } else { "memory reads" }
    }
}

/// What is checked: name, size, and what it mostly waits for.
const CHOSEN: [(&str, &str, Yardstick); 7] = [
    (engine::ENCAP, "10k flows", Yardstick::Clock),
    (engine::DECAP, "10k flows", Yardstick::Clock),
    (engine::LOCAL, "10k flows", Yardstick::Clock),
    (engine::ENCAP, "1M flows", Yardstick::Memory),
    (new_flows::ENCAP, new_flows::USUAL, Yardstick::Clock),
    (lookups::PARSE, lookups::FRAMES.1, Yardstick::Clock),
    (lookups::POLICY, lookups::RULES_SIZE.1, Yardstick::Clock),
];

/// What each checked case cost, in its yardstick.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// Where it was measured.
    pub cpu: String,
    pub cases: BTreeMap<String, f64>,
}

/// The chosen ones of all cases, each with its reference before and its ratio behind it.
pub fn group(all: Vec<Group>) -> Group {
    let (ticks, reads) = (Seen::default(), Seen::default());
    let mut cases = vec![
        yardstick(Yardstick::Clock, ticks.clone(), || Ok(hash_steps())),
        yardstick(Yardstick::Memory, reads.clone(), || Ok(memory_reads())),
    ];
    for group in all {
        let mut reference = None;
        for case in group.cases {
            let chosen = CHOSEN.iter().find(|(what, size, _)| (*what, *size) == (&*case.what, &*case.size));
            match (&case.by, chosen) {
                (By::Reference, _) => reference = Some(case),
                (By::Ours, Some((.., Yardstick::Clock))) => {
                    in_yardsticks(&mut cases, reference.take(), case, &ticks);
                }
                (By::Ours, Some(_)) => in_yardsticks(&mut cases, reference.take(), case, &reads),
                _ => {}
            }
        }
    }
    Group { title: TITLE, about: "What changes cost, in yardsticks of the same run.", cases }
}

fn in_yardsticks(cases: &mut Vec<Planned>, reference: Option<Planned>, case: Planned, yardstick: &Seen) {
    let (what, size, subtract) = (case.what.clone(), case.size.clone(), case.subtract);
    let mut of = vec![yardstick.clone()];
    for planned in reference.filter(|_| subtract).into_iter().chain([case]) {
        let seen = Seen::default();
        of.push(seen.clone());
        cases.push(watched(planned, seen));
    }
    let how = |costs: &[f64]| match *costs {
        [yardstick, reference, all] => (all - reference) / yardstick,
        [yardstick, all] => all / yardstick,
        _ => f64::NAN,
    };
    cases.push(Planned::ours(&what, &size, move || Ok(Derived { of, how, is_time: false })).unit("ratio"));
}

fn watched(planned: Planned, seen: Seen) -> Planned {
    let make = planned.make;
    Planned { make: Box::new(move || Ok(Box::new(Watched { case: make()?, seen }))), ..planned }
}

fn yardstick<C: Case + 'static>(
    yardstick: Yardstick,
    seen: Seen,
    make: impl FnOnce() -> Result<C> + 'static,
) -> Planned {
    let make = move || Ok(Watched { case: make()?, seen });
    Planned::ours(yardstick.name(), "yardstick", make).by(By::Reference)
}

const STEPS: u64 = 1 << 14;

fn hash_steps() -> impl Case {
    let mut state = 1u64;
    move || {
        Ok(clock::repeat(|| {
            for _ in 0..STEPS {
                state = (state ^ state >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            }
            black_box(state);
            STEPS
        }))
    }
}

/// Lines of 64 bytes, 64 MiB of them, in one random circle.
fn memory_reads() -> impl Case {
    let order = shuffled(1 << 20);
    let mut lines = vec![[0u32; 16]; order.len()];
    for (i, &line) in order.iter().enumerate() {
        lines[line as usize][0] = order[(i + 1) % order.len()];
    }
    let mut at = 0;
    move || {
        Ok(clock::repeat(|| {
            (0..STEPS).for_each(|_| at = lines[at as usize][0]);
            black_box(at);
            STEPS
        }))
    }
}

/// What a run found. A case that failed is an error.
pub fn measured(rows: &[Row], cpu: &str) -> Result<Baseline> {
    let mut cases = BTreeMap::new();
    for row in rows {
        let name = format!("{}, {}", row.what, row.size);
        match (&row.figures, &row.error) {
            (Some(figures), _) if row.unit == "ratio" => drop(cases.insert(name, figures.median)),
            (None, Some(reason)) => bail!("{name} failed: {reason}"),
            _ => {}
        }
    }
    let missing = CHOSEN.iter().find(|(what, size, _)| !cases.contains_key(&format!("{what}, {size}")));
    ensure!(
        missing.is_none(),
        "no case is called {missing:?} any more: say in check.rs what to check instead",
        missing = missing.map(|m| m.0)
    );
    Ok(Baseline { cpu: cpu.to_owned(), cases })
}

/// One line for each case, and whether all stayed within the margin.
pub fn compare(baseline: &Baseline, now: &Baseline) -> (Vec<String>, bool) {
    let names: Vec<&String> =
        baseline.cases.keys().chain(now.cases.keys().filter(|name| !baseline.cases.contains_key(*name))).collect();
    let lines = names.into_iter().map(|name| line(name, baseline.cases.get(name), now.cases.get(name)));
    let (lines, within): (Vec<String>, Vec<bool>) = lines.unzip();
    (lines, within.into_iter().all(|within| within))
}

fn line(name: &str, before: Option<&f64>, now: Option<&f64>) -> (String, bool) {
    let (Some(before), Some(now)) = (before, now) else {
        let side = if before.is_none() { "in this run" } else { "in the baseline" };
        return (format!("{name}: only {side}"), false);
    };
    let moved = now / before - 1.0;
    let within = moved.abs() <= MARGIN;
    let verdict = match (within, moved > 0.0) {
        (true, _) => "",
        (false, true) => "  SLOWER",
        (false, false) => "  FASTER: write a new baseline",
    };
    (format!("{name}: {before:.2} -> {now:.2} yardsticks, {:+.1} %{verdict}", moved * 100.0), within)
}

pub fn read(file: &Path) -> Result<Baseline> {
    let text = std::fs::read(file);
    let text =
        text.with_context(|| format!("no baseline in {}: write one with `make bench-baseline`", file.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is no baseline: write a new one", file.display()))
}

/// Compares and says so; an error if something moved.
pub fn judge(file: &Path, now: &Baseline) -> Result<()> {
    let baseline = read(file)?;
    if baseline.cpu != now.cpu {
        println!("the baseline is from another kind of CPU ({}): expect some to have moved", baseline.cpu);
    }
    let (lines, within) = compare(&baseline, now);
    println!("{}", lines.join("\n"));
    let margin = MARGIN * 100.0;
    ensure!(
        within,
        "something moved by more than {margin} %, see above; if it should, `make bench-baseline` and commit it"
    );
    println!("all within {margin} % of the baseline");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn baseline(cases: &[(&str, f64)]) -> Baseline {
        let cases = cases.iter().map(|(name, cost)| (name.to_string(), *cost)).collect();
        Baseline { cpu: "any".into(), cases }
    }

    #[test]
    fn what_moved_beyond_the_margin_fails_either_way() {
        let before = baseline(&[("a", 100.0), ("b", 8.0)]);
        let fails = |cost: f64| !compare(&before, &baseline(&[("a", cost), ("b", 8.0)])).1;
        assert_eq!([74.0, 76.0, 124.0, 126.0].map(fails), [true, false, false, true]);
        let (lines, _) = compare(&before, &baseline(&[("a", 130.0), ("b", 8.0)]));
        assert!(lines[0].contains("+30.0 %  SLOWER"), "{lines:?}");
    }

    #[test]
    fn a_case_that_only_one_side_has_fails() {
        let (one, two) = (baseline(&[("a", 1.0)]), baseline(&[("a", 1.0), ("b", 1.0)]));
        assert!(!compare(&one, &two).1 && !compare(&two, &one).1);
        assert!(compare(&two, &two).1);
    }

    #[test]
    fn every_chosen_case_exists() {
        let all = engine::groups(false).into_iter().chain(new_flows::groups()).chain(lookups::groups()).collect();
        let found = group(all).cases.iter().filter(|case| case.unit == "ratio").count();
        assert_eq!(found, CHOSEN.len());
    }

    #[test]
    fn a_slower_case_shows_in_its_yardstick() {
        let (yardstick, costs) = (Seen::default(), Seen::default());
        yardstick.set(2.0);
        let mut cases = Vec::new();
        let cost = costs.clone();
        let case = Planned::ours("a", "1", move || Ok(move || Ok(crate::case::Cost::plain(cost.get()))));
        in_yardsticks(&mut cases, None, case, &yardstick);
        let mut made: Vec<Box<dyn Case>> = cases.into_iter().map(|case| (case.make)().unwrap()).collect();
        let mut ratio = |cost: f64| {
            costs.set(cost);
            made.iter_mut().map(|case| case.run().unwrap().ns).last().unwrap()
        };
        assert_eq!([ratio(10.0), ratio(30.0)], [5.0, 15.0]);
    }
}
