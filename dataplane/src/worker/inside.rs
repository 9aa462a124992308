//! Out of tunnels: plain VXLAN by a short way, Geneve and IP in IP; and what a tunnel's outer header says of congestion.

use super::forward::Path;
use super::look::Place;
use crate::classify::{self, Context, Origin};
use crate::overlay;
use crate::packet::{Checksum, Packet};
use crate::parse::{self, ETHERNET_BYTES, Meta, PLAIN_OUTER_BYTES};
use crate::rewrite;
use tables::Addr;
use tables::counters::DropReason;
use tables::node::{Encapsulation, NodeRecord};
use tables::route::{RouteKind, RouteRecord};

impl Path {
    /// Takes a plain VXLAN packet's outer headers off, and tells the peer and the traffic class that they named. None: it is
    /// another packet, or one that is refused, and is as it was.
    #[inline(always)]
    pub(super) fn take_out_plainly(&mut self, context: &Context<'_>, place: &mut Option<Packet>) -> Option<(Addr, u8)> {
        let packet = place.as_mut()?;
        let NodeRecord { node: [node_v4, _], tunnel_port, vni, .. } = context.node;
        let head = self.pool.memory().head(packet);
        let outer = parse::parse_plain_outer(head, packet.total_size(), *node_v4, *tunnel_port)?;
        let is_ours = outer.vni == *vni && context.node.encapsulation() == Encapsulation::Vxlan;
        if !is_ours || matches!(packet.checksum, Checksum::Partial { .. }) {
            return None;
        }
        packet.truncate(outer.end);
        packet.pop_front(PLAIN_OUTER_BYTES).then_some((outer.src, outer.traffic_class))
    }

    /// Decapsulates what else came through a tunnel. Given its `Meta`, and not lent it: what is lent lies in memory, and the
    /// usual way would wait for that.
    #[inline(never)]
    pub(super) fn take_out_any(&mut self, context: &Context<'_>, place: Place<'_>, meta: Meta) {
        if context.node.encapsulation() != Encapsulation::Vxlan {
            return self.take_out_of_geneve(context, place, &meta);
        }
        let vxlan = meta.l4 as usize + 8;
        let Some(packet) = place.packet else { return };
        let bytes = self.pool.memory().head(packet);
        let traffic_class = rewrite::traffic_class(bytes, &meta);
        match bytes.get(vxlan..).and_then(overlay::vni) {
            Some(vni) if vni == context.node.vni => {}
            Some(_) => return self.drop_from(place.packet, DropReason::TunnelNetwork),
            None => return self.drop_from(place.packet, DropReason::Malformed),
        }
        if !packet.pop_front(vxlan + overlay::TUNNEL_BYTES) {
            return self.drop_from(place.packet, DropReason::Truncated);
        }
        self.look_inside(context, place, Origin::Tunnel(meta.src), traffic_class);
    }

    #[inline(never)]
    pub(super) fn take_out_of_geneve(&mut self, context: &Context<'_>, place: Place<'_>, meta: &Meta) {
        let header = meta.l4 as usize + 8;
        let Some(packet) = place.packet else { return };
        let bytes = self.pool.memory().head(packet);
        let traffic_class = rewrite::traffic_class(bytes, meta);
        let geneve = match overlay::geneve(bytes.get(header..).unwrap_or_default()) {
            Ok(geneve) if geneve.vni == context.node.vni => geneve,
            Ok(_) => return self.drop_from(place.packet, DropReason::TunnelNetwork),
            Err(reason) => return self.drop_from(place.packet, reason),
        };
        if !packet.pop_front(header + geneve.size) {
            return self.drop_from(place.packet, DropReason::Truncated);
        }
        if geneve.is_direct {
            let option_size = geneve.size - overlay::TUNNEL_BYTES;
            return self.look_direct(context, place, meta.src, (option_size, traffic_class));
        }
        self.look_inside(context, place, Origin::Tunnel(meta.src), traffic_class);
    }

    /// Gives the inner packet an Ethernet header, so that it goes on as any other.
    #[inline(never)]
    pub(super) fn take_out_of_ip(&mut self, context: &Context<'_>, place: Place<'_>, meta: &Meta) {
        let Some(packet) = place.packet else { return };
        let traffic_class = rewrite::traffic_class(self.pool.memory().head(packet), meta);
        if !packet.pop_front(meta.l4 as usize - ETHERNET_BYTES) {
            return self.drop_from(place.packet, DropReason::Truncated);
        }
        rewrite::put_ethernet(self.pool.memory().head_mut(packet), meta.protocol.0 == overlay::IPV4_INSIDE);
        let Some((inner, _)) = self.parse_ip(place.packet) else { return };
        if !is_peer(context, inner.src, meta.src) {
            return self.drop_from(place.packet, DropReason::TunnelPeer);
        }
        self.look_inside(context, place, Origin::Tunnel(meta.src), traffic_class);
    }

    /// Congestion that was met in the tunnel is told by the inner packet. False: that cannot say so, and was dropped.
    #[cold]
    pub(super) fn tell_congestion(&mut self, place: &mut Option<Packet>, traffic_class: u8) -> bool {
        let Some((inner, _)) = self.parse_ip(place) else { return false };
        let Some(packet) = place else { return false };
        let bytes = self.pool.memory().head_mut(packet);
        match overlay::ecn(traffic_class, rewrite::traffic_class(bytes, &inner)) {
            Some(ecn) => rewrite::set_ecn(bytes, &inner, ecn),
            None => self.drop_from(place, DropReason::TunnelCongestion),
        }
        place.is_some()
    }
}

/// Whether packets from this address come by IP in IP from this node. No identifier says that they are of our network, so
/// that a node that is reached otherwise must not send them.
fn is_peer(context: &Context<'_>, src: Addr, outer_src: Addr) -> bool {
    let by_ip = |route: RouteRecord| route.kind() == Some(RouteKind::Ipip) && route.peer == outer_src;
    classify::route::find(&context.view, src).is_some_and(|(_, route)| by_ip(route))
}
