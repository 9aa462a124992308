//! Which addresses this node answers for: pure, with the time as an argument.

use crate::rendezvous;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tables::Addr;

/// The nodes that may announce an address; None: all.
pub type Candidates = Option<BTreeSet<String>>;
/// What is announced, by whom of those that serve.
pub type Wanted = BTreeMap<Addr, Candidates>;

/// Nobody is the owner of anything before it could have heard everybody: the others' silence, and some slack.
pub const LISTEN: Duration = Duration::from_millis(1200);
/// How long a node that comes back leaves its addresses to who has them, doubled for each time that it went lately.
const HOLD: Duration = Duration::from_secs(2);
const HOLD_MAX: Duration = Duration::from_secs(32);
/// What lately means.
const MEMORY: Duration = Duration::from_secs(300);
/// Which of the nodes writes for all.
const WRITER_KEY: &[u8] = b"writer";

/// Who announces each address.
pub fn owners(wanted: &Wanted, serving: &BTreeSet<String>) -> BTreeMap<Addr, String> {
    let owner = |(addr, candidates): (&Addr, &Candidates)| {
        let may = |name: &&str| candidates.as_ref().is_none_or(|candidates| candidates.contains(*name));
        let serving = serving.iter().map(String::as_str).filter(may);
        Some((*addr, rendezvous::owner(&addr.v6_octets(), serving)?.to_owned()))
    };
    wanted.iter().filter_map(owner).collect()
}

pub fn writer(serving: &BTreeSet<String>) -> Option<&str> {
    rendezvous::owner(WRITER_KEY, serving.iter().map(String::as_str))
}

/// Whether this node competes for addresses.
#[derive(Debug)]
pub struct Standing {
    listening_since: Instant,
    serving_since: Option<Instant>,
    competes: bool,
    losses: Vec<Instant>,
}

impl Standing {
    pub fn new(now: Instant) -> Standing {
        Standing { listening_since: now, serving_since: None, competes: false, losses: Vec::new() }
    }

    pub fn competes(&self) -> bool {
        self.competes
    }

    /// The sockets were opened anew: nobody can have been heard.
    pub fn listen_again(&mut self, now: Instant) {
        self.listening_since = now;
        self.competes = false;
    }

    pub fn set_serving(&mut self, is_serving: bool, now: Instant) {
        match (is_serving, self.serving_since) {
            (true, None) => self.serving_since = Some(now),
            (false, Some(_)) => {
                self.serving_since = None;
                self.losses.push(now);
                self.competes = false;
            }
            _ => {}
        }
    }

    /// Who has begun to compete goes on while it serves; who is alone does not wait.
    pub fn update(&mut self, is_alone: bool, now: Instant) {
        let Some(since) = self.serving_since else { return };
        let has_listened = now.saturating_duration_since(self.listening_since) >= LISTEN;
        let has_waited = is_alone || now.saturating_duration_since(since) >= self.hold(now);
        self.competes |= has_listened && has_waited;
    }

    fn hold(&mut self, now: Instant) -> Duration {
        self.losses.retain(|loss| now.saturating_duration_since(*loss) < MEMORY);
        (HOLD * (1 << self.losses.len().min(8))).min(HOLD_MAX)
    }
}

#[cfg(test)]
#[path = "share_tests.rs"]
mod tests;
