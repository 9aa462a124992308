//! Packets of several buffers, over veth pairs with an MTU of 9000.

use super::chain::FRAMES_MAX;
use super::tests::{FRAMES, Rig, bulk, datagram, largest_of_tcp, open_as, send, try_open_as, wire_of};
use super::*;
use crate::io::test_devices::{Namespace, drops, pool};
use std::time::{Duration, Instant};

const BYTES_MAX: usize = 9022;

fn config() -> XskConfig {
    XskConfig { bytes_max: BYTES_MAX, ..super::tests::config(256) }
}

fn rig() -> Rig {
    let rig = Rig { home: Namespace::new(), peer: Namespace::new() };
    wire_of(&rig.home, &rig.peer, "nic0", 2, "mtu 9000");
    rig
}

#[test]
fn a_packet_of_several_buffers_comes_and_goes_whole() {
    let (rig, mut pool) = (rig(), pool(FRAMES));
    let (mut xsk, _redirect) = open_as(&rig.home, "nic0", &mut pool, 1, config());
    let socket = rig.listener();
    let (mut burst, started) = (Burst::default(), Instant::now());
    for size in [1750, 1751, 4000, 8972] {
        socket.send_to(&bulk(size), "10.8.0.9:53").unwrap();
    }
    let mut sizes = Vec::new();
    while sizes.len() < 4 {
        assert!(started.elapsed() < Duration::from_secs(5), "{sizes:?}");
        xsk.rx(&mut pool, &mut burst);
        for packet in burst.drain() {
            let bytes: Vec<u8> = pool.memory().chain(&packet).flatten().copied().collect();
            if bytes[23] == 17 {
                assert_eq!(packet.interface, 3);
                assert!(bytes[42..] == bulk(bytes.len() - 42), "bytes differ");
                sizes.push((bytes.len() - 42, packet.is_chained()));
            }
            pool.put_packet(packet);
        }
    }
    assert_eq!(sizes, [(1750, false), (1751, true), (4000, true), (8972, true)]);
    let mut received = vec![0; 10_000];
    for size in [1750, 1751, 4000, 8972] {
        let packet = pool.copy_in(&datagram(&bulk(size))).unwrap();
        assert_eq!(send(&mut xsk, &mut pool, [packet]), 0);
        assert_eq!(socket.recv(&mut received).unwrap(), size);
        assert!(received[..size] == bulk(size), "bytes differ");
    }
    xsk.close(&mut pool);
    assert_eq!((pool.available(), drops(&mut xsk)), (FRAMES as usize, vec![]));
}

#[test]
fn tcp_in_large_segments_arrives_intact() {
    let (rig, other, mut pool) = (rig(), Namespace::new(), pool(4 * FRAMES));
    wire_of(&rig.home, &other, "nic1", 4, "mtu 9000");
    let (mut one, _redirect) = open_as(&rig.home, "nic0", &mut pool, 1, config());
    let (mut two, _redirect) = open_as(&rig.home, "nic1", &mut pool, 2, config());
    assert_eq!(largest_of_tcp(&rig, &other, &mut pool, [&mut one, &mut two]), 9014);
    one.close(&mut pool);
    two.close(&mut pool);
    assert_eq!((pool.available(), drops(&mut one), drops(&mut two)), (4 * FRAMES as usize, vec![], vec![]));
}

#[test]
fn a_full_ring_takes_whole_packets_or_none() {
    let (rig, mut pool) = (rig(), pool(4 * FRAMES));
    let mut xsk = try_open_as(&rig.home, "nic0", 0, &pool, 1, config()).unwrap();
    rig.home.shell("ip link set nic0 down");
    let large = datagram(&bulk(8000));
    let frames = pool.memory().frames_for(large.len());
    let packets: Vec<Packet> = (0..64).map(|_| pool.copy_in(&large).unwrap()).collect();
    assert_eq!(send(&mut xsk, &mut pool, packets), 64 - 256 / frames);
    assert_eq!(
        (xsk.tx.room(usize::MAX), pool.available()),
        (256 % frames, 4 * FRAMES as usize - 256 / frames * frames)
    );
    let small: Vec<Packet> = (0..64).map(|_| pool.copy_in(&datagram(b"small")).unwrap()).collect();
    assert_eq!(send(&mut xsk, &mut pool, small), 64 - 256 % frames);
    rig.home.shell("ip link set nic0 up");
    let started = Instant::now();
    while pool.available() < 4 * FRAMES as usize && started.elapsed() < Duration::from_secs(5) {
        xsk.reap(&mut pool);
        xsk.kick();
    }
    assert_eq!((pool.available(), drops(&mut xsk)), (4 * FRAMES as usize, vec![]));
}

#[test]
fn chains_that_are_no_packet_are_dropped_once_and_give_all_frames_back() {
    let (rig, mut pool) = (rig(), pool(FRAMES));
    let mut xsk = try_open_as(&rig.home, "nic0", 0, &pool, 1, config()).unwrap();
    // (buffers but the last, bytes of each, start of the third)
    for (more, len, third, accepted) in [
        (2, 1700, 256, true),
        (4, 1792, 256, true),
        (5, 1792, 256, false),
        (FRAMES_MAX - 1, 100, 256, true),
        (FRAMES_MAX, 100, 256, false),
        (2, 1700, 8, false),
        (2, 1700, 2000, false),
    ] {
        let mut packet = None;
        for i in 0..=more {
            assert!(packet.is_none());
            let start = if i == 2 { third } else { 256 };
            let addr = pool.memory_arc().lend(pool.take().unwrap(), 1) + start;
            let options = if i < more { XdpDescOptions::XDP_PKT_CONTD } else { XdpDescOptions::empty() };
            packet = xsk.accept(&mut pool, XdpDesc { addr, len, options });
        }
        assert_eq!(packet.as_ref().map(Packet::total_size), accepted.then_some((more + 1) * len as usize));
        packet.into_iter().for_each(|packet| pool.put_packet(packet));
        assert_eq!(pool.available(), FRAMES as usize, "{more} {len} {third}");
    }
    assert_eq!(drops(&mut xsk), vec![(DropReason::Oversized, 4)]);
}

#[test]
fn what_the_wire_does_not_take_is_dropped_by_name() {
    let (rig, mut pool) = (rig(), pool(FRAMES));
    let mut xsk = try_open_as(&rig.home, "nic0", 0, &pool, 1, config()).unwrap();
    let large = pool.copy_in(&datagram(&bulk(BYTES_MAX - 41))).unwrap();
    assert_eq!(send(&mut xsk, &mut pool, [large]), 0);
    assert_eq!((drops(&mut xsk), pool.available()), (vec![(DropReason::Oversized, 1)], FRAMES as usize));
}
