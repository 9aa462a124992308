//! The NIC that Fairway shares with the kernel, or a bond of several, or a VLAN on one of these: which one it is, how many
//! queues it has, and AF_XDP sockets for them, which only the dataplane binds. It must not change the NIC's settings.

use crate::claim::{MEMBERS_MAX, QUEUES_MAX};
use crate::netlink::{LinkInfo, Mode, Netlink};
use crate::sys;
use ethtool::{EthtoolAttr, EthtoolChannelAttr};
use futures_util::TryStreamExt;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use tables::Mac;
use tables::message::InterfaceSpec;

/// The smallest MTU of a pod: what IPv6 needs (RFC 8200, section 5).
pub const POD_MTU_MIN: u32 = 1280;
/// Packets that a busy-polling socket takes a turn; the NAPI weight.
const BUSY_POLL_BUDGET: i32 = 64;

#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    #[error("there is no device {0} in this network namespace: name the node's NIC with --uplink (see `ip link`)")]
    Missing(String),
    #[error("this node has no default route, so name its NIC: --uplink IFNAME instead of `auto`")]
    NoDefaultRoute,
    #[error("{name} is down: `ip link set {name} up` first")]
    Down { name: String },
    #[error(
        "{name} has {queues} receive queues, more than {max} that can be covered: reduce them with `ethtool -L {name} combined {max}`"
    )]
    Queues { name: String, queues: u32, max: u32 },
    #[error("{name} has an MTU of {mtu}; at least {least} are needed for IPv6 pods behind the overlay")]
    Mtu { name: String, mtu: u32, least: u32 },
    #[error(
        "{0} is a VLAN whose NIC cannot be used: it must lie in this network namespace, be no VLAN itself, and tag by 802.1Q"
    )]
    Parent(String),
    #[error(
        "{name} is a bond of mode {}, which asks more of each packet than that one member sends it: make it one of active-backup, balance-xor, balance-rr or 802.3ad, such as `ip link add {name} type bond mode active-backup miimon 100`, or give one NIC as the uplink", mode.name()
    )]
    Mode { name: String, mode: Mode },
    #[error("{0} is a bond without members: `ip link set NIC down`, then `ip link set NIC master {0}`")]
    NoMembers(String),
    #[error("{name} has {count} members, more than the {MEMBERS_MAX} that can be covered: `ip link set NIC nomaster`")]
    Members { name: String, count: usize },
    #[error(
        "members of {bond} have {most} receive queues, {name} has {queues}: give all as many, `ethtool -L {name} combined {most}`, or the others fewer"
    )]
    Uneven { bond: String, name: String, queues: u32, most: u32 },
    #[error(transparent)]
    Netlink(#[from] crate::netlink::NetlinkError),
    #[error("this kernel has no AF_XDP sockets ({0}): it needs CONFIG_XDP_SOCKETS, and root")]
    Socket(io::Error),
}

/// A NIC that frames move on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub name: String,
    pub index: u32,
    /// A bond sends by some of its members.
    pub sends: bool,
}

/// Addresses, routes and neighbours are those of the device with this name; frames move on the NIC, which is the same
/// unless that device is a VLAN, or on the members of a bond.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    pub name: String,
    pub index: u32,
    /// The NIC, or the bond.
    pub device: String,
    pub device_index: u32,
    /// The 802.1Q tag that frames carry on it, 0 for none.
    pub vlan: u16,
    pub mac: Mac,
    pub mtu: u32,
    /// Receive queues in use of each member; all of them are covered.
    pub queues: u32,
    pub bond: Option<Mode>,
    /// The NIC itself where it is no bond.
    pub members: Vec<Member>,
}

impl Uplink {
    /// `overhead`: bytes of outer headers that packets of the overlay carry.
    pub async fn find(netlink: &Netlink, name: &str, overhead: u32) -> Result<Uplink, UplinkError> {
        let link = netlink.link(name).await?.ok_or_else(|| UplinkError::Missing(name.to_owned()))?;
        if !link.is_up {
            return Err(UplinkError::Down { name: link.name });
        }
        let least = POD_MTU_MIN + overhead;
        if link.mtu < least {
            return Err(UplinkError::Mtu { name: link.name, mtu: link.mtu, least });
        }
        let nic = nic(netlink, &link).await?;
        let members = members(netlink, &nic).await?;
        let queues = queues_of_each(&nic, &members).await?;
        let LinkInfo { name, index, mac, mtu, .. } = link;
        let (vlan, bond, members) =
            (link.vlan.unwrap_or(0), nic.bond.map(|bond| bond.mode), members.iter().map(Member::of));
        let members = members.collect();
        Ok(Uplink { name, index, device: nic.name, device_index: nic.index, vlan, mac, mtu, queues, bond, members })
    }

    /// Whether the dataplane's interface is this one.
    pub fn is(&self, spec: &InterfaceSpec) -> bool {
        (&spec.name, spec.ifindex, spec.vlan) == (&self.name, self.device_index, self.vlan)
            && spec.members == self.bonded()
    }

    /// The members of a bond; none of a NIC.
    pub fn bonded(&self) -> Vec<u32> {
        let members = self.members.iter().filter(|_| self.bond.is_some());
        members.map(|member| member.index).collect()
    }

    /// What a bond does with its members.
    pub fn bond_line(&self) -> String {
        bond_line(&self.device, self.bond.unwrap_or_default(), &self.members)
    }

    /// The names of all devices that frames move on.
    pub fn nics(&self) -> Vec<String> {
        self.members.iter().map(|member| member.name.clone()).collect()
    }

    /// A bit for each member that a bond sends by.
    pub fn sending(&self) -> u64 {
        let sending = self.members.iter().enumerate().filter(|(_, member)| member.sends);
        sending.fold(0, |bits, (at, _)| bits | 1 << at)
    }

    /// One fresh socket a queue, member by member, not bound.
    pub fn sockets(&self) -> Result<Vec<OwnedFd>, UplinkError> {
        let sockets = (0..self.queues * self.members.len() as u32).map(|_| socket()).collect::<Result<Vec<_>, _>>()?;
        // Only we may set it: the dataplane has no privileges by the time it could.
        let preferred = sockets.iter().try_for_each(|socket| sys::prefer_busy_poll(socket.as_fd(), BUSY_POLL_BUDGET));
        if let Err(error) = preferred {
            crate::log(format_args!(
                "preferred busy polling is not to be had ({error}): the uplink is polled without it"
            ));
        }
        Ok(sockets)
    }
}

/// Which members a bond sends by, and which wait.
pub fn bond_line(name: &str, mode: Mode, members: &[Member]) -> String {
    let names = |sends: bool| {
        let wanted = members.iter().filter(|member| member.sends == sends);
        let names: Vec<&str> = wanted.map(|member| member.name.as_str()).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    format!("{name} is a bond ({}) that sends by {}; idle: {}", mode.name(), names(true), names(false))
}

impl Member {
    pub fn of(link: &LinkInfo) -> Member {
        Member { name: link.name.clone(), index: link.index, sends: link.sends.unwrap_or(true) }
    }
}

/// The devices that frames of a NIC move on: its members, if it is a bond of which one member sends each packet.
pub async fn members(netlink: &Netlink, nic: &LinkInfo) -> Result<Vec<LinkInfo>, UplinkError> {
    let Some(bond) = nic.bond else { return Ok(vec![nic.clone()]) };
    if matches!(bond.mode, Mode::Broadcast | Mode::Other(_)) {
        return Err(UplinkError::Mode { name: nic.name.clone(), mode: bond.mode });
    }
    let members = netlink.members(nic.index).await?;
    match members.len() {
        0 => Err(UplinkError::NoMembers(nic.name.clone())),
        1..=MEMBERS_MAX => Ok(members),
        count => Err(UplinkError::Members { name: nic.name.clone(), count }),
    }
}

/// As many of each member: a worker has queues of all of them, or of none.
async fn queues_of_each(nic: &LinkInfo, members: &[LinkInfo]) -> Result<u32, UplinkError> {
    let mut each = Vec::new();
    for member in members {
        each.push(queues(member).await);
    }
    let (most, max) = (each.iter().copied().max().unwrap_or(0), QUEUES_MAX / members.len().max(1) as u32);
    for (member, &queues) in members.iter().zip(&each) {
        let name = member.name.clone();
        if queues > max {
            return Err(UplinkError::Queues { name, queues, max });
        }
        if queues < most {
            return Err(UplinkError::Uneven { bond: nic.name.clone(), name, queues, most });
        }
    }
    Ok(most)
}

/// The device that is meant: `auto` is that of the default route, of IPv4's if there are both.
pub async fn named(netlink: &Netlink, name: &str) -> Result<String, UplinkError> {
    if name != "auto" {
        return Ok(name.to_owned());
    }
    let defaults = netlink.default_routes().await?;
    let best = defaults.iter().min_by_key(|route| (!route.to.is_v4(), route.metric));
    let device = best.ok_or(UplinkError::NoDefaultRoute)?.device;
    let link = netlink.link_at(device).await?.ok_or(UplinkError::NoDefaultRoute)?;
    Ok(link.name)
}

/// The device that frames move on: a VLAN's parent, else itself.
pub async fn nic(netlink: &Netlink, link: &LinkInfo) -> Result<LinkInfo, UplinkError> {
    let Some(tag) = link.vlan else { return Ok(link.clone()) };
    let parent = match link.parent.filter(|_| tag != 0) {
        Some(index) => netlink.link_at(index).await?,
        None => None,
    };
    parent.filter(|parent| parent.vlan.is_none()).ok_or_else(|| UplinkError::Parent(link.name.clone()))
}

pub fn socket() -> Result<OwnedFd, UplinkError> {
    let made = rustix::net::socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None);
    made.map_err(|errno| UplinkError::Socket(errno.into()))
}

/// Queues that the driver uses now (as `ethtool -l`), else those that it allocated.
pub async fn queues(link: &LinkInfo) -> u32 {
    match channels(&link.name).await {
        Some(queues) if queues > 0 => queues,
        _ => link.rx_queues.max(1),
    }
}

async fn channels(name: &str) -> Option<u32> {
    let (connection, mut handle, _) = ethtool::new_connection().ok()?;
    let task = tokio::spawn(connection);
    let messages = handle.channel().get(Some(name)).execute().await.ok()?;
    let messages = messages.try_collect::<Vec<_>>().await.ok()?;
    task.abort();
    let count = |attribute: &EthtoolAttr| match attribute {
        EthtoolAttr::Channel(EthtoolChannelAttr::RxCount(n) | EthtoolChannelAttr::CombinedCount(n)) => *n,
        _ => 0,
    };
    Some(messages.iter().flat_map(|message| &message.payload.nlas).map(count).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bond_names_who_sends_and_who_waits() {
        let member = |name: &str, sends| Member { name: name.to_owned(), index: 1, sends };
        let line = |members: &[Member]| bond_line("bond0", Mode::ActiveBackup, members);
        let told = |what: &str| format!("bond0 is a bond (active-backup) that {what}");
        assert_eq!(line(&[member("a", false), member("b", true)]), told("sends by b; idle: a"));
        assert_eq!(line(&[member("a", true), member("b", true)]), told("sends by a, b; idle: none"));
        assert_eq!(line(&[member("a", false)]), told("sends by none; idle: a"));
    }
}
