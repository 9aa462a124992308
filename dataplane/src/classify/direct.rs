//! Direct server return: a client outside keeps its address, and the node of its backend answers it by itself. Whether that
//! can be for a flow, and the way to that node. Must not look at what a service wishes.

use super::{Context, Decision, Masquerade};
use tables::Addr;
use tables::endpoint::{EndpointKind, EndpointRecord};
use tables::flow::{Hop, HopKind, Tuple};
use tables::layout::Table;
use tables::node::PeerRecord;
use tables::route::RouteRecord;

/// Has the client of a flow keep its address. False: it cannot, for its backend is no pod of a node that knows of this, or
/// the client is a node, which takes no packets of its own from another.
pub fn keep_client(context: &Context, tuple: &Tuple, decision: &mut Decision) -> bool {
    let out = match decision.out.kind() {
        HopKind::Endpoint if is_pod(context, decision.remote) => decision.out,
        HopKind::Tunnel | HopKind::Uplink => match way_to_node(context, tuple, decision.route) {
            Some(out) => out,
            None => return false,
        },
        _ => return false,
    };
    (decision.out, decision.masquerade) = (out, Masquerade::No);
    true
}

/// The way to the node of a backend that has this route.
fn way_to_node(context: &Context, tuple: &Tuple, route: Option<u32>) -> Option<Hop> {
    let id = route?;
    let route: RouteRecord = context.view.row(Table::Route, id as usize);
    let goes = !route.peer.is_unspecified() && context.node.direct_port != 0;
    (goes && !is_peer(context, tuple.local)).then(|| Hop::new(HopKind::Direct, id))
}

/// Whether another node has this address.
pub fn is_peer(context: &Context, addr: Addr) -> bool {
    context.view.find::<Addr, PeerRecord>(Table::Peer, &addr).is_some()
}

fn is_pod(context: &Context, addr: Addr) -> bool {
    let found: Option<EndpointRecord> = context.view.find(Table::Endpoint, &addr);
    found.is_some_and(|endpoint| endpoint.kind() == Some(EndpointKind::Pod))
}
