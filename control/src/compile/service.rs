//! Services and host ports: who has which row of (address, port, protocol). What a row should say is decided in
//! [`wanted`], where its backends stand in [`lists`].

mod answering;
mod asked;
mod group;
mod lists;
mod owner;
mod reported;
mod rings;
mod sources;
mod wanted;

use super::Single;
use super::problem::{CompileError, Problems, Subject};
use crate::alloc::Ids;
use crate::object::Named;
use crate::state::{Changes, HashMap, State};
use answering::Answering;
use asked::AskedPorts;
use bytemuck::Zeroable;
use foldhash::fast::RandomState;
use group::Group;
use indexmap::IndexSet;
use lists::{Change, Room};
use owner::{Held, Holdings};
use reported::Reported;
use rings::RingRoom;
use sources::{SourceRoom, Sources};
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;
use tables::Protocol;
use tables::layout::Table;
use tables::limits::SERVICES_MAX;
use tables::lpm::Lpm;
use tables::publish::{Batch, TableFull};
use tables::scope::Scope;
use tables::service::{BackendRecord, FLAG_ADDRESS_ONLY, FLAG_WEIGHTED, Rows, ServiceKey, ServiceRecord};
use wanted::{Facts, Wanted};

pub use owner::Owner;

type Owners = IndexSet<Owner, RandomState>;

/// A row as it is installed.
pub struct Row {
    pub owner: Owner,
    pub record: ServiceRecord,
    /// To be claimed and routed for itself.
    is_single: bool,
}

pub struct Services {
    ids: Ids,
    room: Room,
    source_room: SourceRoom,
    ring_room: RingRoom,
    rows: HashMap<ServiceKey, Row>,
    held: Holdings,
    waiting: HashMap<ServiceKey, BTreeSet<Owner>>,
    dirty: Owners,
    facts: Facts,
    /// Pods with host ports.
    pods: BTreeSet<Named>,
    singles: Arc<BTreeSet<Single>>,
    asked: AskedPorts,
    answering: Answering,
    pub reported: Reported,
}

impl Services {
    pub fn new() -> Services {
        Services {
            ids: Ids::new(Table::Service.name(), 1, SERVICES_MAX),
            room: Room::new(),
            source_room: SourceRoom::new(),
            ring_room: RingRoom::new(),
            rows: HashMap::default(),
            held: Holdings::default(),
            waiting: HashMap::default(),
            dirty: Owners::default(),
            facts: Facts::default(),
            pods: BTreeSet::new(),
            singles: Arc::default(),
            asked: AskedPorts::default(),
            answering: Answering::default(),
            reported: Reported::default(),
        }
    }

    pub fn update(&mut self, state: &State, changes: &mut Changes, batch: &mut Batch, problems: &mut Problems) {
        let services = std::mem::take(&mut changes.services);
        self.held.reserve(services.len());
        // Mostly one port on one address, which has a row of its own.
        self.rows.reserve(2 * services.len());
        batch.expect_rows(Table::Service, 2 * services.len());
        self.dirty.extend(services.into_iter().map(Owner::Service));
        self.mark_pods(state, changes);
        if changes.node || !changes.nodes.is_empty() {
            self.update_facts(state);
        }
        // What found no room is tried once more when the others are done: they may have made some.
        let refused = self.compile_dirty(state, batch, problems);
        self.dirty.extend(refused);
        self.dirty = self.compile_dirty(state, batch, problems);
    }

    fn mark_pods(&mut self, state: &State, changes: &Changes) {
        for id in &changes.pods {
            let has_ports = state.pod(id).is_some_and(|pod| !pod.host_ports.is_empty());
            let had_ports = if has_ports { !self.pods.insert(id.clone()) } else { self.pods.remove(id) };
            if has_ports || had_ports {
                self.dirty.insert(Owner::Pod(id.clone().into()));
            }
        }
    }

    /// Every row may depend on these.
    fn update_facts(&mut self, state: &State) {
        let facts = Facts::of(state);
        if facts != self.facts {
            self.facts = facts;
            self.dirty.extend(self.held.owners());
        }
    }

    /// Answers which owners found no room.
    fn compile_dirty(&mut self, state: &State, batch: &mut Batch, problems: &mut Problems) -> Owners {
        let mut refused = Owners::default();
        while !self.dirty.is_empty() {
            for owner in std::mem::take(&mut self.dirty) {
                if !self.compile_one(state, &owner, batch, problems) {
                    refused.insert(owner);
                }
            }
        }
        refused
    }

    /// False if it found no room.
    fn compile_one(&mut self, state: &State, owner: &Owner, batch: &mut Batch, problems: &mut Problems) -> bool {
        let before = self.held.take(owner);
        if before.is_none() && !wanted::exists(state, owner) {
            return true;
        }
        let before = before.unwrap_or_else(|| Held::nothing(owner.name(state).clone()));
        let mut wanted = wanted::of(state, &self.facts, owner);
        // They lie anywhere in a large table.
        wanted.rows.iter().for_each(|row| batch.view().expect(Table::Service, &row.key));
        let problem = wanted.problem.take();
        self.answering.set(owner, wanted.answering(&self.facts));
        if let Owner::Service(_) = owner {
            self.reported.set(&before.name, wanted.health, wanted.announced.take());
        }
        let (held, outcome) = self.compile(state, owner, wanted, before, batch, problems);
        let problem = self.clash(state, owner, &held).or(problem);
        if wanted::exists(state, owner) {
            self.held.keep(owner, held);
        }
        if outcome.is_ok() && problem.is_none() && problems.is_empty() {
            return true;
        }
        note(owner.subject(state), outcome, problem, problems)
    }

    fn compile(
        &mut self,
        state: &State,
        owner: &Owner,
        mut wanted: Wanted,
        mut before: Held,
        batch: &mut Batch,
        problems: &mut Problems,
    ) -> (Held, Result<(), TableFull>) {
        for key in before.waits {
            self.stop_waiting(owner, &key);
        }
        let sources = self.change_sources(&mut before.sources, &mut wanted, batch);
        for key in before.rows.iter().filter(|key| !wanted.rows.iter().any(|row| row.key == **key)) {
            self.remove(key, batch);
        }
        let (groups, mut outcome) = self.change_groups(before.groups, &wanted.groups, batch);
        let place = Place { owner, groups: &groups, sources: before.sources.as_deref() };
        let mut rows = Vec::with_capacity(wanted.rows.len());
        let mut waits = Vec::new();
        for row in &wanted.rows {
            let old = match self.claim(state, owner, &row.key) {
                Claim::Waits => {
                    waits.push(row.key);
                    continue;
                }
                Claim::TakesOver => {
                    self.take_over(state, &row.key, batch, problems);
                    None
                }
                Claim::Has(old) => old,
            };
            let has_new_sources = row.is_guarded && sources == Ok(true);
            match self.put(&place, row, old, has_new_sources, batch) {
                Ok(true) => rows.push(row.key),
                put => outcome = outcome.and(put.map(|_| ())),
            }
        }
        // In place, as `flatten` is not.
        #[expect(clippy::filter_map_identity)]
        let groups = groups.into_iter().filter_map(|group| group).collect();
        let held = Held { rows, waits, groups, ..before };
        (held, outcome.and(sources.map(|_| ())))
    }

    /// Without its source ranges a row would let everybody in: then there is none.
    fn change_sources(
        &mut self,
        sources: &mut Option<Box<Sources>>,
        wanted: &mut Wanted,
        batch: &mut Batch,
    ) -> Result<bool, TableFull> {
        if sources.is_none() && wanted.sources.iter().all(Vec::is_empty) {
            return Ok(false);
        }
        let outcome = self.source_room.change(sources.get_or_insert_default(), &mut wanted.sources, batch);
        if outcome.is_err() {
            wanted.rows.retain(|row| !row.is_guarded);
        }
        sources.take_if(|sources| sources.is_empty());
        outcome
    }

    /// The groups in the order in which they are wanted; None for those that found no room.
    fn change_groups(
        &mut self,
        mut before: Vec<Group>,
        wanted: &[wanted::Group],
        batch: &mut Batch,
    ) -> (Vec<Option<Group>>, Result<(), TableFull>) {
        for gone in before.extract_if(.., |group| !wanted.iter().any(|wanted| wanted.key == group.key)) {
            self.room.free(&gone.lists);
            self.ring_room.free(gone.rings);
            self.ids.free(gone.id);
        }
        let mut outcome = Ok(());
        let mut groups = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let have = before.iter().position(|group| group.key == wanted.key).map(|i| before.swap_remove(i));
            let (group, changed) = self.change_group(have, wanted, batch);
            groups.push(group);
            outcome = outcome.and(changed);
        }
        (groups, outcome)
    }

    /// A group that finds no room stays as it was.
    fn change_group(
        &mut self,
        have: Option<Group>,
        wanted: &wanted::Group,
        batch: &mut Batch,
    ) -> (Option<Group>, Result<(), TableFull>) {
        let is_fresh = have.is_none();
        let mut group = match have.map_or_else(|| Group::fresh(wanted, &mut self.ids), Ok) {
            Ok(group) => group,
            Err(full) => return (None, Err(full)),
        };
        let change = match self.room.change(&mut group.lists, &wanted.usable, wanted.weights, batch) {
            Ok(change) => change,
            Err(full) if is_fresh => {
                self.ids.free(group.id);
                return (None, Err(full));
            }
            Err(full) => return (Some(group), Err(full)),
        };
        if change != Change::Nothing && !is_fresh {
            batch.touch(Scope::Service(group.id));
        }
        let has_new_lists = change == Change::Serving;
        let outcome = self.ring_room.follow(&mut group.rings, wanted.algorithm, &group.lists, has_new_lists, batch);
        if group.name != wanted.name {
            group.name = wanted.name.to_owned();
        }
        (group.affinity_s, group.algorithm) = (wanted.affinity_s, wanted.algorithm);
        (Some(group), outcome)
    }

    /// Of several that claim a key the first has it, whatever came first: the outcome must not depend on the order of
    /// changes.
    fn claim(&mut self, state: &State, owner: &Owner, key: &ServiceKey) -> Claim {
        let Some(have) = self.rows.get(key) else { return Claim::Has(None) };
        match have.owner.order(owner, state) {
            Ordering::Equal => Claim::Has(Some(have.record)),
            Ordering::Greater => Claim::TakesOver,
            Ordering::Less => {
                self.waiting.entry(*key).or_default().insert(owner.clone());
                Claim::Waits
            }
        }
    }

    fn stop_waiting(&mut self, owner: &Owner, key: &ServiceKey) {
        if let Some(waiting) = self.waiting.get_mut(key) {
            waiting.remove(owner);
            if waiting.is_empty() {
                self.waiting.remove(key);
            }
        }
    }

    /// The one that has it now gives it up.
    fn take_over(&mut self, state: &State, key: &ServiceKey, batch: &mut Batch, problems: &mut Problems) {
        let Some(owner) = self.rows.get(key).map(|row| row.owner.clone()) else { return };
        self.remove(key, batch);
        if let Some(held) = self.held.get_mut(&owner) {
            held.rows.retain(|other| other != key);
        }
        problems.clear(&owner.subject(state));
        self.dirty.insert(owner);
    }

    fn clash(&self, state: &State, owner: &Owner, held: &Held) -> Option<CompileError> {
        let key = held.waits.first()?;
        let winner = self.rows.get(key)?.owner.subject(state);
        let (addr, port, protocol) = (key.addr, key.port, key.protocol);
        Some(CompileError::ServiceClash { loser: owner.subject(state), winner, addr, port, protocol })
    }

    /// Whether the row stands: it does not where its backends found no room.
    fn put(
        &mut self,
        place: &Place,
        wanted: &wanted::Row,
        old: Option<ServiceRecord>,
        has_new_sources: bool,
        batch: &mut Batch,
    ) -> Result<bool, TableFull> {
        let Some(record) = self.record(place, wanted, old)? else {
            self.remove(&wanted.key, batch);
            return Ok(false);
        };
        if old != Some(record) {
            batch.insert(Table::Service, &wanted.key, &record).inspect_err(|_| self.free_address_id(&record))?;
        }
        if old != Some(record) || has_new_sources {
            old.iter().chain([&record]).for_each(|record| batch.touch(Scope::Service(record.id)));
        }
        let is_single = wanted.group.is_some() && !self.facts.is_service_addr(wanted.key.addr);
        if old.is_none() {
            self.rows.insert(wanted.key, Row { owner: place.owner.clone(), record, is_single: false });
            self.touch_before(&wanted.key, batch);
        } else if old != Some(record)
            && let Some(row) = self.rows.get_mut(&wanted.key)
        {
            row.record = record;
        }
        self.set_single(&wanted.key, is_single);
        Ok(true)
    }

    /// What the row should say; None if its backends found no room.
    fn record(
        &mut self,
        place: &Place,
        wanted: &wanted::Row,
        old: Option<ServiceRecord>,
    ) -> Result<Option<ServiceRecord>, TableFull> {
        let record = ServiceRecord { flags: wanted.flags, ..ServiceRecord::zeroed() };
        let Some(index) = wanted.group else {
            let id = old.map_or_else(|| self.ids.alloc(), |old| Ok(old.id))?;
            return Ok(Some(ServiceRecord { id, ..record }));
        };
        Ok(place.groups[index].as_ref().map(|group| ServiceRecord {
            id: group.id,
            affinity_s: group.affinity_s,
            algorithm: group.algorithm as u8,
            ring: group.rings.as_ref().map_or(0, |rings| rings.pair(wanted.inside, wanted.outside)),
            flags: wanted.flags | if group.lists.is_weighted() { FLAG_WEIGHTED } else { 0 },
            inside: group.rows(wanted.inside),
            outside: group.rows(wanted.outside),
            leaving: group.lists.leaving(),
            sources: place.sources.filter(|_| wanted.is_guarded).map_or(Rows::default(), |s| s.rows(wanted.family())),
            ..record
        }))
    }

    /// An address row has an id of its own; others have their group's.
    fn free_address_id(&mut self, record: &ServiceRecord) {
        if record.flags & FLAG_ADDRESS_ONLY != 0 {
            self.ids.free(record.id);
        }
    }

    fn set_single(&mut self, key: &ServiceKey, is_single: bool) {
        let Some(row) = self.rows.get_mut(key).filter(|row| row.is_single != is_single) else { return };
        row.is_single = is_single;
        let single = Single { addr: key.addr, protocol: key.protocol, port: key.port };
        let singles = Arc::make_mut(&mut self.singles);
        match is_single {
            true => singles.insert(single),
            false => singles.remove(&single),
        };
        if self.facts.is_snat_port(key.port) {
            self.asked.count(key.port, is_single);
        }
    }

    pub fn asked_snat_ports(&self) -> impl Iterator<Item = u16> {
        self.asked.ports()
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
        self.set_single(key, false);
        let Some(row) = self.rows.remove(key) else { return };
        batch.remove(Table::Service, key);
        batch.touch(Scope::Service(row.record.id));
        self.free_address_id(&row.record);
        self.dirty.extend(self.waiting.get(key).into_iter().flatten().cloned());
    }

    pub fn answering(&self) -> Arc<BTreeSet<Single>> {
        self.answering.all()
    }

    pub fn singles(&self) -> Arc<BTreeSet<Single>> {
        self.singles.clone()
    }

    pub fn rows(&self) -> impl Iterator<Item = (&ServiceKey, &Row)> {
        self.rows.iter()
    }

    /// The service port's name and all backends of a row; nothing for an address row.
    pub fn behind(&self, row: &Row) -> (&str, impl Iterator<Item = &BackendRecord>) {
        let held = self.held.get(&row.owner).filter(|_| row.record.flags & FLAG_ADDRESS_ONLY == 0);
        let group = held.and_then(|held| held.groups.iter().find(|group| group.id == row.record.id));
        (group.map_or("", |group| &group.name), group.into_iter().flat_map(|group| group.lists.all()))
    }

    /// The service or pod that a row is of.
    pub fn owner_name(&self, row: &Row) -> Option<&Named> {
        Some(&self.held.get(&row.owner)?.name)
    }

    /// As it is called in listings: `namespace/name:port`.
    pub fn row_name(&self, key: &ServiceKey, row: &Row) -> String {
        let mut owner = self.owner_name(row).map_or_else(String::new, Named::to_string);
        if let Owner::Pod(_) = row.owner {
            owner.insert_str(0, "pod ");
        }
        match (self.behind(row).0, key.protocol) {
            (_, Protocol(0)) => owner,
            ("", _) => format!("{owner}:{}", key.port),
            (name, _) => format!("{owner}:{name}"),
        }
    }

    /// (service rows, backend rows, source rows, ring words) in use.
    pub fn used(&self) -> [usize; 4] {
        [self.rows.len(), self.room.used(), self.source_room.used(), self.ring_room.used()]
    }
}

/// Keeps the outcome of an attempt; true if it succeeded, be it that another owner has the same key.
fn note(
    subject: Subject,
    outcome: Result<(), TableFull>,
    problem: Option<CompileError>,
    problems: &mut Problems,
) -> bool {
    let succeeded = problems.note(subject.clone(), outcome);
    if let Some(problem) = problem.filter(|_| succeeded) {
        problems.set(subject, problem);
    }
    succeeded
}

/// How an owner stands to a key that it wants.
enum Claim {
    /// Nobody else has it; its own row, if there is one.
    Has(Option<ServiceRecord>),
    TakesOver,
    Waits,
}

/// What a row refers to.
struct Place<'a> {
    owner: &'a Owner,
    groups: &'a [Option<Group>],
    sources: Option<&'a Sources>,
}
