//! Has anything become slower? A few cases run in turns with two yardsticks that do not depend on Fairway, and what each
//! costs in yardsticks is compared with a baseline: so the machine's clock cancels out. The kind of CPU does not quite, so
//! each has its own baseline.

use crate::case::{By, Case, Derived, Group, Planned, Seen, Watched};
use crate::figures::Row;
use crate::node::shuffled;
use crate::{clock, engine, lookups, new_flows};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::io::ErrorKind;
use std::path::Path;

/// A case that moved by more than this share, up or down, fails the check: faster ones want a new baseline, or the next
/// slower one goes unnoticed.
const MARGIN: f64 = 0.25;
/// On a kind of CPU that has no baseline yet, a case fails beyond this many times what the others' say, either way.
const STRANGE: f64 = 2.0;
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
const CHOSEN: [(&str, &str, Yardstick); 8] = [
    (engine::ENCAP, "10k flows", Yardstick::Clock),
    (engine::ENCAP_V6, "10k flows", Yardstick::Clock),
    (engine::DECAP, "10k flows", Yardstick::Clock),
    (engine::LOCAL, "10k flows", Yardstick::Clock),
    (engine::ENCAP, "1M flows", Yardstick::Memory),
    (new_flows::ENCAP, new_flows::USUAL, Yardstick::Clock),
    (lookups::PARSE, lookups::FRAMES.1, Yardstick::Clock),
    (lookups::POLICY, lookups::RULES_SIZE.1, Yardstick::Clock),
];

/// What each checked case cost, in its yardstick, by name.
pub type Costs = BTreeMap<String, f64>;

/// By kind of CPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Baselines(BTreeMap<String, Costs>);

/// The least and the most that a case may cost.
type Bounds = (f64, f64);

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
pub fn measured(rows: &[Row]) -> Result<Costs> {
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
    Ok(cases)
}

impl Baselines {
    /// None where the file does not exist yet.
    fn found(file: &Path) -> Result<Option<Baselines>> {
        let text = match std::fs::read(file) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("cannot read {}", file.display()))?,
        };
        let found = serde_json::from_slice(&text);
        found.map(Some).with_context(|| format!("{} holds no baselines: remove it", file.display()))
    }

    /// What each case may cost on this kind of CPU.
    fn bounds(&self, cpu: &str) -> BTreeMap<&str, Bounds> {
        let (of, down, up) = match self.0.get(cpu) {
            Some(costs) => (vec![costs], 1.0 - MARGIN, 1.0 + MARGIN),
            None => (self.0.values().collect(), 1.0 / STRANGE, STRANGE),
        };
        let mut bounds = BTreeMap::new();
        for (name, cost) in of.into_iter().flatten() {
            let (least, most) = bounds.entry(name.as_str()).or_insert((f64::INFINITY, 0.0f64));
            (*least, *most) = (least.min(cost * down), most.max(cost * up));
        }
        bounds
    }
}

/// Puts what was found in place of this kind of CPU's baseline; other kinds keep theirs.
pub fn write(file: &Path, cpu: &str, now: Costs) -> Result<()> {
    let mut baselines = Baselines::found(file)?.unwrap_or_default();
    baselines.0.insert(cpu.to_owned(), now);
    let text = serde_json::to_string_pretty(&baselines)? + "\n";
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// One line for each case, and whether all stayed within their bounds.
fn compare(bounds: &BTreeMap<&str, Bounds>, now: &Costs) -> (Vec<String>, bool) {
    let names: BTreeSet<&str> = bounds.keys().copied().chain(now.keys().map(String::as_str)).collect();
    let lines = names.into_iter().map(|name| line(name, bounds.get(name), now.get(name)));
    let (lines, within): (Vec<String>, Vec<bool>) = lines.unzip();
    (lines, within.into_iter().all(|within| within))
}

fn line(name: &str, bounds: Option<&Bounds>, now: Option<&f64>) -> (String, bool) {
    let (Some(&(least, most)), Some(&now)) = (bounds, now) else {
        let side = if bounds.is_none() { "in this run" } else { "in the baseline" };
        return (format!("{name}: only {side}"), false);
    };
    let verdict = match () {
        () if now > most => "  SLOWER",
        () if now < least => "  FASTER: write a new baseline",
        () => "",
    };
    (format!("{name}: {now:.2} yardsticks, {least:.2} to {most:.2} allowed{verdict}"), verdict.is_empty())
}

/// Compares and says so; an error if something moved.
pub fn judge(file: &Path, cpu: &str, now: &Costs) -> Result<()> {
    let baselines = Baselines::found(file)?;
    let baselines = baselines
        .with_context(|| format!("no baseline in {}: write one with `make bench-baseline`", file.display()))?;
    match baselines.0.contains_key(cpu) {
        true => println!("within {} % of the baseline of {cpu} is allowed", MARGIN * 100.0),
        false => {
            println!("{cpu} has no baseline (`make bench-baseline`): within {STRANGE} x of the others' is allowed")
        }
    }
    let (lines, within) = compare(&baselines.bounds(cpu), now);
    println!("{}", lines.join("\n"));
    ensure!(within, "something moved by more, see above; if it should, `make bench-baseline` and commit it");
    println!("nothing moved by more");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(cases: &[(&str, f64)]) -> Costs {
        cases.iter().map(|(name, cost)| (name.to_string(), *cost)).collect()
    }

    fn baselines() -> Baselines {
        let kinds = [("one", costs(&[("a", 100.0), ("b", 8.0)])), ("other", costs(&[("a", 160.0), ("b", 8.0)]))];
        Baselines(kinds.into_iter().map(|(cpu, costs)| (cpu.into(), costs)).collect())
    }

    fn fails(cpu: &str, a: f64) -> bool {
        !compare(&baselines().bounds(cpu), &costs(&[("a", a), ("b", 8.0)])).1
    }

    #[test]
    fn what_moved_beyond_the_margin_fails_either_way() {
        assert_eq!([74.0, 76.0, 124.0, 126.0].map(|a| fails("one", a)), [true, false, false, true]);
        assert_eq!([119.0, 121.0, 199.0, 201.0].map(|a| fails("other", a)), [true, false, false, true]);
        let (lines, _) = compare(&baselines().bounds("one"), &costs(&[("a", 130.0), ("b", 8.0)]));
        assert!(lines[0].contains("75.00 to 125.00 allowed  SLOWER"), "{lines:?}");
    }

    #[test]
    fn a_strange_cpu_has_the_others_span_and_a_wider_margin() {
        assert_eq!([49.0, 51.0, 319.0, 321.0].map(|a| fails("strange", a)), [true, false, false, true]);
    }

    #[test]
    fn a_case_that_only_one_side_has_fails() {
        let (less, more) = (costs(&[("a", 100.0)]), costs(&[("a", 100.0), ("b", 8.0), ("c", 1.0)]));
        let is_within = |now: &Costs| compare(&baselines().bounds("one"), now).1;
        assert!(!is_within(&less) && !is_within(&more));
    }

    #[test]
    fn a_baseline_is_written_beside_those_of_other_kinds() {
        let file = std::env::temp_dir().join(format!("fairway-baselines-{}", std::process::id()));
        assert_eq!(Baselines::found(&file).unwrap(), None);
        assert!(judge(&file, "one", &costs(&[])).unwrap_err().to_string().contains("make bench-baseline"));
        for (cpu, costs) in baselines().0 {
            write(&file, &cpu, costs).unwrap();
        }
        assert_eq!(Baselines::found(&file).unwrap(), Some(baselines()));
        judge(&file, "other", &costs(&[("a", 150.0), ("b", 8.0)])).unwrap();
        judge(&file, "one", &costs(&[("a", 150.0), ("b", 8.0)])).unwrap_err();
        std::fs::remove_file(file).unwrap();
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
