//! Bonds as the kernel describes them: mode, and which members send. It must not decide which of it can be used.

use rtnetlink::packet_route::link::{
    BondMode, BondPortState, InfoBond, InfoBondPort, InfoData, InfoPortData, LinkInfo as Info, MiiStatus,
};

/// A bond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bond {
    pub mode: Mode,
    /// How often it looks whether its members have a link; 0 if it never does.
    pub watch_ms: u32,
}

/// How a bond shares its members, by the names that `ip link` knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    RoundRobin,
    ActiveBackup,
    Xor,
    Broadcast,
    Lacp,
    /// Balance-tlb, balance-alb, and what is not known.
    Other(u8),
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Mode::RoundRobin => "balance-rr",
            Mode::ActiveBackup => "active-backup",
            Mode::Xor => "balance-xor",
            Mode::Broadcast => "broadcast",
            Mode::Lacp => "802.3ad",
            Mode::Other(5) => "balance-tlb",
            Mode::Other(6) => "balance-alb",
            Mode::Other(_) => "an unknown mode",
        }
    }
}

impl From<BondMode> for Mode {
    fn from(mode: BondMode) -> Mode {
        match mode {
            BondMode::BalanceRr => Mode::RoundRobin,
            BondMode::ActiveBackup => Mode::ActiveBackup,
            BondMode::BalanceXor => Mode::Xor,
            BondMode::Broadcast => Mode::Broadcast,
            BondMode::Ieee8023Ad => Mode::Lacp,
            other => Mode::Other(other.into()),
        }
    }
}

/// None if the device is no bond.
pub(super) fn bond(info: &Info) -> Option<Bond> {
    let Info::Data(InfoData::Bond(parts)) = info else { return None };
    let mut bond = Bond::default();
    for part in parts {
        match part {
            InfoBond::Mode(mode) => bond.mode = (*mode).into(),
            InfoBond::MiiMon(ms) | InfoBond::ArpInterval(ms) => bond.watch_ms = bond.watch_ms.max(*ms),
            _ => {}
        }
    }
    Some(bond)
}

/// Whether a bond sends by this member of it; None if the device is none.
pub(super) fn sends(info: &Info) -> Option<bool> {
    let Info::PortData(InfoPortData::BondPort(parts)) = info else { return None };
    let idle = |part: &InfoBondPort| match part {
        InfoBondPort::BondPortState(state) => *state != BondPortState::Active,
        // One that is about to be given up still sends, one that is about to return does not yet.
        InfoBondPort::MiiStatus(status) => !matches!(status, MiiStatus::Up | MiiStatus::GoingDown),
        _ => false,
    };
    Some(!parts.iter().any(idle))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(state: BondPortState, status: MiiStatus) -> Option<bool> {
        let parts = vec![InfoBondPort::MiiStatus(status), InfoBondPort::BondPortState(state), InfoBondPort::QueueId(0)];
        sends(&Info::PortData(InfoPortData::BondPort(parts)))
    }

    #[test]
    fn a_member_sends_while_it_is_active_and_has_a_link() {
        assert_eq!(member(BondPortState::Active, MiiStatus::Up), Some(true));
        assert_eq!(member(BondPortState::Active, MiiStatus::GoingDown), Some(true));
        assert_eq!(member(BondPortState::Active, MiiStatus::Down), Some(false));
        assert_eq!(member(BondPortState::Active, MiiStatus::GoingBack), Some(false));
        assert_eq!(member(BondPortState::Backup, MiiStatus::Up), Some(false));
        assert_eq!(sends(&Info::Data(InfoData::Bond(Vec::new()))), None);
    }

    #[test]
    fn a_bond_watches_its_members_by_their_links_or_by_arp() {
        let read = |parts: Vec<InfoBond>| bond(&Info::Data(InfoData::Bond(parts))).unwrap();
        let by_link =
            read(vec![InfoBond::Mode(BondMode::ActiveBackup), InfoBond::MiiMon(100), InfoBond::ArpInterval(0)]);
        assert_eq!(by_link, Bond { mode: Mode::ActiveBackup, watch_ms: 100 });
        let by_arp = read(vec![InfoBond::Mode(BondMode::BalanceAlb), InfoBond::MiiMon(0), InfoBond::ArpInterval(500)]);
        assert_eq!((by_arp.mode.name(), by_arp.watch_ms), ("balance-alb", 500));
    }
}
