//! What Fairway changes on its node so that the host itself reaches pods and services: fairway0, its address, routes with
//! blackhole twins, neighbours. Everything is put as wanted and found again by a later run; `undo` takes it all away. It
//! must not know objects.

mod steer;

pub use steer::Steered;

use crate::ipam::{GATEWAY_MAC, HOST_MAC, PodRange};
use crate::netlink::{Keep, LinkInfo, Netlink, NetlinkError, Route, Rule};
use crate::{log, sysctl, tap};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use tables::{Addr, Prefix};

/// The TAP between the host and the dataplane.
pub const HOST_DEVICE: &str = "fairway0";

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error("cannot make {HOST_DEVICE}: {0}; it needs root, /dev/net/tun and a kernel with CONFIG_TUN")]
    Tap(io::Error),
    #[error("{HOST_DEVICE} is in use by another process: stop the other Fairway in this network namespace")]
    Busy,
    #[error("{HOST_DEVICE} vanished while it was set up")]
    Vanished,
}

/// fairway0 and the routes over it.
pub struct Node {
    netlink: Netlink,
    device: LinkInfo,
    /// Reads and writes fairway0; None while another process has it.
    tap: Option<OwnedFd>,
    ranges: Vec<PodRange>,
    routes: BTreeSet<Route>,
    /// Addresses of services outside these ranges, each with a route of its own.
    hosts: BTreeSet<Addr>,
    /// Rows of the node's own addresses.
    steered: Steered,
    /// The policy rules that there are; None: whatever an earlier run left, or an attempt that failed.
    rules: Option<BTreeSet<Rule>>,
    /// It is known what services need: what an earlier run left for them besides may go.
    has_served: bool,
    next_hops: BTreeSet<(u32, Addr)>,
}

impl Node {
    /// Makes fairway0, or takes over the one that an earlier run left.
    pub async fn prepare(netlink: Netlink, mtu: u32) -> Result<Node, NodeError> {
        let tap = open_tap()?;
        let mut device = netlink.link(HOST_DEVICE).await?.ok_or(NodeError::Vanished)?;
        // One that is in use stays as it is, until it is known which ranges the node has now.
        if !netlink.addresses(device.index).await?.iter().any(|addr| !addr.is_v4()) {
            sysctl::quiet_ipv6(HOST_DEVICE, false);
        }
        // Packets for the host come with any source; the stricter of this and `all` holds, so say loose where all says strict.
        let strict = sysctl::read("ipv4/conf/all/rp_filter").is_ok_and(|value| value != "0");
        let _ = sysctl::write(&format!("ipv4/conf/{HOST_DEVICE}/rp_filter"), if strict { "2" } else { "0" });
        if !device.is_up || device.mac != HOST_MAC {
            netlink.bring_up(device.index, Some(HOST_MAC), Some(mtu)).await?;
            device.mtu = mtu;
        }
        Ok(Node::of(netlink, device, tap))
    }

    fn of(netlink: Netlink, device: LinkInfo, tap: Option<OwnedFd>) -> Node {
        Node {
            netlink,
            device,
            tap,
            ranges: Vec::new(),
            routes: BTreeSet::new(),
            hosts: BTreeSet::new(),
            steered: Steered::default(),
            rules: None,
            has_served: false,
            next_hops: BTreeSet::new(),
        }
    }

    pub fn ifindex(&self) -> u32 {
        self.device.index
    }

    pub async fn set_mtu(&mut self, mtu: u32) -> Result<(), NodeError> {
        if self.device.mtu != mtu {
            self.netlink.bring_up(self.device.index, None, Some(mtu)).await?;
            self.device.mtu = mtu;
        }
        Ok(())
    }

    /// fairway0's descriptor: kept from before, or joined anew.
    pub fn tap(&mut self) -> Result<&OwnedFd, NodeError> {
        if self.tap.is_none() {
            self.tap = open_tap()?;
        }
        self.tap.as_ref().ok_or(NodeError::Busy)
    }

    /// A dataplane that outlived the last control process handed it back.
    pub fn keep_tap(&mut self, tap: OwnedFd) {
        self.tap = Some(tap);
    }

    /// Addresses and routes: pods and services are reached by the gateway on fairway0, from the `host` address.
    pub async fn configure(&mut self, ranges: &[PodRange], cidrs: &[Prefix]) -> Result<(), NodeError> {
        if self.ranges != ranges {
            self.set_addresses(ranges).await?;
        }
        let routes = wanted_routes(ranges, cidrs, self.device.index);
        if self.routes != routes {
            self.set_routes(routes, self.has_served).await?;
            if self.has_served {
                self.set_rules(&self.steered.clone()).await?;
            }
        }
        Ok(())
    }

    /// What services take outside the ranges: `hosts` are routed as those are, `steered` goes by rules. Only differences are told to the kernel.
    pub async fn serve(&mut self, hosts: &BTreeSet<Addr>, steered: &Steered) -> Result<(), NodeError> {
        self.steered.clone_from(steered);
        if !self.has_served {
            self.hosts.clone_from(hosts);
            self.set_routes(self.routes.clone(), true).await?;
            self.has_served = true;
        }
        for addr in hosts.difference(&self.hosts.clone()) {
            for route in self.host_routes(*addr) {
                self.netlink.put_route(&route).await?;
            }
            self.hosts.insert(*addr);
        }
        for addr in self.hosts.difference(hosts).copied().collect::<Vec<_>>() {
            for route in self.host_routes(addr) {
                self.netlink.take_route(&route).await?;
            }
            self.hosts.remove(&addr);
        }
        self.set_rules(steered).await
    }

    /// None where a range's route leads there already.
    fn host_routes(&self, addr: Addr) -> Vec<Route> {
        match self.routes.iter().any(|route| route.to().contains(addr)) {
            true => Vec::new(),
            false => twins(Prefix::host(addr), &self.ranges, self.device.index).collect(),
        }
    }

    async fn set_addresses(&mut self, ranges: &[PodRange]) -> Result<(), NodeError> {
        let (index, netlink) = (self.device.index, &self.netlink);
        let wanted: Vec<Addr> = ranges.iter().map(PodRange::host).collect();
        sysctl::quiet_ipv6(HOST_DEVICE, wanted.iter().any(|addr| !addr.is_v4()));
        for old in netlink.addresses(index).await?.iter().filter(|addr| !wanted.contains(addr) && !is_link_local(addr))
        {
            netlink.delete_address(index, *old).await?;
        }
        for (range, host) in ranges.iter().zip(&wanted) {
            netlink.add_address(index, *host).await?;
            netlink.put_neighbour(index, range.gateway(), Keep::Permanent(GATEWAY_MAC)).await?;
        }
        self.ranges = ranges.to_vec();
        // Routes name the old addresses.
        self.routes.clear();
        self.rules = None;
        Ok(())
    }

    /// Those that an earlier run left go, unless they are wanted again; `hosts`: also those of single addresses.
    async fn set_routes(&mut self, wanted: BTreeSet<Route>, hosts: bool) -> Result<(), NodeError> {
        let outer = |addr: &&Addr| !wanted.iter().any(|route| route.to().contains(**addr));
        let outer = self.hosts.iter().filter(outer);
        let of_hosts = outer.flat_map(|addr| twins(Prefix::host(*addr), &self.ranges, self.device.index));
        let mut by_prefix: BTreeMap<Prefix, Vec<Route>> = BTreeMap::new();
        for route in wanted.iter().cloned().chain(of_hosts) {
            self.netlink.put_route(&route).await?;
            by_prefix.entry(*route.to()).or_default().push(route);
        }
        for (to, message) in self.netlink.own_routes().await? {
            let kept = by_prefix.get(&to).into_iter().flatten().any(|route| Netlink::is_route(&message, route));
            if !kept && (hosts || to.mapped_length() < 128) {
                self.netlink.delete_route(message).await?;
            }
        }
        self.routes = wanted;
        Ok(())
    }

    /// The kernel keeps exactly these neighbours of the uplink resolved. True if some are new.
    pub async fn keep_next_hops(&mut self, uplink: u32, wanted: &BTreeSet<Addr>) -> bool {
        let wanted: BTreeSet<_> = wanted.iter().map(|addr| (uplink, *addr)).collect();
        let mut grew = false;
        for (device, addr) in wanted.difference(&self.next_hops) {
            match self.netlink.put_neighbour(*device, *addr, Keep::Managed).await {
                Ok(()) => grew = true,
                Err(error) => log(format_args!("{error}")),
            }
        }
        for (device, addr) in self.next_hops.difference(&wanted) {
            let _ = self.netlink.delete_neighbour(*device, *addr).await;
        }
        self.next_hops = wanted;
        grew
    }

    /// Takes away all that this and earlier runs put on the node, and says what that was.
    pub async fn undo(mut self) -> Result<Vec<String>, NodeError> {
        let mut done = Vec::new();
        self.keep_next_hops(0, &BTreeSet::new()).await;
        let rules = self.netlink.own_rules().await?.len();
        self.set_rules(&Steered::default()).await?;
        self.tap = None;
        if let Some(link) = self.netlink.link(HOST_DEVICE).await? {
            self.netlink.delete_link(link.index).await?;
            done.push(format!("removed {HOST_DEVICE}, with its addresses and routes"));
        }
        let routes = self.netlink.own_routes().await?;
        for (count, what) in [(rules, "policy rules"), (routes.len(), "routes without a device")] {
            done.extend((count > 0).then(|| format!("removed {count} {what}")));
        }
        for (_, message) in routes {
            self.netlink.delete_route(message).await?;
        }
        Ok(done)
    }

    /// The same where no run is.
    pub async fn left(netlink: Netlink) -> Result<Vec<String>, NodeError> {
        Node::of(netlink, LinkInfo::default(), None).undo().await
    }
}

fn open_tap() -> Result<Option<OwnedFd>, NodeError> {
    match tap::open(HOST_DEVICE).and_then(|tap| tap::keep(tap.as_fd()).map(|()| tap)) {
        Ok(tap) => Ok(Some(tap)),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(None),
        Err(error) => Err(NodeError::Tap(error)),
    }
}

fn is_link_local(addr: &Addr) -> bool {
    !addr.is_v4() && addr.v6_octets()[..2] == [0xfe, 0x80]
}

/// Ranges that no other covers, each with its twin.
fn wanted_routes(ranges: &[PodRange], cidrs: &[Prefix], device: u32) -> BTreeSet<Route> {
    let mut all: Vec<Prefix> = cidrs.iter().copied().chain(ranges.iter().map(PodRange::prefix)).collect();
    all.sort();
    all.dedup();
    let outer = all.iter().filter(|to| !all.iter().any(|other| other != *to && other.covers(to)));
    outer.flat_map(|to| twins(*to, ranges, device)).collect()
}

fn twins(to: Prefix, ranges: &[PodRange], device: u32) -> impl Iterator<Item = Route> {
    let range = ranges.iter().find(|range| range.prefix().is_v4() == to.is_v4());
    let via = range.map(|range| Route::Via { to, gateway: range.gateway(), device, src: Some(range.host()) });
    via.into_iter().chain([Route::Blackhole { to }])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_range_that_no_other_covers_gets_a_route_and_a_twin() {
        let range = PodRange::new("10.244.1.0/24".parse().unwrap()).unwrap();
        let cidrs = ["10.244.0.0/16", "10.96.0.0/16", "10.244.2.0/24"].map(|cidr| cidr.parse().unwrap());
        let routes = wanted_routes(&[range], &cidrs, 7);
        let vias: Vec<String> =
            routes.iter().filter(|r| matches!(r, Route::Via { .. })).map(|r| r.to().to_string()).collect();
        assert_eq!(vias, ["10.96.0.0/16", "10.244.0.0/16"]);
        assert_eq!(routes.iter().filter(|r| matches!(r, Route::Blackhole { .. })).count(), 2);
    }
}
