//! The first packet of a flow: the look-ups in written order, ending in one [`Decision`] that the flow keeps. A pure
//! function of the pinned tables and the flow's tuple: `explain` calls the same functions, and so does a flow whose
//! scopes went stale. No packet bytes and no flow table here.
//!
//! From a local end: gateway and link-local, service, egress policy, route, egress translation.
//! From a client outside to a service: where it may come from, service, route, whether it keeps its address ([`direct`]),
//! egress translation ([`outside`]).
//! Towards a local end: the end itself, where the packet may come from, ingress policy, the way back.

pub mod again;
pub mod ahead;
pub mod direct;
pub mod egress;
pub mod outside;
pub mod ring;
pub mod route;
pub mod service;
pub mod whence;

use ahead::{Known, UNKNOWN};
use bytemuck::Zeroable;
use service::Choose;
use std::num::NonZeroU32;
use tables::counters::DropReason;
use tables::endpoint::{EndpointKind, EndpointRecord, FLAG_POLICY_IN_FORCE};
use tables::flow::{Hop, HopKind, Tuple};
pub use tables::judge as policy;
use tables::judge::Question;
use tables::judged::Judged;
use tables::layout::Table;
use tables::node::{NodeRecord, family};
use tables::owner::Worker;
use tables::policy::{Direction, place};
use tables::scope::Scope;
use tables::{Addr, View};

/// What a worker classifies with.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub view: View<'a>,
    pub node: &'a NodeRecord,
    /// Of the flow that is judged, if of one alone.
    pub known: &'a Known,
}

impl<'a> Context<'a> {
    pub fn new(view: View<'a>, node: &'a NodeRecord) -> Context<'a> {
        Context { view, node, known: &UNKNOWN }
    }
}

/// Where a packet towards a local end came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Out of a tunnel whose outer source is this address.
    Tunnel(Addr),
    /// The uplink, not encapsulated.
    Uplink,
    /// The node of this address, which a client outside asked: as it came there (direct server return).
    Direct(Addr),
    /// Another local end of this node, whose own half was judged before.
    Local,
    /// A client outside who asked a service, whose half of the flow this worker keeps.
    Client(Worker),
}

impl Origin {
    /// Whether the packet comes out of another half of its flow, and not into this node.
    #[inline(always)]
    pub fn is_here(self) -> bool {
        matches!(self, Origin::Local | Origin::Client(_))
    }
}

/// Who asks a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// A pod of this node.
    Pod,
    /// The node itself.
    Node,
    /// All others.
    Outside,
}

/// Which address the local end takes on outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Masquerade {
    No,
    /// A free port of this address, from the worker's block.
    As(Addr),
}

/// What becomes of a flow. `Forward` is the flow's; the others are the packet's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Forward,
    Drop(DropReason),
    /// A TCP reset, or an ICMP port unreachable.
    Reject,
    /// Answered by the node itself.
    Punt,
}

/// Everything that a flow keeps, and what `explain` tells.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision {
    pub verdict: Verdict,
    /// The remote end after service translation.
    pub remote: Addr,
    pub remote_port: u16,
    pub masquerade: Masquerade,
    pub out: Hop,
    pub back: Hop,
    pub opened_locally: bool,
    /// One end is a client outside who asked a service; the other half's decision names the worker that keeps the client's.
    pub client: Option<Worker>,
    pub service: Option<service::Match>,
    /// The policy that allowed or denied it, and which of its rules in which direction.
    pub policy: Option<NonZeroU32>,
    pub rule: Option<(Direction, u16)>,
    /// The policy would deny it, and is only being tried.
    pub is_audit: bool,
    pub policy_set: Option<u32>,
    pub identity: u32,
    /// The remote end's route.
    pub route: Option<u32>,
    /// What else it hangs on: the backend's policies, or the route to a client outside.
    pub beside: Option<Scope>,
}

/// The verdict is in the decision; nothing further is asked.
pub(crate) struct Ended;
/// A look-up that goes on to the next one, or not. Decisions are changed in their place: they are too large to be handed from
/// step to step.
pub(crate) type Step = Result<(), Ended>;

impl Decision {
    #[inline(always)]
    pub(crate) fn new(tuple: &Tuple, opened_locally: bool) -> Decision {
        Decision {
            verdict: Verdict::Forward,
            remote: tuple.remote,
            remote_port: tuple.remote_port,
            masquerade: Masquerade::No,
            out: Hop::zeroed(),
            back: Hop::zeroed(),
            opened_locally,
            client: None,
            service: None,
            policy: None,
            rule: None,
            is_audit: false,
            policy_set: None,
            identity: 0,
            route: None,
            beside: None,
        }
    }

    fn drop(&mut self, reason: DropReason) -> Step {
        self.end(Verdict::Drop(reason))
    }

    fn end(&mut self, verdict: Verdict) -> Step {
        self.verdict = verdict;
        Err(Ended)
    }

    fn note_judged(&mut self, judged: Judged, direction: Direction) {
        self.rule = judged.rule().map(|rule| (direction, rule));
        self.policy = judged.policy().and_then(NonZeroU32::new);
        self.is_audit = judged.is_audit();
    }

    /// What the flow must be looked at again for. Where five things would be named one goes without saying: a backend on
    /// this node has policies, or its route goes, when its endpoint changes, and that touches its policy set.
    #[inline(always)]
    pub fn scopes(&self) -> [Option<Scope>; 4] {
        let route = self.route.map(Scope::Route);
        let [second, last] = match (self.policy_set.map(Scope::PolicySet), self.beside) {
            (Some(own), Some(beside)) => [Some(own), Some(beside)],
            (None, Some(beside)) => [Some(beside), route],
            (own, None) => [own, route],
        };
        [self.service.map(|s| Scope::Service(s.id)), second, Some(Scope::Identity(self.identity)), last]
    }

    /// The tuple as the network sees it, before a masquerade's port is chosen.
    pub fn outside(&self, inside: &Tuple) -> Tuple {
        let local = match self.masquerade {
            Masquerade::No => inside.local,
            Masquerade::As(addr) => addr,
        };
        Tuple { local, remote: self.remote, remote_port: self.remote_port, ..*inside }
    }
}

/// Judges a flow that a local end opens. `choose` chooses among a service's backends; `keep` is the backend that an
/// established flow has.
pub fn from_local(
    context: &Context,
    tuple: &Tuple,
    interface: u32,
    choose: &mut impl Choose,
    keep: Option<(Addr, u16)>,
) -> Decision {
    let mut decision = Decision::new(tuple, true);
    let _ = judge_from_local(context, tuple, interface, choose, keep, &mut decision);
    decision
}

/// The same into a new decision of that tuple.
#[inline(always)]
pub(crate) fn judge_from_local(
    context: &Context,
    tuple: &Tuple,
    interface: u32,
    choose: &mut impl Choose,
    keep: Option<(Addr, u16)>,
    decision: &mut Decision,
) -> Step {
    let (local, kind) = match local_end(context, tuple, interface) {
        Ok(found) => found,
        Err(reason) => return decision.drop(reason),
    };
    if tuple.remote == context.node.gateway[family(tuple.remote)] {
        return decision.end(Verdict::Punt);
    }
    if is_link_local(tuple.remote) {
        return decision.drop(DropReason::LinkLocal);
    }
    let client = if kind == EndpointKind::Pod { Client::Pod } else { Client::Node };
    service::translate(context, tuple, client, choose, keep, decision)?;
    allow(context, &local, kind, Direction::Egress, tuple, decision)?;
    let route = route::towards(context, decision)?;
    decision.masquerade = egress::masquerade(context, tuple, client, decision, &route);
    decision.back = Hop::new(HopKind::Interface, local.interface);
    // Behind a masquerade the other half does not see who asks.
    if decision.masquerade != Masquerade::No && client == Client::Pod && decision.out.kind() == HopKind::Endpoint {
        outside::judge_at_backend(context, tuple, decision)?;
    }
    Ok(())
}

/// Judges a flow that is opened towards a local end.
pub fn to_local(context: &Context, tuple: &Tuple, origin: Origin) -> Decision {
    let mut decision = Decision::new(tuple, false);
    let _ = judge_to_local(context, tuple, origin, &mut decision);
    decision
}

/// The same into a new decision of that tuple.
#[inline(always)]
pub(crate) fn judge_to_local(context: &Context, tuple: &Tuple, origin: Origin, decision: &mut Decision) -> Step {
    let (local, kind) = match local_target(context, tuple, origin) {
        Target::End(local, kind) => (local, kind),
        Target::Host => return to_host(context, origin, decision),
        Target::Drop(reason) => return decision.drop(reason),
    };
    // The remote end's route is the way back and says where its packets may come from.
    route::back_to(context, origin, decision)?;
    allow(context, &local, kind, Direction::Ingress, tuple, decision)?;
    decision.back = Hop::new(HopKind::Interface, local.interface);
    Ok(())
}

/// Judges a claimed packet without flow of ours: the node's kernel gets it, unless its source is forged. The kernel
/// answers by itself, so there is no way out.
fn to_host(context: &Context, origin: Origin, decision: &mut Decision) -> Step {
    route::back_to(context, origin, decision)?;
    (decision.back, decision.out) = (Hop::new(HopKind::Interface, context.node.host_interface), Hop::zeroed());
    Ok(())
}

/// The sender, if it may speak from this address on this interface.
#[inline(always)]
fn local_end(context: &Context, tuple: &Tuple, interface: u32) -> Result<(EndpointRecord, EndpointKind), DropReason> {
    let found: Option<EndpointRecord> = context.view.find(Table::Endpoint, &tuple.local);
    if interface == context.node.host_interface {
        // The host may speak from any of its addresses; what it has no row for is the host all the same.
        let mut host = found.unwrap_or(EndpointRecord::new(EndpointKind::Host));
        host.interface = interface;
        return Ok((host, EndpointKind::Host));
    }
    let endpoint = found.filter(|e| e.interface == interface).ok_or(DropReason::SpoofedAddress)?;
    match endpoint.kind() {
        Some(EndpointKind::Pod) if endpoint.flags & FLAG_POLICY_IN_FORCE == 0 => Err(DropReason::PolicyPending),
        Some(EndpointKind::Pod) => Ok((endpoint, EndpointKind::Pod)),
        _ => Err(DropReason::SpoofedAddress),
    }
}

enum Target {
    End(EndpointRecord, EndpointKind),
    /// The node's kernel: claimed, but no flow of ours.
    Host,
    Drop(DropReason),
}

fn local_target(context: &Context, tuple: &Tuple, origin: Origin) -> Target {
    let Some(endpoint) = context.view.find::<Addr, EndpointRecord>(Table::Endpoint, &tuple.local) else {
        return match origin {
            Origin::Tunnel(_) | Origin::Direct(_) => Target::Drop(DropReason::TunnelStray),
            Origin::Uplink => route::stray(context, tuple.local).map_or(Target::Host, Target::Drop),
            Origin::Local | Origin::Client(_) => Target::Drop(DropReason::NoRoute),
        };
    };
    match endpoint.kind() {
        Some(EndpointKind::Pod) if endpoint.flags & FLAG_POLICY_IN_FORCE == 0 => {
            Target::Drop(DropReason::PolicyPending)
        }
        Some(EndpointKind::Pod) => Target::End(endpoint, EndpointKind::Pod),
        Some(_) if matches!(origin, Origin::Direct(_)) => Target::Drop(DropReason::TunnelStray),
        Some(EndpointKind::Host) => Target::End(endpoint, EndpointKind::Host),
        Some(EndpointKind::Node) if origin == Origin::Uplink => Target::Host,
        Some(EndpointKind::Node) if origin.is_here() => {
            let mut host = endpoint;
            host.interface = context.node.host_interface;
            Target::End(host, EndpointKind::Host)
        }
        Some(EndpointKind::Node) => Target::Drop(DropReason::TunnelStray),
        Some(EndpointKind::Snat | EndpointKind::Gateway) | None => Target::Drop(DropReason::NoFlow),
    }
}

/// Judges the pod's policies; the host has none, and a pod reaches its own address. What a service leads back to the pod
/// that asked is judged by cluster-wide policies alone.
#[inline(always)]
fn allow(
    context: &Context,
    local: &EndpointRecord,
    kind: EndpointKind,
    direction: Direction,
    tuple: &Tuple,
    decision: &mut Decision,
) -> Step {
    let identity = context.known.identity(&context.view, decision.remote);
    decision.identity = identity;
    if kind != EndpointKind::Pod {
        return Ok(());
    }
    decision.policy_set = Some(local.policy_set);
    let remote = (decision.remote, decision.remote_port, identity);
    let Some(judged) = judge_pod(context, local.policy_set, direction, tuple, remote) else { return Ok(()) };
    decision.note_judged(judged, direction);
    match (judged.allowed(), direction) {
        (true, _) => Ok(()),
        (false, Direction::Egress) => decision.drop(DropReason::PolicyEgress),
        (false, Direction::Ingress) => decision.drop(DropReason::PolicyIngress),
    }
}

/// What a pod's policies say of a flow with this remote end: address and port after service translation, and identity.
/// None: it speaks to its own address, which they say nothing of.
#[inline(always)]
fn judge_pod(
    context: &Context,
    policy_set: u32,
    direction: Direction,
    tuple: &Tuple,
    (remote, remote_port, identity): (Addr, u16, u32),
) -> Option<Judged> {
    if tuple.remote == tuple.local {
        return None;
    }
    let port = if direction == Direction::Egress { remote_port } else { tuple.local_port };
    let question = Question::new(policy_set, direction, identity, place(tuple.protocol, port));
    let judged = context.known.judged(&context.view, &question);
    // By a service it may come back to who asked.
    Some(if remote == tuple.local { judged.of_itself() } else { judged })
}

/// Never routed: RFC 3927, RFC 4291 2.5.6, multicast and broadcast.
#[inline(always)]
pub(crate) fn is_link_local(addr: Addr) -> bool {
    let v6_link_local = !addr.is_v4() && addr.words()[0] >> 54 == 0xfe80 >> 6;
    let v4_link_local = addr.is_v4() && addr.v4_octets()[..2] == [169, 254];
    v6_link_local || v4_link_local || addr.is_multicast() || addr.is_v4_broadcast() || addr.is_unspecified()
}

#[cfg(test)]
#[path = "classify_tests.rs"]
mod tests;
