//! Runs groups of cases: sets all of a group up, then runs them in turns, round after round, and frees them before the next
//! group. What fails or panics becomes an error, never a gap. Must not know what a case measures.

use crate::case::{By, Case, Cost, Group, Planned};
use crate::figures::{self, Measured, Row};
use crate::huge;
use anyhow::{Result, anyhow};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// A planned case after its setting up, and what it cost so far.
struct Running {
    plan: Measured,
    case: Option<Box<dyn Case>>,
}

/// Runs all groups with so many rounds each; says on stderr how far it is.
pub fn all(groups: Vec<Group>, rounds: usize) -> Vec<Row> {
    let groups = merge(groups);
    let (total, start) = (groups.iter().map(|group| group.cases.len()).sum::<usize>(), Instant::now());
    let (mut done, mut rows) = (0, Vec::new());
    for group in groups {
        let size = group.cases.first().map_or("", |case| &case.size);
        eprintln!("{}, {size}: {} cases{}", group.title, group.cases.len(), left(done, total, start.elapsed()));
        done += group.cases.len();
        rows.extend(one(group, rounds));
    }
    eprintln!("measured in {} s", start.elapsed().as_secs());
    rows
}

/// What of the time is left if every case takes as long as those before did.
fn left(done: usize, total: usize, elapsed: Duration) -> String {
    if done == 0 {
        return String::new();
    }
    let left = elapsed.as_secs_f64() / done as f64 * (total - done) as f64;
    format!(" (about {:.0} s left)", left.ceil())
}

/// Groups of one title and size are one: so peers stand in files of their own and yet take turns with ours.
fn merge(groups: Vec<Group>) -> Vec<Group> {
    let key = |group: &Group| (group.title, group.cases.first().map(|case| case.size.clone()));
    let mut merged: Vec<Group> = Vec::new();
    for group in groups {
        match merged.iter_mut().find(|other| key(other) == key(&group)) {
            Some(other) => other.cases.extend(group.cases),
            None => merged.push(group),
        }
    }
    // Chapters keep together, in the order in which they first came.
    let titles: Vec<&str> = merged.iter().map(|group| group.title).collect();
    merged.sort_by_key(|group| titles.iter().position(|title| *title == group.title));
    merged
}

fn one(group: Group, rounds: usize) -> Vec<Row> {
    let mut cases: Vec<Running> = group.cases.into_iter().map(set_up).collect();
    huge::look();
    // The first one warms caches, branch predictors and clocks, and is forgotten.
    for round in 0..=rounds {
        cases.iter_mut().filter(|case| case.takes_part(round)).for_each(|case| case.run(round > 0));
    }
    let measured: Vec<Measured> = cases.into_iter().map(|case| case.plan).collect();
    figures::rows(group.title, &measured)
}

fn set_up(planned: Planned) -> Running {
    let Planned { what, size, unit, by, subtract, target, make } = planned;
    let made = guarded(make);
    let bytes = made.as_ref().ok().and_then(|case| case.bytes());
    let rounds = made.as_ref().map(|_| Vec::new()).map_err(|error| format!("{error:#}"));
    Running { plan: Measured { what, size, unit, by, subtract, target, bytes, rounds }, case: made.ok() }
}

impl Running {
    fn takes_part(&self, round: usize) -> bool {
        let max = self.case.as_ref().and_then(|case| case.rounds_max());
        max.is_none_or(|max| (1..=max).contains(&round))
    }

    fn run(&mut self, counts: bool) {
        let Some(case) = &mut self.case else { return };
        match guarded(|| case.run()).and_then(sane) {
            Ok(cost) if counts => self.plan.rounds.as_mut().into_iter().for_each(|rounds| rounds.push(cost)),
            Ok(_) => {}
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&mut self, error: &anyhow::Error) {
        eprintln!("  {}, {}: {error:#}", self.plan.what, by(&self.plan.by));
        self.plan.rounds = Err(format!("{error:#}"));
        self.case = None;
    }
}

fn by(by: &By) -> &str {
    match by {
        By::Ours => figures::OURS,
        By::Reference => figures::REFERENCE,
        By::Peer(name) => name,
    }
}

fn sane(cost: Cost) -> Result<Cost> {
    if cost.ns.is_finite() { Ok(cost) } else { Err(anyhow!("it says that it cost {}", cost.ns)) }
}

/// A panic is a failure like others.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(anyhow!("panicked: {}", said(panic))))
}

fn said(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or("without a word".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::AtMost;
    use std::cell::RefCell;
    use std::rc::Rc;

    fn group(title: &'static str, cases: Vec<Planned>) -> Group {
        Group { title, about: "", cases }
    }

    fn noting(name: &'static str, log: &Rc<RefCell<Vec<&'static str>>>) -> Planned {
        let log = log.clone();
        Planned::ours(name, "1", move || {
            Ok(move || {
                log.borrow_mut().push(name);
                Ok(Cost::plain(1.0))
            })
        })
    }

    #[test]
    fn cases_of_a_title_and_size_take_turns() {
        let log = Rc::default();
        let groups = vec![group("t", vec![noting("a", &log)]), group("u", vec![]), group("t", vec![noting("b", &log)])];
        all(groups, 2);
        assert_eq!(*log.borrow(), ["a", "b", "a", "b", "a", "b"], "a round to warm up and two that count");
    }

    #[test]
    fn what_takes_long_runs_in_the_first_rounds_only() {
        let log: Rc<RefCell<Vec<&str>>> = Rc::default();
        let logged = log.clone();
        let case = move || {
            logged.borrow_mut().push("few");
            Ok(Cost::plain(1.0))
        };
        let few = Planned::ours("few", "1", move || Ok(AtMost { case, rounds: 2 }));
        all(vec![group("t", vec![few, noting("all", &log)])], 3);
        assert_eq!(*log.borrow(), ["all", "few", "all", "few", "all", "all"]);
    }

    #[test]
    fn what_fails_is_a_row_with_its_reason_and_the_others_go_on() {
        let broken =
            Planned::ours("broken", "1", || -> Result<fn() -> Result<Cost>> { Err(anyhow!("no such library")) });
        let panics = Planned::ours("panics", "1", || Ok(|| -> Result<Cost> { panic!("at {}", 7) }));
        let nothing = Planned::ours("nothing", "1", || Ok(|| Ok(Cost::plain(f64::NAN))));
        let log = Rc::default();
        let rows = all(vec![group("t", vec![broken, panics, nothing, noting("works", &log)])], 3);
        let errors: Vec<&str> = rows.iter().filter_map(|row| row.error.as_deref()).collect();
        assert_eq!(errors, ["no such library", "panicked: at 7", "it says that it cost NaN"]);
        assert_eq!(rows[3].figures.unwrap().median, 1.0);
    }
}
