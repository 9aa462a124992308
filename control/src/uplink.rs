//! The NIC that Fairway shares with the kernel, or a VLAN on it: which one it is, how many queues it has, and AF_XDP
//! sockets for them, which only the dataplane binds. It must not change the NIC's settings.

use crate::claim::QUEUES_MAX;
use crate::netlink::{LinkInfo, Netlink};
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
        "{name} has {queues} receive queues, more than {QUEUES_MAX} that can be covered: reduce them with `ethtool -L {name} combined {QUEUES_MAX}`"
    )]
    Queues { name: String, queues: u32 },
    #[error("{name} has an MTU of {mtu}; at least {least} are needed for IPv6 pods behind the overlay")]
    Mtu { name: String, mtu: u32, least: u32 },
    #[error(
        "{0} is a VLAN whose NIC cannot be used: it must lie in this network namespace, be no VLAN itself, and tag by 802.1Q"
    )]
    Parent(String),
    #[error(transparent)]
    Netlink(#[from] crate::netlink::NetlinkError),
    #[error("this kernel has no AF_XDP sockets ({0}): it needs CONFIG_XDP_SOCKETS, and root")]
    Socket(io::Error),
}

/// Addresses, routes and neighbours are those of the device with this name; frames move on the NIC, which is the same
/// unless that device is a VLAN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    pub name: String,
    pub index: u32,
    /// The NIC.
    pub device: String,
    pub device_index: u32,
    /// The 802.1Q tag that frames carry on it, 0 for none.
    pub vlan: u16,
    pub mac: Mac,
    pub mtu: u32,
    /// Receive queues in use; all of them are covered.
    pub queues: u32,
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
        let queues = queues(&nic).await;
        if queues > QUEUES_MAX {
            return Err(UplinkError::Queues { name: nic.name, queues });
        }
        let LinkInfo { name, index, mac, mtu, .. } = link;
        let vlan = link.vlan.unwrap_or(0);
        Ok(Uplink { name, index, device: nic.name, device_index: nic.index, vlan, mac, mtu, queues })
    }

    /// Whether the dataplane's interface is this one.
    pub fn is(&self, spec: &InterfaceSpec) -> bool {
        (&spec.name, spec.ifindex, spec.vlan) == (&self.name, self.device_index, self.vlan)
    }

    /// One fresh socket a queue, not bound.
    pub fn sockets(&self) -> Result<Vec<OwnedFd>, UplinkError> {
        let sockets = (0..self.queues).map(|_| socket()).collect::<Result<Vec<_>, _>>()?;
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
