//! A wire between two interfaces of memory, that misbehaves in a repeatable way. Must not look into packets.

use super::{MemPeer, WirePacket};

/// How a wire misbehaves, in packets of a thousand. The same seed gives the same faults.
#[derive(Clone, Copy, Debug, Default)]
pub struct Impairment {
    pub seed: u64,
    pub loss: u32,
    pub duplicate: u32,
    /// Held back until a later packet has passed.
    pub reorder: u32,
}

/// Joins two interfaces.
#[derive(Debug)]
pub struct Wire {
    ends: [MemPeer; 2],
    held: [Option<WirePacket>; 2],
    impairment: Impairment,
    random: u64,
    /// Packets lost on purpose.
    pub lost: u64,
    /// Packets that the far ring had no room for.
    pub overrun: u64,
}

impl Wire {
    pub fn new(one: MemPeer, other: MemPeer, impairment: Impairment) -> Wire {
        let (ends, held) = ([one, other], [None, None]);
        Wire { ends, held, impairment, random: impairment.seed, lost: 0, overrun: 0 }
    }

    /// Carries everything that was sent at either end; returns the packets delivered.
    pub fn carry(&mut self) -> usize {
        self.carry_from(0) + self.carry_from(1)
    }

    fn carry_from(&mut self, end: usize) -> usize {
        let packets = self.ends[end].take_all();
        if packets.is_empty() {
            // Nothing can overtake it any more.
            return self.held[end].take().map_or(0, |packet| self.deliver(end, packet));
        }
        packets.into_iter().map(|packet| self.pass(end, packet)).sum()
    }

    fn pass(&mut self, end: usize, packet: WirePacket) -> usize {
        if self.chance(self.impairment.loss) {
            self.lost += 1;
            return 0;
        }
        if self.held[end].is_none() && self.chance(self.impairment.reorder) {
            self.held[end] = Some(packet);
            return 0;
        }
        let again = self.chance(self.impairment.duplicate).then(|| packet.clone());
        let overtaken = self.held[end].take();
        [Some(packet), again, overtaken].into_iter().flatten().map(|packet| self.deliver(end, packet)).sum()
    }

    fn deliver(&mut self, from: usize, packet: WirePacket) -> usize {
        let delivered = self.ends[1 - from].inject(packet);
        self.overrun += u64::from(!delivered);
        usize::from(delivered)
    }

    fn chance(&mut self, of_a_thousand: u32) -> bool {
        // SplitMix64 (Steele, Lea, Flood 2014).
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % 1000 < u64::from(of_a_thousand)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{MemConfig, interface};
    use super::*;
    use crate::io::Interface;
    use crate::io::frames::Memory;
    use crate::io::pool::FramePool;
    use crate::packet::Burst;
    use std::sync::Arc;

    /// Sends 10,000 numbered packets through a wire; what arrived, and the wire.
    fn run(impairment: Impairment) -> (Vec<u32>, Wire) {
        let config = MemConfig { interface: 0, ring_len: 64, super_frames: true, chains: false };
        let ((mut sender, one), (_receiver, other)) = (interface(config), interface(config));
        let (far, mut wire) = (other.clone(), Wire::new(one, other, impairment));
        let (memory, frames) = Memory::create(64, 2048).unwrap();
        let mut pool = FramePool::divide(Arc::new(memory), frames, 1).remove(0);
        let (mut burst, mut arrived) = (Burst::default(), Vec::new());
        for number in 0..10_000u32 {
            burst.push(pool.copy_in(&number.to_be_bytes()).unwrap()).unwrap();
            if number % 16 == 15 {
                sender.tx(&mut pool, &mut burst);
                wire.carry();
                arrived.extend(super::super::lock(&far.rings).rx.drain(..).map(number_of));
            }
        }
        wire.carry();
        arrived.extend(super::super::lock(&far.rings).rx.drain(..).map(number_of));
        (arrived, wire)
    }

    fn number_of(packet: WirePacket) -> u32 {
        u32::from_be_bytes(packet.bytes.try_into().unwrap())
    }

    #[test]
    fn a_good_wire_keeps_order_and_number() {
        assert_eq!(run(Impairment::default()).0, (0..10_000).collect::<Vec<u32>>());
    }

    #[test]
    fn a_bad_wire_loses_doubles_and_reorders_as_told_and_repeatably() {
        let impairment = Impairment { seed: 42, loss: 50, duplicate: 30, reorder: 100 };
        let (arrived, wire) = run(impairment);
        assert_eq!(arrived, run(impairment).0);
        let mut unique = arrived.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len() as u64 + wire.lost, 10_000);
        let (doubled, swapped) = (arrived.len() - unique.len(), arrived.windows(2).filter(|w| w[1] < w[0]).count());
        assert!((400..600).contains(&wire.lost), "{}", wire.lost);
        assert!((150..400).contains(&doubled), "{doubled}");
        assert!((600..1000).contains(&swapped), "{swapped}");
        assert_ne!(arrived, run(Impairment { seed: 43, ..impairment }).0);
    }
}
