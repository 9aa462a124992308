//! Listings: what this process and the dataplane know, as rows for people and programs. It must not change anything.

use super::Supervisor;
use super::publish::acknowledged;
use super::runtime::now_ms;
use super::session::Dataplane;
use crate::attachment::Attachment;
use crate::explain::{endpoint_text, kind_name};
use crate::listing::*;
use crate::object::KINDS;
use crate::object::{balancing, forwarding};
use tables::counters::{DropReason, InterfaceCounter, WorkerCounter};
use tables::endpoint::FLAG_POLICY_IN_FORCE;
use tables::limits::POLICIES_MAX;
use tables::message::{InterfaceInfo, InterfaceKind, XdpMode};
use tables::status::PolicyFlows;

fn mode_name(mode: XdpMode) -> String {
    match mode {
        XdpMode::ZeroCopy => "zero-copy",
        XdpMode::Copy => "copy",
    }
    .to_owned()
}

impl Dataplane {
    fn count(&self, interface: u32, counter: InterfaceCounter) -> u64 {
        self.status.blocks().map(|block| block.interface(interface as usize, counter)).sum()
    }

    pub fn drops(&self, reason: DropReason) -> u64 {
        self.status.blocks().map(|block| block.drops(reason)).sum()
    }

    pub fn policy_drops(&self, policy: u32) -> u64 {
        self.status.blocks().map(|block| block.policy_drops(policy as usize)).sum()
    }

    pub fn policy_flows(&self, what: PolicyFlows, policy: u32) -> u64 {
        self.status.blocks().map(|block| block.policy_flows(what, policy as usize)).sum()
    }

    pub fn workers(&self) -> Vec<WorkerView> {
        (0..self.status.workers()).map(|id| self.worker(id)).collect()
    }

    fn worker(&self, id: usize) -> WorkerView {
        use WorkerCounter::*;
        let block = self.status.block(id);
        WorkerView {
            id: id as u16,
            generation: block.get(Generation),
            asleep: block.get(Asleep) != 0,
            busy_ratio: block.runtime().busy_ratios(now_ms())[0],
            shares_core: block.get(SharesCore) != 0,
            handoffs_out: block.get(HandoffsOut),
            handoffs_in: block.get(HandoffsIn),
            packets: block.get(Packets),
            flows: block.get(Flows),
            flows_limit: block.get(FlowsLimit),
        }
    }
}

impl Supervisor {
    pub(super) fn status_view(&self) -> StatusView {
        let dataplane = self.dataplane.as_ref();
        let names = KINDS.iter().map(|kind| kind.name().to_owned());
        StatusView {
            node: self.args.node.clone(),
            dataplane: if dataplane.is_some() { "connected" } else { "gone" }.to_owned(),
            generation: self.publisher.generation(),
            source: self.source_view(),
            acknowledged: dataplane.map_or(0, |dataplane| acknowledged(&self.publisher, &dataplane.status)),
            polling: dataplane.map(|dataplane| dataplane.polling.clone()),
            uplink: self.uplink_view(),
            workers: dataplane.map_or_else(Vec::new, Dataplane::workers),
            objects: names.zip(self.state.counts()).collect(),
            tables: self.fill(),
            pods: self.store.iter().count(),
            pod_ranges: self.store.ipam().ranges().iter().map(|range| range.prefix().to_string()).collect(),
            problems: self.all_problems(),
        }
    }

    pub(super) fn fill(&self) -> Vec<FillView> {
        let view = |fill: crate::compile::Fill| FillView {
            table: fill.table.to_owned(),
            used: fill.used as u64,
            limit: fill.limit as u64,
        };
        self.compiler.fill().into_iter().map(view).collect()
    }

    fn all_problems(&self) -> Vec<String> {
        let gone = (self.dataplane.is_none() && !self.problems.contains_key("dataplane")).then(|| {
            let socket = self.args.dataplane_socket();
            format!("no dataplane answers at {}: start fairway-dataplane with --socket there", socket.display())
        });
        let others = self.problems.values().chain(&self.object_problems).chain(&self.file_problems).cloned();
        gone.into_iter().chain(others).chain(self.address_problems()).collect()
    }

    fn uplink_view(&self) -> UplinkView {
        let info = self.dataplane.as_ref().and_then(|dataplane| dataplane.of_kind(InterfaceKind::Uplink));
        UplinkView {
            name: self.uplink.name.clone(),
            mac: self.uplink.mac,
            mtu: self.uplink.mtu,
            queues: self.uplink.queues * self.uplink.members.len() as u32,
            mode: info.and_then(|info| info.mode).map(mode_name),
            xdp: self.claim.mode().map(|mode| mode.name().to_owned()),
            bond: self.uplink.bond.map(|_| self.uplink.bond_line()),
        }
    }

    pub(super) fn interface_views(&self) -> Vec<InterfaceView> {
        let Some(dataplane) = &self.dataplane else { return Vec::new() };
        let mut views: Vec<_> =
            dataplane.interfaces.values().map(|info| self.interface_view(dataplane, info)).collect();
        views.sort_by_key(|view| view.id);
        views
    }

    fn interface_view(&self, dataplane: &Dataplane, info: &InterfaceInfo) -> InterfaceView {
        let spec = &info.spec;
        let count = |counter| dataplane.count(info.id, counter);
        InterfaceView {
            name: spec.name.clone(),
            kind: kind_name(spec.kind).to_owned(),
            id: info.id,
            owner: info.owner,
            mode: info.mode.map(mode_name),
            mac: spec.mac,
            mtu: spec.mtu,
            pod: self.store.get(&spec.name).map(|attachment| attachment.pod_id().to_string()),
            rx_packets: count(InterfaceCounter::RxPackets),
            tx_packets: count(InterfaceCounter::TxPackets),
            rx_bytes: count(InterfaceCounter::RxBytes),
            tx_bytes: count(InterfaceCounter::TxBytes),
        }
    }

    pub(super) fn endpoint_views(&self) -> Vec<EndpointView> {
        let mut views: Vec<_> = self.store.iter().map(|attachment| self.endpoint_view(attachment)).collect();
        views.sort_by(|a, b| (&a.namespace, &a.name, &a.ifname).cmp(&(&b.namespace, &b.name, &b.ifname)));
        views
    }

    fn endpoint_view(&self, attachment: &Attachment) -> EndpointView {
        let key = attachment.key();
        let served = self.dataplane.as_ref().and_then(|dataplane| dataplane.interfaces.get(&key));
        let rows = self.compiler.endpoint_rows(&key);
        let first = rows.first().map(|(_, row)| *row);
        EndpointView {
            namespace: attachment.namespace.clone(),
            name: attachment.pod.clone(),
            addrs: attachment.addrs.clone(),
            mac: attachment.mac,
            container: attachment.container.clone(),
            ifname: attachment.ifname.clone(),
            interface: served.map(|info| info.id),
            owner: served.map(|info| info.owner),
            identity: first.map(|row| row.identity),
            policy_set: self.compiler.policy_set_of(&key),
            ready: first.is_some_and(|row| row.flags & FLAG_POLICY_IN_FORCE != 0),
        }
    }

    pub(super) fn drop_views(&self) -> Vec<DropView> {
        let Some(dataplane) = &self.dataplane else { return Vec::new() };
        let view = |reason: DropReason, count, policy| DropView {
            reason: reason.name().to_owned(),
            sentence: reason.sentence().to_owned(),
            count,
            policy,
        };
        let totals = DropReason::ALL.iter().map(|&reason| view(reason, dataplane.drops(reason), None));
        let policies = self.policy_drops(dataplane).into_iter().map(|(name, is_egress, count)| {
            let reason = if is_egress { DropReason::PolicyEgress } else { DropReason::PolicyIngress };
            view(reason, count, Some(name))
        });
        totals.chain(policies).filter(|view| view.count > 0).collect()
    }

    /// Policies with drops: name, whether it isolates egress alone, count. A policy that isolates both ways counts under
    /// ingress, where most of its drops are.
    fn policy_drops(&self, dataplane: &Dataplane) -> Vec<(String, bool, u64)> {
        let egress_only = |types: &[&str]| types == ["Egress"];
        let mut found: Vec<_> = (self.compiler.policies(&self.state).into_iter())
            .filter_map(|policy| {
                let count = dataplane.policy_drops(policy.index?);
                (count > 0).then(|| (policy.shown(), egress_only(&policy.types), count))
            })
            .collect();
        found.sort();
        found
    }

    pub(super) fn service_views(&self) -> Vec<ServiceView> {
        let view = |service: crate::compile::ServiceListing| ServiceView {
            namespace: service.namespace,
            name: service.name,
            port_name: service.port_name,
            address: service.addr,
            algorithm: balancing::name(service.algorithm).to_owned(),
            forwarding: service.forwarding.map_or("-", forwarding::name).to_owned(),
            port: service.port,
            protocol: service.protocol.to_string(),
            affinity_s: service.affinity_s,
            backends: service.backends.iter().map(|backend| endpoint_text(backend.addr, backend.port)).collect(),
            id: service.id,
            loads: Vec::new(),
        };
        self.compiler.services().into_iter().map(view).collect()
    }

    pub(super) fn policy_views(&self) -> Vec<PolicyView> {
        let drops = |index: Option<u32>| match (&self.dataplane, index) {
            (Some(dataplane), Some(index)) if (index as usize) < POLICIES_MAX => dataplane.policy_drops(index),
            _ => 0,
        };
        let flows = |what: PolicyFlows, index: Option<u32>| match (&self.dataplane, index) {
            (Some(dataplane), Some(index)) => dataplane.policy_flows(what, index),
            _ => 0,
        };
        let view = |policy: crate::compile::PolicyListing| PolicyView {
            kind: policy.kind.name().to_owned(),
            types: policy.types.iter().map(|direction| (*direction).to_owned()).collect(),
            local_endpoints: policy.local_endpoints,
            drops: drops(policy.index),
            flows: flows(PolicyFlows::Allowed, policy.index),
            audited: flows(PolicyFlows::Audited, policy.index),
            namespace: policy.namespace,
            name: policy.name,
        };
        self.compiler.policies(&self.state).into_iter().map(view).collect()
    }

    pub(super) fn route_views(&self) -> Vec<RouteView> {
        let neighbours = &self.state.local().neighbours;
        let view = |route: crate::compile::RouteListing| RouteView {
            prefix: route.prefix.to_string(),
            kind: route.kind,
            peer: route.peer,
            next_hop: route.next_hop,
            next_hop_mac: route.next_hop.and_then(|addr| neighbours.get(&addr)).copied(),
            masquerade: route.masquerade,
        };
        self.compiler.routes().into_iter().map(view).collect()
    }
}
