//! Which worker keeps a flow: one pure function of the tables and the flow's own two ends. It never looks at the queue a
//! packet came in by, so both directions, and the packet quoted inside an ICMP error, give the same answer.

use crate::endpoint::{EndpointKind, EndpointRecord};
use crate::flow::Tuple;
use crate::hash;
use crate::layout::Table;
use crate::service::{ServiceKey, ServiceRecord};
use crate::taken::is_taken;
use crate::view::View;
use crate::{Protocol, addr::Addr};
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;

/// A worker's number, from 0.
pub type Worker = u16;

/// The SNAT ports and echo ids of a node, split into one block for each worker. A worker's block is its alone, whatever
/// the protocol and the address it stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Claimed")]
pub struct SnatPorts {
    first: u16,
    last: u16,
    workers: u16,
}

/// As the other process sent it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Claimed {
    first: u16,
    last: u16,
    workers: u16,
}

impl TryFrom<Claimed> for SnatPorts {
    type Error = SnatPortsError;
    fn try_from(claimed: Claimed) -> Result<SnatPorts, SnatPortsError> {
        SnatPorts::new(claimed.first, claimed.last, claimed.workers)
    }
}

/// "the SNAT range is too small"
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "the SNAT port range {first}-{last} cannot be split between {workers} workers: give a range of at least 64 ports for each"
)]
pub struct SnatPortsError {
    first: u16,
    last: u16,
    workers: u16,
}

impl SnatPorts {
    pub fn new(first: u16, last: u16, workers: u16) -> Result<SnatPorts, SnatPortsError> {
        if first < 1024 || last < first || workers == 0 || (last - first) / workers.max(1) < 63 {
            return Err(SnatPortsError { first, last, workers });
        }
        Ok(SnatPorts { first, last, workers })
    }

    pub fn range(&self) -> RangeInclusive<u16> {
        self.first..=self.last
    }

    fn block_size(&self) -> u32 {
        (self.last as u32 - self.first as u32 + 1) / self.workers as u32
    }

    /// The ports of one worker.
    pub fn block(&self, worker: Worker) -> RangeInclusive<u16> {
        let first = self.first as u32 + worker as u32 * self.block_size();
        first as u16..=(first + self.block_size() - 1) as u16
    }

    /// The worker of a port; None outside the range (and in the rest that does not divide).
    #[inline(always)]
    pub fn owner(&self, port: u16) -> Option<Worker> {
        if !self.range().contains(&port) {
            return None;
        }
        let worker = (port - self.first) as u32 / self.block_size();
        (worker < self.workers as u32).then_some(worker as Worker)
    }
}

/// The worker that keeps the flow of this tuple, seen from its local end. None: neither of the ends is ours, so whoever
/// holds the packet may judge it.
#[inline]
pub fn owner(view: &View, snat: &SnatPorts, tuple: &Tuple) -> Option<Worker> {
    if let Some(endpoint) = view.find::<Addr, EndpointRecord>(Table::Endpoint, &tuple.local) {
        return match endpoint.kind()? {
            EndpointKind::Snat => snat.owner(tuple.local_port),
            EndpointKind::Node => {
                let asked = || by_asker(view, snat, tuple).unwrap_or(endpoint.owner_first);
                Some(of_node_port(view, snat, tuple.local_port).unwrap_or_else(asked))
            }
            EndpointKind::Pod | EndpointKind::Host | EndpointKind::Gateway => Some(spread(&endpoint, tuple)),
        };
    }
    by_asker(view, snat, tuple)
}

/// Of a port of the node's own address; None: no flow is answered there.
#[inline(always)]
pub fn of_node_port(view: &View, snat: &SnatPorts, port: u16) -> Option<Worker> {
    snat.owner(port).filter(|_| !is_taken(view, port))
}

/// Of a flow to a service from outside.
fn by_asker(view: &View, snat: &SnatPorts, tuple: &Tuple) -> Option<Worker> {
    Some(asker_of(view, tuple)?.owner(tuple, snat.workers))
}

fn asker_of(view: &View, tuple: &Tuple) -> Option<Asker> {
    let key = ServiceKey::new(tuple.local, tuple.local_port, tuple.protocol);
    let service: ServiceRecord = view.find(Table::Service, &key)?;
    Some(if service.affinity_s == 0 { Asker::Port } else { Asker::Client })
}

/// What names the worker of who asks a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asker {
    /// A client's address and port.
    #[default]
    Port,
    /// Its address: the service has affinity.
    Client,
}

impl Asker {
    #[inline(always)]
    pub fn owner(self, tuple: &Tuple, workers: u16) -> Worker {
        let port = if self == Asker::Port { tuple.remote_port } else { 0 };
        by_client(tuple.remote, port, tuple.protocol, workers)
    }
}

/// What names the worker of whoever asks a tuple's local end, if that is a service's port alone.
pub fn asker(view: &View, snat: &SnatPorts, tuple: &Tuple) -> Option<Asker> {
    let end: Option<EndpointRecord> = view.find(Table::Endpoint, &tuple.local);
    match end.map(|end| end.kind()) {
        None => asker_of(view, tuple),
        Some(Some(EndpointKind::Node)) if of_node_port(view, snat, tuple.local_port).is_none() => asker_of(view, tuple),
        Some(_) => None,
    }
}

/// Who keeps the flow of a client outside that a backend elsewhere answers by the tunnel, seen from the client: nothing in
/// the answer names the service that was asked. The first is right unless that has affinity, then the second is.
pub fn of_answered_client(client: &Tuple, workers: u16) -> [Worker; 2] {
    [client.local_port, 0].map(|port| by_client(client.local, port, client.protocol, workers))
}

/// The worker that learns the ports of a fragmented packet from outside and hands its fragments on. All of them name it,
/// and of IPv6 packets only the first one the right protocol (RFC 8200, 4.5).
pub fn of_fragment(src: Addr, dst: Addr, protocol: Protocol, id: u32, workers: u16) -> Worker {
    let [[a, b], [c, d]] = [src, dst].map(Addr::words);
    let protocol = if src.is_v4() { protocol.0 as u64 } else { 0 };
    (((hash::hash(&[a, b, c, d, (id as u64) << 8 | protocol], 0) >> 32) * workers as u64) >> 32) as Worker
}

/// A local end with several queues spreads its flows over as many workers.
#[inline(always)]
fn spread(endpoint: &EndpointRecord, tuple: &Tuple) -> Worker {
    if endpoint.owner_count <= 1 {
        return endpoint.owner_first;
    }
    let client_port = tuple.remote_port ^ tuple.local_port;
    // A damaged row names a worker that there is not; callers check.
    endpoint.owner_first.wrapping_add(by_client(tuple.remote, client_port, tuple.protocol, endpoint.owner_count))
}

fn by_client(client: Addr, port: u16, protocol: Protocol, workers: u16) -> Worker {
    let [high, low] = client.words();
    let key = [high, low, (port as u64) << 8 | protocol.0 as u64];
    (((hash::hash(&key, 0) >> 32) * workers as u64) >> 32) as Worker
}

#[cfg(test)]
#[path = "owner_tests.rs"]
mod tests;
