//! What the workers do with their time, read from the status region they write: costs per packet from sums of sampled
//! rounds. It must not change or keep anything.

use super::Supervisor;
use crate::listing::{BurstView, RuntimeView, StageView, WorkerRuntime};
use rustix::time::{ClockId, clock_gettime};
use tables::counters::{WorkStage, WorkerCounter};
use tables::status::{Block, RuntimeRecord, Status, burst_size_name};

/// The clock by which workers say when they wrote: milliseconds since boot, wrapping.
pub fn now_ms() -> u32 {
    let now = clock_gettime(ClockId::Boottime);
    (now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000) as u32
}

impl Supervisor {
    pub(super) fn runtime_view(&self) -> RuntimeView {
        let dataplane = self.dataplane.as_ref();
        RuntimeView {
            node: self.args.node.clone(),
            polling: dataplane.map_or_else(String::new, |dataplane| dataplane.polling.clone()),
            workers: dataplane.map_or_else(Vec::new, |dataplane| workers(&dataplane.status, now_ms())),
        }
    }
}

fn workers(status: &Status, now_ms: u32) -> Vec<WorkerRuntime> {
    (0..status.workers()).map(|id| worker(id, status.block(id), now_ms)).collect()
}

fn worker(id: usize, block: Block<'_>, now_ms: u32) -> WorkerRuntime {
    let runtime = block.runtime();
    let [busy_1s, busy_10s] = runtime.busy_ratios(now_ms);
    let ticks: u64 = runtime.stages.iter().map(|stage| stage.ticks).sum();
    let ticks_per_packet = quotient(ticks, runtime.stage(WorkStage::Pin).packets);
    let sizes = runtime.bursts.iter().enumerate().skip(1);
    WorkerRuntime {
        id: id as u16,
        asleep: block.get(WorkerCounter::Asleep) != 0,
        shares_core: block.get(WorkerCounter::SharesCore) != 0,
        busy_1s,
        busy_10s,
        packets_per_s: runtime.packet_rate(now_ms),
        packets: block.get(WorkerCounter::Packets),
        rounds: runtime.rounds,
        empty_rounds: runtime.bursts[0],
        sleeps: block.get(WorkerCounter::Sleeps),
        handoffs_out: block.get(WorkerCounter::HandoffsOut),
        handoffs_in: block.get(WorkerCounter::HandoffsIn),
        sampled_rounds: runtime.sampled_rounds,
        preempted_rounds: runtime.preempted_rounds,
        tick_hz: runtime.tick_hz,
        burst_mean: quotient(block.get(WorkerCounter::Packets), block.get(WorkerCounter::Bursts)).unwrap_or(0.0),
        bursts: sizes.map(|(index, &bursts)| BurstView { size: burst_size_name(index), bursts }).collect(),
        stages: WorkStage::ALL.iter().map(|&stage| stage_view(stage, &runtime, ticks)).collect(),
        ticks_per_packet,
        ns_per_packet: ticks_per_packet.map(|ticks| ns(ticks, &runtime)),
    }
}

fn stage_view(stage: WorkStage, runtime: &RuntimeRecord, ticks_of_all: u64) -> StageView {
    let cost = runtime.stage(stage);
    let scale = quotient(runtime.rounds, runtime.sampled_rounds).unwrap_or(0.0);
    let ticks_per_packet = quotient(cost.ticks, cost.packets);
    StageView {
        stage: stage.name().to_owned(),
        sentence: stage.sentence().to_owned(),
        packets: (cost.packets as f64 * scale).round() as u64,
        burst_mean: quotient(cost.packets, cost.bursts).unwrap_or(0.0),
        ticks_per_packet,
        ns_per_packet: ticks_per_packet.map(|ticks| ns(ticks, runtime)),
        share: quotient(cost.ticks, ticks_of_all).unwrap_or(0.0),
    }
}

fn quotient(sum: u64, by: u64) -> Option<f64> {
    (by > 0).then(|| sum as f64 / by as f64)
}

fn ns(ticks: f64, runtime: &RuntimeRecord) -> f64 {
    ticks * 1e9 / runtime.tick_hz.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use tables::status::StageCost;

    /// One round of sixteen sampled; 40 ticks a packet to act, 10 to receive, 320 a round of 32 packets to keep house.
    fn record() -> RuntimeRecord {
        let mut record =
            RuntimeRecord { tick_hz: 2_000_000_000, rounds: 1_600, sampled_rounds: 100, ..Default::default() };
        (record.busy_1s_ppm, record.busy_10s_ppm, record.packets_per_s) = (500_000, 250_000, 1_000);
        record.bursts[0] = 9_000;
        record.bursts[6] = 1_600;
        let mut set = |stage: WorkStage, ticks| {
            record.stages[stage as usize] = StageCost { ticks, packets: 3_200, bursts: 100 };
        };
        set(WorkStage::Act, 128_000);
        set(WorkStage::Receive, 32_000);
        set(WorkStage::Housekeep, 32_000);
        set(WorkStage::Pin, 0);
        record
    }

    #[test]
    fn a_view_is_made_of_what_a_worker_wrote() {
        let status = Status::create(2).unwrap();
        status.block(1).set_runtime(&record());
        status.block(1).set(WorkerCounter::Packets, 51_200);
        status.block(1).set(WorkerCounter::Bursts, 1_600);
        let theirs = Status::attach(status.region().fd().try_clone_to_owned().unwrap()).unwrap();
        let views = workers(&theirs, 0);
        let view = &views[1];
        assert_eq!((view.busy_1s, view.busy_10s, view.packets_per_s), (0.5, 0.25, 1_000.0));
        assert_eq!((view.ticks_per_packet, view.ns_per_packet), (Some(60.0), Some(30.0)));
        assert_eq!((view.burst_mean, view.empty_rounds), (32.0, 9_000));
        assert_eq!(view.bursts[5], BurstView { size: "32-63".into(), bursts: 1_600 });
        let act = view.stages.iter().find(|stage| stage.stage == "Act").unwrap();
        assert_eq!((act.packets, act.ticks_per_packet, act.ns_per_packet), (51_200, Some(40.0), Some(20.0)));
        assert!((view.stages.iter().map(|stage| stage.share).sum::<f64>() - 1.0).abs() < 1e-9);
        // Ten seconds of silence later.
        let later = &workers(&theirs, 10_000)[1];
        assert!(later.busy_1s < 1e-4 && (later.busy_10s - 0.25 / 1f64.exp()).abs() < 1e-9);
    }

    #[test]
    fn a_worker_that_has_done_nothing_has_no_costs() {
        let status = Status::create(1).unwrap();
        let view = &workers(&status, 0)[0];
        assert_eq!((view.ticks_per_packet, view.ns_per_packet, view.burst_mean), (None, None, 0.0));
        assert!(view.stages.iter().all(|stage| stage.ticks_per_packet.is_none() && stage.share == 0.0));
    }
}
