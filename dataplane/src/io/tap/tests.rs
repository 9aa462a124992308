//! TAPs against the kernel's own stack, in namespaces.

use super::*;
use crate::io::test_devices::{Namespace, drops, forward, pool};
use crate::packet::{Checksum, Gso};
use etherparse::{PacketBuilder, PacketBuilderStep, UdpHeader};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

const POD: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const ETHERNET_AND_IPV4: usize = 34;

/// A namespace with a TAP `pod0` that knows FAR's Ethernet address. It says nothing by itself: no IPv6.
fn pod() -> (Namespace, Tap, [u8; 6]) {
    let namespace = Namespace::new();
    let fd = namespace.tap("pod0", "10.9.0.2/24");
    namespace.shell(
        "echo 1 > /proc/sys/net/ipv6/conf/pod0/disable_ipv6; ip link set pod0 address 02:00:00:00:00:02
         ip neigh add 10.9.0.1 lladdr 02:00:00:00:00:01 dev pod0",
    );
    (namespace, Tap::open(fd, 5).unwrap(), [2, 0, 0, 0, 0, 2])
}

fn builder(mac: [u8; 6]) -> PacketBuilderStep<UdpHeader> {
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], mac).ipv4(FAR.octets(), POD.octets(), 64).udp(7777, 9999)
}

/// A UDP packet with a right checksum, and the uncomplemented pseudo-header sum that would stand there instead.
fn datagram(mac: [u8; 6], payload: &[u8]) -> (Vec<u8>, u16) {
    let mut bytes = Vec::new();
    builder(mac).write(&mut bytes, payload).unwrap();
    let words = [FAR.octets(), POD.octets()].concat();
    let words = words.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum::<u32>() + 17 + 8 + payload.len() as u32;
    let sum = (sum & 0xffff) + (sum >> 16);
    (bytes, ((sum & 0xffff) + (sum >> 16)) as u16)
}

fn socket(namespace: &Namespace) -> UdpSocket {
    namespace.run(|| {
        let socket = UdpSocket::bind((POD, 9999)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        socket
    })
}

fn receive_one(tap: &mut Tap, pool: &mut FramePool, wanted: impl Fn(&[u8]) -> bool) -> Packet {
    let (mut burst, started) = (Burst::default(), Instant::now());
    while started.elapsed() < Duration::from_secs(5) {
        tap.rx(pool, &mut burst);
        let mut found = None;
        for packet in burst.drain() {
            match found.is_none() && wanted(pool.memory().head(&packet)) {
                true => found = Some(packet),
                false => pool.put_packet(packet),
            }
        }
        if let Some(packet) = found {
            return packet;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("nothing came in 5 s");
}

fn send_one(tap: &mut Tap, pool: &mut FramePool, packet: Packet) -> usize {
    let mut burst = Burst::default();
    burst.push(packet).unwrap();
    tap.tx(pool, &mut burst);
    let left = burst.len();
    burst.drain().for_each(|packet| pool.put_packet(packet));
    left
}

fn is_udp(head: &[u8]) -> bool {
    head.get(12..14) == Some(&[8, 0]) && head.get(23) == Some(&17)
}

#[test]
fn the_pod_completes_a_partial_checksum_and_refuses_a_wrong_one() {
    let (namespace, mut tap, mac) = pod();
    let (mut pool, socket) = (pool(128), socket(&namespace));
    let (mut bytes, half) = datagram(mac, b"partial");
    bytes[ETHERNET_AND_IPV4 + 6..][..2].copy_from_slice(&half.to_be_bytes());
    let wrong = pool.copy_in(&bytes).unwrap();
    let mut right = pool.copy_in(&bytes).unwrap();
    right.checksum = Checksum::Partial { start: ETHERNET_AND_IPV4 as u16, offset: 6 };
    assert_eq!(send_one(&mut tap, &mut pool, wrong) + send_one(&mut tap, &mut pool, right), 0);
    let mut buffer = [0; 100];
    assert_eq!(socket.recv(&mut buffer).unwrap(), 7);
    assert_eq!(&buffer[..7], b"partial");
    socket.set_nonblocking(true).unwrap();
    assert!(socket.recv(&mut buffer).is_err(), "the packet that was not marked partial must not arrive");
    assert_eq!((pool.available(), drops(&mut tap)), (128, vec![]));
}

#[test]
fn a_complete_checksum_arrives_and_a_moved_start_too() {
    let (namespace, mut tap, mac) = pod();
    let (mut pool, socket) = (pool(128), socket(&namespace));
    let (bytes, _) = datagram(mac, b"whole");
    for checksum in [Checksum::Unverified, Checksum::Valid] {
        let mut packet = pool.copy_in(&[&[0xee; 50][..], &bytes].concat()).unwrap();
        assert!(packet.pop_front(50));
        packet.checksum = checksum;
        assert_eq!(send_one(&mut tap, &mut pool, packet), 0);
        let mut buffer = [0; 100];
        assert_eq!(socket.recv(&mut buffer).unwrap(), 5);
    }
}

#[test]
fn what_the_pod_sends_says_what_is_left_to_do() {
    let (namespace, mut tap, _) = pod();
    let (mut pool, socket) = (pool(128), socket(&namespace));
    namespace.run(move || socket.send_to(b"hello", (FAR, 53)).unwrap());
    let packet = receive_one(&mut tap, &mut pool, is_udp);
    assert_eq!((packet.start as usize, packet.interface, packet.is_chained()), (HEADROOM, 5, false));
    assert_eq!(packet.checksum, Checksum::Partial { start: 34, offset: 6 });
    let bytes = pool.memory().head(&packet).to_vec();
    let parsed = etherparse::SlicedPacket::from_ethernet(&bytes).unwrap();
    let Some(etherparse::TransportSlice::Udp(udp)) = parsed.transport else { panic!("{parsed:?}") };
    assert_eq!((udp.destination_port(), udp.payload()), (53, &b"hello"[..]));
    pool.put_packet(packet);
    assert_eq!(pool.available(), 128);
}

#[test]
fn a_udp_super_frame_comes_whole_and_goes_back_as_datagrams() {
    let (namespace, mut tap, mac) = pod();
    let (mut pool, socket) = (pool(128), socket(&namespace));
    let sender = socket.try_clone().unwrap();
    namespace.run(move || {
        set_udp_segment(&sender, 1000);
        sender.send_to(&[7; 10_500], (FAR, 53)).unwrap()
    });
    let mut packet = receive_one(&mut tap, &mut pool, is_udp);
    assert_eq!((packet.gso, packet.total_size()), (Gso::Udp(1000), 42 + 10_500));
    assert!(packet.is_chained() && matches!(packet.checksum, Checksum::Partial { start: 34, offset: 6 }));
    turn_round(pool.memory().head_mut(&mut packet), mac, 9999);
    assert_eq!(send_one(&mut tap, &mut pool, packet), 0);
    let mut sizes = Vec::new();
    let mut buffer = [0; 2000];
    while sizes.iter().sum::<usize>() < 10_500 {
        sizes.push(socket.recv(&mut buffer).unwrap());
    }
    assert_eq!(sizes, [vec![1000; 10], vec![500]].concat());
    assert_eq!((pool.available(), drops(&mut tap)), (128, vec![]));
}

/// The first long packet after short ones is read past the few frames, the next one straight into all of them.
#[test]
fn long_packets_read_the_same_however_they_were_expected() {
    let (namespace, mut tap, _) = pod();
    let (mut pool, socket) = (pool(128), socket(&namespace));
    set_udp_segment(&socket, 1000);
    let payload: Vec<u8> = (0..60_000u32).map(|i| (i * 7 % 251) as u8).collect();
    for size in [10, 13_942, 13_943, 60_000, 60_000, 13_942, 60_000, 10, 20_000, 20_000] {
        let bytes = payload[..size].to_vec();
        let sender = socket.try_clone().unwrap();
        namespace.run(move || sender.send_to(&bytes, (FAR, 53)).unwrap());
        let packet = receive_one(&mut tap, &mut pool, is_udp);
        let bytes: Vec<u8> = pool.memory().chain(&packet).flatten().copied().collect();
        assert!(bytes[42..] == payload[..size], "bytes of a packet of {size} differ");
        pool.put_packet(packet);
        assert_eq!((pool.available(), tap.long), (128, size > 13_942), "{size}");
    }
    assert_eq!(drops(&mut tap), vec![]);
}

/// Sends a packet of the pod's back to it; sums do not change when addresses swap, and the port's half is not in yet.
fn turn_round(head: &mut [u8], mac: [u8; 6], port: u16) {
    head[..6].copy_from_slice(&mac);
    head[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    let (from, to): (Vec<u8>, Vec<u8>) = (head[26..30].to_vec(), head[30..34].to_vec());
    head[26..30].copy_from_slice(&to);
    head[30..34].copy_from_slice(&from);
    head[36..38].copy_from_slice(&port.to_be_bytes());
}

fn set_udp_segment(socket: &UdpSocket, size: libc::c_int) {
    use std::os::fd::AsRawFd;
    let bytes = size_of_val(&size) as libc::socklen_t;
    // SAFETY: the option's value is an int that lives until the call returns.
    let answer = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, (&raw const size).cast(), bytes)
    };
    assert_eq!(answer, 0, "UDP_SEGMENT: {}", std::io::Error::last_os_error());
}

#[test]
fn tcp_between_two_pods_travels_in_super_frames_and_arrives_intact() {
    let ((here, mut one), (there, mut other)) = (pod_at(1), pod_at(2));
    let listener = there.run(|| TcpListener::bind((Ipv4Addr::new(10, 9, 0, 2), 80)).unwrap());
    let sent: Vec<u8> = (0..20_000_000u32).map(|i| (i * 7 % 251) as u8).collect();
    let (bytes, copy) = (sent.clone(), sent.len());
    let receiver = std::thread::spawn(move || {
        let mut received = Vec::with_capacity(copy);
        listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
        received
    });
    let _sender = here.start(move || TcpStream::connect((Ipv4Addr::new(10, 9, 0, 2), 80)).unwrap().write_all(&bytes));
    let (mut pool, mut largest, mut gso) = (pool(4096), 0, Gso::None);
    let look = |_: &FramePool, packet: &Packet| {
        if packet.total_size() > largest {
            (largest, gso) = (packet.total_size(), packet.gso);
        }
    };
    forward(&mut pool, [&mut one, &mut other], look, || receiver.is_finished());
    assert!(receiver.join().unwrap() == sent, "bytes differ");
    assert!(largest > 60_000, "the largest packet had {largest} bytes");
    assert_eq!(gso, Gso::Tcp4(1448));
    assert_eq!((pool.available(), drops(&mut one), drops(&mut other)), (4096, vec![], vec![]));
}

fn pod_at(number: u8) -> (Namespace, Tap) {
    let namespace = Namespace::new();
    let fd = namespace.tap("pod0", &format!("10.9.0.{number}/24"));
    (namespace, Tap::open(fd, u32::from(number)).unwrap())
}

#[test]
fn a_call_ends_at_its_budget() {
    let (namespace, mut tap, _) = pod();
    let (mut pool, mut burst) = (pool(512), Burst::default());
    let socket = socket(&namespace);
    namespace.run(move || (0..100).for_each(|_| assert_eq!(socket.send_to(b"x", (FAR, 53)).unwrap(), 1)));
    tap.rx(&mut pool, &mut burst);
    assert_eq!(burst.len(), RX_PACKETS_MAX);
    tap.rx(&mut pool, &mut burst);
    assert_eq!(burst.len(), 64);
    tap.rx(&mut pool, &mut burst);
    assert_eq!(burst.len(), 64);
    burst.drain().for_each(|packet| pool.put_packet(packet));
    assert_eq!(pool.available(), 512);
}

#[test]
fn too_few_frames_leave_packets_where_they_are() {
    let (namespace, mut tap, _) = pod();
    let (mut pool, mut burst) = (pool(40), Burst::default());
    let socket = socket(&namespace);
    namespace.run(move || (0..20).for_each(|_| assert_eq!(socket.send_to(b"x", (FAR, 53)).unwrap(), 1)));
    let mut received = 0;
    while received < 20 {
        tap.rx(&mut pool, &mut burst);
        assert!((1..20).contains(&burst.len()), "{}", burst.len());
        for packet in burst.drain() {
            received += usize::from(is_udp(pool.memory().head(&packet)));
            pool.put_packet(packet);
        }
    }
    assert_eq!(drops(&mut tap), vec![]);
}

#[test]
fn a_device_that_is_down_drops_and_one_that_is_deleted_is_gone() {
    let (namespace, mut tap, mac) = pod();
    let (mut pool, mut burst) = (pool(128), Burst::default());
    namespace.shell("ip link set pod0 down");
    let (bytes, _) = datagram(mac, b"down");
    let packet = pool.copy_in(&bytes).unwrap();
    assert_eq!(send_one(&mut tap, &mut pool, packet), 0);
    tap.rx(&mut pool, &mut burst);
    burst.drain().for_each(|packet| pool.put_packet(packet));
    assert_eq!((drops(&mut tap), tap.is_gone()), (vec![(DropReason::InterfaceGone, 1)], false));
    namespace.shell("ip link delete pod0");
    let packet = pool.copy_in(&bytes).unwrap();
    assert_eq!(send_one(&mut tap, &mut pool, packet), 1);
    assert!(tap.is_gone());
    tap.rx(&mut pool, &mut burst);
    assert_eq!((burst.len(), pool.available()), (0, 128));
}

/// The descriptor holds the namespace it was opened in, so the device is moved to one that can die.
#[test]
fn reading_notices_that_the_namespace_died() {
    let (home, away) = (Namespace::new(), Namespace::new());
    let mut tap = Tap::open(home.tap("pod0", "10.9.0.2/24"), 5).unwrap();
    home.shell(&format!("ip link set pod0 netns {}", away.path()));
    let (mut pool, mut burst) = (pool(128), Burst::default());
    tap.rx(&mut pool, &mut burst);
    assert!(!tap.is_gone());
    drop(away);
    let started = Instant::now();
    while !tap.is_gone() && started.elapsed() < Duration::from_secs(10) {
        tap.rx(&mut pool, &mut burst);
        burst.drain().for_each(|packet| pool.put_packet(packet));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(tap.is_gone());
}

#[test]
fn descriptors_that_are_no_such_tap_are_refused() {
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(matches!(Tap::open(file.into(), 0), Err(TapError::NoDevice(_))));
    let namespace = Namespace::new();
    let fd = namespace.tap("pod0", "10.9.0.2/24");
    // SAFETY: TUNSETVNETHDRSZ reads an int.
    unsafe { ioctl(&fd, rustix::ioctl::Setter::<{ libc::TUNSETVNETHDRSZ as _ }, i32>::new(20)).unwrap() };
    assert!(matches!(Tap::open(fd, 0), Err(TapError::HeaderSize { size: 20 })));
}
