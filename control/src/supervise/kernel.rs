//! What the kernel knows of the underlay, followed into the state: routes out of the uplink and Ethernet addresses of
//! neighbours; and what workers want resolved, asked of the kernel.

use super::Supervisor;
use super::session::SessionError;
use crate::log;
use crate::netlink::{Forwarding, Neighbour};
use crate::reserve::{self, Shortage};
use crate::state::KernelRoute;
use crate::uplink::{Member, Uplink};
use crate::watch::KernelChange;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tables::Addr;

/// On-link addresses that workers asked for; the oldest gives way, so that a scan of the link cannot fill the kernel.
const ASKED_MAX: usize = 1024;

#[derive(Default)]
pub struct Asked {
    order: VecDeque<Addr>,
    known: BTreeSet<Addr>,
}

impl Asked {
    /// True if it was not asked for already.
    fn insert(&mut self, addr: Addr) -> bool {
        if !self.known.insert(addr) {
            return false;
        }
        self.order.push_back(addr);
        if self.order.len() > ASKED_MAX {
            let oldest = self.order.pop_front();
            oldest.inspect(|addr| _ = self.known.remove(addr));
        }
        true
    }
}

impl Supervisor {
    pub(super) fn take_kernel_change(&mut self, change: KernelChange) {
        match change {
            KernelChange::Neighbour(neighbour) if neighbour.device == self.uplink.index => {
                self.set_neighbour(neighbour);
            }
            KernelChange::Neighbour(_) => {}
            KernelChange::Other | KernelChange::Lost => self.kernel_changed = true,
        }
    }

    fn set_neighbour(&mut self, Neighbour { addr, mac, .. }: Neighbour) {
        // The kernel lists multicast and broadcast too, which no packet of ours goes to.
        if !addr.is_multicast() && !addr.is_v4_broadcast() {
            self.state.set_neighbour(addr, mac.filter(|mac| mac.0[0] & 1 == 0));
        }
    }

    /// Reads uplink, routes and neighbours again as a whole.
    pub(super) async fn read_kernel(&mut self) {
        self.kernel_changed = false;
        self.read_uplink().await;
        self.read_node_addrs().await;
        match self.netlink.routes_by(self.uplink.index).await {
            Ok(routes) => self.state.set_kernel_routes(best_routes(routes)),
            Err(error) => log(format_args!("{error}")),
        }
        self.read_neighbours().await;
    }

    /// Whether the SNAT ports leave the node any of its own.
    pub(super) fn check_local_ports(&mut self) {
        let short = Shortage::check(&self.args.snat_ports);
        self.note("local-ports", short.map_err(|shortage| format!("{shortage}: {}", Shortage::ADVICE)));
    }

    /// SNAT ports that sockets had before they were reserved.
    pub(super) fn read_taken_ports(&mut self) {
        let taken = reserve::taken(&self.args.snat_ports);
        if self.taken_ports != taken {
            let count = taken.len();
            log(format_args!(
                "{count} of the SNAT ports belong to sockets of this node: they keep them, and no flow gets one of them"
            ));
            self.taken_ports = taken;
            self.refresh_local();
        }
    }

    /// The node's own addresses, on whatever device, but for those that only Fairway gave it.
    async fn read_node_addrs(&mut self) {
        let listed = match self.netlink.all_addresses().await {
            Ok(listed) => listed,
            Err(error) => return log(format_args!("{error}")),
        };
        let own =
            listed.into_iter().filter(|(device, addr)| *device != self.node.ifindex() && !is_local_to_link(*addr));
        let mut addrs: Vec<Addr> = own.map(|(_, addr)| addr).collect();
        addrs.sort();
        addrs.dedup();
        if self.node_addrs != addrs {
            self.node_addrs = addrs;
            self.refresh_local();
            self.refresh_wanted();
            self.serve_singles().await;
        }
    }

    async fn read_neighbours(&mut self) {
        let listed = match self.netlink.neighbours(self.uplink.index).await {
            Ok(listed) => listed,
            Err(error) => return log(format_args!("{error}")),
        };
        let known: BTreeSet<Addr> = listed.iter().map(|neighbour| neighbour.addr).collect();
        let gone: Vec<Addr> = self.state.local().neighbours.keys().filter(|a| !known.contains(a)).copied().collect();
        gone.into_iter().for_each(|addr| self.state.set_neighbour(addr, None));
        listed.into_iter().for_each(|neighbour| self.set_neighbour(neighbour));
    }

    /// What an earlier run asked for is kept on, so that it is taken away at the end.
    pub(super) async fn adopt_neighbours(&mut self) {
        let listed = self.netlink.neighbours(self.uplink.index).await.unwrap_or_default();
        listed.iter().filter(|neighbour| neighbour.managed).for_each(|neighbour| {
            self.asked.insert(neighbour.addr);
        });
    }

    /// A new Ethernet address or MTU of the uplink takes effect; its queues and index cannot change under us.
    async fn read_uplink(&mut self) {
        match self.netlink.link(&self.args.uplink).await {
            Ok(Some(link)) if link.index == self.uplink.index => {
                self.clear_problem("uplink");
                let members = self.read_members().await;
                let now = Uplink { mac: link.mac, mtu: link.mtu, members, ..self.uplink.clone() };
                if now != self.uplink {
                    let before = std::mem::replace(&mut self.uplink, now);
                    self.reclaim();
                    if before.members != self.uplink.members {
                        self.change_members().await;
                    }
                    self.fit_mtu().await;
                    self.refresh_local();
                }
            }
            Ok(_) => {
                let name = &self.args.uplink;
                self.set_problem(
                    "uplink",
                    format!("the uplink {name} is gone: restart both processes when it is back"),
                );
            }
            Err(error) => log(format_args!("{error}")),
        }
    }

    /// Those of the start, and by which of them a bond sends now.
    async fn read_members(&mut self) -> Vec<Member> {
        let before = self.uplink.members.clone();
        if self.uplink.bond.is_none() {
            return before;
        }
        let links = match self.netlink.members(self.uplink.device_index).await {
            Ok(links) => links,
            Err(error) => {
                log(format_args!("{error}"));
                return before;
            }
        };
        let is_of = |index: u32| before.iter().any(|member| member.index == index);
        let strangers: Vec<&str> =
            links.iter().filter(|link| !is_of(link.index)).map(|link| link.name.as_str()).collect();
        let sends = |index: u32| links.iter().any(|link| link.index == index && link.sends == Some(true));
        let members: Vec<Member> =
            before.iter().map(|member| Member { sends: sends(member.index), ..member.clone() }).collect();
        self.tell_of_members(&strangers, &members);
        members
    }

    fn tell_of_members(&mut self, strangers: &[&str], members: &[Member]) {
        let bond = self.uplink.device.clone();
        match strangers {
            [] => self.clear_problem("bond"),
            _ => self.set_problem(
                "bond",
                format!(
                    "{bond} has a new member, {}, which is not used before both processes are restarted",
                    strangers.join(", ")
                ),
            ),
        }
        if members.iter().any(|member| member.sends) {
            self.clear_problem("bond-links");
        } else {
            self.set_problem(
                "bond-links",
                format!("{bond} sends by none of its members: see /proc/net/bonding/{bond}"),
            );
        }
    }

    async fn change_members(&mut self) {
        log(format_args!("{}", self.uplink.bond_line()));
        let Some(mut dataplane) = self.dataplane.take() else { return };
        match dataplane.set_sending(&self.uplink).await {
            Err(error @ SessionError::Link(_)) => {
                self.dataplane = Some(dataplane);
                self.lose_dataplane(error);
            }
            other => {
                self.dataplane = Some(dataplane);
                self.note("bond-sending", other);
            }
        }
    }

    fn reclaim(&mut self) {
        let addrs = self.state.local().addrs.clone();
        if let Err(error) = self.claim.set_config(self.claim_config(&addrs)) {
            self.set_problem("claim-ranges", error);
        }
    }

    /// Workers hold a packet for each of these.
    pub(super) async fn take_neighbour_requests(&mut self) {
        let Some(dataplane) = &mut self.dataplane else { return };
        let mut grew = false;
        for (seen, block) in dataplane.requests_seen.iter_mut().zip(dataplane.status.blocks()) {
            *seen = block.requests(*seen, |addr| grew |= !addr.is_multicast() && self.asked.insert(addr));
        }
        if grew {
            self.keep_neighbours().await;
        }
    }

    pub(super) async fn keep_neighbours(&mut self) {
        let on_link = |addr: &&Addr| self.is_on_link(**addr);
        let wanted: BTreeSet<Addr> =
            self.next_hops.iter().chain(self.asked.known.iter().filter(on_link)).copied().collect();
        if self.node.keep_next_hops(self.uplink.index, &wanted).await {
            self.read_neighbours().await;
        }
    }

    /// A worker asks only for these; anything else would be a claim of a confused dataplane.
    fn is_on_link(&self, addr: Addr) -> bool {
        self.state.local().kernel_routes.iter().any(|route| route.prefix.contains(addr))
    }
}

/// One route a prefix, the one with the lowest metric.
fn best_routes(routes: Vec<Forwarding>) -> Vec<KernelRoute> {
    let mut best: BTreeMap<_, (u32, Option<Addr>)> = BTreeMap::new();
    for route in routes.into_iter().filter(|route| !is_local_to_link(route.to.addr())) {
        let found = (route.metric, route.gateway);
        let kept = best.entry(route.to).or_insert(found);
        if found.0 < kept.0 {
            *kept = found;
        }
    }
    best.into_iter().map(|(prefix, (_, via))| KernelRoute { prefix, via }).collect()
}

/// fe80::/10 and ff00::/8 mean something else on each link.
fn is_local_to_link(addr: Addr) -> bool {
    let [first, second, ..] = addr.v6_octets();
    addr.is_multicast() || !addr.is_v4() && first == 0xfe && second & 0xc0 == 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_route_with_the_lowest_metric_counts() {
        let route = |metric, via: &str| Forwarding {
            to: "0.0.0.0/0".parse().unwrap(),
            gateway: Some(via.parse().unwrap()),
            device: 1,
            metric,
        };
        let best = best_routes(vec![route(100, "10.0.0.1"), route(50, "10.0.0.2"), route(60, "10.0.0.3")]);
        assert_eq!(best.len(), 1);
        assert_eq!(best[0].via, Some("10.0.0.2".parse().unwrap()));
    }

    #[test]
    fn a_scan_of_the_link_pushes_out_the_oldest_only() {
        let mut asked = Asked::default();
        let addr = |i: u32| Addr::v4((0x0a00_0000 + i).to_be_bytes());
        assert!(asked.insert(addr(0)) && !asked.insert(addr(0)));
        (1..=ASKED_MAX as u32).for_each(|i| assert!(asked.insert(addr(i))));
        assert_eq!(asked.known.len(), ASKED_MAX);
        assert!(asked.insert(addr(0)), "the oldest was forgotten");
    }
}
