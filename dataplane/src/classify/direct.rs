//! Direct server return: a client outside keeps its address, and the node of its backend answers it by itself. Whether that
//! can be for a flow, and the way to that node. Must not look at what a service wishes.

use super::{Context, Decision, Masquerade};
use tables::Addr;
use tables::endpoint::{EndpointKind, EndpointRecord};
use tables::flow::{Hop, HopKind, Tuple};
use tables::layout::Table;
use tables::node::PeerRecord;
use tables::route::RouteRecord;

/// The decision by which the client of a flow keeps its address. None: it cannot, for its backend is no pod of a node that
/// knows of this, or the client is a node, which takes no packets of its own from another.
pub fn keep_client(context: &Context, tuple: &Tuple, decision: Decision) -> Option<Decision> {
    let direct = Decision { masquerade: Masquerade::No, ..decision };
    match decision.out.kind() {
        HopKind::Endpoint => is_pod(context, decision.remote).then_some(direct),
        HopKind::Tunnel | HopKind::Uplink => {
            let id = decision.route?;
            let route: RouteRecord = context.view.row(Table::Route, id as usize);
            let goes = !route.peer.is_unspecified() && context.node.direct_port != 0;
            let out = Hop::new(HopKind::Direct, id);
            (goes && !is_peer(context, tuple.local)).then_some(Decision { out, ..direct })
        }
        _ => None,
    }
}

/// Whether another node has this address.
pub fn is_peer(context: &Context, addr: Addr) -> bool {
    context.view.find::<Addr, PeerRecord>(Table::Peer, &addr).is_some()
}

fn is_pod(context: &Context, addr: Addr) -> bool {
    let found: Option<EndpointRecord> = context.view.find(Table::Endpoint, &addr);
    found.is_some_and(|endpoint| endpoint.kind() == Some(EndpointKind::Pod))
}
