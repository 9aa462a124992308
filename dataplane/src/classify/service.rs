//! Services: is the destination one, and which backend serves this flow.

use super::{Context, Decision, Verdict};
use bytemuck::Zeroable;
use tables::counters::DropReason;
use tables::flow::Tuple;
use tables::hash;
use tables::layout::Table;
use tables::service::{BackendRecord, Rows, ServiceKey, ServiceRecord};
use tables::{Addr, Protocol, View};

/// The service port that a flow was opened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    pub id: u32,
    /// Those that this client may get.
    pub backends: Rows,
    pub flags: u16,
}

/// A new flow that needs one of a service's backends.
pub struct Asked<'a> {
    /// As the client sees it: its own end is the local one.
    pub tuple: &'a Tuple,
    pub service: &'a ServiceRecord,
    /// Those that this client may get.
    pub backends: Rows,
}

/// Who chooses among backends. A worker's remembers and counts; [`ByHash`] knows nothing but the tables.
pub trait Choose {
    /// None: there is no backend.
    fn choose(&mut self, view: &View, asked: &Asked) -> Option<(Addr, u16)>;
}

/// By a hash of the flow with a private seed. The same hash and backends give the same answer.
pub struct ByHash(pub u64);

impl Choose for ByHash {
    #[inline(always)]
    fn choose(&mut self, view: &View, asked: &Asked) -> Option<(Addr, u16)> {
        serving(view, asked.backends, picked(self.0, asked.backends.count))
    }
}

/// The tuple will be translated soon: fetches the service's row ...
pub fn expect(view: &View, tuple: &Tuple) {
    view.expect(Table::Service, &ServiceKey::new(tuple.remote, tuple.remote_port, tuple.protocol));
}

/// ... and then the backend that it will get, whose row this is.
pub fn expect_backend(view: &View, tuple: &Tuple, pick: u64) -> Option<u32> {
    let key = ServiceKey::new(tuple.remote, tuple.remote_port, tuple.protocol);
    let service = view.find::<_, ServiceRecord>(Table::Service, &key)?;
    let row = service.inside.get(picked(pick, service.inside.count))?;
    view.expect_row(Table::Backend, row);
    Some(row as u32)
}

/// Replaces a service's address by one of its backends. `Err` ends the packet: rejected or dropped.
#[inline(always)]
pub fn translate(
    context: &Context,
    tuple: &Tuple,
    choose: &mut impl Choose,
    keep: Option<(Addr, u16)>,
    decision: Decision,
) -> Result<Decision, Decision> {
    let key = ServiceKey::new(tuple.remote, tuple.remote_port, tuple.protocol);
    let Some(record) = context.view.find::<_, ServiceRecord>(Table::Service, &key) else {
        return undefined_port(context, tuple, decision);
    };
    let found = Match { id: record.id, backends: record.inside, flags: record.flags };
    let decision = Decision { service: Some(found), ..decision };
    let backend = match keep {
        Some(kept)
            if matches!(tuple.protocol, Protocol::TCP | Protocol::SCTP) || serves(&context.view, &found, kept) =>
        {
            Some(kept)
        }
        _ => choose.choose(&context.view, &Asked { tuple, service: &record, backends: found.backends }),
    };
    match backend {
        Some((remote, remote_port)) => Ok(Decision { remote, remote_port, ..decision }),
        None => Err(Decision { verdict: Verdict::Reject, ..decision }),
    }
}

/// A service's address with a port that it does not define is refused; other protocols to it go unanswered.
fn undefined_port(context: &Context, tuple: &Tuple, decision: Decision) -> Result<Decision, Decision> {
    let address: Option<ServiceRecord> = context.view.find(Table::Service, &ServiceKey::address(tuple.remote));
    match address {
        None => Ok(decision),
        Some(_) if tuple.protocol.has_ports() => Err(Decision { verdict: Verdict::Reject, ..decision }),
        Some(_) => Err(decision.drop(DropReason::ServiceUnknown)),
    }
}

/// Backend `index` of a service.
pub fn backend(view: &View, found: &Match, index: u32) -> BackendRecord {
    found.backends.get(index).map_or(BackendRecord::zeroed(), |row| view.row(Table::Backend, row))
}

/// One of `count` by a hash.
fn picked(pick: u64, count: u32) -> u32 {
    (((hash::fold(pick, 0x9e37_79b9_7f4a_7c15) >> 32) * count as u64) >> 32) as u32
}

/// Where a backend is reached, if there is one of this index.
#[inline(always)]
fn serving(view: &View, backends: Rows, index: u32) -> Option<(Addr, u16)> {
    let backend: BackendRecord = view.row(Table::Backend, backends.get(index)?);
    (!backend.addr.is_unspecified()).then_some((backend.addr, backend.port))
}

/// Whether a backend still serves.
pub fn serves(view: &View, found: &Match, (addr, port): (Addr, u16)) -> bool {
    let count = found.backends.count.min(tables::limits::BACKENDS_MAX as u32);
    (0..count).map(|i| backend(view, found, i)).any(|b| b.addr == addr && b.port == port)
}
