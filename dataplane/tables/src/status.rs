//! The region that only the dataplane writes: acknowledgements, counters, and requests to control. Control maps it
//! read-only. One block of words for each worker, each written by that worker alone, so that a counter is a load and a
//! store; sums are taken by whoever reads.
//!
//! Reader slot `workers` (one past the last worker) is the dataplane's main thread, which answers `explain`.

use crate::addr::Addr;
use crate::counters::{DropReason, InterfaceCounter, WorkerCounter};
use crate::layout::{self, LAYOUT_VERSION, LayoutError, MAGIC_STATUS, WORD_MAGIC, WORD_SIZE, WORD_VERSION};
use crate::limits::{INTERFACES_MAX, POLICIES_MAX, REQUESTS_MAX, WORKERS_MAX};
use crate::region::{Access, Region, RegionError};
use crate::view::{read_record, write_record};
use crate::word::add_single_writer;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const WORD_WORKERS: usize = 4;
const BLOCKS_START: usize = layout::JOURNAL_START;
const ACK: usize = 0;
const WORKER_COUNTERS: usize = 8;
const REQUEST_HEAD: usize = 62;
const DROPS: usize = 64;
const REQUESTS: usize = 192;
const INTERFACES: usize = REQUESTS + 2 * REQUESTS_MAX;
const POLICY_DROPS: usize = INTERFACES + INTERFACES_MAX * InterfaceCounter::COUNT;
const BLOCK_WORDS: usize = (POLICY_DROPS + POLICIES_MAX).next_multiple_of(8);

const _: () = assert!(WORKER_COUNTERS + WorkerCounter::COUNT <= REQUEST_HEAD && DropReason::COUNT <= REQUESTS - DROPS);

#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    #[error(transparent)]
    Region(#[from] RegionError),
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error("the dataplane's status memory claims {0} workers: more than {WORKERS_MAX}, or more than it has room for")]
    Workers(u64),
}

/// A mapping of the status region; cheap to clone.
#[derive(Clone)]
pub struct Status {
    region: Arc<Region>,
    workers: usize,
}

impl Status {
    pub fn create(workers: usize) -> Result<Status, StatusError> {
        if workers == 0 || workers > WORKERS_MAX {
            return Err(StatusError::Workers(workers as u64));
        }
        let size = BLOCKS_START + (workers + 1) * BLOCK_WORDS;
        let region = Region::create(c"fairway-status", size)?;
        for (at, value) in [
            (WORD_MAGIC, MAGIC_STATUS),
            (WORD_VERSION, LAYOUT_VERSION),
            (WORD_SIZE, size as u64),
            (WORD_WORKERS, workers as u64),
        ] {
            region.words()[at].store(value, Ordering::Relaxed);
        }
        Ok(Status { region: Arc::new(region), workers })
    }

    pub fn attach(fd: OwnedFd) -> Result<Status, StatusError> {
        let region = Region::attach(fd, Access::ReadOnly)?;
        let words = region.words();
        let word = |i: usize| words.get(i).map_or(0, |w| w.load(Ordering::Relaxed));
        layout::check_header(word, MAGIC_STATUS, "status", words.len())?;
        let workers = word(WORD_WORKERS);
        if workers == 0
            || workers > WORKERS_MAX as u64
            || BLOCKS_START + (workers as usize + 1) * BLOCK_WORDS > words.len()
        {
            return Err(StatusError::Workers(workers));
        }
        Ok(Status { region: Arc::new(region), workers: workers as usize })
    }

    pub fn region(&self) -> &Region {
        &self.region
    }

    pub fn workers(&self) -> usize {
        self.workers
    }

    /// A worker's block, or that of the main thread (index `workers`).
    #[inline(always)]
    pub fn block(&self, worker: usize) -> Block<'_> {
        let start = BLOCKS_START + worker.min(self.workers) * BLOCK_WORDS;
        Block(&self.region.words()[start..start + BLOCK_WORDS])
    }

    pub fn blocks(&self) -> impl Iterator<Item = Block<'_>> {
        (0..=self.workers).map(|worker| self.block(worker))
    }

    /// The acknowledgement words of all readers.
    pub fn acks(&self) -> impl Iterator<Item = &AtomicU64> {
        self.blocks().map(|block| block.ack())
    }
}

/// One worker's words. Writes are for that worker only.
#[derive(Clone, Copy)]
pub struct Block<'a>(&'a [AtomicU64]);

impl<'a> Block<'a> {
    #[inline(always)]
    pub fn ack(&self) -> &'a AtomicU64 {
        &self.0[ACK]
    }

    #[inline(always)]
    pub fn count(&self, counter: WorkerCounter, by: u64) {
        add_single_writer(&self.0[WORKER_COUNTERS + counter as usize], by);
    }

    /// Sets a gauge.
    #[inline(always)]
    pub fn set(&self, counter: WorkerCounter, value: u64) {
        self.0[WORKER_COUNTERS + counter as usize].store(value, Ordering::Relaxed);
    }

    pub fn get(&self, counter: WorkerCounter) -> u64 {
        self.0[WORKER_COUNTERS + counter as usize].load(Ordering::Relaxed)
    }

    #[inline(always)]
    pub fn count_drop(&self, reason: DropReason, by: u64) {
        add_single_writer(&self.0[DROPS + reason as usize], by);
    }

    pub fn drops(&self, reason: DropReason) -> u64 {
        self.0[DROPS + reason as usize].load(Ordering::Relaxed)
    }

    #[inline(always)]
    pub fn count_interface(&self, interface: usize, counter: InterfaceCounter, by: u64) {
        let at = interface.min(INTERFACES_MAX - 1) * InterfaceCounter::COUNT + counter as usize;
        add_single_writer(&self.0[INTERFACES + at], by);
    }

    pub fn interface(&self, interface: usize, counter: InterfaceCounter) -> u64 {
        let at = interface.min(INTERFACES_MAX - 1) * InterfaceCounter::COUNT + counter as usize;
        self.0[INTERFACES + at].load(Ordering::Relaxed)
    }

    #[inline(always)]
    pub fn count_policy_drop(&self, policy: usize, by: u64) {
        add_single_writer(&self.0[POLICY_DROPS + policy.min(POLICIES_MAX - 1)], by);
    }

    pub fn policy_drops(&self, policy: usize) -> u64 {
        self.0[POLICY_DROPS + policy.min(POLICIES_MAX - 1)].load(Ordering::Relaxed)
    }

    /// Asks control to resolve an on-link address. The ring keeps the newest requests; a lost one is asked again by the
    /// next packet.
    pub fn request_neighbour(&self, addr: Addr) {
        let head = self.0[REQUEST_HEAD].load(Ordering::Relaxed);
        write_record(self.0, REQUESTS + head as usize % REQUESTS_MAX * 2, &addr);
        self.0[REQUEST_HEAD].store(head + 1, Ordering::Release);
    }

    /// Requests since `seen`; returns the new head.
    pub fn requests(&self, seen: u64, mut each: impl FnMut(Addr)) -> u64 {
        let head = self.0[REQUEST_HEAD].load(Ordering::Acquire);
        let first = seen.max(head.saturating_sub(REQUESTS_MAX as u64));
        for i in first..head {
            each(read_record(self.0, REQUESTS + i as usize % REQUESTS_MAX * 2));
        }
        head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_sees_what_a_worker_counts() {
        let ours = Status::create(2).unwrap();
        let theirs = Status::attach(ours.region().fd().try_clone_to_owned().unwrap()).unwrap();
        ours.block(1).count_drop(DropReason::Truncated, 3);
        ours.block(1).count_interface(7, InterfaceCounter::RxPackets, 5);
        ours.block(0).request_neighbour(Addr::v4([192, 168, 0, 9]));
        assert_eq!(theirs.block(1).drops(DropReason::Truncated), 3);
        assert_eq!(theirs.block(0).drops(DropReason::Truncated), 0);
        assert_eq!(theirs.block(1).interface(7, InterfaceCounter::RxPackets), 5);
        let mut asked = Vec::new();
        assert_eq!(theirs.block(0).requests(0, |addr| asked.push(addr)), 1);
        assert_eq!(asked, [Addr::v4([192, 168, 0, 9])]);
    }

    #[test]
    fn a_foreign_region_is_refused() {
        let region = Region::create(c"test", 4096).unwrap();
        assert!(Status::attach(region.fd().try_clone_to_owned().unwrap()).is_err());
        assert!(Status::create(0).is_err() && Status::create(WORKERS_MAX + 1).is_err());
    }
}
