//! Out of the uplink: cut what is too large for a wire, complete checksums, encapsulate, address the next hop.

use super::forward::Path;
use super::item::Item;
use super::tunnels::{Place, Tunnels};
use crate::classify::Context;
use crate::cut;
use crate::flow::Way;
use crate::io::frames::Memory;
use crate::io::pool::FramePool;
use crate::overlay;
use crate::packet::{Checksum, Gso, Packet};
use crate::parse::Meta;
use crate::rewrite;
use crate::segment;
use tables::counters::{DropReason, WorkerCounter};
use tables::flow::{FLAG_DIRECT, Hop, HopKind};
use tables::layout::Table;
use tables::neighbour::NeighbourRecord;
use tables::{Addr, Mac, Protocol};

/// What cuts a packet into parts of a size, which it appends.
type Cut = fn(&mut FramePool, Packet, &Meta, usize, &mut Vec<(Packet, Meta)>) -> Option<DropReason>;

/// How a packet leaves the node.
#[derive(Clone, Copy, Debug)]
pub enum NextHop {
    /// It does not.
    Inside,
    /// Plainly, to this Ethernet address.
    Plain(Mac),
    /// Encapsulated to a peer.
    Tunnel(Place),
}

impl NextHop {
    /// Bytes that it puts in front of an IP packet.
    fn overhead(&self) -> usize {
        if let NextHop::Tunnel(place) = self { place.size() } else { 0 }
    }
}

impl Path {
    /// Sends what a wire does not take as it is.
    #[cold]
    pub(super) fn fit_and_send(&mut self, context: &Context<'_>, mut packet: Packet, item: &Item, hop: &Hop) {
        let next_hop = match next_hop(&mut self.tunnels, context, hop) {
            Ok(next_hop) => next_hop,
            Err(_) => return self.drop_packet(packet, DropReason::NeighbourUnknown),
        };
        let ip_size_max = ip_size_max(context, &next_hop);
        if must_be_cut(self.pool.memory(), &packet, &item.meta, ip_size_max) {
            let segments = (segment::cut as Cut, WorkerCounter::SegmentsCut);
            return self.cut_and_send(context, packet, item, &next_hop, segments);
        }
        rewrite::complete_checksum(self.pool.memory(), &mut packet, &item.meta);
        packet.gso = Gso::None;
        if item.meta.ip_size() <= ip_size_max {
            return self.send_one(context, packet, &item.meta, item.hash, &next_hop);
        }
        if !cut::may_cut(self.pool.memory(), &packet, &item.meta) {
            return self.drop_packet(packet, DropReason::TooBig);
        }
        self.cut_and_send(context, packet, item, &next_hop, (cut::cut, WorkerCounter::FragmentsCut));
    }

    /// Sees that neither end of a connection through a tunnel sends segments that do not fit: the other end may not know
    /// of the tunnel, and what says so may not reach it.
    #[cold]
    pub(super) fn clamp_mss(
        &mut self,
        context: &Context<'_>,
        place: &mut Option<Packet>,
        item: &Item,
        (out, flags): (&Hop, u8),
    ) {
        let (Some(packet), Protocol::TCP) = (place, item.meta.protocol) else { return };
        let ip_size_max = match out.kind() {
            HopKind::Tunnel => match next_hop(&mut self.tunnels, context, out) {
                Ok(next_hop) => ip_size_max(context, &next_hop),
                Err(_) => return,
            },
            // What answers it comes through the tunnel of another node.
            HopKind::Uplink if flags & FLAG_DIRECT != 0 && item.way == Way::Out => {
                let overhead = overlay::direct::overhead(!context.node.node[0].is_unspecified(), item.meta.is_v4);
                (context.node.uplink_mtu as usize).saturating_sub(overhead)
            }
            _ => return,
        };
        let headers = if item.meta.is_v4 { 20 } else { 40 } + 20;
        let max = ip_size_max.saturating_sub(headers) as u16;
        let checksum = packet.checksum;
        rewrite::clamp_mss(self.pool.memory().head_mut(packet), &item.meta, max, checksum);
    }

    /// Cuts a packet, and sends and counts the parts.
    fn cut_and_send(
        &mut self,
        context: &Context<'_>,
        packet: Packet,
        item: &Item,
        next_hop: &NextHop,
        (cut, counter): (Cut, WorkerCounter),
    ) {
        let mut parts = std::mem::take(&mut self.parts);
        if let Some(reason) = cut(&mut self.pool, packet, &item.meta, ip_size_max(context, next_hop), &mut parts) {
            self.status().count_drop(reason, 1);
        }
        self.status().count(counter, parts.len() as u64);
        for (part, meta) in parts.drain(..) {
            self.send_one(context, part, &meta, item.hash, next_hop);
        }
        self.parts = parts;
    }

    /// Sends a packet that fits, with what stands in front of it.
    pub(super) fn send_one(
        &mut self,
        context: &Context<'_>,
        mut packet: Packet,
        meta: &Meta,
        flow_hash: u64,
        next_hop: &NextHop,
    ) {
        if !packet.push_front(next_hop.overhead()) {
            return self.drop_packet(packet, DropReason::Oversized);
        }
        let total = packet.total_size();
        let bytes = self.pool.memory().head_mut(&mut packet);
        address(context, &self.tunnels, (bytes, total), meta, flow_hash, next_hop);
        self.send(context.node.uplink, packet);
    }
}

/// Bytes of the outer headers of a packet that can leave by the uplink as it is; None if it cannot, or need not.
#[inline(always)]
pub(super) fn room_in_front(context: &Context<'_>, packet: &Packet, meta: &Meta, next_hop: &NextHop) -> Option<usize> {
    let partial = matches!(packet.checksum, Checksum::Partial { .. });
    let plain = packet.gso == Gso::None && !partial;
    let overhead = match next_hop {
        NextHop::Inside => return None,
        NextHop::Plain(_) => 0,
        NextHop::Tunnel(place) => place.size(),
    };
    (plain && meta.ip_size() + overhead <= context.node.uplink_mtu as usize).then_some(overhead)
}

/// Writes what stands in front of the IP packet, for which there is room: `bytes` begin with it, of a packet of `total`.
#[inline(always)]
pub(super) fn address(
    context: &Context<'_>,
    tunnels: &Tunnels,
    (bytes, total): (&mut [u8], usize),
    meta: &Meta,
    flow_hash: u64,
    next_hop: &NextHop,
) {
    match *next_hop {
        NextHop::Plain(mac) => rewrite::set_macs(bytes, context.node.uplink_mac, mac),
        NextHop::Tunnel(place) => {
            let traffic_class = rewrite::traffic_class(&bytes[place.size()..], meta);
            if let Some(headers) = tunnels.headers(place) {
                headers.write(bytes, total, flow_hash, traffic_class);
            }
        }
        NextHop::Inside => {}
    }
}

/// Resolves a hop; `Err` is the address whose neighbour is not known yet.
#[inline(always)]
pub(super) fn next_hop(tunnels: &mut Tunnels, context: &Context<'_>, hop: &Hop) -> Result<NextHop, Addr> {
    match hop.kind() {
        HopKind::Tunnel => tunnels.find(context, hop.target).map(NextHop::Tunnel),
        HopKind::Uplink => {
            let next: NeighbourRecord = context.view.row(Table::Neighbour, hop.target as usize);
            next.is_resolved().then_some(NextHop::Plain(next.mac)).ok_or(next.addr)
        }
        _ => Ok(NextHop::Inside),
    }
}

/// How large an IP packet may be, if this one is larger and may not be cut: RFC 1191 (don't fragment), RFC 8200 5.
#[cold]
pub(super) fn too_big(
    context: &Context<'_>,
    packet: &Packet,
    memory: &Memory,
    meta: &Meta,
    next_hop: NextHop,
) -> Option<u16> {
    let max = ip_size_max(context, &next_hop);
    let size = match packet.gso {
        Gso::None if cut::is_allowed(memory.head(packet), meta) => return None,
        Gso::None => meta.ip_size(),
        // Cut into what fits, whatever that is.
        Gso::Tcp4(_) | Gso::Tcp6(_) => return None,
        Gso::Udp(size) => meta.l4 as usize - meta.l3 as usize + 8 + size as usize,
    };
    (size > max).then_some(max as u16)
}

/// Bytes of the largest IP packet that this way out takes.
#[inline(always)]
fn ip_size_max(context: &Context<'_>, next_hop: &NextHop) -> usize {
    (context.node.uplink_mtu as usize).saturating_sub(next_hop.overhead())
}

/// Whether it is more than the one packet that it may become: its sender knows what the other end, or a link on the way,
/// takes at once.
fn must_be_cut(memory: &Memory, packet: &Packet, meta: &Meta, ip_size_max: usize) -> bool {
    match packet.gso {
        Gso::None => false,
        Gso::Tcp4(size) | Gso::Tcp6(size) => {
            let words = memory.head(packet).get(meta.l4 as usize + 12).map_or(0, |offset| offset >> 4);
            let payload = (meta.end as usize).saturating_sub(meta.l4 as usize + words as usize * 4);
            payload > size as usize || meta.ip_size() > ip_size_max
        }
        Gso::Udp(_) => true,
    }
}
