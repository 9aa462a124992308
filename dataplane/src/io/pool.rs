//! Each worker's free frames. A frame has a home worker (an address range); one that ends up with another worker goes
//! home in batches over a ring. No lock, no allocation after start.

use super::frames::{Frame, HEADROOM, LINK_BYTES, Memory};
use crate::packet::{FRAMES_PER_PACKET_MAX, Packet};
use crate::parcels::Parcels;
use std::ops::Range;
use std::sync::Arc;
use tables::cpu::prefetch_to_write;

/// Frames sent home at once, if there are so many in a round.
const BATCH: usize = 128;
/// What is written to was read by the frames' home before: it is fetched so many frames ahead, three cache lines.
const AHEAD: usize = 48;
/// Batches that may be on their way to one worker.
const BATCHES_MAX: usize = 64;

/// One worker's frames.
pub struct FramePool {
    memory: Arc<Memory>,
    worker: usize,
    frames_per_worker: u32,
    /// Indexes of the frames whose home is here.
    own: Range<u32>,
    free: Vec<Frame>,
    /// Frames of other workers, by home.
    foreign: Vec<Vec<Frame>>,
    /// Whose frame was the last one of these, and which are its: the next one most likely is, too.
    last_home: (usize, Range<u32>),
    /// Rings by home worker: this worker takes from its own and pushes to the others'.
    returns: Arc<[Parcels<Vec<Frame>>]>,
}

impl FramePool {
    /// Divides the frames of a memory between `workers`.
    pub fn divide(memory: Arc<Memory>, frames: Vec<Frame>, workers: usize) -> Vec<FramePool> {
        let per_worker = (frames.len() / workers).max(1);
        // A worker that is far behind is sent no more; then all its frames may have to wait in one place.
        let room = per_worker + frames.len() % workers + BATCH;
        let parcels = |_| Parcels::new(BATCHES_MAX, || Vec::with_capacity(room));
        let returns: Arc<[Parcels<Vec<Frame>>]> = (0..workers).map(parcels).collect();
        let mut pools: Vec<FramePool> = (0..workers)
            .map(|worker| FramePool {
                memory: memory.clone(),
                worker,
                frames_per_worker: per_worker as u32,
                own: own(worker, workers, per_worker as u32),
                free: Vec::with_capacity(frames.len()),
                foreign: (0..workers).map(|_| Vec::with_capacity(room)).collect(),
                last_home: (0, 0..0),
                returns: returns.clone(),
            })
            .collect();
        for frame in frames {
            let home = (frame.index() as usize / per_worker).min(workers - 1);
            pools[home].free.push(frame);
        }
        pools
    }

    #[inline(always)]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    pub fn memory_arc(&self) -> Arc<Memory> {
        self.memory.clone()
    }

    /// Frames at hand.
    pub fn available(&self) -> usize {
        self.free.len()
    }

    #[inline(always)]
    pub fn take(&mut self) -> Option<Frame> {
        if self.free.is_empty() {
            self.collect();
        }
        self.free.pop()
    }

    /// The frames that [`take`](Self::take) will hand out next, the very next one last; `count` of them or none. A read
    /// fills them in place, and then takes only as many as it needed.
    #[inline(always)]
    pub fn next_frames(&mut self, count: usize) -> Option<(&Memory, &mut [Frame])> {
        if self.free.len() < count {
            self.collect();
        }
        let first = self.free.len().checked_sub(count)?;
        Some((&self.memory, &mut self.free[first..]))
    }

    /// Takes as many frames as a packet of `size` bytes fills: the head from [`HEADROOM`] on, the others from behind their
    /// link. They are the first ones of [`next_frames`](Self::next_frames), in order. None if there are too few.
    #[inline(always)]
    pub fn take_packet(&mut self, size: usize) -> Option<Packet> {
        if size <= self.memory.frame_size() - HEADROOM {
            return self.take().map(|head| Packet::new(head, HEADROOM as u16, size as u16));
        }
        self.take_chain(size)
    }

    fn take_chain(&mut self, size: usize) -> Option<Packet> {
        let count = self.memory.frames_for(size);
        self.next_frames(count).filter(|_| count <= FRAMES_PER_PACKET_MAX)?;
        let mut frames: [Option<(Frame, u16, u16)>; FRAMES_PER_PACKET_MAX] = [const { None }; FRAMES_PER_PACKET_MAX];
        let (mut start, mut rest) = (HEADROOM, size);
        for slot in &mut frames[..count] {
            let part = rest.min(self.memory.frame_size() - start);
            *slot = self.take().map(|frame| (frame, start as u16, part as u16));
            (start, rest) = (LINK_BYTES, rest - part);
        }
        self.memory.join(frames.into_iter().flatten())
    }

    /// A packet that holds a copy of `bytes`. None if there are too few frames.
    pub fn copy_in(&mut self, bytes: &[u8]) -> Option<Packet> {
        let count = self.memory.frames_for(bytes.len());
        let (memory, frames) = self.next_frames(count)?;
        let (mut start, mut rest) = (HEADROOM, bytes);
        for frame in frames.iter_mut().rev() {
            let (part, behind) = rest.split_at(rest.len().min(memory.frame_size() - start));
            memory.bytes_mut(frame, start, part.len()).copy_from_slice(part);
            (start, rest) = (LINK_BYTES, behind);
        }
        self.take_packet(bytes.len())
    }

    /// Takes in the frames that other workers sent home.
    #[cold]
    fn collect(&mut self) {
        while let Some(mut frames) = self.returns[self.worker].receive() {
            self.free.append(&mut frames);
            self.returns[self.worker].give_back(frames);
        }
    }

    #[inline(always)]
    pub fn put(&mut self, frame: Frame) {
        if self.own.contains(&frame.index()) {
            return self.free.push(frame);
        }
        self.put_foreign(frame);
    }

    #[inline(never)]
    fn put_foreign(&mut self, frame: Frame) {
        if !self.last_home.1.contains(&frame.index()) {
            let (workers, per_worker) = (self.returns.len(), self.frames_per_worker);
            let home = ((frame.index() / per_worker) as usize).min(workers - 1);
            self.last_home = (home, own(home, workers, per_worker));
        }
        let home = self.last_home.0;
        let frames = &mut self.foreign[home];
        prefetch_to_write(frames.as_ptr().wrapping_add(frames.len() + AHEAD).cast());
        frames.push(frame);
        if frames.len().is_multiple_of(BATCH) {
            self.send_home(home);
        }
    }

    /// What does not go now goes with the next batch, or when the worker keeps house.
    fn send_home(&mut self, home: usize) {
        self.returns[home].send(&mut self.foreign[home]);
    }

    /// Gives back all frames of a packet.
    #[inline(always)]
    pub fn put_packet(&mut self, packet: Packet) {
        let Packet { head, rest, .. } = packet;
        self.put(head);
        if rest.is_some() {
            self.put_chain(rest);
        }
    }

    /// Gives back all frames of a packet but its head.
    pub fn cut_off_rest(&mut self, packet: &mut Packet) {
        packet.rest_size = 0;
        let rest = packet.rest.take();
        self.put_chain(rest);
    }

    fn put_chain(&mut self, mut next: Option<Frame>) {
        while let Some(mut frame) = next {
            next = self.memory.take_next(&mut frame);
            self.put(frame);
        }
    }

    /// Once a round: what waits for a full batch goes home, what came home is taken in.
    pub fn housekeep(&mut self) {
        for home in 0..self.foreign.len() {
            if !self.foreign[home].is_empty() {
                self.send_home(home);
            }
        }
        self.collect();
    }
}

/// The share of one worker; the last one has what is left over, too.
fn own(worker: usize, workers: usize, per_worker: u32) -> Range<u32> {
    let first = worker as u32 * per_worker;
    first..if worker + 1 == workers { u32::MAX } else { first + per_worker }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_go_home_and_none_is_lost() {
        let (memory, frames) = Memory::create(100, 2048).unwrap();
        let mut pools = FramePool::divide(Arc::new(memory), frames, 3);
        let (mut first, mut second) = (pools.remove(0), pools.remove(0));
        let before = (first.available(), second.available(), pools[0].available());
        assert_eq!(before.0 + before.1 + before.2, 100);
        for _ in 0..20 {
            let frame = first.take().unwrap();
            second.put(frame);
        }
        second.housekeep();
        first.housekeep();
        assert_eq!((first.available(), second.available(), pools[0].available()), before);
    }

    #[test]
    fn a_copy_reads_back_whatever_its_size_and_no_frame_is_lost() {
        let (memory, frames) = Memory::create(40, 2048).unwrap();
        let mut pool = FramePool::divide(Arc::new(memory), frames, 1).remove(0);
        for size in [0, 1, 1792, 1793, 1792 + 2032, 1792 + 2033, 65_549] {
            let bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            let packet = pool.copy_in(&bytes).unwrap();
            assert_eq!((packet.total_size(), packet.is_chained()), (size, size > 1792));
            assert_eq!(pool.memory().chain(&packet).flatten().copied().collect::<Vec<u8>>(), bytes);
            pool.put_packet(packet);
            assert_eq!(pool.available(), 40);
        }
        assert!(pool.copy_in(&vec![0; 100_000]).is_none());
        assert_eq!(pool.available(), 40);
    }
}
