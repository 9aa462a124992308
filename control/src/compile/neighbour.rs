//! Next hops of the underlay: which there are, by stable index, and their Ethernet addresses as far as they are known.

use super::problem::{Problems, Subject};
use crate::alloc::Ids;
use crate::state::{Changes, State};
use bytemuck::Zeroable;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tables::Addr;
use tables::layout::Table;
use tables::limits::NEIGHBOURS_MAX;
use tables::neighbour::{FLAG_RESOLVED, NeighbourRecord};
use tables::publish::{Batch, TableFull};

/// Why a route holds a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Packets of other destinations go to it: the kernel must keep it resolved.
    NextHop,
    /// It is the destination itself, and known because the kernel resolved it.
    Resolved,
}

struct Neighbour {
    index: u32,
    users: usize,
    as_next_hop: usize,
}

/// Index 0 is no neighbour.
pub struct Neighbours {
    ids: Ids,
    rows: BTreeMap<Addr, Neighbour>,
    dirty: BTreeSet<Addr>,
    /// Rows without a user any more, to be cleared.
    freed: Vec<u32>,
    /// Sorted; made anew only when one comes or goes.
    next_hops: Arc<[Addr]>,
    next_hops_changed: bool,
}

impl Neighbours {
    pub fn new() -> Neighbours {
        let ids = Ids::new(Table::Neighbour.name(), 1, NEIGHBOURS_MAX);
        Neighbours {
            ids,
            rows: BTreeMap::new(),
            dirty: BTreeSet::new(),
            freed: Vec::new(),
            next_hops: Arc::default(),
            next_hops_changed: false,
        }
    }

    pub fn update(&mut self, changes: &Changes) {
        self.dirty.extend(changes.neighbours.iter().filter(|addr| self.rows.contains_key(addr)));
    }

    /// The index of `addr` for one more user.
    pub fn acquire(&mut self, addr: Addr, purpose: Use) -> Result<u32, TableFull> {
        if !self.rows.contains_key(&addr) {
            self.rows.insert(addr, Neighbour { index: self.ids.alloc()?, users: 0, as_next_hop: 0 });
            self.dirty.insert(addr);
        }
        let row = self.rows.get_mut(&addr).expect("just made");
        row.users += 1;
        if purpose == Use::NextHop {
            self.next_hops_changed |= row.as_next_hop == 0;
            row.as_next_hop += 1;
        }
        Ok(row.index)
    }

    pub fn release(&mut self, addr: Addr, purpose: Use) {
        let Some(row) = self.rows.get_mut(&addr) else { return };
        row.users -= 1;
        if purpose == Use::NextHop {
            row.as_next_hop -= 1;
            self.next_hops_changed |= row.as_next_hop == 0;
        }
        if row.users == 0 {
            self.freed.push(row.index);
            self.ids.free(row.index);
            self.rows.remove(&addr);
            self.dirty.remove(&addr);
        }
    }

    pub fn install(&mut self, state: &State, batch: &mut Batch, problems: &mut Problems) {
        for index in std::mem::take(&mut self.freed) {
            // Cannot fail: the row was written before.
            let _ = batch.set(Table::Neighbour, index as usize, &NeighbourRecord::zeroed());
        }
        for addr in std::mem::take(&mut self.dirty) {
            let Some(row) = self.rows.get(&addr) else { continue };
            let mac = state.local().neighbours.get(&addr);
            let flags = if mac.is_some() { FLAG_RESOLVED } else { 0 };
            let record = NeighbourRecord { addr, mac: mac.copied().unwrap_or_default(), flags };
            problems.note(Subject::Neighbour(addr), batch.set(Table::Neighbour, row.index as usize, &record));
        }
    }

    /// Sorted.
    pub fn next_hops(&mut self) -> Arc<[Addr]> {
        if std::mem::take(&mut self.next_hops_changed) {
            self.next_hops = self.rows.iter().filter(|(_, row)| row.as_next_hop > 0).map(|(&addr, _)| addr).collect();
        }
        self.next_hops.clone()
    }

    pub fn addr_of(&self, index: u32) -> Option<Addr> {
        self.rows.iter().find(|(_, row)| row.index == index).map(|(&addr, _)| addr)
    }

    pub fn used(&self) -> usize {
        self.rows.len()
    }
}
