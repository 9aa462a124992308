//! The first packet of a flow: the look-ups in written order, ending in one [`Decision`] that the flow keeps. A pure
//! function of the pinned tables and the flow's tuple: `explain` calls the same functions, and so does a flow whose
//! scopes went stale. No packet bytes and no flow table here.
//!
//! From a local end: gateway and link-local, service, egress policy, route, egress translation.
//! From a client outside to a service: where it may come from, service, route, whether it keeps its address ([`direct`]),
//! egress translation ([`outside`]).
//! Towards a local end: the end itself, where the packet may come from, ingress policy, the way back.

pub mod again;
pub mod direct;
pub mod egress;
pub mod outside;
pub mod ring;
pub mod route;
pub mod service;

use crate::packet::BURST_MAX;
use bytemuck::Zeroable;
use service::Choose;
use std::num::NonZeroU32;
use tables::counters::DropReason;
use tables::endpoint::{EndpointKind, EndpointRecord, FLAG_POLICY_IN_FORCE};
use tables::flow::{Hop, HopKind, Tuple};
pub use tables::judge as policy;
use tables::layout::Table;
use tables::node::{NodeRecord, family};
use tables::owner::Worker;
use tables::policy::Direction;
use tables::scope::Scope;
use tables::service::BackendRecord;
use tables::{Addr, View};

/// What a worker classifies with.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub view: View<'a>,
    pub node: &'a NodeRecord,
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
#[derive(Clone, Copy, Debug)]
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

impl Decision {
    fn new(tuple: &Tuple, opened_locally: bool) -> Decision {
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

    fn drop(self, reason: DropReason) -> Decision {
        Decision { verdict: Verdict::Drop(reason), ..self }
    }

    fn judged(self, judged: policy::Judged, direction: Direction) -> Decision {
        let rule = judged.rule.map(|rule| (direction, rule));
        let policy = judged.policy.and_then(NonZeroU32::new);
        Decision { policy, rule, is_audit: judged.is_audit, ..self }
    }

    /// What the flow must be looked at again for. Where five things would be named one goes without saying: a backend on
    /// this node has policies, or its route goes, when its endpoint changes, and that touches its policy set.
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

/// A packet that may be the first of its flow.
pub trait Expected {
    /// The tuple of a flow that a local end or a client outside opens, its hash, and whether it is the latter.
    fn opens(&self) -> Option<(Tuple, u64, bool)>;
}

/// Packets of this burst will be judged: fetches what they will be judged by, step by step for all, so that none waits
/// for each row by itself. Where a step finds nothing, so will the judgement.
#[cold]
pub fn expect(context: &Context, burst: &[impl Expected], seed: u64) {
    let (view, first) = (&context.view, || burst.iter().filter_map(Expected::opens).take(BURST_MAX));
    first().for_each(|(tuple, ..)| service::expect(view, &tuple));
    let mut backends = [None; BURST_MAX];
    for ((tuple, hash, is_outside), backend) in first().zip(&mut backends) {
        *backend = service::expect_backend(view, &tuple, hash ^ seed, is_outside);
    }
    // A client outside is judged at its backend, if at all.
    for ((tuple, ..), backend) in first().zip(backends).filter(|((.., is_outside), _)| !is_outside) {
        let remote = backend.map_or(tuple.remote, |row| view.row::<BackendRecord>(Table::Backend, row as usize).addr);
        let local: Option<EndpointRecord> = view.find(Table::Endpoint, &tuple.local);
        let policy_set = local.map_or(0, |local| local.policy_set);
        policy::expect(view, policy_set, Direction::Egress, policy::identity(view, remote));
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
    let decision = Decision::new(tuple, true);
    let (local, kind) = match local_end(context, tuple, interface) {
        Ok(found) => found,
        Err(reason) => return decision.drop(reason),
    };
    if tuple.remote == context.node.gateway[family(tuple.remote)] {
        return Decision { verdict: Verdict::Punt, ..decision };
    }
    if is_link_local(tuple.remote) {
        return decision.drop(DropReason::LinkLocal);
    }
    let client = if kind == EndpointKind::Pod { Client::Pod } else { Client::Node };
    let decision = match service::translate(context, tuple, client, choose, keep, decision) {
        Ok(decision) => decision,
        Err(ended) => return ended,
    };
    let decision = match allow(context, &local, kind, Direction::Egress, tuple, decision) {
        Ok(decision) => decision,
        Err(ended) => return ended,
    };
    let decision = match route::towards(context, decision) {
        Ok(decision) => decision,
        Err(ended) => return ended,
    };
    let masquerade = egress::masquerade(context, tuple, client, &decision);
    let decision = Decision { masquerade, back: Hop::new(HopKind::Interface, local.interface), ..decision };
    // Behind a masquerade the other half does not see who asks.
    if masquerade != Masquerade::No && client == Client::Pod && decision.out.kind() == HopKind::Endpoint {
        return outside::judge_at_backend(context, tuple, decision);
    }
    decision
}

/// Judges a flow that is opened towards a local end.
pub fn to_local(context: &Context, tuple: &Tuple, origin: Origin) -> Decision {
    let decision = Decision::new(tuple, false);
    let (local, kind) = match local_target(context, tuple, origin) {
        Target::End(local, kind) => (local, kind),
        Target::Host => return to_host(context, origin, decision),
        Target::Drop(reason) => return decision.drop(reason),
    };
    // The remote end's route is the way back and says where its packets may come from.
    let decision = match route::back_to(context, origin, decision) {
        Ok(decision) => decision,
        Err(ended) => return ended,
    };
    let decision = match allow(context, &local, kind, Direction::Ingress, tuple, decision) {
        Ok(decision) => decision,
        Err(ended) => return ended,
    };
    Decision { back: Hop::new(HopKind::Interface, local.interface), ..decision }
}

/// Judges a claimed packet without flow of ours: the node's kernel gets it, unless its source is forged. The kernel
/// answers by itself, so there is no way out.
fn to_host(context: &Context, origin: Origin, decision: Decision) -> Decision {
    let back = Hop::new(HopKind::Interface, context.node.host_interface);
    match route::back_to(context, origin, decision) {
        Ok(decision) => Decision { back, out: Hop::zeroed(), ..decision },
        Err(ended) => ended,
    }
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
    decision: Decision,
) -> Result<Decision, Decision> {
    let identity = policy::identity(&context.view, decision.remote);
    if kind != EndpointKind::Pod {
        return Ok(Decision { identity, ..decision });
    }
    let decision = Decision { identity, policy_set: Some(local.policy_set), ..decision };
    let remote = (decision.remote, decision.remote_port, identity);
    let Some(judged) = judge_pod(context, local.policy_set, direction, tuple, remote) else { return Ok(decision) };
    let decision = decision.judged(judged, direction);
    match (judged.allowed, direction) {
        (true, _) => Ok(decision),
        (false, Direction::Egress) => Err(decision.drop(DropReason::PolicyEgress)),
        (false, Direction::Ingress) => Err(decision.drop(DropReason::PolicyIngress)),
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
) -> Option<policy::Judged> {
    if tuple.remote == tuple.local {
        return None;
    }
    let port = if direction == Direction::Egress { remote_port } else { tuple.local_port };
    let judged = policy::judge(&context.view, policy_set, direction, identity, tuple.protocol, port);
    // By a service it may come back to who asked.
    Some(if remote == tuple.local { judged.of_itself() } else { judged })
}

/// Never routed: RFC 3927, RFC 4291 2.5.6, multicast and broadcast.
pub(crate) fn is_link_local(addr: Addr) -> bool {
    let v6_link_local = !addr.is_v4() && addr.words()[0] >> 54 == 0xfe80 >> 6;
    let v4_link_local = addr.is_v4() && addr.v4_octets()[..2] == [169, 254];
    v6_link_local || v4_link_local || addr.is_multicast() || addr.is_v4_broadcast() || addr.is_unspecified()
}

#[cfg(test)]
#[path = "classify_tests.rs"]
mod tests;
