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
    /// Where in the burst it stands: below [`BURST_MAX`], and nobody else there.
    fn place(&self) -> usize;
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

/// A first packet.
#[derive(Clone, Copy, Default)]
struct First {
    /// In the burst.
    at: u16,
    opens: Opens,
    is_masqueraded: bool,
    /// The row of its backend, plus one; 0: none.
    backend: u32,
}

/// What was found out of one flow ahead, so that its judgement need not again. Each is either nothing, or what the pinned
/// tables say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The tag of the service's key that is asked; 0: not known.
    service: u64,
    /// The tag of a policy row; 0: not known, and neither is what follows.
    policy: u64,
    policy_set: u32,
    direction: Direction,
    /// Of this address.
    identity: u32,
    remote: Addr,
}

/// Nothing.
pub static UNKNOWN: Known = Known {
    service: 0,
    policy: 0,
    policy_set: 0,
    direction: Direction::Ingress,
    identity: 0,
    remote: Addr::UNSPECIFIED,
};

impl Known {
    #[inline(always)]
    pub(super) fn service_tag(&self, view: &View, key: &ServiceKey) -> u64 {
        if self.service != 0 { self.service } else { view.tag(key) }
    }

    #[inline(always)]
    pub(super) fn identity(&self, view: &View, addr: Addr) -> u32 {
        let is_known = self.policy != 0 && self.remote == addr;
        if is_known { self.identity } else { policy::identity(view, addr) }
    }

    #[inline(always)]
    pub(super) fn policy_tag(&self, policy_set: u32, direction: Direction, identity: u32) -> Option<u64> {
        let own = (self.policy_set, self.direction, self.identity);
        (self.policy != 0 && own == (policy_set, direction, identity)).then_some(self.policy)
    }
}

/// How the network will see a flow.
pub struct Likely {
    pub outside: Tuple,
    /// It gets another address, and a port of this worker's.
    pub is_masqueraded: bool,
}

/// What is known of each packet of a burst.
pub type Knowns = Box<[Known; BURST_MAX]>;

/// First packets of this burst will be judged, by this worker's seed. `expect_flow` fetches where one will stand, whose packet
/// is at that place.
#[inline(never)]
pub fn expect<E: Expected>(
    context: &Context,
    burst: &[E],
    seed: u64,
    knowns: &mut [Known; BURST_MAX],
    mut expect_flow: impl FnMut(&E, Likely),
) {
    let (view, mut all, mut sets) = (&context.view, [First::default(); BURST_MAX], PolicySets::default());
    let count = find_firsts(burst, &mut all);
    let firsts = &mut all[..count];
    for step in 0..count + LAG {
        if let Some(first) = firsts.get(step) {
            let item = &burst[first.at as usize];
            knowns[item.place()].service = expect_service(view, first, item);
        }
        if let Some(first) = firsts.get_mut(step.wrapping_sub(LAG)) {
            let item = &burst[first.at as usize];
            expect_backend(view, first, knowns[item.place()].service, item.hash() ^ seed);
        }
    }
    // Short steps each by itself: a processor begins several at once, and each waits for what it reads.
    for first in &*firsts {
        let item = &burst[first.at as usize];
        expect_flow(item, find_identity(view, first, item.tuple(), &mut knowns[item.place()]));
    }
    let judged = || firsts.iter().filter(|first| first.opens != Opens::Outside).map(|first| &burst[first.at as usize]);
    judged().for_each(|item| expect_policy(view, item.tuple().local, &mut sets, &mut knowns[item.place()]));
    judged().for_each(|item| policy::expect_rules(view, knowns[item.place()].policy));
}

/// So many packets later a service is read that was fetched. Both take turns, so that a processor has something to do while
/// lines come: it has room for a dozen on their way.
const LAG: usize = 12;

/// Finds the first packets. Returns how many there are.
#[inline(always)]
fn find_firsts(burst: &[impl Expected], firsts: &mut [First; BURST_MAX]) -> usize {
    let mut count = 0;
    for (at, item) in burst.iter().enumerate().take(BURST_MAX) {
        let Some(opens) = item.opens() else { continue };
        firsts[count] = First { at: at as u16, opens, ..First::default() };
        count += 1;
    }
    count
}

/// The tag of the service's key; 0: none is asked.
#[inline(always)]
fn expect_service(view: &View, first: &First, item: &impl Expected) -> u64 {
    if first.opens == Opens::Towards {
        return 0;
    }
    let tuple = item.tuple();
    let tag = view.tag(&ServiceKey::new(tuple.remote, tuple.remote_port, tuple.protocol));
    view.expect_tag(Table::Service, tag);
    tag
}

#[inline(always)]
fn expect_backend(view: &View, first: &mut First, tag: u64, pick: u64) {
    if first.opens == Opens::Towards {
        return;
    }
    let Some(record): Option<ServiceRecord> = view.guess::<ServiceKey, _>(Table::Service, tag) else { return };
    let is_outside = first.opens == Opens::Outside;
    first.is_masqueraded = is_outside && egress::is_told_outside(record.flags);
    if let Some(row) = service::likely_row(&record, pick, is_outside) {
        view.expect_row(Table::Backend, row);
        first.backend = row as u32 + 1;
    }
}

/// Who is at the other end.
#[inline(always)]
fn find_identity(view: &View, first: &First, tuple: Tuple, known: &mut Known) -> Likely {
    let mut outside = tuple;
    if first.backend != 0 {
        let backend: BackendRecord = view.row(Table::Backend, first.backend as usize - 1);
        (outside.remote, outside.remote_port) = (backend.addr, backend.port);
    }
    // A client outside is judged at its backend, if at all.
    if first.opens != Opens::Outside {
        known.direction = if first.opens == Opens::Local { Direction::Egress } else { Direction::Ingress };
        (known.identity, known.remote) = (policy::identity(view, outside.remote), outside.remote);
    }
    Likely { outside, is_masqueraded: first.is_masqueraded }
}

#[inline(always)]
fn expect_policy(view: &View, local: Addr, sets: &mut PolicySets, known: &mut Known) {
    known.policy_set = sets.of(view, local);
    known.policy = policy::expect(view, known.policy_set, known.direction, known.identity);
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
