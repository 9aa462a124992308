//! Several queues of one device, polled by the same worker, as one interface: received from in turn, sent to by the
//! first.

use super::Interface;
use super::pool::FramePool;
use crate::packet::Burst;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use tables::counters::DropReason;

pub struct Several {
    pub(super) queues: Vec<Box<dyn Interface>>,
    /// Readable while any queue is.
    epoll: OwnedFd,
    next: usize,
}

impl Several {
    pub fn new(queues: Vec<Box<dyn Interface>>) -> std::io::Result<Several> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        for fd in queues.iter().filter_map(|queue| queue.readiness()) {
            epoll::add(&epoll, fd, EventData::new_u64(0), EventFlags::IN)?;
        }
        Ok(Several { queues, epoll, next: 0 })
    }
}

impl Interface for Several {
    fn rx(&mut self, pool: &mut FramePool, burst: &mut Burst) {
        for _ in 0..self.queues.len() {
            self.next = (self.next + 1) % self.queues.len();
            self.queues[self.next].rx(pool, burst);
            if burst.is_full() {
                return;
            }
        }
    }

    fn tx(&mut self, pool: &mut FramePool, burst: &mut Burst) {
        if let Some(first) = self.queues.first_mut() {
            first.tx(pool, burst);
        }
    }

    fn housekeep(&mut self, pool: &mut FramePool) {
        self.queues.iter_mut().for_each(|queue| queue.housekeep(pool));
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.as_fd())
    }

    fn is_cheap_to_ask(&self) -> bool {
        true
    }

    fn takes_super_frames(&self) -> bool {
        self.queues.iter().all(|queue| queue.takes_super_frames())
    }

    fn is_gone(&self) -> bool {
        self.queues.iter().any(|queue| queue.is_gone())
    }

    fn take_drops(&mut self, tell: &mut dyn FnMut(DropReason, u64)) {
        self.queues.iter_mut().for_each(|queue| queue.take_drops(tell));
    }

    fn close(&mut self, pool: &mut FramePool) {
        self.queues.iter_mut().for_each(|queue| queue.close(pool));
    }
}
