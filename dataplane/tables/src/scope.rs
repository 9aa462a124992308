//! What an update touched, so that only the flows that depend on it are looked at again.
//!
//! A scope (a service, a policy set, an identity, a route) is hashed to one of `SCOPE_SLOTS` slots. The publisher marks
//! the slots of a publish in a bitmap; a worker bumps the marked slots of its private [`ScopeCounters`]; a flow keeps
//! the slots it depends on and the sum of their counters. An unequal sum means *revalidate*. A collision only costs time.

use crate::limits::SCOPE_SLOTS;
use bytemuck::{Pod, Zeroable};

/// Slots of all scopes but services. Services change often and many flows share a policy set, an identity or a route: a
/// service in the slot of one of these would have all those flows looked at again with each of its changes.
const SHARED_SLOTS: usize = SCOPE_SLOTS / 8;

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

/// The slots that one publish touched.
#[derive(Clone)]
pub struct Touched(Box<[u64; SCOPE_SLOTS / 64]>);

impl Default for Touched {
    fn default() -> Touched {
        Touched(Box::new([0; SCOPE_SLOTS / 64]))
    }
}

impl Touched {
    pub fn touch(&mut self, scope: Scope) {
        let slot = scope.slot() as usize;
        self.0[slot / 64] |= 1 << (slot % 64);
    }

    /// Every flow is to be looked at again.
    pub fn touch_all(&mut self) {
        self.0.fill(u64::MAX);
    }

    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&w| w == 0)
    }

    pub(crate) fn words(&self) -> &[u64] {
        &self.0[..]
    }

    pub(crate) fn clear(&mut self) {
        self.0.fill(0);
    }
}

/// The slots of a flow and what their counters added up to when it was last validated. 12 bytes.
#[derive(Clone, Copy, Pod, Zeroable, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Scopes {
    slots: [u16; 4],
    sum: u32,
}

/// A worker's private counters: 8 KiB, one cache line touched per slot.
pub struct ScopeCounters {
    slots: Box<[u32; SCOPE_SLOTS]>,
}

impl Default for ScopeCounters {
    fn default() -> ScopeCounters {
        ScopeCounters { slots: vec![0; SCOPE_SLOTS].into_boxed_slice().try_into().expect("of that length") }
    }
}

impl ScopeCounters {
    /// Counters that begin at `start`, so that sums of earlier counters do not look current.
    pub fn starting_at(start: u32) -> ScopeCounters {
        let mut counters = ScopeCounters::default();
        counters.slots.fill(start);
        counters
    }

    /// Bumps the slots set in word `index` of a touched bitmap.
    pub(crate) fn bump(&mut self, index: usize, mut bits: u64) {
        while bits != 0 {
            let slot = index * 64 + bits.trailing_zeros() as usize;
            bits &= bits - 1;
            self.slots[slot % SCOPE_SLOTS] = self.slots[slot % SCOPE_SLOTS].wrapping_add(1);
        }
    }

    pub fn bump_all(&mut self) {
        for slot in self.slots.iter_mut() {
            *slot = slot.wrapping_add(1);
        }
    }

    /// Starts a flow's dependence on up to four scopes, as of now. An unused place repeats another slot.
    pub fn depend(&self, scopes: [Option<Scope>; 4]) -> Scopes {
        let filler = scopes.iter().flatten().next().map_or(0, |s| s.slot());
        let slots = scopes.map(|scope| scope.map_or(filler, Scope::slot));
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

    #[inline(always)]
    fn sum(&self, slots: &[u16; 4]) -> u32 {
        slots.iter().fold(0, |sum: u32, &slot| sum.wrapping_add(self.slots[slot as usize % SCOPE_SLOTS]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_goes_stale_by_each_of_its_scopes_and_by_no_other() {
        let mine = [Scope::Service(1), Scope::PolicySet(2), Scope::Identity(3), Scope::Route(4)];
        let slots = mine.map(Scope::slot);
        let other = (0..).map(Scope::Service).find(|s| !slots.contains(&s.slot())).unwrap();
        for (scope, stale) in mine.into_iter().map(|s| (s, true)).chain([(other, false)]) {
            let mut counters = ScopeCounters::default();
            let scopes = counters.depend(mine.map(Some));
            let mut touched = Touched::default();
            touched.touch(scope);
            for (i, &w) in touched.words().iter().enumerate() {
                counters.bump(i, w);
            }
            assert_eq!(!counters.is_current(&scopes), stale, "{scope:?}");
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
