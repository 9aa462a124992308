//! A device whose frames carry one 802.1Q tag: it is taken off what comes in and put on what goes out, so that nothing
//! above knows of it. Must not know what the device is, nor what lies behind the tag.

use super::Interface;
use super::drops::Drops;
use super::frames::Memory;
use super::pool::FramePool;
use crate::packet::{Burst, Packet};
use std::os::fd::BorrowedFd;
use tables::counters::DropReason;

/// Bytes of a tag.
pub const TAG_BYTES: usize = 4;
/// Both Ethernet addresses, behind which it stands.
const MACS_BYTES: usize = 12;
/// IEEE 802.1Q, 9.5 and 9.6: the type, and the VLAN in a tag beside priority and drop eligibility.
const TYPE: [u8; 2] = [0x81, 0x00];
const VLAN_ID: u16 = 0x0fff;

/// A device and its tag.
pub struct Tagged {
    device: Box<dyn Interface>,
    vlan: u16,
    drops: Drops,
}

/// The device as what is above may see it; `vlan` 0 for none.
pub fn tagged(device: Box<dyn Interface>, vlan: u16) -> Box<dyn Interface> {
    if vlan == 0 { device } else { Box::new(Tagged { device, vlan, drops: Drops::default() }) }
}

/// Takes the tag off. False, and nothing done, if there is none or another.
fn untag(memory: &Memory, packet: &mut Packet, vlan: u16) -> bool {
    let head = memory.head_mut(packet);
    let Some(&[high, low, first, second]) = head.get(MACS_BYTES..).and_then(|tag| tag.first_chunk()) else {
        return false;
    };
    if [high, low] != TYPE || u16::from_be_bytes([first, second]) & VLAN_ID != vlan {
        return false;
    }
    head.copy_within(..MACS_BYTES, TAG_BYTES);
    packet.pop_front(TAG_BYTES)
}

/// Puts the tag on, without priority. False, and nothing done, without room in front.
fn tag(memory: &Memory, packet: &mut Packet, vlan: u16) -> bool {
    if packet.head_size() < MACS_BYTES || !packet.push_front(TAG_BYTES) {
        return false;
    }
    let head = memory.head_mut(packet);
    head.copy_within(TAG_BYTES..TAG_BYTES + MACS_BYTES, 0);
    head[MACS_BYTES..][..2].copy_from_slice(&TYPE);
    head[MACS_BYTES + 2..][..2].copy_from_slice(&vlan.to_be_bytes());
    true
}

impl Tagged {
    /// Drops what `keep` does not.
    fn retain(
        &mut self,
        pool: &mut FramePool,
        burst: &mut Burst,
        reason: DropReason,
        keep: impl Fn(&Memory, &mut Packet) -> bool,
    ) {
        burst.retain(|mut packet| {
            if keep(pool.memory(), &mut packet) {
                return Some(packet);
            }
            self.drops.add(reason);
            pool.put_packet(packet);
            None
        });
    }
}

impl Interface for Tagged {
    /// The burst must be empty.
    fn rx(&mut self, pool: &mut FramePool, burst: &mut Burst) {
        let vlan = self.vlan;
        self.device.rx(pool, burst);
        self.retain(pool, burst, DropReason::Vlan, |memory, packet| untag(memory, packet, vlan));
    }

    /// What could not be sent is left as it was.
    fn tx(&mut self, pool: &mut FramePool, burst: &mut Burst) {
        let vlan = self.vlan;
        self.retain(pool, burst, DropReason::Oversized, |memory, packet| tag(memory, packet, vlan));
        self.device.tx(pool, burst);
        self.retain(pool, burst, DropReason::Vlan, |memory, packet| untag(memory, packet, vlan));
    }

    fn housekeep(&mut self, pool: &mut FramePool) {
        self.device.housekeep(pool);
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        self.device.readiness()
    }

    fn is_cheap_to_ask(&self) -> bool {
        self.device.is_cheap_to_ask()
    }

    fn takes_super_frames(&self) -> bool {
        self.device.takes_super_frames()
    }

    fn is_gone(&self) -> bool {
        self.device.is_gone()
    }

    fn take_drops(&mut self, tell: &mut dyn FnMut(DropReason, u64)) {
        self.device.take_drops(tell);
        self.drops.take(tell);
    }

    fn close(&mut self, pool: &mut FramePool) {
        self.device.close(pool);
    }
}

#[cfg(test)]
#[path = "vlan_tests.rs"]
mod tests;
