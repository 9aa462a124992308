//! Table rows of a small cluster, written as control writes them: rows and the scopes that they touch.

use super::*;
use bytemuck::Zeroable;
use tables::endpoint::{EndpointKind, EndpointRecord, FLAG_POLICY_IN_FORCE};
use tables::layout::Table;
use tables::lpm::Lpm;
use tables::neighbour::{FLAG_RESOLVED, NeighbourRecord};
use tables::node::{Encapsulation, NodeRecord, PeerRecord, family};
use tables::policy::{
    Direction, IDENTITY_NODE, MODE_ISOLATED, MODE_TIERED, PolicyKey, PolicySetRecord, PolicySide, RuleRecord,
};
use tables::publish::Batch;
use tables::route::{FLAG_MASQUERADE, RouteKind, RouteRecord};
use tables::scope::Scope;
use tables::service::{self, Algorithm, BackendRecord, FLAG_ADDRESS_ONLY, ServiceKey, ServiceRecord, SourceRecord};
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
/// Added to the id of a route for its IPv6 twin.
pub const ROUTE_V6: u32 = 512;
/// Neighbour indexes.
pub const NEIGHBOUR_PEER: u32 = 1;
pub const NEIGHBOUR_ROUTER: u32 = 2;
pub const NEIGHBOUR_LINK: u32 = 3;
pub const NEIGHBOUR_ROUTER_V6: u32 = 4;
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

/// Who serves whom, and how.
#[derive(Default)]
pub struct Served<'a> {
    pub inside: &'a [(Addr, u16)],
    pub outside: &'a [(Addr, u16)],
    pub leaving: &'a [(Addr, u16)],
    pub sources: &'a [Prefix],
    pub flags: u16,
    pub affinity_s: u32,
    pub algorithm: Algorithm,
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
        self.node(shape);
        self.own_addresses(shape);
        self.routes(shape);
        for &(octet, owner) in &shape.pods {
            self.pod(octet, owner, 0);
        }
        let peer = shape.outer(self.number, 3 - self.number).dst;
        self.neighbour(NEIGHBOUR_PEER, peer, Some(uplink_mac(3 - self.number)));
        for addr in [node_addr(3 - self.number), node_addr_v6(3 - self.number)] {
            self.batch.insert(Table::Peer, &addr, &PeerRecord { nodes: 1, ..PeerRecord::zeroed() }).unwrap();
        }
        self.neighbour(NEIGHBOUR_ROUTER, ROUTER, Some(ROUTER_MAC));
        self.neighbour(NEIGHBOUR_ROUTER_V6, v6::ROUTER, Some(ROUTER_MAC));
        for number in [1, 2] {
            let own = [node_addr(number), node_addr_v6(number)].into_iter();
            let own = own.chain((1..4).flat_map(|octet| [pod(number, octet), pod_v6(number, octet)]));
            let nodes = own.filter(|_| number == self.number).map(|addr| (addr, IDENTITY_NODE));
            let pods = (4..8).flat_map(|o| [pod(number, o), pod_v6(number, o)].map(|addr| (addr, identity(number, o))));
            for (addr, identity) in nodes.chain(pods) {
                self.batch.insert_prefix(Lpm::Identity, &Prefix::host(addr), identity as u64).unwrap();
            }
        }
    }

    fn node(&mut self, shape: &Shape) {
        let mut record = NodeRecord::zeroed();
        let n = self.number;
        record.node = [node_addr(n), node_addr_v6(n)];
        record.gateway = [pod(n, 1), pod_v6(n, 1)];
        (record.host, record.snat) = ([pod(n, 2), pod_v6(n, 2)], [pod(n, 3), pod_v6(n, 3)]);
        (record.vni, record.tunnel_port, record.uplink_mtu) = (VNI, TUNNEL_PORT, shape.uplink_mtu);
        if shape.wrapped == Wrapped::Geneve {
            (record.tunnel_port, record.encapsulation) = (GENEVE_PORT, Encapsulation::Geneve as u32);
        }
        record.direct_port = GENEVE_PORT;
        (record.uplink, record.host_interface) = (UPLINK, HOST);
        (record.uplink_mac, record.gateway_mac, record.ready) = (uplink_mac(n), GATEWAY_MAC, 1);
        self.batch.set(Table::Node, 0, &record).unwrap();
    }

    fn own_addresses(&mut self, shape: &Shape) {
        let n = self.number;
        for family in [0, 1] {
            let of_range = |octet: u8| pod_in(family, n, octet);
            let node = if family == 0 { node_addr(n) } else { node_addr_v6(n) };
            self.own_address(shape, node, EndpointKind::Node, 0);
            self.own_address(shape, of_range(1), EndpointKind::Gateway, 1);
            self.own_address(shape, of_range(2), EndpointKind::Host, 2);
            self.own_address(shape, of_range(3), EndpointKind::Snat, 3);
        }
    }

    fn own_address(&mut self, shape: &Shape, addr: Addr, kind: EndpointKind, octet: u32) {
        let id = ROUTE_OWN + octet + ROUTE_V6 * family(addr) as u32;
        let mut row = EndpointRecord::new(kind);
        (row.interface, row.identity, row.route) = (HOST, IDENTITY_NODE, id);
        (row.mac, row.flags, row.owner_first) = (host_mac(self.number), FLAG_POLICY_IN_FORCE, shape.host_owner);
        if kind == EndpointKind::Snat {
            (row.owner_first, row.owner_count) = (0, shape.workers);
        }
        self.batch.insert(Table::Endpoint, &addr, &row).unwrap();
        let is_host = matches!(kind, EndpointKind::Node | EndpointKind::Host);
        let kind = if is_host { RouteKind::Host } else { RouteKind::Local };
        self.route(id, Prefix::host(addr), RouteRecord::new(kind));
    }

    fn routes(&mut self, shape: &Shape) {
        let mut tunnel =
            RouteRecord::new(if shape.wrapped == Wrapped::Ip { RouteKind::Ipip } else { RouteKind::Tunnel });
        (tunnel.peer, tunnel.next_hop) = (shape.outer(self.number, 3 - self.number).dst, NEIGHBOUR_PEER);
        let mut link = RouteRecord::new(RouteKind::OnLink);
        link.flags = FLAG_MASQUERADE;
        for (v6, default, on_link, services, router) in [
            (0, "0.0.0.0/0", "192.168.0.0/24", "172.30.0.0/16", NEIGHBOUR_ROUTER),
            (1, "::/0", "2001:db8:192::/64", "2001:db8:30::/64", NEIGHBOUR_ROUTER_V6),
        ] {
            let range = |number: u8| Prefix::new(pod_in(v6, number, 0), if v6 == 0 { 24 } else { 64 }).unwrap();
            let mut via = RouteRecord::new(RouteKind::Via);
            (via.next_hop, via.flags) = (router, FLAG_MASQUERADE);
            let id = |id: u32| id + ROUTE_V6 * v6 as u32;
            self.route(id(ROUTE_POD_RANGE), range(self.number), RouteRecord::new(RouteKind::Blackhole));
            self.route(id(ROUTE_PEER), range(3 - self.number), tunnel);
            self.route(id(ROUTE_DEFAULT), default.parse().unwrap(), via);
            self.route(id(ROUTE_LINK), on_link.parse().unwrap(), link);
            self.route(id(ROUTE_SERVICES), services.parse().unwrap(), RouteRecord::new(RouteKind::Services));
        }
    }

    /// The world is out of reach.
    pub fn no_default_route(&mut self) {
        self.batch.remove_prefix(Lpm::Route, &"0.0.0.0/0".parse().unwrap()).unwrap();
        self.batch.touch(Scope::Route(ROUTE_DEFAULT));
    }

    pub fn route(&mut self, id: u32, prefix: Prefix, record: RouteRecord) {
        self.batch.set(Table::Route, id as usize, &record).unwrap();
        self.batch.insert_prefix(Lpm::Route, &prefix, id as u64).unwrap();
        self.batch.touch(Scope::Route(id));
    }

    /// A pod, by the last octet of its addresses, which is its interface's id too.
    pub fn pod(&mut self, octet: u8, owner: u16, policy_set: u32) {
        for addr in [pod(self.number, octet), pod_v6(self.number, octet)] {
            let mut row = EndpointRecord::new(EndpointKind::Pod);
            (row.interface, row.policy_set, row.identity) = (octet as u32, policy_set, identity(self.number, octet));
            (row.route, row.owner_first) = (ROUTE_OWN + octet as u32 + ROUTE_V6 * family(addr) as u32, owner);
            (row.mac, row.flags) = (pod_mac(self.number, octet), FLAG_POLICY_IN_FORCE);
            let before: Option<EndpointRecord> = self.batch.view().find(Table::Endpoint, &addr);
            self.batch.insert(Table::Endpoint, &addr, &row).unwrap();
            self.route(row.route, Prefix::host(addr), RouteRecord::new(RouteKind::Local));
            for set in [Some(policy_set), before.map(|b| b.policy_set)].into_iter().flatten() {
                self.batch.touch(Scope::PolicySet(set));
            }
        }
    }

    /// The pod has no policy in force yet.
    pub fn pending(&mut self, octet: u8) {
        for addr in [pod(self.number, octet), pod_v6(self.number, octet)] {
            let mut row: EndpointRecord = self.batch.view().find(Table::Endpoint, &addr).unwrap();
            row.flags = 0;
            self.batch.insert(Table::Endpoint, &addr, &row).unwrap();
            self.batch.touch(Scope::PolicySet(row.policy_set));
        }
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

    /// A service port of a cluster address with its backends; `id` also says where they stand.
    pub fn service(&mut self, id: u32, key: (Addr, u16, Protocol), backends: &[(Addr, u16)]) {
        self.serve(id, key, Served { inside: backends, outside: backends, ..Served::default() });
        let address = ServiceRecord { flags: FLAG_ADDRESS_ONLY, ..ServiceRecord::zeroed() };
        self.batch.insert(Table::Service, &ServiceKey::address(key.0), &address).unwrap();
    }

    /// The same, and who keeps connections but gets no new ones.
    pub fn service_left(
        &mut self,
        id: u32,
        key: (Addr, u16, Protocol),
        backends: &[(Addr, u16)],
        leaving: &[(Addr, u16)],
    ) {
        self.serve(id, key, Served { inside: backends, outside: backends, leaving, ..Served::default() });
    }

    /// A service port on any address.
    pub fn serve(&mut self, id: u32, key: (Addr, u16, Protocol), served: Served) {
        let rows = |list: u32, rows: &mut Self, backends: &[(Addr, u16)]| {
            let (first, mut backends) = (id * 64 + list * 16, backends.to_vec());
            backends.sort_unstable();
            for (i, &(addr, port)) in backends.iter().enumerate() {
                let row = BackendRecord { addr, port, weight: 1, id: first + i as u32 };
                rows.batch.set(Table::Backend, first as usize + i, &row).unwrap();
            }
            service::Rows { first, count: backends.len() as u32 }
        };
        let (inside, outside) = (rows(0, self, served.inside), rows(1, self, served.outside));
        let leaving = rows(2, self, served.leaving);
        for (i, range) in served.sources.iter().enumerate() {
            let row = SourceRecord { addr: range.addr(), length: range.length(), ..SourceRecord::zeroed() };
            self.batch.set(Table::Source, id as usize * 16 + i, &row).unwrap();
        }
        let sources = service::Rows { first: id * 16, count: served.sources.len() as u32 };
        let Served { flags, affinity_s, .. } = served;
        let algorithm = served.algorithm as u8;
        let row = ServiceRecord {
            id,
            affinity_s,
            inside,
            outside,
            leaving,
            sources,
            flags,
            algorithm,
            ..ServiceRecord::zeroed()
        };
        self.batch.insert(Table::Service, &ServiceKey::new(key.0, key.1, key.2), &row).unwrap();
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
        record.sides[direction as usize] = PolicySide::new(MODE_ISOLATED, DENYING, record.side(direction).any);
        self.batch.set(Table::PolicySet, set as usize, &record).unwrap();
        for (i, rule) in rules.iter().enumerate() {
            let at = 1 + set * 64 + direction as u32 * 32 + i as u32;
            let Rule { identity, protocol, port, policy } = *rule;
            let places = if protocol == Protocol(0) {
                RuleRecord::everything()
            } else {
                RuleRecord::ports(protocol, port, port)
            };
            let row = self.batch.set_rules(at, &[places.allowed_by(policy)]).unwrap();
            self.batch.set_policy_row(&PolicyKey::new(set, direction, identity), row).unwrap();
        }
        self.batch.touch(Scope::PolicySet(set));
    }

    /// A policy set that allows all in one direction but what this rule of a cluster-wide policy denies an identity.
    pub fn tiered(
        &mut self,
        set: u32,
        direction: Direction,
        identity: u32,
        (protocol, port): (Protocol, u16),
        policy: u32,
    ) {
        let mut record: PolicySetRecord = self.batch.view().row(Table::PolicySet, set as usize);
        record.sides[direction as usize] = PolicySide::new(MODE_TIERED, 0, record.side(direction).any);
        self.batch.set(Table::PolicySet, set as usize, &record).unwrap();
        let at = 1 + set * 64 + direction as u32 * 32;
        let rule = RuleRecord { policy, ..RuleRecord::ports(protocol, port, port) };
        let row = self.batch.set_rules(at, &[rule]).unwrap();
        self.batch.set_policy_row(&PolicyKey::new(set, direction, identity), row).unwrap();
        self.batch.touch(Scope::PolicySet(set));
    }

    /// Takes a rule's row away.
    pub fn forbid(&mut self, set: u32, direction: Direction, identity: u32) {
        assert!(self.batch.remove(Table::Policy, &PolicyKey::new(set, direction, identity)));
        self.batch.touch(Scope::PolicySet(set));
    }
}
