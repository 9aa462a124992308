//! Where the backends of a service port stand in the table, and their ids: a list for policy Cluster, one for policy
//! Local, in one place if they are equal. It knows no keys and no objects.

use crate::alloc::{Ids, Range, Ranges};
use crate::object::balancing::weight;
use crate::topology::{Backend, Usable};
use tables::layout::Table;
use tables::limits::BACKENDS_MAX;
use tables::publish::{Batch, TableFull};
use tables::service::{BackendRecord, Rows};

/// The backends of one service port and family, as they are installed.
#[derive(Default)]
pub struct Lists {
    cluster: List,
    local: List,
    /// The second list is the first one.
    shared: bool,
}

#[derive(Default)]
struct List {
    range: Range,
    /// Sorted by address and port.
    backends: Vec<BackendRecord>,
}

impl Lists {
    pub fn cluster(&self) -> Rows {
        rows(self.cluster.range)
    }

    pub fn local(&self) -> Rows {
        rows(if self.shared { self.cluster.range } else { self.local.range })
    }

    /// All that may be chosen by anybody: first those of the cluster's list.
    pub fn all(&self) -> impl Iterator<Item = &BackendRecord> {
        let more = self.local.backends.iter().filter(|backend| !has(&self.cluster.backends, backend));
        self.cluster.backends.iter().chain(more)
    }

    /// Whether its backends weigh differently.
    pub fn is_weighted(&self) -> bool {
        let differ = |list: &List| list.backends.windows(2).any(|two| two[0].weight != two[1].weight);
        differ(&self.cluster) || differ(&self.local)
    }

    /// The backends of both lists; no second one where it is the first one.
    pub fn backends(&self) -> (Vec<Backend>, Option<Vec<Backend>>) {
        let of = |list: &List| list.backends.iter().map(|backend| (backend.addr, backend.port)).collect();
        (of(&self.cluster), (!self.shared).then(|| of(&self.local)))
    }

    fn is(&self, [cluster, local]: [&[Backend]; 2], shared: bool, weights: &Weights) -> bool {
        let same = |have: &[BackendRecord], wanted: &[Backend]| {
            let wanted = wanted.iter().map(|&(addr, port)| (addr, port, weight(weights, addr)));
            have.iter().map(|backend| (backend.addr, backend.port, backend.weight)).eq(wanted)
        };
        self.shared == shared && same(&self.cluster.backends, cluster) && same(&self.local.backends, local)
    }
}

fn rows(range: Range) -> Rows {
    Rows { first: range.first, count: range.count }
}

type Weights = [(tables::Prefix, u16)];

/// The table's room.
pub struct Room {
    ids: Ids,
    ranges: Ranges,
}

impl Room {
    pub fn new() -> Room {
        Room {
            // Twice the rows: new ids are drawn before old ones are given back.
            ids: Ids::new(Table::Backend.name(), 1, 2 * BACKENDS_MAX),
            ranges: Ranges::new(Table::Backend.name(), BACKENDS_MAX),
        }
    }

    /// Rows in use.
    pub fn used(&self) -> usize {
        self.ranges.used()
    }

    /// Makes the lists what is usable, here and in the table; answers whether anything is different. If there is no room
    /// nothing has changed.
    pub fn change(
        &mut self,
        lists: &mut Lists,
        usable: &Usable,
        weights: &Weights,
        batch: &mut Batch,
    ) -> Result<bool, TableFull> {
        let cluster = usable.cluster.as_deref().unwrap_or_default();
        let shared = usable.cluster.is_some() && usable.local.as_deref() == Some(cluster);
        let local = usable.local.as_deref().filter(|_| !shared).unwrap_or_default();
        if lists.is([cluster, local], shared, weights) {
            return Ok(false);
        }
        let cluster = self.number(cluster, weights, [&lists.cluster.backends, &lists.local.backends, &[]])?;
        let local = self
            .number(local, weights, [&cluster, &lists.cluster.backends, &lists.local.backends])
            .inspect_err(|_| {
                self.forget(&cluster, [&lists.cluster.backends, &lists.local.backends, &[]]);
            })?;
        let ranges = self.place(lists, cluster.len(), local.len()).inspect_err(|_| {
            self.forget(&local, [&cluster, &lists.cluster.backends, &lists.local.backends]);
            self.forget(&cluster, [&lists.cluster.backends, &lists.local.backends, &[]]);
        })?;
        self.ranges.settle(lists.cluster.range, ranges[0]);
        self.ranges.settle(lists.local.range, ranges[1]);
        lists.cluster.write(ranges[0], &cluster, batch);
        lists.local.write(ranges[1], &local, batch);
        self.forget(&lists.cluster.backends, [&cluster, &local, &[]]);
        self.forget(&lists.local.backends, [&cluster, &local, &lists.cluster.backends]);
        let list = |range, backends| List { range, backends };
        *lists = Lists { cluster: list(ranges[0], cluster), local: list(ranges[1], local), shared };
        Ok(true)
    }

    /// Room for both lists, or for none. The old ranges are still taken.
    fn place(&mut self, lists: &Lists, cluster: usize, local: usize) -> Result<[Range; 2], TableFull> {
        let first = self.ranges.place(lists.cluster.range, cluster)?;
        let second = self.ranges.place(lists.local.range, local);
        let second = second.inspect_err(|_| self.ranges.undo(lists.cluster.range, first))?;
        Ok([first, second])
    }

    /// A backend that stays keeps its id; all lists are sorted.
    fn number(
        &mut self,
        wanted: &[Backend],
        weights: &Weights,
        known: [&[BackendRecord]; 3],
    ) -> Result<Vec<BackendRecord>, TableFull> {
        let mut numbered: Vec<BackendRecord> = Vec::with_capacity(wanted.len());
        for &(addr, port) in wanted {
            let kept = known.iter().find_map(|list| find(list, addr, port));
            match kept.map_or_else(|| self.ids.alloc(), Ok) {
                Ok(id) => numbered.push(BackendRecord { addr, port, weight: weight(weights, addr), id }),
                Err(full) => {
                    self.forget(&numbered, known);
                    return Err(full);
                }
            }
        }
        Ok(numbered)
    }

    /// Gives back the ids of backends that are in none of the other lists.
    fn forget(&mut self, backends: &[BackendRecord], kept: [&[BackendRecord]; 3]) {
        for backend in backends {
            if !kept.iter().any(|list| has(list, backend)) {
                self.ids.free(backend.id);
            }
        }
    }

    pub fn free(&mut self, lists: &Lists) {
        self.ranges.free(lists.cluster.range);
        self.ranges.free(lists.local.range);
        self.forget(&lists.cluster.backends, [&[]; 3]);
        self.forget(&lists.local.backends, [&lists.cluster.backends, &[], &[]]);
    }
}

fn find(list: &[BackendRecord], addr: tables::Addr, port: u16) -> Option<u32> {
    list.binary_search_by_key(&(addr, port), |b| (b.addr, b.port)).ok().map(|i| list[i].id)
}

fn has(list: &[BackendRecord], backend: &BackendRecord) -> bool {
    find(list, backend.addr, backend.port).is_some()
}

impl List {
    /// Writes the backends that are not in their place already.
    fn write(&self, range: Range, backends: &[BackendRecord], batch: &mut Batch) {
        let moved = range.first != self.range.first || self.range.count == 0;
        for (i, backend) in backends.iter().enumerate() {
            if moved || self.backends.get(i) != Some(backend) {
                // Cannot fail: ranges lie within the table.
                let _ = batch.set(Table::Backend, range.first as usize + i, backend);
            }
        }
    }
}

#[cfg(test)]
#[path = "lists_tests.rs"]
mod tests;
