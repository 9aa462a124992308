//! The sleep and wake-up of workers, and the lanes by which they hand packets over, under loom: the very functions of
//! `handoff` and `parcels`, over loom's atomics, in every order that the memory model allows. Beside each model stands a
//! mutant that must fail, so that the model is known to see.

use dataplane::handoff::{fall_asleep, must_ring, wake_up};
use dataplane::parcels::{Lane, Place};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64};
use loom::thread;
use std::sync::atomic::Ordering;
use tables::word::Word;

struct Loom(AtomicU64);

impl Word for Loom {
    fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        self.0.store(value, order)
    }

    fn fence() {
        loom::sync::atomic::fence(Ordering::SeqCst)
    }
}

/// The same word, whose fences do nothing.
struct Unfenced(AtomicU64);

impl Word for Unfenced {
    fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        self.0.store(value, order)
    }

    fn fence() {}
}

trait New: Word + Send + Sync + 'static {
    fn new() -> Self;
}

impl New for Loom {
    fn new() -> Loom {
        Loom(AtomicU64::new(0))
    }
}

impl New for Unfenced {
    fn new() -> Unfenced {
        Unfenced(AtomicU64::new(0))
    }
}

/// A place whose parcel is a number, read and written without any order of its own: what is seen of it is due to the flag.
struct Numbered<const ORDERED: bool> {
    full: AtomicBool,
    parcel: AtomicU64,
}

impl<const ORDERED: bool> Place<u64> for Numbered<ORDERED> {
    fn new(parcel: u64) -> Self {
        Numbered { full: AtomicBool::new(false), parcel: AtomicU64::new(parcel) }
    }

    fn is_full(&self) -> bool {
        self.full.load(if ORDERED { Ordering::Acquire } else { Ordering::Relaxed })
    }

    fn exchange(&self, parcel: &mut u64, full: bool) {
        let other = self.parcel.load(Ordering::Relaxed);
        self.parcel.store(*parcel, Ordering::Relaxed);
        *parcel = other;
        self.full.store(full, if ORDERED { Ordering::Release } else { Ordering::Relaxed });
    }
}

const EMPTY: u64 = 0;

/// One sends 1, 2, 3 by two places, the other receives.
fn parcels_arrive_as_they_were_sent<const ORDERED: bool>() {
    loom::model(|| {
        let lane = Arc::new(Lane::<Numbered<ORDERED>>::new([EMPTY; 2]));
        let sender = {
            let lane = lane.clone();
            thread::spawn(move || {
                for number in 1..=3 {
                    let mut parcel = number;
                    while !lane.send(&mut parcel) {
                        thread::yield_now();
                    }
                    assert_eq!(parcel, EMPTY, "a parcel came back that is not empty");
                }
            })
        };
        for number in 1..=3 {
            let mut parcel = EMPTY;
            while !lane.receive(&mut parcel) {
                thread::yield_now();
            }
            assert_eq!(parcel, number, "a parcel arrived that was not sent so");
        }
        sender.join().unwrap();
        assert!(lane.is_empty());
    });
}

#[test]
fn a_lane_keeps_parcels_and_their_order() {
    parcels_arrive_as_they_were_sent::<true>();
}

#[test]
#[should_panic(expected = "a parcel")]
fn without_order_of_the_flag_it_does_not() {
    parcels_arrive_as_they_were_sent::<false>();
}

/// A worker's mailbox, with a lane of one place for each sender; the bell is a flag.
struct Mailbox<W> {
    sleep: W,
    lanes: Vec<Lane<Numbered<true>>>,
    bell: AtomicU64,
}

impl<W: New> Mailbox<W> {
    fn new(senders: usize) -> Mailbox<W> {
        let lanes = (0..senders).map(|_| Lane::new([EMPTY])).collect();
        Mailbox { sleep: W::new(), lanes, bell: AtomicU64::new(0) }
    }

    fn push(&self, sender: usize) {
        assert!(self.lanes[sender].send(&mut 1));
        if must_ring(&self.sleep) {
            self.bell.store(1, Ordering::Release);
        }
    }

    /// `Mailbox::may_sleep`. True: the owner sleeps until the bell.
    fn may_sleep(&self) -> bool {
        fall_asleep(&self.sleep);
        if self.lanes.iter().all(|lane| lane.is_empty()) {
            return true;
        }
        wake_up(&self.sleep);
        false
    }
}

/// When all is over, a sleeping owner whose mailbox holds something must have been rung for.
fn no_packet_waits_for_a_sleeper<W: New>(senders: usize) {
    loom::model(move || {
        let mailbox = Arc::new(Mailbox::<W>::new(senders));
        let threads: Vec<_> = (0..senders)
            .map(|sender| {
                let mailbox = mailbox.clone();
                thread::spawn(move || mailbox.push(sender))
            })
            .collect();
        let sleeps = mailbox.may_sleep();
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(mailbox.lanes.iter().all(|lane| !lane.is_empty()));
        assert!(!sleeps || mailbox.bell.load(Ordering::Acquire) == 1, "a packet waits for a sleeper");
    });
}

#[test]
fn a_sleeper_is_rung_for() {
    no_packet_waits_for_a_sleeper::<Loom>(1);
}

#[test]
fn a_sleeper_is_rung_for_by_one_of_two() {
    no_packet_waits_for_a_sleeper::<Loom>(2);
}

#[test]
#[should_panic(expected = "a packet waits for a sleeper")]
fn without_fences_a_packet_waits() {
    no_packet_waits_for_a_sleeper::<Unfenced>(1);
}

/// The owner sleeps, wakes and sleeps again while packets come.
#[test]
fn a_worker_that_wakes_and_sleeps_again_is_rung_for_again() {
    loom::model(|| {
        let mailbox = Arc::new(Mailbox::<Loom>::new(1));
        let sender = {
            let mailbox = mailbox.clone();
            thread::spawn(move || mailbox.push(0))
        };
        let mut sleeps = mailbox.may_sleep();
        if sleeps && mailbox.bell.load(Ordering::Acquire) == 0 {
            // Woken by something else, a timer: it looks and sleeps again.
            wake_up(&mailbox.sleep);
            sleeps = mailbox.may_sleep();
        }
        sender.join().unwrap();
        assert!(!sleeps || mailbox.bell.load(Ordering::Acquire) == 1);
    });
}
