//! Services: is the destination one, and which backend serves this flow.

use super::{Client, Context, Decision, Step, Verdict, ring};
use bytemuck::Zeroable;
use std::cmp::Ordering;
use tables::counters::DropReason;
use tables::flow::Tuple;
use tables::hash;
use tables::layout::Table;
use tables::limits::SOURCES_PER_SERVICE_MAX;
use tables::node::family;
use tables::service::{
    Algorithm, BackendRecord, FLAG_DROP_INSIDE, FLAG_DROP_OUTSIDE, FLAG_MASQUERADE_ALL, FLAG_PODS_OUTSIDE, Rows,
    ServiceKey, ServiceRecord, SourceRecord,
};
use tables::{Addr, Prefix, Protocol, View};

/// The service port that a flow was opened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    pub id: u32,
    /// Those that this client may get.
    pub backends: Rows,
    /// Of the row.
    pub flags: u16,
    pub algorithm: Algorithm,
}

/// A new flow that needs one of a service's backends.
pub struct Asked<'a> {
    /// As the client sees it: its own end is the local one.
    pub tuple: &'a Tuple,
    pub service: &'a ServiceRecord,
    /// Those that this client may get.
    pub backends: Rows,
}

impl Asked<'_> {
    /// Those that are looked at one by one, whatever a damaged row says.
    pub fn indices(&self) -> std::ops::Range<u32> {
        0..self.backends.count.min(tables::limits::BACKENDS_MAX as u32)
    }

    pub fn backend(&self, view: &View, index: u32) -> BackendRecord {
        self.backends.get(index).map_or(BackendRecord::zeroed(), |row| view.row(Table::Backend, row))
    }

    /// The backend that a hash gives.
    #[inline(always)]
    pub fn by_hash(&self, view: &View, hash: u64) -> Option<(Addr, u16)> {
        serving(view, self.backends, picked(hash, self.backends.count))
    }
}

/// Who chooses among backends. A worker's remembers and counts; [`ByHash`] knows nothing but the tables.
pub trait Choose {
    /// None: there is no backend.
    fn choose(&mut self, view: &View, asked: &Asked) -> Option<(Addr, u16)>;
}

/// By a hash of the flow with a private seed, unless the service's algorithm is a pure function of the flow itself. The
/// same hash and backends give the same answer.
pub struct ByHash(pub u64);

impl Choose for ByHash {
    #[inline(always)]
    fn choose(&mut self, view: &View, asked: &Asked) -> Option<(Addr, u16)> {
        let by_ring = asked.service.ring != 0;
        match by_ring.then(|| ring::backend(view, asked)).flatten() {
            Some(index) => serving(view, asked.backends, index),
            None => asked.by_hash(view, self.0),
        }
    }
}

/// The row of the backend that a flow with this hash most likely gets.
#[inline(always)]
pub(super) fn likely_row(record: &ServiceRecord, pick: u64, is_outside: bool) -> Option<usize> {
    let backends = if is_outside { record.outside } else { record.inside };
    backends.get(picked(pick, backends.count))
}

/// Replaces a service's address by one of its backends, or ends the packet: rejected or dropped.
#[inline(always)]
pub(super) fn translate(
    context: &Context,
    tuple: &Tuple,
    client: Client,
    choose: &mut impl Choose,
    keep: Option<(Addr, u16)>,
    decision: &mut Decision,
) -> Step {
    let key = ServiceKey::new(tuple.remote, tuple.remote_port, tuple.protocol);
    let tag = context.known.service_tag(&context.view, &key);
    let Some(record) = context.view.find_tagged::<_, ServiceRecord>(Table::Service, &key, tag) else {
        return undefined_port(context, tuple, decision);
    };
    let (backends, drops) = served(client, &record);
    let algorithm = record.algorithm();
    decision.service = Some(Match { id: record.id, backends, flags: record.flags, algorithm });
    if record.sources.count != 0 && !is_source(context, tuple.local, client, record.sources) {
        return decision.drop(DropReason::SourceRange);
    }
    let kept = keep.filter(|&kept| may_keep(&context.view, tuple.protocol, &record, backends, kept));
    // A connection whose backend is gone is told so by either end.
    if kept.is_none() && keep.is_some() && is_connection(tuple.protocol) {
        return decision.end(Verdict::Reject);
    }
    let chosen = match kept {
        None => choose.choose(&context.view, &Asked { tuple, service: &record, backends }),
        kept => kept,
    };
    match chosen {
        Some(backend) => {
            (decision.remote, decision.remote_port) = backend;
            Ok(())
        }
        None if drops => decision.drop(DropReason::NoLocalBackend),
        None => decision.end(Verdict::Reject),
    }
}

/// The backends of a client, and whether it is dropped where there are none.
fn served(client: Client, record: &ServiceRecord) -> (Rows, bool) {
    let is_outside = match client {
        Client::Outside => true,
        Client::Pod => record.flags & FLAG_PODS_OUTSIDE != 0,
        Client::Node => false,
    };
    match is_outside {
        true => (record.outside, record.flags & FLAG_DROP_OUTSIDE != 0),
        false => (record.inside, record.flags & FLAG_DROP_INSIDE != 0),
    }
}

/// Whether a client is in one of the source ranges. The node is by any of its addresses.
#[cold]
fn is_source(context: &Context, addr: Addr, client: Client, sources: Rows) -> bool {
    let also = if client == Client::Node { context.node.node[family(addr)] } else { addr };
    let ranges = (0..sources.count.min(SOURCES_PER_SERVICE_MAX as u32)).filter_map(|i| sources.get(i));
    ranges
        .map(|row| context.view.row::<SourceRecord>(Table::Source, row))
        .filter_map(|range| Prefix::new(range.addr, range.length))
        .any(|range| range.contains(addr) || range.contains(also))
}

/// Protocols whose flows cannot move to another backend.
pub fn is_connection(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::TCP | Protocol::SCTP)
}

/// Whether an established flow keeps its backend: while that serves this client, and a connection also while it serves
/// others or is leaving.
fn may_keep(view: &View, protocol: Protocol, record: &ServiceRecord, backends: Rows, kept: (Addr, u16)) -> bool {
    let others = [record.inside, record.outside, record.leaving];
    serves(view, backends, kept) || is_connection(protocol) && others.into_iter().any(|rows| serves(view, rows, kept))
}

/// Whether a pod that opened a flow to service `id`, and speaks there as itself to a backend that is another, goes on so.
/// False: that is to be judged as a whole.
pub fn is_kept(context: &Context, tuple: &Tuple, id: u32, kept: (Addr, u16)) -> bool {
    let key = ServiceKey::new(tuple.remote, tuple.remote_port, tuple.protocol);
    let Some(record) = context.view.find::<_, ServiceRecord>(Table::Service, &key) else { return false };
    let is_plain = record.flags & FLAG_MASQUERADE_ALL == 0 && record.sources.count == 0;
    let (backends, _) = served(Client::Pod, &record);
    record.id == id && is_plain && may_keep(&context.view, tuple.protocol, &record, backends, kept)
}

/// A service's address with a port that it does not define is refused; other protocols to it go unanswered.
fn undefined_port(context: &Context, tuple: &Tuple, decision: &mut Decision) -> Step {
    let address: Option<ServiceRecord> = context.view.find(Table::Service, &ServiceKey::address(tuple.remote));
    match address {
        None => Ok(()),
        Some(_) if tuple.protocol.has_ports() => decision.end(Verdict::Reject),
        Some(_) => decision.drop(DropReason::ServiceUnknown),
    }
}

/// Backend `index` of a service.
pub fn backend(view: &View, found: &Match, index: u32) -> BackendRecord {
    found.backends.get(index).map_or(BackendRecord::zeroed(), |row| view.row(Table::Backend, row))
}

/// One of `count` by a hash.
#[inline(always)]
fn picked(pick: u64, count: u32) -> u32 {
    (((hash::fold(pick, 0x9e37_79b9_7f4a_7c15) >> 32) * count as u64) >> 32) as u32
}

/// Where a backend is reached, if there is one of this index.
#[inline(always)]
fn serving(view: &View, backends: Rows, index: u32) -> Option<(Addr, u16)> {
    let backend: BackendRecord = view.row(Table::Backend, backends.get(index)?);
    (!backend.addr.is_unspecified()).then_some((backend.addr, backend.port))
}

/// Whether a backend is among these, which are sorted by address and port.
pub fn serves(view: &View, backends: Rows, (addr, port): (Addr, u16)) -> bool {
    let (mut low, mut high) = (0, backends.count.min(tables::limits::BACKENDS_MAX as u32));
    while low < high {
        let middle = low + (high - low) / 2;
        let Some(row) = backends.get(middle) else { return false };
        let backend: BackendRecord = view.row(Table::Backend, row);
        match (backend.addr, backend.port).cmp(&(addr, port)) {
            Ordering::Equal => return true,
            Ordering::Less => low = middle + 1,
            Ordering::Greater => high = middle,
        }
    }
    false
}
