//! An interface made of memory, for tests and benches: packets are put in and taken out by a [`MemPeer`], or two
//! interfaces are joined by a [`Wire`] that loses, doubles and reorders. Received packets lie in their frames exactly as
//! the kernel would lay them. Locks and allocates, which real interfaces must not.

pub mod pcap;
mod wire;

pub use wire::{Impairment, Wire};

use super::Interface;
use super::drops::Drops;
use super::frames::{HEADROOM, Memory};
use super::pool::FramePool;
use crate::packet::{Burst, Checksum, Gso, Packet};
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tables::counters::DropReason;

/// A packet outside any frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WirePacket {
    pub bytes: Vec<u8>,
    pub checksum: Checksum,
    pub gso: Gso,
    pub gso_ecn: bool,
}

impl From<Vec<u8>> for WirePacket {
    fn from(bytes: Vec<u8>) -> WirePacket {
        WirePacket { bytes, ..WirePacket::default() }
    }
}

impl WirePacket {
    /// A copy of a packet in frames.
    pub fn of(memory: &Memory, packet: &Packet) -> WirePacket {
        let bytes = memory.chain(packet).flatten().copied().collect();
        WirePacket { bytes, checksum: packet.checksum, gso: packet.gso, gso_ecn: packet.gso_ecn }
    }

    /// This packet in frames of the pool. None if they are too few.
    pub fn place(&self, pool: &mut FramePool) -> Option<Packet> {
        let mut packet = pool.copy_in(&self.bytes)?;
        (packet.checksum, packet.gso, packet.gso_ecn) = (self.checksum, self.gso, self.gso_ecn);
        Some(packet)
    }
}

impl WirePacket {
    /// The same as a NIC receives it: every buffer begins behind the headroom.
    fn place_in_buffers(&self, pool: &mut FramePool) -> Option<Packet> {
        let room = pool.memory().frame_size() - HEADROOM;
        if self.bytes.len() <= room {
            return self.place(pool);
        }
        let mut parts = Vec::new();
        for part in self.bytes.chunks(room) {
            let Some(mut frame) = pool.take() else {
                parts.into_iter().for_each(|(frame, _, _)| pool.put(frame));
                return None;
            };
            pool.memory().bytes_mut(&mut frame, HEADROOM, part.len()).copy_from_slice(part);
            parts.push((frame, HEADROOM as u16, part.len() as u16));
        }
        pool.memory().join(parts.into_iter())
    }
}

/// Both rings of an interface.
#[derive(Debug, Default)]
struct Rings {
    rx: VecDeque<WirePacket>,
    tx: VecDeque<WirePacket>,
    gone: bool,
}

/// What an interface of memory can do.
#[derive(Clone, Copy, Debug)]
pub struct MemConfig {
    /// The id that received packets carry.
    pub interface: u32,
    /// Packets that each of the two rings holds.
    pub ring_len: usize,
    /// As a TAP (super-frames travel whole) or as a NIC.
    pub super_frames: bool,
    /// As a NIC whose packets may have several buffers.
    pub chains: bool,
}

/// The dataplane's side.
#[derive(Debug)]
pub struct MemInterface {
    config: MemConfig,
    rings: Arc<Mutex<Rings>>,
    drops: Drops,
}

/// The other side: the pod, or the wire.
#[derive(Clone, Debug)]
pub struct MemPeer {
    config: MemConfig,
    rings: Arc<Mutex<Rings>>,
}

/// Makes an interface and its other side.
pub fn interface(config: MemConfig) -> (MemInterface, MemPeer) {
    let rings = Arc::<Mutex<Rings>>::default();
    (MemInterface { config, rings: rings.clone(), drops: Drops::default() }, MemPeer { config, rings })
}

/// A test that panicked elsewhere must not hide its message behind a poisoned lock.
fn lock(rings: &Mutex<Rings>) -> MutexGuard<'_, Rings> {
    rings.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemPeer {
    /// Puts a packet on the interface's rx ring. False, and nothing done, if the ring is full or the device gone.
    pub fn inject(&self, packet: impl Into<WirePacket>) -> bool {
        let mut rings = lock(&self.rings);
        let room = !rings.gone && rings.rx.len() < self.config.ring_len;
        if room {
            rings.rx.push_back(packet.into());
        }
        room
    }

    /// The oldest packet that was sent.
    pub fn take(&self) -> Option<WirePacket> {
        lock(&self.rings).tx.pop_front()
    }

    /// All packets that were sent, in order.
    pub fn take_all(&self) -> Vec<WirePacket> {
        lock(&self.rings).tx.drain(..).collect()
    }

    /// Packets that the interface has not received yet.
    pub fn waiting(&self) -> usize {
        lock(&self.rings).rx.len()
    }

    /// The device dies: what waits is lost, nothing moves any more.
    pub fn remove_device(&self) {
        *lock(&self.rings) = Rings { gone: true, ..Rings::default() };
    }
}

impl MemInterface {
    /// Why this packet cannot be received (`None`: it can).
    fn refusal(&self, packet: &WirePacket, memory: &Memory) -> Option<DropReason> {
        let too_large = packet.bytes.len() > memory.frame_size() - HEADROOM;
        (too_large && !self.config.super_frames && !self.config.chains).then_some(DropReason::Oversized)
    }

    /// Why this packet cannot leave as it is.
    fn send_refusal(&self, packet: &Packet) -> Option<DropReason> {
        match packet.checksum {
            _ if self.config.super_frames => None,
            _ if packet.gso != Gso::None => Some(DropReason::Oversized),
            _ if packet.is_chained() && !self.config.chains => Some(DropReason::Oversized),
            Checksum::Partial { .. } => Some(DropReason::BadChecksum),
            _ => None,
        }
    }
}

impl Interface for MemInterface {
    fn rx(&mut self, pool: &mut FramePool, burst: &mut Burst) {
        let rings = self.rings.clone();
        let mut rings = lock(&rings);
        while !burst.is_full() {
            let Some(waiting) = rings.rx.front() else { break };
            if let Some(reason) = self.refusal(waiting, pool.memory()) {
                self.drops.add(reason);
                rings.rx.pop_front();
                continue;
            }
            let placed = if self.config.chains { waiting.place_in_buffers(pool) } else { waiting.place(pool) };
            let Some(mut packet) = placed else { break };
            packet.interface = self.config.interface;
            rings.rx.pop_front();
            let _ = burst.push(packet).map_err(|packet| pool.put_packet(packet));
        }
    }

    fn tx(&mut self, pool: &mut FramePool, burst: &mut Burst) {
        let rings = self.rings.clone();
        let mut rings = lock(&rings);
        let room = if rings.gone { 0 } else { self.config.ring_len.saturating_sub(rings.tx.len()) };
        for packet in burst.drain_front(room) {
            match self.send_refusal(&packet) {
                Some(reason) => self.drops.add(reason),
                None => rings.tx.push_back(WirePacket::of(pool.memory(), &packet)),
            }
            pool.put_packet(packet);
        }
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn is_cheap_to_ask(&self) -> bool {
        true
    }

    fn takes_super_frames(&self) -> bool {
        self.config.super_frames
    }

    fn is_gone(&self) -> bool {
        lock(&self.rings).gone
    }

    fn take_drops(&mut self, tell: &mut dyn FnMut(DropReason, u64)) {
        self.drops.take(tell);
    }

    fn close(&mut self, _pool: &mut FramePool) {
        lock(&self.rings).gone = true;
    }
}

/// For benches: the same packets again and again, and a wire that swallows everything. Neither locks nor allocates.
#[derive(Debug)]
pub struct Replay {
    interface: u32,
    packets: Vec<WirePacket>,
    next: usize,
    /// Packets that were sent.
    pub sent: u64,
}

impl Replay {
    pub fn new(interface: u32, packets: Vec<WirePacket>) -> Replay {
        Replay { interface, packets, next: 0, sent: 0 }
    }
}

impl Interface for Replay {
    fn rx(&mut self, pool: &mut FramePool, burst: &mut Burst) {
        while !burst.is_full() && !self.packets.is_empty() {
            let Some(mut packet) = self.packets[self.next].place(pool) else { break };
            self.next = if self.next + 1 < self.packets.len() { self.next + 1 } else { 0 };
            packet.interface = self.interface;
            let _ = burst.push(packet).map_err(|packet| pool.put_packet(packet));
        }
    }

    fn tx(&mut self, pool: &mut FramePool, burst: &mut Burst) {
        for packet in burst.drain() {
            self.sent += 1;
            pool.put_packet(packet);
        }
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn is_cheap_to_ask(&self) -> bool {
        true
    }

    fn takes_super_frames(&self) -> bool {
        true
    }

    fn close(&mut self, _pool: &mut FramePool) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::frames::Memory;

    fn pool(frames: u32) -> FramePool {
        let (memory, frames) = Memory::create(frames, 2048).unwrap();
        FramePool::divide(Arc::new(memory), frames, 1).remove(0)
    }

    fn config(super_frames: bool) -> MemConfig {
        MemConfig { interface: 7, ring_len: 4, super_frames, chains: false }
    }

    fn drops(interface: &mut dyn Interface) -> Vec<(DropReason, u64)> {
        let mut told = Vec::new();
        interface.take_drops(&mut |reason, count| told.push((reason, count)));
        told
    }

    #[test]
    fn a_packet_lies_in_its_frame_as_the_kernel_lays_it() {
        let (mut interface, peer) = interface(config(false));
        let (mut pool, mut burst) = (pool(8), Burst::default());
        assert!(peer.inject(vec![5; 60]));
        interface.rx(&mut pool, &mut burst);
        let packet = burst.iter().next().unwrap();
        assert_eq!((packet.start as usize, packet.total_size(), packet.interface), (HEADROOM, 60, 7));
        interface.tx(&mut pool, &mut burst);
        assert_eq!((peer.take_all(), pool.available()), (vec![vec![5; 60].into()], 8));
    }

    #[test]
    fn a_full_ring_refuses_in_both_directions() {
        let (mut interface, peer) = interface(config(true));
        let (mut pool, mut burst) = (pool(16), Burst::default());
        assert_eq!((0..6).filter(|_| peer.inject(vec![1; 60])).count(), 4);
        interface.rx(&mut pool, &mut burst);
        assert_eq!((0..6).filter(|_| peer.inject(vec![2; 60])).count(), 4);
        interface.rx(&mut pool, &mut burst);
        interface.tx(&mut pool, &mut burst);
        assert_eq!((burst.len(), peer.take_all().len()), (4, 4));
    }

    #[test]
    fn only_a_tap_takes_super_frames() {
        let super_frame = WirePacket {
            bytes: (0..30_000u32).map(|i| i as u8).collect(),
            checksum: Checksum::Partial { start: 34, offset: 16 },
            gso: Gso::Tcp4(1448),
            gso_ecn: true,
        };
        let (mut tap, pod) = interface(config(true));
        let (mut nic, wire) = interface(config(false));
        let (mut pool, mut burst) = (pool(64), Burst::default());
        assert!(pod.inject(super_frame.clone()) && wire.inject(super_frame.clone()));
        nic.rx(&mut pool, &mut burst);
        assert_eq!((burst.len(), drops(&mut nic)), (0, vec![(DropReason::Oversized, 1)]));
        tap.rx(&mut pool, &mut burst);
        tap.tx(&mut pool, &mut burst);
        assert_eq!(pod.take(), Some(super_frame.clone()));
        assert!(pod.inject(super_frame));
        tap.rx(&mut pool, &mut burst);
        nic.tx(&mut pool, &mut burst);
        assert_eq!((wire.take(), drops(&mut nic)), (None, vec![(DropReason::Oversized, 1)]));
        assert_eq!(pool.available(), 64);
    }

    #[test]
    fn a_nic_with_several_buffers_a_packet_gives_and_takes_chains() {
        let (mut nic, wire) = interface(MemConfig { chains: true, ..config(false) });
        let (mut pool, mut burst) = (pool(64), Burst::default());
        let bytes: Vec<u8> = (0..9014u32).map(|i| (i * 7 % 251) as u8).collect();
        assert!(wire.inject(bytes.clone()) && wire.inject(vec![5; 60]));
        nic.rx(&mut pool, &mut burst);
        let sizes: Vec<Vec<usize>> =
            burst.iter().map(|packet| pool.memory().chain(packet).map(<[u8]>::len).collect()).collect();
        assert_eq!(sizes, [vec![1792, 1792, 1792, 1792, 1792, 54], vec![60]]);
        nic.tx(&mut pool, &mut burst);
        assert_eq!((wire.take_all(), pool.available()), (vec![bytes.into(), vec![5; 60].into()], 64));
    }

    #[test]
    fn a_dead_device_moves_nothing() {
        let (mut interface, peer) = interface(config(true));
        let (mut pool, mut burst) = (pool(8), Burst::default());
        peer.inject(vec![1; 60]);
        interface.rx(&mut pool, &mut burst);
        peer.remove_device();
        assert!(!peer.inject(vec![1; 60]) && interface.is_gone());
        interface.tx(&mut pool, &mut burst);
        assert_eq!((burst.len(), peer.take()), (1, None));
    }
}
