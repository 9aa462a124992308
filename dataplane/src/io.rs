//! What an interface is made of: memory (tests, benches), AF_XDP (NICs, and VLANs and bonds on them) or a TAP (pods, the host).
//! Everything above sees only [`Interface`]. `unsafe` lives below this file and nowhere else in this crate.

pub mod bond;
pub mod clock;
pub mod drops;
pub mod frames;
pub mod mem;
pub mod pool;
pub mod several;
pub mod tap;
#[cfg(test)]
mod test_devices;
pub mod vlan;
pub mod xsk;

use crate::packet::Burst;
use pool::FramePool;
use std::os::fd::BorrowedFd;
use tables::counters::DropReason;

/// One queue of a device, polled by one worker. No call blocks, allocates or logs.
pub trait Interface: Send {
    /// Takes packets until the burst is full or none is waiting. Frames come from `pool`.
    fn rx(&mut self, pool: &mut FramePool, burst: &mut Burst);

    /// Sends from the front of the burst and gives their frames back in time; what stays in the burst could not be sent
    /// (ring full, device gone, too large) and is the caller's to drop and count.
    fn tx(&mut self, pool: &mut FramePool, burst: &mut Burst);

    /// Takes back frames that the kernel is done with and hands it free ones to receive into. Called once a round.
    fn housekeep(&mut self, _pool: &mut FramePool) {}

    /// What becomes readable when packets wait; None for memory.
    fn readiness(&self) -> Option<BorrowedFd<'_>>;

    /// Whether asking for packets costs no system call, so that every round asks; else epoll names it when it is ready.
    fn is_cheap_to_ask(&self) -> bool {
        false
    }

    /// Whether super-frames (chains, GSO, partial checksums) may be sent as they are.
    fn takes_super_frames(&self) -> bool;

    /// Whether the device has died; it will neither receive nor send again.
    fn is_gone(&self) -> bool {
        false
    }

    /// Tells how many packets it dropped itself since the last call, by reason.
    fn take_drops(&mut self, _tell: &mut dyn FnMut(DropReason, u64)) {}

    /// Gives all frames back before the interface is dropped.
    fn close(&mut self, pool: &mut FramePool);
}
