//! What a worker costs that has nothing to do, and how long a packet waits for one that sleeps. Wall time: two threads run at
//! once, each on a core of its own.

use crate::case::{By, Case, Cost, Derived, Group, Planned, Seen};
use crate::cluster::{POD, POD_ADDR, POD_MAC, SERVICES_USED, UPLINK};
use crate::cores;
use crate::device::Traffic;
use crate::device::of_memory;
use crate::node::{Kind, path, pools, traffic};
use anyhow::{Context, Result, anyhow, ensure};
use dataplane::handoff::{Batch, Command, Mailbox, Stage};
use dataplane::io::Interface;
use dataplane::io::pool::FramePool;
use dataplane::packet::Burst;
use dataplane::worker::interfaces::Slot;
use dataplane::worker::{Polling, Worker};
use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, epoll, eventfd};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tables::counters::WorkerCounter;
use tables::message::InterfaceKind;
use tables::status::Status;

const ABOUT: &str = "An adaptive worker sleeps after 50 us without packets. Latency: from a packet handed over by another core to \
                     its being sent, encapsulated; the peer is a thread that only waits for the same kind of bell. The 99th \
                     percentiles tell what else ran on that core.";
const SIZE: &str = "1 flow";
/// Long enough for the sleeper's own wake-ups, which are four a second.
const IDLE: Duration = Duration::from_millis(500);
const WAKE_UPS: usize = 200;
/// After it said that it sleeps: until it really does.
const FALLING_ASLEEP: Duration = Duration::from_micros(200);
const LIMIT: Duration = Duration::from_secs(2);

pub fn groups() -> Vec<Group> {
    let cpu = Planned::ours("CPU time of an idle worker", SIZE, || {
        let mut node = Node::new(Polling::Adaptive)?;
        Ok(move || node.idle())
    });
    let mut cases = vec![cpu.unit("us/s")];
    cases.extend(latency("packet to a sleeping worker", By::Ours, || {
        let mut node = Node::new(Polling::Adaptive)?;
        Ok(move || node.latency(true))
    }));
    cases.extend(latency("packet to a sleeping worker", By::Peer("epoll, eventfd"), || {
        let mut waiter = Waiter::new()?;
        Ok(move || waiter.latency())
    }));
    cases.extend(latency("packet to a polling worker", By::Ours, || {
        let mut node = Node::new(Polling::Poll)?;
        Ok(move || node.latency(false))
    }));
    vec![Group { title: "idle", about: ABOUT, cases }]
}

/// Median and 99th percentile of the same wake-ups.
fn latency<F>(what: &str, by: By, make: impl FnOnce() -> Result<F> + 'static) -> [Planned; 2]
where
    F: FnMut() -> Result<Duration> + 'static,
{
    let p99 = Seen::default();
    let (seen, of) = (p99.clone(), vec![p99]);
    let p50 = Planned::ours(&format!("{what}: p50"), SIZE, move || {
        let once = make()?;
        Ok(Latencies { once, p99: seen })
    });
    let p99 =
        Planned::ours(&format!("{what}: p99"), SIZE, move || Ok(Derived { of, how: |seen| seen[0], is_time: true }));
    [p50.by(by.clone()).unit("us"), p99.by(by).unit("us")]
}

struct Latencies<F> {
    once: F,
    p99: Seen,
}

impl<F: FnMut() -> Result<Duration>> Case for Latencies<F> {
    fn run(&mut self) -> Result<Cost> {
        self.p99.set(f64::NAN);
        let mut all = (0..WAKE_UPS).map(|_| (self.once)()).collect::<Result<Vec<_>>>()?;
        all.sort_unstable();
        self.p99.set(all[WAKE_UPS * 99 / 100].as_nanos() as f64);
        Ok(Cost::ns(all[WAKE_UPS / 2].as_nanos() as f64))
    }
}

/// When something last happened, told from one thread to another.
#[derive(Clone)]
struct Told {
    start: Instant,
    /// Since then, nanoseconds; 0: not yet.
    at: Arc<AtomicU64>,
}

impl Told {
    fn new() -> Told {
        Told { start: Instant::now(), at: Arc::default() }
    }

    fn tell(&self) {
        self.at.store(self.start.elapsed().as_nanos() as u64, Ordering::Release);
    }

    /// Does something and waits until the other thread tells; the time between.
    fn after(&self, act: impl FnOnce()) -> Result<Duration> {
        self.at.store(0, Ordering::Release);
        let before = self.start.elapsed();
        act();
        spin_until("be woken", || self.at.load(Ordering::Acquire) != 0)?;
        Ok(Duration::from_nanos(self.at.load(Ordering::Acquire)).saturating_sub(before))
    }
}

fn spin_until(what: &str, is_so: impl Fn() -> bool) -> Result<()> {
    let start = Instant::now();
    while !is_so() {
        ensure!(start.elapsed() < LIMIT, "the other thread did not {what}");
        std::hint::spin_loop();
    }
    Ok(())
}

fn spin_for(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// A thread on the core that does not measure, and its id in the kernel.
fn spawn(run: impl FnOnce() + Send + 'static) -> Result<(JoinHandle<()>, i32)> {
    let core = cores::other()?;
    let (tell, told) = std::sync::mpsc::channel();
    let handle = thread::spawn(move || {
        core_affinity::set_for_current(core);
        let _ = tell.send(rustix::thread::gettid().as_raw_nonzero().get());
        run();
    });
    Ok((handle, told.recv()?))
}

/// A worker that runs as in production, and what another worker needs to hand it a packet.
struct Node {
    mailboxes: Arc<[Mailbox]>,
    status: Status,
    /// The other worker's.
    pool: FramePool,
    frame: Vec<u8>,
    sent: Told,
    thread: Option<JoinHandle<()>>,
    thread_id: i32,
}

impl Node {
    fn new(polling: Polling) -> Result<Node> {
        let (publisher, status, mailboxes) = (Kind::Encap.shape().publisher(), Status::create(2)?, Mailbox::all(2)?);
        let mut pools = pools(2);
        let pool = pools.pop().context("two pools")?;
        let (theirs, sent) = (pools.remove(0), Told::new());
        let (mut frame, patch) = traffic(Kind::Encap, SERVICES_USED);
        patch(&mut frame, 0);
        let shared = (status.clone(), mailboxes.clone(), sent.clone());
        // The worker is made where it runs.
        let (thread, thread_id) = spawn(move || {
            let (status, mailboxes, sent) = shared;
            let path = path(0, &publisher, &status, &mailboxes, theirs, 1024);
            let mut worker = Worker::new(path, mailboxes, polling).expect("an epoll");
            worker.add_interface(slot(UPLINK, InterfaceKind::Uplink, Box::new(Wire { sent })));
            worker.add_interface(slot(POD, InterfaceKind::Pod, Box::new(Traffic::silent(POD))));
            worker.run();
        })?;
        let mut node = Node { mailboxes, status, pool, frame, sent, thread: Some(thread), thread_id };
        // Opens the flow.
        node.latency(polling != Polling::Poll)?;
        Ok(node)
    }

    /// Microseconds of CPU time in a second.
    fn idle(&mut self) -> Result<Cost> {
        self.wait_asleep()?;
        let (start, before) = (Instant::now(), self.cpu_ns()?);
        thread::sleep(IDLE);
        let spent = self.cpu_ns()? - before;
        Ok(Cost::plain(spent as f64 / 1e3 / start.elapsed().as_secs_f64()))
    }

    fn cpu_ns(&self) -> Result<u64> {
        let file = format!("/proc/self/task/{}/schedstat", self.thread_id);
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
        let first = text.split_whitespace().next().and_then(|ns| ns.parse().ok());
        first.ok_or_else(|| anyhow!("{file} does not begin with a time"))
    }

    fn wait_asleep(&self) -> Result<()> {
        let block = self.status.block(0);
        spin_until("fall asleep", || block.get(WorkerCounter::Asleep) == 1)?;
        spin_for(FALLING_ASLEEP);
        Ok(())
    }

    fn latency(&mut self, sleeps: bool) -> Result<Duration> {
        if sleeps {
            self.wait_asleep()?;
        } else {
            spin_for(FALLING_ASLEEP);
        }
        self.pool.housekeep();
        let mut packet = self.pool.copy_in(&self.frame).context("no frame came back")?;
        packet.interface = POD;
        let mailbox = &self.mailboxes[0];
        self.sent.after(|| {
            let mut batch = Batch::default();
            batch.push(&mut Some(packet), Stage::Arrived);
            mailbox.send(&mut batch);
            mailbox.ring();
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.mailboxes[0].command(Command::Stop);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn slot(id: u32, kind: InterfaceKind, device: Box<dyn Interface>) -> Slot {
    let (mac, addrs, out) = (POD_MAC, vec![POD_ADDR], Burst::default());
    Slot { id, kind, owner: 0, mac, addrs, device: Some(device), out, gone: false }
}

/// Tells when a packet is sent.
struct Wire {
    sent: Told,
}

impl Interface for Wire {
    fn rx(&mut self, _pool: &mut FramePool, _burst: &mut Burst) {}

    fn tx(&mut self, pool: &mut FramePool, burst: &mut Burst) {
        self.sent.tell();
        burst.drain().for_each(|packet| pool.put_packet(packet));
    }

    of_memory!();

    fn close(&mut self, _pool: &mut FramePool) {}
}

/// A thread that waits for a bell as a worker does, and does nothing else.
struct Waiter {
    bell: Arc<OwnedFd>,
    woken: Told,
    is_waiting: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Waiter {
    fn new() -> Result<Waiter> {
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (woken, is_waiting, stop) = (Told::new(), Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let theirs = (bell.clone(), woken.clone(), is_waiting.clone(), stop.clone());
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, bell.as_fd(), epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        let (thread, _) = spawn(move || {
            let ((bell, woken, is_waiting, stop), mut events) = (theirs, Vec::with_capacity(1));
            while !stop.load(Ordering::Relaxed) {
                is_waiting.store(true, Ordering::Release);
                events.clear();
                let _ = epoll::wait(&epoll, spare_capacity(&mut events), None);
                woken.tell();
                is_waiting.store(false, Ordering::Release);
                let _ = rustix::io::read(&*bell, &mut [0; 8]);
            }
        })?;
        Ok(Waiter { bell, woken, is_waiting, stop, thread: Some(thread) })
    }

    fn ring(&self) {
        let _ = rustix::io::write(&*self.bell, &1u64.to_ne_bytes());
    }

    fn latency(&mut self) -> Result<Duration> {
        spin_until("wait", || self.is_waiting.load(Ordering::Acquire))?;
        spin_for(FALLING_ASLEEP);
        self.woken.after(|| self.ring())
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.ring();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
