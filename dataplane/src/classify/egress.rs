//! Egress translation: whose address a flow bears outside.

use super::{Context, Decision, Masquerade};
use tables::endpoint::EndpointKind;
use tables::flow::{HopKind, Tuple};
use tables::layout::Table;
use tables::node::family;
use tables::route::{FLAG_MASQUERADE, RouteRecord};
use tables::service::FLAG_MASQUERADE_ALL;

/// Decides, after service and route:
/// - a pod that reaches itself through a service, and the host reaching a service, speak as `snat`, so that the answer
///   comes back through here;
/// - the host speaking into the tunnel from another than its `host` address does so too;
/// - a pod that leaves the cluster speaks as the node.
pub fn masquerade(context: &Context, tuple: &Tuple, kind: EndpointKind, decision: &Decision) -> Masquerade {
    let family = family(tuple.local);
    let snat = Masquerade::As(context.node.snat[family]);
    if let Some(service) = decision.service {
        let hairpin = decision.remote == tuple.local;
        if hairpin || kind == EndpointKind::Host || service.flags & FLAG_MASQUERADE_ALL != 0 {
            return snat;
        }
    }
    if kind == EndpointKind::Host {
        let elsewhere = decision.out.kind() == HopKind::Tunnel && tuple.local != context.node.host[family];
        return if elsewhere { snat } else { Masquerade::No };
    }
    let route: RouteRecord = context.view.row(Table::Route, decision.route.unwrap_or(0) as usize);
    if decision.out.kind() == HopKind::Uplink && route.flags & FLAG_MASQUERADE != 0 {
        return Masquerade::As(context.node.node[family]);
    }
    Masquerade::No
}
