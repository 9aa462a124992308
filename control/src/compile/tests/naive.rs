//! The objects read slowly and straight from the API's documentation, without any table: what tests compare with.

use super::world::{Truth, addr};
use crate::object::selector::{Requirement, Test};
use crate::object::*;
use tables::policy::Direction;
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

    fn policies(&self) -> impl Iterator<Item = &NetworkPolicy> {
        self.objects.values().filter_map(|o| if let Object::NetworkPolicy(p) = o { Some(p) } else { None })
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.objects.values().filter_map(|o| if let Object::Node(n) = o { Some(n) } else { None })
    }

    pub fn pod(&self, id: &Named) -> Option<&Pod> {
        self.pods().find(|pod| pod.id == *id)
    }

    pub fn is_attached(&self, pod: &Pod) -> bool {
        self.local.endpoints.values().any(|endpoint| endpoint.pod == pod.id)
    }

    pub fn addrs_of(&self, pod: &Pod) -> Vec<Addr> {
        if pod.finished {
            return Vec::new();
        }
        if self.is_attached(pod) {
            let endpoints = self.local.endpoints.values().filter(|endpoint| endpoint.pod == pod.id);
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

    /// Whether the policies of a pod let it exchange packets with a peer.
    pub fn allows(&self, pod: &Pod, direction: Direction, peer: Addr, protocol: Protocol, port: u16) -> bool {
        let selecting = self.policies().filter(|p| p.id.namespace == pod.id.namespace && selects(&p.pods, &pod.labels));
        let isolating: Vec<_> = selecting.filter(|policy| policy.rules[direction as usize].is_some()).collect();
        if isolating.is_empty() || self.is_own(peer) {
            return true;
        }
        let peer_pod = self.pod_at(peer);
        isolating.iter().any(|policy| {
            policy.rules[direction as usize].iter().flatten().any(|rule| {
                let from = rule.peers.is_empty() || rule.peers.iter().any(|p| self.is_peer(policy, p, peer, peer_pod));
                let receiver = if direction == Direction::Ingress { Some(pod) } else { peer_pod };
                let to = rule.ports.is_empty()
                    || rule.ports.iter().filter(|p| p.protocol == protocol).any(|p| match &p.port {
                        PortRange::Numbers(first, last) => (*first..=*last).contains(&port),
                        PortRange::Name(name) => {
                            receiver.and_then(|pod| named(&pod.ports, name, protocol)) == Some(port)
                        }
                    });
                from && to
            })
        })
    }

    fn is_peer(&self, policy: &NetworkPolicy, peer: &Peer, addr: Addr, pod: Option<&Pod>) -> bool {
        match (peer, pod) {
            (Peer::Block { cidr, except }, _) => cidr.contains(addr) && !except.iter().any(|e| e.contains(addr)),
            (Peer::Pods { .. }, None) => false,
            (Peer::Pods { namespaces, pods }, Some(pod)) => {
                let namespace = match namespaces {
                    None => pod.id.namespace == policy.id.namespace,
                    Some(selector) => selects(selector, &self.namespace_labels(&pod.id.namespace)),
                };
                namespace && selects(pods, &pod.labels)
            }
        }
    }

    fn namespace_labels(&self, name: &str) -> Labels {
        let namespaces =
            self.objects.values().filter_map(|o| if let Object::Namespace(n) = o { Some(n) } else { None });
        let labels = namespaces.filter(|n| n.name == name).map(|n| n.labels.clone()).next();
        labels.unwrap_or_else(|| [("kubernetes.io/metadata.name".to_owned(), name.to_owned())].into())
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

fn selects(selector: &Selector, labels: &Labels) -> bool {
    selector.0.iter().all(|Requirement { key, test }| match (test, labels.get(key)) {
        (Test::In(values), Some(value)) => values.contains(value),
        (Test::In(_), None) => false,
        (Test::NotIn(values), Some(value)) => !values.contains(value),
        (Test::NotIn(_), None) => true,
        (Test::Exists, value) => value.is_some(),
        (Test::DoesNotExist, value) => value.is_none(),
    })
}

#[test]
fn the_naive_reading_knows_its_own_world() {
    let truth = Truth::new();
    assert_eq!(truth.route(addr("192.168.0.1")), Route::Host);
    assert_eq!(truth.route(addr("10.9.9.9")), Route::Blackhole);
    assert_eq!(truth.route(addr("9.9.9.9")), Route::None);
}
