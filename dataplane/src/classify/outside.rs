//! Clients outside that ask a service of this node: a node port, a load balancer's or an external address, or a cluster
//! address from where it is routed here. The client is the "local end" of the flow that it opens: who asks stands on one
//! side, who serves on the other, as for a pod that asks. Must not judge by egress policies: the client is no pod.

use super::service::Choose;
use super::{Client, Context, Decision, Masquerade, Origin, Step, direct, egress, policy, route, service};
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
    let mut decision = Decision::new(tuple, true);
    let _ = judge_from_outside(context, tuple, worker, choose, keep, &mut decision);
    decision
}

/// The same into a new decision of that tuple.
#[inline(always)]
pub(crate) fn judge_from_outside(
    context: &Context,
    tuple: &Tuple,
    worker: Worker,
    choose: &mut impl Choose,
    keep: Option<Kept>,
    decision: &mut Decision,
) -> Step {
    decision.client = Some(worker);
    back_to_client(context, tuple, decision)?;
    let backend = keep.map(|kept| kept.backend);
    service::translate(context, tuple, Client::Outside, choose, backend, decision)?;
    let Some(service) = decision.service else { return decision.drop(DropReason::ServiceUnknown) };
    let route = route::towards(context, decision)?;
    decision.masquerade = egress::masquerade(context, tuple, Client::Outside, decision, &route);
    if decision.masquerade == Masquerade::No {
        return Ok(());
    }
    let is_direct = keep.map_or(service.flags & FLAG_DIRECT != 0, |kept| kept.is_direct);
    if is_direct && direct::keep_client(context, tuple, decision) {
        return Ok(());
    }
    if decision.out.kind() == HopKind::Endpoint {
        judge_at_backend(context, tuple, decision)?;
    }
    Ok(())
}

/// Sees that the client may be where it is, and sets the hop back to it. One whose neighbour is unknown is asked for
/// before anything is sent on: its answers could not be delivered.
fn back_to_client(context: &Context, tuple: &Tuple, decision: &mut Decision) -> Step {
    let found = route::find(&context.view, tuple.local);
    let back = match &found {
        None => Err(DropReason::NoRoute),
        Some((id, row)) => match route::forged(Origin::Uplink, row) {
            Some(reason) => Err(reason),
            None => route::hop(context, tuple.local, *id, row),
        },
    };
    let id = found.map(|(id, _)| id);
    match back {
        Ok(back) => {
            (decision.back, decision.beside) = (back, id.map(Scope::Route));
            Ok(())
        }
        Err(reason) => {
            // What is told then is about the client.
            (decision.remote, decision.route) = (tuple.local, id);
            decision.drop(reason)
        }
    }
}

/// Judges a pod of this node that serves behind a masquerade by who really asks.
pub(super) fn judge_at_backend(context: &Context, tuple: &Tuple, decision: &mut Decision) -> Step {
    let found: Option<EndpointRecord> = context.view.find(Table::Endpoint, &decision.remote);
    let Some(backend) = found.filter(|e| e.kind() == Some(EndpointKind::Pod)) else { return Ok(()) };
    let (asker, set) = (policy::identity(&context.view, tuple.local), backend.policy_set);
    let judged = policy::judge(&context.view, set, Direction::Ingress, asker, tuple.protocol, decision.remote_port);
    let judged = if decision.remote == tuple.local { judged.of_itself() } else { judged };
    if decision.policy_set.is_some() {
        // What the asking pod's identity changes, changes its own policy set too.
        decision.beside = Some(Scope::PolicySet(set));
    } else {
        (decision.policy_set, decision.identity) = (Some(set), asker);
    }
    if judged.allowed() {
        return Ok(());
    }
    decision.note_judged(judged, Direction::Ingress);
    decision.drop(DropReason::PolicyIngress)
}
