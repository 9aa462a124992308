//! The interfaces as one worker sees them: it knows all, polls its own, and hands what others poll to their owners.

use crate::handoff::{Batch, Mailbox, Stage};
use crate::io::Interface;
use crate::io::pool::FramePool;
use crate::packet::{Burst, Packet};
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
    /// What is to be handed to each worker at the next flush, a burst at most.
    handed: Vec<Batch>,
}

impl Interfaces {
    pub fn new(worker: Worker, mailboxes: Arc<[Mailbox]>) -> Interfaces {
        let handed = mailboxes.iter().map(|_| Batch::default()).collect();
        let slots = Vec::with_capacity(INTERFACES_MAX);
        Interfaces { worker, slots, by_id: Box::new([0; INTERFACES_MAX]), mailboxes, handed }
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

    #[inline(always)]
    pub fn is_polled_here(&self, id: u32) -> bool {
        self.get(id).is_some_and(|slot| slot.device.is_some())
    }

    /// The same of a whole burst, whose places must all be full: where nothing waits they change owners, and no packet is
    /// moved. The burst is empty then.
    #[inline(always)]
    pub fn stage_whole(&mut self, id: u32, burst: &mut Burst, pool: &mut FramePool, status: Block<'_>) -> bool {
        let slot = self.index(id).and_then(|index| self.slots.get_mut(index));
        let Some(slot) = slot.filter(|slot| slot.device.is_some()) else { return false };
        if slot.out.room() < burst.len() {
            // It would have to go before the last packet anyway.
            flush(slot, pool, status);
        }
        if slot.out.is_empty() {
            std::mem::swap(&mut slot.out, burst);
        } else {
            slot.out.append(burst);
        }
        true
    }

    /// Puts a finished packet into its interface's burst, or into the mailbox of the worker that polls it.
    #[inline]
    pub fn send(&mut self, id: u32, packet: Packet, pool: &mut FramePool, status: Block<'_>) {
        let Some(index) = self.index(id) else { return discard(packet, DropReason::InterfaceGone, pool, status) };
        let slot = &mut self.slots[index];
        if slot.device.is_none() {
            let (owner, stage) = (slot.owner, Stage::Send { interface: id });
            return self.hand(owner, &mut Some(packet), stage, pool, status);
        }
        if slot.out.is_full() {
            flush(slot, pool, status);
        }
        if let Err(packet) = slot.out.push(packet) {
            discard(packet, DropReason::TxFull, pool, status);
        }
    }

    /// Hands the packet in this place to the worker that owns it.
    #[inline(always)]
    pub fn hand(
        &mut self,
        to: Worker,
        place: &mut Option<Packet>,
        stage: Stage,
        pool: &mut FramePool,
        status: Block<'_>,
    ) {
        if let Some(batch) = self.batch_for(to, place, pool, status) {
            batch.push(place, stage);
        }
    }

    /// Where the packet in this place finds room on its way to another worker. None: it does not go.
    #[inline(always)]
    pub fn batch_for(
        &mut self,
        to: Worker,
        place: &mut Option<Packet>,
        pool: &mut FramePool,
        status: Block<'_>,
    ) -> Option<&mut Batch> {
        if place.is_none() {
            return None;
        }
        let Some(batch) = self.handed.get_mut(to as usize).filter(|_| to != self.worker) else {
            discard_from(place, DropReason::Loop, pool, status);
            return None;
        };
        if batch.is_full() && !send_batch(&self.mailboxes[to as usize], batch, status) {
            discard_from(place, DropReason::HandoffFull, pool, status);
            return None;
        }
        Some(batch)
    }

    /// As `hand`, as a call.
    #[inline(never)]
    pub fn hand_any(
        &mut self,
        to: Worker,
        place: &mut Option<Packet>,
        stage: Stage,
        pool: &mut FramePool,
        status: Block<'_>,
    ) {
        self.hand(to, place, stage, pool, status);
    }

    /// Whether something waits here for a worker that is too far behind.
    pub fn is_handing(&self) -> bool {
        self.handed.iter().any(|batch| !batch.is_empty())
    }

    /// Sends everything staged and wakes the workers that were handed something.
    pub fn flush(&mut self, pool: &mut FramePool, status: Block<'_>) {
        for slot in self.slots.iter_mut().filter(|slot| !slot.out.is_empty()) {
            flush(slot, pool, status);
        }
        for (batch, mailbox) in self.handed.iter_mut().zip(&*self.mailboxes).filter(|(batch, _)| !batch.is_empty()) {
            // What does not go now goes with the next flush.
            send_batch(mailbox, batch, status);
            mailbox.ring();
        }
    }
}

/// Sends a batch, and has the one that takes its place fetched: its last reader was another core.
#[inline(never)]
fn send_batch(mailbox: &Mailbox, batch: &mut Batch, status: Block<'_>) -> bool {
    let count = batch.len();
    let is_sent = mailbox.send(batch);
    status.count(WorkerCounter::HandoffsOut, if is_sent { count as u64 } else { 0 });
    batch.expect();
    is_sent
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

#[cold]
fn discard_from(place: &mut Option<Packet>, reason: DropReason, pool: &mut FramePool, status: Block<'_>) {
    if let Some(packet) = place.take() {
        discard(packet, reason, pool, status);
    }
}

/// Drops a packet for a reason.
pub fn discard(packet: Packet, reason: DropReason, pool: &mut FramePool, status: Block<'_>) {
    status.count_drop(reason, 1);
    pool.put_packet(packet);
}
