//! Table rows of a small cluster, written as control writes them: rows and the scopes that they touch.

use super::*;
use bytemuck::Zeroable;
use tables::endpoint::{EndpointKind, EndpointRecord, FLAG_POLICY_IN_FORCE};
use tables::layout::Table;
use tables::lpm::Lpm;
use tables::neighbour::{FLAG_RESOLVED, NeighbourRecord};
use tables::node::NodeRecord;
use tables::policy::{Direction, IDENTITY_NODE, PolicyKey, PolicyRow, PolicySetRecord, RuleRecord};
use tables::publish::Batch;
use tables::route::{FLAG_MASQUERADE, RouteKind, RouteRecord};
use tables::scope::Scope;
use tables::service::{BackendRecord, FLAG_ADDRESS_ONLY, ServiceKey, ServiceRecord};
use tables::{Prefix, Protocol};

/// Route ids.
pub const ROUTE_POD_RANGE: u32 = 1;
pub const ROUTE_PEER: u32 = 2;
pub const ROUTE_DEFAULT: u32 = 3;
pub const ROUTE_LINK: u32 = 4;
pub const ROUTE_SERVICES: u32 = 5;
pub const ROUTE_NEIGHBOUR: u32 = 6;
/// Those of own addresses and pods, by last octet.
pub const ROUTE_OWN: u32 = 16;
/// Neighbour indexes.
pub const NEIGHBOUR_PEER: u32 = 1;
pub const NEIGHBOUR_ROUTER: u32 = 2;
pub const NEIGHBOUR_LINK: u32 = 3;
/// Identities: that of a pod is `100 * node + last octet`.
pub const fn identity(number: u8, octet: u8) -> u32 {
    100 * number as u32 + octet as u32
}

/// What a policy allows: an identity (0: everybody), a protocol and a port.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    pub identity: u32,
    pub protocol: Protocol,
    pub port: u16,
    pub policy: u32,
}

/// The policy that a set denies by.
pub const DENYING: u32 = 40;

/// A batch, by what it means.
pub struct Rows<'a, 'p> {
    pub batch: &'a mut Batch<'p>,
    pub number: u8,
}

impl Rows<'_, '_> {
    /// Everything that a node has before any service or policy.
    pub fn base(&mut self, shape: &Shape) {
        self.node();
        self.own_addresses(shape);
        self.routes();
        for &(octet, owner) in &shape.pods {
            self.pod(octet, owner, 0);
        }
        self.neighbour(NEIGHBOUR_PEER, node_addr(3 - self.number), Some(uplink_mac(3 - self.number)));
        self.neighbour(NEIGHBOUR_ROUTER, ROUTER, Some(ROUTER_MAC));
        for number in [1, 2] {
            let own = [node_addr(number), pod(number, 1), pod(number, 2), pod(number, 3)];
            let nodes = own.into_iter().filter(|_| number == self.number).map(|addr| (addr, IDENTITY_NODE));
            for (addr, identity) in nodes.chain((4..8).map(|o| (pod(number, o), identity(number, o)))) {
                self.batch.insert_prefix(Lpm::Identity, &Prefix::host(addr), identity as u64).unwrap();
            }
        }
    }

    fn node(&mut self) {
        let mut record = NodeRecord::zeroed();
        let n = self.number;
        (record.node[0], record.gateway[0]) = (node_addr(n), pod(n, 1));
        (record.host[0], record.snat[0]) = (pod(n, 2), pod(n, 3));
        (record.vni, record.tunnel_port, record.uplink_mtu) = (VNI, TUNNEL_PORT, UPLINK_MTU);
        (record.uplink, record.host_interface) = (UPLINK, HOST);
        (record.uplink_mac, record.gateway_mac, record.ready) = (uplink_mac(n), GATEWAY_MAC, 1);
        self.batch.set(Table::Node, 0, &record).unwrap();
    }

    fn own_addresses(&mut self, shape: &Shape) {
        let n = self.number;
        let own = [(node_addr(n), EndpointKind::Node, 0), (pod(n, 1), EndpointKind::Gateway, 1)];
        let of_range = [(pod(n, 2), EndpointKind::Host, 2), (pod(n, 3), EndpointKind::Snat, 3)];
        for (addr, kind, octet) in own.into_iter().chain(of_range) {
            let mut row = EndpointRecord::new(kind);
            (row.interface, row.identity, row.route) = (HOST, IDENTITY_NODE, ROUTE_OWN + octet);
            (row.mac, row.flags, row.owner_first) = (host_mac(n), FLAG_POLICY_IN_FORCE, shape.host_owner);
            if kind == EndpointKind::Snat {
                (row.owner_first, row.owner_count) = (0, shape.workers);
            }
            self.batch.insert(Table::Endpoint, &addr, &row).unwrap();
            let is_host = matches!(kind, EndpointKind::Node | EndpointKind::Host);
            let kind = if is_host { RouteKind::Host } else { RouteKind::Local };
            self.route(ROUTE_OWN + octet, Prefix::host(addr), RouteRecord::new(kind));
        }
    }

    fn routes(&mut self) {
        let range = |number: u8| Prefix::new(pod(number, 0), 24).unwrap();
        let mut tunnel = RouteRecord::new(RouteKind::Tunnel);
        (tunnel.peer, tunnel.next_hop) = (node_addr(3 - self.number), NEIGHBOUR_PEER);
        let mut default = RouteRecord::new(RouteKind::Via);
        (default.next_hop, default.flags) = (NEIGHBOUR_ROUTER, FLAG_MASQUERADE);
        let mut link = RouteRecord::new(RouteKind::OnLink);
        link.flags = FLAG_MASQUERADE;
        self.route(ROUTE_POD_RANGE, range(self.number), RouteRecord::new(RouteKind::Blackhole));
        self.route(ROUTE_PEER, range(3 - self.number), tunnel);
        self.route(ROUTE_DEFAULT, "0.0.0.0/0".parse().unwrap(), default);
        self.route(ROUTE_LINK, "192.168.0.0/24".parse().unwrap(), link);
        self.route(ROUTE_SERVICES, "172.30.0.0/16".parse().unwrap(), RouteRecord::new(RouteKind::Services));
    }

    pub fn route(&mut self, id: u32, prefix: Prefix, record: RouteRecord) {
        self.batch.set(Table::Route, id as usize, &record).unwrap();
        self.batch.insert_prefix(Lpm::Route, &prefix, id as u64).unwrap();
        self.batch.touch(Scope::Route(id));
    }

    /// A pod, by the last octet of its address, which is its interface's id too.
    pub fn pod(&mut self, octet: u8, owner: u16, policy_set: u32) {
        let mut row = EndpointRecord::new(EndpointKind::Pod);
        (row.interface, row.policy_set, row.identity) = (octet as u32, policy_set, identity(self.number, octet));
        (row.route, row.owner_first) = (ROUTE_OWN + octet as u32, owner);
        (row.mac, row.flags) = (pod_mac(self.number, octet), FLAG_POLICY_IN_FORCE);
        let addr = pod(self.number, octet);
        let before: Option<EndpointRecord> = self.batch.view().find(Table::Endpoint, &addr);
        self.batch.insert(Table::Endpoint, &addr, &row).unwrap();
        self.route(row.route, Prefix::host(addr), RouteRecord::new(RouteKind::Local));
        for set in [Some(policy_set), before.map(|b| b.policy_set)].into_iter().flatten() {
            self.batch.touch(Scope::PolicySet(set));
        }
    }

    /// The pod has no policy in force yet.
    pub fn pending(&mut self, octet: u8) {
        let addr = pod(self.number, octet);
        let mut row: EndpointRecord = self.batch.view().find(Table::Endpoint, &addr).unwrap();
        row.flags = 0;
        self.batch.insert(Table::Endpoint, &addr, &row).unwrap();
        self.batch.touch(Scope::PolicySet(row.policy_set));
    }

    pub fn neighbour(&mut self, index: u32, addr: Addr, mac: Option<Mac>) {
        let flags = if mac.is_some() { FLAG_RESOLVED } else { 0 };
        let record = NeighbourRecord { addr, mac: mac.unwrap_or_default(), flags };
        self.batch.set(Table::Neighbour, index as usize, &record).unwrap();
    }

    /// An address on the link was resolved.
    pub fn resolved(&mut self, addr: Addr, mac: Mac) {
        self.neighbour(NEIGHBOUR_LINK, addr, Some(mac));
        let mut via = RouteRecord::new(RouteKind::Via);
        (via.next_hop, via.flags) = (NEIGHBOUR_LINK, FLAG_MASQUERADE);
        self.route(ROUTE_NEIGHBOUR, Prefix::host(addr), via);
        self.batch.touch(Scope::Route(ROUTE_LINK));
    }

    /// A service port with its backends; `id` also says where they stand.
    pub fn service(&mut self, id: u32, key: (Addr, u16, Protocol), backends: &[(Addr, u16)]) {
        let (first, count) = (id * 16, backends.len() as u32);
        for (i, &(addr, port)) in backends.iter().enumerate() {
            let row = BackendRecord { addr, port, flags: 0, id: first + i as u32 };
            self.batch.set(Table::Backend, first as usize + i, &row).unwrap();
        }
        let row = ServiceRecord { id, backends_first: first, backends_count: count, ..ServiceRecord::zeroed() };
        self.batch.insert(Table::Service, &ServiceKey::new(key.0, key.1, key.2), &row).unwrap();
        let address = ServiceRecord { flags: FLAG_ADDRESS_ONLY, ..ServiceRecord::zeroed() };
        self.batch.insert(Table::Service, &ServiceKey::address(key.0), &address).unwrap();
        self.batch.touch(Scope::Service(id));
    }

    pub fn remove_service(&mut self, id: u32, key: (Addr, u16, Protocol)) {
        self.batch.remove(Table::Service, &ServiceKey::new(key.0, key.1, key.2));
        self.batch.remove(Table::Service, &ServiceKey::address(key.0));
        self.batch.touch(Scope::Service(id));
    }

    /// A policy set that isolates in one direction and allows what the rules say.
    pub fn policy(&mut self, set: u32, direction: Direction, rules: &[Rule]) {
        let mut record: PolicySetRecord = self.batch.view().row(Table::PolicySet, set as usize);
        record.isolated[direction as usize] = 1;
        record.deny_policy[direction as usize] = DENYING;
        self.batch.set(Table::PolicySet, set as usize, &record).unwrap();
        for (i, rule) in rules.iter().enumerate() {
            let at = set as usize * 64 + direction as usize * 32 + i;
            let Rule { identity, protocol, port, policy } = *rule;
            let (port_first, port_last) = (port, port);
            let row = RuleRecord { protocol, port_first, port_last, policy, ..RuleRecord::zeroed() };
            self.batch.set(Table::Rule, at, &row).unwrap();
            let row = PolicyRow { rules_first: at as u32, rules_count: 1 };
            self.batch.insert(Table::Policy, &PolicyKey::new(set, direction, identity), &row).unwrap();
        }
        self.batch.touch(Scope::PolicySet(set));
    }

    /// Takes a rule's row away.
    pub fn forbid(&mut self, set: u32, direction: Direction, identity: u32) {
        assert!(self.batch.remove(Table::Policy, &PolicyKey::new(set, direction, identity)));
        self.batch.touch(Scope::PolicySet(set));
    }
}
