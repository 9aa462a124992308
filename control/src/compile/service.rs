//! Services: one row for each (cluster IP, port, protocol), one for each cluster IP, and the backends of each port.

use super::problem::{CompileError, Problems, Subject};
use crate::alloc::{Ids, Range, Ranges};
use crate::object::{Named, Service};
use crate::slices;
use crate::state::{HashMap, NameSet, State};
use bytemuck::Zeroable;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;
use tables::layout::Table;
use tables::limits::{BACKENDS_MAX, SERVICES_MAX};
use tables::lpm::Lpm;
use tables::publish::{Batch, TableFull};
use tables::scope::Scope;
use tables::service::{BackendRecord, FLAG_ADDRESS_ONLY, FLAG_MASQUERADE_OUTSIDE, Rows, ServiceKey, ServiceRecord};
use tables::{Addr, Protocol};

/// A row as it is installed.
pub struct Row {
    pub owner: Arc<Named>,
    /// The service port's name.
    pub port: String,
    pub record: ServiceRecord,
    /// Sorted by address and port.
    pub backends: Vec<BackendRecord>,
    range: Range,
}

/// A row as it should be.
struct Wanted<'a> {
    key: ServiceKey,
    port: &'a str,
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
    room: Room,
    rows: HashMap<ServiceKey, Row>,
    keys: HashMap<Arc<Named>, Keys>,
    waiting: HashMap<ServiceKey, BTreeSet<Arc<Named>>>,
    dirty: NameSet,
}

impl Services {
    pub fn new() -> Services {
        Services {
            ids: Ids::new(Table::Service.name(), 1, SERVICES_MAX),
            room: Room::new(),
            rows: HashMap::default(),
            keys: HashMap::default(),
            waiting: HashMap::default(),
            dirty: NameSet::default(),
        }
    }

    pub fn update(&mut self, state: &State, changed: NameSet, batch: &mut Batch, problems: &mut Problems) {
        self.keys.reserve(changed.len());
        // Mostly one port on one address, which has a row of its own.
        self.rows.reserve(2 * changed.len());
        self.dirty.extend(changed);
        // What found no room is tried once more when the others are done: they may have made some.
        let refused = self.compile_dirty(state, batch, problems);
        self.dirty.extend(refused);
        self.dirty = self.compile_dirty(state, batch, problems);
    }

    /// Answers which services found no room.
    fn compile_dirty(&mut self, state: &State, batch: &mut Batch, problems: &mut Problems) -> NameSet {
        let mut refused = NameSet::default();
        while !self.dirty.is_empty() {
            for id in std::mem::take(&mut self.dirty) {
                let (id, before) = self.keys.remove_entry(&id).unwrap_or_else(|| (Arc::new(id), Keys::default()));
                let outcome = self.compile(state, &id, before, batch, problems);
                if !self.note(&id, outcome, problems) {
                    refused.insert((*id).clone());
                }
            }
        }
        refused
    }

    /// Keeps the outcome of an attempt; true if it succeeded, be it that another service has the same key.
    fn note(&self, id: &Arc<Named>, outcome: Result<(), TableFull>, problems: &mut Problems) -> bool {
        let clash = self.clash(id);
        if outcome.is_ok() && clash.is_none() && problems.is_empty() {
            return true;
        }
        let subject = Subject::Service((**id).clone());
        let succeeded = problems.note(subject.clone(), outcome);
        if let Some(clash) = clash.filter(|_| succeeded) {
            problems.set(subject, clash);
        }
        succeeded
    }

    fn compile(
        &mut self,
        state: &State,
        id: &Arc<Named>,
        before: Keys,
        batch: &mut Batch,
        problems: &mut Problems,
    ) -> Result<(), TableFull> {
        let service = state.service(id);
        let wanted = service.map_or_else(Vec::new, |service| wanted(state, service));
        for key in before.waits {
            self.stop_waiting(id, &key);
        }
        for key in before.rows.iter().filter(|key| !wanted.iter().any(|w| w.key == **key)) {
            self.remove(key, batch);
        }
        let mut keys = Keys { rows: Vec::with_capacity(wanted.len()), waits: Vec::new() };
        let mut outcome = Ok(());
        for row in &wanted {
            match self.rows.get(&row.key).map(|have| have.owner.cmp(id)) {
                Some(Ordering::Less) => {
                    self.waiting.entry(row.key).or_default().insert(id.clone());
                    keys.waits.push(row.key);
                    continue;
                }
                Some(Ordering::Greater) => self.take_over(&row.key, batch, problems),
                Some(Ordering::Equal) | None => {}
            }
            let put = self.put(id, row, batch);
            if put.is_ok() || self.rows.contains_key(&row.key) {
                keys.rows.push(row.key);
            }
            outcome = outcome.and(put);
        }
        if service.is_some() {
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
    /// on the order of changes. The one that has it now gives it up.
    fn take_over(&mut self, key: &ServiceKey, batch: &mut Batch, problems: &mut Problems) {
        let Some(owner) = self.rows.get(key).map(|row| row.owner.clone()) else { return };
        self.remove(key, batch);
        if let Some(keys) = self.keys.get_mut(&owner) {
            keys.rows.retain(|other| other != key);
        }
        problems.clear(&Subject::Service((*owner).clone()));
        self.dirty.insert((*owner).clone());
    }

    fn clash(&self, id: &Named) -> Option<CompileError> {
        if self.waiting.is_empty() {
            return None;
        }
        let key = self.keys.get(id)?.waits.first()?;
        let winner = (*self.rows.get(key)?.owner).clone();
        let (addr, port, protocol) = (key.addr, key.port, key.protocol);
        Some(CompileError::ServiceClash { loser: id.clone(), winner, addr, port, protocol })
    }

    fn put(&mut self, id: &Arc<Named>, wanted: &Wanted, batch: &mut Batch) -> Result<(), TableFull> {
        if let Some(row) = self.rows.get_mut(&wanted.key) {
            return self.room.change(row, false, wanted, batch);
        }
        let mut row = Row::fresh(id.clone(), self.ids.alloc()?);
        self.room.change(&mut row, true, wanted, batch).inspect_err(|_| self.ids.free(row.record.id))?;
        self.rows.insert(wanted.key, row);
        self.touch_before(&wanted.key, batch);
        Ok(())
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

    fn remove(&mut self, key: &ServiceKey, batch: &mut Batch) {
        let Some(row) = self.rows.remove(key) else { return };
        batch.remove(Table::Service, key);
        batch.touch(Scope::Service(row.record.id));
        self.room.free(&row);
        self.ids.free(row.record.id);
        self.dirty.extend(self.waiting.get(key).into_iter().flatten().map(|id| (**id).clone()));
    }

    pub fn rows(&self) -> impl Iterator<Item = (&ServiceKey, &Row)> {
        self.rows.iter()
    }

    /// (service rows, backend rows) in use.
    pub fn used(&self) -> [usize; 2] {
        [self.rows.len(), self.room.ranges.used()]
    }
}

impl Row {
    fn fresh(owner: Arc<Named>, id: u32) -> Row {
        let record = ServiceRecord { id, ..ServiceRecord::zeroed() };
        Row { owner, port: String::new(), record, backends: Vec::new(), range: Range::default() }
    }
}

/// Where backends stand, and their ids.
struct Room {
    backend_ids: Ids,
    ranges: Ranges,
}

impl Room {
    fn new() -> Room {
        Room {
            // Twice the rows: new ids are drawn before old ones are given back.
            backend_ids: Ids::new(Table::Backend.name(), 1, 2 * BACKENDS_MAX),
            ranges: Ranges::new(Table::Backend.name(), BACKENDS_MAX),
        }
    }

    /// Makes `row` what is wanted, here and in the tables. If there is no room nothing has changed.
    fn change(&mut self, row: &mut Row, is_fresh: bool, wanted: &Wanted, batch: &mut Batch) -> Result<(), TableFull> {
        let backends = self.number(&row.backends, &wanted.backends)?;
        let range = self.ranges.resize(row.range, backends.len()).inspect_err(|_| {
            forget(&mut self.backend_ids, &backends, &row.backends);
        })?;
        let rows = Rows { first: range.first, count: range.count };
        let record = ServiceRecord {
            inside: rows,
            outside: rows,
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
        (row.record, row.backends, row.range) = (record, backends, range);
        if row.port != wanted.port {
            row.port = wanted.port.to_owned();
        }
        Ok(())
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
                Ok(id) => numbered.push(BackendRecord { addr, port, weight: 1, id }),
                Err(full) => {
                    forget(&mut self.backend_ids, &numbered, old);
                    return Err(full);
                }
            }
        }
        Ok(numbered)
    }

    fn free(&mut self, row: &Row) {
        self.ranges.free(row.range);
        forget(&mut self.backend_ids, &row.backends, &[]);
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
fn wanted<'a>(state: &State, service: &'a Service) -> Vec<Wanted<'a>> {
    let address = |addr: &Addr| Wanted {
        key: ServiceKey::address(*addr),
        port: "",
        affinity_s: 0,
        flags: FLAG_ADDRESS_ONLY,
        backends: Vec::new(),
    };
    let mut all = Vec::with_capacity(service.cluster_ips.len() * (1 + service.ports.len()));
    for addr in &service.cluster_ips {
        if !all.iter().any(|row: &Wanted| row.key.addr == *addr) {
            all.push(address(addr));
        }
    }
    for addr in &service.cluster_ips {
        for port in &service.ports {
            let key = ServiceKey::new(*addr, port.port, port.protocol);
            // The API refuses a second port of the same number and protocol; so do we, by not looking at it.
            if all.iter().any(|row| row.key == key) {
                continue;
            }
            let backends = slices::backends(state, service, port, addr.is_v4());
            let (affinity_s, flags) = (service.affinity_s, FLAG_MASQUERADE_OUTSIDE);
            all.push(Wanted { key, port: &port.name, affinity_s, flags, backends });
        }
    }
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
