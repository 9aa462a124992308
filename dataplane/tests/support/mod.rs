//! What the tests of whole nodes share: packets as values, table rows as a cluster would have them, and a node whose
//! workers run over interfaces of memory. Must not know what a test expects.
#![allow(dead_code, unused_imports)] // Each test binary compiles this anew and uses a part of it.

pub mod fragments;
pub mod node;
pub mod packets;
pub mod rows;
pub mod segments;

pub use node::{Node, Outcome, Sent, Shape};
pub use packets::{L4, Spec, Wrapped, udp};
pub use rows::{Rows, Rule};
pub use tables::{Addr, Mac};

/// Interface ids of every node.
pub const UPLINK: u32 = 1;
pub const HOST: u32 = 2;
/// The pod with address `.4`, and so on.
pub const POD_A: u32 = 4;
pub const POD_B: u32 = 5;
pub const POD_C: u32 = 6;

pub const VNI: u32 = 7;
pub const TUNNEL_PORT: u16 = 4789;
pub const GENEVE_PORT: u16 = 6081;
pub const UPLINK_MTU: u16 = 1500;
pub const SNAT_FIRST: u16 = 40_000;
pub const SNAT_LAST: u16 = 40_999;

/// The node under test, its peer, and everybody else.
pub const NODE: Addr = Addr::v4([192, 168, 0, 1]);
pub const PEER: Addr = Addr::v4([192, 168, 0, 2]);
pub const ROUTER: Addr = Addr::v4([192, 168, 0, 254]);
/// On the uplink's own link, not resolved at first.
pub const NEIGHBOUR: Addr = Addr::v4([192, 168, 0, 77]);
pub const CLIENT: Addr = Addr::v4([203, 0, 113, 9]);
pub const GATEWAY: Addr = pod(1, 1);
pub const HOST_ADDR: Addr = pod(1, 2);
pub const SNAT: Addr = pod(1, 3);
pub const A: Addr = pod(1, 4);
pub const B: Addr = pod(1, 5);
pub const C: Addr = pod(1, 6);
/// Pods of the peer.
pub const REMOTE: Addr = pod(2, 4);
pub const REMOTE_TWO: Addr = pod(2, 5);
pub const SERVICE: Addr = Addr::v4([172, 30, 0, 10]);

pub const GATEWAY_MAC: Mac = Mac([2, 0xfa, 0, 0, 0, 1]);
pub const ROUTER_MAC: Mac = Mac([2, 0xee, 0, 0, 0, 254]);

/// The same ends by IPv6.
pub mod v6 {
    use super::{Addr, pod_v6};

    pub const NODE: Addr = super::node_addr_v6(1);
    pub const PEER: Addr = super::node_addr_v6(2);
    pub const ROUTER: Addr = super::node_addr_v6(254);
    pub const CLIENT: Addr = super::in_net(0x999, 9);
    pub const GATEWAY: Addr = pod_v6(1, 1);
    pub const HOST_ADDR: Addr = pod_v6(1, 2);
    pub const SNAT: Addr = pod_v6(1, 3);
    pub const A: Addr = pod_v6(1, 4);
    pub const B: Addr = pod_v6(1, 5);
    pub const C: Addr = pod_v6(1, 6);
    pub const REMOTE: Addr = pod_v6(2, 4);
    pub const REMOTE_TWO: Addr = pod_v6(2, 5);
    pub const SERVICE: Addr = super::in_net(0x30, 10);
}

/// The ends of one family, for tests that hold for both.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    pub node: Addr,
    pub router: Addr,
    pub client: Addr,
    pub gateway: Addr,
    pub a: Addr,
    pub b: Addr,
    pub remote: Addr,
    pub service: Addr,
}

pub const FAMILIES: [Family; 2] = [
    Family {
        node: NODE,
        router: ROUTER,
        client: CLIENT,
        gateway: GATEWAY,
        a: A,
        b: B,
        remote: REMOTE,
        service: SERVICE,
    },
    Family {
        node: v6::NODE,
        router: v6::ROUTER,
        client: v6::CLIENT,
        gateway: v6::GATEWAY,
        a: v6::A,
        b: v6::B,
        remote: v6::REMOTE,
        service: v6::SERVICE,
    },
];

/// 2001:db8:NET::HOST
const fn in_net(net: u16, host: u8) -> Addr {
    let [high, low] = net.to_be_bytes();
    Addr::v6([0x20, 1, 0xd, 0xb8, high, low, 0, 0, 0, 0, 0, 0, 0, 0, 0, host])
}

/// As `pod`: in 2001:db8:NUMBER::/64.
pub const fn pod_v6(number: u8, octet: u8) -> Addr {
    in_net(number as u16, octet)
}

/// The address of a pod or node range in a family: 0 IPv4, 1 IPv6.
pub const fn pod_in(family: usize, number: u8, octet: u8) -> Addr {
    if family == 0 { pod(number, octet) } else { pod_v6(number, octet) }
}

pub const fn node_addr_v6(number: u8) -> Addr {
    in_net(0x192, number)
}

/// Address `.octet` in the pod range of node `number`.
pub const fn pod(number: u8, octet: u8) -> Addr {
    Addr::v4([10, 1, number, octet])
}

pub const fn node_addr(number: u8) -> Addr {
    Addr::v4([192, 168, 0, number])
}

pub const fn pod_mac(number: u8, octet: u8) -> Mac {
    Mac([2, 0x0d, 0, 0, number, octet])
}

pub const fn uplink_mac(number: u8) -> Mac {
    Mac([2, 0xaa, 0, 0, 0, number])
}

/// The Ethernet address of a node inside tunnels.
pub const fn inner_mac(number: u8) -> Mac {
    Mac([2, 0xfa, 192, 168, 0, number])
}

pub const fn host_mac(number: u8) -> Mac {
    pod_mac(number, 2)
}

/// How nodes reach each other (by which outer family), and the bytes that it costs.
pub const KINDS: [(Wrapped, usize, usize); 6] = [
    (Wrapped::Vxlan, 0, 50),
    (Wrapped::Geneve, 0, 50),
    (Wrapped::Ip, 0, 20),
    (Wrapped::Vxlan, 1, 70),
    (Wrapped::Geneve, 1, 70),
    (Wrapped::Ip, 1, 40),
];

/// A payload of this size in which no part is like the next.
pub fn bulk(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 7 % 251) as u8).collect()
}
