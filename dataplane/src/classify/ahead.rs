//! What the first packets of a burst will be judged by, fetched step by step for all of them, so that none waits for each
//! row by itself: service, backend, and where the flow will stand. Only guesses: a row is found by its tag alone, the backend
//! by the flow's hash. What policies say if a guess is right is asked for all of them at once, and kept with the question, so
//! that it is the answer to no other one. Must not decide anything.

use super::{Context, egress, policy, service};
use crate::packet::BURST_MAX;
use tables::endpoint::EndpointRecord;
use tables::flow::Tuple;
use tables::judge::Question;
use tables::judge::burst::judge_burst;
use tables::judged::Judged;
use tables::layout::Table;
use tables::policy::{Direction, IDENTITY_ANY, POLICY_SET_OPEN, place};
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
    /// What was asked of policies, and what they said.
    question: Question,
    judged: Judged,
    /// Of this address; that of everybody, which no address has: not known.
    identity: u32,
    remote: Addr,
}

/// Nothing.
pub static UNKNOWN: Known = Known {
    service: 0,
    question: Question::NONE,
    judged: Judged::CLOSED,
    identity: IDENTITY_ANY,
    remote: Addr::UNSPECIFIED,
};

impl Known {
    #[inline(always)]
    pub(super) fn service_tag(&self, view: &View, key: &ServiceKey) -> u64 {
        if self.service != 0 { self.service } else { view.tag(key) }
    }

    #[inline(always)]
    pub(super) fn identity(&self, view: &View, addr: Addr) -> u32 {
        let is_known = self.identity != IDENTITY_ANY && self.remote == addr;
        if is_known { self.identity } else { policy::identity(view, addr) }
    }

    #[inline(always)]
    pub(super) fn judged(&self, view: &View, question: &Question) -> Judged {
        if self.question == *question { self.judged } else { policy::answer(view, question) }
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
    let (view, mut all) = (&context.view, [First::default(); BURST_MAX]);
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
    let (mut asked, mut sets) = (Asked::default(), PolicySets::default());
    for first in &*firsts {
        let item = &burst[first.at as usize];
        let (tuple, likely) = (item.tuple(), likely(view, first, item.tuple()));
        // A client outside is judged at its backend, if at all.
        if first.opens != Opens::Outside {
            asked.add(
                item.place(),
                likely.outside.remote,
                question(first, tuple, &likely.outside, sets.of(view, tuple.local)),
            );
        }
        expect_flow(item, likely);
    }
    asked.judge(view, knowns);
}

/// What is asked of policies for a burst.
struct Asked {
    remotes: [Addr; BURST_MAX],
    /// Their low bits: of nearly all of them these are everything.
    remotes_v4: [u32; BURST_MAX],
    is_any_v6: bool,
    /// Of nobody yet.
    questions: [Question; BURST_MAX],
    /// The packets' places in the burst.
    places: [u8; BURST_MAX],
    count: usize,
}

impl Default for Asked {
    fn default() -> Asked {
        let questions = [Question::NONE; BURST_MAX];
        let (remotes, remotes_v4) = ([Addr::UNSPECIFIED; BURST_MAX], [0; BURST_MAX]);
        Asked { remotes, remotes_v4, is_any_v6: false, questions, places: [0; BURST_MAX], count: 0 }
    }
}

impl Asked {
    #[inline(always)]
    fn add(&mut self, place: usize, remote: Addr, question: Question) {
        let at = self.count % BURST_MAX;
        (self.remotes[at], self.questions[at], self.places[at]) = (remote, question, place as u8);
        self.remotes_v4[at] = remote.low_bits();
        self.is_any_v6 |= !remote.is_v4();
        self.count += 1;
    }

    /// Finds out who is at the other ends, and what policies say of them.
    #[inline(always)]
    fn judge(&mut self, view: &View, knowns: &mut [Known; BURST_MAX]) {
        let (mut identities, mut judged) = ([0; BURST_MAX], [Judged::CLOSED; BURST_MAX]);
        let count = self.count.min(BURST_MAX);
        policy::identities_v4(view, &self.remotes_v4[..count], &mut identities[..count]);
        if self.is_any_v6 {
            let of_v6 = self.remotes[..count].iter().zip(&mut identities).filter(|(remote, _)| !remote.is_v4());
            of_v6.for_each(|(remote, identity)| *identity = policy::identity(view, *remote));
        }
        let questions = &mut self.questions[..count];
        questions.iter_mut().zip(&identities).for_each(|(question, identity)| *question = question.of(*identity));
        judge_burst(view, questions, &mut judged);
        for at in 0..count {
            let known = &mut knowns[self.places[at] as usize % BURST_MAX];
            (known.question, known.judged) = (self.questions[at], judged[at]);
            (known.identity, known.remote) = (identities[at], self.remotes[at]);
        }
    }
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

#[inline(always)]
fn likely(view: &View, first: &First, tuple: Tuple) -> Likely {
    let mut outside = tuple;
    if first.backend != 0 {
        let backend: BackendRecord = view.row(Table::Backend, first.backend as usize - 1);
        (outside.remote, outside.remote_port) = (backend.addr, backend.port);
    }
    Likely { outside, is_masqueraded: first.is_masqueraded }
}

/// What a packet's local end's policies will be asked of whom it speaks with.
#[inline(always)]
fn question(first: &First, tuple: Tuple, outside: &Tuple, policy_set: u32) -> Question {
    let (direction, port) = match first.opens {
        Opens::Local => (Direction::Egress, outside.remote_port),
        Opens::Outside | Opens::Towards => (Direction::Ingress, tuple.local_port),
    };
    Question::new(policy_set, direction, IDENTITY_ANY, place(tuple.protocol, port))
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
            *self = PolicySets { addr, set: endpoint.map_or(POLICY_SET_OPEN, |endpoint| endpoint.policy_set) };
        }
        self.set
    }
}

#[cfg(test)]
#[path = "ahead_tests.rs"]
mod tests;
