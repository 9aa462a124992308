//! Services read slowly and straight from the API's documentation and from what kube-proxy says of itself, without any
//! table.

use super::naive::named;
use super::world::Truth;
use crate::object::forwarding::Forwarding;
use crate::object::*;
use crate::state::DetectLocal;
use std::collections::BTreeSet;
use tables::service::{FLAG_DIRECT, FLAG_MASQUERADE_ALL, FLAG_MASQUERADE_OUTSIDE, FLAG_PODS_OUTSIDE};
use tables::{Addr, Prefix, Protocol};

/// What a service address answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    None,
    /// The address is a service's, the port is none of its.
    NoPort,
    Port {
        inside: Answer,
        outside: Answer,
        affinity_s: u32,
        /// Who keeps a connection that it has.
        keeps: BTreeSet<(Addr, u16)>,
        sources: BTreeSet<Prefix>,
        /// Who is masqueraded and who counts as inside.
        flags: u16,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    To(BTreeSet<(Addr, u16)>),
    /// There are backends, but not for this client.
    Drop,
    Reject,
}

struct Endpoint {
    backend: (Addr, u16),
    ready: bool,
    drains: bool,
    is_local: bool,
    /// Whether its hints are for us, if it has any.
    for_node: Option<bool>,
    for_zone: Option<bool>,
}

impl Truth {
    pub fn service(&self, addr: Addr, port: u16, protocol: Protocol) -> Found {
        let mut services: Vec<_> = self.services().collect();
        services.sort_by_key(|service| service.id.clone());
        let found = services.iter().find_map(|service| self.of_service(service, addr, port, protocol));
        if let Some(found) = found.or_else(|| self.host_port(addr, port, protocol)) {
            return found;
        }
        match services.iter().any(|service| service.cluster_ips.contains(&addr)) {
            true => Found::NoPort,
            false => Found::None,
        }
    }

    fn of_service(&self, service: &Service, addr: Addr, number: u16, protocol: Protocol) -> Option<Found> {
        let v4 = addr.is_v4();
        if service.cluster_ips.is_empty() || !service.families[!v4 as usize] {
            return None;
        }
        let mut seen = BTreeSet::new();
        let ports: Vec<_> = service.ports.iter().filter(|p| seen.insert((p.port, p.protocol))).collect();
        let by_port = || ports.iter().find(|p| p.port == number && p.protocol == protocol);
        if let Some(port) = by_port().filter(|_| service.cluster_ips.contains(&addr)) {
            return Some(self.cluster_row(service, port, v4));
        }
        let of_family = |range: &&Prefix| range.is_v4() == v4;
        if let Some(port) = by_port().filter(|_| service.load_balancer_ips.contains(&addr)) {
            let sources = service.source_ranges.iter().filter(of_family).copied().collect();
            return Some(self.external_row(service, port, v4, sources));
        }
        let options = &self.local.services;
        let allowed = options.external_ip_ranges.iter().any(|range| range.contains(addr));
        if let Some(port) = by_port().filter(|_| allowed && service.external_ips.contains(&addr)) {
            return Some(self.external_row(service, port, v4, BTreeSet::new()));
        }
        let is_primary = self.local.addrs.iter().find(|own| own.is_v4() == v4) == Some(&addr);
        let port = ports.iter().find(|p| p.node_port == Some(number) && p.protocol == protocol)?;
        is_primary.then(|| self.external_row(service, port, v4, BTreeSet::new()))
    }

    fn cluster_row(&self, service: &Service, port: &ServicePort, v4: bool) -> Found {
        let answer = self.answer(service, port, v4, service.internal_policy);
        let options = &self.local.services;
        let flags = match options.detect_local {
            _ if options.masquerade_all => FLAG_MASQUERADE_ALL,
            DetectLocal::ClusterCidr => FLAG_MASQUERADE_OUTSIDE,
            DetectLocal::None => 0,
        };
        let (inside, outside) = (answer.clone(), answer);
        let keeps = self.existing(service, port, v4);
        Found::Port { inside, outside, affinity_s: service.affinity_s, keeps, sources: BTreeSet::new(), flags }
    }

    fn external_row(&self, service: &Service, port: &ServicePort, v4: bool, sources: BTreeSet<Prefix>) -> Found {
        let is_local = service.external_policy == TrafficPolicy::Local;
        Found::Port {
            inside: self.answer(service, port, v4, TrafficPolicy::Cluster),
            outside: self.answer(service, port, v4, service.external_policy),
            affinity_s: service.affinity_s,
            keeps: self.existing(service, port, v4),
            sources,
            flags: match (is_local, self.local.services.detect_local) {
                (false, _) if service.forwarding == Some(Forwarding::Dsr) => FLAG_MASQUERADE_ALL | FLAG_DIRECT,
                (false, _) => FLAG_MASQUERADE_ALL,
                (true, DetectLocal::None) => FLAG_PODS_OUTSIDE,
                (true, DetectLocal::ClusterCidr) => 0,
            },
        }
    }

    fn host_port(&self, addr: Addr, port: u16, protocol: Protocol) -> Option<Found> {
        let is_own = self.local.addrs.contains(&addr);
        let mut pods: Vec<_> = self.pods().filter(|pod| self.is_here(pod)).collect();
        pods.sort_by_key(|pod| pod.id.clone());
        pods.iter().find_map(|pod| {
            let is_at = |asked: Option<Addr>| {
                asked.map_or(is_own, |asked| asked == addr && (is_own || addr == Addr::v4([127, 0, 0, 1])))
            };
            let own = |p: &&HostPort| p.port == port && p.protocol == protocol && is_at(p.addr);
            let host_port = pod.host_ports.iter().find(own)?;
            let backend = self.addrs_of(pod).into_iter().find(|own| own.is_v4() == addr.is_v4())?;
            let keeps = BTreeSet::from([(backend, host_port.container_port)]);
            let answer = Answer::To(keeps.clone());
            let (inside, outside) = (answer.clone(), answer);
            Some(Found::Port { inside, outside, affinity_s: 0, keeps, sources: BTreeSet::new(), flags: 0 })
        })
    }

    fn answer(&self, service: &Service, port: &ServicePort, v4: bool, policy: TrafficPolicy) -> Answer {
        let all = self.endpoints(service, port, v4);
        let may_serve = |e: &&Endpoint| policy == TrafficPolicy::Cluster || e.is_local;
        let mut ready: Vec<&Endpoint> = all.iter().filter(may_serve).filter(|e| e.ready).collect();
        if policy == TrafficPolicy::Cluster {
            let follows = |hints: Vec<Option<bool>>| hints.contains(&Some(true)) && !hints.contains(&None);
            if follows(ready.iter().map(|e| e.for_node).collect()) {
                ready.retain(|e| e.for_node == Some(true));
            } else if follows(ready.iter().map(|e| e.for_zone).collect()) {
                ready.retain(|e| e.for_zone == Some(true));
            }
        }
        if ready.is_empty() {
            ready = all.iter().filter(may_serve).filter(|e| e.drains).collect();
        }
        if !ready.is_empty() {
            return Answer::To(ready.iter().map(|e| e.backend).collect());
        }
        if all.iter().any(|e| e.ready || e.drains) { Answer::Drop } else { Answer::Reject }
    }

    /// Endpoints in whatever condition.
    fn existing(&self, service: &Service, port: &ServicePort, v4: bool) -> BTreeSet<(Addr, u16)> {
        self.endpoints(service, port, v4).iter().map(|e| e.backend).collect()
    }

    fn endpoints(&self, service: &Service, port: &ServicePort, v4: bool) -> Vec<Endpoint> {
        let is_of_service =
            |s: &&EndpointSlice| s.id.namespace == service.id.namespace && s.service.as_ref() == Some(&service.id.name);
        let slices: Vec<_> = self.slices().filter(is_of_service).collect();
        if slices.is_empty() {
            return self.derived(service, port, v4);
        }
        let mut all = Vec::new();
        for slice in slices {
            let Some(target) = slice.ports.iter().find(|p| p.name == port.name && p.protocol == port.protocol) else {
                continue;
            };
            for e in slice.endpoints.iter().filter(|e| e.addr.is_v4() == v4) {
                let is_for =
                    |names: &[String], own: Option<&str>| own.is_some_and(|own| names.iter().any(|name| name == own));
                all.push(Endpoint {
                    backend: (e.addr, target.port),
                    ready: e.ready,
                    drains: e.serving && e.terminating,
                    is_local: e.node.as_deref() == Some("n1"),
                    for_node: (!e.for_nodes.is_empty()).then(|| is_for(&e.for_nodes, Some("n1"))),
                    for_zone: (!e.for_zones.is_empty()).then(|| is_for(&e.for_zones, self.zone("n1"))),
                });
            }
        }
        all
    }

    fn derived(&self, service: &Service, port: &ServicePort, v4: bool) -> Vec<Endpoint> {
        let mut all = Vec::new();
        for pod in self.pods().filter(|pod| pod.id.namespace == service.id.namespace) {
            let is_selected = service.selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value));
            let number = match &port.target {
                TargetPort::Number(number) => Some(*number),
                TargetPort::Name(name) => named(&pod.ports, name, port.protocol),
            };
            let (Some(number), addrs) = (number, self.addrs_of(pod)) else { continue };
            let Some(addr) = addrs.into_iter().find(|addr| addr.is_v4() == v4) else { continue };
            if service.selector.is_empty() || !is_selected {
                continue;
            }
            let zone = pod.node.as_deref().and_then(|node| self.zone(node));
            let wants_node = service.distribution == Distribution::SameNode && pod.node.is_some();
            let wants_zone = service.distribution != Distribution::Any && zone.is_some();
            all.push(Endpoint {
                backend: (addr, number),
                ready: pod.ready && !pod.terminating || service.publish_not_ready,
                drains: (pod.ready || service.publish_not_ready) && pod.terminating,
                is_local: self.is_here(pod),
                for_node: wants_node.then(|| self.is_here(pod)),
                for_zone: wants_zone.then(|| zone == self.zone("n1")),
            });
        }
        all
    }

    fn is_here(&self, pod: &Pod) -> bool {
        pod.node.as_deref() == Some("n1") || self.is_attached(pod)
    }

    fn zone(&self, node: &str) -> Option<&str> {
        self.nodes().find(|other| other.name == node)?.zone.as_deref()
    }
}
