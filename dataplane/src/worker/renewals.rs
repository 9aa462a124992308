//! What flows were found to be when they were looked at again, for one generation of the tables: flows that differ by
//! nothing but their clients' ports get the same answer, so that a change which touches all flows costs a classification
//! for each pair of a pod and a backend, and not for each flow. A cache: it says what `classify` would say again.

use crate::classify::again::Passed;
use tables::flow::{FLAG_OPENED_LOCALLY, FlowRecord, Hop, HopKind};
use tables::hash;
use tables::scope::Scopes;

/// Answers that are kept; others take turns at the places.
const PLACES: usize = 1 << 14;

/// All that the answer depends on: both tuples but for the port that the client chose, and who opened the flow.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Key {
    inside: [u64; 5],
    outside: [u64; 5],
    is_open: bool,
}

impl Key {
    fn of(record: &FlowRecord) -> Key {
        let is_open = record.flags & FLAG_OPENED_LOCALLY != 0;
        let (mut inside, mut outside) = (record.inside, record.outside());
        if is_open {
            (inside.local_port, outside.local_port) = (0, 0);
        } else {
            (inside.remote_port, outside.remote_port) = (0, 0);
        }
        Key { inside: inside.words(), outside: outside.words(), is_open }
    }

    fn place(&self) -> usize {
        let [a, b, c, d, e] = self.inside;
        let [f, g, h, i, j] = self.outside;
        let words =
            [a ^ f.rotate_left(32), b ^ g.rotate_left(32), c ^ h.rotate_left(32), d ^ i.rotate_left(32), e ^ j << 8];
        hash::hash_words(&words, self.is_open as u64) as usize % PLACES
    }
}

#[derive(Clone, Copy)]
struct Kept {
    generation: u64,
    key: Key,
    out: Hop,
    back: Hop,
    scopes: Scopes,
    route: u16,
    service: u32,
}

/// One worker's answers.
#[derive(Default)]
pub struct Renewals {
    kept: Vec<Option<Kept>>,
    /// Those of policies alone.
    pub passed: Passed,
}

impl Renewals {
    pub fn new() -> Renewals {
        Renewals { kept: vec![None; PLACES], passed: Passed::default() }
    }

    /// Forgets everything: the tables' generations begin anew.
    pub fn clear(&mut self) {
        self.kept.fill(None);
        self.passed.clear();
    }

    /// Renews a record as one like it was renewed before. The scopes' sum is still to be taken. False: classify it.
    pub fn renew(&self, record: &mut FlowRecord, generation: u64) -> bool {
        let key = Key::of(record);
        let Some(kept) = self.kept[key.place()].as_ref().filter(|k| k.generation == generation && k.key == key) else {
            return false;
        };
        (record.out, record.back, record.scopes) = (kept.out, kept.back, kept.scopes);
        (record.route, record.service) = (kept.route, kept.service);
        true
    }

    /// Keeps what a record was found to be, if others like it will be found the same: a flow that ends on this node, too,
    /// names the worker of its other half, which may depend on its ports; and a flow that is cut keeps what it stood on.
    pub fn keep(&mut self, record: &FlowRecord, generation: u64) {
        if !record.out.kind().forwards() || record.out.kind() == HopKind::Endpoint {
            return;
        }
        let FlowRecord { out, back, scopes, route, service, .. } = *record;
        let key = Key::of(record);
        self.kept[key.place()] = Some(Kept { generation, key, out, back, scopes, route, service });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tables::flow::Tuple;
    use tables::{Addr, Protocol};

    /// A flow of a pod that was opened to a service, on a backend; `target` tells answers apart.
    fn record(local_port: u16, service: u32, target: u32) -> FlowRecord {
        let addr = |net: u8, i: u32| Addr::v4([net, (i >> 16) as u8, (i >> 8) as u8, i as u8]);
        let inside = Tuple {
            local: Addr::v4([10, 1, 0, 4]),
            remote: addr(172, service),
            local_port,
            remote_port: 80,
            protocol: Protocol::UDP,
            reserved: 0,
            network: 0,
        };
        let mut record = FlowRecord::new(inside, &Tuple { remote: addr(10, service), ..inside });
        record.flags = FLAG_OPENED_LOCALLY;
        record.out = Hop::new(HopKind::Tunnel, target);
        record
    }

    #[test]
    fn an_answer_holds_for_another_port_of_the_client_and_for_one_generation() {
        let mut renewals = Renewals::new();
        renewals.keep(&record(1000, 1, 7), 3);
        let mut other = record(2000, 1, 0);
        assert!(!renewals.renew(&mut other, 4));
        assert!(renewals.renew(&mut other, 3));
        assert_eq!(other.out.target, 7);
        other.flags = 0;
        assert!(!renewals.renew(&mut other, 3), "opened from the other side");
    }

    #[test]
    fn a_flow_that_shares_the_place_by_chance_gets_no_answer() {
        let mut renewals = Renewals::new();
        let kept = record(1000, 1, 7);
        renewals.keep(&kept, 3);
        let place = Key::of(&kept).place();
        let mut others = (2..).map(|service| record(1000, service, 0));
        let mut other = others.find(|other| Key::of(other).place() == place).unwrap();
        assert!(!renewals.renew(&mut other, 3));
    }

    #[test]
    fn flows_that_end_here_or_are_cut_are_not_kept() {
        for kind in [HopKind::Endpoint, HopKind::Drop] {
            let (mut renewals, mut cut) = (Renewals::new(), record(1000, 1, 7));
            cut.out = Hop::new(kind, 7);
            renewals.keep(&cut, 3);
            assert!(!renewals.renew(&mut cut, 3));
        }
    }
}
