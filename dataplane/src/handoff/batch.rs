//! Packets on their way to another worker, at most a burst, in order. What goes from core to core is what a handed packet
//! costs: a plain one and what is told of it are half a cache line, which its receiver only reads. Others stand whole beside
//! these.

use super::plain::Slip;
use super::{Plain, Stage};
use crate::io::frames::{Chunks, Frame};
use crate::packet::{BURST_MAX, Burst, Packet};
use tables::cpu::{LINES_AT_ONCE, prefetch, prefetch_at, prefetch_to_write};

/// So many packets ahead is fetched what another core has read or written last.
const AHEAD: usize = 2 * LINES_AT_ONCE;
/// The same of packets' headers, which are two lines.
pub const HEADS_AHEAD: usize = LINES_AT_ONCE / 2;

#[derive(Debug)]
pub struct Batch {
    slips: Vec<Slip>,
    whole: Burst,
    stages: Vec<Stage>,
    /// Whether its receiver is to write the headers of any plain packet.
    are_heads_asked: bool,
}

impl Default for Batch {
    fn default() -> Batch {
        let (slips, stages) = (Vec::with_capacity(BURST_MAX), Vec::with_capacity(BURST_MAX));
        Batch { slips, whole: Burst::default(), stages, are_heads_asked: false }
    }
}

impl Batch {
    pub fn len(&self) -> usize {
        self.slips.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slips.is_empty()
    }

    #[inline(always)]
    pub fn is_full(&self) -> bool {
        self.slips.len() >= BURST_MAX
    }

    /// Takes the packet out of its place. There must be one, and room.
    #[inline(always)]
    pub fn push(&mut self, place: &mut Option<Packet>, stage: Stage) {
        match stage {
            Stage::Plain(plain) if place.as_ref().is_some_and(Slip::has_room) => self.push_plain(place, plain),
            stage => {
                self.slips.push(Slip::ELSEWHERE);
                self.whole.push_from(place);
                self.stages.push(stage);
            }
        }
    }

    /// The same of a plain one, which [`Slip::has_room`] for.
    #[inline(always)]
    pub fn push_plain(&mut self, place: &mut Option<Packet>, plain: Plain) {
        prefetch_to_write(self.slips.as_ptr().wrapping_add(self.len() + AHEAD).cast());
        let Some(packet) = place.take() else { return };
        self.are_heads_asked |= plain.addressed().is_none();
        self.slips.push(Slip::of(packet, plain));
    }

    /// It will be written to soon.
    pub fn expect(&self) {
        for at in (0..AHEAD).step_by(2) {
            prefetch_to_write(self.slips.as_ptr().wrapping_add(at).cast());
        }
    }

    /// Puts all packets into a burst that has room for them, in order, and says what is told of each. Has so many bytes of
    /// the headers that are to be written fetched before.
    #[inline(always)]
    pub fn unpack(
        &mut self,
        burst: &mut Burst,
        (chunks, bytes): (Chunks, usize),
        mut told: impl FnMut(&mut Burst, Told),
    ) {
        let expect = |head: Option<(&Frame, u16)>| {
            if let Some((frame, start)) = head {
                chunks.prefetch_handed(frame, start, bytes);
            }
        };
        let are_asked = std::mem::take(&mut self.are_heads_asked);
        let expect_head = |slip: Option<&Slip>| expect(slip.filter(|_| are_asked).and_then(Slip::to_be_written));
        let first = self.slips.as_slice();
        first.iter().take(AHEAD).step_by(2).for_each(prefetch);
        first.iter().take(HEADS_AHEAD).for_each(|slip| expect_head(Some(slip)));
        self.whole.iter().take(HEADS_AHEAD).for_each(|packet| expect(Some(packet.head())));
        let (mut whole, mut stages, mut slips) = (self.whole.drain_all(), self.stages.drain(..), self.slips.drain(..));
        while let Some(slip) = slips.next() {
            prefetch_at(slips.as_slice().as_ptr().wrapping_add(AHEAD).cast());
            expect_head(slips.as_slice().get(HEADS_AHEAD - 1));
            if let Some(plain) = slip.unpack(burst) {
                told(burst, Told::Plain(plain));
            } else if let Some((packet, stage)) = whole.next().flatten().zip(stages.next()) {
                expect(whole.as_slice().get(HEADS_AHEAD - 1).and_then(Option::as_ref).map(Packet::head));
                let _ = burst.push(packet);
                told(burst, Told::Whole(stage));
            }
        }
    }
}

/// What is told of a packet.
pub enum Told {
    Plain(Plain),
    Whole(Stage),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::Origin;
    use crate::flow::Way;
    use crate::io::frames::Memory;
    use crate::io::pool::FramePool;
    use crate::packet::Checksum;
    use std::sync::Arc;
    use tables::flow::Tuple;
    use tables::{Addr, Protocol};

    fn plain(mark: u16) -> Stage {
        let (local, remote) = (Addr::v4([10, 1, 0, 4]), Addr::v4([10, 1, 1, 5]));
        let tuple =
            Tuple { local, remote, local_port: mark, remote_port: 1, protocol: Protocol::UDP, reserved: 0, network: 0 };
        Stage::of_plain(&tuple.words(), Way::Back, &Origin::Uplink.into())
    }

    /// What is told of the packet with this mark, and the packet: of every fifth that it is not plain, of every seventh that
    /// it is, though it is of several frames.
    fn packet(pool: &mut FramePool, mark: u16) -> (Option<Packet>, Stage) {
        let size = if mark.is_multiple_of(7) { 3000 } else { 60 + mark as usize };
        let mut packet = pool.copy_in(&vec![mark as u8; size]).unwrap();
        packet.interface = mark as u32;
        packet.checksum = if mark.is_multiple_of(2) { Checksum::Valid } else { Checksum::Unverified };
        (Some(packet), if mark.is_multiple_of(5) { Stage::Send { interface: mark as u32 } } else { plain(mark) })
    }

    #[test]
    fn packets_come_out_in_order_and_as_they_went_in_with_what_was_told_of_them() {
        let (memory, frames) = Memory::create(256, 2048).unwrap();
        let mut pool = FramePool::divide(Arc::new(memory), frames, 1).remove(0);
        let (mut batch, mut burst) = (Batch::default(), Burst::default());
        for round in 0..3 {
            for mark in round..round + BURST_MAX as u16 {
                let (mut place, stage) = packet(&mut pool, mark);
                batch.push(&mut place, stage);
                assert!(place.is_none());
            }
            assert!(batch.is_full());
            let mut told = Vec::new();
            batch.unpack(&mut burst, (pool.memory().chunks(), 48), |burst, what| {
                told.push(match what {
                    Told::Plain(plain) => Stage::Plain(plain),
                    Told::Whole(stage) => stage,
                });
                assert_eq!(burst.len(), told.len(), "its packet is the last one");
            });
            assert_eq!((told.len(), burst.len(), batch.len()), (BURST_MAX, BURST_MAX, 0));
            for ((mark, told), packet) in (round..).zip(told).zip(burst.drain()) {
                let (expected, stage) = packet_and_back(&mut pool, mark);
                assert_eq!(told, stage);
                let of =
                    |packet: &Packet| (packet.interface, packet.checksum, packet.total_size(), packet.is_chained());
                assert_eq!(of(&packet), expected);
                assert!(pool.memory().chain(&packet).flatten().all(|&byte| byte == mark as u8));
                pool.put_packet(packet);
            }
            assert_eq!(pool.available(), 256);
        }
    }

    /// What [`packet`] makes, without its frames.
    fn packet_and_back(pool: &mut FramePool, mark: u16) -> ((u32, Checksum, usize, bool), Stage) {
        let (place, stage) = packet(pool, mark);
        let packet = place.unwrap();
        let of = (packet.interface, packet.checksum, packet.total_size(), packet.is_chained());
        pool.put_packet(packet);
        (of, stage)
    }
}
