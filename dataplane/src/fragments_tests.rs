use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const ENDS: Ends = Ends { src_port: 1000, dst_port: 53, protocol: Protocol::UDP };

fn key(id: u32) -> Key {
    Key::new(Addr::v4([10, 1, 0, 4]), Addr::v4([10, 1, 1, 4]), Protocol::UDP, id, 0, Addr::UNSPECIFIED)
}

fn fragment(offset: u16, units: u16, more: bool) -> Fragment {
    // The last part of a packet need not fill its last unit.
    Fragment { id: 0, offset, size: units * 8 - if more { 0 } else { 3 }, more }
}

/// Fragments by packet, each known by a number.
struct Harness {
    fragments: Fragments<u32>,
    next: u32,
}

#[derive(Debug, PartialEq, Eq, Clone)]
enum Outcome {
    On,
    Waits,
    Drop(DropReason),
}

impl Harness {
    fn new(packets: usize, waiting: usize, of_one: usize) -> Harness {
        Harness { fragments: Fragments::new(packets, waiting, of_one), next: 0 }
    }

    /// What becomes of a fragment, whose number is that of the call.
    fn pass(&mut self, id: u32, (offset, units, more): (u16, u16, bool), now_ms: u32) -> Outcome {
        let number = self.next;
        self.next += 1;
        let first = (offset == 0).then_some(Ok(ENDS));
        match self.fragments.judge(&key(id), &fragment(offset, units, more), first, now_ms) {
            Judged::On(ends) => {
                assert_eq!(ends, ENDS);
                Outcome::On
            }
            Judged::Wait(place) => {
                self.fragments.wait(place, number);
                Outcome::Waits
            }
            Judged::Drop(reason) => Outcome::Drop(reason),
        }
    }

    fn leaving(&mut self) -> Vec<(u32, Result<Ends, DropReason>)> {
        std::iter::from_fn(|| self.fragments.take_leaving()).collect()
    }

    /// Nothing is left behind.
    fn assert_empty(&mut self) {
        assert_eq!((self.fragments.len(), self.fragments.waiting()), (0, 0));
        assert_eq!(self.fragments.free.len(), self.fragments.waiting.len());
        assert!(self.fragments.buckets.iter().all(|&at| at == NONE));
    }
}

#[test]
fn later_fragments_follow_the_first_and_the_last_of_them_ends_the_packet() {
    let mut h = Harness::new(4, 8, 8);
    for part in [(0, 10, true), (20, 1, false), (10, 10, true)] {
        assert_eq!(h.fragments.len(), (part.0 != 0) as usize);
        assert_eq!(h.pass(7, part, 0), Outcome::On);
    }
    h.assert_empty();
}

#[test]
fn what_comes_before_the_first_fragment_waits_and_goes_on_in_order_of_arrival() {
    let mut h = Harness::new(4, 8, 8);
    for part in [(20, 5, false), (5, 5, true), (10, 10, true)] {
        assert_eq!(h.pass(7, part, 0), Outcome::Waits);
    }
    assert_eq!(h.leaving(), []);
    assert_eq!(h.pass(7, (0, 5, true), 1), Outcome::On);
    assert_eq!(h.leaving(), [(0, Ok(ENDS)), (1, Ok(ENDS)), (2, Ok(ENDS))]);
    h.assert_empty();
}

#[test]
fn an_overlap_ends_its_packet_and_a_copy_does_not() {
    let overlap = Outcome::Drop(DropReason::FragmentOverlap);
    // In part, on both sides, behind the end, and an end before what was there.
    for second in [(9, 2, true), (5, 20, true), (30, 1, true), (8, 1, false)] {
        let mut h = Harness::new(4, 8, 8);
        assert_eq!(h.pass(7, (0, 10, true), 0), Outcome::On);
        assert_eq!(h.pass(7, (20, 10, false), 0), Outcome::On);
        assert_eq!(h.pass(7, (0, 10, true), 0), overlap, "a copy");
        assert_eq!(h.pass(7, second, 0), overlap);
        assert_eq!(h.pass(7, (10, 10, true), 0), overlap, "after {second:?} nothing of the packet passes");
        assert_eq!(h.pass(8, (0, 10, true), 0), Outcome::On, "another packet does");
    }
    let mut h = Harness::new(4, 8, 8);
    assert_eq!(h.pass(7, (0, 10, true), 0), Outcome::On);
    assert_eq!(h.pass(7, (3, 4, true), 0), overlap, "all of it was there");
    assert_eq!(h.pass(7, (10, 4, false), 0), Outcome::On, "so the packet goes on");
    h.assert_empty();
}

#[test]
fn an_overlap_takes_with_it_what_waited() {
    let mut h = Harness::new(4, 8, 8);
    assert_eq!(h.pass(7, (5, 5, true), 0), Outcome::Waits);
    assert_eq!(h.pass(7, (8, 5, true), 0), Outcome::Drop(DropReason::FragmentOverlap));
    assert_eq!(h.leaving(), [(0, Err(DropReason::FragmentOverlap))]);
    assert_eq!(h.pass(7, (0, 5, true), 0), Outcome::Drop(DropReason::FragmentOverlap), "the first one, too");
}

#[test]
fn what_the_first_fragment_forbids_passes_nothing() {
    let mut h = Harness::new(4, 8, 8);
    assert_eq!(h.pass(7, (5, 5, true), 0), Outcome::Waits);
    let refused = h.fragments.judge(&key(7), &fragment(0, 5, true), Some(Err(DropReason::Fragment)), 0);
    assert_eq!(refused, Judged::Drop(DropReason::Fragment));
    assert_eq!(h.leaving(), [(0, Err(DropReason::Fragment))]);
    assert_eq!(h.pass(7, (10, 5, false), 0), Outcome::Drop(DropReason::Fragment));
}

#[test]
fn patience_and_life_end() {
    let mut h = Harness::new(4, 8, 8);
    let start = u32::MAX - 1000; // The clock wraps on the way.
    let at = |ms: u32| start.wrapping_add(ms);
    assert_eq!(h.pass(7, (5, 5, true), at(0)), Outcome::Waits);
    assert_eq!(h.pass(8, (0, 5, true), at(0)), Outcome::On);
    h.fragments.expire(4, at(PATIENCE_MS));
    assert_eq!((h.fragments.len(), h.leaving()), (2, vec![]));
    h.fragments.expire(4, at(PATIENCE_MS + 1));
    assert_eq!((h.fragments.len(), h.leaving()), (1, vec![(0, Err(DropReason::FragmentLost))]));
    h.fragments.expire(4, at(LIFE_MS));
    assert_eq!(h.pass(8, (5, 5, true), at(LIFE_MS)), Outcome::On);
    assert_eq!(
        h.pass(8, (10, 5, true), at(LIFE_MS + 1)),
        Outcome::Waits,
        "nobody has swept yet: it is forgotten anyway"
    );
    h.fragments.expire(4, at(LIFE_MS + PATIENCE_MS + 2));
    assert_eq!(h.leaving().len(), 1);
    h.assert_empty();
}

#[test]
fn who_is_full_takes_no_new_packet_and_keeps_the_old_ones() {
    let mut h = Harness::new(4, 3, 2);
    for id in 0..4 {
        assert_eq!(h.pass(id, (0, 1, true), 0), Outcome::On);
    }
    let full = Outcome::Drop(DropReason::FragmentsFull);
    assert_eq!(h.pass(9, (0, 1, true), 0), full);
    assert_eq!(h.pass(9, (1, 1, true), 0), full);
    (0..4).for_each(|id| assert_eq!(h.pass(id, (1, 1, false), 0), Outcome::On));
    h.assert_empty();
    // Two of one packet wait at most, three of all.
    let outcomes =
        [(1, 5), (1, 6), (1, 7), (2, 5), (2, 6), (3, 5)].map(|(id, offset)| h.pass(id, (offset, 1, true), 0));
    assert_eq!(outcomes, [Outcome::Waits, Outcome::Waits, full.clone(), Outcome::Waits, full.clone(), full]);
    assert_eq!(h.fragments.len(), 2, "a packet of which nothing waits is not remembered");
    assert_eq!(h.pass(1, (0, 5, true), 0), Outcome::On);
    assert_eq!(h.pass(1, (7, 1, true), 0), Outcome::On, "what was not kept may come again");
}

#[test]
fn each_sender_and_side_has_its_own_packets() {
    let (a, b) = (Addr::v4([10, 1, 0, 4]), Addr::v4([10, 1, 1, 4]));
    let [six, seven] = [6, 7].map(|o| Addr::v6([o; 16]));
    let key = |src, protocol, id, side, peer| Key::new(src, b, protocol, id, side, peer);
    let v4 = key(a, Protocol::UDP, 1, 0, a);
    for other in [
        key(b, Protocol::UDP, 1, 0, a),
        key(a, Protocol::TCP, 1, 0, a),
        key(a, Protocol::UDP, 2, 0, a),
        key(a, Protocol::UDP, 1, 1, a),
        key(a, Protocol::UDP, 1, 0, b),
    ] {
        assert_ne!(v4, other);
    }
    let v6 = |protocol| Key::new(six, seven, protocol, 1, 0, a);
    assert_eq!(v6(Protocol::UDP), v6(Protocol(60)), "destination options may stand in the first fragment only");
}

/// What the specification says of one packet, with a set of units.
#[derive(Default)]
struct Model {
    units: BTreeSet<u16>,
    end: Option<u16>,
    has_first: bool,
    refused: bool,
    waits: Vec<u32>,
}

impl Model {
    fn pass(&mut self, (offset, units, more): (u16, u16, bool), number: u32, left: &mut Vec<(u32, bool)>) -> Outcome {
        let overlap = Outcome::Drop(DropReason::FragmentOverlap);
        if self.refused {
            return overlap;
        }
        let here: BTreeSet<u16> = (offset..offset + units).collect();
        let end = offset + units;
        let behind = self.end.is_some_and(|total| end > total) || !more && self.units.iter().any(|&unit| unit >= end);
        if !behind && here.is_subset(&self.units) {
            return overlap;
        }
        if behind || !here.is_disjoint(&self.units) {
            self.refused = true;
            left.extend(self.waits.drain(..).map(|number| (number, false)));
            return overlap;
        }
        self.units.extend(here);
        self.end = if more { self.end } else { Some(end) };
        self.has_first |= offset == 0;
        if !self.has_first {
            self.waits.push(number);
            return Outcome::Waits;
        }
        left.extend(self.waits.drain(..).map(|number| (number, true)));
        Outcome::On
    }

    fn is_complete(&self) -> bool {
        !self.refused && self.has_first && self.end.is_some_and(|end| self.units.len() == end as usize)
    }
}

proptest! {
    /// Whatever comes in whatever order, each fragment has the fate that the model gives it, and what passes of a packet is
    /// no byte twice.
    #[test]
    fn fragments_fare_as_the_model_says(
        parts in prop::collection::vec((0u32..3, 0u16..150, 1u16..80, prop::bool::weighted(0.8)), 1..60),
    ) {
        let mut h = Harness::new(4, 64, 64);
        let mut models: BTreeMap<u32, Model> = BTreeMap::new();
        for (number, (id, offset, units, more)) in parts.into_iter().enumerate() {
            let model = models.entry(id).or_default();
            let mut left = Vec::new();
            let expected = model.pass((offset, units, more), number as u32, &mut left);
            prop_assert_eq!(h.pass(id, (offset, units, more), 0), expected);
            let leaving: Vec<(u32, bool)> = h.leaving().into_iter().map(|(number, how)| (number, how.is_ok())).collect();
            prop_assert_eq!(leaving, left);
            if model.is_complete() {
                models.remove(&id);
            }
            prop_assert_eq!(h.fragments.len(), models.len());
        }
        h.fragments.expire(4, LIFE_MS + 1);
        h.leaving();
        h.assert_empty();
    }

    /// A packet that is cut anywhere passes whole, in whatever order its parts come and however many copies there are.
    #[test]
    fn every_part_of_a_packet_passes_once(
        cuts in prop::collection::btree_set(1u16..8000, 0..40), order in any::<u64>(), copies in 1usize..3,
    ) {
        let ends: Vec<u16> = cuts.into_iter().chain([8100]).collect();
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let parts: Vec<_> = starts.zip(&ends).map(|(start, &end)| (start, end - start, end != 8100)).collect();
        let mut sequence: Vec<usize> = (0..parts.len()).flat_map(|i| std::iter::repeat_n(i, copies)).collect();
        sequence.sort_by_key(|&i| hash::hash(&[i as u64], order));
        let mut h = Harness::new(2, 64, 64);
        let (mut passed, mut waits) = (Vec::new(), BTreeMap::new());
        for (number, i) in sequence.into_iter().enumerate() {
            match h.pass(1, parts[i], 0) {
                Outcome::On => passed.push(i),
                Outcome::Waits => drop(waits.insert(number as u32, i)),
                Outcome::Drop(reason) => prop_assert_eq!(reason, DropReason::FragmentOverlap),
            }
            passed.extend(h.leaving().into_iter().map(|(number, _)| waits[&number]));
            if passed.len() == parts.len() {
                break;
            }
        }
        passed.sort();
        prop_assert_eq!(passed, (0..parts.len()).collect::<Vec<_>>());
        h.assert_empty();
    }
}
