//! Services: (address, port, protocol) -> [`ServiceRecord`], and the backends that it may choose.
//!
//! A row with port 0 and protocol 0 says that the address belongs to a service at all, so that an undefined port of it
//! is rejected and not dropped.

use crate::{Addr, Protocol};
use bytemuck::{Pod, Zeroable};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Pod, Zeroable, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ServiceKey {
    pub addr: Addr,
    pub port: u16,
    pub protocol: Protocol,
    pub reserved: [u8; 5],
}

impl ServiceKey {
    pub fn new(addr: Addr, port: u16, protocol: Protocol) -> ServiceKey {
        ServiceKey { addr, port, protocol, reserved: [0; 5] }
    }

    /// The row that only says "this address is a service's".
    pub fn address(addr: Addr) -> ServiceKey {
        ServiceKey::new(addr, 0, Protocol(0))
    }
}

/// The source becomes the `snat` address whoever asks.
pub const FLAG_MASQUERADE_ALL: u16 = 1;
/// An address row: nothing but the address is defined.
pub const FLAG_ADDRESS_ONLY: u16 = 2;
/// It becomes so for clients that are neither pods nor this node.
pub const FLAG_MASQUERADE_OUTSIDE: u16 = 4;
/// Where `inside` is empty: there are backends, but none that clients on this node may use. Dropped, not rejected.
pub const FLAG_DROP_INSIDE: u16 = 8;
/// The same of `outside`.
pub const FLAG_DROP_OUTSIDE: u16 = 16;
/// This node's pods are served like clients outside: nobody told pods apart (kube-proxy without local detection).
pub const FLAG_PODS_OUTSIDE: u16 = 32;
/// Its backends have different weights.
pub const FLAG_WEIGHTED: u16 = 64;
/// Clients outside keep their addresses wherever the backend is, and it answers them from its own node (direct server
/// return); masqueraded are only those for whom that cannot be.
pub const FLAG_DIRECT: u16 = 128;

/// What clients find behind (address, port, protocol). A cluster address answers `inside` and `outside` alike, by the
/// internal traffic policy; addresses and ports for the outside answer by the external one, and to clients on this node,
/// who are not outside, as if it were `Cluster`.
#[derive(Clone, Copy, Pod, Zeroable, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ServiceRecord {
    /// Stable while the service port exists; for scopes and listings.
    pub id: u32,
    /// Seconds of client affinity, 0 for none.
    pub affinity_s: u32,
    /// Who serves clients on this node: its pods, and itself. Backends are sorted by address and port.
    pub inside: Rows,
    /// Who serves all others.
    pub outside: Rows,
    /// Who serves no new connections, and keeps those that it has: terminating, not ready, or left out of a list by hints
    /// or by policy `Local` (endpoints of other nodes only of a service that has few). Backends of `inside` or `outside`
    /// may be here, too; who is deleted is nowhere. Sorted as they are.
    pub leaving: Rows,
    /// In the source range table: a client's address must lie in one of these, if there are any.
    pub sources: Rows,
    pub flags: u16,
    /// An [`Algorithm`].
    pub algorithm: u8,
    pub reserved: u8,
    /// [`Algorithm::SourceHash`] and [`Algorithm::Maglev`]: where in the ring table [`Rings`] stand; never at 0.
    pub ring: u32,
}

impl ServiceRecord {
    /// How its new flows are spread.
    #[inline(always)]
    pub fn algorithm(&self) -> Algorithm {
        Algorithm::ALL.get(self.algorithm as usize).copied().unwrap_or_default()
    }
}

/// How new flows are spread over a service's backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Algorithm {
    /// By a hash of the flow that is private to the worker.
    #[default]
    Random = 0,
    /// In turns, by weight.
    RoundRobin = 1,
    /// A client always gets the same backend, on every node.
    SourceHash = 2,
    /// Who has the fewest flows for its weight.
    LeastConnections = 3,
    /// A 5-tuple always gets the same backend, on every node.
    Maglev = 4,
}

impl Algorithm {
    /// In the order of their numbers.
    pub const ALL: [Algorithm; 5] = [
        Algorithm::Random,
        Algorithm::RoundRobin,
        Algorithm::SourceHash,
        Algorithm::LeastConnections,
        Algorithm::Maglev,
    ];
}

/// Rows of another table that follow each other.
#[derive(Clone, Copy, Pod, Zeroable, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Rows {
    pub first: u32,
    pub count: u32,
}

impl Rows {
    /// Row `i`; never beyond them, whatever a damaged record says of their place.
    pub fn get(&self, i: u32) -> Option<usize> {
        (i < self.count).then(|| self.first.saturating_add(i) as usize)
    }
}

#[derive(Clone, Copy, Pod, Zeroable, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BackendRecord {
    pub addr: Addr,
    pub port: u16,
    /// Its share of a service's flows against the others', where the service has [`FLAG_WEIGHTED`].
    pub weight: u16,
    /// Stable while the backend serves; for counters.
    pub id: u32,
}

/// At [`ServiceRecord::ring`]: the rings of `inside` and of `outside`, in words of the ring table (see `maglev`).
/// `count` is in slots, of which a word holds four.
#[derive(Clone, Copy, Pod, Zeroable, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Rings {
    pub inside: Rows,
    pub outside: Rows,
}

/// A range of clients: `spec.loadBalancerSourceRanges`.
#[derive(Clone, Copy, Pod, Zeroable, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct SourceRecord {
    pub addr: Addr,
    /// Bits of the address's own family that count.
    pub length: u8,
    pub reserved: [u8; 7],
}
