//! Has anything become slower? A few cases run in turns with two yardsticks that do not depend on Fairway, and what each
//! costs in yardsticks is compared with a baseline: so the machine's clock cancels out. The kind of CPU does not quite, so
//! each has its own baseline.

use crate::case::{By, Case, Derived, Group, Planned, Seen, Watched};
use crate::figures::{self, Row};
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
/// A baseline is the median of so many; a case fails that moved in so many.
const RUNS: usize = 3;
const TITLE: &str = "check";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Yardstick {
    /// Its lines are in the second-level cache.
    Cache,
    /// Its lines are all over much memory.
    Memory,
}

impl Yardstick {
    fn name(self) -> &'static str {
        if self == Yardstick::Cache { "items" } else { "items in memory" }
    }

    /// Of 64 bytes: 512 KiB, 128 MiB.
    fn lines(self) -> usize {
        if self == Yardstick::Cache { 1 << 13 } else { 1 << 21 }
    }
}

/// What is checked: name, size, and what it mostly waits for.
const CHOSEN: [(&str, &str, Yardstick); 8] = [
    (engine::ENCAP, "10k flows", Yardstick::Cache),
    (engine::ENCAP_V6, "10k flows", Yardstick::Cache),
    (engine::DECAP, "10k flows", Yardstick::Cache),
    (engine::LOCAL, "10k flows", Yardstick::Cache),
    (engine::ENCAP, "1M flows", Yardstick::Memory),
    (new_flows::ENCAP, new_flows::USUAL, Yardstick::Cache),
    (lookups::PARSE, lookups::FRAMES.1, Yardstick::Cache),
    (lookups::POLICY, lookups::RULES_SIZE.1, Yardstick::Cache),
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
    let (cache, memory) = (Seen::default(), Seen::default());
    let mut cases = vec![yardstick(Yardstick::Cache, cache.clone()), yardstick(Yardstick::Memory, memory.clone())];
    for group in all {
        let mut reference = None;
        for case in group.cases {
            let chosen = CHOSEN.iter().find(|(what, size, _)| (*what, *size) == (&*case.what, &*case.size));
            match (&case.by, chosen) {
                (By::Reference, _) => reference = Some(case),
                (By::Ours, Some((.., Yardstick::Cache))) => {
                    in_yardsticks(&mut cases, reference.take(), case, &cache);
                }
                (By::Ours, Some(_)) => in_yardsticks(&mut cases, reference.take(), case, &memory),
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

fn yardstick(yardstick: Yardstick, seen: Seen) -> Planned {
    let make = move || Ok(Watched { case: items(yardstick.lines()), seen });
    Planned::ours(yardstick.name(), "yardstick", make).by(By::Reference)
}

/// Bursts of items that do not wait for each other, as packets do not: so what a neighbour on the core takes away is taken
/// from both. Arithmetic makes each item's hash; its line is read, counted in and written elsewhere.
fn items(lines: usize) -> impl Case {
    const ITEMS: usize = 256;
    const BURSTS: u64 = 64;
    let mut table = vec![[1u64; 8]; lines];
    let (mut hashes, mut out) = ([0; ITEMS], [[0; 8]; ITEMS]);
    let mut seed = 0;
    move || {
        Ok(clock::repeat(|| {
            for _ in 0..BURSTS {
                hashes = std::array::from_fn(|i| hash_steps(seed + i as u64) as usize % lines);
                seed += ITEMS as u64;
                for (&hash, out) in hashes.iter().zip(&mut out) {
                    let line = &mut table[hash];
                    line[7] += 1;
                    *out = std::array::from_fn(|k| line[k].rotate_left(k as u32) ^ hash as u64);
                }
                black_box(&out);
            }
            BURSTS * ITEMS as u64
        }))
    }
}

fn hash_steps(seed: u64) -> u64 {
    (0..4).fold(seed, |state, _| (state ^ state >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15)) >> 32
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

/// Each case's median of some runs.
pub fn baseline(mut measure: impl FnMut() -> Result<Costs>) -> Result<Costs> {
    let runs = (0..RUNS).map(|_| measure()).collect::<Result<Vec<Costs>>>()?;
    let median = |name: &String| figures::median(runs.iter().filter_map(|run| run.get(name).copied()));
    Ok(runs[0].keys().map(|name| (name.clone(), median(name))).collect())
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

/// Measures, compares and says so; what moved is measured again, since now and then pages lie badly or a neighbour is busy
/// for as long as a run takes. An error if something moved in every run.
pub fn judge(file: &Path, cpu: &str, mut measure: impl FnMut() -> Result<Costs>) -> Result<()> {
    let baselines = Baselines::found(file)?;
    let baselines = baselines
        .with_context(|| format!("no baseline in {}: write one with `make bench-baseline`", file.display()))?;
    let bounds = baselines.bounds(cpu);
    let mut now = Costs::new();
    for run in 1..=RUNS {
        let moved = |name: &str, cost: Option<&f64>| !line(name, bounds.get(name), cost).1;
        let measured = measure()?.into_iter();
        let again: Costs = measured.filter(|(name, _)| moved(name, now.get(name))).collect();
        now.extend(again);
        println!("{}", allowed(cpu, baselines.0.contains_key(cpu)));
        let (lines, within) = compare(&bounds, &now);
        println!("{}", lines.join("\n"));
        if within {
            println!("nothing moved by more");
            return Ok(());
        }
        println!("something moved by more in run {run} of {RUNS}");
    }
    bail!("something moved by more, see above; if it should, `make bench-baseline` and commit it")
}

fn allowed(cpu: &str, is_known: bool) -> String {
    match is_known {
        true => format!("within {} % of the baseline of {cpu} is allowed", MARGIN * 100.0),
        false => format!("{cpu} has no baseline (`make bench-baseline`): within {STRANGE} x of the others' is allowed"),
    }
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
    fn a_baseline_is_the_median_of_each_case() {
        let mut runs = [(3.0, 10.0), (1.0, 30.0), (2.0, 20.0)].into_iter();
        let found = baseline(|| Ok(runs.next().map(|(a, b)| costs(&[("a", a), ("b", b)])).unwrap())).unwrap();
        assert_eq!(found, costs(&[("a", 2.0), ("b", 20.0)]));
    }

    #[test]
    fn a_baseline_is_written_beside_those_of_other_kinds() {
        let file = std::env::temp_dir().join(format!("fairway-baselines-{}", std::process::id()));
        assert_eq!(Baselines::found(&file).unwrap(), None);
        assert!(judge(&file, "one", || Ok(costs(&[]))).unwrap_err().to_string().contains("make bench-baseline"));
        for (cpu, costs) in baselines().0 {
            write(&file, &cpu, costs).unwrap();
        }
        assert_eq!(Baselines::found(&file).unwrap(), Some(baselines()));
        judge(&file, "other", || Ok(costs(&[("a", 150.0), ("b", 8.0)]))).unwrap();
        judge(&file, "one", || Ok(costs(&[("a", 150.0), ("b", 8.0)]))).unwrap_err();
        // Each case was within in one of the runs.
        let mut runs = [(150.0, 8.0), (150.0, 8.0), (100.0, 20.0)].into_iter();
        judge(&file, "one", || Ok(runs.next().map(|(a, b)| costs(&[("a", a), ("b", b)])).unwrap())).unwrap();
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
