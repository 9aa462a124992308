//! The cluster that changes, as objects: this node with two pods under a policy, other nodes, the services that measured
//! flows use, and those that are loaded and changed beside them. Must not know rows.

use crate::cluster::{
    self, GATEWAY_MAC, HOST, NODE, OTHER_POD, OTHER_POD_ADDR, PEER, POD, POD_ADDR, POD_MAC, SERVICE_PORT,
    SERVICES_USED, TUNNEL_PORT, UPLINK,
};
use control::encapsulation::Encapsulation;
use control::object::{
    EndpointSlice, Named, NetworkPolicy, Node, Object, ObjectChange, Peer, Pod, PolicyRule, PortMatch, PortRange,
    Selector, Service, ServicePort, SliceEndpoint, SlicePort, TargetPort,
};
use control::state::{KernelRoute, Local, LocalEndpoint, Uplink};
use tables::{Addr, Mac, Prefix, Protocol};

const NAMESPACE: &str = "bench";
/// Of each service that measured flows use.
const USED_ENDPOINTS: u32 = 4;
const NODES: u32 = 5000;
pub const OTHER_POD_MAC: Mac = Mac([2, 0, 0, 0, 2, 1]);

/// Services that are loaded, beside those that measured flows use.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub services: u32,
    pub endpoints: u32,
    pub name: &'static str,
}

impl Size {
    /// All services with their endpoints.
    pub fn load(self) -> Vec<ObjectChange> {
        let objects = (0..self.services).flat_map(|i| [service(self.number(i)), slice(self.number(i), &self.addrs(i))]);
        objects.map(ObjectChange::Put).collect()
    }

    /// Its number among all services.
    pub fn number(self, i: u32) -> u32 {
        SERVICES_USED + i
    }

    /// The endpoints of service `i` after the load.
    pub fn addrs(self, i: u32) -> Vec<Addr> {
        (0..self.endpoints).map(|e| loaded(i * self.endpoints + e)).collect()
    }
}

fn after(first: [u8; 4], number: u32) -> Addr {
    Addr::from_bits(Addr::v4(first).bits() + number as u128)
}

fn loaded(number: u32) -> Addr {
    after([10, 64, 0, 0], number)
}

/// An endpoint that comes after the load.
pub fn fresh(number: u32) -> Addr {
    after([10, 128, 0, 0], number)
}

pub fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

fn name(number: u32) -> Named {
    Named::new(NAMESPACE, format!("service-{number}"))
}

fn service(number: u32) -> Object {
    let target = TargetPort::Number(cluster::BACKEND_PORT);
    Object::Service(Service {
        id: name(number).into(),
        cluster_ips: vec![cluster::service(number)],
        ports: vec![ServicePort {
            name: String::new(),
            port: SERVICE_PORT,
            protocol: Protocol::UDP,
            target,
            node_port: None,
        }],
        families: [true, false],
        ..Service::default()
    })
}

/// The one slice of a service.
pub fn slice(number: u32, addrs: &[Addr]) -> Object {
    let endpoint = |&addr: &Addr| SliceEndpoint { addr, ready: true, serving: true, ..SliceEndpoint::default() };
    let service = name(number).name;
    Object::EndpointSlice(EndpointSlice {
        id: Named::new(NAMESPACE, format!("{service}-x")).into(),
        service: Some(service),
        ports: vec![SlicePort { name: String::new(), protocol: Protocol::UDP, port: cluster::BACKEND_PORT }],
        endpoints: addrs.iter().map(endpoint).collect(),
    })
}

/// Lets both pods speak with the whole cluster by UDP from `port_first` on. Another port concerns every flow.
pub fn policy(port_first: u16) -> Object {
    let port = PortMatch { protocol: Protocol::UDP, port: PortRange::Numbers(port_first, u16::MAX) };
    let peer = Peer::Block { cidr: prefix("10.0.0.0/8"), except: Vec::new() };
    let rules =
        || Some(vec![PolicyRule { peers: vec![peer.clone()], ports: vec![port.clone()], ..PolicyRule::default() }]);
    let (id, pods) = (Named::new(NAMESPACE, "cluster-only"), Selector::default());
    Object::NetworkPolicy(NetworkPolicy { audit: false, id, pods, rules: [rules(), rules()] })
}

/// Everything but the services that are loaded.
pub fn base() -> Vec<ObjectChange> {
    let used = (0..SERVICES_USED).flat_map(|i| {
        let addrs = (0..USED_ENDPOINTS).map(|e| cluster::backend(i * USED_ENDPOINTS + e));
        [service(i), slice(i, &addrs.collect::<Vec<_>>())]
    });
    let others = (0..NODES).map(|i| {
        let range = Prefix::new(cluster::node_range(i), 24).expect("a prefix");
        node(format!("other-{i}"), other_node(i), vec![range])
    });
    let here = [
        node("here".into(), NODE, vec![prefix("10.1.0.0/24")]),
        node("peer".into(), PEER, ["10.2.0.0/15", "10.64.0.0/10", "10.128.0.0/9"].map(prefix).to_vec()),
        pod("pod", POD_ADDR),
        pod("other-pod", OTHER_POD_ADDR),
        policy(1),
    ];
    here.into_iter().chain(others).chain(used).map(ObjectChange::Put).collect()
}

fn other_node(i: u32) -> Addr {
    after([192, 168, 1, 0], i)
}

fn node(name: String, addr: Addr, pod_cidrs: Vec<Prefix>) -> Object {
    Object::Node(Node { name, addrs: vec![addr], pod_cidrs, ..Node::default() })
}

fn pod(name: &str, addr: Addr) -> Object {
    Object::Pod(Pod {
        id: Named::new(NAMESPACE, name).into(),
        addrs: vec![addr],
        node: Some("here".into()),
        ready: true,
        ..Pod::default()
    })
}

/// What control knows of the node that is no object.
pub fn local() -> Local {
    let one = |last: u8| [Addr::v4([10, 1, 0, last]), Addr::UNSPECIFIED];
    let attached = |name: &str, interface: u32, mac: Mac, addr: Addr| {
        let pod = Named::new(NAMESPACE, name);
        (format!("{name}/eth0"), LocalEndpoint { interface, owner: 0, mac, addrs: vec![addr], pod })
    };
    Local {
        node: "here".into(),
        addrs: vec![NODE],
        gateway: one(1),
        host: one(2),
        snat: one(3),
        gateway_mac: GATEWAY_MAC,
        host_mac: Mac([2, 0, 0, 0, 1, 2]),
        encapsulation: Encapsulation::Vxlan,
        vni: 1,
        tunnel_port: TUNNEL_PORT,
        uplink: Uplink { interface: UPLINK, mac: Mac([2, 0, 0, 0, 1, 3]), mtu: 1500 },
        host_interface: HOST,
        host_owner: 0,
        workers: 1,
        cluster_cidrs: vec![prefix("10.0.0.0/8")],
        service_cidrs: vec![prefix("172.30.0.0/16")],
        endpoints: [
            attached("pod", POD, POD_MAC, POD_ADDR),
            attached("other-pod", OTHER_POD, OTHER_POD_MAC, OTHER_POD_ADDR),
        ]
        .into(),
        neighbours: [(PEER, Mac([2, 0, 0, 0, 9, 9]))].into(),
        kernel_routes: vec![KernelRoute { prefix: prefix("192.168.0.0/16"), via: None }],
        ..Local::default()
    }
}
