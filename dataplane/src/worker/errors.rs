//! ICMP errors about packets that go no further: whose address they come from, and the way back to the sender. The packet
//! itself becomes the error. What an error looks like is `punt::error`'s to say, how many there may be `limit`'s.

use super::forward::Path;
use super::item::Item;
use super::uplink::next_hop;
use crate::classify::{self, Context, Origin};
use crate::flow::Way;
use crate::packet::{Checksum, Gso, Packet};
use crate::parse::{self, Meta};
use crate::punt::error::{self, Cause};
use crate::rewrite;
use tables::Addr;
use tables::counters::{DropReason, WorkerCounter};
use tables::message::InterfaceKind;
use tables::node::family;

impl Path {
    /// Drops a packet for a reason, and tells its sender if that may be.
    #[cold]
    pub(super) fn drop_and_tell(
        &mut self,
        context: &Context<'_>,
        place: &mut Option<Packet>,
        item: &Item,
        (reason, cause): (DropReason, Cause),
    ) {
        let Some(packet) = place.take() else { return };
        self.status().count_drop(reason, 1);
        self.tell(context, packet, item, cause);
    }

    /// Makes a packet an ICMP error to its sender; takes the packet in any case.
    pub(super) fn tell(&mut self, context: &Context<'_>, mut packet: Packet, item: &Item, cause: Cause) {
        let Some(from) = self.speaker(context, &packet, item, cause) else { return self.pool.put_packet(packet) };
        if !self.error_limit.allows(item.meta.src, self.now_ms) {
            self.status().count(WorkerCounter::ErrorsWithheld, 1);
            return self.pool.put_packet(packet);
        }
        self.pool.cut_off_rest(&mut packet);
        let (l3, front) = (item.meta.l3 as usize, error::front_bytes(&item.meta));
        let quote = error::quote_bytes(&item.meta, packet.head_size().saturating_sub(l3));
        packet.truncate(l3 + quote);
        (packet.checksum, packet.gso) = (Checksum::Valid, Gso::None);
        if !packet.push_front(front) {
            return self.pool.put_packet(packet);
        }
        let told = error::write(self.pool.memory().head_mut(&mut packet), &item.meta, cause, from);
        self.status().count(WorkerCounter::ErrorsSent, 1);
        self.send_back(context, packet, item, &told);
    }

    /// From which address the sender of a packet is told; None: not at all.
    fn speaker(&self, context: &Context<'_>, packet: &Packet, item: &Item, cause: Cause) -> Option<Addr> {
        let dst_mac = *self.pool.memory().head(packet).first_chunk()?;
        if !error::may_tell(&item.meta, dst_mac, cause) {
            return None;
        }
        let family = family(item.meta.src);
        // The gateway's address lies in this node's pod range: other nodes take it from our tunnel.
        let from = match (item.way, item.origin) {
            // What refuses is the service itself.
            (Way::Out, _) if cause == Cause::PortUnreachable => item.meta.dst,
            (_, Origin::Uplink | Origin::Direct(_)) => context.node.node[family],
            (Way::Out, _) | (Way::Back, Origin::Tunnel(_)) => context.node.gateway[family],
            (Way::Back, Origin::Local | Origin::Client(_)) => return None,
        };
        (!from.is_unspecified()).then_some(from)
    }

    /// Sends an error to where its packet came from: out of the same interface to a local end, else by the sender's route.
    fn send_back(&mut self, context: &Context<'_>, mut packet: Packet, item: &Item, told: &Meta) {
        if item.way == Way::Out && item.origin.is_here() {
            rewrite::set_macs(self.pool.memory().head_mut(&mut packet), context.node.gateway_mac, item.meta.src_mac);
            return self.send(packet.interface, packet);
        }
        let way = classify::route::find(&context.view, told.dst)
            .and_then(|(id, route)| classify::route::hop(context, told.dst, id, &route).ok())
            .and_then(|hop| next_hop(&mut self.tunnels, context, &hop).ok());
        match way {
            Some(way) => self.send_one(context, packet, told, item.hash, &way),
            None => self.pool.put_packet(packet),
        }
    }

    /// Drops a packet of a local end that waited in vain for a neighbour, and tells that nobody is there. Any other stays in
    /// its place.
    pub(super) fn give_up(&mut self, context: &Context<'_>, place: &mut Option<Packet>) {
        let Some(packet) = place else { return };
        let is_local = self.interfaces.get(packet.interface).is_some_and(|slot| slot.kind != InterfaceKind::Uplink);
        let parsed = parse::parse(self.pool.memory().head(packet), packet.total_size()).ip();
        let Some(meta) = parsed.filter(|_| is_local) else { return };
        let item = Item::of(meta, Way::Out, Origin::Local);
        self.drop_and_tell(context, place, &item, (DropReason::NeighbourUnknown, Cause::AddressUnreachable));
    }
}
