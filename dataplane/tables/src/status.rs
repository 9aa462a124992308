//! The region that only the dataplane writes: acknowledgements, counters, and requests to control. Control maps it
//! read-only. One block of words for each worker, each written by that worker alone, so that a counter is a load and a
//! store; sums are taken by whoever reads.
//!
//! Reader slot `workers` (one past the last worker) is the dataplane's main thread, which answers `explain`.

use crate::addr::Addr;
use crate::counters::{DropReason, InterfaceCounter, WorkStage, WorkerCounter};
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
/// By [`PolicyFlows`].
const POLICY_FLOWS: [usize; 2] = [POLICY_DROPS + POLICIES_MAX, POLICY_DROPS + 2 * POLICIES_MAX];
const RUNTIME: usize = (POLICY_DROPS + 3 * POLICIES_MAX).next_multiple_of(8);
const BLOCK_WORDS: usize = (RUNTIME + size_of::<RuntimeRecord>() / 8).next_multiple_of(8);

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

    /// Of those that judge packets.
    pub fn worker_acks(&self) -> impl Iterator<Item = &AtomicU64> {
        self.acks().take(self.workers)
    }
}

/// What is counted of a policy besides the packets that it drops: flows, by their first packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PolicyFlows {
    Allowed = 0,
    /// Allowed although the policy would deny it, since it is only being tried.
    Audited = 1,
}

/// Burst sizes are counted by powers of two: 0 (a round that found nothing), 1, 2-3, 4-7, ..., 64 and more.
pub const BURST_SIZES: usize = 8;

/// Where a burst of so many packets is counted.
#[inline(always)]
pub fn burst_size_index(packets: usize) -> usize {
    ((usize::BITS - packets.leading_zeros()) as usize).min(BURST_SIZES - 1)
}

/// The sizes that are counted there.
pub fn burst_size_name(index: usize) -> String {
    match index {
        0 | 1 => index.to_string(),
        _ if index == BURST_SIZES - 1 => format!("{}+", 1 << (index - 1)),
        _ => format!("{}-{}", 1 << (index - 1), (1 << index) - 1),
    }
}

/// What a worker does with its time. It writes this about once a millisecond while it is awake and before it sleeps; a
/// reader may see one word newer than another. Ticks are the worker's clock's, `tick_hz` of them a second.
///
/// Stages are measured in one round of several (`sampled_rounds` of `rounds`), so that always measuring costs next to
/// nothing: sums of them stand for the whole by that ratio, costs per packet need none. A sampled round in which another
/// thread took the core tells nothing of ours: it is left out, and counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct RuntimeRecord {
    pub tick_hz: u64,
    /// When it was written, milliseconds of CLOCK_BOOTTIME, the low 32 bits.
    pub written_ms: u64,
    /// Share of the last second, parts per million, that was spent on packets: an exponentially weighted average.
    pub busy_1s_ppm: u64,
    pub busy_10s_ppm: u64,
    /// In the last second, weighted likewise.
    pub packets_per_s: u64,
    /// Rounds that moved packets; those that found none are counted as bursts of none.
    pub rounds: u64,
    pub sampled_rounds: u64,
    pub preempted_rounds: u64,
    /// Bursts taken from interfaces and from the hand-off ring, by [`burst_size_index`].
    pub bursts: [u64; BURST_SIZES],
    /// By [`WorkStage`].
    pub stages: [StageCost; WorkStage::COUNT],
}

/// What a stage took in the rounds that were sampled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct StageCost {
    pub ticks: u64,
    /// Packets that went through it; of the two halves of a local flow each counts.
    pub packets: u64,
    /// Times that it had packets.
    pub bursts: u64,
}

/// Time constants of the two averages.
pub const RECENT_S: [f64; 2] = [1.0, 10.0];

impl RuntimeRecord {
    /// Share of the last one and ten seconds that was spent on packets, 0 to 1. A worker that has not written for a while
    /// sleeps: its averages fall on.
    pub fn busy_ratios(&self, now_ms: u32) -> [f64; 2] {
        let kept = self.recent_kept(now_ms);
        [self.busy_1s_ppm as f64 / 1e6 * kept[0], self.busy_10s_ppm as f64 / 1e6 * kept[1]]
    }

    /// Packets a second lately.
    pub fn packet_rate(&self, now_ms: u32) -> f64 {
        self.packets_per_s as f64 * self.recent_kept(now_ms)[0]
    }

    fn recent_kept(&self, now_ms: u32) -> [f64; 2] {
        // The writer's clock may be a millisecond ahead of what the reader took.
        let age_ms = (now_ms.wrapping_sub(self.written_ms as u32) as i32).max(0);
        RECENT_S.map(|seconds| (-age_ms as f64 / 1e3 / seconds).exp())
    }

    pub fn stage(&self, stage: WorkStage) -> StageCost {
        self.stages[stage as usize]
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

    #[inline(always)]
    pub fn count_policy_flow(&self, what: PolicyFlows, policy: usize) {
        add_single_writer(&self.0[POLICY_FLOWS[what as usize] + policy.min(POLICIES_MAX - 1)], 1);
    }

    pub fn policy_flows(&self, what: PolicyFlows, policy: usize) -> u64 {
        self.0[POLICY_FLOWS[what as usize] + policy.min(POLICIES_MAX - 1)].load(Ordering::Relaxed)
    }

    /// Shows what the worker does with its time.
    pub fn set_runtime(&self, runtime: &RuntimeRecord) {
        write_record(self.0, RUNTIME, runtime);
    }

    pub fn runtime(&self) -> RuntimeRecord {
        read_record(self.0, RUNTIME)
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
    fn burst_sizes_are_counted_by_powers_of_two() {
        let indices = [0, 1, 2, 3, 4, 7, 8, 31, 32, 63, 64, 1000].map(burst_size_index);
        assert_eq!(indices, [0, 1, 2, 2, 3, 3, 4, 5, 6, 6, 7, 7]);
        let names: Vec<String> = (0..BURST_SIZES).map(burst_size_name).collect();
        assert_eq!(names, ["0", "1", "2-3", "4-7", "8-15", "16-31", "32-63", "64+"]);
    }

    #[test]
    fn control_sees_a_workers_runtime_which_falls_while_it_sleeps() {
        let ours = Status::create(1).unwrap();
        let theirs = Status::attach(ours.region().fd().try_clone_to_owned().unwrap()).unwrap();
        let mut written = RuntimeRecord { busy_1s_ppm: 500_000, busy_10s_ppm: 500_000, ..Default::default() };
        written.written_ms = u32::MAX as u64 - 10;
        written.stages[WorkStage::Housekeep as usize].bursts = 7;
        ours.block(0).set_runtime(&written);
        let read = theirs.block(0).runtime();
        assert_eq!(read, written);
        assert_eq!(read.busy_ratios(u32::MAX - 10), [0.5, 0.5]);
        assert_eq!(read.busy_ratios(u32::MAX - 11), [0.5, 0.5]);
        // A second later, past the wrap of the clock.
        let [one, ten] = read.busy_ratios(989);
        assert!((one - 0.5 / 1f64.exp()).abs() < 1e-3 && (ten - 0.5 / 0.1f64.exp()).abs() < 1e-3, "{one} {ten}");
        // The neighbours of the record are other counters.
        ours.block(0).count_policy_drop(POLICIES_MAX - 1, 1);
        ours.block(0).count_policy_flow(PolicyFlows::Allowed, POLICIES_MAX - 1);
        ours.block(0).count_policy_flow(PolicyFlows::Audited, 0);
        assert_eq!(theirs.block(0).runtime(), written);
    }

    #[test]
    fn a_foreign_region_is_refused() {
        let region = Region::create(c"test", 4096).unwrap();
        assert!(Status::attach(region.fd().try_clone_to_owned().unwrap()).is_err());
        assert!(Status::create(0).is_err() && Status::create(WORKERS_MAX + 1).is_err());
    }
}
