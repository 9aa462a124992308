//! A node of one or more workers, driven round by round in the calling thread, with memory for every interface.

use super::packets::{Outer, decapsulate, encapsulate, outer};
use super::*;
use dataplane::balance::loads::Loads;
use dataplane::balance::turns::Turns;
use dataplane::flow::FlowTable;
use dataplane::handoff::Mailbox;
use dataplane::io::frames::Memory;
use dataplane::io::mem::{self, MemConfig, MemPeer, WirePacket};
use dataplane::io::pool::FramePool;
use dataplane::io::vlan::tagged;
use dataplane::packet::{Burst, Checksum};
use dataplane::worker::forward::Path;
use dataplane::worker::interfaces::{Interfaces, Slot};
use dataplane::worker::{Polling, Worker};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tables::counters::{DropReason, WorkerCounter};
use tables::flow::FlowLayout;
use tables::message::InterfaceKind;
use tables::owner::SnatPorts;
use tables::region::Access;
use tables::scope::ScopeCounters;
use tables::status::Status;
use tables::{Publisher, Reader, Region};

/// What a node is made of.
#[derive(Clone, Debug)]
pub struct Shape {
    /// 1 or 2; the other number is its peer's.
    pub number: u8,
    pub workers: u16,
    /// Workers that have a queue of the uplink.
    pub uplink_queues: u16,
    /// (last octet, owner).
    pub pods: Vec<(u8, u16)>,
    pub host_owner: u16,
    pub flows_max: usize,
    pub ring_len: usize,
    /// The family of the addresses between nodes: 0 IPv4, 1 IPv6. Pods have both.
    pub underlay: usize,
    pub wrapped: Wrapped,
    pub uplink_mtu: u16,
    /// The 802.1Q tag of the uplink's frames, 0 for none.
    pub vlan: u16,
}

impl Default for Shape {
    fn default() -> Shape {
        let pods = vec![(4, 0), (5, 0), (6, 0)];
        Shape {
            number: 1,
            workers: 1,
            uplink_queues: 1,
            pods,
            host_owner: 0,
            flows_max: 1024,
            ring_len: 512,
            underlay: 0,
            wrapped: Wrapped::Vxlan,
            uplink_mtu: UPLINK_MTU,
            vlan: 0,
        }
    }
}

impl Shape {
    /// The outer headers of a packet from one node to another.
    pub fn outer(&self, from: u8, to: u8) -> Outer {
        let addr = if self.underlay == 0 { node_addr } else { node_addr_v6 };
        let vni = if self.wrapped == Wrapped::Ip { 0 } else { VNI };
        let usual = outer(addr(from), uplink_mac(from), addr(to), uplink_mac(to));
        Outer { wrapped: self.wrapped, vni, ..usual }
    }

    /// The Ethernet address of a node inside the tunnel; IP in IP has none.
    pub fn inner_mac(&self, number: u8) -> Mac {
        match (self.wrapped, self.underlay) {
            (Wrapped::Ip, _) => Mac::default(),
            (_, 0) => inner_mac(number),
            _ => Mac([2, 0xfa, 0, 0, 0, number]),
        }
    }
}

/// As a process draws it at random: no two workers begin with the same scope counters.
static START: AtomicU32 = AtomicU32::new(1);

pub struct Node {
    pub shape: Shape,
    pub publisher: Publisher,
    pub status: Status,
    pub workers: Vec<Worker>,
    /// By interface and worker that polls it.
    pub peers: BTreeMap<(u32, u16), MemPeer>,
    memory: Arc<Memory>,
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Outcome {
    pub sent: Vec<Sent>,
    pub dropped: Vec<DropReason>,
}

/// A packet that left. The source port of a tunnel packet is checked to be in the dynamic range, and left out here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    Plain(u32, Spec),
    Tunnel(Outer, Spec),
}

impl Node {
    pub fn new(shape: Shape) -> Node {
        Node::with_flows(shape, |_| None)
    }

    /// A node whose workers adopt the flow memory that `predecessor` names.
    pub fn with_flows(shape: Shape, predecessor: impl Fn(u16) -> Option<OwnedFd>) -> Node {
        let status = Status::create(shape.workers as usize).unwrap();
        let mailboxes = Mailbox::all(shape.workers as usize).unwrap();
        let (memory, frames) = Memory::create(2048 * shape.workers as u32, 2048).unwrap();
        let memory = Arc::new(memory);
        let pools = FramePool::divide(memory.clone(), frames, shape.workers as usize);
        let publisher = Publisher::create(0x5eed).unwrap();
        let mut node = Node { shape, publisher, status, workers: Vec::new(), peers: BTreeMap::new(), memory };
        for (id, pool) in pools.into_iter().enumerate() {
            node.start_worker(id as u16, pool, mailboxes.clone(), predecessor(id as u16));
        }
        node.count_together();
        let shape = node.shape.clone();
        node.publish(|rows| rows.base(&shape));
        node
    }

    /// Turns and loads are all workers', as in a dataplane.
    fn count_together(&mut self) {
        let (turns, loads) = (Arc::<Turns>::default(), Arc::<Loads>::default());
        for worker in &mut self.workers {
            worker.path().turns = turns.clone();
            worker.path().flows.count_with(loads.clone());
        }
    }

    fn start_worker(&mut self, id: u16, pool: FramePool, mailboxes: Arc<[Mailbox]>, adopted: Option<OwnedFd>) {
        let workers = self.shape.workers;
        let snat = SnatPorts::new(SNAT_FIRST, SNAT_LAST, workers).unwrap();
        let flows = match adopted {
            Some(fd) => {
                let region = Region::attach(fd, Access::ReadWrite).unwrap();
                FlowTable::adopt(region, id, workers).unwrap().expect("flows of the same shape")
            }
            None => {
                let layout = FlowLayout::for_capacity(self.shape.flows_max);
                FlowTable::new(layout.create(id, workers, 0xf10, 0).unwrap()).unwrap()
            }
        };
        let interfaces = Interfaces::new(id, mailboxes.clone());
        let mut path = Path::new(id, snat, flows, pool, interfaces, self.status.clone());
        path.scopes = ScopeCounters::starting_at(START.fetch_add(0x1000, Ordering::Relaxed));
        let fd = self.publisher.region().fd().try_clone_to_owned().unwrap();
        path.reader = Some(Box::new(Reader::from_fd(fd).unwrap()));
        let mut worker = Worker::new(path, mailboxes, Polling::Interrupt).unwrap();
        for slot in self.slots(id) {
            worker.add_interface(slot);
        }
        self.workers.push(worker);
    }

    fn slots(&mut self, worker: u16) -> Vec<Slot> {
        let n = self.shape.number;
        let uplink_here = worker < self.shape.uplink_queues;
        let mut slots = vec![
            self.slot(UPLINK, InterfaceKind::Uplink, 0, uplink_mac(n), uplink_here.then_some(worker)),
            self.slot(HOST, InterfaceKind::Host, self.shape.host_owner, host_mac(n), Some(worker)),
        ];
        for (octet, owner) in self.shape.pods.clone() {
            let mut slot = self.slot(octet as u32, InterfaceKind::Pod, owner, pod_mac(n, octet), Some(worker));
            slot.addrs = vec![pod(n, octet), pod_v6(n, octet)];
            slots.push(slot);
        }
        slots
    }

    /// A slot, with a device if this worker polls it.
    fn slot(&mut self, id: u32, kind: InterfaceKind, owner: u16, mac: Mac, worker: Option<u16>) -> Slot {
        let is_uplink = kind == InterfaceKind::Uplink;
        let polls = worker.filter(|&worker| is_uplink || worker == owner);
        let ring_len = self.shape.ring_len;
        let chains = is_uplink && self.shape.uplink_mtu > UPLINK_MTU;
        let config = MemConfig { interface: id, ring_len, super_frames: !is_uplink, chains };
        let vlan = if is_uplink { self.shape.vlan } else { 0 };
        let device = polls.map(|worker| {
            let (device, peer) = mem::interface(config);
            self.peers.insert((id, worker), peer);
            tagged(Box::new(device), vlan)
        });
        Slot { id, kind, owner, mac, addrs: Vec::new(), device, out: Burst::default(), gone: false }
    }

    /// Changes the tables.
    pub fn publish(&mut self, change: impl FnOnce(&mut Rows)) {
        self.run();
        let mut batch = self.publisher.batch(self.status.acks()).expect("all workers acknowledged");
        change(&mut Rows { batch: &mut batch, number: self.shape.number });
        batch.publish();
        self.run();
    }

    /// Rounds until nobody has anything left to do.
    pub fn run(&mut self) -> usize {
        let (mut total, mut quiet) = (0, 0);
        while quiet < 2 {
            let taken: usize = self.workers.iter_mut().map(Worker::round).sum();
            quiet = if taken == 0 { quiet + 1 } else { 0 };
            total += taken;
        }
        total
    }

    /// The other side of an interface; of the uplink that of queue 0.
    pub fn peer(&self, interface: u32) -> &MemPeer {
        self.peers.iter().find(|((id, _), _)| *id == interface).map(|(_, peer)| peer).unwrap()
    }

    pub fn drops(&self, reason: DropReason) -> u64 {
        self.status.blocks().map(|block| block.drops(reason)).sum()
    }

    pub fn count(&self, counter: WorkerCounter) -> u64 {
        self.status.blocks().map(|block| block.get(counter)).sum()
    }

    pub fn flows(&mut self) -> usize {
        self.workers.iter_mut().map(|worker| worker.path().flows.used()).sum()
    }

    /// Frames that no packet holds.
    pub fn frames_free(&mut self) -> usize {
        self.workers.iter_mut().map(|worker| worker.path().pool.available()).sum()
    }

    pub fn frames(&self) -> usize {
        self.memory.frames() as usize
    }

    /// Puts bytes in at an interface and tells what came of it. No frame may be lost on the way.
    pub fn pass_wire(&mut self, interface: u32, packet: impl Into<WirePacket>) -> Outcome {
        self.pass_queue(interface, None, packet)
    }

    /// As `pass_wire`, at the queue of one worker.
    pub fn pass_queue(&mut self, interface: u32, worker: Option<u16>, packet: impl Into<WirePacket>) -> Outcome {
        let before: Vec<u64> = DropReason::ALL.iter().map(|&reason| self.drops(reason)).collect();
        let peer = worker.map_or_else(|| self.peer(interface), |worker| &self.peers[&(interface, worker)]);
        assert!(peer.inject(packet));
        self.run();
        let mut outcome = Outcome::default();
        for (&reason, before) in DropReason::ALL.iter().zip(before) {
            outcome.dropped.extend(std::iter::repeat_n(reason, (self.drops(reason) - before) as usize));
        }
        outcome.sent = self.sent();
        let waiting = |worker: &mut Worker| worker.path().held.len() + worker.path().fragments.waiting();
        let held: usize = self.workers.iter_mut().map(waiting).sum();
        assert_eq!(self.frames_free(), self.frames() - held, "a frame was lost");
        outcome
    }

    /// Everything that left since the last look, read by an independent parser.
    pub fn sent(&mut self) -> Vec<Sent> {
        let all = self.peers.iter().flat_map(|((id, _), peer)| peer.take_all().into_iter().map(|p| (*id, p)));
        all.map(|(interface, packet)| Sent::judge(interface, &packet)).collect()
    }

    /// A packet as its sender would send it: Ethernet addresses filled in.
    pub fn dressed(&self, interface: u32, packet: &Spec) -> Spec {
        let n = self.shape.number;
        let (src, dst) = match interface {
            UPLINK => (ROUTER_MAC, uplink_mac(n)),
            octet => (pod_mac(n, octet as u8), GATEWAY_MAC),
        };
        packet.clone().macs(src, dst)
    }

    pub fn pass(&mut self, interface: u32, packet: &Spec) -> Outcome {
        self.pass_wire(interface, self.dressed(interface, packet).bytes())
    }

    /// Puts a packet in that comes out of the tunnel from the peer.
    pub fn pass_tunnel(&mut self, inner: &Spec) -> Outcome {
        self.pass_wire(UPLINK, self.peers_packet(inner).bytes())
    }

    /// The tunnel packet that the peer sends.
    pub fn peers_packet(&self, inner: &Spec) -> Spec {
        let n = self.shape.number;
        let inner = inner.clone().macs(self.shape.inner_mac(3 - n), self.shape.inner_mac(n));
        self.peers_frame(&inner.bytes())
    }

    /// The same around any frame.
    pub fn peers_frame(&self, inner: &[u8]) -> Spec {
        let n = self.shape.number;
        encapsulate(&self.shape.outer(3 - n, n), 55_555, inner)
    }

    /// What `pass` answers for a packet that reaches a pod or the host.
    pub fn delivered(&self, interface: u32, packet: Spec) -> Outcome {
        Outcome::sent(Sent::Plain(interface, packet.macs(GATEWAY_MAC, pod_mac(self.shape.number, interface as u8))))
    }

    /// ... that goes through the tunnel.
    pub fn tunnelled(&self, inner: Spec) -> Outcome {
        let n = self.shape.number;
        let inner = inner.macs(self.shape.inner_mac(n), self.shape.inner_mac(3 - n));
        let outer = Outer { traffic_class: inner.traffic_class, ..self.shape.outer(n, 3 - n) };
        Outcome::sent(Sent::Tunnel(outer, inner))
    }

    /// ... that leaves plainly to a next hop.
    pub fn routed(&self, next_hop: Mac, packet: Spec) -> Outcome {
        Outcome::sent(Sent::Plain(UPLINK, packet.macs(uplink_mac(self.shape.number), next_hop)))
    }
}

impl Outcome {
    pub fn sent(sent: Sent) -> Outcome {
        Outcome { sent: vec![sent], dropped: Vec::new() }
    }

    pub fn dropped(reason: DropReason) -> Outcome {
        Outcome { sent: Vec::new(), dropped: vec![reason] }
    }

    /// The one packet that was sent, whatever else was dropped.
    pub fn packet_of_any(&self) -> &Spec {
        match &self.sent[..] {
            [Sent::Plain(_, packet) | Sent::Tunnel(_, packet)] => packet,
            other => panic!("{other:?}"),
        }
    }

    /// The one packet that was sent, without its Ethernet and outer headers' say.
    pub fn packet(&self) -> &Spec {
        assert!(self.sent.len() == 1 && self.dropped.is_empty(), "{self:?}");
        match &self.sent[0] {
            Sent::Plain(_, packet) | Sent::Tunnel(_, packet) => packet,
        }
    }
}

impl Sent {
    fn judge(interface: u32, packet: &WirePacket) -> Sent {
        assert!(!matches!(packet.checksum, Checksum::Partial { .. }), "judge super-frames by `take_all`");
        let spec = Spec::judge(&packet.bytes);
        match decapsulate(&spec) {
            Some((outer, src_port, inner)) if interface == UPLINK => {
                let has_port = outer.wrapped != Wrapped::Ip;
                assert!(src_port >= 49_152 || !has_port, "{src_port} is not in the dynamic range");
                Sent::Tunnel(outer, inner)
            }
            _ => Sent::Plain(interface, spec),
        }
    }
}
