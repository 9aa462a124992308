//! Local ends: which addresses are on this node, behind which interface, and which worker keeps their flows.
//! Table `endpoint`: address -> [`EndpointRecord`].

use crate::Mac;
use bytemuck::{Pod, Zeroable};

/// What kind of local end an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EndpointKind {
    /// A pod attached to this node.
    Pod = 1,
    /// The host itself, behind fairway0: the `host` address of the pod range.
    Host = 2,
    /// The pods' gateway; Fairway answers for it.
    Gateway = 3,
    /// The address from which Fairway speaks for non-pods; its ports belong to workers by block.
    Snat = 4,
    /// The node's own address on the underlay; its SNAT ports belong to workers by block, the rest is the kernel's.
    Node = 5,
}

impl EndpointKind {
    pub fn from_byte(byte: u8) -> Option<EndpointKind> {
        [Self::Pod, Self::Host, Self::Gateway, Self::Snat, Self::Node].into_iter().find(|k| *k as u8 == byte)
    }
}

/// Whether a pod may speak at all.
pub const FLAG_POLICY_IN_FORCE: u8 = 1;

#[derive(Clone, Copy, Pod, Zeroable, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct EndpointRecord {
    /// Interface id, as the dataplane assigned it.
    pub interface: u32,
    /// Index into the policy set table; 0 is "no policy selects this".
    pub policy_set: u32,
    pub identity: u32,
    /// Route id of the address's own route, for scopes.
    pub route: u32,
    /// The workers that keep its flows: `owner_first .. owner_first + owner_count`.
    pub owner_first: u16,
    pub owner_count: u16,
    pub mac: Mac,
    kind: u8,
    pub flags: u8,
    pub reserved: [u8; 4],
}

impl EndpointRecord {
    pub fn new(kind: EndpointKind) -> EndpointRecord {
        EndpointRecord { kind: kind as u8, owner_count: 1, ..EndpointRecord::zeroed() }
    }

    /// None for a kind that this build does not know: treated as not local.
    pub fn kind(&self) -> Option<EndpointKind> {
        EndpointKind::from_byte(self.kind)
    }
}
