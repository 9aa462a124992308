//! The objects read slowly and straight from the API's documentation, without any table: what tests compare with.

use super::world::{Truth, addr};
use crate::object::*;
use crate::reference::End;
use tables::{Addr, Prefix, Protocol};

/// Where a packet to an address goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    None,
    Local,
    Host,
    Blackhole,
    Services,
    Tunnel { peer: Addr, next_hop: Addr },
    Via { next_hop: Addr },
    OnLink,
}

impl Truth {
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.objects.values().filter_map(|object| if let Object::Pod(pod) = object { Some(pod) } else { None })
    }

    pub fn services(&self) -> impl Iterator<Item = &crate::object::Service> {
        self.objects.values().filter_map(|o| if let Object::Service(s) = o { Some(s) } else { None })
    }

    pub fn slices(&self) -> impl Iterator<Item = &EndpointSlice> {
        self.objects.values().filter_map(|o| if let Object::EndpointSlice(s) = o { Some(s) } else { None })
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.objects.values().filter_map(|o| if let Object::Node(n) = o { Some(n) } else { None })
    }

    pub fn pod(&self, id: &Named) -> Option<&Pod> {
        self.pods().find(|pod| *pod.id == *id)
    }

    pub fn is_attached(&self, pod: &Pod) -> bool {
        self.local.endpoints.values().any(|endpoint| endpoint.pod == *pod.id)
    }

    pub fn addrs_of(&self, pod: &Pod) -> Vec<Addr> {
        if pod.finished {
            return Vec::new();
        }
        if self.is_attached(pod) {
            let endpoints = self.local.endpoints.values().filter(|endpoint| endpoint.pod == *pod.id);
            return endpoints.flat_map(|endpoint| endpoint.addrs.clone()).collect();
        }
        pod.addrs.clone()
    }

    /// The pod behind an address: attached ones first, ending ones last.
    fn pod_at(&self, addr: Addr) -> Option<&Pod> {
        let holders = self.pods().filter(|pod| !pod.host_network && self.addrs_of(pod).contains(&addr));
        holders.min_by_key(|pod| (!self.is_attached(pod), pod.terminating, pod.id.clone()))
    }

    fn is_own(&self, addr: Addr) -> bool {
        let local = &self.local;
        let own = local.addrs.iter().chain(&local.gateway).chain(&local.host).chain(&local.snat);
        own.into_iter().any(|own| *own == addr)
    }

    /// Who an address is to policies. The node's own addresses are the node's whoever claims them.
    pub fn end(&self, addr: Addr) -> End<'_> {
        let is_own_node = self.is_own(addr);
        let pod = if is_own_node { None } else { self.pod_at(addr) };
        let has = |node: &&Node| node.addrs.contains(&addr) || node.external_addrs.contains(&addr);
        let node = if pod.is_some() { None } else { self.nodes().find(has) };
        let is_known = is_own_node || pod.is_some() || node.is_some();
        End { addr, pod, node, is_own_node, is_unclaimed: !is_known && self.may_be_a_pods(addr) }
    }

    /// In a pod range, and not one of the four addresses in front that it keeps for its node; a range of fewer than eight
    /// is no node's of ours and keeps none.
    fn may_be_a_pods(&self, addr: Addr) -> bool {
        let ranges: Vec<Prefix> = self.nodes().flat_map(|node| node.pod_cidrs.clone()).collect();
        let is_kept = |range: &Prefix| range.mapped_length() <= 125 && addr.bits() - range.addr().bits() < 4;
        let mut around = ranges.iter().filter(|range| range.contains(addr)).peekable();
        around.peek().is_some() && !around.any(is_kept)
    }

    /// The kernel's route: None if it has none, Some(None) for on the link.
    fn kernel(&self, addr: Addr) -> Option<(Prefix, Option<Addr>)> {
        let mut routes = self.local.kernel_routes.clone();
        routes.sort_by_key(|route| std::cmp::Reverse(route.prefix.mapped_length()));
        routes.iter().find(|route| route.prefix.contains(addr)).map(|route| (route.prefix, route.via))
    }

    pub fn route(&self, to: Addr) -> Route {
        let local = &self.local;
        if local.addrs.contains(&to) || local.host.contains(&to) {
            return Route::Host;
        }
        if self.is_own(to) || local.endpoints.values().any(|endpoint| endpoint.addrs.contains(&to)) {
            return Route::Local;
        }
        // (length, how much it is preferred, route): the longest, then the most preferred.
        let mut all: Vec<(u8, u8, Route)> = Vec::new();
        let mut nodes: Vec<_> = self.nodes().collect();
        nodes.sort_by_key(|node| std::cmp::Reverse(node.name.clone()));
        for (i, node) in nodes.into_iter().enumerate() {
            for cidr in node.pod_cidrs.iter().filter(|cidr| cidr.contains(to)) {
                if node.name == local.node {
                    all.push((cidr.mapped_length(), 10 + i as u8, Route::Blackhole));
                } else if let Some(&peer) = node.addrs.iter().find(|a| a.is_v4()).or(node.addrs.first()) {
                    let next_hop = self.kernel(peer).and_then(|(_, via)| via).unwrap_or(peer);
                    all.push((cidr.mapped_length(), 10 + i as u8, Route::Tunnel { peer, next_hop }));
                }
            }
        }
        let services = local.service_cidrs.iter().filter(|cidr| cidr.contains(to));
        all.extend(services.map(|cidr| (cidr.mapped_length(), 5, Route::Services)));
        let cluster = local.cluster_cidrs.iter().filter(|cidr| cidr.contains(to));
        all.extend(cluster.map(|cidr| (cidr.mapped_length(), 4, Route::Blackhole)));
        match self.kernel(to) {
            Some((_, None)) if local.neighbours.contains_key(&to) => all.push((128, 3, Route::Via { next_hop: to })),
            Some((prefix, None)) => all.push((prefix.mapped_length(), 2, Route::OnLink)),
            Some((prefix, Some(next_hop))) => all.push((prefix.mapped_length(), 2, Route::Via { next_hop })),
            None => {}
        }
        all.into_iter()
            .max_by_key(|(length, preferred, _)| (*length, *preferred))
            .map_or(Route::None, |(.., route)| route)
    }
}

pub fn named(ports: &[NamedPort], name: &str, protocol: Protocol) -> Option<u16> {
    ports.iter().find(|p| p.name == name && p.protocol == protocol).map(|p| p.port)
}

#[test]
fn the_naive_reading_knows_its_own_world() {
    let truth = Truth::new();
    assert_eq!(truth.route(addr("192.168.0.1")), Route::Host);
    assert_eq!(truth.route(addr("10.9.9.9")), Route::Blackhole);
    assert_eq!(truth.route(addr("9.9.9.9")), Route::None);
}
