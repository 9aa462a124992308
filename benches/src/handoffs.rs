//! What a second worker brings if half of all packets arrive at the one that does not keep their flow and are handed over.
//! Wall time: two threads run at once. As many packets arrive at one as at the other, as a NIC's hash spreads them: else the
//! one that gets ahead hands over more than it is handed, and gets further ahead.

use crate::apart::cores_apart;
use crate::case::{By, Case, Cost, Derived, Group, Planned, Seen, Target, Watched};
use crate::clock::Stopwatch;
use crate::cluster::{OTHER_POD, OTHER_POD_ADDR, POD, POD_ADDR, POD_MAC, UPLINK};
use crate::cores;
use crate::device::{Patch, Traffic, of_memory};
use crate::node::{Kind, OUTER, pools, shuffled, traffic, worker};
use anyhow::{Context, Result, ensure};
use core_affinity::CoreId;
use crossbeam::utils::CachePadded;
use dataplane::handoff::Mailbox;
use dataplane::io::Interface;
use dataplane::io::pool::FramePool;
use dataplane::packet::Burst;
use dataplane::worker::Worker;
use dataplane::worker::interfaces::Slot;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tables::counters::{DropReason, InterfaceCounter, WorkerCounter};
use tables::endpoint::{EndpointKind, EndpointRecord, FLAG_POLICY_IN_FORCE};
use tables::layout::Table;
use tables::message::InterfaceKind;
use tables::status::Status;
use tables::{Addr, Publisher};

const ABOUT: &str = "Decap, policy, deliver; wall time over all packets. Each worker keeps the flows of one pod; handed over is \
                     what arrives at the other one, and costs what lines of cache do that go from core to core. Time spent \
                     on writing packets into frames, which a NIC does by itself, is taken off.";
const FLOWS: u32 = 10_000;
const SIZE: &str = "10k flows";
const RUN: Duration = Duration::from_millis(60);
const PODS: [(u32, Addr); 2] = [(POD, POD_ADDR), (OTHER_POD, OTHER_POD_ADDR)];
/// How many packets more may have arrived at one worker: several times what its device writes at once, and half of them do
/// not fill a mailbox.
const LEAD: u64 = 4096;
/// How many, before others are told of them: that line goes from core to core.
const TOLD: u64 = 1024;
const TARGET: Target = Target { floor: None, aim: Some(1.8), ratio_min: Some(1.6) };

pub fn group() -> Group {
    let (one, two) = (Seen::default(), Seen::default());
    let planned = |what: &str, workers: usize, share: u32, seen: Seen| {
        Planned::ours(what, SIZE, move || Ok(Watched { case: Workers::new(workers, share)?, seen }))
    };
    let how = |costs: &[f64]| costs[0] / costs[1];
    let of = vec![one.clone(), two.clone()];
    let gain = Planned::ours("throughput of two, half handed over, to one", SIZE, move || {
        Ok(Derived { of, how, is_time: false })
    });
    let apart = Planned::ours("a word from core to core, one way", SIZE, || Ok(cores_apart)).by(By::Reference);
    let cases = vec![
        apart,
        planned("one worker", 1, 0, one),
        planned("two workers, none handed over", 2, 0, Seen::default()),
        planned("two workers, half handed over", 2, 1, two),
        gain.unit("ratio").target(TARGET),
    ];
    Group { title: "two workers", about: ABOUT, cases }
}

/// Workers that each have an uplink queue and a pod, on threads of their own.
struct Workers {
    threads: Vec<Thread>,
    stop: Arc<AtomicBool>,
    status: Status,
    /// What each worker's device spent on writing packets.
    written: Vec<Arc<AtomicU64>>,
    /// How much of what arrives is handed over: 1 of 2, or nothing.
    share: u32,
}

struct Thread {
    /// Asks for a run; the thread ends with it.
    go: Option<Sender<()>>,
    done: Receiver<()>,
    handle: Option<JoinHandle<()>>,
}

impl Thread {
    /// The worker is made where it runs.
    fn spawn(core: CoreId, stop: &Arc<AtomicBool>, make: impl FnOnce() -> Worker + Send + 'static) -> Thread {
        let ((go, asked), (finished, done), stop) = (channel(), channel(), stop.clone());
        let handle = thread::spawn(move || {
            core_affinity::set_for_current(core);
            let mut worker = make();
            for () in asked {
                while !stop.load(Ordering::Relaxed) {
                    worker.round();
                }
                if finished.send(()).is_err() {
                    break;
                }
            }
        });
        Thread { go: Some(go), done, handle: Some(handle) }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.go = None;
        let _ = self.handle.take().map(JoinHandle::join);
    }
}

impl Workers {
    fn new(count: usize, share: u32) -> Result<Workers> {
        ensure!(cores::all().len() >= count, "there are not {count} cores");
        let mut publisher = Kind::Decap.shape().publisher();
        own(&mut publisher, count)?;
        let (publisher, status) = (Arc::new(publisher), Status::create(count)?);
        let (mailboxes, stop) = (Mailbox::all(count)?, Arc::default());
        // The measuring core first; the thread that is pinned there sleeps meanwhile.
        let places = pools(count).into_iter().zip(cores::all().iter().rev()).enumerate();
        let written: Vec<Arc<AtomicU64>> = (0..count).map(|_| Arc::default()).collect();
        let arrived: Arc<[Arrived]> = (0..count).map(|_| Arrived::default()).collect();
        let threads = places.map(|(id, (pool, &core))| {
            let (written, arrived) = (written[id].clone(), arrived.clone());
            let (publisher, status, mailboxes) = (publisher.clone(), status.clone(), mailboxes.clone());
            Thread::spawn(core, &stop, move || {
                let mut worker = worker(id as u16, &publisher, &status, &mailboxes, pool, 4 * FLOWS as usize);
                connect(&mut worker, (id, count), share, written, arrived);
                worker
            })
        });
        let mut node = Workers { threads: threads.collect(), stop, status, written: written.clone(), share };
        // Opens all flows.
        node.work()?;
        Ok(node)
    }

    /// All workers for a while; how long it was, less what their devices took on average.
    fn work(&mut self) -> Result<f64> {
        let before = self.writing();
        self.stop.store(false, Ordering::Relaxed);
        let watch = Stopwatch::wall();
        for thread in &self.threads {
            thread.go.as_ref().and_then(|go| go.send(()).ok()).context("a worker is gone")?;
        }
        thread::sleep(RUN);
        self.stop.store(true, Ordering::Relaxed);
        let ns = watch.ns();
        self.threads.iter().try_for_each(|thread| thread.done.recv()).context("a worker ended")?;
        Ok(ns - (self.writing() - before))
    }

    fn writing(&self) -> f64 {
        let total: u64 = self.written.iter().map(|written| written.load(Ordering::Relaxed)).sum();
        total as f64 / self.written.len() as f64
    }

    fn delivered(&self) -> u64 {
        let of = |pod: u32| {
            self.status.blocks().map(move |block| block.interface(pod as usize, InterfaceCounter::TxPackets))
        };
        PODS.iter().flat_map(|(pod, _)| of(*pod)).sum()
    }

    /// A mailbox may be full, since packets come as fast as they are taken; nothing else may be lost.
    fn ensure_no_odd_drops(&self) -> Result<()> {
        let odd = DropReason::ALL.iter().filter(|reason| **reason != DropReason::HandoffFull);
        let dropped = odd.filter(|reason| self.status.blocks().any(|block| block.drops(**reason) > 0));
        let names: Vec<&str> = dropped.map(|reason| reason.name()).collect();
        ensure!(names.is_empty(), "packets were dropped: {names:?}");
        Ok(())
    }

    fn handed(&self) -> u64 {
        self.status.blocks().map(|block| block.get(WorkerCounter::HandoffsIn)).sum()
    }
}

impl Case for Workers {
    fn run(&mut self) -> Result<Cost> {
        let (before, handed) = (self.delivered(), self.handed());
        let ns = self.work()?;
        let (delivered, handed) = (self.delivered() - before, self.handed() - handed);
        ensure!(delivered > 0, "nothing was delivered");
        let share = handed as f64 / delivered as f64 * 2.0;
        let is_shared = (share - self.share as f64).abs() < 0.2;
        ensure!(is_shared, "{handed} of {delivered} packets were handed over: are the cores busy with something else?");
        self.ensure_no_odd_drops()?;
        Ok(Cost::ns(ns / delivered as f64))
    }
}

/// Gives the second pod to the last worker.
fn own(publisher: &mut Publisher, workers: usize) -> Result<()> {
    let mut batch = publisher.batch([]).context("a reader is in the way")?;
    let mut record = EndpointRecord::new(EndpointKind::Pod);
    (record.interface, record.flags, record.policy_set) = (OTHER_POD, FLAG_POLICY_IN_FORCE, 1);
    record.owner_first = workers as u16 - 1;
    batch.insert(Table::Endpoint, &OTHER_POD_ADDR, &record)?;
    batch.publish();
    Ok(())
}

/// An uplink queue whose packets are for this worker's pod, or by turns for both, and the pod.
fn connect(
    worker: &mut Worker,
    (id, workers): (usize, usize),
    share: u32,
    written: Arc<AtomicU64>,
    arrived: Arc<[Arrived]>,
) {
    let (template, patch) = traffic(Kind::Decap, 1000);
    let patch: Patch = Box::new(move |bytes, i| {
        patch(bytes, i);
        let pod = (id as u32 + i % (1 + share)) as usize % PODS.len();
        bytes[OUTER + 30..OUTER + 34].copy_from_slice(&PODS[pod].1.v4_octets());
    });
    let uplink = Traffic::new(UPLINK, template, patch, shuffled(FLOWS)).counting(written);
    let uplink = Abreast { device: uplink, id, arrived, own: 0, limit: 0 };
    let slot = |number, kind, owner: usize, device: Option<Box<dyn Interface>>| {
        let (owner, addrs) = (owner as u16, vec![POD_ADDR, OTHER_POD_ADDR]);
        Slot { id: number, kind, owner, mac: POD_MAC, addrs, device, out: Burst::default(), gone: false }
    };
    worker.add_interface(slot(UPLINK, InterfaceKind::Uplink, id, Some(Box::new(uplink))));
    for (owner, (pod, _)) in PODS.into_iter().enumerate() {
        // Each worker knows all, and polls its own.
        let device = || -> Box<dyn Interface> { Box::new(Traffic::silent(pod)) };
        worker.add_interface(slot(pod, InterfaceKind::Pod, owner, (owner == id || workers == 1).then(device)));
    }
}

/// How many packets arrived at a worker.
type Arrived = CachePadded<AtomicU64>;

/// A device at which nothing more arrives while it is too far ahead of those of other workers.
struct Abreast {
    device: Traffic,
    id: usize,
    arrived: Arc<[Arrived]>,
    own: u64,
    /// So many may have arrived here before the others are looked at again.
    limit: u64,
}

impl Interface for Abreast {
    fn rx(&mut self, pool: &mut FramePool, burst: &mut Burst) {
        if self.own >= self.limit {
            self.arrived[self.id].store(self.own, Ordering::Relaxed);
            let least = self.arrived.iter().map(|arrived| arrived.load(Ordering::Relaxed)).min();
            self.limit = (least.unwrap_or(0) + LEAD).min(self.own + TOLD);
        }
        if self.own < self.limit {
            self.device.rx(pool, burst);
            self.own += burst.len() as u64;
        }
    }

    fn tx(&mut self, pool: &mut FramePool, burst: &mut Burst) {
        self.device.tx(pool, burst);
    }

    of_memory!();

    fn close(&mut self, pool: &mut FramePool) {
        self.device.close(pool);
    }
}
