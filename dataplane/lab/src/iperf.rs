//! iperf3's own JSON: bytes and retransmissions an interval.

use anyhow::{Context, Result};
use serde::Deserialize;

/// One interval of the sending side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Seconds since the first byte.
    pub start: f64,
    pub end: f64,
    pub bytes: u64,
    pub retransmits: u64,
}

/// One run.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    pub intervals: Vec<Interval>,
}

#[derive(Deserialize)]
struct Output {
    #[serde(default)]
    intervals: Vec<OutputInterval>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct OutputInterval {
    sum: Sum,
}

#[derive(Deserialize)]
struct Sum {
    start: f64,
    end: f64,
    bytes: u64,
    #[serde(default)]
    retransmits: u64,
}

impl Run {
    pub fn parse(json: &str) -> Result<Self> {
        let output: Output = serde_json::from_str(json).with_context(|| format!("iperf3 answered: {json:.200}"))?;
        if let Some(error) = output.error {
            anyhow::bail!("iperf3: {error}");
        }
        let interval = |i: OutputInterval| {
            let Sum { start, end, bytes, retransmits } = i.sum;
            Interval { start, end, bytes, retransmits }
        };
        Ok(Run { intervals: output.intervals.into_iter().map(interval).collect() })
    }

    pub fn megabits_per_second(&self) -> f64 {
        let bytes: u64 = self.intervals.iter().map(|i| i.bytes).sum();
        let seconds = self.intervals.last().map_or(1.0, |last| last.end).max(0.001);
        bytes as f64 * 8.0 / seconds / 1e6
    }

    /// The most retransmissions in any window of `window` seconds that lies between `from` and `to`.
    pub fn worst_retransmits(&self, from: f64, to: f64, window: f64) -> u64 {
        // Intervals end a little late: half of one must not push a window out.
        let slack = 0.05;
        let inside: Vec<&Interval> =
            self.intervals.iter().filter(|i| i.start >= from - slack && i.end <= to + slack).collect();
        let sum_from = |first: &Interval| -> u64 {
            let window = inside.iter().filter(|i| i.start >= first.start && i.end <= first.start + window + slack);
            window.map(|i| i.retransmits).sum()
        };
        inside.iter().map(|first| sum_from(first)).max().unwrap_or(0)
    }

    /// The end of the first interval after `from` in which bytes went again, if any did.
    pub fn first_progress(&self, from: f64) -> Option<f64> {
        self.intervals.iter().find(|i| i.start >= from && i.bytes > 0).map(|i| i.end)
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let retransmits: u64 = self.intervals.iter().map(|i| i.retransmits).sum();
        let seconds = self.intervals.last().map_or(0.0, |last| last.end);
        write!(out, "{:.0} Mbit/s over {seconds:.0} s, {retransmits} retransmitted", self.megabits_per_second())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(retransmits: &[u64]) -> Run {
        let interval = |(n, &retransmits): (usize, &u64)| {
            let start = n as f64 * 0.5;
            Interval { start, end: start + 0.5001, bytes: 1000, retransmits }
        };
        Run { intervals: retransmits.iter().enumerate().map(interval).collect() }
    }

    #[test]
    fn the_worst_window_slides() {
        let run = run(&[0, 0, 3, 4, 0, 0, 1, 0, 9, 0]);
        assert_eq!(run.worst_retransmits(0.0, 4.0, 2.0), 7);
        assert_eq!(run.worst_retransmits(0.0, 4.0, 1.0), 7);
        assert_eq!(run.worst_retransmits(2.5, 5.0, 2.0), 10);
        assert_eq!(run.worst_retransmits(6.0, 9.0, 2.0), 0);
    }

    #[test]
    fn its_json_is_read() {
        let json = r#"{"intervals":[{"sum":{"start":0,"end":0.5,"bytes":62500,"retransmits":2}}]}"#;
        let run = Run::parse(json).unwrap();
        assert_eq!(run.intervals[0].retransmits, 2);
        assert!((run.megabits_per_second() - 1.0).abs() < 1e-9);
        assert!(Run::parse(r#"{"error":"unable to connect"}"#).unwrap_err().to_string().contains("unable"));
    }

    #[test]
    fn progress_after_a_pause_is_found() {
        let mut run = run(&[0; 6]);
        run.intervals[2].bytes = 0;
        run.intervals[3].bytes = 0;
        assert_eq!(run.first_progress(1.0), Some(run.intervals[4].end));
        assert_eq!(run.first_progress(9.0), None);
    }
}
