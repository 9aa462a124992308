//! The short way of most packets: TCP or UDP over IPv4 in one frame, amid a flow that is known and current, and that goes
//! out of an interface as it is. All that would make it another kind of packet is asked first, so that what is left is a
//! straight run of stores. Decides nothing that [`forward`](super::forward) would decide otherwise: where it says no,
//! nothing was done, and that way is taken.

use super::forward::{Item, Path, To, came_forged, tuple};
use super::tunnels::Tunnels;
use crate::classify::{Context, Origin};
use crate::flow::{FlowId, Way, note};
use crate::overlay::OuterHeaders;
use crate::packet::Packet;
use crate::parse::{Kind, Meta, PLAIN_L3, PLAIN_L4, tcp_flag};
use crate::rewrite::{self, Change};
use crate::worker::interfaces::Interfaces;
use tables::flow::{FLAG_CLIENT, FLAG_TRANSLATED, FlowRecord, Hop, HopKind};
use tables::layout::Table;
use tables::neighbour::NeighbourRecord;
use tables::{Mac, Protocol};

/// What stands in front of a packet where it goes.
enum Front<'t> {
    Tunnel(&'t OuterHeaders),
    /// Source and destination.
    Ethernet(Mac, Mac),
    /// What does already: another half of its flow is next.
    Same,
}

impl Front<'_> {
    /// Bytes that the packet grows by.
    #[inline(always)]
    fn size(&self) -> usize {
        if let Front::Tunnel(headers) = self { headers.size() } else { 0 }
    }

    /// Writes it, of a packet of `total` bytes whose inner headers have this traffic class.
    #[inline(always)]
    fn write(&self, bytes: &mut [u8], total: usize, flow_hash: u64, traffic_class: u8) {
        match self {
            Front::Tunnel(headers) => headers.write(bytes, total, flow_hash, traffic_class),
            Front::Ethernet(src, dst) => rewrite::set_macs(bytes, *src, *dst),
            Front::Same => {}
        }
    }
}

impl Path {
    /// Does all that is to be done to a packet whose headers are plain. False: nothing was done, it is not one of these.
    #[inline(always)]
    pub(super) fn pass_plainly(&mut self, context: &Context<'_>, place: &mut Option<Packet>, item: &mut Item) -> bool {
        // Once for each, so that the compiler knows which half of a record is meant.
        match item.way {
            Way::Out => self.pass::<true>(context, place, item),
            Way::Back => self.pass::<false>(context, place, item),
        }
    }

    #[inline(always)]
    fn pass<const OUT: bool>(&mut self, context: &Context<'_>, place: &mut Option<Packet>, item: &mut Item) -> bool {
        let Path { flows, scopes, tunnels, interfaces, pool, now_ms, .. } = self;
        let (way, meta) = (if OUT { Way::Out } else { Way::Back }, plain(&item.meta));
        let (Some(id), Some(packet)) = (item.likely, place.as_mut()) else { return false };
        let record = flows.record_mut(id);
        let goes_on = packet.is_simple() && is_amid(&meta) && !(item.enters && meta.ttl <= 1);
        if !goes_on || !record.is_of(&tuple(&meta, way), OUT) || !scopes.is_current(&record.scopes) {
            return false;
        }
        let hop = record.hop(OUT);
        if !item.origin.is_here() && !may_come(context, record, way, item.origin) {
            return false;
        }
        let Some((interface, front)) = way_out(context, tunnels, interfaces, &hop) else { return false };
        let size = front.size();
        let fits = interface != context.node.uplink || meta.ip_size() + size <= context.node.uplink_mtu as usize;
        if !fits || !packet.push_front(size) {
            return false;
        }
        let total = packet.total_size();
        let bytes = pool.memory().head_mut(packet);
        let Some(inner) = bytes.get_mut(size..) else {
            packet.pop_front(size);
            return false;
        };
        note(record, way, &meta, || &*inner, *now_ms);
        let change = (record.flags & FLAG_TRANSLATED != 0).then(|| Change::of_flow(record, way));
        let traffic_class = rewrite::forward_plain(inner, meta.protocol == Protocol::UDP, change.as_ref(), item.enters);
        front.write(bytes, total, item.hash, traffic_class);
        if let Front::Same = front {
            self.go_on_to(place, item, id);
        } else {
            item.to = To::Interface(interface);
        }
        true
    }

    /// To the other half of a flow that was applied, of another local end.
    #[inline(never)]
    fn go_on_to(&mut self, place: &mut Option<Packet>, item: &mut Item, id: FlowId) {
        let record = self.flows.record(id);
        let change = (record.flags & FLAG_TRANSLATED != 0).then(|| Change::of_flow(record, item.way));
        let hop = record.hop(item.way == Way::Out);
        self.go_on_inside(place, item, &hop, HopKind::Endpoint, change.as_ref());
    }
}

/// The same, said once more where the compiler can see it.
#[inline(always)]
fn plain(meta: &Meta) -> Meta {
    Meta { is_v4: true, kind: Kind::Transport, l3: PLAIN_L3, l4: PLAIN_L4, ..*meta }
}

/// Whether a packet neither opens nor ends a connection.
#[inline(always)]
fn is_amid(meta: &Meta) -> bool {
    const NEWS: u8 = tcp_flag::SYN | tcp_flag::FIN | tcp_flag::RST;
    meta.protocol == Protocol::UDP || meta.tcp_flags & (NEWS | tcp_flag::ACK) == tcp_flag::ACK
}

/// Whether a packet that enters this node may be its flow's.
#[inline(always)]
fn may_come(context: &Context<'_>, record: &FlowRecord, way: Way, origin: Origin) -> bool {
    match way {
        Way::Out => record.flags & FLAG_CLIENT != 0,
        Way::Back => came_forged(context, record, origin).is_none(),
    }
}

/// Out of which interface a hop leads, and behind what; None if that takes more than to know it.
#[inline(always)]
fn way_out<'t>(
    context: &Context<'_>,
    tunnels: &'t Tunnels,
    interfaces: &Interfaces,
    hop: &Hop,
) -> Option<(u32, Front<'t>)> {
    let node = context.node;
    if hop.is(HopKind::Tunnel) {
        return tunnels.kept(context, hop.target).map(|headers| (node.uplink, Front::Tunnel(headers)));
    }
    if hop.is(HopKind::Interface) {
        return interfaces.get(hop.target).map(|slot| (hop.target, Front::Ethernet(node.gateway_mac, slot.mac)));
    }
    if hop.is(HopKind::Endpoint) {
        return Some((hop.target, Front::Same));
    }
    if !hop.is(HopKind::Uplink) {
        return None;
    }
    let next: NeighbourRecord = context.view.row(Table::Neighbour, hop.target as usize);
    next.is_resolved().then_some((node.uplink, Front::Ethernet(node.uplink_mac, next.mac)))
}
