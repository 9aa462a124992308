//! One worker of a node in memory, and the traffic that is measured through it.

use crate::cluster::{self, Balanced, GATEWAY_MAC, HOST, OTHER_POD, POD, POD_ADDR, POD_MAC, Shape, UPLINK};
use crate::device::{Patch, Traffic};
use dataplane::flow::FlowTable;
use dataplane::handoff::Mailbox;
use dataplane::io::frames::Memory;
use dataplane::io::pool::FramePool;
use dataplane::packet::Burst;
use dataplane::worker::forward::Path;
use dataplane::worker::interfaces::{Interfaces, Slot};
use dataplane::worker::{Polling, Worker};
use etherparse::PacketBuilder;
use std::sync::Arc;
use tables::counters::{DropReason, InterfaceCounter, WorkerCounter};
use tables::flow::FlowLayout;
use tables::message::InterfaceKind;
use tables::owner::SnatPorts;
use tables::publish::Reader;
use tables::status::Status;
use tables::{Addr, Mac, Publisher};

mod outside;
mod v6;

/// Packets of one round: bursts of 64, two from one interface.
pub const ROUND: u64 = 128;
const FRAMES: u32 = 4096;
const FRAME_BYTES: u32 = 2048;
/// Backends of each service.
const BACKENDS: u32 = 4;
/// Bytes of a measured packet, without FCS: 64 on the wire are 60 here; 64 here are counted as DESIGN counts.
const PACKET_BYTES: usize = 64;

/// What goes through the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Pod to ClusterIP to a remote backend, encapsulated.
    Encap,
    /// The way back of such flows.
    Decap,
    /// As `Encap`, to backends that are reached without a tunnel.
    Plain,
    /// The way back of such flows.
    PlainBack,
    /// Pod to pod on this node, both halves of the flow.
    Local,
    /// `Encap`, `Decap` and `Local` of IPv6, in the same tunnel.
    EncapV6,
    DecapV6,
    LocalV6,
    /// Client outside to a load balancer's address to a pod of this node, which sees the client's address.
    Outside,
    /// The way back of such flows.
    OutsideBack,
    /// Client outside to a load balancer's address to a remote backend: masqueraded and encapsulated.
    Relay,
    /// The way back of such flows.
    RelayBack,
}

impl Kind {
    /// The cluster whose flows these are. Packets that come back to a pod bear the backend's address, so it must be known:
    /// one each.
    pub fn shape(self) -> Shape {
        let backends = if matches!(self, Kind::Decap | Kind::DecapV6 | Kind::PlainBack) { 1 } else { BACKENDS };
        let is_routed = matches!(self, Kind::Plain | Kind::PlainBack);
        let balanced = match self {
            Kind::Outside | Kind::OutsideBack => Some(Balanced::Here),
            Kind::Relay | Kind::RelayBack => Some(Balanced::There),
            _ => None,
        };
        let is_v6 = matches!(self, Kind::EncapV6 | Kind::DecapV6 | Kind::LocalV6);
        Shape { backends, is_routed, is_v6, balanced, ..Shape::default() }
    }

    /// What opens such flows.
    fn opening(self) -> Kind {
        match self {
            Kind::Decap => Kind::Encap,
            Kind::DecapV6 => Kind::EncapV6,
            Kind::PlainBack => Kind::Plain,
            Kind::OutsideBack => Kind::Outside,
            Kind::RelayBack => Kind::Relay,
            other => other,
        }
    }

    fn comes_by(self) -> u32 {
        match self {
            Kind::Encap | Kind::EncapV6 | Kind::Plain | Kind::Local | Kind::LocalV6 | Kind::OutsideBack => POD,
            Kind::Decap | Kind::DecapV6 | Kind::PlainBack | Kind::Outside | Kind::Relay | Kind::RelayBack => UPLINK,
        }
    }

    /// Where it leaves, and of what size.
    fn leaves_by(self) -> (u32, usize) {
        match self {
            Kind::Encap | Kind::EncapV6 | Kind::Relay => (UPLINK, OUTER + PACKET_BYTES),
            Kind::Plain | Kind::OutsideBack | Kind::RelayBack => (UPLINK, PACKET_BYTES),
            Kind::Decap | Kind::DecapV6 | Kind::PlainBack | Kind::Outside => (POD, PACKET_BYTES),
            Kind::Local | Kind::LocalV6 => (OTHER_POD, PACKET_BYTES),
        }
    }

    pub fn flows_each(self) -> usize {
        if matches!(self.opening(), Kind::Local | Kind::LocalV6 | Kind::Outside) { 2 } else { 1 }
    }
}

/// A worker with its interfaces.
pub struct Node {
    pub worker: Worker,
    pub status: Status,
    services: u32,
    // Held: the worker reads its memory.
    _publisher: Publisher,
}

impl Node {
    pub fn new(shape: Shape, flows_max: usize) -> Node {
        let publisher = shape.publisher();
        let status = Status::create(1).expect("memory for status");
        let mailboxes = Mailbox::all(1).expect("a mailbox");
        let worker = worker(0, &publisher, &status, &mailboxes, pools(1).remove(0), flows_max);
        Node { worker, status, services: shape.services, _publisher: publisher }
    }

    /// A node through which `flows` flows of a kind go in random order, all of them established.
    pub fn established(kind: Kind, flows: u32) -> Node {
        let mut node = Node::new(kind.shape(), flows as usize * kind.flows_each() * 5 / 4);
        node.connect(kind.opening(), (0..flows).collect());
        // The first round fills the ring.
        node.run(flows as u64 + 1024);
        assert_eq!(node.count(WorkerCounter::FlowsInserted), (flows as usize * kind.flows_each()) as u64);
        node.connect(kind, shuffled(flows));
        let before = node.sent(kind);
        node.run(flows as u64);
        node.assert_all_forwarded();
        let ([packets, bytes], (_, size)) = (node.sent(kind), kind.leaves_by());
        assert!(packets - before[0] >= flows as u64, "packets left elsewhere");
        assert_eq!(bytes - before[1], (packets - before[0]) * size as u64, "packets left with other headers");
        node
    }

    /// Packets and bytes that left where those of this kind do.
    fn sent(&self, kind: Kind) -> [u64; 2] {
        let (interface, _) = kind.leaves_by();
        let counters = [InterfaceCounter::TxPackets, InterfaceCounter::TxBytes];
        counters.map(|counter| self.status.block(0).interface(interface as usize, counter))
    }

    /// Replaces all interfaces by ones that deliver traffic of this kind.
    pub fn connect(&mut self, kind: Kind, order: Vec<u32>) {
        let from = kind.comes_by();
        let (template, mut patch) = traffic(kind, self.services);
        if kind == Kind::RelayBack {
            patch = outside::answers(self.ports());
        }
        let mut traffic = Some(Traffic::new(from, template, patch, order));
        for (id, kind) in [
            (UPLINK, InterfaceKind::Uplink),
            (HOST, InterfaceKind::Host),
            (POD, InterfaceKind::Pod),
            (OTHER_POD, InterfaceKind::Pod),
        ] {
            let silent = || Traffic::silent(id);
            let device = if id == from { traffic.take().unwrap_or_else(silent) } else { silent() };
            self.replace(id, kind, device);
        }
    }

    fn replace(&mut self, id: u32, kind: InterfaceKind, device: Traffic) {
        let path = self.worker.path();
        if let Some(slot) = path.interfaces.slot_mut(id) {
            if let Some(old) = &mut slot.device {
                old.close(&mut path.pool);
            }
            slot.device = Some(Box::new(device));
            return;
        }
        let (mac, addrs) = (POD_MAC, vec![POD_ADDR, cluster::v6(POD_ADDR)]);
        let device: Option<Box<dyn dataplane::io::Interface>> = Some(Box::new(device));
        self.worker.add_interface(Slot { id, kind, owner: 0, mac, addrs, device, out: Burst::default(), gone: false });
    }

    /// Rounds until so many packets went through.
    pub fn run(&mut self, packets: u64) {
        let mut done = 0;
        while done < packets {
            let now = self.worker.round() as u64;
            assert!(now > 0, "no packets come");
            done += now;
        }
    }

    /// Of each flow the port that it was given, and the backend.
    fn ports(&mut self) -> Vec<(u16, Addr)> {
        let records = tables::flow::list(self.worker.path().flows.region()).expect("a region of flows");
        records.map(|record| record.outside()).map(|outside| (outside.local_port, outside.remote)).collect()
    }

    pub fn count(&self, counter: WorkerCounter) -> u64 {
        self.status.block(0).get(counter)
    }

    /// Memory of flows and frames.
    pub fn bytes(&mut self) -> u64 {
        let path = self.worker.path();
        path.flows.region().words().len() as u64 * 8 + path.pool.memory().size() as u64
    }

    /// A bench that measures drops measures nothing.
    pub fn assert_all_forwarded(&self) {
        let dropped = DropReason::ALL.iter().filter(|&&reason| self.status.block(0).drops(reason) > 0);
        let dropped: Vec<&str> = dropped.map(|reason| reason.name()).collect();
        assert!(dropped.is_empty(), "packets were dropped: {dropped:?}");
    }
}

/// One of as many workers as there are mailboxes, without interfaces.
pub fn worker(
    id: u16,
    publisher: &Publisher,
    status: &Status,
    mailboxes: &Arc<[Mailbox]>,
    pool: FramePool,
    flows_max: usize,
) -> Worker {
    let path = path(id, publisher, status, mailboxes, pool, flows_max);
    Worker::new(path, mailboxes.clone(), Polling::Poll).expect("an epoll")
}

/// What such a worker forwards with.
pub fn path(
    id: u16,
    publisher: &Publisher,
    status: &Status,
    mailboxes: &Arc<[Mailbox]>,
    pool: FramePool,
    flows_max: usize,
) -> Path {
    let workers = mailboxes.len() as u16;
    let flows = FlowLayout::for_capacity(flows_max).create(id, workers, 7, 0).expect("memory for flows");
    let flows = FlowTable::new(flows).expect("fresh memory");
    let interfaces = Interfaces::new(id, mailboxes.clone());
    let snat = SnatPorts::new(40_000, 60_999, workers).expect("a good range");
    let mut path = Path::new(id, snat, flows, pool, interfaces, status.clone());
    let fd = publisher.region().fd().try_clone_to_owned().expect("a descriptor");
    path.reader = Some(Box::new(Reader::from_fd(fd).expect("good tables")));
    path
}

/// Frames for each of so many workers.
pub fn pools(workers: usize) -> Vec<FramePool> {
    let (memory, frames) = Memory::create(FRAMES * workers as u32, FRAME_BYTES).expect("memory for frames");
    FramePool::divide(Arc::new(memory), frames, workers)
}

/// A repeatable shuffle of 0..count (Fisher-Yates by a linear congruential generator).
pub fn shuffled(count: u32) -> Vec<u32> {
    let mut order: Vec<u32> = (0..count).collect();
    let mut state = 1u64;
    for i in (1..order.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        order.swap(i, (state >> 33) as usize % (i + 1));
    }
    order
}

fn udp(src_mac: Mac, src: Addr, dst: Addr, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(src_mac.0, GATEWAY_MAC.0);
    let builder = match src.is_v4() {
        true => builder.ipv4(src.v4_octets(), dst.v4_octets(), 64),
        false => builder.ipv6(src.v6_octets(), dst.v6_octets(), 64),
    };
    let mut bytes = Vec::new();
    builder.udp(ports.0, ports.1).write(&mut bytes, payload).expect("a vector takes all bytes");
    bytes
}

/// Bytes before the inner frame of a packet in the tunnel.
pub const OUTER: usize = 50;
const FIRST_PORT: u32 = 1024;

/// The frame of a kind, and what tells its flows apart. Checksums are not made right for each flow: nobody on the path
/// verifies one.
pub fn traffic(kind: Kind, services: u32) -> (Vec<u8>, Patch) {
    let payload = &[0; PACKET_BYTES - 42];
    match kind {
        Kind::Encap | Kind::Plain => {
            let frame = udp(POD_MAC, POD_ADDR, cluster::service(0), (1, cluster::SERVICE_PORT), payload);
            let patch = move |bytes: &mut [u8], i: u32| {
                put_addr(bytes, 30, cluster::service(i % services));
                put(bytes, 34, FIRST_PORT + i / services);
            };
            (frame, Box::new(patch))
        }
        Kind::Decap => (in_tunnel(&answer(payload)), put_answer(OUTER, services)),
        Kind::PlainBack => (answer(payload), put_answer(0, services)),
        Kind::Local => (
            udp(POD_MAC, POD_ADDR, cluster::OTHER_POD_ADDR, (1, 80), payload),
            Box::new(|bytes, i| {
                put(bytes, 34, FIRST_PORT + i % 60_000);
                put(bytes, 36, 80 + i / 60_000);
            }),
        ),
        Kind::EncapV6 => v6::asking(services),
        Kind::DecapV6 => v6::answering(services),
        Kind::LocalV6 => v6::between_pods(),
        Kind::Outside | Kind::Relay => outside::asking(payload, services),
        Kind::OutsideBack => outside::answered_here(payload),
        Kind::RelayBack => {
            (outside::answered_there(payload), outside::answers(vec![(FIRST_PORT as u16, cluster::PEER)]))
        }
    }
}

/// Through the tunnel, from the peer.
fn in_tunnel(inner: &[u8]) -> Vec<u8> {
    let vxlan = [&[8, 0, 0, 0, 0, 0, 1, 0][..], inner].concat();
    udp(GATEWAY_MAC, cluster::PEER, cluster::NODE, (50_000, cluster::TUNNEL_PORT), &vxlan)
}

fn answer(payload: &[u8]) -> Vec<u8> {
    udp(GATEWAY_MAC, cluster::backend(0), POD_ADDR, (cluster::BACKEND_PORT, 1), payload)
}

/// Writes flow `i`'s backend and port into an answer that begins at `at`.
fn put_answer(at: usize, services: u32) -> Patch {
    Box::new(move |bytes, i| {
        put_addr(bytes, at + 26, cluster::backend(i % services));
        put(bytes, at + 36, FIRST_PORT + i / services);
    })
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 2].copy_from_slice(&(value as u16).to_be_bytes());
}

fn put_addr(bytes: &mut [u8], at: usize, addr: Addr) {
    bytes[at..at + 4].copy_from_slice(&addr.v4_octets());
}
