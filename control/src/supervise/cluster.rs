//! Objects into the state, and what of them concerns this node itself: its addresses, its pod ranges, the ranges that are
//! claimed and routed.

use super::Supervisor;
use crate::claim::ClaimConfig;
use crate::encapsulation;
use crate::ipam::{GATEWAY_MAC, HOST_MAC, PodRange};
use crate::listing::SourceView;
use crate::log;
use crate::object::{Kind, Object, ObjectChange};
use crate::source::{Reach, Update};
use crate::state::{Local, State, Uplink};
use crate::sys;
use std::collections::BTreeSet;
use tables::message::InterfaceKind;
use tables::node::family;
use tables::{Addr, Prefix};

/// RFC 8200, section 5.
const IPV6_MTU_MIN: u32 = 1280;

/// What is read leaves so much behind that it is worth giving back.
const CHANGES_MANY: usize = 500;

/// Where objects come from, and whether they do.
#[derive(Default)]
pub struct Following {
    pub name: String,
    pub reach: Option<Reach>,
    /// Changes since memory was last given back, and as many as there were a tick ago.
    changes: usize,
    before: usize,
}

impl Following {
    pub fn of(name: &str) -> Following {
        Following { name: name.to_owned(), ..Following::default() }
    }
}

impl Supervisor {
    pub(super) async fn take_objects(&mut self, update: Update) {
        self.addresses.term = update.term;
        self.take_file_problems(update.problems);
        self.take_reach(update.reach);
        self.following.changes += update.changes.len();
        let nodes = update.changes.iter().any(|change| concerns_nodes(change, &self.state));
        for change in update.changes {
            self.state.apply(change);
        }
        update.statuses.into_iter().for_each(|status| self.state.set_status(status));
        // Half of the nodes must not take from the other half what an earlier process gave them.
        if !update.is_complete {
            return;
        }
        self.assign_addresses();
        let first = !self.state.is_complete();
        if nodes || first {
            self.configure_node().await;
            self.refresh_wanted();
        }
        if first {
            self.state.set_complete();
            log(format_args!("read all objects of {}", self.following.name));
        }
    }

    /// Every second: once it is quiet after much.
    pub(super) fn give_memory_back(&mut self) {
        let Following { changes, before, .. } = &mut self.following;
        if *changes >= CHANGES_MANY && changes == before && !self.state.has_changes() {
            *changes = 0;
            sys::trim_heap();
        }
        *before = *changes;
    }

    fn take_reach(&mut self, reach: Reach) {
        let sentence = match &reach {
            Reach::Failing { why, .. } => {
                let name = &self.following.name;
                Err(format!("objects are not followed: {name}: {why}; what was read last stays in force"))
            }
            _ => Ok(()),
        };
        self.note("source", sentence);
        self.following.reach = Some(reach);
    }

    pub(super) fn source_view(&self) -> SourceView {
        let (state, since) = match &self.following.reach {
            None => ("reading", None),
            Some(Reach::Reading { since }) => ("reading", Some(since)),
            Some(Reach::Connected { since }) => ("connected", Some(since)),
            Some(Reach::Failing { since, .. }) => ("failing", Some(since)),
        };
        let since_s = since.map_or(0, |since| since.elapsed().as_secs());
        SourceView { name: self.following.name.clone(), state: state.to_owned(), since_s }
    }

    fn take_file_problems(&mut self, now: Vec<String>) {
        for sentence in now.iter().filter(|sentence| !self.file_problems.contains(sentence)) {
            log(format_args!("{sentence}"));
        }
        self.file_problems = now;
    }

    /// The node's own objects say its addresses; all nodes' say which ranges are pods'.
    async fn configure_node(&mut self) {
        let Some(node) = self.state.node(&self.args.node) else {
            let sentence =
                format!("there is no Node object {:?}: pods get no addresses until it appears", self.args.node);
            return self.set_problem("node", sentence);
        };
        let (pod_cidrs, addrs) = (node.pod_cidrs.clone(), node.addrs.clone());
        self.clear_problem("node");
        if let Err(error) = self.store.set_ranges(&pod_cidrs) {
            self.set_problem("ipam", error);
        }
        let cidrs = self.claimed_ranges();
        let claimed =
            self.claim.set_config(self.claim_config(&addrs)).and_then(|()| self.claim.set_ranges(cidrs.clone()));
        self.note("claim-ranges", claimed);
        let cidrs: Vec<Prefix> = cidrs.into_iter().collect();
        let ranges = self.store.ipam().ranges().to_vec();
        let configured = self.node.configure(&ranges, &cidrs).await;
        self.note("node-routes", configured);
        self.fit_mtu().await;
        self.refresh_local();
    }

    pub(super) fn claim_config(&self, addrs: &[Addr]) -> ClaimConfig {
        let tunnel = (self.args.encapsulation, self.args.tunnel_port());
        let station = (self.uplink.mac, self.uplink.vlan);
        let config = ClaimConfig::new(addrs, station, tunnel, self.args.direct_port(), self.args.snat_ports.clone());
        let uplink = &self.uplink;
        // What comes by a member that does not send either is a copy of what the others got: the kernel lets it fall.
        let receiving = uplink.members.iter().map(|member| member.sends.then_some(member.index));
        if uplink.bond.is_some() { config.with_members(uplink.queues, receiving) } else { config }
    }

    /// The MTU of what is attached from now on: what the uplink carries, less the largest outer headers that any other
    /// node's tunnel needs.
    pub(super) fn pod_mtu(&self) -> u32 {
        let own = self.state.node(&self.args.node).map_or(&[][..], |node| &node.addrs);
        let others = self.state.nodes.values().filter(|node| node.name != self.args.node);
        let mut peers = others.filter_map(|node| encapsulation::peer(own, &node.addrs));
        let only_v6 = !own.is_empty() && !own.iter().any(|addr| addr.is_v4());
        let outer_is_v4 = !only_v6 && peers.all(|peer| peer.is_v4());
        self.uplink_mtu().saturating_sub(self.args.encapsulation.overhead(outer_is_v4))
    }

    /// The MTU of the uplink, of which no more is used than its sockets were bound for.
    fn uplink_mtu(&self) -> u32 {
        let info = self.dataplane.as_ref().and_then(|dataplane| dataplane.of_kind(InterfaceKind::Uplink));
        info.map_or(self.uplink.mtu, |info| self.uplink.mtu.min(info.spec.mtu as u32))
    }

    /// The host's own device follows; pods keep what they were made with.
    pub(super) async fn fit_mtu(&mut self) {
        let mtu = self.pod_mtu();
        let fitted = self.node.set_mtu(mtu).await.map_err(|error| error.to_string());
        let v6 = self.store.ipam().ranges().iter().any(|range| !range.prefix().is_v4());
        let enough = if v6 && mtu < IPV6_MTU_MIN {
            let name = &self.uplink.name;
            Err(format!("pods get an MTU of {mtu}, and IPv6 needs {IPV6_MTU_MIN}: raise that of {name}"))
        } else {
            Ok(())
        };
        self.note("mtu", fitted.and(enough));
        let (name, now, used) = (&self.uplink.name, self.uplink.mtu, self.uplink_mtu());
        let all = (now == used).then_some(());
        let raised = all
            .ok_or_else(|| format!("{name} has an MTU of {now} now: restart both processes to use more than {used}"));
        self.note("uplink-mtu", raised);
    }

    pub(super) fn note<E: std::fmt::Display>(&mut self, about: &str, outcome: Result<(), E>) {
        match outcome {
            Ok(()) => self.clear_problem(about),
            Err(error) => self.set_problem(about, error),
        }
    }

    /// Pod and service ranges of the whole cluster.
    fn claimed_ranges(&self) -> BTreeSet<Prefix> {
        let nodes = self.state.nodes.values().flat_map(|node| &node.pod_cidrs);
        nodes.chain(&self.args.cluster_cidrs).chain(&self.args.service_cidrs).copied().collect()
    }

    /// Tells the state what the node, the dataplane and the attachments are now.
    pub(super) fn refresh_local(&mut self) {
        let ranges = self.store.ipam().ranges().to_vec();
        let by_family = |which: fn(&PodRange) -> Addr| by_family(&ranges, which);
        let interface = |kind| self.dataplane.as_ref().and_then(|dataplane| dataplane.of_kind(kind));
        let host = interface(InterfaceKind::Host);
        let uplink = interface(InterfaceKind::Uplink);
        let old = self.state.local();
        let local = Local {
            node: self.args.node.clone(),
            addrs: self.state.node(&self.args.node).map_or_else(Vec::new, |node| node.addrs.clone()),
            node_addrs: self.node_addrs.clone(),
            services: self.args.service_options(),
            snat_ports: Some(self.args.snat_ports.clone()),
            taken_ports: self.taken_ports.clone(),
            gateway: by_family(PodRange::gateway),
            host: by_family(PodRange::host),
            snat: by_family(PodRange::snat),
            gateway_mac: GATEWAY_MAC,
            host_mac: HOST_MAC,
            vni: self.args.vni,
            encapsulation: self.args.encapsulation,
            tunnel_port: self.args.tunnel_port(),
            direct_port: self.args.direct_port(),
            uplink: Uplink {
                interface: uplink.map_or(old.uplink.interface, |info| info.id),
                mac: self.uplink.mac,
                mtu: self.uplink_mtu().min(u16::MAX as u32) as u16,
            },
            host_interface: host.map_or(old.host_interface, |info| info.id),
            host_owner: host.map_or(old.host_owner, |info| info.owner),
            workers: self.dataplane.as_ref().map_or(old.workers, |dataplane| dataplane.workers),
            cluster_cidrs: self.args.cluster_cidrs.clone(),
            service_cidrs: self.args.service_cidrs.clone(),
            endpoints: self.local_endpoints(),
            neighbours: old.neighbours.clone(),
            kernel_routes: old.kernel_routes.clone(),
        };
        self.state.set_local(local);
    }
}

fn by_family(ranges: &[PodRange], which: fn(&PodRange) -> Addr) -> [Addr; 2] {
    let mut addrs = [Addr::UNSPECIFIED; 2];
    for addr in ranges.iter().map(which) {
        addrs[family(addr)] = addr;
    }
    addrs
}

/// A node that only says again what is known concerns nobody: its kubelet does so every few minutes.
fn concerns_nodes(change: &ObjectChange, state: &State) -> bool {
    match change {
        ObjectChange::Put(Object::Node(node)) => state.node(&node.name) != Some(node),
        ObjectChange::Put(_) => false,
        ObjectChange::Delete(key) => key.kind == Kind::Node,
    }
}
