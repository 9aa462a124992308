//! Flows whose scopes went stale: judged again, by just what moved or as a whole, keeping what an established flow must
//! keep. Must not touch packets.

use super::forward::Path;
use crate::classify::outside::Kept;
use crate::classify::service::ByHash;
use crate::classify::{self, Context, Decision, Origin, Verdict};
use crate::flow::FlowId;
use bytemuck::Zeroable;
use std::num::NonZeroU32;
use tables::Addr;
use tables::counters::{DropReason, WorkerCounter};
use tables::endpoint::EndpointRecord;
use tables::flow::{FLAG_CLIENT, FLAG_DIRECT, FLAG_OPENED_LOCALLY, FlowRecord, Hop};
use tables::layout::Table;
use tables::route::{RouteKind, RouteRecord};

/// What a flow is found to be when it is judged again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Renewed {
    Current,
    /// Removed: the packet opens a new one.
    Gone,
    /// A connection whose backend is gone; it is still there.
    CutOff,
}

impl Path {
    /// Whether a stale flow goes on as it does, as far as that can be said by asking just what moved.
    #[inline(never)]
    pub(super) fn goes_on(&mut self, context: &Context<'_>, id: FlowId) -> bool {
        let record = self.flows.record_mut(id);
        let moved = self.scopes.moved(&record.scopes);
        let goes_on = moved.is_some_and(|moved| self.renewals.passed.goes_on(context, record, moved));
        if goes_on {
            self.scopes.depend_again(&mut record.scopes);
            self.status().count(WorkerCounter::FlowsRevalidated, 1);
        }
        goes_on
    }

    /// Classifies a flow again.
    pub(super) fn revalidate(&mut self, context: &Context<'_>, id: FlowId) -> Renewed {
        self.status().count(WorkerCounter::FlowsRevalidated, 1);
        let generation = context.view.generation();
        let record = self.flows.record_mut(id);
        if self.renewals.renew(record, generation) {
            self.scopes.depend_again(&mut record.scopes);
            return Renewed::Current;
        }
        let record = *record;
        let decision = self.classify_again(context, &record);
        if decision.verdict == Verdict::Reject && classify::service::is_connection(record.inside.protocol) {
            return Renewed::CutOff;
        }
        if !fits(&record, &decision) {
            self.forget(id);
            return Renewed::Gone;
        }
        let mut renewed = record;
        self.settled(context, &record.outside(), &decision).write(&mut renewed);
        renewed.last_seen_ms = record.last_seen_ms;
        if let Verdict::Drop(reason) = decision.verdict {
            // Who keeps the other half is not to be found out again.
            let mut hop = Hop::drop(reason, decision.policy.map_or(0, NonZeroU32::get));
            hop.worker = record.out.worker;
            (renewed.out, renewed.back) = (hop, hop);
            renewed.scopes = self.scopes.depend_keeping(decision.scopes(), &record.scopes);
        }
        self.renewals.keep(&renewed, generation);
        *self.flows.record_mut(id) = renewed;
        Renewed::Current
    }

    fn classify_again(&self, context: &Context<'_>, record: &FlowRecord) -> Decision {
        if record.flags & FLAG_OPENED_LOCALLY == 0 {
            let is_direct = record.flags & FLAG_DIRECT != 0;
            let origin = if is_direct { Origin::Direct(Addr::UNSPECIFIED) } else { origin_of(context, record) };
            return classify::to_local(context, &record.inside, origin);
        }
        let local: Option<EndpointRecord> = context.view.find(Table::Endpoint, &record.inside.local);
        let interface = local.map(|l| l.interface).filter(|&i| i != 0).unwrap_or(context.node.host_interface);
        let outside = record.outside();
        let keep = (outside.remote, outside.remote_port);
        let pick = self.flows.hash(&record.inside) ^ self.seed;
        if record.flags & FLAG_CLIENT != 0 {
            let keep = Kept { backend: keep, is_direct: outside.local == record.inside.local };
            return classify::outside::from_outside(context, &record.inside, self.id, &mut ByHash(pick), Some(keep));
        }
        classify::from_local(context, &record.inside, interface, &mut ByHash(pick), Some(keep))
    }
}

/// Whether a flow can go on as the new decision says: its backend and its address outside must be the same. One that is
/// cut stays known, so that it goes on as it was when it may; but a service or route that is gone comes back under an id
/// that no flow depends on.
fn fits(record: &FlowRecord, decision: &Decision) -> bool {
    match decision.verdict {
        Verdict::Drop(DropReason::ServiceUnknown | DropReason::NoRoute) => false,
        Verdict::Drop(_) => true,
        Verdict::Reject | Verdict::Punt => false,
        // Of the ends it has nothing but what its packets say.
        Verdict::Forward if record.flags & FLAG_DIRECT != 0 => true,
        Verdict::Forward => {
            let outside = decision.outside(&record.inside);
            let held = record.outside();
            (outside.remote, outside.remote_port, outside.local) == (held.remote, held.remote_port, held.local)
        }
    }
}

/// Where the packets of a flow that was opened towards us must come from: of a client outside by way of its other half, of
/// all else by its route.
fn origin_of(context: &Context<'_>, record: &FlowRecord) -> Origin {
    let found = classify::route::find(&context.view, record.inside.remote);
    let route = found.map_or(RouteRecord::zeroed(), |(_, route)| route);
    match route.kind() {
        Some(RouteKind::Tunnel | RouteKind::Ipip) => Origin::Tunnel(route.peer),
        Some(RouteKind::Local | RouteKind::Host) => Origin::Local,
        _ if record.flags & FLAG_CLIENT != 0 => Origin::Client(record.out.worker),
        _ => Origin::Uplink,
    }
}
