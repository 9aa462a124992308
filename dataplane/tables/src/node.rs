//! What a worker must know about its own node. One row.

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
    /// VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// UDP destination port of the tunnel.
    pub tunnel_port: u16,
    /// Largest IP packet that the uplink carries, bytes.
    pub uplink_mtu: u16,
    /// The uplink's interface id.
    pub uplink: u32,
    /// 802.1Q tag of the uplink, 0 for none.
    pub vlan: u16,
    pub uplink_mac: Mac,
    /// Ethernet address under which pods and the host see Fairway.
    pub gateway_mac: Mac,
    /// 1 once control has published a complete state.
    pub ready: u16,
    /// Interface id of fairway0.
    pub host_interface: u32,
}

/// Index of an address's family in the arrays above.
#[inline(always)]
pub fn family(addr: Addr) -> usize {
    !addr.is_v4() as usize
}
