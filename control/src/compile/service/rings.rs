//! Where the rings of a service port stand in the table: which backend each slot belongs to, for the lists of policy
//! Cluster and Local. A row names the pair that it needs, `tables::service::Rings`, within four words that hold every pair
//! that there is: Cluster, Cluster, Local, Local.

use super::lists::Lists;
use super::wanted::Which;
use crate::alloc::{Range, Ranges};
use tables::Addr;
use tables::layout::Table;
use tables::limits::RING_WORDS_MAX;
use tables::maglev::{self, SLOTS_PER_WORD};
use tables::publish::{Batch, TableFull};
use tables::service::{Algorithm, Rows};

const HEADER_WORDS: usize = 4;

/// The rings of one service port and family, as they are installed.
#[derive(Default)]
pub struct Rings {
    header: Range,
    cluster: Range,
    local: Range,
}

impl Rings {
    /// Where the pair for clients inside and outside stands.
    pub fn pair(&self, inside: Which, outside: Which) -> u32 {
        self.header.first
            + match (inside, outside) {
                (Which::Cluster, Which::Cluster) => 0,
                (Which::Cluster, Which::Local) => 1,
                // Nobody inside is bound to this node where others are not.
                (Which::Local, _) => 2,
            }
    }
}

/// The table's room.
pub struct RingRoom(Ranges);

impl RingRoom {
    pub fn new() -> RingRoom {
        let mut ranges = Ranges::new(Table::Ring.name(), RING_WORDS_MAX);
        // A row without a ring says 0.
        ranges.alloc(HEADER_WORDS).expect("the table is larger");
        RingRoom(ranges)
    }

    /// Words in use.
    pub fn used(&self) -> usize {
        self.0.used() - HEADER_WORDS
    }

    /// Makes the rings what an algorithm needs. Without room for them a service spreads flows by a hash that moves more of
    /// them.
    pub fn follow(
        &mut self,
        rings: &mut Option<Box<Rings>>,
        algorithm: Algorithm,
        lists: &Lists,
        has_new_lists: bool,
        batch: &mut Batch,
    ) -> Result<(), TableFull> {
        if !matches!(algorithm, Algorithm::SourceHash | Algorithm::Maglev) {
            self.free(rings.take());
            return Ok(());
        }
        if rings.is_some() && !has_new_lists {
            return Ok(());
        }
        let (cluster, local) = lists.backends();
        self.change(rings, &cluster, local.as_deref(), batch)
    }

    /// Lays out the rings of these lists in place of the old ones, if there is room: else there are none. `local` is None
    /// where it is the same as `cluster`.
    fn change(
        &mut self,
        rings: &mut Option<Box<Rings>>,
        cluster: &[(Addr, u16)],
        local: Option<&[(Addr, u16)]>,
        batch: &mut Batch,
    ) -> Result<(), TableFull> {
        self.free(rings.take());
        let mut new = Box::<Rings>::default();
        let outcome = self.fill(&mut new, cluster, local, batch);
        match outcome.is_ok() {
            true => *rings = Some(new),
            false => self.free(Some(new)),
        }
        outcome
    }

    fn fill(
        &mut self,
        rings: &mut Rings,
        cluster: &[(Addr, u16)],
        local: Option<&[(Addr, u16)]>,
        batch: &mut Batch,
    ) -> Result<(), TableFull> {
        rings.header = self.0.alloc(HEADER_WORDS)?;
        let cluster = self.lay_out(&mut rings.cluster, cluster, batch)?;
        let local = local.map_or(Ok(cluster), |local| self.lay_out(&mut rings.local, local, batch))?;
        for (i, rows) in [cluster, cluster, local, local].iter().enumerate() {
            batch.set(Table::Ring, rings.header.first as usize + i, rows)?;
        }
        Ok(())
    }

    /// Writes the ring of one list; in slots.
    fn lay_out(&mut self, range: &mut Range, backends: &[(Addr, u16)], batch: &mut Batch) -> Result<Rows, TableFull> {
        let ring = maglev::ring(backends);
        *range = self.0.alloc(ring.len().div_ceil(SLOTS_PER_WORD))?;
        for (i, slots) in ring.chunks(SLOTS_PER_WORD).enumerate() {
            let mut word = [0u16; SLOTS_PER_WORD];
            word[..slots.len()].copy_from_slice(slots);
            batch.set(Table::Ring, range.first as usize + i, &word)?;
        }
        Ok(Rows { first: range.first, count: ring.len() as u32 })
    }

    pub fn free(&mut self, rings: Option<Box<Rings>>) {
        for range in rings.iter().flat_map(|rings| [rings.header, rings.cluster, rings.local]) {
            self.0.free(range);
        }
    }
}

#[cfg(test)]
#[path = "rings_tests.rs"]
mod tests;
