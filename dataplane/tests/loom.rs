//! The sleep and wake-up of workers under loom: the very functions of `handoff`, over loom's atomics, in every order that
//! the memory model allows. Beside each model stands a mutant that must fail, so that the model is known to see.

use dataplane::handoff::{fall_asleep, must_ring, wake_up};
use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
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

/// A worker's mailbox: packets are counted, the bell is a flag.
struct Mailbox<W> {
    sleep: W,
    /// Release and acquire, as crossbeam's queue has them at least.
    packets: AtomicU64,
    bell: AtomicU64,
}

impl<W: New> Mailbox<W> {
    fn new() -> Mailbox<W> {
        Mailbox { sleep: W::new(), packets: AtomicU64::new(0), bell: AtomicU64::new(0) }
    }

    fn push(&self) {
        self.packets.fetch_add(1, Ordering::Release);
        if must_ring(&self.sleep) {
            self.bell.store(1, Ordering::Release);
        }
    }

    /// `Mailbox::may_sleep`. True: the owner sleeps until the bell.
    fn may_sleep(&self) -> bool {
        fall_asleep(&self.sleep);
        if self.packets.load(Ordering::Acquire) == 0 {
            return true;
        }
        wake_up(&self.sleep);
        false
    }
}

/// When all is over, a sleeping owner whose mailbox holds something must have been rung for.
fn no_packet_waits_for_a_sleeper<W: New>(senders: u64) {
    loom::model(move || {
        let mailbox = Arc::new(Mailbox::<W>::new());
        let threads: Vec<_> = (0..senders)
            .map(|_| {
                let mailbox = mailbox.clone();
                thread::spawn(move || mailbox.push())
            })
            .collect();
        let sleeps = mailbox.may_sleep();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(mailbox.packets.load(Ordering::Acquire), senders);
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
        let mailbox = Arc::new(Mailbox::<Loom>::new());
        let sender = {
            let mailbox = mailbox.clone();
            thread::spawn(move || mailbox.push())
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
