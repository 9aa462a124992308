//! A device of memory that delivers packets of many flows and swallows what is sent, without locks and allocations. A
//! packet is written into its frame long before it is received, and frames go round, as with a NIC's rings: its bytes
//! have left the first-level cache when the path looks at them.

use dataplane::io::Interface;
use dataplane::io::pool::FramePool;
use dataplane::packet::{Burst, Packet};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// What is the same of all devices of memory: a part of their `impl Interface`.
macro_rules! of_memory {
    () => {
        fn readiness(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
            None
        }

        fn is_cheap_to_ask(&self) -> bool {
            true
        }

        fn takes_super_frames(&self) -> bool {
            true
        }
    };
}
pub(crate) use of_memory;

/// Packets that were written and not yet received: a NIC's ring.
const RING_LEN: usize = 1024;

/// Writes flow `i`'s part into a copy of the template.
pub type Patch = Box<dyn Fn(&mut [u8], u32) + Send>;

pub struct Traffic {
    interface: u32,
    template: Vec<u8>,
    patch: Patch,
    /// The flows in the order of their packets; begins again at the end.
    order: Vec<u32>,
    next: usize,
    ring: VecDeque<Packet>,
    written: Arc<AtomicU64>,
    is_trickling: bool,
}

impl Traffic {
    pub fn new(interface: u32, template: Vec<u8>, patch: Patch, order: Vec<u32>) -> Traffic {
        Traffic {
            interface,
            template,
            patch,
            order,
            next: 0,
            ring: VecDeque::with_capacity(RING_LEN),
            written: Arc::default(),
            is_trickling: false,
        }
    }

    /// Writes as many packets as are received, each time, and never a ring of them at once: nobody waits for it so long.
    pub fn trickling(self) -> Traffic {
        Traffic { is_trickling: true, ..self }
    }

    /// A device that receives nothing.
    pub fn silent(interface: u32) -> Traffic {
        Traffic::new(interface, Vec::new(), Box::new(|_, _| {}), Vec::new())
    }

    /// Adds the nanoseconds that writing packets takes, which a NIC does by itself, to this count.
    pub fn counting(self, written: Arc<AtomicU64>) -> Traffic {
        Traffic { written, ..self }
    }

    fn fill(&mut self, pool: &mut FramePool) {
        let start = Instant::now();
        while self.ring.len() < RING_LEN && self.write(pool).is_some() {}
        self.written.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }

    #[inline(always)]
    fn write(&mut self, pool: &mut FramePool) -> Option<()> {
        // Its patched bytes are the template's from now on: every flow patches the same ones.
        (self.patch)(&mut self.template, self.order[self.next]);
        self.next = if self.next + 1 < self.order.len() { self.next + 1 } else { 0 };
        let mut packet = pool.copy_in(&self.template)?;
        packet.interface = self.interface;
        self.ring.push_back(packet);
        Some(())
    }
}

impl Interface for Traffic {
    #[inline]
    fn rx(&mut self, pool: &mut FramePool, burst: &mut Burst) {
        if self.order.is_empty() {
            return;
        }
        if self.ring.is_empty() || self.is_trickling {
            self.fill(pool);
        }
        let count = burst.room().min(self.ring.len());
        for packet in self.ring.drain(..count) {
            let _ = burst.push(packet).map_err(|packet| pool.put_packet(packet));
        }
    }

    #[inline]
    fn tx(&mut self, pool: &mut FramePool, burst: &mut Burst) {
        burst.drain().for_each(|packet| pool.put_packet(packet));
    }

    of_memory!();

    fn close(&mut self, pool: &mut FramePool) {
        self.ring.drain(..).for_each(|packet| pool.put_packet(packet));
    }
}
