//! Egress translation: whose address a flow bears outside.

use super::{Client, Context, Decision, Masquerade};
use tables::flow::{HopKind, Tuple};
use tables::node::family;
use tables::route::{FLAG_MASQUERADE, RouteRecord};
use tables::service::{FLAG_MASQUERADE_ALL, FLAG_MASQUERADE_OUTSIDE};

/// Decides, after service and route (this one):
/// - a pod that reaches itself through a service, the host reaching a service, and whoever asks one that says so, speak
///   as `snat`, so that the answer comes back through here; as the node to a backend outside the cluster, which knows no
///   other way;
/// - the host speaking into the tunnel from another than its `host` address does so too;
/// - a pod that leaves the cluster speaks as the node.
#[inline(always)]
pub fn masquerade(
    context: &Context,
    tuple: &Tuple,
    client: Client,
    decision: &Decision,
    route: &RouteRecord,
) -> Masquerade {
    let family = family(tuple.local);
    let leaves = decision.out.kind() == HopKind::Uplink && route.flags & FLAG_MASQUERADE != 0;
    let snat = Masquerade::As(context.node.snat[family]);
    if let Some(service) = decision.service {
        let hairpin = decision.remote == tuple.local;
        if hairpin || is_told(client, service.flags) {
            return if leaves { Masquerade::As(context.node.node[family]) } else { snat };
        }
    }
    if client == Client::Outside {
        return Masquerade::No;
    }
    if client == Client::Node {
        let elsewhere = decision.out.kind() == HopKind::Tunnel && tuple.local != context.node.host[family];
        return if elsewhere { snat } else { Masquerade::No };
    }
    if leaves { Masquerade::As(context.node.node[family]) } else { Masquerade::No }
}

/// Whether a service's row has its clients of this kind masqueraded.
#[inline(always)]
fn is_told(client: Client, flags: u16) -> bool {
    match client {
        Client::Node => true,
        Client::Pod => flags & FLAG_MASQUERADE_ALL != 0,
        Client::Outside => is_told_outside(flags),
    }
}

/// Whether it has clients outside masqueraded.
#[inline(always)]
pub(super) fn is_told_outside(flags: u16) -> bool {
    flags & (FLAG_MASQUERADE_ALL | FLAG_MASQUERADE_OUTSIDE) != 0
}
