//! From desired state to rows, pure: no I/O, no clock. Each piece keeps a record of the rows it installed, by the object
//! they came from, and writes only differences, so that a change costs what depends on it and nothing more. What does
//! not fit stays marked and is tried again with the next update; everything else goes on.
//!
//! Scopes touched (what an established flow depends on, see `tables::scope`): a service port whose row or backends
//! changed; a policy set whose rules changed, or that gained or lost an endpoint; the identities between which an
//! address moved; a route that changed or went, and the route under which a new one's addresses were before
//! (`Scope::Route(0)` where there was none: ids begin at 1).

pub(crate) mod cover;
mod endpoint;
mod groups;
mod listing;
mod neighbour;
mod node;
mod peers;
mod plan;
mod policy;
mod policy_peers;
pub(crate) mod prefixes;
pub(crate) mod problem;
mod route;
mod rows;
mod rule_lists;
mod rules;
mod selectors;
mod service;
mod spaces;
#[cfg(test)]
mod tests;

pub use listing::{BackendListing, Fill, PolicyListing, RouteListing, ServiceListing};
pub use problem::CompileError;

use crate::identity::Identities;
use crate::object::Named;
use crate::state::{Changes, State};
use endpoint::Endpoints;
use neighbour::Neighbours;
use node::Node;
use peers::Peers;
use policy::Policies;
use problem::Problems;
use route::Routes;
use service::Services;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tables::publish::Batch;
use tables::{Addr, Protocol};

/// What the process part has to know after an update.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Every next hop of the underlay that a route in force needs, sorted: the kernel is to resolve these.
    pub next_hops: Arc<[Addr]>,
    /// What services and pods take outside the service ranges, to be claimed from the NIC and routed one by one: node
    /// ports, load balancer and external addresses, host ports.
    pub singles: Arc<BTreeSet<Single>>,
    /// Where the node itself serves clients outside that keep their addresses: what answers them.
    pub answering: Arc<BTreeSet<Single>>,
    /// Where load balancers ask whether this node serves a service.
    pub health_ports: Arc<BTreeMap<Named, HealthPort>>,
    /// What a node of the link is to answer for.
    pub announced: Arc<BTreeMap<Named, Announced>>,
    /// What could not be put in force, now or in an earlier update, until it is.
    pub problems: Vec<CompileError>,
}

/// (address, protocol, port) of a row outside the service ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Single {
    pub addr: Addr,
    pub protocol: Protocol,
    pub port: u16,
}

/// `healthCheckNodePort` of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthPort {
    pub port: u16,
    /// Endpoints on this node that may serve clients outside.
    pub local_endpoints: usize,
}

/// The addresses of a service that no device has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// Of its load balancer, where that is ours.
    pub balancer: Vec<Addr>,
    pub external: Vec<Addr>,
    /// The nodes that may answer for them; None: all.
    pub nodes: Option<BTreeSet<String>>,
}

/// The record of what is installed. One for each tables region; a new one wants `State::mark_all` first.
pub struct Compiler {
    services: Services,
    identities: Identities,
    policies: Policies,
    routes: Routes,
    neighbours: Neighbours,
    peers: Peers,
    endpoints: Endpoints,
    node: Node,
    problems: Problems,
}

impl Default for Compiler {
    fn default() -> Compiler {
        Compiler::new()
    }
}

impl Compiler {
    pub fn new() -> Compiler {
        Compiler {
            services: Services::new(),
            identities: Identities::new(),
            policies: Policies::new(),
            routes: Routes::new(),
            neighbours: Neighbours::new(),
            peers: Peers::default(),
            endpoints: Endpoints::default(),
            node: Node::default(),
            problems: Problems::default(),
        }
    }

    /// Writes what changed in `state` since the last update into `batch`. The result is always fit to be published:
    /// what did not fit is named in the report.
    pub fn update(&mut self, state: &mut State, batch: &mut Batch) -> Report {
        let mut changes = state.take_changes();
        // Before the routes: a new service address touches the route that answered for it until now.
        self.services.update(state, &mut changes, batch, &mut self.problems);
        // Mostly services change, and nothing else depends on them. What found no room is tried again.
        if !changes.are_none() || !self.problems.is_empty() {
            self.update_others(state, &changes, batch);
        }
        self.node.update(state, self.services.asked_snat_ports(), batch, &mut self.problems);
        Report {
            next_hops: self.neighbours.next_hops(),
            singles: self.services.singles(),
            answering: self.services.answering(),
            health_ports: self.services.reported.health_ports.clone(),
            announced: self.services.reported.announced.clone(),
            problems: self.problems.list(),
        }
    }

    fn update_others(&mut self, state: &State, changes: &Changes, batch: &mut Batch) {
        self.update_identities(state, changes, batch);
        self.policies.update(state, changes, &self.identities, batch, &mut self.problems);
        self.update_routes(state, changes, batch);
        // Last: an endpoint's row names its identity, policy set and route.
        let context =
            endpoint::Context { identities: &self.identities, policies: &self.policies, routes: &self.routes };
        self.endpoints.update(state, changes, context, batch, &mut self.problems);
        self.peers.update(state, changes, batch, &mut self.problems);
        self.identities.forget_changes();
    }

    fn update_identities(&mut self, state: &State, changes: &Changes, batch: &mut Batch) {
        for pod in &changes.pods {
            self.identities.set_pod(state, pod);
        }
        for node in &changes.nodes {
            self.identities.set_node(state, node);
        }
        for policy in &changes.policies {
            self.identities.set_policy(state, policy);
        }
        if changes.node {
            self.identities.set_own(endpoint::own_addrs(state.local()).map(|(addr, _)| addr));
        }
        self.identities.settle(batch, &mut self.problems);
    }

    fn update_routes(&mut self, state: &State, changes: &Changes, batch: &mut Batch) {
        self.neighbours.update(changes);
        self.routes.update(state, changes);
        self.routes.install(&mut self.neighbours, batch, &mut self.problems);
        self.neighbours.install(state, batch, &mut self.problems);
    }
}
