//! Tagged frames as etherparse builds and reads them.

use super::*;
use crate::io::mem::{self, MemConfig, MemPeer};
use crate::packet::Checksum;
use etherparse::{EtherType, PacketBuilder, SlicedPacket, VlanId, VlanSlice};
use std::sync::Arc;

const FRAMES: usize = 64;
const SRC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const DST: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn rig() -> (Box<dyn Interface>, MemPeer, FramePool) {
    let (memory, frames) = Memory::create(FRAMES as u32, 2048).unwrap();
    let pool = FramePool::divide(Arc::new(memory), frames, 1).remove(0);
    let (device, peer) = mem::interface(MemConfig { interface: 7, ring_len: 4, super_frames: false, chains: false });
    (tagged(Box::new(device), 5), peer, pool)
}

/// A UDP packet, in a VLAN or in none.
fn frame(vlan: Option<u16>, payload: &[u8]) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(SRC, DST);
    let mut bytes = Vec::new();
    let (src, dst) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    match vlan {
        Some(vlan) => ethernet.single_vlan(VlanId::try_new(vlan).unwrap()).ipv4(src, dst, 64),
        None => ethernet.ipv4(src, dst, 64),
    }
    .udp(1, 2)
    .write(&mut bytes, payload)
    .unwrap();
    bytes
}

fn drops(device: &mut dyn Interface) -> Vec<(DropReason, u64)> {
    let mut told = Vec::new();
    device.take_drops(&mut |reason, count| told.push((reason, count)));
    told
}

fn bytes_of(pool: &FramePool, burst: &Burst) -> Vec<Vec<u8>> {
    burst.iter().map(|packet| pool.memory().head(packet).to_vec()).collect()
}

#[test]
fn a_tag_is_taken_off_and_others_are_dropped_by_name() {
    let (mut device, peer, mut pool) = rig();
    let mut burst = Burst::default();
    let mut priority = frame(Some(5), b"b");
    priority[14] |= 0xe0;
    for frames in [
        [frame(Some(5), b"a"), frame(None, b"x"), frame(Some(6), b"x"), priority],
        [frame(Some(0), b"x"), frame(Some(5), b"c"), frame(Some(5), b"d")[..15].to_vec(), vec![7; 12]],
    ] {
        assert!(frames.into_iter().all(|frame| peer.inject(frame)));
        let mut taken = Burst::default();
        device.rx(&mut pool, &mut taken);
        taken.drain().for_each(|packet| burst.push(packet).unwrap());
    }
    assert_eq!(bytes_of(&pool, &burst), [b"a", b"b", b"c"].map(|payload| frame(None, payload)));
    assert_eq!(drops(&mut *device), [(DropReason::Vlan, 5)]);
    burst.drain().for_each(|packet| pool.put_packet(packet));
    assert_eq!(pool.available(), FRAMES);
}

#[test]
fn a_tag_is_put_on_and_what_stays_is_as_it_was() {
    let (mut device, peer, mut pool) = rig();
    let mut burst = Burst::default();
    for payload in [b"a", b"b", b"c", b"d", b"e", b"f"] {
        burst.push(pool.copy_in(&frame(None, payload)).unwrap()).unwrap();
    }
    device.tx(&mut pool, &mut burst);
    let sent = peer.take_all();
    assert_eq!(sent.len(), 4);
    for (packet, payload) in sent.iter().zip([b"a", b"b", b"c", b"d"]) {
        assert_eq!(packet.bytes, frame(Some(5), payload));
        let sliced = SlicedPacket::from_ethernet(&packet.bytes).unwrap();
        let Some(VlanSlice::SingleVlan(tag)) = sliced.vlan() else { panic!("{sliced:?}") };
        assert_eq!((tag.vlan_identifier().value(), tag.priority_code_point().value()), (5, 0));
        assert_eq!(tag.ether_type(), EtherType::IPV4);
    }
    assert_eq!(bytes_of(&pool, &burst), [b"e", b"f"].map(|payload| frame(None, payload)), "the ring is full");
    burst.drain().for_each(|packet| pool.put_packet(packet));
    assert_eq!((pool.available(), drops(&mut *device)), (FRAMES, vec![]));
}

#[test]
fn without_room_in_front_a_packet_is_dropped_by_name() {
    let (mut device, peer, mut pool) = rig();
    let mut burst = Burst::default();
    let mut packet = pool.copy_in(&frame(None, b"a")).unwrap();
    let room = packet.headroom();
    assert!(packet.push_front(room));
    burst.push(packet).unwrap();
    burst.push(pool.copy_in(&frame(None, b"b")).unwrap()).unwrap();
    device.tx(&mut pool, &mut burst);
    assert_eq!(peer.take_all().len(), 1);
    assert_eq!((drops(&mut *device), pool.available()), (vec![(DropReason::Oversized, 1)], FRAMES));
}

#[test]
fn what_is_left_to_do_follows_the_tag() {
    let (_, _, mut pool) = rig();
    let mut packet = pool.copy_in(&frame(Some(5), b"a")).unwrap();
    packet.checksum = Checksum::Partial { start: 38, offset: 6 };
    assert!(untag(pool.memory(), &mut packet, 5));
    assert_eq!(packet.checksum, Checksum::Partial { start: 34, offset: 6 });
    assert!(tag(pool.memory(), &mut packet, 5));
    assert_eq!(packet.checksum, Checksum::Partial { start: 38, offset: 6 });
    assert_eq!(pool.memory().head(&packet), frame(Some(5), b"a"));
    pool.put_packet(packet);
}
