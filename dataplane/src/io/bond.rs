//! The members of a bond as one device: received from in turn; each flow is sent by one of those that may send now, which
//! control says, since only it hears from the kernel. Must not know why a member does not send.

use super::Interface;
use super::drops::Drops;
use super::pool::FramePool;
use super::several::Several;
use super::vlan::TAG_BYTES;
use crate::packet::Burst;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tables::counters::DropReason;
use tables::hash::fold;

/// A bit for each member that sends.
pub type Sending = Arc<AtomicU64>;

const ETHERTYPE: usize = 12;
const ETHERNET_BYTES: usize = 14;
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

pub struct Bond {
    members: Several,
    sending: Sending,
    /// What is sent by each member.
    parts: Vec<Burst>,
    drops: Drops,
}

impl Bond {
    pub fn new(members: Vec<Box<dyn Interface>>, sending: Sending) -> std::io::Result<Bond> {
        let parts = members.iter().map(|_| Burst::default()).collect();
        Ok(Bond { members: Several::new(members)?, sending, parts, drops: Drops::default() })
    }

    fn sending(&self) -> u64 {
        let alive = self.members.queues.iter().enumerate().filter(|(_, member)| !member.is_gone());
        alive.fold(0, |bits, (at, _)| bits | 1 << at) & self.sending.load(Ordering::Relaxed)
    }

    fn drop_all(&mut self, pool: &mut FramePool, burst: &mut Burst) {
        for packet in burst.drain() {
            self.drops.add(DropReason::InterfaceGone);
            pool.put_packet(packet);
        }
    }

    /// Each flow by one member, as long as the same ones send.
    fn spread(&mut self, pool: &mut FramePool, burst: &mut Burst, sending: u64) {
        for packet in burst.drain() {
            let nth = hash(pool.memory().head(&packet)) % sending.count_ones() as u64;
            // No more packets than one burst holds.
            let _ = self.parts[nth_bit(sending, nth as u32)].push(packet);
        }
        for (member, part) in self.members.queues.iter_mut().zip(&mut self.parts) {
            if !part.is_empty() {
                member.tx(pool, part);
                part.drain().for_each(|packet| _ = burst.push(packet));
            }
        }
    }
}

/// Where the bit stands that has `nth` others below it.
fn nth_bit(mut bits: u64, nth: u32) -> usize {
    (0..nth).for_each(|_| bits &= bits - 1);
    bits.trailing_zeros() as usize
}

/// Of what tells flows apart: both Ethernet addresses, both IP addresses, and ports where they are not a fragment's payload.
fn hash(frame: &[u8]) -> u64 {
    let word =
        |at: usize| frame.get(at..at + 4).map_or(0, |word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    let tag = if frame.get(ETHERTYPE..ETHERTYPE + 2) == Some(&[0x81, 0]) { TAG_BYTES } else { 0 };
    let (ip, ethertype) = (ETHERNET_BYTES + tag, frame.get(ETHERTYPE + tag..ETHERTYPE + tag + 2));
    let byte = |at: usize| frame.get(ip + at).copied().unwrap_or(0);
    let (addresses, protocol, l4) = match ethertype {
        Some([0x08, 0x00]) => {
            let is_fragment = byte(6) & 0x3f != 0 || byte(7) != 0;
            (ip + 12..ip + 20, if is_fragment { 0 } else { byte(9) }, ip + (byte(0) & 0xf) as usize * 4)
        }
        Some([0x86, 0xdd]) => (ip + 8..ip + 40, byte(6), ip + 40),
        _ => (0..ETHERTYPE, 0, 0),
    };
    let ports = if matches!(protocol, 6 | 17 | 132) { word(l4) } else { 0 };
    let mixed = addresses.step_by(4).fold(SEED, |state, at| fold(state ^ word(at) as u64, SEED));
    fold(mixed ^ ports as u64, SEED)
}

impl Interface for Bond {
    fn rx(&mut self, pool: &mut FramePool, burst: &mut Burst) {
        self.members.rx(pool, burst);
    }

    fn tx(&mut self, pool: &mut FramePool, burst: &mut Burst) {
        let sending = self.sending();
        match sending.count_ones() {
            0 => self.drop_all(pool, burst),
            1 => self.members.queues[sending.trailing_zeros() as usize].tx(pool, burst),
            _ => self.spread(pool, burst, sending),
        }
    }

    fn housekeep(&mut self, pool: &mut FramePool) {
        self.members.housekeep(pool);
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        self.members.readiness()
    }

    fn is_cheap_to_ask(&self) -> bool {
        true
    }

    fn takes_super_frames(&self) -> bool {
        self.members.takes_super_frames()
    }

    /// Others go on for a member that is gone.
    fn is_gone(&self) -> bool {
        self.members.queues.iter().all(|member| member.is_gone())
    }

    fn take_drops(&mut self, tell: &mut dyn FnMut(DropReason, u64)) {
        self.drops.take(tell);
        self.members.take_drops(tell);
    }

    fn close(&mut self, pool: &mut FramePool) {
        self.members.close(pool);
    }
}

#[cfg(test)]
#[path = "bond_tests.rs"]
mod tests;
