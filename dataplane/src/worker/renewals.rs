//! What flows were found to be when they were looked at again, for one generation of the tables: flows that differ by
//! nothing but their clients' ports get the same answer, so that a change which touches all flows costs a classification
//! for each pair of a pod and a backend, and not for each flow. A cache: it says what `classify` would say again.

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
}

impl Renewals {
    pub fn new() -> Renewals {
        Renewals { kept: vec![None; PLACES] }
    }

    /// Forgets everything: the tables' generations begin anew.
    pub fn clear(&mut self) {
        self.kept.fill(None);
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
