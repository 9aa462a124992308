//! Facts about this node that are no objects: addresses, interfaces, attachments, and what the kernel knows of the
//! underlay.

use super::options::ServiceOptions;
use crate::encapsulation::Encapsulation;
use crate::object::Named;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use tables::{Addr, Mac, Prefix};

/// Addresses by family: index 0 IPv4, 1 IPv6, unspecified where there is none (see [`tables::node::family`]).
pub type ByFamily = [Addr; 2];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Local {
    /// Name of this node's Node object.
    pub node: String,
    /// The node's own addresses; the first of each family is the tunnel's.
    pub addrs: Vec<Addr>,
    /// Every address that the kernel has; empty while nobody asked it.
    pub node_addrs: Vec<Addr>,
    pub services: ServiceOptions,
    /// Ports of the node that Fairway translates to.
    pub snat_ports: Option<RangeInclusive<u16>>,
    /// Those of them that sockets of the node have.
    pub taken_ports: BTreeSet<u16>,
    pub gateway: ByFamily,
    pub host: ByFamily,
    pub snat: ByFamily,
    /// Ethernet address under which pods and the host see Fairway.
    pub gateway_mac: Mac,
    /// Ethernet address of fairway0.
    pub host_mac: Mac,
    /// How packets reach other nodes' pods.
    pub encapsulation: Encapsulation,
    /// VXLAN or Geneve network identifier, 24 bits.
    pub vni: u32,
    /// UDP destination port of the tunnel.
    pub tunnel_port: u16,
    /// UDP port of what clients outside asked other nodes (Geneve); 0: none is free for it.
    pub direct_port: u16,
    pub uplink: Uplink,
    /// Interface id of fairway0, and the worker that owns it.
    pub host_interface: u32,
    pub host_owner: u16,
    /// Workers of the dataplane.
    pub workers: u16,
    pub cluster_cidrs: Vec<Prefix>,
    pub service_cidrs: Vec<Prefix>,
    /// By a key that lasts as long as the attachment (container id/interface name).
    pub endpoints: BTreeMap<String, LocalEndpoint>,
    /// Next hops of the uplink that the kernel has resolved.
    pub neighbours: BTreeMap<Addr, Mac>,
    pub kernel_routes: Vec<KernelRoute>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uplink {
    /// Id, as the dataplane assigned it.
    pub interface: u32,
    pub mac: Mac,
    /// Largest IP packet, bytes.
    pub mtu: u16,
}

/// A pod's interface on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LocalEndpoint {
    /// Interface id, as the dataplane assigned it.
    pub interface: u32,
    /// The worker that keeps its flows.
    pub owner: u16,
    pub mac: Mac,
    pub addrs: Vec<Addr>,
    pub pod: Named,
}

/// A route of the kernel that leaves through the uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct KernelRoute {
    pub prefix: Prefix,
    /// None: the destination is on the link.
    pub via: Option<Addr>,
}
