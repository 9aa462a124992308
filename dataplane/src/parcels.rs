//! Ways for batches between threads. What one gives another travels in parcels that go to and fro, so that what lies
//! between two cores is paid for once a batch, and no memory is taken after the start. Must not know what it carries.
//!
//! Contract: each sender has a lane of its own to a receiver, a ring of places. A place always holds a parcel, and is
//! one side's: the sender's while the parcel there is empty, the receiver's while it is full. Whose it is changes a parcel
//! of its own for the one that lies there, and then gives the place away by its flag: what was done to the parcel before
//! is seen by who sees the flag (release and acquire). Both sides go round in the same order, so that parcels arrive as they
//! were sent; a sender whose next place is still the receiver's keeps its parcel, and is told. One thread sends by a lane,
//! and one receives from all lanes of a way: where each of them stands is known to it alone. One cache line goes to and
//! fro for a parcel, besides the parcel's own. Shown under loom in tests/loom.rs.

use crossbeam::atomic::AtomicCell;
use crossbeam::utils::CachePadded;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tables::cpu::prefetch_to_write;

/// Where a parcel lies.
pub trait Place<T> {
    /// Of the sender, who finds this empty parcel.
    fn new(parcel: T) -> Self;
    /// Whether it is the receiver's.
    fn is_full(&self) -> bool;
    /// Changes a parcel for the one that lies there, and gives the place to the receiver (`full`) or the sender.
    fn exchange(&self, parcel: &mut T, full: bool);
}

/// A place of this machine.
pub struct Shelf<T> {
    full: AtomicBool,
    parcel: AtomicCell<Option<Box<T>>>,
}

impl<T> Place<Option<Box<T>>> for Shelf<T> {
    fn new(parcel: Option<Box<T>>) -> Shelf<T> {
        const { assert!(AtomicCell::<Option<Box<T>>>::is_lock_free()) };
        Shelf { full: AtomicBool::new(false), parcel: AtomicCell::new(parcel) }
    }

    #[inline(always)]
    fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    #[inline(always)]
    fn exchange(&self, parcel: &mut Option<Box<T>>, full: bool) {
        *parcel = self.parcel.swap(parcel.take());
        self.full.store(full, Ordering::Release);
        if let Some(parcel) = parcel {
            // The other side had it last.
            prefetch_to_write(std::ptr::from_ref::<T>(parcel).cast());
        }
    }
}

/// One sender's way to one receiver.
pub struct Lane<P> {
    places: Box<[CachePadded<P>]>,
    /// The place that is next, for the sender and for the receiver.
    sends: CachePadded<AtomicUsize>,
    receives: CachePadded<AtomicUsize>,
}

impl<P> Lane<P> {
    /// Of the places that these parcels lie in.
    pub fn new<T>(parcels: impl IntoIterator<Item = T>) -> Lane<P>
    where
        P: Place<T>,
    {
        let places = parcels.into_iter().map(|parcel| CachePadded::new(P::new(parcel))).collect();
        Lane { places, sends: CachePadded::default(), receives: CachePadded::default() }
    }

    /// For the sender: sends a parcel, and leaves an empty one for it. False, and nothing done, while the receiver has not taken
    /// what lies in the next place.
    #[inline(always)]
    pub fn send<T>(&self, parcel: &mut T) -> bool
    where
        P: Place<T>,
    {
        let place = &self.places[self.sends.load(Ordering::Relaxed)];
        if place.is_full() {
            return false;
        }
        place.exchange(parcel, true);
        let next = self.after(&self.sends);
        // The receiver had it last.
        prefetch_to_write(std::ptr::from_ref(&self.places[next]).cast());
        true
    }

    /// For the sender: whether the parcel that was sent last still waits for the receiver.
    #[inline(always)]
    pub fn waits<T>(&self) -> bool
    where
        P: Place<T>,
    {
        let next = self.sends.load(Ordering::Relaxed);
        let last = if next > 0 { next } else { self.places.len() } - 1;
        self.places[last].is_full()
    }

    /// For the receiver: takes the oldest parcel, and leaves this one, which must be empty, for it. False: there is none.
    #[inline(always)]
    pub fn receive<T>(&self, parcel: &mut T) -> bool
    where
        P: Place<T>,
    {
        let place = &self.places[self.receives.load(Ordering::Relaxed)];
        let is_there = place.is_full();
        if is_there {
            place.exchange(parcel, false);
            self.after(&self.receives);
        }
        is_there
    }

    /// For the receiver.
    #[inline(always)]
    pub fn is_empty<T>(&self) -> bool
    where
        P: Place<T>,
    {
        !self.places[self.receives.load(Ordering::Relaxed)].is_full()
    }

    /// Goes on to the next place.
    #[inline(always)]
    fn after(&self, position: &AtomicUsize) -> usize {
        let next = position.load(Ordering::Relaxed) + 1;
        let next = if next < self.places.len() { next } else { 0 };
        position.store(next, Ordering::Relaxed);
        next
    }
}

/// The ways of some senders to one receiver. A parcel of nobody's is made at the start and never again: `None` is for a
/// moment alone.
pub struct Parcels<T> {
    lanes: Box<[Lane<Shelf<T>>]>,
    /// The lane that is asked first, by turns: a busy sender must not keep the others' parcels back.
    turn: CachePadded<AtomicUsize>,
}

impl<T> Parcels<T> {
    /// For so many senders, with so many places each.
    pub fn new(senders: usize, places: usize, mut make: impl FnMut() -> T) -> Parcels<T> {
        let mut lane = || Lane::new((0..places).map(|_| Some(Box::new(make()))));
        Parcels { lanes: (0..senders).map(|_| lane()).collect(), turn: CachePadded::default() }
    }

    /// For sender `from`; as [`Lane::send`].
    #[inline(always)]
    pub fn send(&self, from: usize, parcel: &mut Option<Box<T>>) -> bool {
        self.lanes[from].send(parcel)
    }

    /// For sender `from`; as [`Lane::waits`].
    #[inline(always)]
    pub fn waits(&self, from: usize) -> bool {
        self.lanes[from].waits()
    }

    /// The oldest parcel of some sender, for an empty one.
    #[inline(always)]
    pub fn receive(&self, parcel: &mut Option<Box<T>>) -> bool {
        let first = self.turn.load(Ordering::Relaxed);
        let lane = (first..self.lanes.len()).chain(0..first).find(|&lane| self.lanes[lane].receive(parcel));
        if let Some(lane) = lane {
            self.turn.store(if lane + 1 < self.lanes.len() { lane + 1 } else { 0 }, Ordering::Relaxed);
        }
        lane.is_some()
    }

    pub fn is_empty(&self) -> bool {
        self.lanes.iter().all(|lane| lane.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parcels_arrive_in_order_and_go_round() {
        let parcels = Parcels::new(1, 2, || Vec::with_capacity(4));
        let (mut mine, mut theirs) = (Some(Box::new(Vec::with_capacity(4))), Some(Box::new(Vec::with_capacity(4))));
        let fill = |parcel: &mut Option<Box<Vec<u32>>>, items: &[u32]| {
            let parcel = parcel.as_deref_mut().unwrap();
            assert!(parcel.is_empty() && parcel.capacity() == 4);
            parcel.extend(items);
        };
        for round in 0..10 {
            fill(&mut mine, &[round, round + 1]);
            assert!(!parcels.waits(0) && parcels.send(0, &mut mine) && parcels.waits(0));
            fill(&mut mine, &[99]);
            assert!(parcels.send(0, &mut mine));
            fill(&mut mine, &[100]);
            assert!(!parcels.send(0, &mut mine), "all places are full");
            assert_eq!(mine.as_deref_mut().map(std::mem::take), Some(vec![100]));
            mine = Some(Box::new(Vec::with_capacity(4)));
            for expected in [vec![round, round + 1], vec![99]] {
                assert!(!parcels.is_empty() && parcels.receive(&mut theirs));
                let received = theirs.as_deref_mut().unwrap();
                assert_eq!(*received, expected);
                received.clear();
            }
            assert!(parcels.is_empty() && !parcels.receive(&mut theirs));
        }
    }

    #[test]
    fn senders_take_turns() {
        let parcels = Parcels::new(3, 4, Vec::new);
        let (mut mine, mut theirs) = (Some(Box::new(Vec::new())), Some(Box::new(Vec::new())));
        for (sender, count) in [(0, 3), (2, 2)] {
            for _ in 0..count {
                mine.as_deref_mut().unwrap().push(sender);
                assert!(parcels.send(sender, &mut mine));
            }
        }
        let mut order = vec![];
        while parcels.receive(&mut theirs) {
            order.append(theirs.as_deref_mut().unwrap());
        }
        assert_eq!(order, [0, 2, 0, 2, 0]);
    }
}
