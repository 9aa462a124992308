//! A burst through the path: parse all, look up all, then act on each: classify if it must be, rewrite, send or hand over.
//! Passes, not callbacks: packet bytes are touched when parsed and when rewritten, all between works on [`Queued`]s.

use crate::balance::turns::Turns;
use crate::classify::ahead::{Knowns, UNKNOWN};
use crate::classify::{self, Context, Origin};
use crate::flow::{FlowId, FlowTable, Way, note};
use crate::fragments::Fragments;
use crate::handoff::{HEADS_AHEAD, Stage};
use crate::io::pool::FramePool;
use crate::packet::{BURST_MAX, Burst, Packet};
use crate::parse::{Kind, Meta, tcp_flag};
use crate::punt;
use crate::punt::error::Cause;
use crate::rewrite::{self, Change};
use crate::worker::fragments::Waiting;
use crate::worker::held::Held;
use crate::worker::interfaces::{Interfaces, discard};
use crate::worker::item::{Headers, Item, Queue, Queued, Queues, To, tuple};
use crate::worker::limit::Limit;
use crate::worker::owners::Owners;
use crate::worker::plain::V4;
use crate::worker::renewals::Renewals;
use crate::worker::runtime::Runtime;
use crate::worker::tunnels::Tunnels;
use crate::worker::uplink::{NextHop, address, next_hop, room_in_front, too_big};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tables::counters::{DropReason, WorkStage, WorkerCounter};
use tables::flow::{FLAG_CLIENT, FLAG_TRANSLATED, FlowRecord, Hop, HopKind};
use tables::layout::Table;
use tables::node::{NodeRecord, family};
use tables::owner::{SnatPorts, Worker};
use tables::publish::Reader;
use tables::route::RouteRecord;
use tables::scope::ScopeCounters;
use tables::status::{Block, Status};
use tables::{Addr, Protocol};

/// Packets whose headers are fetched ahead. Few: frames lie at a stride of 2 KiB or more, so that the headers of a whole
/// burst drive each other out of the first-level cache.
pub(super) const AHEAD: usize = 6;

/// Records that are fetched into the first-level cache ahead: the second-level cache has been asked for all of the burst's.
const RECORDS_AHEAD: usize = 4;

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
    pub runtime: Runtime,
    pub held: Held,
    pub fragments: Fragments<Waiting>,
    /// Rung after control was asked for a neighbour.
    pub bell: Option<Arc<OwnedFd>>,
    pub(super) asked: bool,
    /// A pipe to the main thread: ids of interfaces whose devices died, four bytes each.
    pub obituaries: Option<Arc<OwnedFd>>,
    /// Makes the choice of backends unpredictable from outside.
    pub seed: u64,
    pub now_ms: u32,
    /// Of services by round robin.
    pub turns: Arc<Turns>,
    pub(super) tunnels: Tunnels,
    pub(super) owners: Owners,
    pub(super) renewals: Renewals,
    pub(super) error_limit: Limit,
    /// Where packets that waited stand while they are worked on.
    pub(super) spare: Burst,
    pub(super) queues: Queues,
    queue_done: Queue,
    /// Another worker handed the burst that passes.
    pub(super) is_handed: bool,
    /// What was parsed of each packet of a burst that is not plain.
    pub(super) metas: Box<[Meta; BURST_MAX]>,
    pub(super) knowns: Knowns,
    /// What a packet was cut into.
    pub(super) parts: Vec<(Packet, Meta)>,
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
            runtime: Runtime::new(),
            held: Held::default(),
            fragments: Fragments::default(),
            bell: None,
            asked: false,
            obituaries: None,
            seed: 0,
            now_ms: 0,
            turns: Arc::default(),
            tunnels: Tunnels::new(),
            owners: Owners::default(),
            renewals: Renewals::new(),
            error_limit: Limit::default(),
            spare: Burst::default(),
            queues: Queues::new(),
            queue_done: Queue::new(),
            is_handed: false,
            metas: Box::new([Meta::default(); BURST_MAX]),
            knowns: Box::new([UNKNOWN; BURST_MAX]),
            parts: Vec::with_capacity(64),
        }
    }

    #[inline(always)]
    pub(super) fn status(&self) -> Block<'_> {
        self.status.block(self.id as usize)
    }

    /// Forwards what an interface received.
    pub fn forward(&mut self, interface: u32, burst: &mut Burst) {
        self.with_tables(|path, context| {
            path.look_at_burst(context, interface, burst.places_mut());
            path.runtime.mark(WorkStage::Parse, burst.len());
            path.finish(context, burst);
            burst.clear();
        });
        burst.drain().for_each(|packet| self.drop_packet(packet, DropReason::NoTables));
    }

    /// Forwards what waited, as its interface received it.
    pub fn forward_held(&mut self, packet: Packet) {
        let (mut burst, interface) = (std::mem::replace(&mut self.spare, Burst::none()), packet.interface);
        let _ = burst.push(packet).map_err(|packet| self.drop_packet(packet, DropReason::NeighbourUnknown));
        self.forward(interface, &mut burst);
        self.spare = burst;
    }

    /// Runs with the pinned tables, if there are any.
    pub(super) fn with_tables(&mut self, run: impl FnOnce(&mut Path, &Context<'_>)) {
        let Some(reader) = self.reader.take() else { return };
        let node: NodeRecord = reader.view().row(Table::Node, 0);
        if node.ready != 0 {
            run(self, &Context::new(reader.view(), &node));
        }
        self.reader = Some(reader);
    }

    /// The further passes, and again for packets between local ends, whose second half of a flow comes then. Packets are
    /// changed in their places and moved a pass later: a processor is slow to read as a whole what was just written in
    /// parts.
    pub(super) fn finish(&mut self, context: &Context<'_>, burst: &mut Burst) {
        while !self.queues.here().is_empty() {
            let done = std::mem::take(&mut self.queue_done);
            let mut queue = std::mem::replace(self.queues.here(), done);
            let unknown = self.flows.look_up(&mut queue, |queued| &mut queued.asked);
            if unknown > 1 {
                self.expect_new(context, &queue);
            }
            self.runtime.mark(WorkStage::Lookup, queue.len());
            self.act_on_all(context, burst.places_mut(), &mut queue);
            if unknown > 1 {
                self.forget_known();
            }
            self.runtime.mark(WorkStage::Act, queue.len());
            if !self.send_whole(&queue, burst) {
                let places = burst.places_mut();
                queue.iter().for_each(|queued| self.send_queued(context, &mut places[queued.at as usize], queued));
            }
            self.runtime.mark(WorkStage::Send, queue.len());
            queue.clear();
            self.queue_done = queue;
        }
    }

    #[inline(always)]
    fn act_on_all(&mut self, context: &Context<'_>, places: &mut [Option<Packet>], queue: &mut [Queued]) {
        let heads_ahead = if self.is_handed { HEADS_AHEAD } else { 0 };
        queue.iter().take(heads_ahead).for_each(|ahead| self.expect_translated(places, ahead));
        let mut rest = queue;
        while let [queued, behind @ ..] = rest {
            if heads_ahead > 0
                && let Some(ahead) = behind.get(heads_ahead - 1)
            {
                self.expect_translated(places, ahead);
            }
            if let Some(ahead) = behind.get(RECORDS_AHEAD - 1) {
                self.flows.expect_soon(ahead.asked.likely);
            }
            let place = &mut places[queued.at as usize];
            if !(queued.headers == Headers::PlainV4 && self.pass_plainly::<V4>(context, place, queued)) {
                self.act_otherwise(context, place, queued);
            }
            rest = behind;
        }
    }

    /// As one call, so that the way of IPv4 is compiled as if there were no other.
    #[inline(never)]
    fn act_otherwise(&mut self, context: &Context<'_>, place: &mut Option<Packet>, queued: &mut Queued) {
        if !(queued.headers == Headers::PlainV6 && self.pass_plainly_v6(context, place, queued)) {
            self.act_any(context, place, queued);
        }
    }

    #[inline(never)]
    fn act_any(&mut self, context: &Context<'_>, place: &mut Option<Packet>, queued: &mut Queued) {
        let Some(mut item) = self.item(place, queued) else { return self.drop_from(place, DropReason::Malformed) };
        self.act_on(context, place, &mut item);
        self.keep(queued, &item);
    }

    #[inline(always)]
    fn act_on(&mut self, context: &Context<'_>, place: &mut Option<Packet>, item: &mut Item) {
        let meta = item.meta;
        if meta.protocol == Protocol::SCTP && self.must_be_whole(place, item) {
            return self.drop_from(place, DropReason::Fragment);
        }
        let is_direct = matches!(item.origin, Origin::Direct(_)) && meta.kind != Kind::IcmpError;
        if is_direct && !self.is_of_its_backend(place, item) {
            return;
        }
        self.act(context, place, item, &meta);
    }

    /// Sends a burst as it is, if all of it goes out of one interface. False: packet by packet.
    #[inline(always)]
    fn send_whole(&mut self, queue: &[Queued], burst: &mut Burst) -> bool {
        let Some(Queued { to: To::Interface(interface), .. }) = queue.first() else { return false };
        let goes = |queued: &Queued| matches!(queued.to, To::Interface(other) if other == *interface);
        if !self.queues.here().is_empty() || !queue.iter().all(goes) {
            return false;
        }
        if queue.len() < burst.len() {
            // The others have come to their end, here.
            let is_in_order = queue.is_sorted_by(|one, next| one.at < next.at);
            if !is_in_order || !self.interfaces.is_polled_here(*interface) {
                return false;
            }
            burst.close_ranks(queue.iter().map(|queued| queued.at as usize));
        }
        let block = self.status.block(self.id as usize);
        self.interfaces.stage_whole(*interface, burst, &mut self.pool, block)
    }

    #[inline(always)]
    fn send_queued(&mut self, context: &Context<'_>, place: &mut Option<Packet>, queued: &Queued) {
        match queued.to {
            To::Interface(interface) => {
                let Some(packet) = place.take() else { return };
                if let Err(packet) = self.interfaces.stage(interface, packet) {
                    self.send(interface, packet);
                }
            }
            To::Wire(hop) => {
                let item = self.item(place, queued);
                if let Some((packet, item)) = place.take().zip(item) {
                    self.fit_and_send(context, packet, &item, &hop);
                }
            }
            To::Nowhere | To::Addressed(_) => {}
        }
    }

    /// Does to one packet all that is to be done, or takes it to its end.
    #[inline(always)]
    fn act(&mut self, context: &Context<'_>, place: &mut Option<Packet>, item: &mut Item, meta: &Meta) {
        if meta.kind == Kind::IcmpError {
            return self.icmp_error(context, place, item);
        }
        // An earlier packet of the burst may have opened, closed or replaced the flow.
        let words = tuple(meta, item.way).words();
        let found = self.flows.confirm(item.likely, &words, item.way, item.hash);
        let Some(id) = self.validate(context, place, item, found) else { return };
        self.apply(context, place, item, meta, id);
    }

    /// Applies a flow's decision to a packet.
    #[inline(always)]
    fn apply(&mut self, context: &Context<'_>, place: &mut Option<Packet>, item: &mut Item, meta: &Meta, id: FlowId) {
        let record = self.flows.record_mut(id);
        let hop = record.hop(item.way == Way::Out);
        let kind = hop.kind();
        if !item.origin.is_here() {
            if item.way == Way::Out {
                if record.flags & FLAG_CLIENT == 0 {
                    return self.drop_from(place, DropReason::ForgedOutside);
                }
            } else if let Some(reason) = came_forged(context, record, item.origin) {
                return self.drop_from(place, reason);
            }
        }
        if !kind.forwards() {
            return self.end_by_flow(context, place, item, id, &hop);
        }
        let next_hop = match next_hop(&mut self.tunnels, context, &hop) {
            Ok(next_hop) => next_hop,
            Err(addr) => return self.hold(place, addr),
        };
        let memory = self.pool.memory();
        note(record, item.way, meta, || place.as_ref().map_or(&[], |packet| memory.head(packet)), self.now_ms);
        if item.enters && meta.ttl <= 1 {
            return self.drop_and_tell(context, place, item, (DropReason::TtlExpired, Cause::TimeExceeded));
        }
        if meta.tcp_flags & tcp_flag::SYN != 0 {
            let (out, flags) = (record.out, record.flags);
            self.clamp_mss(context, place, item, (&out, flags));
        }
        let record = self.flows.record(id);
        let change = (record.flags & FLAG_TRANSLATED != 0).then(|| Change::of_flow(record, item.way));
        if meta.kind == Kind::Other {
            self.status().count(WorkerCounter::PassedByAddress, 1);
        }
        self.pass_on(context, place, item, meta, (&hop, &next_hop), change.as_ref());
    }

    /// Writes all headers, and says where the packet goes. A hop is counted where it enters this node.
    #[inline(always)]
    pub(super) fn pass_on(
        &mut self,
        context: &Context<'_>,
        place: &mut Option<Packet>,
        item: &mut Item,
        meta: &Meta,
        (hop, next_hop): (&Hop, &NextHop),
        change: Option<&Change>,
    ) {
        let Some(packet) = place else { return };
        let checksum = packet.checksum;
        let front = room_in_front(context, packet, meta, next_hop);
        let leaves_late = front.is_none() && !matches!(next_hop, NextHop::Inside);
        // Lends what lies in memory anyway, and nothing that else stays in registers.
        if leaves_late && let Some(mtu) = too_big(context, packet, self.pool.memory(), &item.meta, *next_hop) {
            return self.drop_and_tell(context, place, item, (DropReason::TooBig, Cause::TooBig { mtu }));
        }
        if !packet.push_front(front.unwrap_or(0)) {
            return self.drop_from(place, DropReason::Oversized);
        }
        let total = packet.total_size();
        let bytes = self.pool.memory().head_mut(packet);
        rewrite::forward(&mut bytes[front.unwrap_or(0)..], meta, change, item.enters, checksum);
        match (hop.kind(), front) {
            (HopKind::Interface, _) => match self.interfaces.get(hop.target) {
                Some(slot) => {
                    rewrite::set_macs(bytes, context.node.gateway_mac, slot.mac);
                    item.to = To::Interface(hop.target);
                }
                None => self.drop_from(place, DropReason::InterfaceGone),
            },
            (HopKind::Tunnel | HopKind::Uplink, Some(_)) => {
                address(context, &self.tunnels, (bytes, total), meta, item.hash, next_hop);
                item.to = To::Interface(context.node.uplink);
            }
            (kind, _) => self.go_on_inside(place, item, hop, kind, change),
        }
    }

    /// To another local end, or out of the uplink once it fits: from here on the packet is another.
    #[inline(always)]
    pub(super) fn go_on_inside(
        &mut self,
        place: &mut Option<Packet>,
        item: &mut Item,
        hop: &Hop,
        kind: HopKind,
        change: Option<&Change>,
    ) {
        item.meta.follow(change.map(|change| &change.to), item.enters);
        if kind != HopKind::Endpoint {
            item.to = To::Wire(*hop);
            return;
        }
        let origin = self.origin_inside(item.origin);
        if hop.worker == self.id {
            // Its own half of the flow is judged by its owner. No loop: towards a local end there is no further half.
            self.queue(item.at, item.meta, item.is_plain, Way::Back, origin);
        } else {
            self.note_ends_of_piece(place, &item.meta);
            let stage = match item.is_plain {
                true => Stage::of_plain(&item.meta.from_remote().words(), Way::Back, &origin.into()),
                false => Stage::Back(origin),
            };
            self.hand(hop.worker, place, stage);
        }
    }

    /// Whence a packet seems to come to the other half of its flow.
    #[inline(always)]
    pub(super) fn origin_inside(&self, origin: Origin) -> Origin {
        if origin.is_here() { Origin::Local } else { Origin::Client(self.id) }
    }

    #[inline(never)]
    pub(super) fn send(&mut self, interface: u32, packet: Packet) {
        let block = self.status.block(self.id as usize);
        self.interfaces.send(interface, packet, &mut self.pool, block);
    }

    pub(super) fn drop_packet(&mut self, packet: Packet, reason: DropReason) {
        discard(packet, reason, &mut self.pool, self.status.block(self.id as usize));
    }

    /// Drops the packet that is still in its place.
    pub(super) fn drop_from(&mut self, place: &mut Option<Packet>, reason: DropReason) {
        if let Some(packet) = place.take() {
            self.drop_packet(packet, reason);
        }
    }

    /// Drops a packet as its flow says, or sends it by the one way that is not for all packets.
    #[cold]
    fn end_by_flow(
        &mut self,
        context: &Context<'_>,
        place: &mut Option<Packet>,
        item: &mut Item,
        id: FlowId,
        hop: &Hop,
    ) {
        if hop.kind() == HopKind::Direct {
            return self.send_directly(context, place, item, id);
        }
        // The answer to somebody whose neighbour is still being asked for.
        let unknown = DropReason::NeighbourUnknown as u8;
        if hop.kind() == HopKind::Drop && hop.reason == unknown && item.way == Way::Out {
            let record = self.flows.record(id);
            let is_client = record.flags & FLAG_CLIENT != 0;
            return self.hold(place, if is_client { record.inside.local } else { record.outside().remote });
        }
        let known = DropReason::from_index(hop.reason as usize).filter(|_| hop.kind() == HopKind::Drop);
        let reason = known.unwrap_or(DropReason::NoRoute);
        self.count_policy(reason, hop.target);
        self.drop_from(place, reason);
    }

    pub(super) fn count_policy(&self, reason: DropReason, policy: u32) {
        if matches!(reason, DropReason::PolicyIngress | DropReason::PolicyEgress) {
            self.status().count_policy_drop(policy as usize, 1);
        }
    }

    pub(super) fn arp(&mut self, context: &Context<'_>, place: &mut Option<Packet>) {
        let (gateway, mac) = (context.node.gateway[family(Addr::v4([0; 4]))], context.node.gateway_mac);
        let Some(mut packet) = place.take() else { return };
        let interface = packet.interface;
        if !punt::answer_arp(self.pool.memory().head_mut(&mut packet), gateway, mac) {
            return self.drop_packet(packet, DropReason::LinkLocal);
        }
        self.status().count(WorkerCounter::Punted, 1);
        self.send(interface, packet);
    }
}

/// Why a packet from outside towards a flow's local end cannot have come from where it did.
#[inline(always)]
pub(super) fn came_forged(context: &Context<'_>, record: &FlowRecord, origin: Origin) -> Option<DropReason> {
    let route: RouteRecord = context.view.row(Table::Route, record.route as usize);
    classify::route::forged(origin, &route)
}
