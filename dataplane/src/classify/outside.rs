//! Clients outside that ask a service of this node: a node port, a load balancer's or an external address, or a cluster
//! address from where it is routed here. The client is the "local end" of the flow that it opens: who asks stands on one
//! side, who serves on the other, as for a pod that asks. Must not judge by egress policies: the client is no pod.

use super::service::Choose;
use super::{Client, Context, Decision, Masquerade, Origin, direct, egress, policy, route, service};
use tables::counters::DropReason;
use tables::endpoint::{EndpointKind, EndpointRecord};
use tables::flow::{HopKind, Tuple};
use tables::layout::Table;
use tables::owner::Worker;
use tables::policy::Direction;
use tables::scope::Scope;
use tables::service::{FLAG_DIRECT, ServiceKey, ServiceRecord};
use tables::{Addr, Protocol, View};

/// Whether a packet from outside to this end asks a service. Pods' addresses never do.
pub fn is_service(view: &View, addr: Addr, port: u16, protocol: Protocol) -> bool {
    let is_row = |key| view.find::<ServiceKey, ServiceRecord>(Table::Service, &key).is_some();
    is_row(ServiceKey::new(addr, port, protocol)) || is_row(ServiceKey::address(addr))
}

/// What an established flow has and does not lose because a service is to be served otherwise from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    pub backend: (Addr, u16),
    /// Its client's address is not masqueraded.
    pub is_direct: bool,
}

/// Judges a flow that a client outside opens to a service; `worker` keeps it.
pub fn from_outside(
    context: &Context,
    tuple: &Tuple,
    worker: Worker,
    choose: &mut impl Choose,
    keep: Option<Kept>,
) -> Decision {
    let decision = Decision { client: Some(worker), ..Decision::new(tuple, true) };
    let decision = match back_to_client(context, tuple, decision) {
        Ok(decision) => decision,
        Err(ended) => return ended,
    };
    let backend = keep.map(|kept| kept.backend);
    let decision = match service::translate(context, tuple, Client::Outside, choose, backend, decision) {
        Ok(decision) if decision.service.is_none() => return decision.drop(DropReason::ServiceUnknown),
        Ok(decision) => decision,
        Err(ended) => return ended,
    };
    let decision = match route::towards(context, decision) {
        Ok(decision) => decision,
        Err(ended) => return ended,
    };
    let masquerade = egress::masquerade(context, tuple, Client::Outside, &decision);
    let is_told = decision.service.is_some_and(|service| service.flags & FLAG_DIRECT != 0);
    let is_direct = masquerade != Masquerade::No && keep.map_or(is_told, |kept| kept.is_direct);
    if is_direct && let Some(direct) = direct::keep_client(context, tuple, decision) {
        return direct;
    }
    let decision = Decision { masquerade, ..decision };
    if masquerade != Masquerade::No && decision.out.kind() == HopKind::Endpoint {
        return judge_at_backend(context, tuple, decision);
    }
    decision
}

/// Sees that the client may be where it is, and sets the hop back to it. One whose neighbour is unknown is asked for
/// before anything is sent on: its answers could not be delivered.
fn back_to_client(context: &Context, tuple: &Tuple, decision: Decision) -> Result<Decision, Decision> {
    let client = Decision { remote: tuple.local, ..decision };
    let Some((id, row)) = route::find(&context.view, tuple.local) else {
        return Err(client.drop(DropReason::NoRoute));
    };
    let client = Decision { route: Some(id), ..client };
    if let Some(reason) = route::forged(Origin::Uplink, &row) {
        return Err(client.drop(reason));
    }
    match route::hop(context, tuple.local, id, &row) {
        Ok(back) => Ok(Decision { back, beside: Some(Scope::Route(id)), ..decision }),
        Err(reason) => Err(client.drop(reason)),
    }
}

/// Judges a pod of this node that serves behind a masquerade by who really asks.
pub(super) fn judge_at_backend(context: &Context, tuple: &Tuple, decision: Decision) -> Decision {
    let found: Option<EndpointRecord> = context.view.find(Table::Endpoint, &decision.remote);
    let Some(backend) = found.filter(|e| e.kind() == Some(EndpointKind::Pod)) else { return decision };
    let (asker, set) = (policy::identity(&context.view, tuple.local), backend.policy_set);
    let judged = policy::judge(&context.view, set, Direction::Ingress, asker, tuple.protocol, decision.remote_port);
    let judged = if decision.remote == tuple.local { judged.of_itself() } else { judged };
    let decision = match decision.policy_set {
        // What the asking pod's identity changes, changes its own policy set too.
        Some(_) => Decision { beside: Some(Scope::PolicySet(set)), ..decision },
        None => Decision { policy_set: Some(set), identity: asker, ..decision },
    };
    if judged.allowed {
        return decision;
    }
    decision.judged(judged, Direction::Ingress).drop(DropReason::PolicyIngress)
}
