//! How many flows went which way, what was wrong, and what was not run, or not as its case says, and why.

use super::judge::Way;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub struct Tally {
    ways: BTreeMap<(&'static str, Way), usize>,
    health: usize,
    notes: BTreeMap<&'static str, Vec<String>>,
    wrong: Vec<String>,
}

impl Tally {
    /// `cases`: of which kind.
    pub fn flow(&mut self, cases: &'static str, what: String, way: Result<Way, String>) {
        match way {
            Ok(way) => *self.ways.entry((cases, way)).or_default() += 1,
            Err(why) => self.wrong.push(format!("{what}: {why}")),
        }
    }

    pub fn health(&mut self, what: String, found: Result<(), String>) {
        match found {
            Ok(()) => self.health += 1,
            Err(why) => self.wrong.push(format!("{what}: {why}")),
        }
    }

    /// About a flow that is not run, or not as its case says.
    pub fn note(&mut self, reason: &'static str, what: String) {
        self.notes.entry(reason).or_default().push(what);
    }

    pub fn wrong(&mut self, what: String) {
        self.wrong.push(what);
    }

    pub fn all_wrong(&self) -> &[String] {
        &self.wrong
    }

    pub fn print(&self) {
        for cases in self.ways.keys().map(|(cases, _)| cases).collect::<BTreeSet<_>>() {
            let ways = self.ways.iter().filter(|((of, _), _)| of == cases);
            let ways: Vec<_> = ways.map(|((_, way), count)| format!("{count} {way:?}").to_lowercase()).collect();
            println!("{cases} cases by packets: {}", ways.join(", "));
        }
        println!("{} health checks; {} wrong", self.health, self.wrong.len());
        for (reason, flows) in &self.notes {
            println!("{} noted: {reason}", flows.len());
            flows.iter().for_each(|flow| println!("  {flow}"));
        }
    }
}
