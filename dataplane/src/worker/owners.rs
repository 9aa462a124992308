//! Which worker keeps the flows of a local address, as the tables said when they were last asked: a cache for the first
//! pass, which asks for each packet from outside. Knows only addresses with one owner; the rest asks the tables.

use tables::endpoint::{EndpointKind, EndpointRecord};
use tables::layout::Table;
use tables::owner::Worker;
use tables::{Addr, View};

/// Addresses that are kept: the pods of a node and some.
const PLACES: usize = 512;

#[derive(Clone, Copy, Default)]
struct Kept {
    addr: Addr,
    /// Of the tables, plus one: 0 is nothing kept.
    generation: u64,
    owner: Worker,
}

pub struct Owners {
    kept: Box<[Kept; PLACES]>,
}

impl Default for Owners {
    fn default() -> Owners {
        Owners { kept: Box::new([Kept::default(); PLACES]) }
    }
}

impl Owners {
    /// Forgets everything: the tables' generations begin anew.
    pub fn clear(&mut self) {
        self.kept.fill(Kept::default());
    }

    /// The only owner of a local address; None: ask `tables::owner`.
    #[inline(always)]
    pub fn find(&mut self, view: &View, addr: Addr) -> Option<Worker> {
        let [high, low] = addr.words();
        let place = (low ^ low >> 9 ^ high) as usize % PLACES;
        let kept = &self.kept[place];
        if kept.addr == addr && kept.generation == view.generation() + 1 {
            return Some(kept.owner);
        }
        self.ask(view, addr, place)
    }

    #[cold]
    fn ask(&mut self, view: &View, addr: Addr, place: usize) -> Option<Worker> {
        let record: EndpointRecord = view.find(Table::Endpoint, &addr)?;
        let is_whole = matches!(record.kind()?, EndpointKind::Pod | EndpointKind::Host) && record.owner_count <= 1;
        let owner = is_whole.then_some(record.owner_first)?;
        self.kept[place] = Kept { addr, generation: view.generation() + 1, owner };
        Some(owner)
    }
}
