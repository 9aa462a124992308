//! Routes: where a flow goes, and where its packets may come from.

use super::{Context, Decision, Ended, Origin, Step, Verdict};
use bytemuck::Zeroable;
use tables::counters::DropReason;
use tables::endpoint::EndpointRecord;
use tables::flow::{Hop, HopKind};
use tables::layout::Table;
use tables::lpm::Lpm;
use tables::route::{RouteKind, RouteRecord};
use tables::{Addr, View};

/// The route of an address: its id and row.
#[inline(always)]
pub fn find(view: &View, addr: Addr) -> Option<(u32, RouteRecord)> {
    let id = view.longest_match(Lpm::Route, addr)? as u32;
    Some((id, view.row(Table::Route, id as usize)))
}

/// The hop towards the decision's remote end; its route.
#[inline(always)]
pub(super) fn towards(context: &Context, decision: &mut Decision) -> Result<RouteRecord, Ended> {
    let Some((id, route)) = find(&context.view, decision.remote) else {
        decision.verdict = Verdict::Drop(DropReason::NoRoute);
        return Err(Ended);
    };
    decision.route = Some(id);
    match hop(context, decision.remote, id, &route) {
        Ok(out) => decision.out = out,
        Err(reason) => decision.drop(reason)?,
    }
    Ok(route)
}

/// The hop to an address by its route, whose id this is.
#[inline(always)]
pub fn hop(context: &Context, remote: Addr, id: u32, route: &RouteRecord) -> Result<Hop, DropReason> {
    match route.kind() {
        Some(RouteKind::Local | RouteKind::Host) => {
            let endpoint: Option<EndpointRecord> = context.view.find(Table::Endpoint, &remote);
            let interface = endpoint.map_or(context.node.host_interface, |e| e.interface);
            Ok(Hop::new(HopKind::Endpoint, interface))
        }
        Some(RouteKind::Tunnel | RouteKind::Ipip) => Ok(Hop::new(HopKind::Tunnel, id)),
        Some(RouteKind::Via) => Ok(Hop::new(HopKind::Uplink, route.next_hop)),
        // Nobody on the link has that address yet: control resolves it and publishes a host route.
        Some(RouteKind::OnLink) => Err(DropReason::NeighbourUnknown),
        Some(RouteKind::Blackhole) => Err(DropReason::Blackhole),
        Some(RouteKind::Services) => Err(DropReason::ServiceUnknown),
        None => Err(DropReason::NoRoute),
    }
}

/// Checks that a packet from `decision.remote` may come from `origin`, and sets the hop back to it.
pub(super) fn back_to(context: &Context, origin: Origin, decision: &mut Decision) -> Step {
    let found = find(&context.view, decision.remote);
    let route = found.map_or(RouteRecord::zeroed(), |(_, route)| route);
    decision.route = found.map(|(id, _)| id);
    if let Some(reason) = forged(origin, &route) {
        return decision.drop(reason);
    }
    // A remote end that cannot be answered now is still heard.
    let id = decision.route.unwrap_or(0);
    if let Origin::Client(worker) = origin
        && !matches!(route.kind(), Some(RouteKind::Local | RouteKind::Host))
    {
        // Its answers are translated by the client's half of the flow.
        (decision.out, decision.client) = (Hop::new(HopKind::Endpoint, context.node.uplink), Some(worker));
        return Ok(());
    }
    decision.out = hop(context, decision.remote, id, &route).unwrap_or_else(|reason| Hop::drop(reason, 0));
    Ok(())
}

/// Why a source with this route cannot have come from there.
pub fn forged(origin: Origin, route: &RouteRecord) -> Option<DropReason> {
    use RouteKind::*;
    match (origin, route.kind()) {
        (Origin::Local | Origin::Client(_), _) => None,
        (Origin::Tunnel(peer), Some(Tunnel | Ipip)) if route.peer == peer => None,
        (Origin::Tunnel(_), _) => Some(DropReason::TunnelPeer),
        (Origin::Uplink | Origin::Direct(_), Some(Local | Tunnel | Ipip | Host | Services | Blackhole)) => {
            Some(DropReason::ForgedOutside)
        }
        // Another node's pod, where they come as they are.
        (Origin::Direct(_), _) if !route.peer.is_unspecified() => Some(DropReason::ForgedOutside),
        (Origin::Uplink | Origin::Direct(_), _) => None,
    }
}

/// Why a claimed packet to an address without endpoint is dropped; None: it is the node's kernel's.
pub fn stray(context: &Context, dst: Addr) -> Option<DropReason> {
    match find(&context.view, dst).and_then(|(_, route)| route.kind()) {
        Some(RouteKind::Blackhole) => Some(DropReason::Blackhole),
        Some(RouteKind::Services) => Some(DropReason::ServiceUnknown),
        Some(RouteKind::Tunnel | RouteKind::Ipip) => Some(DropReason::NoRoute),
        _ => None,
    }
}
