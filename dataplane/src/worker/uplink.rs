//! Out of the uplink: cut what is too large for a wire, complete checksums, encapsulate, address the next hop.

use super::forward::{Item, Path};
use crate::classify::Context;
use crate::overlay::{self, OUTER_V4_BYTES, Outer};
use crate::packet::{Gso, Packet};
use crate::parse::{ETHERNET_BYTES, Meta};
use crate::rewrite;
use crate::segment;
use tables::counters::{DropReason, WorkerCounter};
use tables::flow::{Hop, HopKind};
use tables::layout::Table;
use tables::neighbour::NeighbourRecord;
use tables::node::family;
use tables::route::RouteRecord;
use tables::{Addr, Mac};

/// How a packet leaves the node.
#[derive(Clone, Copy, Debug)]
pub enum NextHop {
    /// It does not.
    Inside,
    /// Plainly, to this Ethernet address.
    Plain(Mac),
    /// Encapsulated to a peer, by this Ethernet address.
    Tunnel { peer: Addr, mac: Mac },
}

impl Path {
    /// Resolves a hop; `Err` is the address whose neighbour is not known yet.
    #[inline]
    pub(super) fn next_hop(&self, context: &Context<'_>, hop: &Hop) -> Result<NextHop, Addr> {
        let neighbour = |index: u32| -> NeighbourRecord { context.view.row(Table::Neighbour, index as usize) };
        match hop.kind() {
            HopKind::Tunnel => {
                let route: RouteRecord = context.view.row(Table::Route, hop.target as usize);
                let next = neighbour(route.next_hop);
                let asked = if next.addr.is_unspecified() { route.peer } else { next.addr };
                let resolved = next.is_resolved().then_some(NextHop::Tunnel { peer: route.peer, mac: next.mac });
                resolved.ok_or(asked)
            }
            HopKind::Uplink => {
                let next = neighbour(hop.target);
                next.is_resolved().then_some(NextHop::Plain(next.mac)).ok_or(next.addr)
            }
            _ => Ok(NextHop::Inside),
        }
    }

    /// Sends by the uplink.
    pub(super) fn send_uplink(&mut self, context: &Context<'_>, mut item: Item, next_hop: &NextHop) {
        let overhead = if let NextHop::Tunnel { .. } = next_hop { OUTER_V4_BYTES } else { 0 };
        let ip_size_max = (context.node.uplink_mtu as usize).saturating_sub(overhead);
        if must_be_cut(item.packet.gso, item.meta.ip_size(), ip_size_max) {
            return self.cut_and_send(context, item, next_hop, ip_size_max);
        }
        if item.packet.is_chained() || item.meta.ip_size() > ip_size_max {
            return self.drop_packet(item.packet, DropReason::TooBig);
        }
        rewrite::complete_checksum(self.pool.memory(), &mut item.packet, &item.meta);
        item.packet.gso = Gso::None;
        self.send_one(context, item.packet, &item.meta, next_hop);
    }

    fn cut_and_send(&mut self, context: &Context<'_>, item: Item, next_hop: &NextHop, ip_size_max: usize) {
        let mut segments = std::mem::take(&mut self.segments);
        if let Some(reason) = segment::cut(&mut self.pool, item.packet, &item.meta, ip_size_max, &mut segments) {
            self.status().count_drop(reason, 1);
        }
        self.status().count(WorkerCounter::SegmentsCut, segments.len() as u64);
        for (packet, meta) in segments.drain(..) {
            self.send_one(context, packet, &meta, next_hop);
        }
        self.segments = segments;
    }

    #[inline]
    fn send_one(&mut self, context: &Context<'_>, mut packet: Packet, meta: &Meta, next_hop: &NextHop) {
        let node = context.node;
        let memory = self.pool.memory();
        match *next_hop {
            NextHop::Plain(mac) => rewrite::set_macs(memory.head_mut(&mut packet), node.uplink_mac, mac),
            NextHop::Tunnel { peer, mac } => {
                let bytes = memory.head_mut(&mut packet);
                let own = node.node[family(peer)];
                rewrite::set_macs(bytes, overlay::inner_mac(own), overlay::inner_mac(peer));
                let outer = Outer {
                    src_mac: node.uplink_mac,
                    dst_mac: mac,
                    src: own,
                    dst: peer,
                    tunnel_port: node.tunnel_port,
                    vni: node.vni,
                    flow_hash: self.flows.hash(&meta.from_local()),
                    tos: rewrite::traffic_class(bytes, meta),
                };
                if !rewrite::encapsulate(memory, &mut packet, &outer) {
                    return self.drop_packet(packet, DropReason::Oversized);
                }
            }
            NextHop::Inside => return self.drop_packet(packet, DropReason::NoRoute),
        }
        self.send(node.uplink, packet);
    }
}

/// A TCP super-frame that fits a wire is a segment; datagrams stay the datagrams that they were.
fn must_be_cut(gso: Gso, ip_size: usize, ip_size_max: usize) -> bool {
    match gso {
        Gso::None => false,
        Gso::Tcp4(_) | Gso::Tcp6(_) => ip_size > ip_size_max,
        Gso::Udp(_) => true,
    }
}

const _: () = assert!(OUTER_V4_BYTES >= ETHERNET_BYTES);
