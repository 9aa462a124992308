//! Direct server return. The node that is asked sends a client's packets as they came to the node of their backend, and sees
//! nothing of what that answers. There they are packets of a flow like others, whose local end is the backend that they
//! name; the answers leave by the node's own routes. Who is served so is `classify`'s to say.

use super::forward::Path;
use super::item::{Item, To};
use super::look::Place;
use super::tunnels::Place as Tunnel;
use crate::classify::outside::Kept;
use crate::classify::{self, Context, Decision, Origin, Verdict};
use crate::cut;
use crate::flow::{self, FlowId, Way};
use crate::overlay::{self, direct};
use crate::packet::Packet;
use crate::parse::{self, Kind, Meta};
use crate::punt::error::Cause;
use crate::rewrite;
use tables::Addr;
use tables::counters::{DropReason, WorkerCounter};
use tables::flow::{FLAG_ANSWERED, FLAG_CLIENT, FLAG_CONFIRMED, FLAG_DIRECT, FlowRecord, Hop, Tuple};
use tables::owner::{Worker, owner};

/// A flow of datagrams that was silent for so long gives way to one with the same ends: its client asks elsewhere now.
const MOVED_MS: u32 = 1_000;

/// The way to a backend's node.
#[derive(Clone, Copy)]
struct Named {
    tunnel: Tunnel,
    backend: (Addr, u16),
}

/// At the node that is asked.
impl Path {
    /// The client speaks to the same backend from the same port by another service: the answers could not be told apart there,
    /// so that it does not keep its address.
    #[cold]
    pub(super) fn open_masqueraded(
        &mut self,
        context: &Context<'_>,
        place: &mut Option<Packet>,
        item: &Item,
        decision: &Decision,
    ) -> Option<FlowId> {
        let keep = Some(Kept { backend: (decision.remote, decision.remote_port), is_direct: false });
        let (tuple, worker) = (item.tuple(), self.id);
        let chooser = &mut self.chooser(item.hash);
        let decision = classify::outside::from_outside(context, &tuple, worker, chooser, keep);
        let reason = match decision.verdict {
            Verdict::Forward => match self.insert(context, item, &decision) {
                Ok(id) => return Some(id),
                Err(reason) => reason,
            },
            Verdict::Drop(reason) => reason,
            Verdict::Reject | Verdict::Punt => DropReason::TupleClash,
        };
        self.end(context, place.take()?, item, &decision, reason);
        None
    }

    /// Sends a packet of a client on.
    pub(super) fn send_directly(
        &mut self,
        context: &Context<'_>,
        place: &mut Option<Packet>,
        item: &mut Item,
        id: FlowId,
    ) {
        let hop = self.flows.record(id).out;
        let Some(to) = self.way_to_backend(context, place, id, &hop) else { return };
        let (record, memory) = (self.flows.record_mut(id), self.pool.memory());
        let bytes = place.as_ref().map_or(&[][..], |packet| memory.head(packet));
        flow::note(record, Way::Out, &item.meta, || bytes, self.now_ms);
        flow::note_unseen(record, &item.meta, bytes);
        self.send_to_backend(context, place, item, to);
    }

    /// Sends on what a router says of an answer that this node did not see.
    pub(super) fn relay_error(
        &mut self,
        context: &Context<'_>,
        place: &mut Option<Packet>,
        item: &mut Item,
        id: FlowId,
    ) {
        let hop = self.flows.record(id).out;
        if let Some(to) = self.way_to_backend(context, place, id, &hop) {
            self.send_to_backend(context, place, item, to);
        }
    }

    /// None: the packet waits for the next hop's Ethernet address.
    fn way_to_backend(
        &mut self,
        context: &Context<'_>,
        place: &mut Option<Packet>,
        id: FlowId,
        hop: &Hop,
    ) -> Option<Named> {
        let outside = self.flows.record(id).outside();
        match self.tunnels.find_direct(context, hop.target) {
            Ok(tunnel) => Some(Named { tunnel, backend: (outside.remote, outside.remote_port) }),
            Err(addr) => {
                self.hold(place, addr);
                None
            }
        }
    }

    fn send_to_backend(&mut self, context: &Context<'_>, place: &mut Option<Packet>, item: &mut Item, to: Named) {
        if item.enters && item.meta.ttl <= 1 {
            return self.drop_and_tell(context, place, item, (DropReason::TtlExpired, Cause::TimeExceeded));
        }
        let Some(packet) = place else { return };
        let max = (context.node.uplink_mtu as usize).saturating_sub(to.overhead());
        let is_cut = item.meta.ip_size() > max;
        if is_cut && !cut::may_cut(self.pool.memory(), packet, &item.meta) {
            let cause = Cause::TooBig { mtu: max as u16 };
            return self.drop_and_tell(context, place, item, (DropReason::TooBig, cause));
        }
        let checksum = packet.checksum;
        rewrite::forward(self.pool.memory().head_mut(packet), &item.meta, None, item.enters, checksum);
        if is_cut {
            return self.cut_and_name(context, place, item, (to, max));
        }
        if !self.name_backend(packet, &item.meta, item.hash, to) {
            return self.drop_from(place, DropReason::Oversized);
        }
        item.to = To::Interface(context.node.uplink);
    }

    #[cold]
    fn cut_and_name(
        &mut self,
        context: &Context<'_>,
        place: &mut Option<Packet>,
        item: &Item,
        (to, max): (Named, usize),
    ) {
        let Some(packet) = place.take() else { return };
        let mut parts = std::mem::take(&mut self.parts);
        if let Some(reason) = cut::cut(&mut self.pool, packet, &item.meta, max, &mut parts) {
            self.status().count_drop(reason, 1);
        }
        self.status().count(WorkerCounter::FragmentsCut, parts.len() as u64);
        for (mut part, meta) in parts.drain(..) {
            match self.name_backend(&mut part, &meta, item.hash, to) {
                true => self.send(context.node.uplink, part),
                false => self.drop_packet(part, DropReason::Oversized),
            }
        }
        self.parts = parts;
    }

    /// Puts the headers that name its backend in front of a packet. False: there is no room for them.
    fn name_backend(&self, packet: &mut Packet, meta: &Meta, flow_hash: u64, to: Named) -> bool {
        if !packet.push_front(to.overhead()) {
            return false;
        }
        let total = packet.total_size();
        let bytes = self.pool.memory().head_mut(packet);
        let traffic_class = rewrite::traffic_class(&bytes[to.overhead()..], meta);
        if let Some(headers) = self.tunnels.headers(to.tunnel) {
            headers.write_with_backend(bytes, total, (flow_hash, traffic_class), to.backend);
        }
        true
    }
}

impl Named {
    /// Bytes that an IP packet grows by.
    fn overhead(&self) -> usize {
        self.tunnel.size() + direct::option_bytes(self.backend.0.is_v4())
    }
}

/// At the backend's node.
impl Path {
    /// A client's packet that was taken out of Geneve from `peer`, behind an option of this size.
    pub(super) fn look_direct(
        &mut self,
        context: &Context<'_>,
        place: Place<'_>,
        peer: Addr,
        (option_size, traffic_class): (usize, u8),
    ) {
        if !classify::direct::is_peer(context, peer) {
            return self.drop_from(place.packet, DropReason::TunnelPeer);
        }
        let Some((inner, fragment)) = self.parse_ip(place.packet) else { return };
        if option_size != direct::option_bytes(inner.is_v4) {
            return self.drop_from(place.packet, DropReason::TunnelOption);
        }
        if overlay::may_change(traffic_class) && !self.tell_congestion(place.packet, traffic_class) {
            return;
        }
        let origin = Origin::Direct(peer);
        match fragment {
            Some(fragment) => self.look_at_fragment(context, place, inner, &fragment, origin),
            None => match self.other_owner(context, place.packet, &inner, origin) {
                Some(worker) => self.leave(worker, place.at, Way::Back, origin),
                None => self.queue(place.at, inner, false, Way::Back, origin),
            },
        }
    }

    /// The same that another worker took out.
    #[inline(never)]
    pub(super) fn look_handed_direct(&mut self, context: &Context<'_>, place: Place<'_>, peer: Addr) {
        let origin = Origin::Direct(peer);
        match self.parse_ip(place.packet) {
            Some((meta, None)) => self.queue(place.at, meta, false, Way::Back, origin),
            Some((meta, Some(fragment))) => {
                self.look_at_handed_fragment(context, place, meta, &fragment, (Way::Back, origin))
            }
            None => {}
        }
    }

    /// The worker of the backend that a packet names.
    pub(super) fn owner_at_backend(&self, context: &Context<'_>, packet: &Packet, meta: &Meta) -> Option<Worker> {
        let (local, local_port) = self.backend_named(packet, meta)?;
        let from_client = match meta.kind {
            Kind::IcmpError => parse::quoted(self.pool.memory().head(packet), meta)?.tuple,
            _ => meta.from_remote(),
        };
        owner(&context.view, &self.snat, &Tuple { local, local_port, ..from_client })
    }

    /// The backend that the option in front of a packet names.
    fn backend_named(&self, packet: &Packet, meta: &Meta) -> Option<(Addr, u16)> {
        let option = self.pool.memory().front(packet, direct::option_bytes(meta.is_v4));
        direct::backend(option, meta.is_v4)
    }

    /// Sees that the flow which a packet belongs to, if there is one, is of this kind and of the backend that it names: the
    /// node that is asked has chosen another one, else. False: the packet was dropped.
    pub(super) fn is_of_its_backend(&mut self, place: &mut Option<Packet>, item: &Item) -> bool {
        let named = place.as_ref().and_then(|packet| self.backend_named(packet, &item.meta));
        let Some(named) = named else {
            self.drop_from(place, DropReason::TunnelOption);
            return false;
        };
        let Some(id) = self.flows.find(&item.tuple(), Way::Back) else { return true };
        let record = self.flows.record(id);
        if record.flags & FLAG_DIRECT == 0 {
            self.drop_from(place, DropReason::TupleClash);
            return false;
        }
        if named != (record.inside.local, record.inside.local_port) {
            self.forget(id);
        }
        true
    }

    /// Classifies the first packet of a client, and inserts its flow.
    pub(super) fn open_direct(
        &mut self,
        context: &Context<'_>,
        place: &mut Option<Packet>,
        item: &Item,
    ) -> Option<FlowId> {
        let (local, local_port) = self.backend_named(place.as_ref()?, &item.meta)?;
        let inside = Tuple { local, local_port, ..item.tuple() };
        let decision = classify::to_local(context, &inside, item.origin);
        let reason = match decision.verdict {
            Verdict::Forward => {
                let mut record = FlowRecord::new(inside, &item.tuple());
                record.flags = FLAG_DIRECT;
                self.settled(context, &item.tuple(), &decision).write(&mut record);
                match self.insert_direct(record, item) {
                    Ok(id) => return Some(id),
                    Err(reason) => reason,
                }
            }
            Verdict::Drop(reason) => reason,
            Verdict::Reject | Verdict::Punt => DropReason::NoRoute,
        };
        self.end(context, place.take()?, item, &decision, reason);
        None
    }

    fn insert_direct(&mut self, record: FlowRecord, item: &Item) -> Result<FlowId, DropReason> {
        let words = record.inside.words();
        let hash = self.flows.hash_words(&words);
        if let Some(other) = self.flows.find_hashed(&words, Way::Out, hash) {
            self.make_way(other, item)?;
        }
        let id = self.claim()?;
        *self.flows.record_mut(id) = record;
        self.enter(id, [hash, item.hash])?;
        Ok(id)
    }

    /// Removes a flow between the same ends that a client's packet cannot belong to, if that is over: the client asks by
    /// another node now, or anew.
    pub(super) fn make_way(&mut self, other: FlowId, item: &Item) -> Result<(), DropReason> {
        let record = self.flows.record(other);
        let is_elsewhere = record.flags & (FLAG_DIRECT | FLAG_CLIENT) != 0;
        let is_over = if classify::service::is_connection(item.meta.protocol) {
            let is_moved = is_elsewhere && !super::open::opens_anew(item);
            is_moved || record.flags & FLAG_CONFIRMED == 0 || self.flows.may_reopen(other, Way::Back, self.now_ms)
        } else {
            let is_quiet = self.now_ms.wrapping_sub(record.last_seen_ms) >= MOVED_MS;
            is_quiet && (is_elsewhere || record.flags & FLAG_ANSWERED == 0)
        };
        if !is_over {
            return Err(DropReason::TupleClash);
        }
        self.forget(other);
        Ok(())
    }
}
