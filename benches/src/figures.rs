//! From what each round cost to what is reported: medians, spreads, what references take off, and ratios between ours and
//! peers, both taken round by round, so that a clock that swings does so on both sides. Must not print.

use crate::case::{By, Cost, Target};
use serde::{Deserialize, Serialize};

/// What was measured of one case, round by round. A round that failed ended the case.
pub struct Measured {
    pub what: String,
    pub size: String,
    pub unit: &'static str,
    pub by: By,
    pub subtract: bool,
    pub target: Target,
    pub bytes: Option<u64>,
    /// Costs of all rounds, or why there are none.
    pub rounds: Result<Vec<Cost>, String>,
}

/// Median and spread over the rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// In the row's unit.
    pub median: f64,
    /// Median absolute deviation.
    pub deviation: f64,
    pub min: f64,
    pub max: f64,
    pub ticks: Option<f64>,
    /// What the reference took, already taken off.
    pub taken_off: f64,
}

/// One line of the report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub title: String,
    pub what: String,
    pub size: String,
    pub unit: String,
    /// "ours", "reference" or the peer's name.
    pub by: String,
    pub bytes: Option<u64>,
    pub figures: Option<Figures>,
    /// Why there are no figures.
    pub error: Option<String>,
    /// How many times what ours costs the peer takes.
    pub ratio: Option<f64>,
    pub floor: Option<f64>,
    pub aim: Option<f64>,
    pub ratio_min: Option<f64>,
}

pub const OURS: &str = "ours";
pub const REFERENCE: &str = "reference";

/// How a row stands to what was asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Aim,
    Floor,
    Missed,
    Failed,
    /// Nothing was asked.
    Plain,
}

impl Row {
    pub fn is_ours(&self) -> bool {
        self.by == OURS
    }

    pub fn is_peer(&self) -> bool {
        !self.is_ours() && self.by != REFERENCE
    }

    pub fn verdict(&self) -> Verdict {
        let Some(figures) = self.figures else { return Verdict::Failed };
        let judged = match (self.ratio_min, self.ratio) {
            // Of our own ratio, more is better.
            (Some(min), _) if self.is_ours() => Some(figures.median >= min),
            (Some(min), ratio) => Some(ratio.is_some_and(|ratio| ratio >= min)),
            (None, _) => self.floor.map(|floor| figures.median <= floor),
        };
        let more_is_better = self.ratio_min.is_some() && self.is_ours();
        let reaches = |aim: f64| if more_is_better { figures.median >= aim } else { figures.median <= aim };
        match (judged, self.aim) {
            (_, Some(aim)) if reaches(aim) => Verdict::Aim,
            (Some(false), _) => Verdict::Missed,
            (Some(true), _) => Verdict::Floor,
            (None, Some(_)) => Verdict::Missed,
            (None, None) => Verdict::Plain,
        }
    }
}

/// The rows of one group's cases.
pub fn rows(title: &str, cases: &[Measured]) -> Vec<Row> {
    let net: Vec<Result<Vec<Cost>, String>> = (0..cases.len()).map(|i| less_reference(cases, i)).collect();
    (0..cases.len()).map(|i| row(title, cases, &net, i)).collect()
}

fn row(title: &str, cases: &[Measured], net: &[Result<Vec<Cost>, String>], i: usize) -> Row {
    let case = &cases[i];
    let ours = |other: &Measured| other.by == By::Ours && (&other.what, &other.size) == (&case.what, &case.size);
    let ours = cases.iter().position(ours).filter(|_| matches!(case.by, By::Peer(_)));
    let ratio = ours.and_then(|ours| Some(ratio(net[i].as_ref().ok()?, net[ours].as_ref().ok()?)));
    let taken_off = case
        .rounds
        .as_ref()
        .ok()
        .zip(net[i].as_ref().ok())
        .map_or(0.0, |(all, net)| median(all.iter().zip(net).map(|(all, net)| all.ns - net.ns)));
    let scale = scale(case.unit);
    Row {
        title: title.to_owned(),
        what: case.what.clone(),
        size: case.size.clone(),
        unit: case.unit.to_owned(),
        by: match case.by {
            By::Ours => OURS.to_owned(),
            By::Reference => REFERENCE.to_owned(),
            By::Peer(name) => name.to_owned(),
        },
        bytes: case.bytes,
        figures: net[i].as_ref().ok().map(|net| figures(net, taken_off, scale)),
        error: net[i].as_ref().err().cloned(),
        ratio,
        floor: case.target.floor,
        aim: case.target.aim,
        ratio_min: case.target.ratio_min,
    }
}

/// What nanoseconds are divided by.
fn scale(unit: &str) -> f64 {
    match unit {
        "us" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        _ => 1.0,
    }
}

/// A case's rounds without what the reference before it took in the same rounds.
fn less_reference(cases: &[Measured], i: usize) -> Result<Vec<Cost>, String> {
    let rounds = cases[i].rounds.clone()?;
    let reference = cases[..i].iter().rev().find(|case| case.by == By::Reference);
    let Some(reference) = reference.filter(|_| cases[i].subtract) else { return Ok(rounds) };
    let name = &reference.what;
    let taken = reference.rounds.as_ref().map_err(|reason| format!("its reference, {name}, failed: {reason}"))?;
    let less = |(all, off): (&Cost, &Cost)| Cost { ns: all.ns - off.ns, ticks: all.ticks - off.ticks };
    Ok(rounds.iter().zip(taken).map(less).collect())
}

fn ratio(peer: &[Cost], ours: &[Cost]) -> f64 {
    median(peer.iter().zip(ours).map(|(peer, ours)| peer.ns / ours.ns))
}

fn figures(rounds: &[Cost], taken_off: f64, scale: f64) -> Figures {
    let values = || rounds.iter().map(|cost| cost.ns / scale);
    let middle = median(values());
    Figures {
        median: middle,
        deviation: median(values().map(|value| (value - middle).abs())),
        min: values().fold(f64::INFINITY, f64::min),
        max: values().fold(f64::NEG_INFINITY, f64::max),
        ticks: Some(median(rounds.iter().map(|cost| cost.ticks))).filter(|ticks| ticks.is_finite()),
        taken_off: taken_off / scale,
    }
}

/// The middle one, or the mean of the two in the middle; NaN of nothing.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => sorted[len / 2],
        len => (sorted[len / 2 - 1] + sorted[len / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(what: &str, by: By, subtract: bool, rounds: &[f64]) -> Measured {
        Measured {
            what: what.into(),
            size: "10".into(),
            unit: "ns",
            by,
            subtract,
            target: Target::default(),
            bytes: None,
            rounds: Ok(rounds.iter().map(|&ns| Cost { ns, ticks: 2.0 * ns }).collect()),
        }
    }

    #[test]
    fn a_reference_is_taken_off_round_by_round() {
        let swings =
            [case("empty", By::Reference, false, &[10.0, 20.0, 10.0]), case("a", By::Ours, true, &[15.0, 30.0, 15.0])];
        let figures = rows("t", &swings)[1].figures.unwrap();
        assert_eq!((figures.median, figures.min, figures.max, figures.taken_off), (5.0, 5.0, 10.0, 10.0));
        assert_eq!(figures.ticks, Some(10.0));
    }

    #[test]
    fn a_peer_is_compared_in_the_same_round() {
        let swings =
            [case("a", By::Ours, false, &[1.0, 2.0, 4.0]), case("a", By::Peer("other"), false, &[3.0, 6.0, 12.0])];
        assert_eq!(rows("t", &swings)[1].ratio, Some(3.0));
        assert_eq!(rows("t", &swings)[0].ratio, None);
    }

    #[test]
    fn a_broken_reference_breaks_what_depends_on_it() {
        let mut cases = [case("empty", By::Reference, false, &[1.0]), case("a", By::Ours, true, &[5.0])];
        cases[0].rounds = Err("gone".into());
        let row = &rows("t", &cases)[1];
        assert!(row.figures.is_none() && row.error.as_ref().unwrap().contains("gone"));
        assert_eq!(row.verdict(), Verdict::Failed);
    }

    #[test]
    fn verdicts_tell_floor_from_aim() {
        let verdict = |ns: f64| {
            let mut case = case("a", By::Ours, false, &[ns]);
            case.target = Target::at_most(10.0, 5.0);
            rows("t", &[case])[0].verdict()
        };
        assert_eq!([verdict(4.0), verdict(9.0), verdict(11.0)], [Verdict::Aim, Verdict::Floor, Verdict::Missed]);
    }

    #[test]
    fn of_our_own_ratio_more_is_better() {
        let verdict = |ratio: f64| {
            let mut case = case("a", By::Ours, false, &[ratio]);
            case.target = Target { floor: None, aim: Some(1.8), ratio_min: Some(1.6) };
            rows("t", &[case])[0].verdict()
        };
        assert_eq!([verdict(1.9), verdict(1.7), verdict(1.5)], [Verdict::Aim, Verdict::Floor, Verdict::Missed]);
    }

    #[test]
    fn a_peer_that_is_too_fast_is_a_miss() {
        let mut cases = [case("a", By::Ours, false, &[2.0]), case("a", By::Peer("other"), false, &[3.0])];
        cases[1].target = Target::ratio(1.5);
        assert_eq!(rows("t", &cases)[1].verdict(), Verdict::Floor);
        cases[1].target = Target::ratio(1.6);
        assert_eq!(rows("t", &cases)[1].verdict(), Verdict::Missed);
    }
}
