//! Shows a run as it happens: commands as a user would type them, and what came of them.

use std::time::{Duration, Instant};

use crate::report::{Report, Verdict};
use crate::shell::Ran;

/// Longer outputs are shortened: the reader wants the result, not the log.
const LINES_MAX: usize = 8;

/// Prints to standard output, with the time since the start.
#[derive(Debug)]
pub struct Transcript {
    started: Instant,
}

impl Default for Transcript {
    fn default() -> Self {
        Transcript { started: Instant::now() }
    }
}

impl Transcript {
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn heading(&self, text: &str) {
        println!("\n== {text}   [{} s]", self.started.elapsed().as_secs());
    }

    /// What is going on, for whoever waits.
    pub fn progress(&self, text: &str) {
        println!("   {text}");
    }

    /// A command and what it answered.
    pub fn ran(&self, ran: &Ran) {
        self.typed(&ran.command);
        self.outcome(ran);
    }

    /// What a command answered; what it complained about if it answered nothing.
    pub fn outcome(&self, ran: &Ran) {
        let text = if ran.stdout.trim().is_empty() { &ran.stderr } else { &ran.stdout };
        self.answer(text);
    }

    /// A command that answers later, or whose answer is too long to show.
    pub fn typed(&self, command: &str) {
        println!(" $ {command}");
    }

    pub fn answer(&self, text: &str) {
        let lines: Vec<&str> = text.trim().lines().collect();
        for line in lines.iter().take(LINES_MAX) {
            println!("   {line}");
        }
        if lines.len() > LINES_MAX {
            println!("   ... {} more lines", lines.len() - LINES_MAX);
        }
    }

    pub fn report(&self, report: &Report) {
        for check in &report.checks {
            println!("   {check}");
        }
    }

    /// One line a section.
    pub fn summary(&self, reports: &[Report]) {
        println!("\n== What came of it   [{} s]", self.started.elapsed().as_secs());
        for report in reports {
            let verdict = match report.verdict() {
                Verdict::Passed => "ok       ",
                Verdict::Failed(_) => "FAILED   ",
                Verdict::NotBuilt(_) => "not built",
            };
            println!("   {verdict}  {}", report.title);
        }
    }
}
