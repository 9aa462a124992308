//! Local ends: pods attached here and the node's own addresses, each with its identity, policy set and route.

use super::policy::Policies;
use super::problem::{Problems, Subject};
use super::route::Routes;
use crate::identity::Identities;
use crate::state::{Changes, Local, State};
use std::collections::{BTreeSet, HashMap};
use tables::endpoint::{EndpointKind, EndpointRecord, FLAG_POLICY_IN_FORCE};
use tables::layout::Table;
use tables::policy::IDENTITY_NODE;
use tables::publish::Batch;
use tables::scope::Scope;
use tables::{Addr, Prefix};

/// The node's own addresses and what they are.
pub fn own_addrs(local: &Local) -> impl Iterator<Item = (Addr, EndpointKind)> {
    let nodes = local.addrs.iter().map(|&addr| (addr, EndpointKind::Node));
    let of = |addrs: [Addr; 2], kind| addrs.into_iter().map(move |addr| (addr, kind));
    nodes
        .chain(of(local.host, EndpointKind::Host))
        .chain(of(local.gateway, EndpointKind::Gateway))
        .chain(of(local.snat, EndpointKind::Snat))
        .filter(|(addr, _)| !addr.is_unspecified())
}

/// What endpoint rows refer to.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub identities: &'a Identities,
    pub policies: &'a Policies,
    pub routes: &'a Routes,
}

/// To whom an address belongs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Owner {
    Node,
    Attachment(String),
}

#[derive(Default)]
pub struct Endpoints {
    rows: HashMap<Addr, (Owner, EndpointRecord)>,
    addrs: HashMap<Owner, Vec<Addr>>,
    dirty: BTreeSet<Owner>,
    /// Addresses that found no room.
    refused: HashMap<Owner, Vec<Addr>>,
}

impl Endpoints {
    pub fn update(
        &mut self,
        state: &State,
        changes: &Changes,
        context: Context,
        batch: &mut Batch,
        problems: &mut Problems,
    ) {
        self.mark(state, changes, context);
        let wanted: Vec<_> =
            std::mem::take(&mut self.dirty).into_iter().map(|o| (wanted(state, context, &o), o)).collect();
        // Removals first: an address may have moved to another attachment.
        for (rows, owner) in &wanted {
            self.remove_others(owner, rows, batch);
            let refused = self.refused.remove(owner).unwrap_or_default();
            refused.into_iter().for_each(|addr| problems.clear(&Subject::Endpoint(addr)));
        }
        for (rows, owner) in wanted {
            for (addr, record) in rows {
                if !self.put(addr, &owner, record, batch, problems) {
                    self.refused.entry(owner.clone()).or_default().push(addr);
                    self.dirty.insert(owner.clone());
                }
            }
        }
    }

    fn mark(&mut self, state: &State, changes: &Changes, context: Context) {
        let attachments = changes.attachments.iter().chain(context.policies.reassigned());
        self.dirty.extend(attachments.cloned().map(Owner::Attachment));
        for pod in &changes.pods {
            self.dirty.extend(state.attachments_of(pod).cloned().map(Owner::Attachment));
        }
        for addr in context.identities.moved() {
            self.dirty.extend(self.rows.get(addr).map(|(owner, _)| owner.clone()));
        }
        if changes.node {
            self.dirty.insert(Owner::Node);
        }
    }

    fn remove_others(&mut self, owner: &Owner, wanted: &[(Addr, EndpointRecord)], batch: &mut Batch) {
        for addr in self.addrs.remove(owner).unwrap_or_default() {
            if wanted.iter().any(|(other, _)| *other == addr) {
                self.addrs.entry(owner.clone()).or_default().push(addr);
            } else if let Some((_, record)) = self.rows.remove(&addr) {
                batch.remove(Table::Endpoint, &addr);
                touch(&record, batch);
            }
        }
    }

    /// True if the row stands as it should.
    fn put(
        &mut self,
        addr: Addr,
        owner: &Owner,
        record: EndpointRecord,
        batch: &mut Batch,
        problems: &mut Problems,
    ) -> bool {
        let before = self.rows.get(&addr);
        if before.is_some_and(|(have, old)| have == owner && *old == record) {
            return true;
        }
        let old = before.cloned();
        if !problems.note(Subject::Endpoint(addr), batch.insert(Table::Endpoint, &addr, &record)) {
            return false;
        }
        // Flows to an address that is new here depend on the route that covered it, which its own route touched.
        if let Some((had, old)) = old {
            touch(&record, batch);
            touch(&old, batch);
            if had != *owner
                && let Some(addrs) = self.addrs.get_mut(&had)
            {
                addrs.retain(|other| *other != addr);
            }
        }
        self.rows.insert(addr, (owner.clone(), record));
        let addrs = self.addrs.entry(owner.clone()).or_default();
        if !addrs.contains(&addr) {
            addrs.push(addr);
        }
        true
    }

    pub fn used(&self) -> usize {
        self.rows.len()
    }

    /// Address and row of each attachment's addresses.
    pub fn of_attachment(&self, key: &str) -> impl Iterator<Item = (Addr, &EndpointRecord)> {
        let addrs = self.addrs.get(&Owner::Attachment(key.to_owned()));
        addrs.into_iter().flatten().filter_map(|addr| Some((*addr, &self.rows.get(addr)?.1)))
    }
}

fn touch(record: &EndpointRecord, batch: &mut Batch) {
    batch.touch(Scope::Route(record.route));
    batch.touch(Scope::PolicySet(record.policy_set));
}

fn wanted(state: &State, context: Context, owner: &Owner) -> Vec<(Addr, EndpointRecord)> {
    match owner {
        Owner::Node => {
            own_addrs(state.local()).map(|(addr, kind)| (addr, own_row(state, context, addr, kind))).collect()
        }
        Owner::Attachment(key) => pod_rows(state, context, key),
    }
}

fn own_row(state: &State, context: Context, addr: Addr, kind: EndpointKind) -> EndpointRecord {
    let local = state.local();
    let is_fairway = matches!(kind, EndpointKind::Gateway | EndpointKind::Snat);
    let mut row = EndpointRecord::new(kind);
    row.interface = local.host_interface;
    row.identity = IDENTITY_NODE;
    row.route = route(context, addr);
    row.owner_first = if kind == EndpointKind::Snat { 0 } else { local.host_owner };
    row.owner_count = if kind == EndpointKind::Snat { local.workers.max(1) } else { 1 };
    row.mac = if is_fairway { local.gateway_mac } else { local.host_mac };
    row.flags = FLAG_POLICY_IN_FORCE;
    row
}

/// A pod may speak only once its object is known and its policies are compiled.
fn pod_rows(state: &State, context: Context, key: &str) -> Vec<(Addr, EndpointRecord)> {
    let Some(endpoint) = state.local().endpoints.get(key) else { return Vec::new() };
    let set = context.policies.set_of(key);
    let row = |addr: Addr| {
        let mut row = EndpointRecord::new(EndpointKind::Pod);
        row.interface = endpoint.interface;
        row.policy_set = set.unwrap_or(0);
        row.identity = context.identities.of(addr);
        row.route = route(context, addr);
        row.owner_first = endpoint.owner;
        row.mac = endpoint.mac;
        row.flags = if set.is_some() { FLAG_POLICY_IN_FORCE } else { 0 };
        row
    };
    endpoint.addrs.iter().map(|&addr| (addr, row(addr))).collect()
}

fn route(context: Context, addr: Addr) -> u32 {
    context.routes.id_of(&Prefix::host(addr)).unwrap_or(0)
}
