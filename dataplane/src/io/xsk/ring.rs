//! The rings shared with the kernel: one producer, one consumer, 32-bit indexes that run on and are masked (kernel:
//! Documentation/networking/af_xdp.rst, net/xdp/xsk_queue.h). Must not know what the descriptors mean. What the other
//! side writes is a claim: an index that makes no sense reads as "nothing there" or "no room", never as a wild access.
#![allow(unsafe_code)] // mmap, and atomics and slots inside the mapping

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::net::xdp::XdpRingOffset;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

const NEED_WAKEUP: u32 = libc::XDP_RING_NEED_WAKEUP;

/// One mapped ring.
#[derive(Debug)]
struct Map<T> {
    base: NonNull<u8>,
    bytes: usize,
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: Option<NonNull<AtomicU32>>,
    slots: NonNull<T>,
    mask: u32,
}

// SAFETY: the mapping belongs to this value alone and moves with it; the kernel's side is reached by atomics.
unsafe impl<T: Send> Send for Map<T> {}

impl<T: Copy> Map<T> {
    /// Maps the ring of `slots` (a power of two) at page offset `at` of the socket.
    fn open(fd: BorrowedFd<'_>, at: u64, offset: XdpRingOffset, slots: u32) -> rustix::io::Result<Map<T>> {
        assert!(slots.is_power_of_two(), "the kernel refuses other sizes before we come here");
        let bytes = offset.desc as usize + slots as usize * size_of::<T>();
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe { mmap(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, flags, fd, at)? };
        let base = NonNull::new(base.cast::<u8>()).ok_or(rustix::io::Errno::NOMEM)?;
        // SAFETY: the kernel laid the ring out at these offsets; the mapping covers the header and all slots.
        let part = |offset: u64| unsafe { base.add(offset as usize) };
        Ok(Map {
            base,
            bytes,
            producer: part(offset.producer).cast(),
            consumer: part(offset.consumer).cast(),
            flags: offset.flags.map(|flags| part(flags).cast()),
            slots: part(offset.desc).cast(),
            mask: slots - 1,
        })
    }

    fn size(&self) -> u32 {
        self.mask + 1
    }

    #[inline(always)]
    fn producer(&self) -> &AtomicU32 {
        // SAFETY: inside the mapping, aligned, only accessed atomically by both sides.
        unsafe { self.producer.as_ref() }
    }

    #[inline(always)]
    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { self.consumer.as_ref() }
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> NonNull<T> {
        // SAFETY: masked, so inside the slots that were mapped.
        unsafe { self.slots.add((index & self.mask) as usize) }
    }

    #[inline(always)]
    fn needs_wakeup(&self) -> bool {
        // SAFETY: as `producer`.
        self.flags.is_some_and(|flags| unsafe { flags.as_ref() }.load(Ordering::Relaxed) & NEED_WAKEUP != 0)
    }
}

impl<T> Drop for Map<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `open`, unmapped once.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// A ring that we fill and the kernel empties: fill, tx.
#[derive(Debug)]
pub(super) struct Producer<T> {
    map: Map<T>,
    /// Slots written, not all of them published yet.
    own: u32,
    /// What the kernel had consumed when we last looked.
    seen: u32,
}

impl<T: Copy> Producer<T> {
    pub fn open(fd: BorrowedFd<'_>, at: u64, offset: XdpRingOffset, slots: u32) -> rustix::io::Result<Producer<T>> {
        let map: Map<T> = Map::open(fd, at, offset, slots)?;
        let (own, seen) = (map.producer().load(Ordering::Relaxed), map.consumer().load(Ordering::Acquire));
        Ok(Producer { map, own, seen })
    }

    /// Slots free, as far as is known without asking the kernel's side; asks if they are fewer than `wanted`.
    #[inline(always)]
    pub fn room(&mut self, wanted: usize) -> usize {
        let known = self.map.size().saturating_sub(self.own.wrapping_sub(self.seen)) as usize;
        if known >= wanted {
            return known;
        }
        self.map.size().saturating_sub(self.outstanding()) as usize
    }

    /// Slots that the kernel has not consumed.
    #[inline(always)]
    pub fn outstanding(&mut self) -> u32 {
        self.seen = self.map.consumer().load(Ordering::Acquire);
        self.own.wrapping_sub(self.seen)
    }

    /// Writes one slot. False, and nothing done, without room.
    #[inline(always)]
    pub fn push(&mut self, value: T) -> bool {
        if self.room(1) == 0 {
            return false;
        }
        // SAFETY: a slot between the kernel's consumer and our producer index is ours to write.
        unsafe { self.map.slot(self.own).write(value) };
        self.own = self.own.wrapping_add(1);
        true
    }

    /// Lets the kernel see what was pushed.
    #[inline(always)]
    pub fn publish(&mut self) {
        self.map.producer().store(self.own, Ordering::Release);
    }

    #[inline(always)]
    pub fn needs_wakeup(&self) -> bool {
        self.map.needs_wakeup()
    }
}

/// A ring that the kernel fills and we empty: rx, completion.
#[derive(Debug)]
pub(super) struct Consumer<T> {
    map: Map<T>,
    own: u32,
    seen: u32,
}

impl<T: Copy> Consumer<T> {
    pub fn open(fd: BorrowedFd<'_>, at: u64, offset: XdpRingOffset, slots: u32) -> rustix::io::Result<Consumer<T>> {
        let map: Map<T> = Map::open(fd, at, offset, slots)?;
        let (own, seen) = (map.consumer().load(Ordering::Relaxed), map.producer().load(Ordering::Acquire));
        Ok(Consumer { map, own, seen })
    }

    /// Takes one descriptor; its slot goes back to the kernel with [`release`](Self::release).
    #[inline(always)]
    pub fn pop(&mut self) -> Option<T> {
        if self.own == self.seen {
            self.seen = self.map.producer().load(Ordering::Acquire);
        }
        let waiting = self.seen.wrapping_sub(self.own);
        if waiting == 0 || waiting > self.map.size() {
            return None;
        }
        // SAFETY: between our consumer and the kernel's producer index the slots are written and left alone; every bit
        // pattern is a valid `T` (integers).
        let value = unsafe { self.map.slot(self.own).read() };
        self.own = self.own.wrapping_add(1);
        Some(value)
    }

    /// Gives the slots of what was popped back.
    #[inline(always)]
    pub fn release(&mut self) {
        self.map.consumer().store(self.own, Ordering::Release);
    }
}
