//! The whole path: two workers with an uplink, the host and two pods made of memory. Whatever frames come in, nothing
//! crashes, every frame's memory comes home, and what goes out is a packet again.

use super::input::Input;
use super::{cluster, frames, region};
use dataplane::flow::FlowTable;
use dataplane::fragments;
use dataplane::handoff::Mailbox;
use dataplane::io::frames::Memory;
use dataplane::io::mem::{self, MemConfig, MemPeer, WirePacket};
use dataplane::io::pool::FramePool;
use dataplane::packet::{Burst, Checksum, Gso};
use dataplane::parse::{ETHERNET_BYTES, Parsed, is_ip_in_ip, parse};
use dataplane::worker::forward::Path;
use dataplane::worker::interfaces::{Interfaces, Slot};
use dataplane::worker::{Polling, Worker};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tables::counters::DropReason;
use tables::flow::FlowLayout;
use tables::message::InterfaceKind;
use tables::owner::SnatPorts;
use tables::publish::Reader;
use tables::region::Access;
use tables::status::Status;
use tables::{Publisher, Region};

const WORKERS: usize = 2;
const FRAMES: u32 = 256;
const ROUNDS_MAX: usize = 64;

thread_local! {
    static PUBLISHERS: Vec<Publisher> = cluster::OVERLAYS.map(cluster::publisher_of).into();
}

pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let mut node = Node::new(&mut input);
    for _ in 0..24 {
        if input.is_empty() {
            break;
        }
        node.step(&mut input);
    }
    node.settle();
    node.check_frames();
}

/// A node in memory.
pub struct Node {
    pub workers: Vec<Worker>,
    peers: Vec<(u32, MemPeer)>,
    pub status: Status,
    /// What went out, by which interface.
    pub sent: Vec<(u32, WirePacket)>,
}

impl Node {
    /// With empty flow tables, or with ones whose records the input damaged before they were adopted.
    pub fn new(input: &mut Input) -> Node {
        let mailboxes = Mailbox::all(WORKERS).expect("mailboxes");
        let status = Status::create(WORKERS).expect("memory for status");
        let (memory, frames) = Memory::create(FRAMES, 2048).expect("memory for frames");
        let pools = FramePool::divide(Arc::new(memory), frames, WORKERS);
        let what = input.byte();
        let (damage, overlay) = (what % 4 == 3, what as usize / 4 % cluster::OVERLAYS.len());
        let mut workers: Vec<Worker> = pools
            .into_iter()
            .enumerate()
            .map(|(id, pool)| {
                let flows = if damage { adopted(input, id as u16) } else { fresh(id as u16) };
                let snat = SnatPorts::new(40_000, 40_127, WORKERS as u16).expect("a good range");
                let interfaces = Interfaces::new(id as u16, mailboxes.clone());
                let mut path = Path::new(id as u16, snat, flows, pool, interfaces, status.clone());
                path.reader = Some(Box::new(reader(overlay)));
                Worker::new(path, mailboxes.clone(), Polling::Poll).expect("an epoll")
            })
            .collect();
        let peers = cluster::INTERFACES.into_iter().map(|id| (id, attach(&mut workers, id))).collect();
        Node { workers, peers, status, sent: Vec::new() }
    }

    fn step(&mut self, input: &mut Input) {
        let what = input.byte();
        let interface = cluster::INTERFACES[what as usize / 8 % 4];
        match what % 8 {
            0 => drop(self.round()),
            // As after a publish: all flows are looked at again.
            1 => self.workers.iter_mut().for_each(|worker| worker.path().scopes.bump_all()),
            2 => self.answer(),
            3 => self.inject(interface, super_frame(input, interface)),
            _ => self.inject(interface, frames::chosen(input, interface).into()),
        }
    }

    pub fn inject(&mut self, interface: u32, packet: WirePacket) {
        if let Some((_, peer)) = self.peers.iter().find(|(id, _)| *id == interface) {
            peer.inject(packet);
        }
    }

    /// One round of every worker; returns how many packets they took.
    pub fn round(&mut self) -> usize {
        let packets = self.workers.iter_mut().map(|worker| worker.round()).sum();
        for (id, peer) in &self.peers {
            for packet in peer.take_all() {
                check_sent(*id, &packet);
                self.sent.push((*id, packet));
            }
        }
        packets
    }

    /// Sends the last packet that went out back to where it came from.
    fn answer(&mut self) {
        self.round();
        if let Some((interface, mut packet)) = self.sent.pop() {
            turn_around(&mut packet.bytes);
            self.inject(interface, packet);
        }
    }

    /// Rounds until nothing moves any more.
    pub fn settle(&mut self) {
        let still_moving = (0..ROUNDS_MAX).all(|_| self.round() > 0);
        assert!(!still_moving, "a packet goes round for ever");
    }

    /// After settling, no frame is anywhere but in its pool or in the waiting room.
    pub fn check_frames(&mut self) {
        let mut home = 0;
        for worker in &mut self.workers {
            let path = worker.path();
            while let Some(packet) = path.held.take_oldest() {
                path.pool.put_packet(packet);
            }
            path.now_ms = path.now_ms.wrapping_add(fragments::LIFE_MS + 1);
            path.expire_fragments(path.fragments.capacity());
            path.pool.housekeep();
        }
        for worker in &mut self.workers {
            let path = worker.path();
            path.pool.housekeep();
            home += path.pool.available();
        }
        assert_eq!(home, FRAMES as usize, "frames came home");
    }

    pub fn drops(&self, reason: DropReason) -> u64 {
        self.status.blocks().map(|block| block.drops(reason)).sum()
    }
}

fn reader(overlay: usize) -> Reader {
    PUBLISHERS.with(|publishers| {
        let fd = publishers[overlay].region().fd().try_clone_to_owned().expect("a descriptor");
        Reader::from_fd(fd).expect("good tables")
    })
}

fn fresh(worker: u16) -> FlowTable {
    let region = FlowLayout::for_capacity(64).create(worker, WORKERS as u16, 7, 0).expect("memory for flows");
    FlowTable::new(region).expect("fresh memory")
}

/// A predecessor's table with damaged records.
fn adopted(input: &mut Input, worker: u16) -> FlowTable {
    let region = region::flow_region(&mut Input(&[7]));
    let layout = FlowLayout::for_capacity(64);
    for _ in 0..input.byte() % 16 {
        let at = layout.records_start() + input.word() as usize % (17 * 8);
        region.words()[at].store(u64::from_le_bytes(input.array()), Ordering::Relaxed);
    }
    let fd = region.fd().try_clone_to_owned().expect("a descriptor");
    let region = Region::attach(fd, Access::ReadWrite).expect("as it was made");
    match FlowTable::adopt(region, worker, 1) {
        Ok(Some(table)) => table,
        _ => fresh(worker),
    }
}

/// Gives an interface to its worker and tells the other of it.
fn attach(workers: &mut [Worker], id: u32) -> MemPeer {
    let kind = match id {
        cluster::UPLINK => InterfaceKind::Uplink,
        cluster::HOST => InterfaceKind::Host,
        _ => InterfaceKind::Pod,
    };
    let owner = (id == cluster::PODS[1]) as u16;
    let config = MemConfig { interface: id, ring_len: 64, super_frames: kind != InterfaceKind::Uplink, chains: false };
    let (device, peer) = mem::interface(config);
    let (mac, addrs) = cluster::local_end(id).unwrap_or((cluster::UPLINK_MAC, Default::default()));
    let mut device: Option<Box<dyn dataplane::io::Interface>> = Some(Box::new(device));
    for (worker, slot) in workers.iter_mut().enumerate() {
        let device = if worker == owner as usize { device.take() } else { None };
        let addrs = addrs.to_vec();
        slot.add_interface(Slot { id, kind, owner, mac, addrs, device, out: Burst::default(), gone: false });
    }
    peer
}

/// A packet with work left to do, as a TAP may hand it up (see `io/tap/vnet.rs` for what it refuses).
fn super_frame(input: &mut Input, interface: u32) -> WirePacket {
    let mut bytes = frames::chosen(input, interface);
    let more = input.word() as usize % 20_000;
    if input.byte().is_multiple_of(2) && bytes.len() > 40 {
        bytes.resize(bytes.len() + more, 0);
        let size = (bytes.len() - ETHERNET_BYTES) as u16;
        bytes[16..18].copy_from_slice(&size.to_be_bytes());
    }
    let (start, offset) = (input.word() % 64, input.word() % 32);
    let fits = (start + offset) as usize + 2 <= bytes.len().min(1792);
    let checksum = if fits { Checksum::Partial { start, offset } } else { Checksum::Unverified };
    let size = 1 + input.word() % 4096;
    let gso = match input.byte() % 4 {
        1 if fits => Gso::Tcp4(size),
        2 if fits => Gso::Tcp6(size),
        3 if fits => Gso::Udp(size),
        _ => Gso::None,
    };
    WirePacket { bytes, checksum, gso, gso_ecn: size % 2 == 1 }
}

/// What goes out is a frame, and a right one where the node wrote all of it.
fn check_sent(interface: u32, packet: &WirePacket) {
    let bytes = &packet.bytes;
    match parse(bytes, bytes.len()) {
        Parsed::Ip(meta) | Parsed::Fragment(meta, _) => {
            let at = meta.l3 as usize;
            let by_node = interface == cluster::UPLINK && meta.is_v4;
            let is_tunnel = meta.dst_port == cluster::TUNNEL_PORT || is_ip_in_ip(&meta, &cluster::OTHER_NODE);
            if by_node && is_tunnel && meta.src == cluster::NODE[0] && meta.dst == cluster::OTHER_NODE[0] {
                let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&bytes[at..at + 20]);
                assert_eq!(sum.ones_complement(), 0, "outer header of {meta:?}");
            }
        }
        Parsed::Arp => {}
        Parsed::Drop(reason) => {
            panic!("interface {interface} was sent what is dropped as {}: {bytes:02x?}", reason.name())
        }
    }
}

/// Exchanges the ends of a frame, outer and inner, so that it reads as an answer. Checksums stay right.
fn turn_around(bytes: &mut [u8]) {
    let Parsed::Ip(meta) = parse(bytes, bytes.len()) else { return };
    let (l3, l4, size) = (meta.l3 as usize, meta.l4 as usize, if meta.src.is_v4() { 4 } else { 16 });
    let first = if meta.src.is_v4() { l3 + 12 } else { l3 + 8 };
    swap(bytes, 0, 6);
    swap(bytes, first, size);
    if meta.protocol == tables::Protocol::UDP && meta.dst_port == cluster::TUNNEL_PORT {
        return turn_around(&mut bytes[l4 + 16..]);
    }
    if is_ip_in_ip(&meta, &cluster::NODE) || is_ip_in_ip(&meta, &cluster::OTHER_NODE) {
        let ethertype: [u8; 2] = if meta.protocol.0 == 4 { [8, 0] } else { [0x86, 0xdd] };
        let mut inner = [&[0; 12][..], &ethertype, &bytes[l4..]].concat();
        turn_around(&mut inner);
        return bytes[l4..].copy_from_slice(&inner[14..]);
    }
    if meta.protocol.has_ports() {
        swap(bytes, l4, 2);
    }
}

/// Exchanges two neighbouring fields of `size` bytes.
fn swap(bytes: &mut [u8], at: usize, size: usize) {
    let (one, other) = bytes[at..at + 2 * size].split_at_mut(size);
    one.swap_with_slice(other);
}
