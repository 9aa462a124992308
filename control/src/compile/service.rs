//! Services: one row for each (cluster IP, port, protocol), one for each cluster IP, and the backends of each port.

use super::problem::{CompileError, Problems, Subject};
use crate::alloc::{Ids, Range, Ranges};
use crate::object::{Named, Service};
use crate::slices;
use crate::state::{Changes, State};
use bytemuck::Zeroable;
use std::collections::{BTreeSet, HashMap, HashSet};
use tables::layout::Table;
use tables::limits::{BACKENDS_MAX, SERVICES_MAX};
use tables::lpm::Lpm;
use tables::publish::{Batch, TableFull};
use tables::scope::Scope;
use tables::service::{BackendRecord, FLAG_ADDRESS_ONLY, ServiceKey, ServiceRecord};
use tables::{Addr, Protocol};

/// A row as it is installed.
pub struct Row {
    pub owner: Named,
    /// The service port's name.
    pub port: String,
    pub record: ServiceRecord,
    /// Sorted by address and port.
    pub backends: Vec<BackendRecord>,
    range: Range,
}

/// A row as it should be.
struct Wanted {
    key: ServiceKey,
    port: String,
    affinity_s: u32,
    flags: u16,
    backends: Vec<(Addr, u16)>,
}

#[derive(Default)]
struct Keys {
    rows: Vec<ServiceKey>,
    /// Another service has these.
    waits: Vec<ServiceKey>,
}

/// Service id 0 is no service.
pub struct Services {
    ids: Ids,
    backend_ids: Ids,
    ranges: Ranges,
    rows: HashMap<ServiceKey, Row>,
    keys: HashMap<Named, Keys>,
    waiting: HashMap<ServiceKey, BTreeSet<Named>>,
    dirty: BTreeSet<Named>,
}

impl Services {
    pub fn new() -> Services {
        Services {
            ids: Ids::new(Table::Service.name(), 1, SERVICES_MAX),
            // Twice the rows: new ids are drawn before old ones are given back.
            backend_ids: Ids::new(Table::Backend.name(), 1, 2 * BACKENDS_MAX),
            ranges: Ranges::new(Table::Backend.name(), BACKENDS_MAX),
            rows: HashMap::new(),
            keys: HashMap::new(),
            waiting: HashMap::new(),
            dirty: BTreeSet::new(),
        }
    }

    pub fn update(&mut self, state: &State, changes: &Changes, batch: &mut Batch, problems: &mut Problems) {
        self.dirty.extend(changes.services.iter().cloned());
        // What found no room is tried once more when the others are done: they may have made some.
        let refused = self.compile_dirty(state, batch, problems);
        self.dirty.extend(refused);
        self.dirty = self.compile_dirty(state, batch, problems);
    }

    /// Answers which services found no room.
    fn compile_dirty(&mut self, state: &State, batch: &mut Batch, problems: &mut Problems) -> BTreeSet<Named> {
        let mut refused = BTreeSet::new();
        while let Some(id) = self.dirty.pop_first() {
            let outcome = self.compile(state, &id, batch, problems);
            if !problems.note(Subject::Service(id.clone()), outcome) {
                refused.insert(id);
            } else if let Some(clash) = self.clash(&id) {
                problems.set(Subject::Service(id), clash);
            }
        }
        refused
    }

    fn compile(
        &mut self,
        state: &State,
        id: &Named,
        batch: &mut Batch,
        problems: &mut Problems,
    ) -> Result<(), TableFull> {
        let wanted = state.service(id).map_or_else(Vec::new, |service| wanted(state, service));
        let before = self.keys.remove(id).unwrap_or_default();
        for key in before.waits {
            self.stop_waiting(id, &key);
        }
        for key in before.rows.iter().filter(|key| !wanted.iter().any(|w| w.key == **key)) {
            self.remove(key, batch);
        }
        let mut keys = Keys::default();
        let mut outcome = Ok(());
        for row in &wanted {
            if self.rows.get(&row.key).is_some_and(|have| have.owner < *id) {
                self.waiting.entry(row.key).or_default().insert(id.clone());
                keys.waits.push(row.key);
                continue;
            }
            self.take_over(&row.key, id, batch, problems);
            outcome = outcome.and(self.put(id, row, batch));
            if self.rows.contains_key(&row.key) {
                keys.rows.push(row.key);
            }
        }
        if state.service(id).is_some() {
            self.keys.insert(id.clone(), keys);
        }
        outcome
    }

    fn stop_waiting(&mut self, id: &Named, key: &ServiceKey) {
        if let Some(waiting) = self.waiting.get_mut(key) {
            waiting.remove(id);
            if waiting.is_empty() {
                self.waiting.remove(key);
            }
        }
    }

    /// Of several services that claim a key the first by name has it, whatever came first: the outcome must not depend
    /// on the order of changes.
    fn take_over(&mut self, key: &ServiceKey, id: &Named, batch: &mut Batch, problems: &mut Problems) {
        let Some(owner) = self.rows.get(key).map(|row| row.owner.clone()).filter(|owner| owner != id) else { return };
        self.remove(key, batch);
        if let Some(keys) = self.keys.get_mut(&owner) {
            keys.rows.retain(|other| other != key);
        }
        problems.clear(&Subject::Service(owner.clone()));
        self.dirty.insert(owner);
    }

    fn clash(&self, id: &Named) -> Option<CompileError> {
        let key = self.keys.get(id)?.waits.first()?;
        let winner = self.rows.get(key)?.owner.clone();
        let (addr, port, protocol) = (key.addr, key.port, key.protocol);
        Some(CompileError::ServiceClash { loser: id.clone(), winner, addr, port, protocol })
    }

    fn put(&mut self, id: &Named, wanted: &Wanted, batch: &mut Batch) -> Result<(), TableFull> {
        let installed = self.rows.remove(&wanted.key);
        let is_fresh = installed.is_none();
        let row = match installed {
            Some(row) => row,
            None => self.fresh(id)?,
        };
        match self.change(&row, is_fresh, wanted, batch) {
            Ok(changed) => {
                self.rows.insert(wanted.key, changed);
                if is_fresh {
                    self.touch_before(&wanted.key, batch);
                }
                Ok(())
            }
            Err(full) if is_fresh => {
                self.ids.free(row.record.id);
                Err(full)
            }
            Err(full) => {
                self.rows.insert(wanted.key, row);
                Err(full)
            }
        }
    }

    fn fresh(&mut self, id: &Named) -> Result<Row, TableFull> {
        let record = ServiceRecord { id: self.ids.alloc()?, ..ServiceRecord::zeroed() };
        Ok(Row { owner: id.clone(), port: String::new(), record, backends: Vec::new(), range: Range::default() })
    }

    /// Flows that this new row concerns were judged without it.
    fn touch_before(&self, key: &ServiceKey, batch: &mut Batch) {
        let address_row = ServiceKey::address(key.addr);
        let scope = match self.rows.get(&address_row).filter(|_| *key != address_row) {
            Some(row) => Scope::Service(row.record.id),
            None => Scope::Route(batch.view().longest_match(Lpm::Route, key.addr).unwrap_or(0) as u32),
        };
        batch.touch(scope);
    }

    /// What `row` becomes as it is wanted, written to the tables. If there is no room nothing has changed.
    fn change(&mut self, row: &Row, is_fresh: bool, wanted: &Wanted, batch: &mut Batch) -> Result<Row, TableFull> {
        let backends = self.number(&row.backends, &wanted.backends)?;
        let range = self.ranges.resize(row.range, backends.len()).inspect_err(|_| {
            forget(&mut self.backend_ids, &backends, &row.backends);
        })?;
        let record = ServiceRecord {
            backends_first: range.first,
            backends_count: range.count,
            affinity_s: wanted.affinity_s,
            flags: wanted.flags,
            ..row.record
        };
        if is_fresh || record != row.record || backends != row.backends {
            write_backends(row, range, &backends, batch);
            // Only a fresh row can find the table full.
            batch.insert(Table::Service, &wanted.key, &record).inspect_err(|_| {
                self.ranges.free(range);
                forget(&mut self.backend_ids, &backends, &[]);
            })?;
            batch.touch(Scope::Service(record.id));
        }
        forget(&mut self.backend_ids, &row.backends, &backends);
        Ok(Row { owner: row.owner.clone(), port: wanted.port.clone(), record, backends, range })
    }

    /// Both lists are sorted: a backend that stays keeps its id.
    fn number(&mut self, old: &[BackendRecord], new: &[(Addr, u16)]) -> Result<Vec<BackendRecord>, TableFull> {
        let mut numbered: Vec<BackendRecord> = Vec::with_capacity(new.len());
        for &(addr, port) in new {
            let id = match old.binary_search_by_key(&(addr, port), |b| (b.addr, b.port)) {
                Ok(i) => Ok(old[i].id),
                Err(_) => self.backend_ids.alloc(),
            };
            match id {
                Ok(id) => numbered.push(BackendRecord { addr, port, flags: 0, id }),
                Err(full) => {
                    forget(&mut self.backend_ids, &numbered, old);
                    return Err(full);
                }
            }
        }
        Ok(numbered)
    }

    fn remove(&mut self, key: &ServiceKey, batch: &mut Batch) {
        let Some(row) = self.rows.remove(key) else { return };
        batch.remove(Table::Service, key);
        batch.touch(Scope::Service(row.record.id));
        self.ranges.free(row.range);
        forget(&mut self.backend_ids, &row.backends, &[]);
        self.ids.free(row.record.id);
        self.dirty.extend(self.waiting.get(key).into_iter().flatten().cloned());
    }

    pub fn rows(&self) -> impl Iterator<Item = (&ServiceKey, &Row)> {
        self.rows.iter()
    }

    /// (service rows, backend rows) in use.
    pub fn used(&self) -> [usize; 2] {
        [self.rows.len(), self.ranges.used()]
    }
}

/// Gives back the ids of backends that are not among `kept`.
fn forget(ids: &mut Ids, backends: &[BackendRecord], kept: &[BackendRecord]) {
    for backend in backends {
        if kept.binary_search_by_key(&(backend.addr, backend.port), |b| (b.addr, b.port)).is_err() {
            ids.free(backend.id);
        }
    }
}

/// Writes the backends that are not in their place already.
fn write_backends(row: &Row, range: Range, backends: &[BackendRecord], batch: &mut Batch) {
    let moved = range.first != row.range.first || row.range.count == 0;
    for (i, backend) in backends.iter().enumerate() {
        if moved || row.backends.get(i) != Some(backend) {
            // Cannot fail: ranges lie within the table.
            let _ = batch.set(Table::Backend, range.first as usize + i, backend);
        }
    }
}

/// The address rows first: a new port row touches the one of its address.
fn wanted(state: &State, service: &Service) -> Vec<Wanted> {
    let address = |&addr: &Addr| Wanted {
        key: ServiceKey::address(addr),
        port: String::new(),
        affinity_s: 0,
        flags: FLAG_ADDRESS_ONLY,
        backends: Vec::new(),
    };
    let mut all: Vec<Wanted> = service.cluster_ips.iter().map(address).collect();
    for addr in &service.cluster_ips {
        all.extend(service.ports.iter().map(|port| Wanted {
            key: ServiceKey::new(*addr, port.port, port.protocol),
            port: port.name.clone(),
            affinity_s: service.affinity_s,
            flags: 0,
            backends: slices::backends(state, service, port, addr.is_v4()),
        }));
    }
    // The API refuses a second port of the same number and protocol; so do we, by not looking at it.
    let mut seen = HashSet::new();
    all.retain(|row| seen.insert(row.key));
    all
}

/// As it is called in listings: `namespace/name:port`.
pub fn row_name(key: &ServiceKey, row: &Row) -> String {
    match (row.port.as_str(), key.protocol) {
        (_, Protocol(0)) => row.owner.to_string(),
        ("", _) => format!("{}:{}", row.owner, key.port),
        (name, _) => format!("{}:{name}", row.owner),
    }
}
