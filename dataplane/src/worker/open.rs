//! First packets: classify, choose a source port if one is needed, insert.

use super::forward::Path;
use super::item::{Item, Queued};
use super::renew::Renewed;
use crate::balance::Chooser;
use crate::classify::ahead::{self, Likely, UNKNOWN};
use crate::classify::{self, Context, Decision, Masquerade, Origin, Step, Verdict};
use crate::flow::sctp::chunk;
use crate::flow::{FlowId, FlowTable, Way};
use crate::handoff::Stage;
use crate::packet::{Checksum, Gso, Packet};
use crate::parse::{Kind, tcp_flag};
use crate::punt;
use crate::punt::error::Cause;
use std::num::NonZeroU32;
use tables::counters::{DropReason, WorkerCounter};
use tables::flow::{FLAG_CLIENT, FLAG_COUNTED, FLAG_DIRECT, FLAG_OPENED_LOCALLY, FlowRecord, Hop, HopKind, Tuple};
use tables::node::family;
use tables::owner::{SnatPorts, Worker, owner};
use tables::scope::Scopes;
use tables::service::Algorithm;
use tables::status::PolicyFlows;
use tables::taken::is_taken;
use tables::{Addr, Protocol};

const _: () = assert!(tables::limits::ROUTES_MAX <= NO_ROUTE as usize);
/// Ports tried before a destination counts as exhausted.
const PORTS_TRIED: u32 = 256;
/// A route id that no row has: there are fewer.
const NO_ROUTE: u16 = u16::MAX;

/// What a decision comes to in a record.
pub(super) struct Settled {
    out: Hop,
    back: Hop,
    scopes: Scopes,
    seen_ms: u32,
    route: u16,
    service: u32,
    flags: u8,
}

impl Settled {
    #[inline(always)]
    pub(super) fn write(self, record: &mut FlowRecord) {
        (record.out, record.back, record.scopes) = (self.out, self.back, self.scopes);
        (record.last_seen_ms, record.route, record.service) = (self.seen_ms, self.route, self.service);
        record.flags |= self.flags;
    }
}

impl Path {
    /// The flow that a packet belongs to, opened or looked at again if need be. None: the packet has come to its end.
    #[inline(always)]
    pub(super) fn validate(
        &mut self,
        context: &Context<'_>,
        place: &mut Option<Packet>,
        item: &Item,
        found: Option<FlowId>,
    ) -> Option<FlowId> {
        match found {
            Some(id) if !opens_anew(item) && (self.is_current(id) || self.goes_on(context, id)) => Some(id),
            found => self.open_or_renew(context, place, item, found),
        }
    }

    #[inline(never)]
    fn open_or_renew(
        &mut self,
        context: &Context<'_>,
        place: &mut Option<Packet>,
        item: &Item,
        found: Option<FlowId>,
    ) -> Option<FlowId> {
        if let Some(id) = found {
            if opens_anew(item) && self.flows.may_reopen(id, item.way, self.now_ms) {
                self.forget(id);
            } else if opens_anew(item) && self.is_of_another_client(id, item.origin) {
                self.drop_from(place, DropReason::TupleClash);
                return None;
            } else if self.is_current(id) {
                return Some(id);
            } else {
                match self.revalidate(context, id) {
                    Renewed::Current => return Some(id),
                    // A SYN sent again: nobody has answered, so nothing is lost with who should have.
                    Renewed::CutOff if item.way == Way::Out && opens_anew(item) => self.forget(id),
                    Renewed::CutOff => return self.cut_off(context, place, item, id),
                    Renewed::Gone => {}
                }
            }
        }
        self.open(context, place, item)
    }

    /// Whether a client outside asks whose flow another worker translates: it has asked two services that share this backend
    /// from one port, and the answers could only be told to one of them.
    fn is_of_another_client(&self, id: FlowId, origin: Origin) -> bool {
        let record = self.flows.record(id);
        let is_of_client = record.flags & (FLAG_CLIENT | FLAG_OPENED_LOCALLY) == FLAG_CLIENT;
        matches!(origin, Origin::Client(keeper) if is_of_client && keeper != record.out.worker)
    }

    #[inline(always)]
    pub(super) fn is_current(&self, id: FlowId) -> bool {
        self.scopes.is_current(&self.flows.record(id).scopes)
    }

    /// First packets of these will open flows: fetches what that takes.
    #[cold]
    pub(super) fn expect_new(&mut self, context: &Context<'_>, queue: &[Queued]) {
        let Path { knowns, flows, snat, id, seed, .. } = self;
        ahead::expect(context, queue, *seed, knowns, |queued, Likely { mut outside, is_masqueraded }| {
            if is_masqueraded {
                outside.local = context.node.snat[family(outside.local)];
                outside.local_port = first_port(snat, *id, queued.asked.hash ^ *seed);
            }
            flows.expect(flows.hash_words(&outside.words()));
        });
    }

    /// What was known ahead of them is of no burst after it.
    #[cold]
    pub(super) fn forget_known(&mut self) {
        self.knowns.fill(UNKNOWN);
    }

    /// Classifies a first packet and inserts its flow.
    fn open(&mut self, context: &Context<'_>, place: &mut Option<Packet>, item: &Item) -> Option<FlowId> {
        self.status().count(WorkerCounter::Classified, 1);
        if let Origin::Direct(_) = item.origin {
            return self.open_direct(context, place, item);
        }
        let tuple = item.tuple();
        let interface = place.as_ref()?.interface;
        let mut decision = Decision::new(&tuple, item.way == Way::Out);
        let known = self.knowns[item.place()];
        let _ = self.classify(&Context { known: &known, ..*context }, interface, item, &tuple, &mut decision);
        let refused = match decision.verdict {
            Verdict::Forward => match self.insert(context, item, &decision) {
                Ok(id) => return Some(id),
                Err(DropReason::TupleClash) if decision.out.kind() == HopKind::Direct => {
                    return self.open_masqueraded(context, place, item, &decision);
                }
                Err(reason) => Verdict::Drop(reason),
            },
            other => other,
        };
        let packet = place.take()?;
        match refused {
            Verdict::Drop(reason) => self.end(context, packet, item, &decision, reason),
            Verdict::Reject => self.reject(context, packet, item),
            Verdict::Forward | Verdict::Punt => self.punt(context, packet, item),
        }
        None
    }

    #[inline(always)]
    fn classify(
        &mut self,
        context: &Context<'_>,
        interface: u32,
        item: &Item,
        tuple: &Tuple,
        decision: &mut Decision,
    ) -> Step {
        match item.way {
            Way::Out if !item.origin.is_here() => {
                let (worker, chooser) = (self.id, &mut self.chooser(item.hash));
                classify::outside::judge_from_outside(context, tuple, worker, chooser, None, decision)
            }
            Way::Out => {
                let chooser = &mut self.chooser(item.hash);
                classify::judge_from_local(context, tuple, interface, chooser, None, decision)
            }
            Way::Back => classify::judge_to_local(context, tuple, item.origin, decision),
        }
    }

    /// Chooses a backend for a new flow with this hash.
    #[inline(always)]
    pub(super) fn chooser(&mut self, hash: u64) -> Chooser<'_> {
        let FlowTable { affinities, loads, .. } = &mut self.flows;
        Chooser { pick: hash ^ self.seed, now_ms: self.now_ms, affinities, loads, turns: &self.turns }
    }

    /// Drops a first packet; one whose neighbour is unknown waits instead.
    pub(super) fn end(
        &mut self,
        context: &Context<'_>,
        packet: Packet,
        item: &Item,
        decision: &Decision,
        reason: DropReason,
    ) {
        if reason == DropReason::NeighbourUnknown && item.way == Way::Out {
            return self.hold(&mut Some(packet), decision.remote);
        }
        if reason == DropReason::TunnelStray
            && let Some(keeper) = self.other_keeper(item)
        {
            return self.hand(keeper, &mut Some(packet), Stage::Back(item.origin));
        }
        if reason == DropReason::NoRoute && item.way == Way::Out {
            return self.drop_and_tell(context, &mut Some(packet), item, (reason, Cause::NoRoute));
        }
        self.count_policy(reason, decision.policy.map_or(0, NonZeroU32::get));
        self.drop_packet(packet, reason);
    }

    /// Who else may know the client outside that a backend elsewhere answers: asked after the first who may.
    fn other_keeper(&self, item: &Item) -> Option<Worker> {
        let [first, second] = self.keepers_of_client(&item.tuple());
        let is_answer = matches!(item.origin, Origin::Tunnel(_));
        (is_answer && first == self.id && second != self.id).then_some(second)
    }

    /// Inserts the flow of a packet that has none.
    #[inline(always)]
    pub(super) fn insert(
        &mut self,
        context: &Context<'_>,
        item: &Item,
        decision: &Decision,
    ) -> Result<FlowId, DropReason> {
        if is_out_of_blue(item, decision) {
            return Err(DropReason::SctpOutOfBlue);
        }
        let inside = item.tuple();
        let (outside, outside_hash) = match item.way {
            Way::Out => self.translate_local(context, item, &inside, decision)?,
            // The packet was looked for as one towards us; its flow must not be one from us, either.
            Way::Back => {
                match self.flows.find_hashed(&inside.words(), Way::Out, item.hash) {
                    Some(other) if self.flows.record(other).flags & FLAG_DIRECT != 0 => self.make_way(other, item)?,
                    Some(_) => return Err(DropReason::TupleClash),
                    None => {}
                }
                (inside, item.hash)
            }
        };
        let mut settled = self.settled(context, &outside, decision);
        if decision.service.is_some_and(|service| service.algorithm == Algorithm::LeastConnections) {
            settled.flags |= FLAG_COUNTED;
        }
        let id = self.claim()?;
        let record = self.flows.record_mut(id);
        *record = FlowRecord::new(inside, &outside);
        settled.write(record);
        self.enter(id, [item.hash, outside_hash])?;
        if let Some(policy) = decision.policy {
            let what = if decision.is_audit { PolicyFlows::Audited } else { PolicyFlows::Allowed };
            self.status().count_policy_flow(what, policy.get() as usize);
        }
        Ok(id)
    }

    /// A record to be written for a flow that is known to be absent.
    #[inline(always)]
    pub(super) fn claim(&mut self) -> Result<FlowId, DropReason> {
        let claimed = self.flows.claim(self.now_ms);
        let evicted = self.flows.take_evicted();
        if evicted > 0 {
            self.status().count(WorkerCounter::FlowsEvicted, evicted);
        }
        claimed
    }

    /// Makes that record a flow.
    #[inline(always)]
    pub(super) fn enter(&mut self, id: FlowId, hashes: [u64; 2]) -> Result<(), DropReason> {
        self.flows.enter(id, hashes)?;
        self.status().count(WorkerCounter::FlowsInserted, 1);
        Ok(())
    }

    /// Removes a flow whose place another takes.
    pub(super) fn forget(&mut self, id: FlowId) {
        self.flows.remove(id);
        self.status().count(WorkerCounter::FlowsExpired, 1);
    }

    /// What a decision comes to for a flow that the network sees so.
    #[inline(always)]
    pub(super) fn settled(&mut self, context: &Context<'_>, outside: &Tuple, decision: &Decision) -> Settled {
        let mut out = decision.out;
        if out.kind() == HopKind::Endpoint {
            let keeper = decision.client.filter(|_| !decision.opened_locally);
            let other = || owner(&context.view, &self.snat, &outside.reversed()).unwrap_or(self.id);
            out.worker = keeper.unwrap_or_else(other);
        }
        if out.kind() == HopKind::Drop && out.reason == DropReason::NeighbourUnknown as u8 {
            self.ask_for(decision.remote);
        }
        let opened = if decision.opened_locally { FLAG_OPENED_LOCALLY } else { 0 };
        let client = if decision.client.is_some() { FLAG_CLIENT } else { 0 };
        Settled {
            out,
            back: decision.back,
            scopes: self.scopes.depend(decision.scopes()),
            seen_ms: self.now_ms,
            route: decision.route.map_or(NO_ROUTE, |route| route as u16),
            service: decision.service.map_or(0, |s| s.id),
            flags: opened | client,
        }
    }

    /// The tuple that the network will see, which no flow has, and its hash. Masqueraded flows get a port of this worker's
    /// block; so does a flow whose own tuple is still in use (a pod may use one source port to a service and to its backend
    /// at once).
    #[inline(always)]
    fn translate_local(
        &mut self,
        context: &Context<'_>,
        item: &Item,
        inside: &Tuple,
        decision: &Decision,
    ) -> Result<(Tuple, u64), DropReason> {
        let outside = decision.outside(inside);
        // Any identifier will do, 0 too; the side that is asked has none.
        let asks_by_id = item.meta.kind == Kind::Echo && inside.remote_port == 0;
        let has_port = inside.protocol.has_ports() || asks_by_id;
        if decision.masquerade != Masquerade::No && has_port {
            return self.free_port(context, outside, item.hash, false).ok_or(DropReason::SnatExhausted);
        }
        let words = outside.words();
        let hash = self.flows.hash_words(&words);
        let Some(other) = self.flows.find_hashed(&words, Way::Back, hash) else { return Ok((outside, hash)) };
        if self.flows.is_closed(other) {
            self.forget(other);
            return Ok((outside, hash));
        }
        let is_client = decision.client.is_some();
        let may_move = decision.opened_locally && decision.out.kind() != HopKind::Direct;
        let moved = (may_move && has_port).then(|| self.free_port(context, outside, item.hash, is_client)).flatten();
        moved.ok_or(DropReason::TupleClash)
    }

    /// A free port of this worker's block, beginning at one that the hash of the tuple inside names. "Free" is judged for each
    /// destination by the flow table itself; where all are taken, that of a closed connection is.
    /// A client outside that keeps its address must be answered by this worker, too. What sockets of the node have is theirs.
    fn free_port(
        &mut self,
        context: &Context<'_>,
        mut outside: Tuple,
        inside_hash: u64,
        is_client: bool,
    ) -> Option<(Tuple, u64)> {
        let block = self.snat.block(self.id);
        let size = (*block.end() - *block.start()) as u32 + 1;
        let start = (first_port(&self.snat, self.id, inside_hash ^ self.seed) - block.start()) as u32;
        let mut closed = None;
        for i in 0..PORTS_TRIED.min(size) {
            outside.local_port = block.start() + ((start + i) % size) as u16;
            if is_taken(&context.view, outside.local_port) {
                continue;
            }
            if is_client && !self.keepers_of_client(&outside).contains(&self.id) {
                continue;
            }
            let words = outside.words();
            let hash = self.flows.hash_words(&words);
            match self.flows.find_hashed(&words, Way::Back, hash) {
                None => return Some((outside, hash)),
                Some(id) if closed.is_none() && self.flows.is_closed(id) => closed = Some((id, outside, hash)),
                Some(_) => {}
            }
        }
        let (id, outside, hash) = closed?;
        self.forget(id);
        Some((outside, hash))
    }

    /// A packet amid a connection whose backend is gone. The client hears of it with its next packet; the flow is there to
    /// tell it until then.
    #[cold]
    fn cut_off(
        &mut self,
        context: &Context<'_>,
        place: &mut Option<Packet>,
        item: &Item,
        id: FlowId,
    ) -> Option<FlowId> {
        if item.way == Way::Back {
            self.drop_from(place, DropReason::NoFlow);
            return None;
        }
        self.forget(id);
        self.reject(context, place.take()?, item);
        None
    }

    fn reject(&mut self, context: &Context<'_>, mut packet: Packet, item: &Item) {
        self.status().count(WorkerCounter::Rejected, 1);
        if item.meta.protocol != Protocol::TCP {
            return self.tell(context, packet, item, Cause::PortUnreachable);
        }
        self.pool.cut_off_rest(&mut packet);
        let own_mac = if item.origin.is_here() { context.node.gateway_mac } else { context.node.uplink_mac };
        let refused = punt::refuse(self.pool.memory().head_mut(&mut packet), &item.meta, own_mac);
        match refused.filter(|_| item.way == Way::Out) {
            Some(size) => self.answer(packet, size),
            None => self.drop_packet(packet, DropReason::NoRoute),
        }
    }

    fn punt(&mut self, context: &Context<'_>, mut packet: Packet, item: &Item) {
        let is_whole = item.is_whole(&packet) && !self.is_fragment(&packet);
        let bytes = self.pool.memory().head_mut(&mut packet);
        let answered = is_whole.then(|| punt::answer_echo(bytes, &item.meta, context.node.gateway_mac)).flatten();
        let Some(size) = answered else { return self.drop_packet(packet, DropReason::NoRoute) };
        self.status().count(WorkerCounter::Punted, 1);
        self.answer(packet, size);
    }

    /// Sends an answer that was written over its question back where it came from.
    pub(super) fn answer(&mut self, mut packet: Packet, size: usize) {
        packet.truncate(size);
        packet.checksum = Checksum::Valid;
        packet.gso = Gso::None;
        self.send(packet.interface, packet);
    }

    /// Asks control for a neighbour; the bell rings once a round.
    fn ask_for(&mut self, addr: Addr) {
        self.status().request_neighbour(addr);
        self.asked = true;
    }

    /// Keeps the first packet to a neighbour until it is known, and asks for it.
    pub(super) fn hold(&mut self, place: &mut Option<Packet>, addr: Addr) {
        let Some(packet) = place.take() else { return };
        self.ask_for(addr);
        // One packet is held: the rest of a fragmented one would be lost all the same.
        if self.is_fragment(&packet) {
            return self.drop_packet(packet, DropReason::NeighbourUnknown);
        }
        let now_ms = self.now_ms;
        if let Err(packet) = self.held.hold(addr, packet, now_ms) {
            self.drop_packet(packet, DropReason::NeighbourUnknown);
        }
    }
}

/// The port of a worker's block that is tried first.
#[inline(always)]
fn first_port(snat: &SnatPorts, worker: Worker, hash: u64) -> u16 {
    let block = snat.block(worker);
    let size = (*block.end() - *block.start()) as u32 + 1;
    block.start() + (hash as u32 % size) as u16
}

/// SCTP that is to be translated begins with INIT: of anything else nobody knows what it was translated to.
fn is_out_of_blue(item: &Item, decision: &Decision) -> bool {
    let is_translated = decision.service.is_some() || decision.masquerade != Masquerade::No;
    item.meta.protocol == Protocol::SCTP && item.meta.tcp_flags != chunk::INIT && is_translated
}

/// A SYN of a new connection, or the INIT of an association.
#[inline(always)]
pub(super) fn opens_anew(item: &Item) -> bool {
    let flags = item.meta.tcp_flags;
    match item.meta.protocol {
        Protocol::TCP => flags & (tcp_flag::SYN | tcp_flag::ACK | tcp_flag::RST) == tcp_flag::SYN,
        Protocol::SCTP => flags == chunk::INIT,
        _ => false,
    }
}
