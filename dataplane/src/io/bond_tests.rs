//! Frames as etherparse builds them, out of bonds whose members are memory.

use super::*;
use crate::io::frames::Memory;
use crate::io::mem::{self, MemConfig, MemPeer};
use etherparse::{PacketBuilder, VlanId};
use std::collections::BTreeSet;

const FRAMES: usize = 256;
const SRC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const DST: [u8; 6] = [2, 0, 0, 0, 0, 1];

struct Rig {
    bond: Bond,
    peers: Vec<MemPeer>,
    sending: Sending,
    pool: FramePool,
}

fn rig() -> Rig {
    let (memory, frames) = Memory::create(FRAMES as u32, 2048).unwrap();
    let pool = FramePool::divide(Arc::new(memory), frames, 1).remove(0);
    let config = MemConfig { interface: 7, ring_len: 64, super_frames: false, chains: false };
    let (members, peers): (Vec<_>, Vec<_>) = (0..3).map(|_| mem::interface(config)).unzip();
    let members = members.into_iter().map(|member| Box::new(member) as Box<dyn Interface>).collect();
    let sending = Sending::default();
    Rig { bond: Bond::new(members, sending.clone()).unwrap(), peers, sending, pool }
}

fn datagram(vlan: Option<u16>, ports: (u16, u16), ttl: u8) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(SRC, DST);
    let (src, dst, mut bytes) = ([10, 0, 0, 1], [10, 0, 0, 2], Vec::new());
    match vlan {
        Some(vlan) => ethernet.single_vlan(VlanId::try_new(vlan).unwrap()).ipv4(src, dst, ttl),
        None => ethernet.ipv4(src, dst, ttl),
    }
    .udp(ports.0, ports.1)
    .write(&mut bytes, b"bond")
    .unwrap();
    bytes
}

fn datagram6(port: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(SRC, DST)
        .ipv6([0xfd; 16], [0xfe; 16], 64)
        .udp(port, 2)
        .write(&mut bytes, b"bond")
        .unwrap();
    bytes
}

impl Rig {
    /// How many of these left by each member.
    fn send(&mut self, frames: impl IntoIterator<Item = Vec<u8>>) -> Vec<usize> {
        let mut burst = Burst::default();
        for frame in frames {
            burst.push(self.pool.copy_in(&frame).unwrap()).unwrap();
        }
        self.bond.tx(&mut self.pool, &mut burst);
        burst.drain().for_each(|packet| self.pool.put_packet(packet));
        self.bond.housekeep(&mut self.pool);
        self.peers.iter().map(|peer| std::iter::from_fn(|| peer.take()).count()).collect()
    }

    fn dropped(&mut self) -> u64 {
        let mut count = 0;
        self.bond.take_drops(&mut |reason, more| count += if reason == DropReason::InterfaceGone { more } else { 0 });
        count
    }
}

fn many() -> impl Iterator<Item = Vec<u8>> {
    (0..60).map(|port| datagram(None, (port, 4789), 64))
}

#[test]
fn nothing_is_sent_before_it_is_said_who_sends() {
    let mut rig = rig();
    assert_eq!((rig.send(many()), rig.dropped()), (vec![0, 0, 0], 60));
    assert_eq!(rig.pool.available(), FRAMES);
}

#[test]
fn flows_go_by_those_that_send_and_by_no_others() {
    let mut rig = rig();
    rig.sending.store(0b010, Ordering::Relaxed);
    assert_eq!(rig.send(many()), [0, 60, 0]);
    rig.sending.store(0b101, Ordering::Relaxed);
    let sent = rig.send(many());
    assert!(sent[0] > 15 && sent[1] == 0 && sent[2] > 15 && sent[0] + sent[2] == 60, "{sent:?}");
    let sent = rig.send((0..60).map(datagram6));
    assert!(sent[0] > 15 && sent[2] > 15, "IPv6: {sent:?}");
    let sent = rig.send((0..60).map(|port| datagram(Some(5), (port, 4789), 64)));
    assert!(sent[0] > 15 && sent[2] > 15, "in a VLAN: {sent:?}");
    assert_eq!((rig.dropped(), rig.pool.available()), (0, FRAMES));
}

#[test]
fn a_flow_stays_with_its_member() {
    let mut rig = rig();
    rig.sending.store(0b111, Ordering::Relaxed);
    let members =
        |rig: &mut Rig, vlan| (1..40).map(|ttl| rig.send([datagram(vlan, (7, 9), ttl)])).collect::<BTreeSet<_>>();
    assert_eq!(members(&mut rig, None).len(), 1);
    assert_eq!(members(&mut rig, Some(5)).len(), 1);
}

#[test]
fn fragments_of_a_datagram_go_by_one_member() {
    let mut rig = rig();
    rig.sending.store(0b111, Ordering::Relaxed);
    let fragments = (0..40u16).map(|payload| {
        let mut fragment = datagram(None, (payload, payload), 64);
        fragment[ETHERNET_BYTES + 6] = 0x20;
        fragment
    });
    assert_eq!(rig.send(fragments).into_iter().filter(|&sent| sent > 0).collect::<Vec<_>>(), [40]);
}

#[test]
fn all_members_are_heard() {
    let mut rig = rig();
    for peer in &rig.peers {
        assert!(peer.inject(datagram(None, (1, 2), 64)));
    }
    let mut burst = Burst::default();
    rig.bond.rx(&mut rig.pool, &mut burst);
    assert_eq!(burst.len(), 3);
    burst.drain().for_each(|packet| rig.pool.put_packet(packet));
}
