//! A burst through the path: parse all, look up all, then act on each: classify if it must be, rewrite, send or hand over.
//! Passes, not callbacks: packet bytes are touched when parsed and when rewritten, all between works on [`Item`]s.

use crate::classify::{self, Context, Origin};
use crate::flow::{FlowId, FlowTable, Way};
use crate::handoff::{Handed, Stage};
use crate::io::pool::FramePool;
use crate::overlay;
use crate::packet::{Burst, Packet};
use crate::parse::{self, Kind, Meta, Parsed, parse};
use crate::punt;
use crate::rewrite::{self, Translation};
use crate::worker::held::Held;
use crate::worker::interfaces::{Interfaces, discard};
use crate::worker::tunnels::Tunnels;
use crate::worker::uplink::NextHop;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tables::Addr;
use tables::counters::{DropReason, WorkerCounter};
use tables::flow::{FLAG_TRANSLATED, FlowRecord, Hop, HopKind, Tuple};
use tables::layout::Table;
use tables::message::InterfaceKind;
use tables::node::{NodeRecord, family};
use tables::owner::{SnatPorts, Worker, owner};
use tables::publish::Reader;
use tables::route::RouteRecord;
use tables::scope::ScopeCounters;
use tables::status::{Block, Status};

/// What is known of a packet on its way; the packet itself stands beside it.
pub struct Item {
    pub meta: Meta,
    /// Of the tuple.
    pub hash: u64,
    pub way: Way,
    pub origin: Origin,
    /// The flow that it most likely belongs to.
    pub likely: Option<FlowId>,
}

impl Item {
    /// The flow's tuple by its local end.
    #[inline(always)]
    pub fn tuple(&self) -> Tuple {
        if self.way == Way::Out { self.meta.from_local() } else { self.meta.from_remote() }
    }

    /// Whether all of the packet's bytes lie in its head frame.
    pub fn is_whole(&self, packet: &Packet) -> bool {
        !packet.is_chained() && self.meta.end as usize <= packet.head_size()
    }
}

/// Packets that wait for the next pass, and what is known of each.
#[derive(Default)]
pub(super) struct Batch {
    packets: Vec<Packet>,
    items: Vec<Item>,
}

/// Everything one worker forwards with. Owned by its thread alone.
pub struct Path {
    pub id: Worker,
    pub snat: SnatPorts,
    pub flows: FlowTable,
    pub scopes: ScopeCounters,
    pub pool: FramePool,
    pub reader: Option<Box<Reader>>,
    pub interfaces: Interfaces,
    pub status: Status,
    pub held: Held,
    /// Rung after control was asked for a neighbour.
    pub bell: Option<Arc<OwnedFd>>,
    pub(super) asked: bool,
    /// A pipe to the main thread: ids of interfaces whose devices died, four bytes each.
    pub obituaries: Option<Arc<OwnedFd>>,
    /// Makes the choice of backends unpredictable from outside.
    pub seed: u64,
    pub now_ms: u32,
    pub(super) tunnels: Tunnels,
    pub(super) batch: Batch,
    pub(super) segments: Vec<(Packet, Meta)>,
}

impl Path {
    pub fn new(
        id: Worker,
        snat: SnatPorts,
        flows: FlowTable,
        pool: FramePool,
        interfaces: Interfaces,
        status: Status,
    ) -> Path {
        Path {
            id,
            snat,
            flows,
            scopes: ScopeCounters::default(),
            pool,
            reader: None,
            interfaces,
            status,
            held: Held::default(),
            bell: None,
            asked: false,
            obituaries: None,
            seed: 0,
            now_ms: 0,
            tunnels: Tunnels::new(),
            batch: Batch::default(),
            segments: Vec::with_capacity(64),
        }
    }

    #[inline(always)]
    pub(super) fn status(&self) -> Block<'_> {
        self.status.block(self.id as usize)
    }

    /// Forwards what an interface received.
    pub fn forward(&mut self, burst: &mut Burst) {
        self.with_tables(|path, context| {
            burst.iter().for_each(|packet| path.pool.memory().prefetch_head(packet));
            for packet in burst.drain() {
                path.look(context, packet, Stage::Arrived);
            }
            path.finish(context);
        });
        burst.drain().for_each(|packet| self.drop_packet(packet, DropReason::NoTables));
    }

    /// Forwards what another worker handed over, or what waited.
    pub fn forward_handed(&mut self, handed: impl Iterator<Item = Handed>) {
        let mut handed = handed;
        self.with_tables(|path, context| {
            for Handed { packet, stage } in handed.by_ref() {
                path.look(context, packet, stage);
            }
            path.finish(context);
        });
        handed.for_each(|handed| self.drop_packet(handed.packet, DropReason::NoTables));
    }

    /// Runs with the pinned tables, if there are any.
    fn with_tables(&mut self, run: impl FnOnce(&mut Path, &Context<'_>)) {
        let Some(reader) = self.reader.take() else { return };
        let node: NodeRecord = reader.view().row(Table::Node, 0);
        if node.ready != 0 {
            run(self, &Context { view: reader.view(), node: &node });
        }
        self.reader = Some(reader);
    }

    /// First pass: parse, decapsulate, find the owner.
    #[inline]
    fn look(&mut self, context: &Context<'_>, packet: Packet, stage: Stage) {
        match stage {
            Stage::Send { interface } => {
                self.status().count(WorkerCounter::HandoffsIn, 1);
                self.send(interface, packet);
            }
            Stage::Back(origin) => self.look_back(context, packet, origin),
            Stage::Arrived => match self.interfaces.get(packet.interface).map(|slot| slot.kind) {
                Some(InterfaceKind::Uplink) => self.look_uplink(context, packet),
                Some(InterfaceKind::Pod | InterfaceKind::Host) => self.look_local(context, packet),
                None => self.drop_packet(packet, DropReason::InterfaceGone),
            },
        }
    }

    /// From a pod or the host: its own addresses only, then its half of the flow.
    fn look_local(&mut self, context: &Context<'_>, mut packet: Packet) {
        let meta = match self.parse(&mut packet) {
            Parsed::Ip(meta) => meta,
            Parsed::Arp => return self.arp(context, packet),
            Parsed::Drop(reason) => return self.drop_packet(packet, reason),
        };
        let Some(slot) = self.interfaces.get(packet.interface) else { return };
        if slot.kind == InterfaceKind::Pod {
            if meta.src_mac != slot.mac {
                return self.drop_packet(packet, DropReason::SpoofedMac);
            }
            if !slot.addrs.contains(&meta.src) {
                let noise = meta.src.is_unspecified() || meta.dst.is_multicast();
                let reason = if noise { DropReason::LinkLocal } else { DropReason::SpoofedAddress };
                return self.drop_packet(packet, reason);
            }
        }
        self.queue(packet, meta, Way::Out, Origin::Local);
    }

    /// From the uplink: out of a tunnel, or as it is.
    fn look_uplink(&mut self, context: &Context<'_>, mut packet: Packet) {
        let meta = match self.parse(&mut packet) {
            Parsed::Ip(meta) => meta,
            Parsed::Arp => return self.drop_packet(packet, DropReason::EtherType),
            Parsed::Drop(reason) => return self.drop_packet(packet, reason),
        };
        if !parse::is_tunnel(&meta, &context.node.node, context.node.tunnel_port) {
            return self.queue_at_owner(context, packet, meta, Origin::Uplink);
        }
        let vxlan = meta.l4 as usize + 8;
        match overlay::vni(&self.pool.memory().head(&packet)[vxlan..]) {
            Some(vni) if vni == context.node.vni => {}
            Some(_) => return self.drop_packet(packet, DropReason::TunnelNetwork),
            None => return self.drop_packet(packet, DropReason::Malformed),
        }
        if !packet.pop_front(vxlan + overlay::VXLAN_BYTES) {
            return self.drop_packet(packet, DropReason::Truncated);
        }
        match self.parse(&mut packet) {
            Parsed::Ip(inner) => self.queue_at_owner(context, packet, inner, Origin::Tunnel(meta.src)),
            Parsed::Arp => self.drop_packet(packet, DropReason::EtherType),
            Parsed::Drop(reason) => self.drop_packet(packet, reason),
        }
    }

    fn look_back(&mut self, _: &Context<'_>, mut packet: Packet, origin: Origin) {
        self.status().count(WorkerCounter::HandoffsIn, 1);
        match self.parse(&mut packet) {
            Parsed::Ip(meta) => self.queue(packet, meta, Way::Back, origin),
            Parsed::Arp => self.drop_packet(packet, DropReason::EtherType),
            Parsed::Drop(reason) => self.drop_packet(packet, reason),
        }
    }

    /// Keeps a packet that this worker owns, hands over one that it does not.
    fn queue_at_owner(&mut self, context: &Context<'_>, packet: Packet, meta: Meta, origin: Origin) {
        let workers = self.status.workers();
        let owned_by = if workers == 1 { None } else { self.owner_of(context, &packet, &meta) };
        match owned_by.filter(|&worker| worker != self.id && (worker as usize) < workers) {
            Some(worker) => {
                let handed = Handed { packet, stage: Stage::Back(origin) };
                let block = self.status.block(self.id as usize);
                self.interfaces.hand(worker, handed, &mut self.pool, block);
            }
            None => self.queue(packet, meta, Way::Back, origin),
        }
    }

    fn owner_of(&self, context: &Context<'_>, packet: &Packet, meta: &Meta) -> Option<Worker> {
        if meta.kind == Kind::IcmpError {
            let quoted = parse::quoted(self.pool.memory().head(packet), meta)?;
            return owner(&context.view, &self.snat, &quoted.tuple);
        }
        owner(&context.view, &self.snat, &meta.from_remote())
    }

    #[inline(always)]
    fn parse(&mut self, packet: &mut Packet) -> Parsed {
        let total = packet.total_size();
        let parsed = parse(self.pool.memory().head(packet), total);
        if let Parsed::Ip(meta) = &parsed {
            packet.truncate(meta.end as usize);
            if !rewrite::can_complete(packet.checksum, meta) {
                return Parsed::Drop(DropReason::BadChecksum);
            }
        }
        parsed
    }

    /// Keeps a packet for the next passes.
    #[inline(always)]
    fn queue(&mut self, packet: Packet, meta: Meta, way: Way, origin: Origin) {
        let mut item = Item { meta, hash: 0, way, origin, likely: None };
        item.hash = self.flows.hash(&item.tuple());
        self.flows.expect(item.hash);
        self.batch.packets.push(packet);
        self.batch.items.push(item);
    }

    /// Second and third pass, and again for packets between local ends, whose second half of a flow comes then.
    fn finish(&mut self, context: &Context<'_>) {
        let mut batch = std::mem::take(&mut self.batch);
        while !batch.packets.is_empty() {
            for item in &mut batch.items {
                item.likely = self.flows.likely(item.hash);
            }
            for (packet, item) in batch.packets.drain(..).zip(&mut batch.items) {
                self.act(context, packet, item);
            }
            batch.items.clear();
            std::mem::swap(&mut batch, &mut self.batch);
        }
        if batch.items.capacity() > self.batch.items.capacity() {
            self.batch = batch;
        }
    }

    /// Takes one packet to its end, or to the other half of its flow.
    #[inline(always)]
    fn act(&mut self, context: &Context<'_>, packet: Packet, item: &mut Item) {
        if item.meta.kind == Kind::IcmpError {
            return self.icmp_error(context, packet, item);
        }
        // An earlier packet of the burst may have opened, closed or replaced the flow.
        let found = self.flows.confirm(item.likely, &item.tuple(), item.way, item.hash);
        let Some((id, packet)) = self.validate(context, packet, item, found) else { return };
        self.apply(context, packet, item, id);
    }

    /// Applies a flow's decision to a packet.
    #[inline(always)]
    fn apply(&mut self, context: &Context<'_>, mut packet: Packet, item: &mut Item, id: FlowId) {
        let record = self.flows.record(id);
        if item.way == Way::Back && item.origin != Origin::Local {
            let route: RouteRecord = context.view.row(Table::Route, record.route as usize);
            if let Some(reason) = classify::route::forged(item.origin, &route) {
                return self.drop_packet(packet, reason);
            }
        }
        let hop = if item.way == Way::Out { record.out } else { record.back };
        if hop.kind() == HopKind::Drop {
            return self.drop_by_flow(packet, item, id, &hop);
        }
        let next_hop = match self.next_hop(context, &hop) {
            Ok(next_hop) => next_hop,
            Err(addr) => return self.hold(packet, addr),
        };
        self.flows.note(id, item.way, item.meta.tcp_flags, self.now_ms);
        self.translate(&mut packet, item, id);
        if !self.count_hop(&mut packet, item) {
            return self.drop_packet(packet, DropReason::TtlExpired);
        }
        self.pass_on(context, packet, item, &hop, &next_hop);
    }

    /// Sends a finished packet where its hop says.
    #[inline(always)]
    pub(super) fn pass_on(
        &mut self,
        context: &Context<'_>,
        packet: Packet,
        item: &Item,
        hop: &Hop,
        next_hop: &NextHop,
    ) {
        match hop.kind() {
            HopKind::Interface => self.deliver(context, hop.target, packet),
            HopKind::Endpoint => self.judge_other_half(packet, item, hop.worker),
            HopKind::Tunnel | HopKind::Uplink => self.send_uplink(context, packet, item, next_hop),
            HopKind::None | HopKind::Drop | HopKind::Reject | HopKind::Punt => {
                self.drop_packet(packet, DropReason::NoRoute)
            }
        }
    }

    #[inline(always)]
    fn translate(&mut self, packet: &mut Packet, item: &mut Item, id: FlowId) {
        let record = self.flows.record(id);
        if record.flags & FLAG_TRANSLATED != 0 {
            let to = translation(item.way, record);
            let checksum = packet.checksum;
            rewrite::translate(self.pool.memory().head_mut(packet), &mut item.meta, &to, checksum);
        }
    }

    /// Takes one hop off, once for each node that a packet passes, where it enters. False: the time to live ran out.
    #[inline(always)]
    pub(super) fn count_hop(&mut self, packet: &mut Packet, item: &mut Item) -> bool {
        let entered = item.way == Way::Out || item.origin != Origin::Local;
        if !entered {
            return true;
        }
        if item.meta.ttl <= 1 {
            return false;
        }
        rewrite::decrement_ttl(self.pool.memory().head_mut(packet), &mut item.meta);
        true
    }

    /// To a pod or the host.
    #[inline(always)]
    fn deliver(&mut self, context: &Context<'_>, interface: u32, mut packet: Packet) {
        let Some(slot) = self.interfaces.get(interface) else {
            return self.drop_packet(packet, DropReason::InterfaceGone);
        };
        let mac = slot.mac;
        rewrite::set_macs(self.pool.memory().head_mut(&mut packet), context.node.gateway_mac, mac);
        self.send(interface, packet);
    }

    /// To another local end, whose own half of the flow is judged by its owner. No loop: towards a local end there is no
    /// further half.
    #[inline(always)]
    fn judge_other_half(&mut self, packet: Packet, item: &Item, worker: Worker) {
        if worker == self.id {
            return self.queue(packet, item.meta, Way::Back, Origin::Local);
        }
        let handed = Handed { packet, stage: Stage::Back(Origin::Local) };
        let block = self.status.block(self.id as usize);
        self.interfaces.hand(worker, handed, &mut self.pool, block);
    }

    pub(super) fn send(&mut self, interface: u32, packet: Packet) {
        let block = self.status.block(self.id as usize);
        self.interfaces.send(interface, packet, &mut self.pool, block);
    }

    pub(super) fn drop_packet(&mut self, packet: Packet, reason: DropReason) {
        discard(packet, reason, &mut self.pool, self.status.block(self.id as usize));
    }

    #[cold]
    fn drop_by_flow(&mut self, packet: Packet, item: &Item, id: FlowId, hop: &Hop) {
        // The answer to somebody whose neighbour is still being asked for.
        if hop.reason == DropReason::NeighbourUnknown as u8 && item.way == Way::Out {
            return self.hold(packet, self.flows.record(id).outside().remote);
        }
        let reason = DropReason::from_index(hop.reason as usize).unwrap_or(DropReason::NoRoute);
        self.count_policy(reason, hop.target);
        self.drop_packet(packet, reason);
    }

    pub(super) fn count_policy(&self, reason: DropReason, policy: u32) {
        if matches!(reason, DropReason::PolicyIngress | DropReason::PolicyEgress) {
            self.status().count_policy_drop(policy as usize, 1);
        }
    }

    fn arp(&mut self, context: &Context<'_>, mut packet: Packet) {
        let (gateway, mac) = (context.node.gateway[family(Addr::v4([0; 4]))], context.node.gateway_mac);
        let interface = packet.interface;
        if !punt::answer_arp(self.pool.memory().head_mut(&mut packet), gateway, mac) {
            return self.drop_packet(packet, DropReason::LinkLocal);
        }
        self.status().count(WorkerCounter::Punted, 1);
        self.send(interface, packet);
    }

    /// Tries again what waited for a neighbour.
    pub fn retry_held(&mut self) {
        for _ in 0..self.held.len() {
            let Some(packet) = self.held.take_oldest() else { return };
            self.forward_handed(std::iter::once(Handed { packet, stage: Stage::Arrived }));
        }
    }

    /// Drops what waited in vain.
    pub fn expire_held(&mut self) {
        while let Some(packet) = self.held.take_expired(self.now_ms) {
            self.drop_packet(packet, DropReason::NeighbourUnknown);
        }
    }
}

/// The addresses that a packet of this way shall bear.
fn translation(way: Way, record: &FlowRecord) -> Translation {
    match way {
        Way::Out => Translation::along(&record.outside()),
        Way::Back => Translation::along(&record.inside.reversed()),
    }
}
