//! NetworkPolicy as a worker sees it: (policy set, direction, identity) -> port rules. A policy set is what one or more
//! pods have in common: the same policies select them. Identity 0 in a row stands for every peer.
//!
//! An address's identity is `longest_match(Lpm::Identity, address)`, [`IDENTITY_WORLD`] if nothing matches.

use crate::Protocol;
use bytemuck::{Pod, Zeroable};

/// Rows for every peer.
pub const IDENTITY_ANY: u32 = 0;
/// Addresses that no prefix knows.
pub const IDENTITY_WORLD: u32 = 1;
/// The node itself; always reaches its own pods.
pub const IDENTITY_NODE: u32 = 2;
/// Identities that control hands out begin here.
pub const IDENTITY_FIRST: u32 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Direction {
    Ingress = 0,
    Egress = 1,
}

/// The set's pods are isolated in this direction: only what a rule allows passes.
#[derive(Clone, Copy, Pod, Zeroable, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PolicySetRecord {
    /// 1 if isolated, by direction.
    pub isolated: [u16; 2],
    pub reserved: u32,
    /// The policy that a denied packet is counted for, by direction (index of the first that isolates).
    pub deny_policy: [u32; 2],
}

#[derive(Clone, Copy, Pod, Zeroable, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct PolicyKey {
    pub policy_set: u32,
    pub identity: u32,
    pub direction: u64,
}

impl PolicyKey {
    pub fn new(policy_set: u32, direction: Direction, identity: u32) -> PolicyKey {
        PolicyKey { policy_set, identity, direction: direction as u64 }
    }
}

/// A run of rules, at most `RULES_PER_ROW_MAX`.
#[derive(Clone, Copy, Pod, Zeroable, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PolicyRow {
    pub rules_first: u32,
    pub rules_count: u32,
}

/// Allows a protocol and a range of destination ports. Protocol 0 is every protocol and port.
#[derive(Clone, Copy, Pod, Zeroable, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct RuleRecord {
    pub protocol: Protocol,
    pub reserved: [u8; 3],
    pub port_first: u16,
    pub port_last: u16,
    /// The policy that says so.
    pub policy: u32,
    pub reserved2: u32,
}

impl RuleRecord {
    pub fn allows(&self, protocol: Protocol, port: u16) -> bool {
        self.protocol == Protocol(0) || self.protocol == protocol && (self.port_first..=self.port_last).contains(&port)
    }
}
