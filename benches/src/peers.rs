//! Ours beside other people's structures, each on its own: flow table, longest prefix match, policy. The questions are
//! the same on both sides ([`keys`]), and so must be the sum of the answers, else the second to be set up is an error.
//!
//! Both sides look up bursts of 64: a few thousand to warm, then for as long as [`clock::repeat`] and peer.h take.

use crate::case::{By, Case, Cost, Group, Planned};
use crate::clock;
use crate::conditions::field;
use anyhow::{Result, ensure};
use std::cell::Cell;
use std::hint::black_box;
use std::rc::Rc;

mod flow;
pub mod keys;
mod lpm;
mod policy;
mod program;

use program::Program;

/// As in peer.h.
const BURST: usize = 64;
const BURSTS_PER_LOOK: usize = 256;
const BURSTS_TO_WARM: usize = 4 * BURSTS_PER_LOOK;

pub fn groups(full: bool) -> Vec<Group> {
    [flow::groups(), lpm::groups(full), policy::groups()].into_iter().flatten().collect()
}

/// Something of ours, or of a library, that answers questions in this process.
struct Lookups<F> {
    /// Of the structure.
    bytes: u64,
    /// Looks up so many bursts, going on where it ended; the sum of the answers.
    bursts: F,
}

impl<F: FnMut(usize) -> u64> Case for Lookups<F> {
    fn run(&mut self) -> Result<Cost> {
        black_box((self.bursts)(BURSTS_TO_WARM));
        Ok(clock::repeat(|| {
            black_box((self.bursts)(BURSTS_PER_LOOK));
            (BURSTS_PER_LOOK * BURST) as u64
        }))
    }

    fn bytes(&self) -> Option<u64> {
        Some(self.bytes)
    }
}

/// Walks an array of questions burst by burst, for ever.
struct Cursor {
    next: usize,
    len: usize,
}

impl Cursor {
    fn new(len: usize) -> Cursor {
        assert!(len >= BURST);
        Cursor { next: 0, len }
    }

    fn advance(&mut self) -> std::ops::Range<usize> {
        if self.next + BURST > self.len {
            self.next = 0;
        }
        self.next += BURST;
        self.next - BURST..self.next
    }
}

/// The sum of all answers of whoever was set up first; the others must agree.
#[derive(Clone, Default)]
struct Agreement(Rc<Cell<Option<u64>>>);

impl Agreement {
    fn check(&self, sum: u64) -> Result<()> {
        let first = self.0.get().unwrap_or(sum);
        self.0.set(Some(first));
        ensure!(sum == first, "it gives other answers than those before it: their sum is {sum} instead of {first}");
        Ok(())
    }
}

/// A program of benches/peers as a case.
fn program(
    (what, size, peer): (&str, &str, &'static str),
    (name, arguments): (&'static str, &[&str]),
    agreement: &Agreement,
) -> Planned {
    let (agreement, arguments) = (agreement.clone(), arguments.iter().map(|a| a.to_string()).collect::<Vec<_>>());
    let make = move || {
        let program = Program::start(name, &arguments)?;
        agreement.check(program.sum)?;
        Ok(program)
    };
    Planned::ours(what, size, make).by(By::Peer(peer))
}

/// Bytes of memory that this process has touched: tables have room for more than a case fills.
pub fn resident() -> u64 {
    let kib = |name| field("/proc/self/status", name)?.split(' ').next()?.parse::<u64>().ok();
    ["RssAnon", "RssShmem", "HugetlbPages"].into_iter().filter_map(kib).sum::<u64>() * 1024
}

/// "10k", "4M".
fn short(count: u32) -> String {
    match count {
        0..1000 => count.to_string(),
        1000..1_000_000 => format!("{}k", count / 1000),
        _ => format!("{}M", count / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_opinion_must_be_the_same() {
        let agreement = Agreement::default();
        agreement.check(7).unwrap();
        agreement.check(7).unwrap();
        assert!(agreement.check(8).unwrap_err().to_string().contains("8 instead of 7"));
    }

    #[test]
    fn every_question_is_asked_in_turn() {
        let mut cursor = Cursor::new(2 * BURST + 1);
        let starts: Vec<usize> = (0..4).map(|_| cursor.advance().start).collect();
        assert_eq!(starts, [0, BURST, 0, BURST]);
    }
}
