//! Between workers. Each worker has one mailbox: packets that it owns but another received, and commands from the main
//! thread. Packets come in parcels (`parcels`), which a sender fills over a round. Contract for sleepers: the sender pushes,
//! fences, and reads the sleep word; the sleeper sets its sleep word, fences, and looks at its mailbox once more. One of
//! them sees the other, so no packet waits for a sleeper (shown under loom in tests/loom.rs). One eventfd write a parcel.

use crate::classify::Origin;
use crate::packet::{BURST_MAX, Burst, Packet};
use crate::parcels::Parcels;
use crate::worker::interfaces::Slot;
use crate::worker::item::Item;
use crossbeam::queue::ArrayQueue;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tables::cpu::prefetch_to_write;
use tables::owner::Worker;
use tables::publish::Reader;
use tables::word::Word;

/// Parcels that may wait for a worker, of all others together; each has a few in any case.
const PARCELS_MAX: usize = 32;
const PARCELS_EACH: usize = 8;
/// A parcel was the other core's before: what will be written to it is fetched so far ahead.
const ITEMS_AHEAD: usize = 4;
const PACKETS_AHEAD: usize = 8;
const COMMANDS_MAX: usize = 2 * tables::limits::INTERFACES_MAX;

/// How far a packet has come whose headers are not known.
#[derive(Clone, Copy, Debug)]
pub enum Stage {
    /// As its interface received it.
    Arrived,
    /// A fragment that came so, whose ports are to be learned.
    Learn(Origin),
    /// Finished; to be sent by an interface that only this worker polls.
    Send { interface: u32 },
}

/// Packets on their way to another worker, a burst at most, with what is known of them. The receiver goes on where the
/// sender ended, in these very vectors: nothing is parsed twice, and nothing is moved.
#[repr(align(128))]
pub struct Parcel {
    pub burst: Burst,
    /// Those that are of a flow which the receiver keeps, decapsulated or judged by their sender's half, in the order of
    /// their places. Hashed as the receiver's flows are.
    pub items: Vec<Item>,
    /// The others, by place.
    pub stages: Vec<(u16, Stage)>,
}

impl Default for Parcel {
    fn default() -> Parcel {
        let (items, stages) = (Vec::with_capacity(BURST_MAX), Vec::with_capacity(BURST_MAX));
        Parcel { burst: Burst::default(), items, stages }
    }
}

impl Parcel {
    /// A parcel without room, to stand where another one was taken from.
    pub fn none() -> Parcel {
        Parcel { burst: Burst::none(), items: Vec::new(), stages: Vec::new() }
    }

    pub fn is_full(&self) -> bool {
        self.burst.is_full()
    }

    pub fn is_empty(&self) -> bool {
        self.burst.is_empty()
    }

    /// Adds a packet if there is room.
    pub fn push(&mut self, packet: Packet, stage: Stage) -> Result<(), Packet> {
        let at = self.burst.len() as u16;
        self.burst.push(packet)?;
        self.stages.push((at, stage));
        Ok(())
    }

    /// Takes a packet of which all is known out of its place. False, and nothing done, if there is no room, or no packet.
    #[inline(always)]
    pub fn take_known(&mut self, place: &mut Option<Packet>, item: &Item) -> bool {
        let at = self.burst.len() as u16;
        if !self.burst.take(place) {
            return false;
        }
        // Copied as a whole: field by field it is three times as much.
        self.items.extend_from_slice(std::slice::from_ref(item));
        if let Some(item) = self.items.last_mut() {
            item.at = at;
        }
        // The other core had it last.
        let ahead: *const u8 = self.items.as_ptr().wrapping_add(self.items.len() + ITEMS_AHEAD).cast();
        prefetch_to_write(ahead);
        prefetch_to_write(ahead.wrapping_add(64));
        prefetch_to_write(self.burst.ahead(PACKETS_AHEAD));
        true
    }

    /// Takes the packets out, and forgets all.
    pub fn take_all(&mut self) -> impl Iterator<Item = Packet> + '_ {
        self.items.clear();
        self.stages.clear();
        self.burst.drain()
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
    packets: Parcels<Parcel>,
    commands: ArrayQueue<Command>,
    sleep: AtomicU64,
    bell: OwnedFd,
    /// What the hashes of the owner's flows are keyed by. Set before there are interfaces.
    seed: AtomicU64,
}

impl Mailbox {
    /// For parcels of so many workers.
    pub fn new(workers: usize) -> std::io::Result<Mailbox> {
        use rustix::event::{EventfdFlags, eventfd};
        let others = workers.saturating_sub(1).max(1);
        Ok(Mailbox {
            packets: Parcels::new(workers, (PARCELS_MAX / others).max(PARCELS_EACH), Parcel::default),
            commands: ArrayQueue::new(COMMANDS_MAX),
            sleep: AtomicU64::new(0),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            seed: AtomicU64::new(0),
        })
    }

    /// One mailbox for each worker.
    pub fn all(workers: usize) -> std::io::Result<Arc<[Mailbox]>> {
        (0..workers).map(|_| Mailbox::new(workers)).collect()
    }

    pub fn set_seed(&self, seed: u64) {
        self.seed.store(seed, Ordering::Relaxed);
    }

    #[inline(always)]
    pub fn seed(&self) -> u64 {
        self.seed.load(Ordering::Relaxed)
    }

    /// Sends a parcel of this worker's, and leaves an empty one for it; nothing happens if the owner is too far behind.
    /// Follow with `ring`.
    pub fn send(&self, from: Worker, parcel: &mut Option<Box<Parcel>>) -> bool {
        self.packets.send(from as usize, parcel)
    }

    /// Whether the owner has yet to take what this worker sent last.
    pub fn waits(&self, from: Worker) -> bool {
        self.packets.waits(from as usize)
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

    /// The oldest parcel of some worker, for an empty one. False: there is none.
    #[inline(always)]
    pub fn take(&self, parcel: &mut Option<Box<Parcel>>) -> bool {
        self.packets.receive(parcel)
    }

    #[inline(always)]
    pub fn take_command(&self) -> Option<Command> {
        // To ask costs less than to take in vain.
        if self.commands.is_empty() { None } else { self.commands.pop() }
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
