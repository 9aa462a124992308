//! A small node as control would publish it: two pods with both families, a remote node, services, policies, routes.

use bytemuck::Zeroable;
use dataplane::overlay::Encap;
use tables::endpoint::{EndpointKind, EndpointRecord, FLAG_POLICY_IN_FORCE};
use tables::layout::Table;
use tables::lpm::Lpm;
use tables::neighbour::{FLAG_RESOLVED, NeighbourRecord};
use tables::node::{Encapsulation, NodeRecord, PeerRecord};
use tables::policy::{
    Direction, IDENTITY_FIRST, IDENTITY_NODE, MODE_ISOLATED, MODE_OPEN, PolicyKey, PolicyRow, PolicySetRecord,
    PolicySide, RuleRecord,
};
use tables::publish::Batch;
use tables::route::{FLAG_MASQUERADE, RouteKind, RouteRecord};
use tables::service::{
    BackendRecord, FLAG_ADDRESS_ONLY, FLAG_DIRECT, FLAG_MASQUERADE_ALL, Rows, ServiceKey, ServiceRecord,
};
use tables::{Addr, Mac, Prefix, Protocol, Publisher};

pub const UPLINK: u32 = 1;
pub const HOST: u32 = 2;
/// Interface ids of the pods.
pub const PODS: [u32; 2] = [3, 4];
pub const INTERFACES: [u32; 4] = [UPLINK, HOST, PODS[0], PODS[1]];

pub const VNI: u32 = 1;
pub const TUNNEL_PORT: u16 = 4789;
/// Of direct server return, where tunnels are not Geneve themselves.
pub const DIRECT_PORT: u16 = 6081;
pub const UPLINK_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
pub const GATEWAY_MAC: Mac = Mac([2, 0, 0, 0, 0, 0xfe]);
pub const HOST_MAC: Mac = Mac([2, 0, 0, 0, 1, 2]);
pub const NODE: [Addr; 2] = [Addr::v4([192, 168, 0, 1]), v6(0x168, 1)];
pub const OTHER_NODE: [Addr; 2] = [Addr::v4([192, 168, 0, 2]), v6(0x168, 2)];
pub const OUTSIDE: [Addr; 2] = [Addr::v4([198, 51, 100, 9]), v6(0x9999, 9)];
pub const GATEWAY: [Addr; 2] = [Addr::v4([10, 1, 0, 1]), v6(1, 1)];
pub const HOST_ADDR: [Addr; 2] = [Addr::v4([10, 1, 0, 2]), v6(1, 2)];
pub const SNAT: [Addr; 2] = [Addr::v4([10, 1, 0, 3]), v6(1, 3)];
pub const REMOTE_POD: [Addr; 2] = [Addr::v4([10, 2, 0, 4]), v6(2, 4)];
pub const SERVICE: [Addr; 2] = [Addr::v4([172, 30, 0, 1]), v6(0x30, 1)];

/// 2001:db8:NET::HOST
const fn v6(net: u16, host: u8) -> Addr {
    let [high, low] = net.to_be_bytes();
    Addr::v6([0x20, 1, 0xd, 0xb8, high, low, 0, 0, 0, 0, 0, 0, 0, 0, 0, host])
}

pub fn pod_addr(pod: usize, family: usize) -> Addr {
    let last = 4 + pod as u8;
    if family == 0 { Addr::v4([10, 1, 0, last]) } else { v6(1, last) }
}

pub fn pod_mac(pod: usize) -> Mac {
    Mac([2, 0, 0, 0, 2, pod as u8])
}

/// Far side of an interface that is not the uplink: its Ethernet and IP addresses.
pub fn local_end(interface: u32) -> Option<(Mac, [Addr; 2])> {
    match interface {
        HOST => Some((HOST_MAC, HOST_ADDR)),
        3.. => {
            let pod = interface as usize - 3;
            Some((pod_mac(pod), [pod_addr(pod, 0), pod_addr(pod, 1)]))
        }
        _ => None,
    }
}

/// How the nodes reach each other: what is around their pods' packets, and the family of their addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlay {
    pub encap: Encap,
    pub family: usize,
}

pub const OVERLAYS: [Overlay; 6] = [
    Overlay { encap: Encap::Vxlan, family: 0 },
    Overlay { encap: Encap::Geneve, family: 0 },
    Overlay { encap: Encap::Ip, family: 0 },
    Overlay { encap: Encap::Vxlan, family: 1 },
    Overlay { encap: Encap::Geneve, family: 1 },
    Overlay { encap: Encap::Ip, family: 1 },
];

/// Published tables of this node, of the usual overlay.
pub fn publisher() -> Publisher {
    publisher_of(OVERLAYS[0])
}

pub fn publisher_of(overlay: Overlay) -> Publisher {
    let mut publisher = Publisher::create(7).expect("memory for tables");
    let mut batch = publisher.batch([]).expect("nobody reads yet");
    batch.set(Table::Node, 0, &node(overlay)).expect("room");
    batch.set(Table::Neighbour, 1, &neighbour(OTHER_NODE[overlay.family])).expect("room");
    for addr in OTHER_NODE {
        batch.insert(Table::Peer, &addr, &PeerRecord { nodes: 1, reserved: 0 }).expect("room");
    }
    endpoints(&mut batch);
    routes(&mut batch, overlay);
    services(&mut batch);
    policies(&mut batch);
    batch.publish();
    publisher
}

fn node(overlay: Overlay) -> NodeRecord {
    let geneve = if overlay.encap == Encap::Geneve { Encapsulation::Geneve } else { Encapsulation::Vxlan };
    NodeRecord {
        node: NODE,
        encapsulation: geneve as u32,
        gateway: GATEWAY,
        host: HOST_ADDR,
        snat: SNAT,
        vni: VNI,
        tunnel_port: TUNNEL_PORT,
        uplink_mtu: 1500,
        uplink: UPLINK,
        uplink_mac: UPLINK_MAC,
        gateway_mac: GATEWAY_MAC,
        ready: 1,
        host_interface: HOST,
        direct_port: direct_port(overlay),
        ..NodeRecord::zeroed()
    }
}

pub fn direct_port(overlay: Overlay) -> u16 {
    if overlay.encap == Encap::Geneve { TUNNEL_PORT } else { DIRECT_PORT }
}

fn neighbour(addr: Addr) -> NeighbourRecord {
    NeighbourRecord { addr, mac: Mac([2, 0, 0, 0, 9, 9]), flags: FLAG_RESOLVED }
}

fn endpoints(batch: &mut Batch) {
    let mut put = |addr: Addr, kind: EndpointKind, interface: u32, owner_first: u16| {
        let policy_set = (interface == PODS[1]) as u32;
        let mut record = EndpointRecord::new(kind);
        (record.interface, record.owner_first, record.policy_set) = (interface, owner_first, policy_set);
        record.flags = FLAG_POLICY_IN_FORCE;
        batch.insert(Table::Endpoint, &addr, &record).expect("room");
    };
    for family in [0, 1] {
        put(NODE[family], EndpointKind::Node, HOST, 0);
        put(GATEWAY[family], EndpointKind::Gateway, 0, 0);
        put(HOST_ADDR[family], EndpointKind::Host, HOST, 0);
        put(SNAT[family], EndpointKind::Snat, 0, 0);
        put(pod_addr(0, family), EndpointKind::Pod, PODS[0], 0);
        put(pod_addr(1, family), EndpointKind::Pod, PODS[1], 1);
    }
}

fn routes(batch: &mut Batch, overlay: Overlay) {
    let kind = if overlay.encap == Encap::Ip { RouteKind::Ipip } else { RouteKind::Tunnel };
    let mut tunnel = RouteRecord::new(kind);
    (tunnel.peer, tunnel.next_hop) = (OTHER_NODE[overlay.family], 1);
    let mut default = RouteRecord::new(RouteKind::Via);
    (default.flags, default.next_hop) = (FLAG_MASQUERADE, 1);
    let rows = [
        (RouteRecord::new(RouteKind::Local), ["10.1.0.0/24", "2001:db8:1::/64"]),
        (RouteRecord::new(RouteKind::Blackhole), ["10.0.0.0/8", "2001:db8::/32"]),
        (tunnel, ["10.2.0.0/24", "2001:db8:2::/64"]),
        (RouteRecord::new(RouteKind::Services), ["172.30.0.0/16", "2001:db8:30::/64"]),
        (RouteRecord::new(RouteKind::OnLink), ["192.168.0.0/24", "2001:db8:168::/64"]),
        (RouteRecord::new(RouteKind::Host), ["192.168.0.1/32", "2001:db8:168::1/128"]),
        (default, ["0.0.0.0/0", "::/0"]),
    ];
    for (i, (row, prefixes)) in rows.into_iter().enumerate() {
        batch.set(Table::Route, i + 1, &row).expect("room");
        for prefix in prefixes {
            let prefix: Prefix = prefix.parse().expect("a prefix");
            batch.insert_prefix(Lpm::Route, &prefix, i as u64 + 1).expect("room");
        }
    }
}

/// TCP 80, and 8000 by direct server return, with a local, a remote and again a local backend; UDP 53 with one, UDP 54 with none.
fn services(batch: &mut Batch) {
    for family in [0, 1] {
        let first = 16 * family as u32;
        let backends = [pod_addr(1, family), REMOTE_POD[family], pod_addr(0, family)];
        for (i, addr) in backends.into_iter().enumerate() {
            let backend = BackendRecord { addr, port: 8080, weight: 1, id: 1 };
            batch.set(Table::Backend, first as usize + i, &backend).expect("room");
        }
        let mut put = |port: u16, protocol: Protocol, id: u32, count: u32, flags: u16| {
            let rows = Rows { first, count };
            let record = ServiceRecord { id, inside: rows, outside: rows, flags, ..ServiceRecord::zeroed() };
            let key = ServiceKey::new(SERVICE[family], port, protocol);
            batch.insert(Table::Service, &key, &record).expect("room");
        };
        put(80, Protocol::TCP, 1, 3, 0);
        put(8000, Protocol::TCP, 4, 3, FLAG_MASQUERADE_ALL | FLAG_DIRECT);
        put(53, Protocol::UDP, 2, 1, 0);
        put(54, Protocol::UDP, 3, 0, 0);
        put(0, Protocol(0), 0, 0, FLAG_ADDRESS_ONLY);
    }
}

/// Pod 1 hears pod 0 on ports 80-90 and everybody on TCP 8080; the remote pod has an identity of its own.
fn policies(batch: &mut Batch) {
    for family in [0, 1] {
        for (addr, identity) in [(pod_addr(0, family), 0), (pod_addr(1, family), 1), (REMOTE_POD[family], 2)] {
            batch.insert_prefix(Lpm::Identity, &Prefix::host(addr), (IDENTITY_FIRST + identity) as u64).expect("room");
        }
    }
    for node in NODE {
        batch.insert_prefix(Lpm::Identity, &Prefix::host(node), IDENTITY_NODE as u64).expect("room");
    }
    let (isolated, open) =
        (PolicySide::new(MODE_ISOLATED, 1, PolicyRow::new(0)), PolicySide::new(MODE_OPEN, 0, PolicyRow::new(0)));
    batch.set(Table::PolicySet, 1, &PolicySetRecord { sides: [isolated, open] }).expect("room");
    let rules = [(Protocol::UDP, 80, 90), (Protocol::TCP, 8080, 8080)];
    for (i, (identity, (protocol, port_first, port_last))) in [IDENTITY_FIRST, 0].into_iter().zip(rules).enumerate() {
        let rule = RuleRecord::ports(protocol, port_first, port_last).allowed_by(1);
        let row = batch.set_rules(1 + i as u32, &[rule]).expect("room");
        batch.set_policy_row(&PolicyKey::new(1, Direction::Ingress, identity), row).expect("room");
    }
}
