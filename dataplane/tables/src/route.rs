//! Where a destination lies. `longest_match(Lpm::Route, address)` gives a route id, table `route` its row. Ids are
//! stable while the prefix stays, and are what flows depend on ([`crate::scope::Scope::Route`]).

use crate::{Addr, Mac};
use bytemuck::{Pod, Zeroable};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RouteKind {
    /// A local end: look in the endpoint table.
    Local = 1,
    /// Another node's pods: encapsulate to `peer`, sent to `next_hop` (or to `peer` itself where that is on-link).
    Tunnel = 2,
    /// Through the uplink to the next hop's Ethernet address.
    Via = 3,
    /// On the uplink's link: the destination is its own neighbour.
    OnLink = 4,
    /// To the node's kernel, through fairway0.
    Host = 5,
    /// Dropped: part of a range that is ours with nobody behind it.
    Blackhole = 6,
    /// The range of service addresses: dropped where no service answered before.
    Services = 7,
    /// Another node's pods: IP in IP (RFC 2003, 2473, 4213) to `peer`, as for `Tunnel`, without Ethernet inside.
    Ipip = 8,
}

impl RouteKind {
    pub fn from_byte(byte: u8) -> Option<RouteKind> {
        use RouteKind::*;
        [Local, Tunnel, Via, OnLink, Host, Blackhole, Services, Ipip].into_iter().find(|k| *k as u8 == byte)
    }
}

/// The destination is outside the cluster: pods that open flows to it are masqueraded.
pub const FLAG_MASQUERADE: u8 = 1;

#[derive(Clone, Copy, Pod, Zeroable, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RouteRecord {
    kind: u8,
    pub flags: u8,
    pub reserved: [u8; 2],
    /// Index into the neighbour table. For `OnLink` the destination's own row is found by address.
    pub next_hop: u32,
    /// The other node's address, where it is another node's pods that lie there. For `Tunnel` and `Ipip` also the only source
    /// that their packets may come from.
    pub peer: Addr,
    /// For `Tunnel`: the peer's Ethernet address inside, where it said one; else it follows from `peer`.
    pub inner_mac: Mac,
    pub reserved_2: [u8; 2],
}

impl RouteRecord {
    pub fn new(kind: RouteKind) -> RouteRecord {
        RouteRecord { kind: kind as u8, ..RouteRecord::zeroed() }
    }

    pub fn kind(&self) -> Option<RouteKind> {
        RouteKind::from_byte(self.kind)
    }
}
