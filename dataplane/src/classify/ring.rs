//! Source hash and Maglev: control has laid out which backend each slot of a service's ring belongs to
//! (`tables::maglev`), the same on every node. A damaged or missing ring answers nothing.

use super::service::Asked;
use tables::View;
use tables::layout::Table;
use tables::maglev::{self, SLOTS_PER_WORD};
use tables::service::{Algorithm, Rows};

/// The index of the backend that a flow's slot belongs to. None: the service has no ring.
#[cold]
#[inline(never)]
pub fn backend(view: &View, asked: &Asked) -> Option<u32> {
    let hash = match asked.service.algorithm() {
        Algorithm::Maglev => maglev::of_flow(asked.tuple),
        Algorithm::SourceHash => maglev::of_client(asked.tuple.local),
        Algorithm::Random | Algorithm::RoundRobin | Algorithm::LeastConnections => return None,
    };
    // Service::Rings: one word for those inside, the next for those outside.
    let is_outside = asked.backends != asked.service.inside;
    let ring: Rows = view.row(Table::Ring, asked.service.ring as usize + is_outside as usize);
    let slot = (ring.count > 0).then(|| maglev::slot(hash, ring.count) as usize)?;
    let word: [u16; SLOTS_PER_WORD] = view.row(Table::Ring, ring.first as usize + slot / SLOTS_PER_WORD);
    let index = word[slot % SLOTS_PER_WORD] as u32;
    // A ring of an older list would name nobody.
    (index < asked.backends.count).then_some(index)
}
