//! Policies as a worker sees them: (policy set, direction, identity) -> the whole answer. A policy set is what one or
//! more pods have in common: the same policies select them. All tiers are worked out into one row by control, so that
//! a worker never weighs one policy against another.
//!
//! An address's identity is `longest_match(Lpm::Identity, address)`, [`IDENTITY_WORLD`] if nothing matches. The row of
//! [`IDENTITY_ANY`] answers for identities without a row of their own, and only for these; it is part of the set's record.
//! Rules lie in blocks (rules.rs).

use crate::Protocol;
use crate::judged::Judged;
use bytemuck::{Pod, Zeroable};

/// The row of everybody without one.
pub const IDENTITY_ANY: u32 = 0;
/// Addresses that no prefix knows.
pub const IDENTITY_WORLD: u32 = 1;
/// The node itself; always reaches its own pods.
pub const IDENTITY_NODE: u32 = 2;
/// Identities that control hands out begin here.
pub const IDENTITY_FIRST: u32 = 16;

/// No policy speaks of the set's pods: what it says is not looked up.
pub const MODE_OPEN: u16 = 0;
/// What no rule allows is denied.
pub const MODE_ISOLATED: u16 = 1;
/// What no rule denies is allowed.
pub const MODE_TIERED: u16 = 2;
/// All is denied, whatever the rows say: they could not be written.
pub const MODE_CLOSED: u16 = 3;

/// The set of nobody, which nobody writes: it is open.
pub const POLICY_SET_OPEN: u32 = 0;

/// It allows; else it denies.
pub const FLAG_ALLOW: u16 = 1;
/// It comes of a NetworkPolicy, which cannot part a pod from itself.
pub const FLAG_NAMESPACED: u16 = 2;

/// With [`FLAG_ALLOW`]: the policy, which is only being tried, would deny it.
pub const FLAG_AUDIT: u16 = 4;

/// [`RuleRecord::rule`] of what no rule in particular says.
pub const RULE_NONE: u16 = u16::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Direction {
    Ingress = 0,
    Egress = 1,
}

impl Direction {
    pub fn name(self) -> &'static str {
        match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        }
    }
}

/// What a policy set says in one direction where no row of an identity says anything.
#[derive(Clone, Copy, Pod, Zeroable, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PolicySide {
    /// What is said where no rule says anything, and whether rules are looked at.
    pub(crate) unsaid: u64,
    /// The row of everybody without one.
    pub any: PolicyRow,
}

impl PolicySide {
    /// `deny_policy`: the policy that a packet is counted for which no rule allows (index of the first that isolates).
    pub fn new(mode: u16, deny_policy: u32, any: PolicyRow) -> PolicySide {
        PolicySide { unsaid: Judged::unsaid(mode, deny_policy).to_side(), any }
    }

    pub fn mode(&self) -> u16 {
        Judged::of_side(self.unsaid).mode()
    }

    pub fn deny_policy(&self) -> u32 {
        Judged::of_side(self.unsaid).policy().unwrap_or(0)
    }
}

/// A policy set, by direction. Zeroes are a set that is open.
#[derive(Clone, Copy, Pod, Zeroable, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PolicySetRecord {
    pub sides: [PolicySide; 2],
}

impl PolicySetRecord {
    /// A set without rows for everybody, which denies for nobody in particular.
    pub fn of_modes(modes: [u16; 2]) -> PolicySetRecord {
        PolicySetRecord { sides: modes.map(|mode| PolicySide::new(mode, 0, PolicyRow::zeroed())) }
    }

    pub fn side(&self, direction: Direction) -> &PolicySide {
        &self.sides[direction as usize]
    }
}

/// Policy set, direction and identity in one word, which is never zero. In the upper half is the number of the set's side.
#[derive(Clone, Copy, Pod, Zeroable, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct PolicyKey(u64);

impl PolicyKey {
    /// What no row has.
    pub(crate) const NONE: PolicyKey = PolicyKey(0);
    const IN_USE: u64 = 1 << 63;

    #[inline(always)]
    pub fn new(policy_set: u32, direction: Direction, identity: u32) -> PolicyKey {
        PolicyKey(PolicyKey::IN_USE | (policy_set as u64) << 33 | (direction as u64) << 32 | identity as u64)
    }

    /// The number of the set's side, to be cut to those that there are.
    #[inline(always)]
    pub(crate) fn side(self) -> usize {
        (self.0 >> 32) as usize
    }

    /// Of nobody's set, which is open.
    pub(crate) const OPEN: PolicyKey = PolicyKey(PolicyKey::IN_USE | (POLICY_SET_OPEN as u64) << 33);

    /// The same of another identity, of a key of everybody.
    #[inline(always)]
    pub(crate) fn of(self, identity: u32) -> PolicyKey {
        PolicyKey(self.0 | identity as u64)
    }

    #[inline(always)]
    pub(crate) fn direction(self) -> Direction {
        if self.0 >> 32 & 1 == 0 { Direction::Ingress } else { Direction::Egress }
    }

    pub fn policy_set(self) -> u32 {
        ((self.0 & !PolicyKey::IN_USE) >> 33) as u32
    }

    pub fn identity(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    pub(crate) fn word(self) -> u64 {
        self.0
    }
}

/// Where the rules of a row begin.
#[derive(Clone, Copy, Pod, Zeroable, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PolicyRow {
    /// The block with the rules, or with their blocks. The first block of all has none.
    pub block: u32,
    pub reserved: u32,
}

impl PolicyRow {
    pub fn new(block: u32) -> PolicyRow {
        PolicyRow { block, reserved: 0 }
    }
}

/// Protocols and destination ports stand in one line: the ports of TCP, of UDP, of SCTP, then all else as one.
const PORTS: u32 = 1 << 16;
/// The last place in that line.
pub const PLACE_LAST: u32 = 4 * PORTS - 1;

/// Where a protocol and a destination port stand. Only TCP, UDP and SCTP have ports.
#[inline(always)]
pub fn place(protocol: Protocol, port: u16) -> u32 {
    match protocol {
        Protocol::TCP => port as u32,
        Protocol::UDP => PORTS + port as u32,
        Protocol::SCTP => 2 * PORTS + port as u32,
        _ => 3 * PORTS,
    }
}

/// What a policy says of a range of places, both ends included.
#[derive(Clone, Copy, Pod, Zeroable, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct RuleRecord {
    pub first: u32,
    pub last: u32,
    /// The policy that says so.
    pub policy: u32,
    /// Which of its rules in this direction, from 0.
    pub rule: u16,
    /// `FLAG_*`.
    pub flags: u16,
}

impl RuleRecord {
    /// A range of ports of a protocol that has ports.
    pub fn ports(protocol: Protocol, first: u16, last: u16) -> RuleRecord {
        RuleRecord { first: place(protocol, first), last: place(protocol, last), ..RuleRecord::zeroed() }
    }

    /// Every protocol and port.
    pub fn everything() -> RuleRecord {
        RuleRecord { last: PLACE_LAST, ..RuleRecord::zeroed() }
    }

    /// The same of a policy that allows.
    pub fn allowed_by(self, policy: u32) -> RuleRecord {
        RuleRecord { policy, flags: FLAG_ALLOW, ..self }
    }

    pub fn allows(&self) -> bool {
        self.flags & FLAG_ALLOW != 0
    }

    pub fn holds(&self, place: u32) -> bool {
        (self.first..=self.last).contains(&place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_and_protocol_has_its_place() {
        let protocols = [Protocol::TCP, Protocol::UDP, Protocol::SCTP];
        let ends = protocols.map(|protocol| [place(protocol, 0), place(protocol, u16::MAX)]);
        assert_eq!(ends.concat(), [0, PORTS - 1, PORTS, 2 * PORTS - 1, 2 * PORTS, 3 * PORTS - 1]);
        assert_eq!(place(Protocol::ICMP, 7), place(Protocol(47), 0));
        let udp = RuleRecord::ports(Protocol::UDP, 80, 90);
        let held = |protocol, port| udp.holds(place(protocol, port));
        assert!(held(Protocol::UDP, 90) && !held(Protocol::UDP, 91) && !held(Protocol::TCP, 85));
        assert!(RuleRecord::everything().holds(place(Protocol::ICMP, 0)));
    }
}
