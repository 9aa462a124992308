use super::*;
use std::cell::Cell;
use std::rc::Rc;
use tables::status::Status;

const HZ: u64 = 2_000_000_000;

#[derive(Clone, Default)]
struct Hand {
    ticks: Rc<Cell<u64>>,
    preemptions: Rc<Cell<u64>>,
}

impl Hand {
    fn pass(&self, ticks: u64) {
        self.ticks.set(self.ticks.get() + ticks);
    }
}

impl Clock for Hand {
    fn ticks(&self) -> u64 {
        self.ticks.get()
    }

    fn preemptions(&self) -> u64 {
        self.preemptions.get()
    }
}

fn runtime() -> (Hand, Runtime<Hand>) {
    let hand = Hand::default();
    // Not at zero, as no clock is.
    hand.pass(12_345_678_901);
    (hand.clone(), Runtime::with_clock(hand, HZ))
}

/// A round with one burst that takes 1,000 ticks to receive, 30 a packet to act on, and 500 to keep house.
fn round(hand: &Hand, runtime: &mut Runtime<Hand>, packets: usize) -> u64 {
    runtime.begin();
    hand.pass(1_000);
    runtime.mark(WorkStage::Receive, packets);
    if packets > 0 {
        runtime.count_burst(packets);
        hand.pass(30 * packets as u64);
        runtime.mark(WorkStage::Act, packets);
    }
    hand.pass(500);
    runtime.mark(WorkStage::Housekeep, 0);
    runtime.end(packets);
    1_500 + 30 * packets as u64
}

fn shown(runtime: &mut Runtime<Hand>) -> (RuntimeRecord, u64, u64) {
    let status = Status::create(1).unwrap();
    runtime.show(status.block(0), 0);
    let counter = |counter| status.block(0).get(counter);
    (status.block(0).runtime(), counter(WorkerCounter::BusyTime), counter(WorkerCounter::TotalTime))
}

#[test]
fn a_sample_stands_for_the_whole() {
    let (hand, mut runtime) = runtime();
    let (mut busy, mut total) = (0, 0);
    for i in 0..40_000 {
        let packets = [64, 0, 3, 64, 0][i % 5];
        let took = round(&hand, &mut runtime, packets);
        total += took;
        busy += if packets > 0 { took } else { 0 };
    }
    let (record, busy_ns, total_ns) = shown(&mut runtime);
    assert_eq!((busy_ns, total_ns), (busy / 2, total / 2));
    assert_eq!((record.rounds, record.bursts), (24_000, [16_000, 0, 8_000, 0, 0, 0, 0, 16_000]));
    // The same costs a packet in the sample as in the whole.
    let act = record.stage(WorkStage::Act);
    assert_eq!((act.ticks, act.bursts), (30 * act.packets, record.sampled_rounds));
    let house = record.stage(WorkStage::Housekeep);
    assert_eq!((house.ticks, house.packets), (500 * record.sampled_rounds, act.packets));
    // One round in so many, and the sum of the stages stands for the busy time.
    let ratio = record.rounds as f64 / record.sampled_rounds as f64;
    assert!((ratio / SAMPLE as f64 - 1.0).abs() < 0.15, "one in {ratio}");
    let ticks: u64 = record.stages.iter().map(|stage| stage.ticks).sum();
    let estimated = ticks as f64 * ratio;
    assert!((estimated / busy as f64 - 1.0).abs() < 0.05, "{estimated} of {busy}");
}

#[test]
fn a_round_that_another_thread_interrupted_is_left_out_and_counted() {
    let (hand, mut runtime) = runtime();
    let long = |runtime: &mut Runtime<Hand>, is_preempted: bool| {
        // Until one is sampled.
        let before = runtime.record;
        while (runtime.record.sampled_rounds, runtime.record.preempted_rounds)
            == (before.sampled_rounds, before.preempted_rounds)
        {
            runtime.begin();
            hand.pass(HZ / 1_000);
            hand.preemptions.set(hand.preemptions.get() + is_preempted as u64);
            runtime.mark(WorkStage::Act, 1);
            runtime.end(1);
        }
        (runtime.record.sampled_rounds, runtime.record.preempted_rounds)
    };
    assert_eq!(long(&mut runtime, false), (1, 0));
    assert_eq!(long(&mut runtime, true), (1, 1));
    assert_eq!(long(&mut runtime, false), (2, 1));
    assert_eq!(runtime.record.stage(WorkStage::Act).ticks, 2 * HZ / 1_000);
}

#[test]
fn the_recent_ratio_rises_with_load_and_falls_without() {
    let (hand, mut runtime) = runtime();
    let status = Status::create(1).unwrap();
    let mut run = |seconds: u64, packets: usize| {
        let end = hand.ticks.get() + seconds * HZ;
        while hand.ticks.get() < end {
            runtime.begin();
            hand.pass(HZ / 10_000);
            if runtime.end(packets) {
                runtime.show(status.block(0), (hand.ticks.get() / (HZ / 1_000)) as u32);
            }
        }
        status.block(0).runtime().busy_ratios((hand.ticks.get() / (HZ / 1_000)) as u32)
    };
    let about = |ratio: f64, expected: f64| (ratio - expected).abs() < 0.02;
    // True from the first second on, though the thread polls all the time.
    let [one, ten] = run(1, 0);
    assert!(about(one, 0.0) && about(ten, 0.0), "{one} {ten}");
    let [one, ten] = run(1, 10);
    assert!(about(one, 0.63) && about(ten, 0.5), "{one} {ten}");
    let [one, ten] = run(60, 10);
    assert!(about(one, 1.0) && about(ten, 1.0), "{one} {ten}");
    let [one, ten] = run(2, 0);
    assert!(about(one, 0.135) && about(ten, 0.82), "{one} {ten}");
    assert!(status.block(0).runtime().packet_rate(0) > 0.0);
}

#[test]
fn sleep_is_idle_time() {
    let (hand, mut runtime) = runtime();
    round(&hand, &mut runtime, 64);
    hand.pass(HZ);
    runtime.skip();
    round(&hand, &mut runtime, 64);
    let (record, busy_ns, total_ns) = shown(&mut runtime);
    assert_eq!((busy_ns, total_ns), (3_420, 1_000_003_420));
    assert!(record.busy_1s_ppm < 10);
}
