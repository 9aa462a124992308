//! Publishing under loom: the very `pin`, `unpin`, `flip` and `acknowledged`, over loom's atomics, in every order that
//! the memory model allows. Beside each model stands a mutant that must fail, so that the model is known to see.

use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::thread;
use std::sync::atomic::Ordering;
use tables::publish::{ASLEEP, acknowledged, flip, pin, region_tag, unpin};
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
    fn new(value: u64) -> Self;
}

impl New for Loom {
    fn new(value: u64) -> Loom {
        Loom(AtomicU64::new(value))
    }
}

impl New for Unfenced {
    fn new(value: u64) -> Unfenced {
        Unfenced(AtomicU64::new(value))
    }
}

const SEED: u64 = 5;

/// Two copies of one row; each copy's row says which generation wrote it, twice. A reader that sees two different
/// numbers, or a copy that is written while it reads, has been let down.
struct Tables<W> {
    generation: W,
    ack: W,
    copies: [[AtomicU64; 2]; 2],
}

impl<W: New> Tables<W> {
    /// `ack` is 0 before a reader's first pin.
    fn new(ack: u64) -> Tables<W> {
        let copy = |value: u64| [AtomicU64::new(value), AtomicU64::new(value)];
        Tables { generation: W::new(0), ack: W::new(ack), copies: [copy(0), copy(0)] }
    }

    /// Pins and reads the row; both words must be of the pinned generation.
    fn read(&self) {
        let live = pin(&self.generation, &self.ack, region_tag(SEED));
        let row = &self.copies[live as usize & 1];
        let [first, second] = [0, 1].map(|i: usize| row[i].load(Ordering::Relaxed));
        assert!(first == live && second == live, "torn: {first} and {second} in generation {live}");
    }

    /// Writes a generation into the idle copy and makes it live, if every reader has left that copy.
    fn publish(&self, next: u64) -> bool {
        if !acknowledged(&self.ack, region_tag(SEED), next - 1) {
            return false;
        }
        for word in &self.copies[next as usize & 1] {
            word.store(next, Ordering::Relaxed);
        }
        flip(&self.generation, next);
        true
    }
}

/// A reader that pins `pins` times meanwhile, against a publisher that tries `publishes` times. `sleeps` is between pins.
fn readers_never_see_a_torn_row<W: New>(pins: usize, publishes: u64, sleeps: bool, start: u64) {
    loom::model(move || {
        let tables = Arc::new(Tables::<W>::new(start));
        let reader = {
            let tables = tables.clone();
            thread::spawn(move || {
                for _ in 0..pins {
                    tables.read();
                    if sleeps {
                        unpin(&tables.ack);
                    }
                }
            })
        };
        let mut next = 1;
        for _ in 0..publishes {
            if tables.publish(next) {
                next += 1;
            }
        }
        reader.join().unwrap();
    });
}

#[test]
fn a_reader_that_was_never_there_before_is_not_missed() {
    readers_never_see_a_torn_row::<Loom>(1, 2, false, 0);
}

#[test]
fn a_reader_that_pins_again_and_again_sees_whole_rows() {
    readers_never_see_a_torn_row::<Loom>(2, 2, false, 0);
}

#[test]
fn a_reader_that_sleeps_between_sees_whole_rows() {
    readers_never_see_a_torn_row::<Loom>(2, 2, true, ASLEEP);
}

#[test]
fn three_publishes_come_round_to_the_first_copy() {
    readers_never_see_a_torn_row::<Loom>(2, 3, false, 0);
    readers_never_see_a_torn_row::<Loom>(2, 3, true, ASLEEP);
}

#[test]
#[should_panic(expected = "torn")]
fn without_fences_a_reader_sees_a_copy_being_written() {
    readers_never_see_a_torn_row::<Unfenced>(1, 2, false, 0);
}

#[test]
#[should_panic(expected = "torn")]
fn without_fences_a_reader_that_wakes_up_does_too() {
    readers_never_see_a_torn_row::<Unfenced>(2, 2, true, ASLEEP);
}

/// A publisher that does not wait is caught.
#[test]
#[should_panic(expected = "torn")]
fn without_waiting_for_acknowledgement_rows_tear() {
    loom::model(|| {
        let tables = Arc::new(Tables::<Loom>::new(0));
        let reader = {
            let tables = tables.clone();
            thread::spawn(move || tables.read())
        };
        for next in 1..=2 {
            for word in &tables.copies[next as usize & 1] {
                word.store(next, Ordering::Relaxed);
            }
            flip(&tables.generation, next);
        }
        reader.join().unwrap();
    });
}

/// Whoever has another region, or sleeps, holds nobody up; whoever reads the old copy does.
#[test]
fn only_a_reader_of_the_old_copy_is_waited_for() {
    loom::model(|| {
        let tag = region_tag(SEED);
        for (ack, gone) in [
            (0, true),
            (region_tag(SEED + 2) | 3, true),
            (tag | 3, false),
            (tag | 3 | ASLEEP, true),
            (tag | 4, true),
            (tag | 5, true),
        ] {
            assert_eq!(acknowledged(&Loom::new(ack), tag, 4), gone, "{ack:#x}");
        }
    });
}
