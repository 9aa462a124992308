//! What a worker does with its time: how long rounds with packets take, how large bursts are, and what each stage of a
//! round costs. Always on, so it must cost next to nothing: each round reads the clock once, one round in about
//! [`SAMPLE`] once a stage too, everything is summed in private words, and those are shown about once a millisecond.
//! Must not look at packets.

use crate::io::clock;
use tables::counters::{WorkStage, WorkerCounter};
use tables::status::{Block, RECENT_S, RuntimeRecord, StageCost, burst_size_index};

/// One round of so many has its stages measured, on average: the distance varies, so that nothing that repeats is always
/// met or always missed.
const SAMPLE: u64 = 32;
const SHOWN_HZ: u64 = 1_000;
/// A sampled round that took longer is suspected of having been interrupted by another thread. A fraction of a second.
const SUSPECT_HZ: u64 = 10_000;

/// What tells the time.
pub trait Clock {
    fn ticks(&self) -> u64;
    /// How often another thread took the core, so far.
    fn preemptions(&self) -> u64;
}

/// The processor's clock.
pub struct Processor;

impl Clock for Processor {
    #[inline(always)]
    fn ticks(&self) -> u64 {
        clock::ticks()
    }

    fn preemptions(&self) -> u64 {
        clock::preemptions()
    }
}

/// One worker's account. Written by its thread alone. Call [`Runtime::begin`], marks, and [`Runtime::end`] in each round.
pub struct Runtime<C: Clock = Processor> {
    clock: C,
    hz: u64,
    started: u64,
    round_start: u64,
    busy: u64,
    packets: u64,
    /// Rounds until the next one that is sampled.
    rounds_left: u64,
    is_sampled: bool,
    /// When the last stage of this sampled round ended.
    marked: u64,
    sample: [StageCost; WorkStage::COUNT],
    preemptions: u64,
    /// Of the last time that it was shown: when, and (busy, packets) then.
    shown: u64,
    shown_sums: (u64, u64),
    busy_recent: [f64; 2],
    packet_rate: f64,
    record: RuntimeRecord,
}

impl Runtime {
    pub fn new() -> Runtime {
        Runtime::with_clock(Processor, clock::tick_hz())
    }
}

impl Default for Runtime {
    fn default() -> Runtime {
        Runtime::new()
    }
}

impl<C: Clock> Runtime<C> {
    fn with_clock(clock: C, hz: u64) -> Runtime<C> {
        let now = clock.ticks();
        Runtime {
            clock,
            hz,
            started: now,
            round_start: now,
            busy: 0,
            packets: 0,
            rounds_left: 1,
            is_sampled: false,
            marked: now,
            sample: Default::default(),
            preemptions: 0,
            shown: now,
            shown_sums: (0, 0),
            busy_recent: [0.0; 2],
            packet_rate: 0.0,
            record: RuntimeRecord { tick_hz: hz, ..RuntimeRecord::default() },
        }
    }

    /// A round begins where the last one ended.
    #[inline(always)]
    pub fn begin(&mut self) {
        self.rounds_left -= 1;
        if self.rounds_left == 0 {
            self.begin_sample();
        }
    }

    #[cold]
    fn begin_sample(&mut self) {
        self.is_sampled = true;
        self.marked = self.clock.ticks();
        // The clock's low bits, spread by a multiplication (Fibonacci hashing), are random enough.
        self.rounds_left = 1 + (self.marked.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % (2 * SAMPLE - 1);
    }

    /// What was done since the last mark belongs to `stage`, which had so many packets.
    #[inline(always)]
    pub fn mark(&mut self, stage: WorkStage, packets: usize) {
        if self.is_sampled {
            self.note(stage, packets);
        }
    }

    #[cold]
    #[inline(never)]
    fn note(&mut self, stage: WorkStage, packets: usize) {
        let now = self.clock.ticks();
        let cost = &mut self.sample[stage as usize];
        cost.ticks += now.saturating_sub(self.marked);
        cost.packets += packets as u64;
        cost.bursts += (packets > 0) as u64;
        self.marked = now;
    }

    /// A burst came, from an interface or another worker.
    #[inline(always)]
    pub fn count_burst(&mut self, packets: usize) {
        self.record.bursts[burst_size_index(packets)] += 1;
    }

    /// A round that moved so many packets has ended. True if it is time to show what was summed.
    #[inline(always)]
    pub fn end(&mut self, packets: usize) -> bool {
        let now = self.clock.ticks();
        let took = now.saturating_sub(self.round_start);
        self.round_start = now;
        if packets > 0 {
            self.busy += took;
            self.packets += packets as u64;
            self.record.rounds += 1;
        } else {
            self.count_burst(0);
        }
        if self.is_sampled {
            self.end_sample(packets, took);
        }
        now.saturating_sub(self.shown) >= self.hz / SHOWN_HZ
    }

    /// A round without packets tells nothing of what packets cost.
    #[cold]
    fn end_sample(&mut self, packets: usize, took: u64) {
        self.is_sampled = false;
        let sample = std::mem::take(&mut self.sample);
        if packets == 0 {
            return;
        }
        if self.was_preempted(took) {
            self.record.preempted_rounds += 1;
            return;
        }
        self.record.sampled_rounds += 1;
        for (&stage, part) in WorkStage::ALL.iter().zip(sample) {
            let sum = &mut self.record.stages[stage as usize];
            let is_once = stage.is_once_a_round();
            sum.ticks += part.ticks;
            sum.packets += if is_once { packets as u64 } else { part.packets };
            sum.bursts += if is_once { 1 } else { part.bursts };
        }
    }

    /// Asks the kernel only after a long round: the question is a system call.
    fn was_preempted(&mut self, took: u64) -> bool {
        if took < self.hz / SUSPECT_HZ {
            return false;
        }
        let before = std::mem::replace(&mut self.preemptions, self.clock.preemptions());
        self.preemptions != before
    }

    /// Time passed that belongs to no round: sleep.
    pub fn skip(&mut self) {
        self.round_start = self.clock.ticks();
    }

    /// Writes everything where other processes see it.
    pub fn show(&mut self, block: Block<'_>, now_ms: u32) {
        let now = self.clock.ticks();
        self.average(now);
        self.record.written_ms = now_ms as u64;
        self.record.busy_1s_ppm = (self.busy_recent[0] * 1e6) as u64;
        self.record.busy_10s_ppm = (self.busy_recent[1] * 1e6) as u64;
        self.record.packets_per_s = self.packet_rate as u64;
        block.set_runtime(&self.record);
        block.set(WorkerCounter::BusyTime, self.ns(self.busy));
        block.set(WorkerCounter::TotalTime, self.ns(now.saturating_sub(self.started)));
        block.set(WorkerCounter::Bursts, self.record.bursts[1..].iter().sum());
        block.set(WorkerCounter::Packets, self.packets);
    }

    /// Moves the recent averages on: each forgets what is older than its time constant. In the beginning it is the plain
    /// average, so that it tells the truth at once.
    fn average(&mut self, now: u64) {
        let (passed, lived) = (self.seconds(now, self.shown), self.seconds(now, self.started));
        if passed <= 0.0 {
            return;
        }
        let weight = RECENT_S.map(|seconds| (1.0 - (-passed / seconds).exp()).max(passed / lived));
        let (busy, packets) = (self.busy - self.shown_sums.0, self.packets - self.shown_sums.1);
        // A round may have begun before the last time.
        let busy = (busy as f64 / self.hz as f64 / passed).min(1.0);
        for (average, weight) in self.busy_recent.iter_mut().zip(weight) {
            *average += (busy - *average) * weight;
        }
        self.packet_rate += (packets as f64 / passed - self.packet_rate) * weight[0];
        (self.shown, self.shown_sums) = (now, (self.busy, self.packets));
    }

    fn seconds(&self, now: u64, since: u64) -> f64 {
        now.saturating_sub(since) as f64 / self.hz as f64
    }

    fn ns(&self, ticks: u64) -> u64 {
        (ticks as u128 * 1_000_000_000 / self.hz as u128) as u64
    }
}

#[cfg(test)]
#[path = "runtime_tests.rs"]
mod tests;
