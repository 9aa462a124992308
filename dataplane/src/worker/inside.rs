//! Out of the tunnels that are not the usual one (Geneve, IP in IP), and what a tunnel's outer header says of congestion.

use super::forward::Path;
use super::look::Place;
use crate::classify::{self, Context, Origin};
use crate::overlay;
use crate::packet::Packet;
use crate::parse::{ETHERNET_BYTES, Meta};
use crate::rewrite;
use tables::Addr;
use tables::counters::DropReason;
use tables::route::{RouteKind, RouteRecord};

impl Path {
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
