//! Addresses of services that no device has: given out of pools, written beside the objects by one node for all, and
//! announced on the link. Who gets what and who announces it is decided elsewhere.

use super::Supervisor;
use crate::announce::{Announcer, Candidates, Config, Order, View, Wanted};
use crate::args::Announce;
use crate::compile::Announced;
use crate::file::status;
use crate::kube;
use crate::listing::AddressView;
use crate::log;
use crate::object::Named;
use crate::state::Status;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tables::Addr;
use tokio::task::JoinHandle;

/// A node that is not the one that writes does it after so many ticks without seeing it done: its directory may be its
/// own, or the other's clock stands still.
const OTHERS_TICKS: u32 = 5;
/// Of which problems `status` tells here.
const STATUS: &str = "service-status";
const ANNOUNCE: &str = "announce";

#[derive(Default)]
pub struct Addresses {
    announcer: Option<Announcer>,
    /// Of the lease, as of which services are known.
    pub term: u64,
    announced: Arc<BTreeMap<Named, Announced>>,
    wanted: Arc<Wanted>,
    pub problems: Vec<String>,
    writing: Option<JoinHandle<Result<(), String>>>,
    /// What was to be written at the last tick, and for how many.
    unwritten: (Vec<Status>, u32),
}

impl Supervisor {
    pub(super) fn start_announcing(&mut self) {
        if self.args.announce.is_empty() {
            return;
        }
        let config = Config {
            node: self.args.node.clone(),
            device: self.uplink.name.clone(),
            device_index: self.uplink.index,
            port: self.args.announce_port,
            vni: self.args.vni,
        };
        match Announcer::start(config) {
            Ok(announcer) => self.addresses.announcer = Some(announcer),
            Err(error) => self.set_problem(ANNOUNCE, format!("cannot announce addresses: {error}")),
        }
    }

    pub(super) fn stop_announcing(&mut self) {
        self.addresses.announcer = None;
    }

    /// Where there is a lease, its holder gives addresses to services, and the others follow.
    fn gives_addresses(&self) -> bool {
        self.lease.as_ref().is_none_or(|lease| lease.leads(self.addresses.term))
    }

    pub(super) async fn give_lease_back(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.release().await;
        }
    }

    /// After objects or their status changed, before rows are made of them.
    pub(super) fn assign_addresses(&mut self) {
        let gives = self.gives_addresses();
        let Some(problems) = self.state.assign_addresses(&self.args.load_balancer_pools, gives) else { return };
        let now: Vec<String> = problems.iter().map(ToString::to_string).collect();
        for sentence in now.iter().filter(|sentence| !self.addresses.problems.contains(sentence)) {
            log(format_args!("{sentence}"));
        }
        self.addresses.problems = now;
    }

    pub(super) fn take_announced(&mut self, announced: Arc<BTreeMap<Named, Announced>>) {
        if !Arc::ptr_eq(&self.addresses.announced, &announced) {
            self.addresses.announced = announced;
            self.refresh_wanted();
        }
    }

    /// A node's own address is announced by its kernel.
    pub(super) fn refresh_wanted(&mut self) {
        let nodes = self.state.nodes.values().flat_map(|node| &node.addrs);
        let own: BTreeSet<Addr> = nodes.chain(&self.node_addrs).copied().collect();
        let wanted = wanted(&self.addresses.announced, &self.args.announce, &own);
        if wanted != *self.addresses.wanted {
            self.addresses.wanted = Arc::new(wanted);
        }
    }

    /// After every event: what serves may have come or gone.
    pub(super) fn order_announcements(&mut self) {
        let Some(announcer) = &self.addresses.announcer else { return };
        let has_tables = self.dataplane.as_ref().is_some_and(|dataplane| dataplane.has_tables);
        let is_serving =
            has_tables && !["claim", "tables", "uplink"].iter().any(|about| self.problems.contains_key(*about));
        announcer.order(Order { is_serving, mac: self.uplink.mac, wanted: self.addresses.wanted.clone() });
    }

    /// Every second.
    pub(super) async fn write_statuses(&mut self) {
        if self.args.load_balancer_pools.is_empty() || !self.state.is_complete() {
            return;
        }
        if self.addresses.writing.as_ref().is_some_and(|writing| !writing.is_finished()) {
            return;
        }
        if let Some(written) = self.addresses.writing.take() {
            self.note(STATUS, written.await.unwrap_or_else(|error| Err(error.to_string())));
        }
        // The lease may have come or gone.
        self.assign_addresses();
        let statuses = self.state.statuses_to_write();
        let due = self.due(&statuses);
        if !due.is_empty() {
            self.addresses.writing = self.write(due);
        }
    }

    /// To the API server, or beside the files.
    fn write(&self, due: Vec<Status>) -> Option<JoinHandle<Result<(), String>>> {
        if let Some(writer) = self.writer.clone() {
            return Some(tokio::spawn(async move { writer.write(kube::Order::Statuses(due)).await }));
        }
        let objects = self.args.objects.clone()?;
        let write = move || status::write(&objects, &due).map_err(|error| error.to_string());
        Some(tokio::task::spawn_blocking(write))
    }

    /// Without a lease one of those that hear each other writes first. Who does not give has nothing to write to a server.
    /// What is to be removed waits for another tick: a service may move from one file to another.
    fn due(&mut self, statuses: &[Status]) -> Vec<Status> {
        let view = self.addresses.announcer.as_ref().map(Announcer::view).unwrap_or_default();
        let is_writer = self.lease.is_some() || view.writer.is_none_or(|writer| writer == self.args.node);
        let (before, ticks) = std::mem::take(&mut self.addresses.unwritten);
        let ticks = if before == statuses { ticks + 1 } else { 0 };
        self.addresses.unwritten = (statuses.to_vec(), ticks);
        if !is_writer && ticks < OTHERS_TICKS {
            return Vec::new();
        }
        statuses.iter().filter(|status| !status.1.is_empty() || before.contains(status)).cloned().collect()
    }

    pub(super) fn address_views(&self) -> Vec<AddressView> {
        let view = self.addresses.announcer.as_ref().map(Announcer::view).unwrap_or_default();
        let kinds = |announced: &Announced| {
            let balancer = announced.balancer.iter().map(|addr| (*addr, "load-balancer"));
            balancer.chain(announced.external.iter().map(|addr| (*addr, "external"))).collect::<Vec<_>>()
        };
        let all = self.addresses.announced.iter();
        all.flat_map(|(id, announced)| kinds(announced).into_iter().map(move |(addr, kind)| (id, addr, kind)))
            .map(|(id, addr, kind)| self.address_view(&view, id, addr, kind))
            .collect()
    }

    fn address_view(&self, view: &View, id: &Named, addr: Addr, kind: &str) -> AddressView {
        let pool = self.args.load_balancer_pools.iter().find(|pool| pool.contains(addr));
        AddressView {
            namespace: id.namespace.clone(),
            name: id.name.clone(),
            addr,
            kind: kind.to_owned(),
            pool: pool.map(|pool| pool.name.clone()),
            announced_by: view.owners.get(&addr).cloned(),
        }
    }

    pub(super) fn address_problems(&self) -> Vec<String> {
        let announcer = self.addresses.announcer.as_ref();
        let announcing = announcer.map(|announcer| announcer.view().problems).unwrap_or_default();
        [self.addresses.problems.clone(), announcing].concat()
    }
}

/// Of an address of several services only nodes that serve all of them.
fn wanted(announced: &BTreeMap<Named, Announced>, kinds: &[Announce], own: &BTreeSet<Addr>) -> Wanted {
    let mut wanted = Wanted::new();
    for one in announced.values() {
        let balancer = one.balancer.iter().filter(|_| kinds.contains(&Announce::LoadBalancer));
        let external = one.external.iter().filter(|_| kinds.contains(&Announce::External));
        for addr in balancer.chain(external).filter(|addr| !own.contains(addr)) {
            let candidates: &mut Candidates = wanted.entry(*addr).or_default();
            *candidates = match (candidates.take(), &one.nodes) {
                (None, nodes) => nodes.clone(),
                (kept, None) => kept,
                (Some(kept), Some(nodes)) => Some(kept.intersection(nodes).cloned().collect()),
            };
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_that_are_asked_for_are_announced_by_nodes_that_serve_all_services_of_an_address() {
        let addr = |text: &str| text.parse::<Addr>().unwrap();
        let set = |names: &[&str]| names.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
        let one = |balancer: &str, external: &str, nodes: Option<&[&str]>| Announced {
            balancer: vec![addr(balancer)],
            external: vec![addr(external)],
            nodes: nodes.map(set),
        };
        let announced = BTreeMap::from([
            (Named::new("d", "a"), one("10.0.0.1", "10.1.0.1", None)),
            (Named::new("d", "b"), one("10.0.0.1", "10.1.0.2", Some(&["x", "y"]))),
            (Named::new("d", "c"), one("10.0.0.1", "10.1.0.3", Some(&["y", "z"]))),
            (Named::new("d", "d"), one("10.0.0.9", "10.1.0.4", None)),
        ]);
        let own = [addr("10.0.0.9")].into();
        let balancers = wanted(&announced, &[Announce::LoadBalancer], &own);
        assert_eq!(balancers, [(addr("10.0.0.1"), Some(set(&["y"])))].into(), "10.0.0.9 is a node's own");
        let external = wanted(&announced, &[Announce::External], &own);
        assert_eq!((external.len(), &external[&addr("10.1.0.1")]), (4, &None));
    }
}
