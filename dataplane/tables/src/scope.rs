//! What an update touched, so that only the flows that depend on it are looked at again.
//!
//! A scope (a service, a policy set, an identity, a route) is hashed to one of `SCOPE_SLOTS` slots. The publisher marks
//! the slots of a publish in a bitmap; a worker bumps the marked slots of its private [`ScopeCounters`]; a flow keeps
//! the slots it depends on and the sum of their counters. An unequal sum means *revalidate*. A collision only costs time;
//! that of services, which change often, hardly any, since the publisher names those, too.
//! Most flows need not even be asked for the sum: nothing of theirs was bumped since a packet of theirs passed.

use crate::layout::{SCOPE_BITMAP_WORDS, SERVICES_NAMED_MAX};
use crate::limits::SCOPE_SLOTS;
use bytemuck::{Pod, Zeroable};

/// Slots of all scopes but services. Services change often and many flows share a policy set, an identity or a route: a
/// service in the slot of one of these would have all those flows looked at again with each of its changes.
const SHARED_SLOTS: usize = SCOPE_SLOTS / 8;

/// For at least this long, a slot that was bumped is among the recent ones.
const RECENT_MS: u32 = 16;

/// A thing that flows depend on, by its stable id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// A service port's id ([`crate::service::ServiceRecord::id`]).
    Service(u32),
    /// A policy set's index.
    PolicySet(u32),
    /// An identity's number.
    Identity(u32),
    /// A route's index.
    Route(u32),
}

impl Scope {
    #[inline(always)]
    pub fn slot(self) -> u16 {
        let (kind, id) = match self {
            Scope::Service(id) => (1u64, id),
            Scope::PolicySet(id) => (2, id),
            Scope::Identity(id) => (3, id),
            Scope::Route(id) => (4, id),
        };
        let mixed = crate::hash::fold(kind << 32 | id as u64, 0x9e37_79b9_7f4a_7c15) as usize;
        let slot = match self {
            Scope::Service(_) => SHARED_SLOTS + mixed % (SCOPE_SLOTS - SHARED_SLOTS),
            _ => mixed % SHARED_SLOTS,
        };
        slot as u16
    }
}

/// What one publish touched.
#[derive(Clone)]
pub struct Touched {
    slots: Box<[u64; SCOPE_BITMAP_WORDS]>,
    services: Services,
}

impl Default for Touched {
    fn default() -> Touched {
        Touched { slots: Box::new([0; SCOPE_BITMAP_WORDS]), services: Services::default() }
    }
}

/// Services by their ids, each once, as far as there is room; `count` goes on where there is none.
#[derive(Clone, Default)]
struct Services {
    ids: [u32; SERVICES_NAMED_MAX],
    count: usize,
}

impl Services {
    fn add(&mut self, id: u32) {
        if self.ids.contains(&id) {
            return;
        }
        if let Some(place) = self.ids.get_mut(self.count) {
            *place = id;
        }
        self.count += 1;
    }

    /// As they stand in the journal: all or none.
    fn words(&self) -> impl Iterator<Item = u64> {
        let is_whole = self.count <= self.ids.len();
        self.ids.as_chunks::<2>().0.iter().map(move |&[low, high]| match is_whole {
            true => low as u64 | (high as u64) << 32,
            false => 0,
        })
    }
}

impl Touched {
    pub fn touch(&mut self, scope: Scope) {
        let slot = scope.slot() as usize;
        self.slots[slot / 64] |= 1 << (slot % 64);
        if let Scope::Service(id) = scope {
            self.services.add(id);
        }
    }

    /// Every flow is to be looked at again.
    pub fn touch_all(&mut self) {
        self.slots.fill(u64::MAX);
        self.services.count = SERVICES_NAMED_MAX + 1;
    }

    pub fn is_empty(&self) -> bool {
        self.slots.iter().all(|&w| w == 0)
    }

    /// As they stand in the journal.
    pub(crate) fn words(&self) -> impl Iterator<Item = u64> {
        self.slots.iter().copied().chain(self.services.words())
    }

    pub(crate) fn clear(&mut self) {
        self.slots.fill(0);
        self.services = Services::default();
    }
}

/// The slots of a flow and what their counters added up to when it was last validated. A service has the first place, if
/// there is one. 12 bytes.
#[derive(Clone, Copy, Pod, Zeroable, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Scopes {
    slots: [u16; 4],
    sum: u32,
}

/// A worker's private counters: 8 KiB, one cache line touched per slot. Beside them, when each slot was last bumped.
pub struct ScopeCounters {
    slots: Box<[u32; SCOPE_SLOTS]>,
    /// Publishes that were seen. It never wraps.
    seen: u64,
    /// By slot, the last of them that bumped it. For flows that are stale alone.
    bumped: Box<[u64; SCOPE_SLOTS]>,
    /// By slot, when that was.
    bumped_ms: Box<[u32; SCOPE_SLOTS]>,
    /// By slot, the service for which it was bumped then; 0: nobody knows. For flows that are stale alone.
    services: Box<[u32; SCOPE_SLOTS]>,
    /// Slots that were bumped lately, a bit each. Every packet asks here first: 256 bytes that stay in the first-level
    /// cache, unlike the 8 KiB above.
    recent: Box<[u64; SCOPE_BITMAP_WORDS]>,
    /// Of all other slots.
    others: Still,
    now_ms: u32,
    any: Still,
    /// Of the slots of all scopes but services.
    shared: Still,
}

/// For how long none of some slots was bumped. It wraps with the clock, as if that were a short time.
#[derive(Clone, Copy, Default)]
struct Still {
    since_ms: u32,
    for_ms: u32,
}

impl Still {
    fn tick(&mut self, now_ms: u32) {
        self.for_ms = now_ms.wrapping_sub(self.since_ms);
    }

    fn end(&mut self, now_ms: u32) {
        *self = Still { since_ms: now_ms, for_ms: 0 };
    }
}

impl Default for ScopeCounters {
    fn default() -> ScopeCounters {
        let (any, shared, others) = Default::default();
        let (slots, bumped, bumped_ms, services) = (zeroes(), zeroes(), zeroes(), zeroes());
        let recent = zeroes();
        ScopeCounters { slots, seen: 0, bumped, bumped_ms, services, recent, others, now_ms: 0, any, shared }
    }
}

fn zeroes<T: Pod, const COUNT: usize>() -> Box<[T; COUNT]> {
    vec![T::zeroed(); COUNT].into_boxed_slice().try_into().ok().expect("of that length")
}

impl Scopes {
    /// Whether the `place`th scope that it named has this slot.
    #[inline(always)]
    pub fn is_on(&self, place: usize, slot: u16) -> bool {
        self.slots[place] == slot
    }

    /// Whether these two places have the same slot, as one that is not used has.
    #[inline(always)]
    pub fn is_repeated(&self, place: usize, other: usize) -> bool {
        self.slots[place] == self.slots[other]
    }
}

/// More than one service in a slot.
const SEVERAL: u32 = u32::MAX;

/// Which of a flow's four scopes moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Bit `i` for the `i`th that it named.
    places: u8,
    /// For which service the first one did, or 0 or [`SEVERAL`].
    service: u32,
}

impl Moved {
    /// Whether the first place moved for another service than this one alone, which has the same slot.
    pub fn is_for_another(self, service: u32) -> bool {
        self.service != 0 && self.service != SEVERAL && self.service != service
    }

    /// Whether none did but those at these places.
    pub fn is_within(self, places: &[usize]) -> bool {
        self.places & !places.iter().fold(0, |all, place| all | 1 << place) == 0
    }
}

#[inline(always)]
fn slot_or(scope: Option<Scope>, other: impl FnOnce() -> u16) -> u16 {
    match scope {
        Some(scope) => scope.slot(),
        None => other(),
    }
}

impl ScopeCounters {
    /// Counters that begin at `start`, so that sums of earlier counters do not look current.
    pub fn starting_at(start: u32) -> ScopeCounters {
        let mut counters = ScopeCounters::default();
        counters.slots.fill(start);
        counters
    }

    /// Tells the time, before each pin.
    #[inline(always)]
    pub fn tick(&mut self, now_ms: u32) {
        self.now_ms = now_ms;
        self.any.tick(now_ms);
        self.shared.tick(now_ms);
        self.others.tick(now_ms);
    }

    /// Bumps the slots that one publish touched, given as it stands in the journal.
    pub(crate) fn bump(&mut self, mut touched: impl Iterator<Item = u64>) {
        self.seen += 1;
        self.any.end(self.now_ms);
        if self.others.for_ms >= 2 * RECENT_MS {
            self.forget_old();
        }
        for (i, mut bits) in touched.by_ref().take(SCOPE_BITMAP_WORDS).enumerate() {
            if bits != 0 && i < SHARED_SLOTS / 64 {
                self.shared.end(self.now_ms);
            }
            self.recent[i % SCOPE_BITMAP_WORDS] |= bits;
            while bits != 0 {
                let slot = (i * 64 + bits.trailing_zeros() as usize) % SCOPE_SLOTS;
                bits &= bits - 1;
                self.slots[slot] = self.slots[slot].wrapping_add(1);
                self.bumped[slot] = self.seen;
                self.bumped_ms[slot] = self.now_ms;
                self.services[slot] = 0;
            }
        }
        for id in touched.flat_map(|word| [word as u32, (word >> 32) as u32]).filter(|id| *id != 0) {
            let service = &mut self.services[Scope::Service(id).slot() as usize];
            *service = if *service == 0 { id } else { SEVERAL };
        }
    }

    /// Leaves only those among the recent slots that are.
    fn forget_old(&mut self) {
        for (bits, bumped_ms) in self.recent.iter_mut().zip(self.bumped_ms.as_chunks::<64>().0) {
            let is_recent = |at: usize| (self.now_ms.wrapping_sub(bumped_ms[at]) <= RECENT_MS) as u64;
            *bits = (0..64).fold(0, |bits, at| bits | is_recent(at) << at);
        }
        self.others.end(self.now_ms.wrapping_sub(RECENT_MS));
        self.others.tick(self.now_ms);
    }

    pub fn bump_all(&mut self) {
        self.bump(std::iter::repeat_n(u64::MAX, SCOPE_SLOTS / 64));
    }

    /// Starts a flow's dependence on up to four scopes, as of now. An unused place repeats another slot.
    #[inline(always)]
    pub fn depend(&self, scopes: [Option<Scope>; 4]) -> Scopes {
        let [a, b, c, d] = scopes;
        let filler = slot_or(a, || slot_or(b, || slot_or(c, || slot_or(d, || 0))));
        let slots = [slot_or(a, || filler), slot_or(b, || filler), slot_or(c, || filler), slot_or(d, || filler)];
        Scopes { slots, sum: self.sum(&slots) }
    }

    /// Goes on depending on the same slots, as of now.
    pub fn depend_again(&self, scopes: &mut Scopes) {
        scopes.sum = self.sum(&scopes.slots);
    }

    /// As `depend`, and where there is nothing to depend on now, on what the flow depended on before: a flow that is cut
    /// must be looked at again when what it stood on comes back.
    pub fn depend_keeping(&self, scopes: [Option<Scope>; 4], before: &Scopes) -> Scopes {
        let mut slots = before.slots;
        for (slot, scope) in slots.iter_mut().zip(scopes) {
            *slot = scope.map_or(*slot, Scope::slot);
        }
        Scopes { slots, sum: self.sum(&slots) }
    }

    #[inline(always)]
    pub fn is_current(&self, scopes: &Scopes) -> bool {
        self.sum(&scopes.slots) == scopes.sum
    }

    /// Whether a flow whose last packet passed at that time is current, as far as that can be said without its sum: none
    /// passes by a stale flow, and nothing of this one was bumped since. Not within a tick of the clock; nor of a flow that
    /// was cut, which may depend on two services.
    #[inline(always)]
    pub fn is_untouched(&self, scopes: &Scopes, passed_ms: u32) -> bool {
        let (ago, slot) = (self.now_ms.wrapping_sub(passed_ms), scopes.slots[0] as usize % SCOPE_SLOTS);
        let is_recent = || self.recent[slot / 64] >> (slot % 64) & 1 == 1;
        let bumped_ago = || self.now_ms.wrapping_sub(self.bumped_ms[slot]);
        ago < self.any.for_ms
            || (ago < self.shared.for_ms && ((ago < self.others.for_ms && !is_recent()) || ago < bumped_ago()))
    }

    /// What made a flow stale, if that was one publish alone; None if it was more, or nobody knows.
    pub fn moved(&self, scopes: &Scopes) -> Option<Moved> {
        let bumped = scopes.slots.map(|slot| self.bumped[slot as usize % SCOPE_SLOTS]);
        let last = bumped.into_iter().fold(0, u64::max);
        let places = (0..4).fold(0u8, |places, i| places | ((bumped[i] == last) as u8) << i);
        // It bumped each of these once. If that is all, the flow was current before.
        let before = self.sum(&scopes.slots).wrapping_sub(places.count_ones());
        let service = self.services[scopes.slots[0] as usize % SCOPE_SLOTS];
        (before == scopes.sum).then_some(Moved { places, service })
    }

    #[inline(always)]
    fn sum(&self, slots: &[u16; 4]) -> u32 {
        slots.iter().fold(0, |sum: u32, &slot| sum.wrapping_add(self.slots[slot as usize % SCOPE_SLOTS]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(counters: &mut ScopeCounters, scopes: &[Scope]) {
        let mut touched = Touched::default();
        scopes.iter().for_each(|scope| touched.touch(*scope));
        counters.bump(touched.words());
    }

    #[test]
    fn what_moved_is_known_after_one_publish_and_not_after_two() {
        let [service, set, identity, route] =
            [Scope::Service(1), Scope::PolicySet(2), Scope::Identity(3), Scope::Route(4)];
        let mut counters = ScopeCounters::starting_at(7);
        publish(&mut counters, &[set]);
        let mut scopes = counters.depend([service, set, identity, route].map(Some));
        publish(&mut counters, &[Scope::Service(99)]);
        publish(&mut counters, &[set]);
        let moved = counters.moved(&scopes).expect("one publish");
        assert!(moved.is_within(&[1]) && moved.is_within(&[1, 2]) && !moved.is_within(&[0, 2, 3]));
        publish(&mut counters, &[route]);
        assert_eq!(counters.moved(&scopes), None, "two, of which the last did not do it alone");
        counters.depend_again(&mut scopes);
        publish(&mut counters, &[set]);
        publish(&mut counters, &[set]);
        assert_eq!(counters.moved(&scopes), None, "one twice");
        counters.depend_again(&mut scopes);
        publish(&mut counters, &[identity, service]);
        let moved = counters.moved(&scopes).expect("one publish");
        assert!(moved.is_within(&[0, 2]) && !moved.is_within(&[0]) && !moved.is_within(&[2]));
        counters.depend_again(&mut scopes);
        counters.bump_all();
        assert!(!counters.moved(&scopes).expect("one publish").is_within(&[0, 1, 2]));
    }

    /// Services that share a slot, the first ones.
    fn neighbours<const COUNT: usize>() -> [u32; COUNT] {
        let slot = Scope::Service(1).slot();
        let mut all = (1..).filter(|&id| Scope::Service(id).slot() == slot);
        std::array::from_fn(|_| all.next().unwrap())
    }

    #[test]
    fn a_slot_that_moved_for_another_service_is_known_and_not_one_that_moved_for_several() {
        let [mine, other, third, fourth] = neighbours().map(Scope::Service);
        let Scope::Service(id) = mine else { unreachable!() };
        let moved_for = |scopes: &[Scope]| {
            let mut counters = ScopeCounters::starting_at(7);
            publish(&mut counters, &[third]);
            let flow = counters.depend([Some(mine), Some(Scope::PolicySet(2)), None, None]);
            publish(&mut counters, scopes);
            counters.moved(&flow).map(|moved| moved.is_for_another(id))
        };
        assert_eq!(moved_for(&[other]), Some(true));
        assert_eq!(moved_for(&[other, other, Scope::Service(id + 1)]), Some(true), "it is named once");
        for unsure in [&[mine][..], &[mine, other], &[other, mine], &[other, third], &[other, third, fourth]] {
            assert_eq!(moved_for(unsure), Some(false), "{unsure:?}");
        }
        let far: Vec<Scope> =
            (id + 1..).map(Scope::Service).filter(|scope| scope.slot() != mine.slot()).take(16).collect();
        assert_eq!(moved_for(&[&far[..15], &[other]].concat()), Some(true), "as many as are named");
        assert_eq!(moved_for(&[&far[..], &[other]].concat()), Some(false), "one more, and none is");
        let mut counters = ScopeCounters::default();
        let flow = counters.depend([Some(mine), None, None, None]);
        counters.bump_all();
        assert!(!counters.moved(&flow).unwrap().is_for_another(id));
    }

    #[test]
    fn what_moved_of_a_flow_from_before_these_counters_is_not_known() {
        let scopes = ScopeCounters::starting_at(3).depend([Some(Scope::PolicySet(2)); 4]);
        let mut counters = ScopeCounters::starting_at(0x1000);
        assert_eq!(counters.moved(&scopes), None);
        publish(&mut counters, &[Scope::PolicySet(2)]);
        assert_eq!(counters.moved(&scopes), None);
    }

    #[test]
    fn a_flow_goes_stale_by_each_of_its_scopes_and_by_no_other() {
        let mine = [Scope::Service(1), Scope::PolicySet(2), Scope::Identity(3), Scope::Route(4)];
        let slots = mine.map(Scope::slot);
        let other = (0..).map(Scope::Service).find(|s| !slots.contains(&s.slot())).unwrap();
        for (scope, stale) in mine.into_iter().map(|s| (s, true)).chain([(other, false)]) {
            let mut counters = ScopeCounters::default();
            let scopes = counters.depend(mine.map(Some));
            publish(&mut counters, &[scope]);
            assert_eq!(!counters.is_current(&scopes), stale, "{scope:?}");
        }
    }

    /// Against what the sums say, at every age of a flow that was validated when its last packet passed.
    #[test]
    fn a_flow_is_untouched_only_if_nothing_of_it_was_bumped_since_its_packet() {
        let mine = [Scope::Service(1), Scope::PolicySet(2), Scope::Identity(3), Scope::Route(4)];
        let slots = mine.map(Scope::slot);
        let other = (0..).map(Scope::Service).find(|s| !slots.contains(&s.slot())).unwrap();
        let cases = mine.into_iter().map(|s| (s, true)).chain([(other, false)]);
        for ((scope, own), are_others_bumped) in cases.flat_map(|case| [(case, false), (case, true)]) {
            let mut counters = ScopeCounters::default();
            counters.tick(1000);
            counters.bump_all();
            let scopes = counters.depend(mine.map(Some));
            for now_ms in 1001..1100 {
                counters.tick(now_ms);
                are_others_bumped.then(|| publish(&mut counters, &[other]));
                (now_ms == 1040).then(|| publish(&mut counters, &[scope]));
                let untouched = (1000..=now_ms).filter(|&passed_ms| counters.is_untouched(&scopes, passed_ms));
                let expected = if now_ms >= 1040 && own { 1041..=now_ms } else { 1001..=now_ms };
                assert!(untouched.eq(expected), "{scope:?} at {now_ms}, others bumped: {are_others_bumped}");
            }
        }
    }

    #[test]
    fn touching_all_makes_every_flow_stale() {
        let mut counters = ScopeCounters::default();
        let scopes = counters.depend([None, Some(Scope::Route(9)), None, None]);
        counters.bump_all();
        assert!(!counters.is_current(&scopes));
    }
}
