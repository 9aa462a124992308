//! What a section found: measured values, and whether each is as it should be.

use std::fmt;

use crate::binaries::NotBuilt;

/// How one check came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    /// Why not.
    Failed(String),
    /// What this build lacks.
    NotBuilt(String),
}

/// A measured value with its unit.
#[derive(Clone, Debug, PartialEq)]
pub enum Measured {
    Count(u64),
    Milliseconds(f64),
    Percent(f64),
    MegabitsPerSecond(f64),
    Text(String),
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    pub what: String,
    pub measured: Measured,
    pub verdict: Verdict,
}

/// All checks of one section.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    pub title: String,
    pub checks: Vec<Check>,
}

impl Report {
    pub fn new(title: &str) -> Self {
        Report { title: title.to_string(), checks: Vec::new() }
    }

    /// Adds a check that passes when `good`; `limit` says what would have been good.
    pub fn check(&mut self, what: impl ToString, measured: Measured, good: bool, limit: impl ToString) {
        let verdict = if good { Verdict::Passed } else { Verdict::Failed(format!("expected {}", limit.to_string())) };
        self.checks.push(Check { what: what.to_string(), measured, verdict });
    }

    /// Adds a count that must be exactly this.
    pub fn exactly(&mut self, what: impl ToString, count: u64, expected: u64) {
        self.check(what, Measured::Count(count), count == expected, expected);
    }

    /// Adds a time that must not be longer than the limit.
    pub fn within_ms(&mut self, what: impl ToString, milliseconds: f64, limit_ms: f64) {
        let good = milliseconds <= limit_ms;
        self.check(what, Measured::Milliseconds(milliseconds), good, format!("at most {limit_ms:.0} ms"));
    }

    /// Adds a text that must equal another.
    pub fn equal(&mut self, what: impl ToString, text: &str, expected: &str) {
        self.check(what, Measured::Text(text.to_string()), text == expected, expected);
    }

    /// Adds what could not be looked at, because something failed or is not built.
    pub fn stopped_by(&mut self, error: &anyhow::Error) {
        let verdict = match error.downcast_ref::<NotBuilt>() {
            Some(lacking) => Verdict::NotBuilt(lacking.to_string()),
            None => Verdict::Failed(format!("{error:#}")),
        };
        let measured = Measured::Text("nothing".to_string());
        self.checks.push(Check { what: "the section runs to its end".into(), measured, verdict });
    }

    /// The worst of its checks; a section without any has shown nothing and is not built.
    pub fn verdict(&self) -> Verdict {
        let rank = |check: &&Check| match check.verdict {
            Verdict::Passed => 0,
            Verdict::NotBuilt(_) => 1,
            Verdict::Failed(_) => 2,
        };
        match self.checks.iter().max_by_key(rank) {
            Some(worst) => worst.verdict.clone(),
            None => Verdict::NotBuilt("nothing was checked".to_string()),
        }
    }

    /// For tests: panics with every check that did not pass.
    #[track_caller]
    pub fn assert_passed(&self) {
        let bad: Vec<String> =
            self.checks.iter().filter(|check| check.verdict != Verdict::Passed).map(Check::to_string).collect();
        assert!(bad.is_empty() && !self.checks.is_empty(), "{}:\n  {}", self.title, bad.join("\n  "));
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Measured::Count(count) => write!(out, "{count}"),
            Measured::Milliseconds(ms) => write!(out, "{ms:.1} ms"),
            Measured::Percent(percent) => write!(out, "{percent:.1} %"),
            Measured::MegabitsPerSecond(rate) => write!(out, "{rate:.0} Mbit/s"),
            Measured::Text(text) => out.write_str(text),
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Check { what, measured, verdict } = self;
        match verdict {
            Verdict::Passed => write!(out, "ok         {what}: {measured}"),
            Verdict::Failed(why) => write!(out, "FAILED     {what}: {measured} ({why})"),
            Verdict::NotBuilt(lacking) => write!(out, "not built  {what} ({lacking})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_outweighs_everything() {
        let mut report = Report::new("a section");
        report.exactly("packets", 5, 5);
        assert_eq!(report.verdict(), Verdict::Passed);
        report.stopped_by(&NotBuilt("`fairway drops`".into()).into());
        assert!(matches!(report.verdict(), Verdict::NotBuilt(_)));
        report.within_ms("cut", 101.0, 100.0);
        assert_eq!(report.verdict(), Verdict::Failed("expected at most 100 ms".into()));
    }

    #[test]
    fn a_lack_is_found_below_its_context() {
        use anyhow::Context;
        let error = Err::<(), _>(NotBuilt("x".into())).context("asking").unwrap_err();
        let mut report = Report::new("a section");
        report.stopped_by(&error);
        assert_eq!(report.verdict(), Verdict::NotBuilt("x".into()));
    }

    #[test]
    #[should_panic(expected = "FAILED     answers: 2 (expected 3)")]
    fn a_test_names_what_failed() {
        let mut report = Report::new("a section");
        report.exactly("answers", 2, 3);
        report.assert_passed();
    }

    #[test]
    #[should_panic]
    fn a_section_that_checked_nothing_does_not_pass() {
        Report::new("a section").assert_passed();
    }
}
