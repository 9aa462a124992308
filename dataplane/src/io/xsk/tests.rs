//! AF_XDP over veth pairs, judged by the kernel's stack at their far ends.

use super::*;
use crate::io::test_devices::{Namespace, Redirect, drops, forward, pool};
use etherparse::PacketBuilder;
use rustix::net::{AddressFamily, SocketType, socket};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(super) const FRAMES: u32 = 1024;

/// A namespace with `nic0`, and one at the other end of the wire with `eth0` and 10.8.0.`number`.
pub(super) struct Rig {
    pub(super) home: Namespace,
    pub(super) peer: Namespace,
}

/// Adds a veth pair between two namespaces. What faces AF_XDP must complete its checksums itself.
fn wire(home: &Namespace, peer: &Namespace, nic: &str, number: u8, queues: u8) {
    wire_of(home, peer, nic, number, &format!("numrxqueues {queues} numtxqueues {queues}"));
}

/// Both ends have this shape.
pub(super) fn wire_of(home: &Namespace, peer: &Namespace, nic: &str, number: u8, shape: &str) {
    let (mac, path) = (format!("02:00:00:00:00:0{number}"), peer.path());
    home.shell(&format!(
        "ip link add {nic} {shape} type veth peer name eth0 address {mac} {shape} netns {path}; ip link set {nic} up"
    ));
    peer.shell(&format!(
        "ethtool -K eth0 tx off >/dev/null; ip address add 10.8.0.{number}/24 dev eth0; ip link set eth0 up; \
         ip neigh add 10.8.0.9 lladdr 02:00:00:00:00:01 dev eth0"
    ));
}

impl Rig {
    fn new() -> Rig {
        Rig::with_queues(1)
    }

    fn with_queues(queues: u8) -> Rig {
        let rig = Rig { home: Namespace::new(), peer: Namespace::new() };
        wire(&rig.home, &rig.peer, "nic0", 2, queues);
        rig
    }

    pub(super) fn listener(&self) -> UdpSocket {
        self.peer.run(|| {
            let socket = UdpSocket::bind(("10.8.0.2", 9999)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            socket
        })
    }
}

fn xdp_socket(home: &Namespace) -> OwnedFd {
    home.run(|| socket(AddressFamily::XDP, SocketType::RAW, None).unwrap())
}

pub(super) fn config(size: u32) -> XskConfig {
    XskConfig { interface: 3, fill: size, completion: size, rx: size, tx: size, reserve: 128, ..XskConfig::default() }
}

fn try_open(home: &Namespace, nic: &str, queue: u32, pool: &FramePool, holder: u8) -> Result<Xsk, XskError> {
    try_open_as(home, nic, queue, pool, holder, config(256))
}

pub(super) fn try_open_as(
    home: &Namespace,
    nic: &str,
    queue: u32,
    pool: &FramePool,
    holder: u8,
    config: XskConfig,
) -> Result<Xsk, XskError> {
    let (fd, ifindex) = (xdp_socket(home), home.ifindex(nic));
    Xsk::open(fd, ifindex, queue, pool.memory_arc(), holder, config, None).map(|(xsk, _)| xsk)
}

/// A socket on the first queue of a NIC that is handed all its packets.
fn open(home: &Namespace, nic: &str, pool: &mut FramePool, holder: u8) -> (Xsk, Redirect) {
    open_as(home, nic, pool, holder, config(256))
}

pub(super) fn open_as(
    home: &Namespace,
    nic: &str,
    pool: &mut FramePool,
    holder: u8,
    config: XskConfig,
) -> (Xsk, Redirect) {
    let mut xsk = try_open_as(home, nic, 0, pool, holder, config).unwrap();
    let ifindex = home.ifindex(nic);
    let redirect = home.run(move || Redirect::attach(ifindex));
    redirect.insert(0, xsk.readiness().unwrap().as_raw_fd());
    xsk.housekeep(pool);
    (xsk, redirect)
}

pub(super) fn datagram(payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(OUR_MAC, PEER_MAC);
    let mut bytes = Vec::new();
    builder.ipv4([10, 8, 0, 9], [10, 8, 0, 2], 64).udp(7777, 9999).write(&mut bytes, payload).unwrap();
    bytes
}

pub(super) fn send(xsk: &mut Xsk, pool: &mut FramePool, packets: impl IntoIterator<Item = Packet>) -> usize {
    let mut burst = Burst::default();
    packets.into_iter().for_each(|packet| burst.push(packet).unwrap());
    xsk.tx(pool, &mut burst);
    let left = burst.len();
    burst.drain().for_each(|packet| pool.put_packet(packet));
    left
}

/// Runs rounds without receiving until all but `lent` frames are back.
fn settle(xsk: &mut Xsk, pool: &mut FramePool, lent: usize) {
    let started = Instant::now();
    while pool.available() + lent < FRAMES as usize && started.elapsed() < Duration::from_secs(5) {
        xsk.reap(pool);
        xsk.kick();
    }
    assert_eq!(pool.available() + lent, FRAMES as usize, "frames that did not come back");
}

#[test]
fn a_packet_arrives_wherever_in_its_frame_it_starts() {
    let (rig, mut pool) = (Rig::new(), pool(FRAMES));
    let mut xsk = try_open(&rig.home, "nic0", 0, &pool, 1).unwrap();
    assert_eq!(xsk.mode(), XdpMode::Copy);
    let socket = rig.listener();
    for moved in [0usize, 1, 50, 128] {
        let mut packet = pool.copy_in(&[vec![0xee; moved], datagram(&[moved as u8; 20])].concat()).unwrap();
        assert!(packet.pop_front(moved));
        assert_eq!(send(&mut xsk, &mut pool, [packet]), 0);
        let mut outer = pool.copy_in(&datagram(&[moved as u8; 20])[moved.min(42)..]).unwrap();
        assert!(outer.push_front(moved.min(42)));
        let header = datagram(&[moved as u8; 20]);
        pool.memory().head_mut(&mut outer)[..moved.min(42)].copy_from_slice(&header[..moved.min(42)]);
        assert_eq!(send(&mut xsk, &mut pool, [outer]), 0);
        let mut buffer = [0; 100];
        for _ in 0..2 {
            assert_eq!(socket.recv(&mut buffer).unwrap(), 20);
            assert_eq!(buffer[..20], [moved as u8; 20]);
        }
    }
    settle(&mut xsk, &mut pool, 0);
}

#[test]
fn received_packets_lie_behind_the_headroom() {
    let (rig, mut pool) = (Rig::new(), pool(FRAMES));
    let (mut xsk, _redirect) = open(&rig.home, "nic0", &mut pool, 1);
    assert_eq!(pool.available(), FRAMES as usize - 256, "the fill ring is full");
    let socket = rig.listener();
    socket.send_to(&[9; 700], "10.8.0.9:53").unwrap();
    let (mut burst, started) = (Burst::default(), Instant::now());
    let is_ours = |pool: &FramePool, packet: &Packet| pool.memory().head(packet).get(23) == Some(&17);
    while !burst.iter().any(|packet| is_ours(&pool, packet)) {
        assert!(started.elapsed() < Duration::from_secs(5));
        xsk.rx(&mut pool, &mut burst);
    }
    let packet = burst.drain().find(|packet| packet.total_size() == 742).unwrap();
    let mut packet = packet;
    assert_eq!((packet.start as usize, packet.interface), (crate::io::frames::HEADROOM, 3));
    assert!(pool.memory().head(&packet).ends_with(&[9; 700]));
    assert!(packet.push_front(128), "room for outer headers");
    pool.put_packet(packet);
    xsk.close(&mut pool);
}

#[test]
fn bursts_beyond_the_kernels_budget_arrive_whole_and_every_frame_returns() {
    let (rig, mut pool) = (Rig::new(), pool(FRAMES));
    let mut xsk = try_open(&rig.home, "nic0", 0, &pool, 1).unwrap();
    let socket = rig.listener();
    let receiver = std::thread::spawn(move || {
        let mut buffer = [0; 2000];
        (0..1000u32)
            .map(|_| socket.recv(&mut buffer).map(|_| u32::from_be_bytes(buffer[..4].try_into().unwrap())))
            .collect()
    });
    for first in (0..1000u32).step_by(50) {
        let packets: Vec<Packet> =
            (first..first + 50).map(|number| pool.copy_in(&datagram(&number.to_be_bytes())).unwrap()).collect();
        assert_eq!(send(&mut xsk, &mut pool, packets), 0);
        std::thread::sleep(Duration::from_millis(1));
    }
    let received: std::io::Result<Vec<u32>> = receiver.join().unwrap();
    assert_eq!(received.unwrap(), (0..1000).collect::<Vec<u32>>());
    settle(&mut xsk, &mut pool, 0);
    assert_eq!(drops(&mut xsk), vec![]);
}

pub(super) fn bulk(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 7 % 251) as u8).collect()
}

/// Sends bulk over TCP from `other` (10.8.0.4) to the rig's peer, which must get it as it was sent; the bytes of the
/// largest packet on the way.
pub(super) fn largest_of_tcp(
    rig: &Rig,
    other: &Namespace,
    pool: &mut FramePool,
    nics: [&mut dyn Interface; 2],
) -> usize {
    rig.peer.shell("ip neigh add 10.8.0.4 lladdr 02:00:00:00:00:04 dev eth0");
    other.shell("ip neigh add 10.8.0.2 lladdr 02:00:00:00:00:02 dev eth0");
    let listener = rig.peer.run(|| TcpListener::bind((Ipv4Addr::new(10, 8, 0, 2), 80)).unwrap());
    let sent = bulk(3_000_000);
    let bytes = sent.clone();
    let receiver = std::thread::spawn(move || {
        let mut received = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
        received
    });
    let _sender = other.start(move || TcpStream::connect("10.8.0.2:80").unwrap().write_all(&bytes).unwrap());
    let mut largest = 0;
    let look = |_: &FramePool, packet: &Packet| largest = largest.max(packet.total_size());
    forward(pool, nics, look, || receiver.is_finished());
    assert!(receiver.join().unwrap() == sent, "bytes differ");
    largest
}

#[test]
fn tcp_between_two_nics_arrives_intact() {
    let (rig, other, mut pool) = (Rig::new(), Namespace::new(), pool(FRAMES));
    wire(&rig.home, &other, "nic1", 4, 1);
    let (mut one, _redirect) = open(&rig.home, "nic0", &mut pool, 1);
    let (mut two, _redirect) = open(&rig.home, "nic1", &mut pool, 2);
    assert_eq!(largest_of_tcp(&rig, &other, &mut pool, [&mut one, &mut two]), 1514);
    one.close(&mut pool);
    two.close(&mut pool);
    assert_eq!((pool.available(), drops(&mut one), drops(&mut two)), (FRAMES as usize, vec![], vec![]));
}

/// Runs it in a thread of this process that has no capability.
fn without_capabilities<T: Send>(job: impl FnOnce() -> T + Send) -> T {
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            set_capabilities(None, sets).unwrap();
            job()
        });
        thread.join().unwrap()
    })
}

#[test]
fn a_second_queue_joins_and_sends_without_any_capability() {
    let (rig, mut pool) = (Rig::with_queues(2), pool(FRAMES));
    let first = try_open(&rig.home, "nic0", 0, &pool, 1).unwrap();
    let (fd, ifindex, socket) = (xdp_socket(&rig.home), rig.home.ifindex("nic0"), rig.listener());
    let share = first.readiness();
    let mut second = without_capabilities(|| {
        let (mut xsk, mode) = Xsk::open(fd, ifindex, 1, pool.memory_arc(), 2, config(128), share).unwrap();
        assert_eq!(mode, XdpMode::Copy);
        let packet = pool.copy_in(&datagram(b"second queue")).unwrap();
        assert_eq!(send(&mut xsk, &mut pool, [packet]), 0);
        xsk
    });
    assert_eq!(socket.recv(&mut [0; 100]).unwrap(), 12);
    settle(&mut second, &mut pool, 0);
}

#[test]
fn memory_beyond_the_limit_names_the_capability() {
    let (rig, pool) = (Rig::new(), pool(32 * 1024));
    let error = without_capabilities(|| try_open(&rig.home, "nic0", 0, &pool, 1).err().unwrap());
    assert!(matches!(error, XskError::Memlock { mib: 128 }), "{error}");
    assert!(error.to_string().contains("CAP_IPC_LOCK"));
}

#[test]
fn a_busy_queue_a_missing_one_and_a_missing_device_are_told_apart() {
    let (rig, pool) = (Rig::with_queues(2), pool(FRAMES));
    let open = |queue| try_open(&rig.home, "nic0", queue, &pool, 1);
    let _first = open(0).unwrap();
    let error = open(0).err().unwrap();
    assert!(matches!(error, XskError::Busy { queue: 0, .. }), "{error}");
    let error = open(7).err().unwrap();
    assert!(matches!(error, XskError::NoQueue { queue: 7, .. }), "{error}");
    let fd = xdp_socket(&rig.home);
    let error = Xsk::open(fd, 4000, 0, pool.memory_arc(), 1, config(256), None).err().unwrap();
    assert!(matches!(error, XskError::NoDevice { ifindex: 4000 }), "{error}");
}

#[test]
fn a_queue_is_free_again_after_it_was_closed() {
    let (rig, mut pool) = (Rig::new(), pool(FRAMES));
    for _ in 0..5 {
        let (mut xsk, _redirect) = open(&rig.home, "nic0", &mut pool, 1);
        assert!(pool.available() < FRAMES as usize);
        xsk.close(&mut pool);
        assert_eq!(pool.available(), FRAMES as usize);
    }
}

#[test]
fn what_a_nic_cannot_send_is_dropped_and_named() {
    let (rig, mut pool) = (Rig::new(), pool(FRAMES));
    let mut xsk = try_open(&rig.home, "nic0", 0, &pool, 1).unwrap();
    let chained = pool.copy_in(&[0; 5000]).unwrap();
    let mut partial = pool.copy_in(&datagram(b"half")).unwrap();
    partial.checksum = Checksum::Partial { start: 34, offset: 6 };
    let mut gso = pool.copy_in(&datagram(b"super")).unwrap();
    gso.gso = Gso::Udp(2);
    let short = pool.copy_in(&[0; 13]).unwrap();
    assert_eq!(send(&mut xsk, &mut pool, [chained, partial, gso, short]), 0);
    use DropReason::{BadChecksum, Oversized, Truncated};
    assert_eq!(drops(&mut xsk), vec![(Truncated, 1), (Oversized, 2), (BadChecksum, 1)]);
    assert_eq!(pool.available(), FRAMES as usize);
}

#[test]
fn a_device_that_is_down_fills_the_ring_and_the_rest_stays() {
    let (rig, mut pool) = (Rig::new(), pool(FRAMES));
    let mut xsk = try_open(&rig.home, "nic0", 0, &pool, 1).unwrap();
    rig.home.shell("ip link set nic0 down");
    let mut left = 0;
    for _ in 0..5 {
        let packets: Vec<Packet> = (0..64).map(|_| pool.copy_in(&datagram(b"down")).unwrap()).collect();
        left += send(&mut xsk, &mut pool, packets);
    }
    assert_eq!((left, xsk.is_gone()), (64, false));
    rig.home.shell("ip link set nic0 up");
    settle(&mut xsk, &mut pool, 0);
}

#[test]
fn a_removed_device_is_noticed_by_a_worker_that_only_listens() {
    let (rig, mut pool) = (Rig::new(), pool(FRAMES));
    let (mut xsk, _redirect) = open(&rig.home, "nic0", &mut pool, 1);
    rig.home.shell("ip link delete nic0");
    (0..ROUNDS_PER_LOOK).for_each(|_| xsk.housekeep(&mut pool));
    assert!(xsk.is_gone());
    let packet = pool.copy_in(&datagram(b"gone")).unwrap();
    assert_eq!(send(&mut xsk, &mut pool, [packet]), 1);
    xsk.close(&mut pool);
    assert_eq!(pool.available(), FRAMES as usize);
}

#[test]
fn a_removed_device_is_noticed_by_sending() {
    let (rig, mut pool) = (Rig::new(), pool(FRAMES));
    let mut xsk = try_open(&rig.home, "nic0", 0, &pool, 1).unwrap();
    rig.home.shell("ip link delete nic0");
    let packet = pool.copy_in(&datagram(b"gone")).unwrap();
    send(&mut xsk, &mut pool, [packet]);
    assert!(xsk.is_gone());
    xsk.close(&mut pool);
    assert_eq!(pool.available(), FRAMES as usize);
}

#[test]
fn descriptors_are_not_believed() {
    let (rig, mut pool) = (Rig::new(), pool(FRAMES));
    let mut xsk = try_open(&rig.home, "nic0", 0, &pool, 1).unwrap();
    let lend = |pool: &mut FramePool| pool.memory_arc().lend(pool.take().unwrap(), 1);
    let good = XdpDescOptions::empty();
    let (mine, late, early) = (lend(&mut pool), lend(&mut pool), lend(&mut pool));
    // As the kernel says it where chunks begin anywhere.
    let mine = mine | 256 << 48;
    let claims = [(mine, 60, true), (mine, 60, false), (u64::MAX, 60, false), (0, 60, false)];
    let claims = claims.into_iter().chain([(late + 2000, 49, false), (early + 8, 60, false)]);
    for (addr, len, accepted) in claims {
        let packet = xsk.accept(&mut pool, XdpDesc { addr, len, options: good });
        assert_eq!(packet.is_some(), accepted, "{addr} {len}");
        packet.into_iter().for_each(|packet| pool.put_packet(packet));
    }
    assert_eq!(drops(&mut xsk), vec![(DropReason::Malformed, 5)]);
    let parts = [XdpDescOptions::XDP_PKT_CONTD, XdpDescOptions::XDP_PKT_CONTD, good];
    for options in parts {
        let addr = lend(&mut pool) + 256;
        assert!(xsk.accept(&mut pool, XdpDesc { addr, len: 1700, options }).is_none());
    }
    assert_eq!(drops(&mut xsk), vec![(DropReason::Oversized, 1)]);
    let addr = lend(&mut pool) + 256;
    xsk.accept(&mut pool, XdpDesc { addr, len: 60, options: good }).into_iter().for_each(|p| pool.put_packet(p));
    assert_eq!(pool.available(), FRAMES as usize);
}
