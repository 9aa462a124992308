//! Packets that wait for a next hop's Ethernet address: one for each address, so that the first packet to a neighbour is
//! not lost. They wait as they arrived, are tried again when the tables change, and dropped by name when nobody answers.

use super::forward::Path;
use crate::packet::Packet;
use std::collections::VecDeque;
use tables::Addr;
use tables::counters::DropReason;

/// Addresses that packets may wait for at once.
const HELD_MAX: usize = 64;
/// The kernel gives up on a neighbour after three probes, one a second (net.ipv4.neigh.*.retrans_time_ms).
const PATIENCE_MS: u32 = 3_000;

struct HeldPacket {
    addr: Addr,
    packet: Packet,
    since_ms: u32,
}

/// The waiting room.
pub struct Held {
    packets: VecDeque<HeldPacket>,
}

impl Default for Held {
    fn default() -> Held {
        Held { packets: VecDeque::with_capacity(HELD_MAX) }
    }
}

impl Held {
    /// Gives the packet back if one waits for that address already, or the room is full.
    pub fn hold(&mut self, addr: Addr, packet: Packet, since_ms: u32) -> Result<(), Packet> {
        if self.packets.len() >= HELD_MAX || self.packets.iter().any(|other| other.addr == addr) {
            return Err(packet);
        }
        self.packets.push_back(HeldPacket { addr, packet, since_ms });
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.packets.len()
    }

    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// The one that came first, to be tried again. One that must wait on has its patience from then.
    pub fn take_oldest(&mut self) -> Option<Packet> {
        self.packets.pop_front().map(|held| held.packet)
    }

    /// One that has waited too long.
    pub fn take_expired(&mut self, now_ms: u32) -> Option<Packet> {
        let index = self.packets.iter().position(|held| now_ms.wrapping_sub(held.since_ms) > PATIENCE_MS)?;
        self.packets.remove(index).map(|held| held.packet)
    }
}

impl Path {
    /// Tries again what waited for a neighbour.
    pub fn retry_held(&mut self) {
        for _ in 0..self.held.len() {
            let Some(packet) = self.held.take_oldest() else { return };
            self.forward_held(packet);
        }
    }

    /// Drops what waited in vain.
    pub fn expire_held(&mut self) {
        while let Some(packet) = self.held.take_expired(self.now_ms) {
            let mut waited = Some(packet);
            self.with_tables(|path, context| path.give_up(context, &mut waited));
            self.drop_from(&mut waited, DropReason::NeighbourUnknown);
        }
    }
}
