//! AF_XDP: one socket a queue, its four rings driven by ourselves, because received frames must be sent on with their
//! start moved. The descriptors come from control, which created them; here they get memory and rings and are bound.
//! Must not know protocols. Descriptors from the kernel are checked against the ledger, never believed.
//!
//! Frames: free ones go to the fill ring, the kernel returns them filled in the rx ring; packets go to the tx ring and
//! come back as completions. While the kernel has a frame the ledger names this socket's holder. A packet larger than a
//! frame is a chain of descriptors, each but the last saying that the packet goes on (multi-buffer, since Linux 6.6).

mod chain;
#[cfg(test)]
mod chain_tests;
mod open;
mod ring;
#[cfg(test)]
mod tests;

pub use open::{FRAME_EXTRA_BYTES, XskConfig, XskError};

use super::Interface;
use super::drops::Drops;
use super::frames::{Frame, HEADROOM, Holder, LINK_BYTES, Memory};
use super::pool::FramePool;
use crate::packet::{Burst, Checksum, Gso, Packet};
use chain::{Chain, FRAMES_MAX};
use ring::{Consumer, Producer};
use rustix::io::Errno;
use rustix::net::xdp::{XdpDesc, XdpDescOptions};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use tables::counters::DropReason;
use tables::message::XdpMode;

/// Calls of `sendto` a burst. One is enough unless the kernel stops at its own budget (32 packets before Linux 6.17).
const KICKS_MAX: usize = 4;
/// Rounds between two looks at whether the device is still there.
const ROUNDS_PER_LOOK: u32 = 64;
/// An Ethernet header: the kernel refuses to send less.
const SEND_BYTES_MIN: usize = 14;

/// One AF_XDP socket.
pub struct Xsk {
    /// None once closed.
    fd: Option<OwnedFd>,
    memory: Arc<Memory>,
    holder: Holder,
    interface: u32,
    mode: XdpMode,
    fill: Producer<u64>,
    completion: Consumer<u64>,
    rx: Consumer<XdpDesc>,
    tx: Producer<XdpDesc>,
    /// Frames left to the worker when the fill ring is filled.
    reserve: usize,
    busy_poll: bool,
    /// The kernel only sends when asked to (copy mode), or does not say when it wants to be asked.
    always_kick: bool,
    /// The buffers so far of a packet that has several.
    chain: Chain,
    /// Bytes of the largest packet. The kernel was told if that is more than a frame holds.
    bytes_max: usize,
    gone: bool,
    rounds: u32,
    drops: Drops,
}

impl Xsk {
    /// How the kernel bound it.
    pub fn mode(&self) -> XdpMode {
        self.mode
    }

    /// The packet of a received descriptor, or of those before it too; the frame goes back to the pool if it cannot be one.
    #[inline(always)]
    fn accept(&mut self, pool: &mut FramePool, descriptor: XdpDesc) -> Option<Packet> {
        let Some(frame) = self.memory.take_back(descriptor.addr, self.holder) else {
            self.drops.add(DropReason::Malformed);
            return None;
        };
        let (start, size) = (self.memory.start_of(descriptor.addr, &frame), descriptor.len as u64);
        let continued = descriptor.options.contains(XdpDescOptions::XDP_PKT_CONTD);
        let end = self.memory.frame_size() as u64;
        let is_sound = (LINK_BYTES as u64..=end).contains(&start) && start + size <= end;
        let mut packet = if continued || self.chain.is_open() {
            self.accept_part(pool, (frame, start as u16, size as u16), is_sound, continued)?
        } else if is_sound {
            Packet::new(frame, start as u16, size as u16)
        } else {
            pool.put(frame);
            self.drops.add(DropReason::Malformed);
            return None;
        };
        packet.interface = self.interface;
        Some(packet)
    }

    /// One buffer of a packet that has several; the packet, if it is the last.
    #[cold]
    #[inline(never)]
    fn accept_part(
        &mut self,
        pool: &mut FramePool,
        part: (Frame, u16, u16),
        is_sound: bool,
        continued: bool,
    ) -> Option<Packet> {
        self.chain.push(pool, part, is_sound, self.bytes_max);
        if continued {
            return None;
        }
        let packet = self.chain.finish(&self.memory);
        if packet.is_none() {
            self.drops.add(DropReason::Oversized);
        }
        packet
    }

    fn takes_chain(&self, packet: &Packet) -> bool {
        packet.total_size() <= self.bytes_max && self.memory.chain(packet).count() <= FRAMES_MAX
    }

    /// Why a packet cannot leave by a NIC as it is.
    #[inline(always)]
    fn refusal(&self, packet: &Packet) -> Option<DropReason> {
        if packet.gso != Gso::None || packet.is_chained() && !self.takes_chain(packet) {
            return Some(DropReason::Oversized);
        }
        if matches!(packet.checksum, Checksum::Partial { .. }) {
            return Some(DropReason::BadChecksum);
        }
        (packet.total_size() < SEND_BYTES_MIN).then_some(DropReason::Truncated)
    }

    /// Packets from the front of the burst for which the tx ring has room. Frames of one packet go together: a stump would
    /// go on with the next packet.
    #[inline(always)]
    fn fitting(&mut self, burst: &Burst) -> usize {
        if self.bytes_max <= self.memory.frame_size() - HEADROOM {
            return self.tx.room(burst.len());
        }
        self.fitting_chains(burst)
    }

    #[inline(never)]
    fn fitting_chains(&mut self, burst: &Burst) -> usize {
        let mut room = self.tx.room(usize::MAX);
        let fits = |packet: &&Packet| {
            let frames = if packet.is_chained() { self.memory.chain(packet).count() } else { 1 };
            let fits = frames <= room || frames > FRAMES_MAX;
            room = room.saturating_sub(frames);
            fits
        };
        burst.iter().take_while(fits).count()
    }

    /// Sends a packet of several frames, for which there is room.
    #[inline(never)]
    fn send_chain(&mut self, pool: &mut FramePool, packet: Packet) {
        // The kernel takes no empty buffer.
        let mut left = self.memory.chain(&packet).filter(|bytes| !bytes.is_empty()).count();
        for (frame, start, size) in self.memory.take_apart(packet) {
            if size == 0 {
                pool.put(frame);
                continue;
            }
            left -= 1;
            let options = if left > 0 { XdpDescOptions::XDP_PKT_CONTD } else { XdpDescOptions::empty() };
            let addr = self.memory.lend(frame, self.holder) + start as u64;
            self.tx.push(XdpDesc { addr, len: size as u32, options });
        }
    }

    /// Takes back the frames that were sent.
    #[inline(always)]
    fn reap(&mut self, pool: &mut FramePool) {
        while let Some(address) = self.completion.pop() {
            match self.memory.take_back(address, self.holder) {
                Some(frame) => pool.put(frame),
                None => self.drops.add(DropReason::Malformed),
            }
        }
        self.completion.release();
    }

    /// Keeps the fill ring full as long as the worker has frames to spare.
    fn refill(&mut self, pool: &mut FramePool) {
        let spare = pool.available().saturating_sub(self.reserve);
        let count = self.fill.room(usize::MAX).min(spare);
        for _ in 0..count {
            let Some(frame) = pool.take() else { break };
            // There is room: it was asked for above and only this socket fills the ring.
            self.fill.push(self.memory.lend(frame, self.holder));
        }
        if count > 0 {
            self.fill.publish();
        }
    }

    /// Makes the kernel send. Asks again while it gets on, but a bounded number of times: what is left goes next round.
    fn kick(&mut self) {
        let Some(fd) = &self.fd else { return };
        let mut outstanding = self.tx.outstanding();
        for _ in 0..KICKS_MAX {
            if outstanding == 0 || !(self.always_kick || self.tx.needs_wakeup()) {
                return;
            }
            let answer = send(fd, &[], SendFlags::DONTWAIT);
            let left = self.tx.outstanding();
            match answer {
                // Its budget is spent, or one packet was refused by the device: go on if that helps.
                Err(Errno::AGAIN | Errno::BUSY | Errno::INTR) if left < outstanding => outstanding = left,
                Err(Errno::NXIO | Errno::BADF | Errno::NODEV) => return self.gone = true,
                // Done; or the device is down or all buffers are in flight, which only time will change.
                _ => return,
            }
        }
    }

    /// Lets a driver that sleeps (zero-copy) look at the fill ring, and a busy-polled one run.
    fn wake_receiver(&mut self) {
        if let Some(fd) = &self.fd {
            let nothing: &mut [u8] = &mut [];
            self.gone |= matches!(recv(fd, nothing, RecvFlags::DONTWAIT), Err(Errno::NXIO | Errno::BADF));
        }
    }

    /// A device that is unregistered leaves an error on the socket, and nothing else would tell a worker that only listens.
    fn look_for_device(&mut self) {
        self.rounds = self.rounds.wrapping_add(1);
        if !self.rounds.is_multiple_of(ROUNDS_PER_LOOK) {
            return;
        }
        if let Some(fd) = &self.fd {
            self.gone |= !matches!(rustix::net::sockopt::socket_error(fd), Ok(Ok(())));
        }
    }
}

impl Interface for Xsk {
    fn rx(&mut self, pool: &mut FramePool, burst: &mut Burst) {
        if self.busy_poll {
            self.wake_receiver();
        }
        while !burst.is_full() {
            let Some(descriptor) = self.rx.pop() else { break };
            if let Some(packet) = self.accept(pool, descriptor) {
                let _ = burst.push(packet).map_err(|packet| pool.put_packet(packet));
            }
        }
        self.rx.release();
    }

    /// Super-frames and partial checksums are dropped here and counted: a NIC would send them as garbage.
    fn tx(&mut self, pool: &mut FramePool, burst: &mut Burst) {
        self.reap(pool);
        if self.gone {
            return;
        }
        let count = self.fitting(burst);
        for packet in burst.drain_front(count) {
            if let Some(reason) = self.refusal(&packet) {
                self.drops.add(reason);
                pool.put_packet(packet);
                continue;
            }
            if packet.is_chained() {
                self.send_chain(pool, packet);
                continue;
            }
            let (start, len) = (packet.start as u64, packet.size as u32);
            let addr = self.memory.lend(packet.head, self.holder) + start;
            self.tx.push(XdpDesc { addr, len, options: XdpDescOptions::empty() });
        }
        self.tx.publish();
        self.kick();
    }

    fn housekeep(&mut self, pool: &mut FramePool) {
        self.reap(pool);
        if self.gone {
            return;
        }
        self.refill(pool);
        if self.fill.needs_wakeup() {
            self.wake_receiver();
        }
        self.kick();
        self.look_for_device();
    }

    /// Readable when packets wait. In copy mode polling it also sends what is left in the tx ring.
    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(|fd| fd.as_fd())
    }

    fn is_cheap_to_ask(&self) -> bool {
        true
    }

    fn takes_super_frames(&self) -> bool {
        false
    }

    fn is_gone(&self) -> bool {
        self.gone
    }

    fn take_drops(&mut self, tell: &mut dyn FnMut(DropReason, u64)) {
        self.drops.take(tell);
    }

    /// Closes the socket and takes every lent frame back by the ledger. Whoever else holds the descriptor must have closed
    /// it, else the kernel goes on receiving into frames that are in use. A zero-copy driver lets go of the memory some
    /// time after the close (kernel: xp_release_deferred), so its frames stay lent for good.
    fn close(&mut self, pool: &mut FramePool) {
        self.gone = true;
        self.chain.put_all(pool);
        if self.fd.take().is_none() || self.mode == XdpMode::ZeroCopy {
            return;
        }
        for frame in self.memory.reclaim(self.holder) {
            pool.put(frame);
        }
    }
}
