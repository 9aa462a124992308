//! What this worker hands to others, and what others hand to it. Of a packet that enters this node for a pod or the host, the
//! headers are written before it is handed over: here they are in the cache, and what need not go to another core is saved.
//! Its owner judges it, and writes what its flow changes. Must not look into flows but for what is to be fetched.

use super::forward::Path;
use crate::classify::{Context, Origin};
use crate::flow::Way;
use crate::handoff::{Batch, Slip, Stage, Told};
use crate::io::frames::Memory;
use crate::packet::{Burst, Packet};
use crate::rewrite;
use crate::worker::item::{Queued, To};
use crate::worker::look::{HEADERS_BYTES, Place};
use crate::worker::owners::End;
use tables::Mac;
use tables::counters::{DropReason, WorkStage, WorkerCounter};
use tables::flow::FLAG_TRANSLATED;
use tables::owner::Worker;

impl Path {
    /// Forwards what another worker handed over: one burst at most.
    pub fn forward_handed(&mut self, batch: &mut Batch) {
        let mut burst = std::mem::replace(&mut self.spare, Burst::none());
        self.with_tables(|path, context| {
            path.look_at_handed(context, batch, &mut burst);
            path.runtime.mark(WorkStage::HandOff, burst.len());
            path.is_handed = true;
            path.finish(context, &mut burst);
            path.is_handed = false;
            burst.clear();
        });
        if !batch.is_empty() {
            batch.unpack(&mut burst, (self.pool.memory().chunks(), 1), |_, _| {});
            burst.drain().for_each(|packet| self.drop_packet(packet, DropReason::NoTables));
        }
        self.spare = burst;
    }

    /// First pass over what was handed over, which is put into this burst, an empty one.
    #[inline(always)]
    fn look_at_handed(&mut self, context: &Context<'_>, batch: &mut Batch, burst: &mut Burst) {
        self.status().count(WorkerCounter::HandoffsIn, batch.len() as u64);
        let chunks = self.pool.memory().chunks();
        batch.unpack(burst, (chunks, HEADERS_BYTES), |burst, told| {
            let at = burst.len() as u16 - 1;
            match (told, burst.places_mut().last_mut()) {
                (Told::Plain(plain), _) => self.queues.here().push_told(at, &plain),
                (Told::Whole(stage), Some(packet)) => self.look(context, Place { packet, at }, stage),
                _ => {}
            }
        });
        self.hand_leaving(context, burst.places_mut());
    }

    #[inline(never)]
    fn look(&mut self, context: &Context<'_>, place: Place<'_>, stage: Stage) {
        match stage {
            Stage::Send { interface } => {
                if let Some(packet) = place.packet.take() {
                    self.send(interface, packet);
                }
            }
            Stage::Back(origin) => self.look_owned(context, place, Way::Back, origin),
            Stage::Direct(peer) => self.look_handed_direct(context, place, peer),
            Stage::Asked => self.look_owned(context, place, Way::Out, Origin::Uplink),
            Stage::Plain(plain) => self.queues.here().push_told(place.at, &plain),
            Stage::Arrived => self.look_arrived(context, place),
        }
    }

    /// The headers of a packet that another worker addressed stay in that one's cache, unless its flow changes them.
    #[inline(always)]
    pub(super) fn expect_translated(&self, places: &[Option<Packet>], queued: &Queued) {
        if let To::Addressed(_) = queued.to
            && self
                .flows
                .known(queued.asked.likely)
                .is_some_and(|id| self.flows.record(id).flags & FLAG_TRANSLATED != 0)
            && let Some(packet) = &places[queued.at as usize]
        {
            let (frame, start) = packet.head();
            self.pool.memory().chunks().prefetch_handed(frame, start, HEADERS_BYTES);
        }
    }

    /// Hands over what other workers own.
    #[inline(always)]
    pub(super) fn hand_leaving(&mut self, context: &Context<'_>, places: &mut [Option<Packet>]) {
        let block = self.status.block(self.id as usize);
        for queued in self.queues.leaving().iter() {
            let (End { owner, interface }, place) = (queued.end, &mut places[queued.at as usize]);
            match queued.told().filter(|_| place.as_ref().is_some_and(Slip::has_room)) {
                Some(plain) => {
                    let slot = self.interfaces.get(interface as u32);
                    let is_addressed = slot.is_some_and(|slot| address(context, self.pool.memory(), place, slot.mac));
                    let plain = if is_addressed { plain.addressed_to(interface as u32) } else { plain };
                    if let Some(batch) = self.interfaces.batch_for(owner, place, &mut self.pool, block) {
                        batch.push_plain(place, plain);
                    }
                }
                None => {
                    let stage = Stage::of(queued.way, queued.whence.origin());
                    self.interfaces.hand_any(owner, place, stage, &mut self.pool, block);
                }
            }
        }
        self.queues.leaving().clear();
    }

    /// Hands a packet to another worker.
    pub(super) fn hand(&mut self, to: Worker, place: &mut Option<Packet>, stage: Stage) {
        let block = self.status.block(self.id as usize);
        self.interfaces.hand(to, place, stage, &mut self.pool, block);
    }
}

/// Writes what its owner would of a packet that enters this node for one of its pods or its host: here its headers are in
/// the cache, and there they need not be looked at, unless its flow translates it.
#[inline(always)]
fn address(context: &Context<'_>, memory: &Memory, place: &mut Option<Packet>, mac: Mac) -> bool {
    let Some(packet) = place else { return false };
    let bytes = memory.head_mut(packet);
    rewrite::forward_plain(bytes, true);
    rewrite::set_macs(bytes, context.node.gateway_mac, mac);
    true
}
