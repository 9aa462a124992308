//! Which rows a service or a pod wants, and who serves behind each: the meaning of types, addresses and policies. Pure: it
//! does not know which rows others have, or where anything stands.

use super::Owner;
use crate::compile::problem::CompileError;
use crate::compile::{Announced, HealthPort, Single};
use crate::object::forwarding::Forwarding;
use crate::object::{Named, Pod, Service, ServiceKind, ServicePort, TrafficPolicy};
use crate::slices;
use crate::state::{DetectLocal, Source, State};
use crate::topology::Usable;
use bytemuck::Zeroable;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use tables::limits::SOURCES_PER_SERVICE_MAX;
use tables::node::family;
use tables::service::*;
use tables::{Addr, Prefix, Protocol};

/// Facts about the node that every service may depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    node: String,
    zone: Option<String>,
    node_port_addrs: Vec<Addr>,
    node_addrs: Vec<Addr>,
    options: crate::state::ServiceOptions,
    snat_ports: Option<RangeInclusive<u16>>,
    service_cidrs: Vec<Prefix>,
}

impl Facts {
    pub fn of(state: &State) -> Facts {
        let local = state.local();
        Facts {
            node: local.node.clone(),
            zone: state.zone().map(str::to_owned),
            node_port_addrs: local.node_port_addrs(),
            node_addrs: local.usable_addrs().collect(),
            options: local.services.clone(),
            snat_ports: local.snat_ports.clone(),
            service_cidrs: local.service_cidrs.clone(),
        }
    }

    pub fn is_snat_port(&self, port: u16) -> bool {
        self.snat_ports.as_ref().is_some_and(|range| range.contains(&port))
    }

    /// All of the service ranges is claimed and routed anyway. A cluster address may lie elsewhere: in a range that a
    /// ServiceCIDR object has added since.
    pub fn is_service_addr(&self, addr: Addr) -> bool {
        self.service_cidrs.iter().any(|range| range.contains(addr))
    }
}

/// The backends that rows share are told apart by this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupKey {
    pub port: u16,
    pub protocol: Protocol,
    pub v4: bool,
}

pub struct Group<'a> {
    pub key: GroupKey,
    /// The service port's.
    pub name: &'a str,
    pub affinity_s: u32,
    pub algorithm: Algorithm,
    /// Empty: all weigh the same.
    pub weights: &'a [(Prefix, u16)],
    pub usable: Usable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    Cluster,
    Local,
}

pub struct Row {
    pub key: ServiceKey,
    /// None: the row only defines the address.
    pub group: Option<usize>,
    pub inside: Which,
    pub outside: Which,
    pub flags: u16,
    /// The service's source ranges count.
    pub is_guarded: bool,
}

#[derive(Default)]
pub struct Wanted<'a> {
    pub groups: Vec<Group<'a>>,
    /// The address rows first: a new port row touches the one of its address.
    pub rows: Vec<Row>,
    pub sources: [Vec<SourceRecord>; 2],
    pub health: Option<HealthPort>,
    pub announced: Option<Announced>,
    pub problem: Option<CompileError>,
}

pub fn of<'a>(state: &'a State, facts: &Facts, owner: &Owner) -> Wanted<'a> {
    let mut wanted = Wanted::default();
    match owner {
        Owner::Service(number) => {
            if let Some(source) = state.served(*number).source() {
                wanted.add_service(state, facts, source);
            }
        }
        Owner::Pod(id) => {
            if let Some(pod) = state.pod(id).filter(|pod| state.is_here(pod)) {
                wanted.add_host_ports(state, facts, pod);
            }
        }
    }
    wanted
}

/// One service port in one family.
struct Place<'a> {
    service: &'a Service,
    port: &'a ServicePort,
    group: usize,
    /// What it may use.
    is_empty: [bool; 2],
    any: bool,
}

impl<'a> Wanted<'a> {
    /// Where this node itself serves clients outside that keep their addresses. What answers them there has to come back.
    pub fn answering(&self, facts: &Facts) -> BTreeSet<Single> {
        let keeps = |row: &&Row| row.flags & (FLAG_MASQUERADE_ALL | FLAG_MASQUERADE_OUTSIDE) == 0;
        let groups = self.rows.iter().filter(keeps).filter_map(|row| Some((&self.groups[row.group?], row.outside)));
        let lists = groups.flat_map(|(group, which)| {
            let list = if which == Which::Local { &group.usable.local } else { &group.usable.cluster };
            list.iter().flatten().map(|(addr, port)| Single { addr: *addr, protocol: group.key.protocol, port: *port })
        });
        lists.filter(|single| facts.node_addrs.contains(&single.addr)).collect()
    }

    fn add_service(&mut self, state: &State, facts: &Facts, source: Source<'a>) {
        let service = source.service;
        if service.cluster_ips.is_empty() {
            return;
        }
        self.rows.reserve(service.cluster_ips.len() * (1 + service.ports.len()));
        self.groups.reserve(service.ports.len());
        for &addr in &service.cluster_ips {
            self.push(Row::address(addr));
        }
        for port in &service.ports {
            for v4 in [true, false].into_iter().filter(|v4| service.families[!v4 as usize]) {
                self.add_port(state, facts, source, port, v4);
            }
        }
        if !service.load_balancer_ips.is_empty() {
            self.add_sources(service);
        }
        self.announced = announced(state, source);
        let is_asked = service.kind == ServiceKind::LoadBalancer && service.external_policy == TrafficPolicy::Local;
        self.health = service.health_port.filter(|_| is_asked).map(|port| {
            let local_endpoints = slices::local_ready(state, source);
            HealthPort { port, local_endpoints }
        });
    }

    fn add_port(&mut self, state: &State, facts: &Facts, source: Source<'a>, port: &'a ServicePort, v4: bool) {
        let service = source.service;
        let key = GroupKey { port: port.port, protocol: port.protocol, v4 };
        // The API refuses a second port of the same number and protocol; so do we, by not looking at it.
        if self.groups.iter().any(|group| group.key == key) {
            return;
        }
        let usable = slices::usable(state, source, port, v4);
        let is_empty = [&usable.cluster, &usable.local].map(|list| list.as_ref().is_none_or(Vec::is_empty));
        let place = Place { service, port, group: self.groups.len(), is_empty, any: usable.any };
        let algorithm = service.balancing.algorithm.unwrap_or(facts.options.load_balancing);
        let is_weighted = matches!(algorithm, Algorithm::RoundRobin | Algorithm::LeastConnections);
        let weights = if is_weighted { &service.balancing.weights[..] } else { &[] };
        let affinity_s = service.affinity_s;
        self.groups.push(Group { key, name: &port.name, affinity_s, algorithm, weights, usable });
        let own = |addr: &Addr| addr.is_v4() == v4;
        for &addr in service.cluster_ips.iter().filter(|addr| own(addr)) {
            self.push(place.cluster_row(addr, facts));
        }
        for &addr in service.load_balancer_ips.iter().filter(|addr| own(addr)) {
            self.push(Row { is_guarded: true, ..place.external_row(addr, port.port, facts) });
        }
        for addr in slices::external_ips(state.local(), service).filter(own) {
            self.push(place.external_row(addr, port.port, facts));
        }
        for addr in facts.node_port_addrs.iter().copied().filter(own) {
            port.node_port.into_iter().for_each(|port| self.push(place.external_row(addr, port, facts)));
        }
    }

    /// Of rows with one key the first counts.
    fn push(&mut self, row: Row) {
        if !self.rows.iter().any(|other| other.key == row.key) {
            self.rows.push(row);
        }
    }

    fn add_sources(&mut self, service: &Service) {
        let mut ranges = service.source_ranges.clone();
        ranges.sort_unstable();
        ranges.dedup();
        for range in ranges {
            let length = range.length();
            let record = SourceRecord { addr: range.addr(), length, ..SourceRecord::zeroed() };
            self.sources[!range.is_v4() as usize].push(record);
        }
        if self.sources.iter().any(|sources| sources.len() > SOURCES_PER_SERVICE_MAX) {
            self.sources.iter_mut().for_each(|sources| sources.truncate(SOURCES_PER_SERVICE_MAX));
            self.problem = Some(CompileError::TooManySources { service: Named::clone(&service.id) });
        }
    }

    fn add_host_ports(&mut self, state: &State, facts: &Facts, pod: &'a Pod) {
        for host_port in &pod.host_ports {
            for backend in state.addrs_of(pod) {
                let key =
                    GroupKey { port: host_port.container_port, protocol: host_port.protocol, v4: backend.is_v4() };
                let group = self.host_port_group(key, backend);
                let asked = |addr: &&Addr| host_port.addr.is_none_or(|wanted| wanted == **addr);
                let addrs = facts.node_addrs.iter().filter(|addr| addr.is_v4() == key.v4).filter(asked);
                for &addr in addrs.chain(&host_port.loopback().filter(|_| key.v4)) {
                    self.push(Row::host_port(ServiceKey::new(addr, host_port.port, host_port.protocol), group));
                }
            }
        }
    }

    fn host_port_group(&mut self, key: GroupKey, backend: Addr) -> usize {
        self.groups.iter().position(|group| group.key == key).unwrap_or_else(|| {
            let usable = Usable { cluster: Some(vec![(backend, key.port)]), any: true, ..Usable::default() };
            let (algorithm, weights) = (Algorithm::Random, &[][..]);
            self.groups.push(Group { key, name: "hostPort", affinity_s: 0, algorithm, weights, usable });
            self.groups.len() - 1
        })
    }
}

/// Policy Local: by nodes that can serve, as others would drop what comes to them.
fn announced(state: &State, source: Source) -> Option<Announced> {
    let service = source.service;
    let is_ours = service.balancer.as_ref().is_some_and(|balancer| balancer.is_ours);
    let balancer = if is_ours { service.load_balancer_ips.clone() } else { Vec::new() };
    let external: Vec<Addr> = slices::external_ips(state.local(), service).collect();
    if balancer.is_empty() && external.is_empty() {
        return None;
    }
    let is_local = service.external_policy == TrafficPolicy::Local;
    let nodes = is_local.then(|| slices::serving_nodes(state, source));
    Some(Announced { balancer, external, nodes })
}

impl Row {
    /// As arrays are indexed by it.
    pub fn family(&self) -> usize {
        family(self.key.addr)
    }

    fn new(key: ServiceKey, group: Option<usize>) -> Row {
        let (inside, outside) = (Which::Cluster, Which::Cluster);
        Row { key, group, inside, outside, flags: 0, is_guarded: false }
    }

    fn address(addr: Addr) -> Row {
        Row { flags: FLAG_ADDRESS_ONLY, ..Row::new(ServiceKey::address(addr), None) }
    }

    /// One pod for everybody, who keeps its address.
    fn host_port(key: ServiceKey, group: usize) -> Row {
        Row::new(key, Some(group))
    }
}

impl Place<'_> {
    fn row(&self, addr: Addr, port: u16) -> Row {
        Row::new(ServiceKey::new(addr, port, self.port.protocol), Some(self.group))
    }

    /// Dropped and not refused where a policy alone is the reason.
    fn drops(&self, which: Which, flag: u16) -> u16 {
        if self.any && self.is_empty[(which == Which::Local) as usize] { flag } else { 0 }
    }

    fn cluster_row(&self, addr: Addr, facts: &Facts) -> Row {
        let which = list(self.service.internal_policy);
        let masquerade = match (facts.options.masquerade_all, facts.options.detect_local) {
            (true, _) => FLAG_MASQUERADE_ALL,
            (false, DetectLocal::ClusterCidr) => FLAG_MASQUERADE_OUTSIDE,
            (false, DetectLocal::None) => 0,
        };
        let flags = masquerade | self.drops(which, FLAG_DROP_INSIDE) | self.drops(which, FLAG_DROP_OUTSIDE);
        Row { inside: which, outside: which, flags, ..self.row(addr, self.port.port) }
    }

    fn external_row(&self, addr: Addr, port: u16, facts: &Facts) -> Row {
        let outside = list(self.service.external_policy);
        let forwarding = self.service.forwarding.unwrap_or(facts.options.forwarding);
        let flags = match (outside, facts.options.detect_local) {
            (Which::Cluster, _) if forwarding == Forwarding::Dsr => FLAG_MASQUERADE_ALL | FLAG_DIRECT,
            (Which::Cluster, _) => FLAG_MASQUERADE_ALL,
            (Which::Local, DetectLocal::ClusterCidr) => 0,
            (Which::Local, DetectLocal::None) => FLAG_PODS_OUTSIDE,
        };
        let flags = flags | self.drops(outside, FLAG_DROP_OUTSIDE);
        Row { outside, flags, ..self.row(addr, port) }
    }
}

fn list(policy: TrafficPolicy) -> Which {
    match policy {
        TrafficPolicy::Cluster => Which::Cluster,
        TrafficPolicy::Local => Which::Local,
    }
}

/// Whether it can have rows here at all.
pub fn exists(state: &State, owner: &Owner) -> bool {
    match owner {
        Owner::Service(number) => state.served(*number).service.is_some(),
        Owner::Pod(id) => state.pod(id).is_some_and(|pod| !pod.host_ports.is_empty()),
    }
}
