//! What a worker does when no packet waits: spin a little, then sleep on epoll. A worker that shares its core does not
//! spin: it would take from its neighbours what it waits for. It notices by its own spinning being interrupted.

use crate::io::Interface;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::Timespec;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use tables::limits::INTERFACES_MAX;

/// How long an adaptive worker spins after its last packet.
const SPIN: Duration = Duration::from_micros(50);
/// A spinning thread that does not run for so long was preempted.
const PREEMPTED: Duration = Duration::from_micros(300);
/// After this many preemptions the worker takes its core for shared, for a while.
const PREEMPTIONS_MAX: u32 = 3;
const SHARED_FOR: Duration = Duration::from_secs(5);
/// Sleep goes on at most so long, so that flows time out.
const SLEEP_WITH_FLOWS: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };
const SLEEP_WITHOUT: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// When a worker may rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Polling {
    /// Never: lowest latency, a whole core.
    Poll,
    /// Spins for up to 50 us, then sleeps.
    Adaptive,
    /// Sleeps whenever nothing waits.
    Interrupt,
}

pub struct Idle {
    polling: Polling,
    /// TAPs: asked once a round which are ready.
    taps: OwnedFd,
    /// Everything that ends sleep: the TAPs' epoll, sockets, the bell.
    wakers: OwnedFd,
    /// Interfaces that every round asks.
    always: Vec<u32>,
    has_taps: bool,
    events: Vec<Event>,
    ready: Vec<u32>,
    idle_since: Option<Instant>,
    last_look: Option<Instant>,
    preemptions: u32,
    shared_until: Option<Instant>,
}

impl Idle {
    pub fn new(polling: Polling, bell: BorrowedFd<'_>) -> std::io::Result<Idle> {
        let (taps, wakers) = (epoll::create(CreateFlags::CLOEXEC)?, epoll::create(CreateFlags::CLOEXEC)?);
        epoll::add(&wakers, bell, EventData::new_u64(0), EventFlags::IN)?;
        epoll::add(&wakers, &taps, EventData::new_u64(0), EventFlags::IN)?;
        Ok(Idle {
            polling,
            taps,
            wakers,
            always: Vec::with_capacity(INTERFACES_MAX),
            has_taps: false,
            events: Vec::with_capacity(INTERFACES_MAX + 1),
            ready: Vec::with_capacity(INTERFACES_MAX + 1),
            idle_since: None,
            last_look: None,
            preemptions: 0,
            shared_until: None,
        })
    }

    /// Counts an interface among those that are asked and that end sleep.
    pub fn watch(&mut self, id: u32, device: &dyn Interface) {
        let epoll = if device.is_cheap_to_ask() {
            self.always.push(id);
            &self.wakers
        } else {
            self.has_taps = true;
            &self.taps
        };
        if let Some(fd) = device.readiness() {
            let _ = epoll::add(epoll, fd, EventData::new_u64(id as u64), EventFlags::IN);
        }
    }

    pub fn unwatch(&mut self, id: u32, device: &dyn Interface) {
        self.always.retain(|&other| other != id);
        if let Some(fd) = device.readiness() {
            let _ = epoll::delete(if device.is_cheap_to_ask() { &self.wakers } else { &self.taps }, fd);
        }
    }

    /// Names the interfaces to ask: sockets always, TAPs by one epoll.
    pub fn find_ready(&mut self) {
        self.ready.clear();
        self.ready.extend_from_slice(&self.always);
        if self.has_taps {
            self.events.clear();
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            let _ = epoll::wait(&self.taps, spare_capacity(&mut self.events), Some(&now));
            self.ready.extend(self.events.iter().map(|event| event.data.u64() as u32));
        }
    }

    pub fn ready(&self) -> &[u32] {
        &self.ready
    }

    pub fn busy(&mut self) {
        self.idle_since = None;
        self.last_look = None;
    }

    pub fn shares_core(&self) -> bool {
        self.shared_until.is_some()
    }

    /// Whether it is time to sleep; `now` is the end of a round without packets.
    pub fn wants_sleep(&mut self, now: Instant) -> bool {
        match self.polling {
            Polling::Poll => false,
            Polling::Interrupt => true,
            Polling::Adaptive => {
                self.notice_preemption(now);
                let since = *self.idle_since.get_or_insert(now);
                self.shared_until.is_some() || now - since >= SPIN
            }
        }
    }

    fn notice_preemption(&mut self, now: Instant) {
        if self.shared_until.is_some_and(|until| now >= until) {
            self.shared_until = None;
            self.preemptions = 0;
        }
        if self.last_look.is_some_and(|last| now - last >= PREEMPTED) {
            self.preemptions += 1;
            if self.preemptions >= PREEMPTIONS_MAX {
                self.shared_until = Some(now + SHARED_FOR);
            }
        }
        self.last_look = Some(now);
    }

    /// Sleeps until an interface or the bell is ready.
    pub fn sleep(&mut self, has_flows: bool) {
        self.events.clear();
        let timeout = if has_flows { &SLEEP_WITH_FLOWS } else { &SLEEP_WITHOUT };
        let _ = epoll::wait(&self.wakers, spare_capacity(&mut self.events), Some(timeout));
        self.idle_since = None;
        self.last_look = None;
    }
}
