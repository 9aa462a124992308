//! What the first packets of a burst will be judged by, fetched step by step for all of them, so that none waits for each
//! row by itself: service, backend, policy, rules, and where the flow will stand. Only guesses: a row is found by its tag
//! alone, the backend by the flow's hash. Must not decide anything.

use super::{Context, egress, policy, service};
use crate::packet::BURST_MAX;
use tables::endpoint::EndpointRecord;
use tables::flow::Tuple;
use tables::layout::Table;
use tables::policy::Direction;
use tables::service::{BackendRecord, ServiceKey, ServiceRecord};
use tables::{Addr, View};

/// A packet of a burst.
pub trait Expected {
    /// What it opens, if no flow is known that it may belong to.
    fn opens(&self) -> Option<Opens>;
    fn tuple(&self) -> Tuple;
    /// Of the tuple.
    fn hash(&self) -> u64;
}

/// Who opens a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Opens {
    /// A local end.
    #[default]
    Local,
    /// A client outside that asks a service.
    Outside,
    /// Who speaks towards a local end.
    Towards,
}

/// A first packet, and what is known of it so far.
#[derive(Clone, Copy, Default)]
struct First {
    /// Of the service's key, then of the policy row's.
    tag: u64,
    /// In the burst.
    at: u32,
    /// Of its backend, plus one; 0: none.
    backend: u32,
    opens: Opens,
    is_masqueraded: bool,
}

/// How the network will see a flow.
pub struct Likely {
    pub outside: Tuple,
    /// It gets another address, and a port of this worker's.
    pub is_masqueraded: bool,
}

/// First packets of this burst will be judged, by this worker's seed. `expect_flow` fetches where one will stand, whose packet
/// is at that place.
#[inline(never)]
pub fn expect<E: Expected>(context: &Context, burst: &[E], seed: u64, mut expect_flow: impl FnMut(&E, Likely)) {
    let (view, mut all) = (&context.view, [First::default(); BURST_MAX]);
    let count = expect_services(view, burst, &mut all);
    let firsts = &mut all[..count];
    for first in &mut *firsts {
        expect_backend(view, first, burst[first.at as usize].hash() ^ seed);
    }
    let mut sets = PolicySets::default();
    for first in &mut *firsts {
        let item = &burst[first.at as usize];
        let likely = expect_policy(view, first, item.tuple(), &mut sets);
        expect_flow(item, likely);
    }
    let judged = firsts.iter().filter(|first| first.opens != Opens::Outside);
    judged.for_each(|first| policy::expect_rules(view, first.tag));
}

/// Finds the first packets. Returns how many there are.
#[inline(always)]
fn expect_services(view: &View, burst: &[impl Expected], firsts: &mut [First; BURST_MAX]) -> usize {
    let mut count = 0;
    for (at, item) in burst.iter().enumerate().take(BURST_MAX) {
        let Some(opens) = item.opens() else { continue };
        let mut tag = 0;
        if opens != Opens::Towards {
            let tuple = item.tuple();
            tag = view.tag(&ServiceKey::new(tuple.remote, tuple.remote_port, tuple.protocol));
            view.expect_tag(Table::Service, tag);
        }
        firsts[count] = First { tag, at: at as u32, opens, ..First::default() };
        count += 1;
    }
    count
}

#[inline(always)]
fn expect_backend(view: &View, first: &mut First, pick: u64) {
    if first.opens == Opens::Towards {
        return;
    }
    let Some(record): Option<ServiceRecord> = view.guess::<ServiceKey, _>(Table::Service, first.tag) else { return };
    let is_outside = first.opens == Opens::Outside;
    first.is_masqueraded = is_outside && egress::is_told_outside(record.flags);
    if let Some(row) = service::likely_row(&record, pick, is_outside) {
        view.expect_row(Table::Backend, row);
        first.backend = row as u32 + 1;
    }
}

#[inline(always)]
fn expect_policy(view: &View, first: &mut First, tuple: Tuple, sets: &mut PolicySets) -> Likely {
    let mut outside = tuple;
    if first.backend != 0 {
        let backend: BackendRecord = view.row(Table::Backend, first.backend as usize - 1);
        (outside.remote, outside.remote_port) = (backend.addr, backend.port);
    }
    first.tag = match first.opens {
        // A client outside is judged at its backend, if at all.
        Opens::Outside => 0,
        opens => {
            let direction = if opens == Opens::Local { Direction::Egress } else { Direction::Ingress };
            let identity = policy::identity(view, outside.remote);
            policy::expect(view, sets.of(view, tuple.local), direction, identity)
        }
    };
    Likely { outside, is_masqueraded: first.is_masqueraded }
}

/// The policy set of the last address that was asked for: packets of one pod come together.
#[derive(Default)]
struct PolicySets {
    addr: Addr,
    set: u32,
}

impl PolicySets {
    #[inline(always)]
    fn of(&mut self, view: &View, addr: Addr) -> u32 {
        if self.addr != addr {
            let endpoint: Option<EndpointRecord> = view.find(Table::Endpoint, &addr);
            *self = PolicySets { addr, set: endpoint.map_or(0, |endpoint| endpoint.policy_set) };
        }
        self.set
    }
}

#[cfg(test)]
#[path = "ahead_tests.rs"]
mod tests;
