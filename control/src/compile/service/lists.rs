//! Where the backends of a service port stand in the table, and their ids: a list for policy Cluster, one for policy
//! Local, in one place if they are equal, and one of those that only keep what they have. It knows no keys and no objects.

use crate::alloc::{Ids, Range, Ranges};
use crate::object::balancing::weight;
use crate::topology::{Backend, Usable};
use std::cmp::Ordering;
use tables::Addr;
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
    leaving: List,
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

    pub fn leaving(&self) -> Rows {
        rows(self.leaving.range)
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

    /// What becoming this changes.
    fn change(&self, wanted: [&[Backend]; 3], shared: bool, weights: &Weights) -> Change {
        let same = |have: &List, wanted: &[Backend]| {
            let wanted = wanted.iter().map(|&(addr, port)| (addr, port, weight(weights, addr)));
            have.backends.iter().map(|backend| (backend.addr, backend.port, backend.weight)).eq(wanted)
        };
        if self.shared != shared || !same(&self.cluster, wanted[0]) || !same(&self.local, wanted[1]) {
            return Change::Serving;
        }
        if same(&self.leaving, wanted[2]) { Change::Nothing } else { Change::Leaving }
    }

    fn each(&self) -> [&List; 3] {
        [&self.cluster, &self.local, &self.leaving]
    }

    fn records(&self) -> [&[BackendRecord]; 3] {
        self.each().map(|list| list.backends.as_slice())
    }
}

/// What is different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Nothing,
    /// Only who keeps what he has.
    Leaving,
    /// Who serves, too.
    Serving,
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

    /// Makes the lists what is usable, here and in the table. If there is no room nothing has changed.
    pub fn change(
        &mut self,
        lists: &mut Lists,
        usable: &Usable,
        weights: &Weights,
        batch: &mut Batch,
    ) -> Result<Change, TableFull> {
        let cluster = usable.cluster.as_deref().unwrap_or_default();
        let shared = usable.cluster.is_some() && usable.local.as_deref() == Some(cluster);
        let local = usable.local.as_deref().filter(|_| !shared).unwrap_or_default();
        let wanted = [cluster, local, &usable.leaving];
        let change = lists.change(wanted, shared, weights);
        if change == Change::Nothing {
            return Ok(change);
        }
        let numbered = self.number(wanted, weights, lists.records())?;
        let ranges = self.place(lists, wanted.map(<[_]>::len)).inspect_err(|_| {
            self.forget(numbered.each_ref().map(Vec::as_slice), lists.records());
        })?;
        for ((list, range), backends) in lists.each().into_iter().zip(ranges).zip(&numbered) {
            self.ranges.settle(list.range, range);
            list.write(range, backends, batch);
        }
        self.forget(lists.records(), numbered.each_ref().map(Vec::as_slice));
        let [cluster, local, leaving] = numbered;
        let list = |i: usize, backends| List { range: ranges[i], backends };
        *lists = Lists { cluster: list(0, cluster), local: list(1, local), leaving: list(2, leaving), shared };
        Ok(change)
    }

    /// Room for all lists, or for none. The old ranges are still taken.
    fn place(&mut self, lists: &Lists, counts: [usize; 3]) -> Result<[Range; 3], TableFull> {
        let mut placed = [Range::default(); 3];
        for (i, list) in lists.each().into_iter().enumerate() {
            placed[i] = self.ranges.place(list.range, counts[i]).inspect_err(|_| {
                let before = lists.each().into_iter().zip(placed).take(i);
                before.for_each(|(list, range)| self.ranges.undo(list.range, range));
            })?;
        }
        Ok(placed)
    }

    /// A backend that stays keeps its id, also in another list.
    fn number(
        &mut self,
        wanted: [&[Backend]; 3],
        weights: &Weights,
        before: [&[BackendRecord]; 3],
    ) -> Result<[Vec<BackendRecord>; 3], TableFull> {
        let mut numbered = wanted.map(|wanted| Vec::with_capacity(wanted.len()));
        for (i, wanted) in wanted.into_iter().enumerate() {
            let mut own = Sorted(before[i]);
            for &(addr, port) in wanted {
                let found = |list: &[BackendRecord]| find(list, addr, port);
                let kept = own.find(addr, port).or_else(|| numbered[..i].iter().find_map(|list| found(list)));
                let kept = kept.or_else(|| before.into_iter().find_map(found));
                let id = kept.map_or_else(|| self.ids.alloc(), Ok).inspect_err(|_| {
                    self.forget(numbered.each_ref().map(Vec::as_slice), before);
                })?;
                numbered[i].push(BackendRecord { addr, port, weight: weight(weights, addr), id });
            }
        }
        Ok(numbered)
    }

    /// Gives back the ids of backends that are in none of the other lists.
    fn forget(&mut self, backends: [&[BackendRecord]; 3], kept: [&[BackendRecord]; 3]) {
        for (i, list) in backends.into_iter().enumerate() {
            let mut own = Sorted(kept[i]);
            for backend in list {
                let is_kept = own.find(backend.addr, backend.port).is_some();
                if !is_kept && !kept.iter().chain(&backends[..i]).any(|list| has(list, backend)) {
                    self.ids.free(backend.id);
                }
            }
        }
    }

    pub fn free(&mut self, lists: &Lists) {
        lists.each().into_iter().for_each(|list| self.ranges.free(list.range));
        self.forget(lists.records(), [&[]; 3]);
    }
}

/// A sorted list, of which sorted backends are asked in turn: mostly the same ones.
struct Sorted<'a>(&'a [BackendRecord]);

impl Sorted<'_> {
    /// Its id, if it is there.
    fn find(&mut self, addr: Addr, port: u16) -> Option<u32> {
        while let [first, rest @ ..] = self.0 {
            match (first.addr, first.port).cmp(&(addr, port)) {
                Ordering::Less => self.0 = rest,
                Ordering::Equal => return Some(first.id),
                Ordering::Greater => return None,
            }
        }
        None
    }
}

fn find(list: &[BackendRecord], addr: Addr, port: u16) -> Option<u32> {
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
