//! Which backend a new flow gets, as a worker chooses it: what its services remember of their clients, whose turn it is,
//! and how many flows each backend has. Only services that ask for it come here; all others are chosen from by a hash.
//! Each worker knows its own clients; turns and flows are counted by all together, in atomic words that nobody waits for.
//! Must not decide who may serve: the tables say that.

pub mod affinity;
pub mod loads;
pub mod turns;

use crate::classify::service::{Asked, ByHash, Choose, serves};
use affinity::Affinities;
use loads::Loads;
use tables::service::{Algorithm, BackendRecord};
use tables::{Addr, View};
use turns::Turns;

/// A worker's way to choose.
pub struct Chooser<'a> {
    /// A private hash of the flow.
    pub pick: u64,
    pub now_ms: u32,
    pub affinities: &'a mut Affinities,
    pub loads: &'a Loads,
    pub turns: &'a Turns,
}

impl Choose for Chooser<'_> {
    #[inline(always)]
    fn choose(&mut self, view: &View, asked: &Asked) -> Option<(Addr, u16)> {
        let service = asked.service;
        if service.affinity_s == 0 && service.algorithm == Algorithm::Random as u8 {
            return asked.by_hash(view, self.pick);
        }
        self.choose_knowing(view, asked)
    }
}

impl Chooser<'_> {
    #[cold]
    #[inline(never)]
    fn choose_knowing(&mut self, view: &View, asked: &Asked) -> Option<(Addr, u16)> {
        if asked.service.affinity_s == 0 {
            return self.by_algorithm(view, asked);
        }
        let now_ms = self.affinities.time(self.now_ms);
        let had = self.affinities.recall(asked, now_ms).filter(|&backend| serves(view, asked.backends, backend));
        let backend = had.or_else(|| self.by_algorithm(view, asked))?;
        self.affinities.keep(asked, backend, now_ms);
        Some(backend)
    }

    fn by_algorithm(&mut self, view: &View, asked: &Asked) -> Option<(Addr, u16)> {
        let index = match asked.service.algorithm() {
            Algorithm::RoundRobin => self.turns.next(view, asked)?,
            Algorithm::LeastConnections => self.loads.least(view, asked, self.pick)?,
            Algorithm::Random | Algorithm::SourceHash | Algorithm::Maglev => {
                return ByHash(self.pick).choose(view, asked);
            }
        };
        let backend: BackendRecord = asked.backend(view, index);
        (!backend.addr.is_unspecified()).then_some((backend.addr, backend.port))
    }
}

#[cfg(test)]
#[path = "balance_tests.rs"]
mod tests;
