//! Least connections: how many flows of this worker each backend has, of those that services with this algorithm gave it.
//! A flow counts until it leaves the flow table, also while it closes. Told by the flow table, and counted again from it
//! when a predecessor's is adopted.

use crate::classify::service::Asked;
use tables::flow::FlowRecord;
use tables::service::FLAG_WEIGHTED;
use tables::{Addr, Protocol, View, hash};

/// Backends that have flows at once; a power of two. Flows of more go uncounted.
const PLACES: usize = 1 << 16;
/// Places where a backend may stand.
const LOOK: usize = 16;
/// Backends that are compared for one flow: beginning anywhere, so that all of a larger service get theirs.
const COMPARED: u32 = 256;

/// A backend by its hash, and its flows: none is a free place.
#[derive(Clone, Copy, Default)]
struct Load {
    backend: u64,
    flows: u32,
}

pub struct Loads {
    places: Vec<Load>,
}

impl Default for Loads {
    fn default() -> Loads {
        Loads { places: vec![Load::default(); PLACES] }
    }
}

impl Loads {
    pub fn clear(&mut self) {
        self.places.fill(Load::default());
    }

    /// A flow has come. False: there is no room to count it.
    pub fn add(&mut self, record: &FlowRecord) -> bool {
        let backend = of_record(record);
        let is_free = |at: &usize| self.places[*at].flows == 0;
        let Some(at) = self.find(backend).or_else(|| near(backend).find(is_free)) else { return false };
        self.places[at] = Load { backend, flows: self.places[at].flows + 1 };
        true
    }

    /// A counted flow has gone.
    pub fn remove(&mut self, record: &FlowRecord) {
        if let Some(at) = self.find(of_record(record)) {
            self.places[at].flows -= 1;
        }
    }

    pub fn of(&self, addr: Addr, port: u16, protocol: Protocol) -> u32 {
        self.find(of_backend(addr, port, protocol)).map_or(0, |at| self.places[at].flows)
    }

    fn find(&self, backend: u64) -> Option<usize> {
        near(backend).find(|&at| self.places[at].backend == backend && self.places[at].flows > 0)
    }

    /// The index of the backend that would have the fewest flows for its weight with one more. Which of several comes
    /// first, `pick` says.
    pub fn least(&self, view: &View, asked: &Asked, pick: u64) -> Option<u32> {
        let (count, is_weighted) = (asked.backends.count, asked.service.flags & FLAG_WEIGHTED != 0);
        let start = (hash::fold(pick, 0x9e37_79b9_7f4a_7c15) % count.max(1) as u64) as u32;
        let mut best: Option<(u64, u64, u32)> = None;
        for i in (0..count.min(COMPARED)).map(|i| ((start as u64 + i as u64) % count as u64) as u32) {
            let backend = asked.backend(view, i);
            let weight = if is_weighted { backend.weight as u64 } else { 1 };
            let flows = self.of(backend.addr, backend.port, asked.tuple.protocol) as u64 + 1;
            // flows / weight < best flows / best weight
            if weight > 0 && best.is_none_or(|(least, of, _)| flows * of < least * weight) {
                best = Some((flows, weight, i));
            }
        }
        // All are of weight 0.
        best.map(|(_, _, i)| i).or((count > 0).then_some(start))
    }
}

fn near(backend: u64) -> impl Iterator<Item = usize> {
    (0..LOOK).map(move |i| (backend as usize).wrapping_add(i) & (PLACES - 1))
}

fn of_record(record: &FlowRecord) -> u64 {
    let outside = record.outside();
    of_backend(outside.remote, outside.remote_port, outside.protocol)
}

fn of_backend(addr: Addr, port: u16, protocol: Protocol) -> u64 {
    let [high, low] = addr.words();
    hash::hash(&[high, low, (port as u64) << 8 | protocol.0 as u64], 0)
}
