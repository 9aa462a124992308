//! The poll loop of one core: take packets from interfaces and the mailbox, forward, send, keep house, idle. One round
//! after the other; between rounds the tables are pinned anew and commands are done.

mod direct;
mod errors;
pub mod forward;
pub mod fragments;
mod handed;
pub mod held;
mod icmp;
mod idle;
mod inside;
pub mod interfaces;
mod item;
mod limit;
mod look;
mod neighbours;
mod open;
mod owners;
mod plain;
mod plain_v6;
mod renew;
mod renewals;
pub mod runtime;
mod tunnels;
mod uplink;

pub use idle::Polling;

use crate::handoff::{Command, Mailbox};
use crate::packet::{BURST_MAX, Burst};
use forward::Path;
use idle::Idle;
use interfaces::{Slot, weight};
use std::sync::Arc;
use std::time::Instant;
use tables::counters::{InterfaceCounter, WorkStage, WorkerCounter};
use tables::message::InterfaceKind;
use tables::publish::{Reader, unpin};

/// Expiry sees every record once in this time.
const EXPIRY_ROUND_MS: usize = 4_000;
/// ... and every fragmented packet in this one, for which others may be waiting.
const FRAGMENTS_ROUND_MS: usize = 250;
/// Who looks for flows of pods that are gone sees every record once in this time.
const GONE_ROUND_MS: usize = 1_000;
/// Bursts taken from one ready interface in a round, so that a busy pod does not starve the others.
const BURSTS_PER_ROUND: usize = 2;

pub struct Worker {
    path: Path,
    mailboxes: Arc<[Mailbox]>,
    burst: Burst,
    idle: Idle,
    housekept_ms: u32,
    /// The tables changed since what waits for a neighbour was last tried.
    changed: bool,
    stopped: bool,
}

impl Worker {
    pub fn new(path: Path, mailboxes: Arc<[Mailbox]>, polling: Polling) -> std::io::Result<Worker> {
        let idle = Idle::new(polling, mailboxes[path.id as usize].bell())?;
        let housekept_ms = now_ms();
        Ok(Worker { path, mailboxes, burst: Burst::default(), idle, housekept_ms, changed: false, stopped: false })
    }

    pub fn path(&mut self) -> &mut Path {
        &mut self.path
    }

    /// Rounds until a stop command.
    pub fn run(mut self) {
        while !self.stopped {
            if self.round() > 0 {
                self.idle.busy();
            } else if self.idle.wants_sleep(Instant::now()) {
                self.sleep();
            }
        }
        self.show_runtime();
        unpin(self.path.status.block(self.path.id as usize).ack());
    }

    /// One round. Returns how many packets were taken.
    pub fn round(&mut self) -> usize {
        self.path.runtime.begin();
        self.commands();
        self.path.now_ms = now_ms();
        self.pin();
        if std::mem::take(&mut self.changed) && !self.path.held.is_empty() {
            self.path.retry_held();
        }
        self.path.runtime.mark(WorkStage::Pin, 0);
        let packets = self.take_from_interfaces() + self.take_from_mailbox() + self.path.release();
        self.path.flush();
        self.path.runtime.mark(WorkStage::Send, 0);
        self.keep_house();
        self.path.runtime.mark(WorkStage::Housekeep, 0);
        if self.path.runtime.end(packets) {
            self.show_runtime();
        }
        packets
    }

    /// For each burst: of a round with many interfaces the last ones should not wait for new tables until the next.
    #[inline]
    fn pin(&mut self) {
        self.changed |= self.path.pin();
    }

    fn commands(&mut self) {
        while let Some(command) = self.mailboxes[self.path.id as usize].take_command() {
            match command {
                Command::Tables(reader) => self.path.use_tables(reader),
                Command::AddInterface(slot) => self.add_interface(*slot),
                Command::RemoveInterface(id) => self.remove_interface(id),
                Command::Stop => self.stopped = true,
            }
        }
    }

    pub fn add_interface(&mut self, mut slot: Slot) {
        if let Some(device) = &mut slot.device {
            device.housekeep(&mut self.path.pool);
            self.idle.watch(slot.id, device.as_ref());
        }
        let inherited = self.path.flows.end_comes(&slot.addrs);
        self.path.status.block(self.path.id as usize).count(WorkerCounter::FlowsExpired, inherited as u64);
        self.path.interfaces.add(slot);
    }

    fn remove_interface(&mut self, id: u32) {
        if let Some(device) = self.path.interfaces.get(id).and_then(|slot| slot.device.as_ref()) {
            self.idle.unwatch(id, device.as_ref());
        }
        if let Some(slot) = self.path.interfaces.get(id).filter(|slot| slot.kind == InterfaceKind::Pod) {
            self.path.flows.end_goes(&slot.addrs);
        }
        self.path.interfaces.remove(id, &mut self.path.pool);
    }

    fn take_from_interfaces(&mut self) -> usize {
        let mut packets = 0;
        self.idle.find_ready();
        for i in 0..self.idle.ready().len() {
            let id = self.idle.ready()[i];
            for _ in 0..BURSTS_PER_ROUND {
                let taken = self.take_burst(id);
                packets += taken;
                if taken < BURST_MAX / 2 {
                    break;
                }
            }
        }
        packets
    }

    fn take_burst(&mut self, id: u32) -> usize {
        let Some(device) = self.path.interfaces.slot_mut(id).and_then(|slot| slot.device.as_mut()) else { return 0 };
        device.rx(&mut self.path.pool, &mut self.burst);
        self.path.runtime.mark(WorkStage::Receive, self.burst.len());
        if self.burst.is_empty() {
            return 0;
        }
        self.pin();
        let (packets, bytes) = weight(&self.burst);
        let status = self.path.status.block(self.path.id as usize);
        status.count_interface(id as usize, InterfaceCounter::RxPackets, packets);
        status.count_interface(id as usize, InterfaceCounter::RxBytes, bytes);
        self.path.runtime.count_burst(packets as usize);
        self.path.forward(id, &mut self.burst);
        packets as usize
    }

    fn take_from_mailbox(&mut self) -> usize {
        let mailbox = &self.mailboxes[self.path.id as usize];
        let mut packets = 0;
        while packets < BURSTS_PER_ROUND * BURST_MAX {
            let Some(mut batch) = mailbox.take() else { break };
            let count = batch.len();
            self.changed |= self.path.pin();
            self.path.forward_handed(&mut batch);
            mailbox.give_back(batch);
            self.path.runtime.count_burst(count);
            packets += count;
        }
        self.path.runtime.mark(WorkStage::HandOff, 0);
        packets
    }

    /// What need not be done for each packet: completions, frames that come home, flows that time out, gauges.
    fn keep_house(&mut self) {
        let block = self.path.status.block(self.path.id as usize);
        for slot in self.path.interfaces.slots_mut() {
            let Some(device) = &mut slot.device else { continue };
            device.housekeep(&mut self.path.pool);
            device.take_drops(&mut |reason, count| block.count_drop(reason, count));
            if device.is_gone() && !slot.gone {
                slot.gone = true;
                if let Some(obituaries) = &self.path.obituaries {
                    let _ = rustix::io::write(obituaries, &slot.id.to_ne_bytes());
                }
                self.idle.unwatch(slot.id, device.as_ref());
            }
        }
        self.path.pool.housekeep();
        let elapsed_ms = self.path.now_ms.wrapping_sub(self.housekept_ms);
        if elapsed_ms == 0 {
            return;
        }
        self.housekept_ms = self.path.now_ms;
        let count = self.path.flows.capacity() * elapsed_ms as usize / EXPIRY_ROUND_MS + 1;
        let gone_count = self.path.flows.capacity() * elapsed_ms as usize / GONE_ROUND_MS + 1;
        let expired = self.path.flows.expire(count, self.path.now_ms) + self.path.flows.forget_gone(gone_count);
        block.count(WorkerCounter::FlowsExpired, expired as u64);
        self.path.flows.affinities.time(self.path.now_ms);
        block.count(WorkerCounter::AffinitiesEvicted, self.path.flows.affinities.take_evicted());
        self.path.expire_held();
        self.path.expire_fragments(self.path.fragments.capacity() * elapsed_ms as usize / FRAGMENTS_ROUND_MS + 1);
        self.path.set_gauges();
    }

    fn show_runtime(&mut self) {
        self.path.runtime.show(self.path.status.block(self.path.id as usize), self.path.now_ms);
    }

    /// Sleeps until something is ready. Contract: unpinned and announced before, so neither publisher nor other workers
    /// wait for us, nor their packets.
    fn sleep(&mut self) {
        let id = self.path.id as usize;
        let block = self.path.status.block(id);
        if self.path.interfaces.is_handing() || !self.mailboxes[id].may_sleep() {
            return;
        }
        self.path.runtime.show(block, self.path.now_ms);
        unpin(block.ack());
        block.count(WorkerCounter::Sleeps, 1);
        block.set(WorkerCounter::Asleep, 1);
        block.set(WorkerCounter::SharesCore, self.idle.shares_core() as u64);
        let waits = !self.path.held.is_empty() || !self.path.fragments.is_empty();
        self.idle.sleep(waits || self.path.flows.used() > 0);
        self.mailboxes[id].awake();
        block.set(WorkerCounter::Asleep, 0);
        self.path.runtime.skip();
    }
}

impl Path {
    /// Goes over to other tables.
    pub fn use_tables(&mut self, reader: Box<Reader>) {
        self.reader = Some(reader);
        self.tunnels.clear();
        self.owners.clear();
        self.renewals.clear();
    }

    /// Pins the live tables; true if they changed.
    fn pin(&mut self) -> bool {
        let block = self.status.block(self.id as usize);
        self.scopes.tick(self.now_ms);
        self.reader.as_mut().is_some_and(|reader| reader.pin(block.ack(), &mut self.scopes))
    }

    fn flush(&mut self) {
        let block = self.status.block(self.id as usize);
        self.interfaces.flush(&mut self.pool, block);
        if let Some(bell) = self.bell.as_ref().filter(|_| self.asked) {
            let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
            self.asked = false;
        }
    }

    fn set_gauges(&self) {
        let block = self.status.block(self.id as usize);
        block.set(WorkerCounter::Flows, self.flows.used() as u64);
        block.set(WorkerCounter::FlowsLimit, self.flows.capacity() as u64);
        block.set(WorkerCounter::FramesFree, self.pool.available() as u64);
        block.set(WorkerCounter::HasTables, self.reader.is_some() as u64);
        block.set(WorkerCounter::Generation, self.reader.as_ref().map_or(0, |reader| reader.generation()));
    }
}

/// Milliseconds since boot, wrapping: goes on over restarts of the process, and while the machine sleeps.
pub fn now_ms() -> u32 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    (now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000) as u32
}
