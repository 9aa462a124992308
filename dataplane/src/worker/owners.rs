//! Which worker keeps the flows of a local address, as the tables said when they were last asked: a cache for the first
//! pass, which asks for each packet from outside. Knows only addresses with one owner; the rest asks the tables.

mod asked;

use asked::Asked;
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
    end: End,
}

/// Who keeps the flows of an address, and through which interface it is reached; of none [`NOBODYS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    pub owner: Worker,
    pub interface: u16,
}

/// The address is no pod's and not the host's, or has several owners.
pub const NOBODYS: End = End::of(Worker::MAX);

impl End {
    /// Who keeps a flow that no interface is known of.
    pub const fn of(owner: Worker) -> End {
        End { owner, interface: u16::MAX }
    }
}

pub struct Owners {
    kept: Box<[Kept; PLACES]>,
    pub asked: Asked,
}

impl Default for Owners {
    fn default() -> Owners {
        Owners { kept: Box::new([Kept::default(); PLACES]), asked: Asked::default() }
    }
}

impl Owners {
    /// Forgets everything: the tables' generations begin anew.
    pub fn clear(&mut self) {
        self.kept.fill(Kept::default());
        self.asked.clear();
    }

    /// The only owner of a local address; [`NOBODYS`]: ask `tables::owner`.
    #[inline(always)]
    pub fn find(&mut self, view: &View, addr: Addr) -> End {
        let [high, low] = addr.words();
        let place = (low ^ low >> 9 ^ high) as usize % PLACES;
        let kept = &self.kept[place];
        if kept.addr == addr && kept.generation == view.generation() + 1 {
            return kept.end;
        }
        self.ask(view, addr, place)
    }

    #[cold]
    fn ask(&mut self, view: &View, addr: Addr, place: usize) -> End {
        let record: Option<EndpointRecord> = view.find(Table::Endpoint, &addr);
        let is_whole = |record: &EndpointRecord| {
            matches!(record.kind(), Some(EndpointKind::Pod | EndpointKind::Host)) && record.owner_count <= 1
        };
        let of = |record: EndpointRecord| End { owner: record.owner_first, interface: record.interface as u16 };
        let end = record.filter(is_whole).map_or(NOBODYS, of);
        self.kept[place] = Kept { addr, generation: view.generation() + 1, end };
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tables::Publisher;

    /// Publishes which worker owns each pod.
    fn publish(publisher: &mut Publisher, pods: &[(Addr, Worker)]) {
        let mut batch = publisher.batch([]).unwrap();
        for &(addr, owner_first) in pods {
            let mut record = EndpointRecord::new(EndpointKind::Pod);
            record.owner_first = owner_first;
            batch.insert(Table::Endpoint, &addr, &record).unwrap();
        }
        batch.publish();
    }

    #[test]
    fn an_owner_is_known_until_the_tables_change() {
        let (mut publisher, mut owners, pod) =
            (Publisher::create(7).unwrap(), Owners::default(), Addr::v4([10, 1, 0, 4]));
        for owner in [1, 2] {
            publish(&mut publisher, &[(pod, owner)]);
            assert_eq!([(); 2].map(|()| owners.find(&publisher.live(), pod).owner), [owner; 2]);
        }
    }

    #[test]
    fn addresses_that_share_a_place_keep_their_own_owners() {
        let (mut publisher, mut owners) = (Publisher::create(7).unwrap(), Owners::default());
        // As many pods as there are places, and one more.
        let pods: Vec<(Addr, Worker)> =
            (0..=PLACES as u16).map(|i| (Addr::v4([10, 1, (i >> 8) as u8, i as u8]), i % 3)).collect();
        publish(&mut publisher, &pods);
        for (addr, owner) in pods.iter().chain(&pods) {
            assert_eq!(owners.find(&publisher.live(), *addr).owner, *owner);
        }
    }

    #[test]
    fn what_has_several_owners_or_none_is_left_to_the_tables() {
        let (mut publisher, mut owners) = (Publisher::create(7).unwrap(), Owners::default());
        let [spread, node, nobody] = [4, 5, 6].map(|i| Addr::v4([10, 1, 0, i]));
        let mut batch = publisher.batch([]).unwrap();
        let mut several = EndpointRecord::new(EndpointKind::Pod);
        several.owner_count = 2;
        batch.insert(Table::Endpoint, &spread, &several).unwrap();
        batch.insert(Table::Endpoint, &node, &EndpointRecord::new(EndpointKind::Node)).unwrap();
        batch.publish();
        for addr in [spread, node, nobody, nobody] {
            assert_eq!(owners.find(&publisher.live(), addr), NOBODYS);
        }
    }
}
