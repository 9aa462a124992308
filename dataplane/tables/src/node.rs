//! What a worker must know about its own node, in one row, and which addresses other nodes have.

use crate::{Addr, Mac};
use bytemuck::{Pod, Zeroable};

/// Addresses by family: index 0 IPv4, 1 IPv6; unspecified where the node has none.
#[derive(Clone, Copy, Pod, Zeroable, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct NodeRecord {
    /// The node's own address: source of the tunnel and of what leaves the cluster masqueraded.
    pub node: [Addr; 2],
    /// The pods' gateway, answered for by Fairway.
    pub gateway: [Addr; 2],
    /// The address of fairway0.
    pub host: [Addr; 2],
    /// Source of what Fairway sends into the pod network for something that is not a pod.
    pub snat: [Addr; 2],
    /// VXLAN or Geneve network identifier, 24 bits.
    pub vni: u32,
    /// UDP destination port of the tunnel.
    pub tunnel_port: u16,
    /// Largest IP packet that the uplink carries, bytes.
    pub uplink_mtu: u16,
    /// The uplink's interface id.
    pub uplink: u32,
    pub uplink_mac: Mac,
    /// Ethernet address under which pods and the host see Fairway.
    pub gateway_mac: Mac,
    /// 1 once control has published a complete state.
    pub ready: u32,
    /// Interface id of fairway0.
    pub host_interface: u32,
    /// An [`Encapsulation`]; what is unknown counts as VXLAN.
    pub encapsulation: u32,
    /// UDP port to which nodes send what is served by direct server return (Geneve, whatever the encapsulation is); 0: they
    /// do not.
    pub direct_port: u16,
    pub reserved: u16,
}

/// Table `peer`: an address of another node, from which may come what asks a service by direct server return.
#[derive(Clone, Copy, Pod, Zeroable, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PeerRecord {
    /// Nodes that say they have the address: one, or somebody is wrong.
    pub nodes: u32,
    pub reserved: u32,
}

/// How packets to other nodes' pods are wrapped where a route is a tunnel; one way for the whole cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Encapsulation {
    /// RFC 7348.
    #[default]
    Vxlan = 0,
    /// RFC 8926.
    Geneve = 1,
}

impl NodeRecord {
    pub fn encapsulation(&self) -> Encapsulation {
        if self.encapsulation == Encapsulation::Geneve as u32 { Encapsulation::Geneve } else { Encapsulation::Vxlan }
    }
}

/// Index of an address's family in the arrays above.
#[inline(always)]
pub fn family(addr: Addr) -> usize {
    !addr.is_v4() as usize
}
