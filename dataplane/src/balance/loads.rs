//! Least connections: how many flows each backend has, of those that services with this algorithm gave it. Counted by all
//! workers in one place; no count belongs to a flow, and none is read again but to compare. A flow counts until it leaves
//! its flow table, also while it closes. Told by the flow tables, and counted again from those of a predecessor.
//!
//! A place is one word: the backend's tag in the upper half, its flows in the lower, 0 is free. Words change by
//! compare-and-swap alone, so a tag is never counted for another. Two workers that bring a backend at once may give it two
//! places: its flows are the sum of both.

use crate::classify::service::Asked;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tables::flow::FlowRecord;
use tables::service::FLAG_WEIGHTED;
use tables::{Addr, Protocol, View, hash};

/// Backends that have flows at once; a power of two. Flows of more go uncounted.
const PLACES: usize = 1 << 16;
/// Places where a backend may stand.
const LOOK: usize = 16;
/// Backends that are compared for one flow: beginning anywhere, so that all of a larger service get theirs.
const COMPARED: u32 = 256;
const FLOWS: u64 = u32::MAX as u64;

pub struct Loads {
    places: Box<[AtomicU64]>,
}

impl Default for Loads {
    fn default() -> Loads {
        Loads { places: (0..PLACES).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Loads {
    /// A flow has come. False: there is no room to count it.
    pub fn add(&self, record: &FlowRecord) -> bool {
        let backend = of_record(record);
        let more = |word: u64| (flows(word) < u32::MAX).then_some(word + 1);
        let has_place =
            self.near(backend).any(|place| change(place, |word| is_of(word, backend).then(|| more(word))?));
        let new = tag(backend) | 1;
        has_place || self.near(backend).any(|place| change(place, |word| (word == 0).then_some(new)))
    }

    /// A counted flow has gone.
    pub fn remove(&self, record: &FlowRecord) {
        let backend = of_record(record);
        let less = |word: u64| if flows(word) == 1 { 0 } else { word - 1 };
        self.near(backend).any(|place| change(place, |word| is_of(word, backend).then(|| less(word))));
    }

    pub fn of(&self, addr: Addr, port: u16, protocol: Protocol) -> u32 {
        let backend = of_backend(addr, port, protocol);
        let words = self.near(backend).map(|place| place.load(Relaxed));
        words.filter(|&word| is_of(word, backend)).fold(0, |sum, word| sum.saturating_add(flows(word)))
    }

    fn near(&self, backend: u64) -> impl Iterator<Item = &AtomicU64> {
        (0..LOOK).map(move |i| &self.places[(backend as usize).wrapping_add(i) & (PLACES - 1)])
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

/// Changes a place as long as `to` finds something to change. False: it does not.
fn change(place: &AtomicU64, to: impl Fn(u64) -> Option<u64>) -> bool {
    place.fetch_update(Relaxed, Relaxed, to).is_ok()
}

fn tag(backend: u64) -> u64 {
    backend & !FLOWS
}

fn flows(word: u64) -> u32 {
    (word & FLOWS) as u32
}

/// Whether a place counts for a backend.
fn is_of(word: u64, backend: u64) -> bool {
    word != 0 && tag(word) == tag(backend)
}

fn of_record(record: &FlowRecord) -> u64 {
    let outside = record.outside();
    of_backend(outside.remote, outside.remote_port, outside.protocol)
}

fn of_backend(addr: Addr, port: u16, protocol: Protocol) -> u64 {
    let [high, low] = addr.words();
    hash::hash(&[high, low, (port as u64) << 8 | protocol.0 as u64], 0)
}

#[cfg(test)]
#[path = "loads_tests.rs"]
mod tests;
