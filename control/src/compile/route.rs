//! Routes: what wants a prefix, who wins it, and its row under a stable id.
//!
//! Everything that leaves through the uplink by a kernel route counts as outside the cluster and is masqueraded, other
//! nodes' own addresses included: a pod's address means nothing on the underlay.

use super::endpoint;
use super::neighbour::{Neighbours, Use};
use super::prefixes::Prefixes;
use super::problem::{Problems, Subject};
use crate::alloc::Ids;
use crate::encapsulation;
use crate::object::Node;
use crate::state::{Changes, KernelRoute, Local, State};
use bytemuck::Zeroable;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use tables::endpoint::EndpointKind;
use tables::layout::Table;
use tables::limits::ROUTES_MAX;
use tables::lpm::Lpm;
use tables::publish::{Batch, TableFull};
use tables::route::{FLAG_MASQUERADE, RouteKind, RouteRecord};
use tables::scope::Scope;
use tables::{Addr, Mac, Prefix};

/// Who wants a route; of several for one prefix the first of this order wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Source {
    Own,
    Attachment(String),
    Node(String),
    ServiceCidrs,
    ClusterCidrs,
    Neighbour(Addr),
    Kernel,
}

/// A route before its next hop has an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spec {
    kind: RouteKind,
    flags: u8,
    peer: Addr,
    inner_mac: Option<Mac>,
    via: Option<(Addr, Use)>,
}

impl Spec {
    fn plain(kind: RouteKind) -> Spec {
        Spec { kind, flags: 0, peer: Addr::UNSPECIFIED, inner_mac: None, via: None }
    }
}

struct Installed {
    id: u32,
    spec: Spec,
}

/// Route id 0 is no route.
pub struct Routes {
    ids: Ids,
    wanted: HashMap<Prefix, BTreeMap<Source, Spec>>,
    by_source: HashMap<Source, HashSet<Prefix>>,
    installed: Prefixes<Installed>,
    dirty: BTreeSet<Prefix>,
}

impl Routes {
    pub fn new() -> Routes {
        Routes {
            ids: Ids::new(Table::Route.name(), 1, ROUTES_MAX),
            wanted: HashMap::new(),
            by_source: HashMap::new(),
            installed: Prefixes::default(),
            dirty: BTreeSet::new(),
        }
    }

    pub fn update(&mut self, state: &State, changes: &Changes) {
        let local = state.local();
        if changes.node {
            self.want(Source::Own, own(local));
            self.want(Source::ServiceCidrs, all(&local.service_cidrs, RouteKind::Services));
            self.want(Source::ClusterCidrs, all(&local.cluster_cidrs, RouteKind::Blackhole));
        }
        for key in &changes.attachments {
            let addrs = local.endpoints.get(key).map_or(&[][..], |e| &e.addrs);
            let routes = addrs.iter().map(|&addr| (Prefix::host(addr), Spec::plain(RouteKind::Local)));
            self.want(Source::Attachment(key.clone()), routes.collect());
        }
        let paths_changed = changes.node || changes.kernel_routes;
        if paths_changed {
            let usable = local.kernel_routes.iter().filter(|route| has_source(local, route.prefix));
            self.want(Source::Kernel, usable.map(kernel).collect());
        }
        for name in if paths_changed { state.nodes.keys().collect() } else { Vec::new() } {
            self.want_node(state, name);
        }
        for name in &changes.nodes {
            self.want_node(state, name);
        }
        for &addr in if paths_changed { local.neighbours.keys().collect() } else { Vec::new() } {
            self.want(Source::Neighbour(addr), neighbour(local, addr));
        }
        for &addr in &changes.neighbours {
            self.want(Source::Neighbour(addr), neighbour(local, addr));
        }
    }

    fn want_node(&mut self, state: &State, name: &str) {
        let routes = state.node(name).map_or_else(Vec::new, |node| node_routes(state.local(), node));
        self.want(Source::Node(name.to_owned()), routes);
    }

    /// Replaces everything that `source` wants; of equal prefixes its first counts.
    fn want(&mut self, source: Source, routes: Vec<(Prefix, Spec)>) {
        let mut prefixes = HashSet::with_capacity(routes.len());
        let before = self.by_source.remove(&source).unwrap_or_default();
        for (prefix, spec) in routes {
            if prefixes.insert(prefix)
                && self.wanted.entry(prefix).or_default().insert(source.clone(), spec) != Some(spec)
            {
                self.dirty.insert(prefix);
            }
        }
        for &prefix in before.difference(&prefixes) {
            self.drop_wish(&source, prefix);
        }
        if !prefixes.is_empty() {
            self.by_source.insert(source, prefixes);
        }
    }

    fn drop_wish(&mut self, source: &Source, prefix: Prefix) {
        if let Some(wishes) = self.wanted.get_mut(&prefix) {
            wishes.remove(source);
            if wishes.is_empty() {
                self.wanted.remove(&prefix);
            }
        }
        self.dirty.insert(prefix);
    }

    /// Writes what differs from what is installed.
    pub fn install(&mut self, neighbours: &mut Neighbours, batch: &mut Batch, problems: &mut Problems) {
        let mut again = BTreeSet::new();
        for prefix in std::mem::take(&mut self.dirty) {
            let outcome = match self.wanted.get(&prefix).and_then(|w| w.values().next()).copied() {
                Some(spec) => self.put(prefix, spec, neighbours, batch),
                None => self.remove(&prefix, neighbours, batch),
            };
            if !problems.note(Subject::Route(prefix), outcome) {
                again.insert(prefix);
            }
        }
        self.dirty = again;
    }

    fn put(
        &mut self,
        prefix: Prefix,
        spec: Spec,
        neighbours: &mut Neighbours,
        batch: &mut Batch,
    ) -> Result<(), TableFull> {
        let before = self.installed.get(&prefix).map(|i| (i.id, i.spec));
        if before.is_some_and(|(_, old)| old == spec) {
            return Ok(());
        }
        let next_hop = spec.via.map_or(Ok(0), |(addr, purpose)| neighbours.acquire(addr, purpose))?;
        let mut record = RouteRecord::new(spec.kind);
        (record.flags, record.next_hop, record.peer) = (spec.flags, next_hop, spec.peer);
        record.inner_mac = spec.inner_mac.unwrap_or(Mac([0; 6]));
        let written = match before {
            Some((id, _)) => batch.set(Table::Route, id as usize, &record).map(|()| id),
            None => self.add(&prefix, &record, batch),
        };
        let release = |spec: Spec, neighbours: &mut Neighbours| {
            if let Some((addr, purpose)) = spec.via {
                neighbours.release(addr, purpose);
            }
        };
        let id = written.inspect_err(|_| release(spec, neighbours))?;
        batch.touch(Scope::Route(id));
        if let Some((_, old)) = before {
            release(old, neighbours);
        }
        self.installed.insert(prefix, Installed { id, spec });
        Ok(())
    }

    fn add(&mut self, prefix: &Prefix, record: &RouteRecord, batch: &mut Batch) -> Result<u32, TableFull> {
        let id = self.ids.alloc()?;
        let written = batch
            .set(Table::Route, id as usize, record)
            .and_then(|()| batch.insert_prefix(Lpm::Route, prefix, id as u64));
        if let Err(full) = written {
            self.ids.free(id);
            return Err(full);
        }
        // Flows to these addresses went by the route that covered them.
        batch.touch(Scope::Route(self.installed.covering(prefix).map_or(0, |(_, covering)| covering.id)));
        Ok(id)
    }

    fn remove(&mut self, prefix: &Prefix, neighbours: &mut Neighbours, batch: &mut Batch) -> Result<(), TableFull> {
        let Some(Installed { id, spec }) = self.installed.remove(prefix) else { return Ok(()) };
        batch.remove_prefix(Lpm::Route, prefix)?;
        batch.set(Table::Route, id as usize, &RouteRecord::zeroed())?;
        batch.touch(Scope::Route(id));
        self.ids.free(id);
        if let Some((addr, purpose)) = spec.via {
            neighbours.release(addr, purpose);
        }
        Ok(())
    }

    /// The id of the route of exactly this prefix.
    pub fn id_of(&self, prefix: &Prefix) -> Option<u32> {
        self.installed.get(prefix).map(|installed| installed.id)
    }

    /// (prefix, id, kind, flags, peer, next hop).
    pub fn iter(&self) -> impl Iterator<Item = (Prefix, u32, RouteKind, u8, Option<Addr>, Option<Addr>)> {
        self.installed.iter().map(|(&prefix, i)| {
            let peer = Some(i.spec.peer).filter(|peer| !peer.is_unspecified());
            (prefix, i.id, i.spec.kind, i.spec.flags, peer, i.spec.via.map(|(addr, _)| addr))
        })
    }

    pub fn used(&self) -> usize {
        self.installed.len()
    }
}

/// The node's own addresses, each by itself.
fn own(local: &Local) -> Vec<(Prefix, Spec)> {
    let kind_of = |kind| match kind {
        EndpointKind::Host | EndpointKind::Node => RouteKind::Host,
        EndpointKind::Pod | EndpointKind::Gateway | EndpointKind::Snat => RouteKind::Local,
    };
    endpoint::own_addrs(local).map(|(addr, kind)| (Prefix::host(addr), Spec::plain(kind_of(kind)))).collect()
}

fn all(prefixes: &[Prefix], kind: RouteKind) -> Vec<(Prefix, Spec)> {
    prefixes.iter().map(|&prefix| (prefix, Spec::plain(kind))).collect()
}

/// Our own pod ranges drop what has no endpoint; other nodes' are behind these nodes, all by one address of theirs.
fn node_routes(local: &Local, node: &Node) -> Vec<(Prefix, Spec)> {
    if node.name == local.node {
        return all(&node.pod_cidrs, RouteKind::Blackhole);
    }
    let Some(peer) = encapsulation::peer(&local.addrs, &node.addrs) else { return Vec::new() };
    // A peer that no kernel route leads to is taken to be on the link.
    let next_hop = path(&local.kernel_routes, peer).and_then(|route| route.via).unwrap_or(peer);
    let via = Some((next_hop, Use::NextHop));
    let spec = Spec { via, peer, inner_mac: node.inner_mac, ..Spec::plain(local.encapsulation.route_kind()) };
    node.pod_cidrs.iter().map(|&prefix| (prefix, spec)).collect()
}

/// The kernel's route to an address: the longest, of equal ones the first.
fn path(routes: &[KernelRoute], addr: Addr) -> Option<&KernelRoute> {
    routes.iter().rev().filter(|route| route.prefix.contains(addr)).max_by_key(|route| route.prefix.mapped_length())
}

/// What leaves the cluster bears the node's own address: in a family without one nothing leaves.
fn has_source(local: &Local, prefix: Prefix) -> bool {
    local.addrs.iter().any(|addr| addr.is_v4() == prefix.is_v4())
}

fn kernel(route: &KernelRoute) -> (Prefix, Spec) {
    let spec = match route.via {
        Some(via) => Spec { via: Some((via, Use::NextHop)), ..Spec::plain(RouteKind::Via) },
        None => Spec::plain(RouteKind::OnLink),
    };
    (route.prefix, Spec { flags: FLAG_MASQUERADE, ..spec })
}

/// A resolved address on the link is its own next hop.
fn neighbour(local: &Local, addr: Addr) -> Vec<(Prefix, Spec)> {
    let on_link = path(&local.kernel_routes, addr).is_some_and(|route| route.via.is_none());
    if !on_link || !local.neighbours.contains_key(&addr) || !has_source(local, Prefix::host(addr)) {
        return Vec::new();
    }
    let via = Some((addr, Use::Resolved));
    vec![(Prefix::host(addr), Spec { flags: FLAG_MASQUERADE, via, ..Spec::plain(RouteKind::Via) })]
}
