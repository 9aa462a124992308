//! Session affinity: a client that comes again in time gets the backend that it had. Time counts from its last new flow,
//! as in kube-proxy. The records lie behind the worker's flows (`tables::affinity`), in a mapping of their own. Must not
//! judge whether a backend still serves.

use crate::classify::service::Asked;
use std::sync::atomic::Ordering;
use tables::affinity::{AFFINITY_MAX_S, AffinityRecord, WAYS};
use tables::flow::{FlowLayout, FlowRegionError, WORD_AFFINITY_CLOCK, WORD_FLOW_SEED};
use tables::region::{Access, Parts};
use tables::{Addr, Region, hash};

/// A worker's clock may seem to step back by so much, no more.
const BACK_MS: u32 = 60_000;

pub struct Affinities {
    parts: Parts<AffinityRecord, AffinityRecord>,
    seed: u64,
    evicted: u64,
}

impl Affinities {
    /// Those in a worker's flow memory: maps it once more.
    pub fn beside(flows: &Region) -> Result<Affinities, FlowRegionError> {
        let layout = FlowLayout::read(flows)?;
        let fd = flows
            .fd()
            .try_clone_to_owned()
            .map_err(|source| tables::region::RegionError::System { what: "map again", source })?;
        let region = Region::attach(fd, Access::ReadWrite)?;
        let seed = region.words()[WORD_FLOW_SEED].load(Ordering::Relaxed);
        let (start, count) = (layout.affinities_start(), layout.affinities());
        let end = start + count * size_of::<AffinityRecord>() / 8;
        let parts = region.into_parts((start, count), (end, 0)).expect("the layout was checked against the size");
        Ok(Affinities { parts, seed, evicted: 0 })
    }

    /// Forgets what a predecessor left half-written, or in a place where nobody would look. How many are left.
    pub fn check(&mut self) -> usize {
        let (clock_ms, seed) = (self.clock_ms(), self.seed);
        let sets = self.parts.first().len() / WAYS;
        let mut used = 0;
        for (at, record) in self.parts.first_mut().iter_mut().enumerate() {
            let is_whole = record.used == 1 && record.last_used_ms <= clock_ms && is_of_one_family(record);
            if is_whole && set_of(record, seed, sets) == at / WAYS {
                used += 1;
            } else {
                *record = bytemuck::Zeroable::zeroed();
            }
        }
        used
    }

    fn clock_ms(&self) -> u64 {
        self.parts.region().words()[WORD_AFFINITY_CLOCK].load(Ordering::Relaxed)
    }

    /// The worker's clock without its wraps. Must be asked more often than it wraps, which is in seven weeks.
    pub fn time(&mut self, now_ms: u32) -> u64 {
        let clock_ms = self.clock_ms();
        let passed = now_ms.wrapping_sub(clock_ms as u32);
        if passed > u32::MAX - BACK_MS {
            return clock_ms;
        }
        self.parts.region().words()[WORD_AFFINITY_CLOCK].store(clock_ms + passed as u64, Ordering::Relaxed);
        clock_ms + passed as u64
    }

    /// The backend that this client has.
    pub fn recall(&self, asked: &Asked, now_ms: u64) -> Option<(Addr, u16)> {
        let wanted = record_of(asked);
        let record = self.set(&wanted).iter().find(|record| is_same(record, &wanted))?;
        let age_ms = now_ms.saturating_sub(record.last_used_ms);
        let is_in_time = age_ms < asked.service.affinity_s as u64 * 1_000;
        is_in_time.then_some((record.backend, record.backend_port))
    }

    /// The client has this backend from now on, in place of whom nobody has asked after for the longest time.
    pub fn keep(&mut self, asked: &Asked, (backend, backend_port): (Addr, u16), now_ms: u64) {
        let record = AffinityRecord { backend, backend_port, last_used_ms: now_ms, ..record_of(asked) };
        let first = set_of(&record, self.seed, self.parts.first().len() / WAYS) * WAYS;
        let set = &mut self.parts.first_mut()[first..first + WAYS];
        let at = set.iter().position(|old| is_same(old, &record)).unwrap_or_else(|| oldest(set));
        let old = std::mem::replace(&mut set[at], record);
        let may_live = now_ms.saturating_sub(old.last_used_ms) < AFFINITY_MAX_S as u64 * 1_000;
        self.evicted += (old.used == 1 && may_live && !is_same(&old, &record)) as u64;
    }

    /// Clients that made room since the last time this was asked.
    pub fn take_evicted(&mut self) -> u64 {
        std::mem::take(&mut self.evicted)
    }

    fn set(&self, wanted: &AffinityRecord) -> &[AffinityRecord] {
        let first = set_of(wanted, self.seed, self.parts.first().len() / WAYS) * WAYS;
        &self.parts.first()[first..first + WAYS]
    }
}

/// A free record, or the one that was not used for the longest time.
fn oldest(set: &[AffinityRecord]) -> usize {
    let age = |record: &AffinityRecord| (record.used == 1, record.last_used_ms);
    (0..set.len()).min_by_key(|&at| age(&set[at])).unwrap_or(0)
}

/// A record without a backend.
fn record_of(asked: &Asked) -> AffinityRecord {
    AffinityRecord {
        service: asked.tuple.remote,
        client: asked.tuple.local,
        service_port: asked.tuple.remote_port,
        protocol: asked.tuple.protocol,
        used: 1,
        ..bytemuck::Zeroable::zeroed()
    }
}

/// Whether two records are of one client at one service port.
fn is_same(one: &AffinityRecord, other: &AffinityRecord) -> bool {
    let key = |r: &AffinityRecord| (r.used, r.client, r.service, r.service_port, r.protocol);
    key(one) == key(other)
}

fn is_of_one_family(record: &AffinityRecord) -> bool {
    let is_v4 = record.client.is_v4();
    record.service.is_v4() == is_v4 && record.backend.is_v4() == is_v4
}

fn set_of(record: &AffinityRecord, seed: u64, sets: usize) -> usize {
    let ([a, b], [c, d]) = (record.service.words(), record.client.words());
    let last = (record.service_port as u64) << 8 | record.protocol.0 as u64;
    (hash::hash_words(&[a, b, c, d, last], seed) % sets as u64) as usize
}

#[cfg(test)]
#[path = "affinity_tests.rs"]
mod tests;
