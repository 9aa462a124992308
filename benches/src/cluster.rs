//! Tables of a node in a cluster: services that the measured flows use, 10,000 services more with 10 backends each, 5,000
//! other nodes, policies.

use bytemuck::Zeroable;
use tables::endpoint::{EndpointKind, EndpointRecord, FLAG_POLICY_IN_FORCE};
use tables::layout::Table;
use tables::lpm::Lpm;
use tables::neighbour::{FLAG_RESOLVED, NeighbourRecord};
use tables::node::NodeRecord;
use tables::policy::{
    Direction, IDENTITY_FIRST, IDENTITY_WORLD, MODE_ISOLATED, PolicyKey, PolicyRow, PolicySetRecord, RuleRecord,
};
use tables::publish::Batch;
use tables::route::{RouteKind, RouteRecord};
use tables::rules::blocks_of;
use tables::service::{BackendRecord, FLAG_MASQUERADE_ALL, Rows, ServiceKey, ServiceRecord};
use tables::{Addr, Mac, Prefix, Protocol, Publisher};

pub const UPLINK: u32 = 1;
pub const HOST: u32 = 2;
pub const POD: u32 = 3;
pub const OTHER_POD: u32 = 4;
pub const NODE: Addr = Addr::v4([192, 168, 0, 1]);
pub const PEER: Addr = Addr::v4([192, 168, 0, 2]);
pub const POD_ADDR: Addr = Addr::v4([10, 1, 0, 4]);
pub const OTHER_POD_ADDR: Addr = Addr::v4([10, 1, 0, 5]);
pub const SNAT: Addr = Addr::v4([10, 1, 0, 3]);
pub const POD_MAC: Mac = Mac([2, 0, 0, 0, 2, 0]);
pub const GATEWAY_MAC: Mac = Mac([2, 0, 0, 0, 0, 0xfe]);
pub const TUNNEL_PORT: u16 = 4789;
pub const SERVICE_PORT: u16 = 80;
pub const BACKEND_PORT: u16 = 8080;
/// Services that measured flows use.
pub const SERVICES_USED: u32 = 1000;
pub const SERVICES_MORE: u32 = 10_000;
const BACKENDS_EACH: u32 = 10;
/// Covers the backends of 30,000 services with four each.
const BACKENDS_PREFIX: u8 = 15;
const RULES_EACH: u16 = 8;
/// Where the policies' rules begin.
const BLOCKS_FIRST: u32 = 1;
const NODES: u32 = 5000;

/// The IPv6 address that stands for one of IPv4 where a cluster is of that family.
pub fn v6(addr: Addr) -> Addr {
    let [a, b, c, d] = addr.v4_octets();
    Addr::v6([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d])
}

fn addr(first: [u8; 2], number: u32) -> Addr {
    Addr::v4([first[0], first[1], (number >> 8) as u8, number as u8])
}

/// The address of service `i`.
pub fn service(i: u32) -> Addr {
    addr([172, 30], i)
}

/// The address of used service `i` for clients outside.
pub fn balancer(i: u32) -> Addr {
    addr([100, 64], i)
}

/// A client outside.
pub fn client(i: u32) -> Addr {
    addr([198, 18], i)
}

/// Backend `i` of all that used services have, on the peer. A service's are neighbours: `i` is service * backends + number.
pub fn backend(i: u32) -> Addr {
    Addr::from_bits(Addr::v4([10, 2, 0, 0]).bits() + i as u128)
}

/// A node that is not the peer has this pod range.
pub fn node_range(i: u32) -> Addr {
    Addr::from_bits(Addr::v4([11, 0, 0, 0]).bits() + ((i as u128) << 8))
}

/// What a cluster is made of.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Services that the measured flows use, and backends of each. With one, a flow's backend is known beforehand.
    pub services: u32,
    pub backends: u32,
    pub services_more: u32,
    /// Policies by which the measured pod may reach backends: each allows its share of them, by eight port rules.
    pub policies: u32,
    /// The backends are reached without a tunnel.
    pub is_routed: bool,
    /// Pods and services have IPv6 addresses; the nodes' own are IPv4 all the same.
    pub is_v6: bool,
    /// Who serves clients outside at a load balancer's addresses, one for each of the services; None: there are none.
    pub balanced: Option<Balanced>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balanced {
    /// The measured pod, by policy Local: the client's address stays.
    Here,
    /// The services' backends, by policy Cluster: the client is masqueraded.
    There,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape {
            services: SERVICES_USED,
            backends: 1,
            services_more: SERVICES_MORE,
            policies: 1,
            is_routed: false,
            is_v6: false,
            balanced: None,
        }
    }
}

/// The tables of the default cluster.
pub fn publisher() -> Publisher {
    Shape::default().publisher()
}

impl Shape {
    pub fn publisher(self) -> Publisher {
        let mut publisher = Publisher::create(7).expect("memory for tables");
        let mut batch = publisher.batch([]).expect("nobody reads yet");
        self.local(&mut batch);
        self.routes(&mut batch);
        self.services(&mut batch);
        self.policies(&mut batch);
        if let Some(balanced) = self.balanced {
            self.outside(&mut batch, balanced);
        }
        batch.publish();
        publisher
    }

    /// Of the cluster's family.
    fn addr(&self, addr: Addr) -> Addr {
        if self.is_v6 { v6(addr) } else { addr }
    }

    fn prefix(&self, addr: Addr, length: u8) -> Prefix {
        Prefix::new(self.addr(addr), if self.is_v6 { 96 + length } else { length }).expect("a prefix")
    }

    fn services(&self, batch: &mut Batch) {
        let set = |batch: &mut Batch, i: u32, backends: Vec<Addr>| {
            let backends: Vec<Addr> = backends.into_iter().map(|backend| self.addr(backend)).collect();
            set_service(batch, i, self.addr(service(i)), &backends);
        };
        for i in 0..self.services {
            set(batch, i, (0..self.backends).map(|b| backend(i * self.backends + b)).collect());
        }
        for i in self.services..self.services + self.services_more {
            set(batch, i, (0..BACKENDS_EACH).map(|b| addr([12, b as u8], i)).collect());
        }
    }

    fn routes(&self, batch: &mut Batch) {
        let mut tunnel = RouteRecord::new(RouteKind::Tunnel);
        (tunnel.peer, tunnel.next_hop) = (PEER, 1);
        let mut plain = RouteRecord::new(RouteKind::Via);
        plain.next_hop = 1;
        let services = RouteRecord::new(RouteKind::Services);
        let rows = [
            (RouteRecord::new(RouteKind::Local), self.prefix(POD_ADDR, 24)),
            (if self.is_routed { plain } else { tunnel }, self.prefix(backend(0), BACKENDS_PREFIX)),
            (services, self.prefix(service(0), 16)),
            (plain, self.prefix(Addr::v4([0; 4]), 0)),
        ];
        let others = (0..NODES).map(|i| (tunnel, self.prefix(node_range(i), 24)));
        for (i, (row, prefix)) in rows.into_iter().chain(others).enumerate() {
            batch.set(Table::Route, i + 1, &row).expect("room");
            batch.insert_prefix(Lpm::Route, &prefix, i as u64 + 1).expect("room");
        }
    }

    /// Both pods are isolated in both directions; the last of a policy's eight rules lets the measured flows through.
    fn policies(&self, batch: &mut Batch) {
        batch.set(Table::PolicySet, 1, &PolicySetRecord::of_modes([MODE_ISOLATED; 2])).expect("room");
        for policy in 0..self.policies {
            allow(batch, policy);
        }
        let mut identify = |prefix: Prefix, policy: u32| {
            batch.insert_prefix(Lpm::Identity, &prefix, (IDENTITY_FIRST + policy) as u64).expect("room");
        };
        identify(self.prefix(POD_ADDR, 24), 0);
        if self.policies == 1 {
            return identify(self.prefix(backend(0), BACKENDS_PREFIX), 0);
        }
        for i in 0..self.services * self.backends {
            identify(self.prefix(backend(i), 32), i % self.policies);
        }
    }

    fn local(&self, batch: &mut Batch) {
        batch.set(Table::Node, 0, &node()).expect("room");
        let neighbour = NeighbourRecord { addr: PEER, mac: Mac([2, 0, 0, 0, 9, 9]), flags: FLAG_RESOLVED };
        batch.set(Table::Neighbour, 1, &neighbour).expect("room");
        for (addr, interface) in [(POD_ADDR, POD), (OTHER_POD_ADDR, OTHER_POD)] {
            let mut record = EndpointRecord::new(EndpointKind::Pod);
            (record.interface, record.flags, record.policy_set) = (interface, FLAG_POLICY_IN_FORCE, 1);
            batch.insert(Table::Endpoint, &self.addr(addr), &record).expect("room");
        }
    }
}

impl Shape {
    /// Lets clients outside in, and gives each service an address that they ask.
    fn outside(&self, batch: &mut Batch, balanced: Balanced) {
        let row = PolicyRow::new(BLOCKS_FIRST);
        batch.set_policy_row(&PolicyKey::new(1, Direction::Ingress, IDENTITY_WORLD), row).expect("room");
        batch.insert(Table::Endpoint, &SNAT, &EndpointRecord::new(EndpointKind::Snat)).expect("room");
        let here = Rows { first: (self.services + self.services_more) * BACKENDS_EACH, count: 1 };
        let pod = BackendRecord { addr: POD_ADDR, port: BACKEND_PORT, weight: 1, id: 0 };
        batch.set(Table::Backend, here.first as usize, &pod).expect("room");
        for i in 0..self.services {
            let there = Rows { first: i * BACKENDS_EACH, count: self.backends };
            let (outside, flags) = match balanced {
                Balanced::Here => (here, 0),
                Balanced::There => (there, FLAG_MASQUERADE_ALL),
            };
            let record = ServiceRecord { id: i, inside: there, outside, flags, ..ServiceRecord::zeroed() };
            batch
                .insert(Table::Service, &ServiceKey::new(balancer(i), SERVICE_PORT, Protocol::UDP), &record)
                .expect("room");
        }
    }
}

/// Writes a policy that lets the pods' set speak with one identity.
fn allow(batch: &mut Batch, policy: u32) {
    let rule = |i: u16| {
        let (port_first, port_last) = if i + 1 == RULES_EACH { (80, u16::MAX) } else { (1 + i, 1 + i) };
        RuleRecord::ports(Protocol::UDP, port_first, port_last).allowed_by(policy + 1)
    };
    let rules: Vec<RuleRecord> = (0..RULES_EACH).map(rule).collect();
    let first = BLOCKS_FIRST + policy * blocks_of(rules.len()) as u32;
    let row = batch.set_rules(first, &rules).expect("room");
    for direction in [Direction::Ingress, Direction::Egress] {
        batch.set_policy_row(&PolicyKey::new(1, direction, IDENTITY_FIRST + policy), row).expect("room");
    }
}

/// Writes a service and its backends.
pub fn set_service(batch: &mut Batch, id: u32, addr: Addr, backends: &[Addr]) {
    let backends_first = id * BACKENDS_EACH;
    for (i, &addr) in backends.iter().enumerate() {
        let backend = BackendRecord { addr, port: BACKEND_PORT, weight: 1, id };
        batch.set(Table::Backend, backends_first as usize + i, &backend).expect("room");
    }
    let rows = Rows { first: backends_first, count: backends.len() as u32 };
    let record = ServiceRecord { id, inside: rows, outside: rows, ..ServiceRecord::zeroed() };
    batch.insert(Table::Service, &ServiceKey::new(addr, SERVICE_PORT, Protocol::UDP), &record).expect("room");
}

fn node() -> NodeRecord {
    NodeRecord {
        node: [NODE, Addr::UNSPECIFIED],
        gateway: [Addr::v4([10, 1, 0, 1]), Addr::UNSPECIFIED],
        host: [Addr::v4([10, 1, 0, 2]), Addr::UNSPECIFIED],
        snat: [SNAT, Addr::UNSPECIFIED],
        vni: 1,
        tunnel_port: TUNNEL_PORT,
        uplink_mtu: 1500,
        uplink: UPLINK,
        gateway_mac: GATEWAY_MAC,
        ready: 1,
        host_interface: HOST,
        ..NodeRecord::zeroed()
    }
}
