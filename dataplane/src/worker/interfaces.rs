//! The interfaces as one worker sees them: it knows all, polls its own, and hands what others poll to their owners.

use crate::handoff::{Mailbox, Parcel, Stage};
use crate::io::Interface;
use crate::io::pool::FramePool;
use crate::packet::{Burst, Packet};
use crate::worker::item::Item;
use std::sync::Arc;
use tables::counters::{DropReason, InterfaceCounter, WorkerCounter};
use tables::limits::INTERFACES_MAX;
use tables::message::InterfaceKind;
use tables::owner::Worker;
use tables::status::Block;
use tables::{Addr, Mac};

/// One interface.
pub struct Slot {
    pub id: u32,
    pub kind: InterfaceKind,
    /// The worker that polls it, for those that have no queue of it.
    pub owner: Worker,
    /// Of the far side: the pod's or host's, the uplink's own.
    pub mac: Mac,
    /// The addresses that a pod may send from.
    pub addrs: Vec<Addr>,
    /// This worker's queue.
    pub device: Option<Box<dyn Interface>>,
    pub out: Burst,
    /// The device has died and wakes nobody any more.
    pub gone: bool,
}

/// All interfaces, by id.
pub struct Interfaces {
    worker: Worker,
    slots: Vec<Slot>,
    /// Index into `slots` plus one.
    by_id: Box<[u16; INTERFACES_MAX]>,
    mailboxes: Arc<[Mailbox]>,
    /// What is to be handed to each other worker at the next flush.
    handed: Vec<Option<Box<Parcel>>>,
}

impl Interfaces {
    pub fn new(worker: Worker, mailboxes: Arc<[Mailbox]>) -> Interfaces {
        let parcel = |to| (to != worker as usize).then(Box::default);
        let handed = (0..mailboxes.len()).map(parcel).collect();
        let slots = Vec::with_capacity(INTERFACES_MAX);
        Interfaces { worker, slots, by_id: Box::new([0; INTERFACES_MAX]), mailboxes, handed }
    }

    /// Tells the other workers what the hashes of this one's flows are keyed by.
    pub fn tell_seed(&self, seed: u64) {
        self.mailboxes[self.worker as usize].set_seed(seed);
    }

    /// What the hashes of a worker's flows are keyed by.
    #[inline(always)]
    pub fn seed_of(&self, worker: Worker) -> u64 {
        self.mailboxes.get(worker as usize).map_or(0, Mailbox::seed)
    }

    pub fn add(&mut self, slot: Slot) {
        let id = slot.id as usize;
        if id < INTERFACES_MAX {
            self.slots.push(slot);
            self.by_id[id] = self.slots.len() as u16;
        }
    }

    /// Takes an interface out and gives its frames back.
    pub fn remove(&mut self, id: u32, pool: &mut FramePool) {
        let Some(index) = self.index(id) else { return };
        let mut slot = self.slots.swap_remove(index);
        self.by_id[id as usize] = 0;
        if let Some(moved) = self.slots.get(index) {
            self.by_id[moved.id as usize] = index as u16 + 1;
        }
        slot.out.drain().for_each(|packet| pool.put_packet(packet));
        if let Some(device) = &mut slot.device {
            device.close(pool);
        }
    }

    #[inline(always)]
    fn index(&self, id: u32) -> Option<usize> {
        (*self.by_id.get(id as usize)? as usize).checked_sub(1)
    }

    #[inline(always)]
    pub fn get(&self, id: u32) -> Option<&Slot> {
        self.slots.get(self.index(id)?)
    }

    pub fn slots_mut(&mut self) -> &mut [Slot] {
        &mut self.slots
    }

    pub fn slot_mut(&mut self, id: u32) -> Option<&mut Slot> {
        let index = self.index(id)?;
        self.slots.get_mut(index)
    }

    /// Puts a finished packet into its interface's burst, if this worker polls it and there is room.
    #[inline(always)]
    pub fn stage(&mut self, id: u32, packet: Packet) -> Result<(), Packet> {
        let index = self.index(id).unwrap_or(usize::MAX);
        match self.slots.get_mut(index) {
            Some(slot) if slot.device.is_some() => slot.out.push(packet),
            _ => Err(packet),
        }
    }

    /// The same of a whole burst, whose places must all be full: they change owners, and no packet is moved. The burst is
    /// empty then.
    #[inline(always)]
    pub fn stage_whole(&mut self, id: u32, burst: &mut Burst, pool: &mut FramePool, status: Block<'_>) -> bool {
        let Some(slot) = self.index(id).and_then(|index| self.slots.get_mut(index)) else { return false };
        if slot.device.is_some() && slot.out.room() < burst.len() {
            // It would have to go before the last packet anyway.
            flush(slot, pool, status);
        }
        let fits = slot.device.is_some() && slot.out.is_empty();
        if fits {
            std::mem::swap(&mut slot.out, burst);
        }
        fits
    }

    /// Puts a finished packet into its interface's burst, or into the mailbox of the worker that polls it.
    #[inline]
    pub fn send(&mut self, id: u32, packet: Packet, pool: &mut FramePool, status: Block<'_>) {
        let Some(index) = self.index(id) else { return discard(packet, DropReason::InterfaceGone, pool, status) };
        let slot = &mut self.slots[index];
        if slot.device.is_none() {
            let owner = slot.owner;
            return self.hand(owner, packet, Stage::Send { interface: id }, pool, status);
        }
        if slot.out.is_full() {
            flush(slot, pool, status);
        }
        if let Err(packet) = slot.out.push(packet) {
            discard(packet, DropReason::TxFull, pool, status);
        }
    }

    /// Hands a packet to the worker that goes on with it.
    pub fn hand(&mut self, to: Worker, packet: Packet, stage: Stage, pool: &mut FramePool, status: Block<'_>) {
        let Some(parcel) = self.parcel(to) else { return discard(packet, DropReason::Loop, pool, status) };
        match parcel.push(packet, stage) {
            Ok(()) => status.count(WorkerCounter::HandoffsOut, 1),
            Err(packet) => discard(packet, DropReason::HandoffFull, pool, status),
        }
    }

    /// Hands a packet of which all is known to the worker that keeps its flow.
    #[inline(always)]
    pub fn hand_known(&mut self, item: &Item, place: &mut Option<Packet>, pool: &mut FramePool, status: Block<'_>) {
        let parcel = self.parcel(item.owner);
        let reason = if parcel.is_some() { DropReason::HandoffFull } else { DropReason::Loop };
        if parcel.is_some_and(|parcel| parcel.take_known(place, item)) {
            status.count(WorkerCounter::HandoffsOut, 1);
        } else if let Some(packet) = place.take() {
            discard(packet, reason, pool, status);
        }
    }

    /// What is to be handed to another worker, with room for a packet unless that worker is too far behind.
    #[inline(always)]
    fn parcel(&mut self, to: Worker) -> Option<&mut Parcel> {
        let parcel = self.handed.get_mut(to as usize)?;
        if parcel.as_ref().is_some_and(|parcel| parcel.is_full()) {
            self.mailboxes[to as usize].send(self.worker, parcel);
        }
        parcel.as_deref_mut()
    }

    /// Whether something waits here for a worker that is too far behind.
    pub fn is_handing(&self) -> bool {
        self.handed.iter().flatten().any(|parcel| !parcel.is_empty())
    }

    /// Sends everything staged and wakes the workers that were handed something.
    pub fn flush(&mut self, pool: &mut FramePool, status: Block<'_>) {
        for slot in self.slots.iter_mut().filter(|slot| !slot.out.is_empty()) {
            flush(slot, pool, status);
        }
        for (parcel, mailbox) in self.handed.iter_mut().zip(&*self.mailboxes) {
            let Some(waiting) = parcel.as_ref().filter(|parcel| !parcel.is_empty()) else { continue };
            // What does not go now goes with a later flush. While that worker has others to take first there is no haste: the
            // fuller a parcel, the less a packet of it costs.
            if waiting.is_full() || !mailbox.waits(self.worker) {
                mailbox.send(self.worker, parcel);
                mailbox.ring();
            }
        }
    }
}

/// Sends a slot's burst; what could not be sent is dropped and counted.
fn flush(slot: &mut Slot, pool: &mut FramePool, status: Block<'_>) {
    let Some(device) = &mut slot.device else { return };
    let (packets, bytes) = weight(&slot.out);
    device.tx(pool, &mut slot.out);
    let (left_packets, left_bytes) = weight(&slot.out);
    status.count_interface(slot.id as usize, InterfaceCounter::TxPackets, packets - left_packets);
    status.count_interface(slot.id as usize, InterfaceCounter::TxBytes, bytes - left_bytes);
    if left_packets > 0 {
        let reason = if device.is_gone() { DropReason::InterfaceGone } else { DropReason::TxFull };
        slot.out.drain().for_each(|packet| discard(packet, reason, pool, status));
    }
}

/// (packets, bytes) of a burst.
pub fn weight(burst: &Burst) -> (u64, u64) {
    (burst.len() as u64, burst.iter().map(|packet| packet.total_size() as u64).sum())
}

/// Drops a packet for a reason.
pub fn discard(packet: Packet, reason: DropReason, pool: &mut FramePool, status: Block<'_>) {
    status.count_drop(reason, 1);
    pool.put_packet(packet);
}
