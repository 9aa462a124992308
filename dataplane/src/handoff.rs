//! Rings between workers. Each worker has one mailbox: packets that it owns but another received, and commands from the
//! main thread. Packets come in batches, one for each round of a sender at most. Contract for sleepers: the sender pushes, fences, and reads the sleep word; the sleeper sets its sleep
//! word, fences, and looks at its mailbox once more. One of them sees the other, so no packet waits for a sleeper
//! (shown under loom in tests/loom.rs). One eventfd write a batch.

mod batch;
mod plain;

pub use batch::{Batch, HEADS_AHEAD, Told};
pub use plain::{Plain, Slip};

use crate::classify::Origin;
use crate::classify::whence::Whence;
use crate::flow::Way;
use crate::parcels::Parcels;
use crate::worker::interfaces::Slot;
use crossbeam::queue::ArrayQueue;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tables::Addr;
use tables::publish::Reader;
use tables::word::Word;

/// Batches that may wait for a worker: a few from every other one.
const BATCHES_MAX: usize = 64;
const COMMANDS_MAX: usize = 2 * tables::limits::INTERFACES_MAX;

/// How far a packet has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// As its interface received it.
    Arrived,
    /// Decapsulated or judged by its sender's half; to be judged towards its destination. A fragment says by its Ethernet
    /// header what its packet's ports are, or that they are to be learned (`rewrite::note_ends`): a variant for that would
    /// make what is handed larger than a cache line.
    Back(Origin),
    /// From a client outside to a service of ours; a fragment as above.
    Asked,
    /// As `Back(Origin::Direct)`, which is looked at otherwise.
    Direct(Addr),
    /// As `Back` or `Asked`, of a plain packet: its sender tells what it goes by, and its headers are not read again. It may
    /// have written them, but for what its flow changes ([`Plain::addressed`]).
    Plain(Plain),
    /// Finished; to be sent by an interface that only this worker polls.
    Send { interface: u32 },
}

impl Stage {
    /// Of a packet that goes this way, to be read again.
    #[inline(always)]
    pub fn of(way: Way, origin: Origin) -> Stage {
        match way {
            Way::Out => Stage::Asked,
            Way::Back => match origin {
                Origin::Direct(peer) => Stage::Direct(peer),
                _ => Stage::Back(origin),
            },
        }
    }

    /// The same of a plain one whose tuple has these words.
    #[inline(always)]
    pub fn of_plain(words: &[u64; 5], way: Way, whence: &Whence) -> Stage {
        match Plain::of(words, way, whence) {
            Some(plain) => Stage::Plain(plain),
            None => Stage::of(way, whence.origin()),
        }
    }
}

/// What the main thread asks of a worker; done at a burst boundary.
pub enum Command {
    Tables(Box<Reader>),
    AddInterface(Box<Slot>),
    RemoveInterface(u32),
    Stop,
}

/// Says "I am about to sleep". The caller looks at its mailbox again before it does.
pub fn fall_asleep<W: Word>(sleep: &W) {
    sleep.store(1, Ordering::Relaxed);
    W::fence();
}

pub fn wake_up<W: Word>(sleep: &W) {
    sleep.store(0, Ordering::Relaxed);
}

/// Whether the owner of a mailbox must be woken for what was just pushed.
pub fn must_ring<W: Word>(sleep: &W) -> bool {
    W::fence();
    sleep.load(Ordering::Relaxed) != 0
}

/// One worker's mailbox.
pub struct Mailbox {
    packets: Parcels<Batch>,
    commands: ArrayQueue<Command>,
    sleep: AtomicU64,
    bell: OwnedFd,
}

impl Mailbox {
    pub fn new() -> std::io::Result<Mailbox> {
        use rustix::event::{EventfdFlags, eventfd};
        Ok(Mailbox {
            packets: Parcels::new(BATCHES_MAX, Batch::default),
            commands: ArrayQueue::new(COMMANDS_MAX),
            sleep: AtomicU64::new(0),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// One mailbox for each worker.
    pub fn all(workers: usize) -> std::io::Result<Arc<[Mailbox]>> {
        (0..workers).map(|_| Mailbox::new()).collect()
    }

    /// Sends a batch, and leaves an empty one in its place; nothing happens if the owner is too far behind. Follow with
    /// `ring`.
    pub fn send(&self, batch: &mut Batch) -> bool {
        self.packets.send(batch)
    }

    /// Wakes the owner if it sleeps.
    pub fn ring(&self) {
        if must_ring(&self.sleep) {
            let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        }
    }

    /// For the main thread. False if too many commands wait: the worker is stuck.
    pub fn command(&self, command: Command) -> bool {
        let pushed = self.commands.push(command).is_ok();
        self.ring();
        pushed
    }

    /// The oldest batch; `give_back` it once all its packets are gone.
    #[inline(always)]
    pub fn take(&self) -> Option<Batch> {
        self.packets.receive()
    }

    pub fn give_back(&self, batch: Batch) {
        debug_assert!(batch.is_empty(), "a packet was forgotten");
        self.packets.give_back(batch);
    }

    #[inline(always)]
    pub fn take_command(&self) -> Option<Command> {
        self.commands.pop()
    }

    pub fn is_empty(&self) -> bool {
        self.packets.is_empty() && self.commands.is_empty()
    }

    /// Announces sleep. False: something arrived meanwhile, do not sleep.
    pub fn may_sleep(&self) -> bool {
        fall_asleep(&self.sleep);
        if self.is_empty() {
            return true;
        }
        wake_up(&self.sleep);
        false
    }

    /// After sleep: silences the bell.
    pub fn awake(&self) {
        wake_up(&self.sleep);
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.bell, &mut count);
    }

    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
