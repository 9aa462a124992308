//! Floods of new flows against a small table, in memory: established flows keep their packets, every packet that does not
//! arrive is dropped by name, and the counts add up. In process time nothing is lost to a scheduler.

mod support;

use dataplane::io::mem::WirePacket;
use std::time::Instant;
use support::packets::{ACK, SYN, tcp};
use support::*;
use tables::Protocol;
use tables::counters::{DropReason, WorkerCounter};

const ESTABLISHED: u16 = 1000;
const BURST: u64 = 256;

/// A flood's packet: its bytes, and where its source stands in them.
struct Flood {
    template: Vec<u8>,
    sent: u64,
}

impl Flood {
    fn new(node: &Node, packet: &Spec) -> Flood {
        Flood { template: node.dressed(UPLINK, packet).bytes(), sent: 0 }
    }

    /// The next one, from a source that none had before: 16 million addresses outside, and ports beyond that. The IPv4
    /// checksum follows, that of layer 4 is nobody's business on the way.
    fn next(&mut self) -> WirePacket {
        let i = self.sent;
        self.sent += 1;
        let [_, a, b, c] = ((i.wrapping_mul(0x9e_3779) & 0xff_ffff) as u32).to_be_bytes();
        let mut bytes = self.template.clone();
        bytes[26..30].copy_from_slice(&[44, a, b, c]);
        bytes[34..36].copy_from_slice(&(1024 + (i >> 24) as u16).to_be_bytes());
        bytes[24..26].fill(0);
        let sum: u32 = bytes[14..34].chunks(2).map(|w| u16::from_be_bytes([w[0], w[1]]) as u32).sum();
        let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
        bytes[24..26].copy_from_slice(&checksum.to_be_bytes());
        bytes.into()
    }
}

/// What the server answers to a packet of a flood: ends exchanged, and a SYN acknowledged.
fn answer(packet: &WirePacket) -> WirePacket {
    let mut bytes = packet.bytes.clone();
    for (a, b, size) in [(0, 6, 6), (26, 30, 4), (34, 36, 2)] {
        (0..size).for_each(|i| bytes.swap(a + i, b + i));
    }
    if bytes[23] == Protocol::TCP.0 {
        let seq = u32::from_be_bytes([bytes[38], bytes[39], bytes[40], bytes[41]]);
        bytes[42..46].copy_from_slice(&seq.wrapping_add(1).to_be_bytes());
        bytes[47] = SYN | ACK;
    }
    bytes.into()
}

/// Connections of pod A to a service, on a remote backend and on pod B.
struct Established {
    passed: u64,
    arrived: u64,
}

const HTTP: (Addr, u16, Protocol) = (SERVICE, 80, Protocol::TCP);

impl Established {
    fn open(node: &mut Node) -> Established {
        node.publish(|rows| rows.service(1, HTTP, &[(REMOTE, 8080)]));
        let mut established = Established { passed: 0, arrived: 0 };
        for port in 0..ESTABLISHED {
            for (is_asked, flags) in [(true, SYN), (false, SYN | ACK), (true, ACK)] {
                established.pass(node, is_asked, port, flags);
            }
        }
        assert_eq!(established.passed, established.arrived);
        established
    }

    /// One segment of a connection, there or back: did it arrive?
    fn pass(&mut self, node: &mut Node, is_asked: bool, port: u16, flags: u8) {
        let port = 10_000 + port;
        let (to, packet) = if is_asked {
            let packet = node.dressed(POD_A, &tcp((A, port), (SERVICE, 80), flags));
            assert!(node.peer(POD_A).inject(packet.bytes()));
            (UPLINK, packet)
        } else {
            let packet = node.peers_packet(&tcp((REMOTE, 8080), (A, port), flags));
            assert!(node.peer(UPLINK).inject(packet.bytes()));
            (POD_A, packet)
        };
        node.run();
        self.passed += 1;
        let arrived = node.peer(to).take_all();
        assert!(arrived.len() <= 1, "{packet:?}");
        self.arrived += arrived.len() as u64;
    }
}

/// What a flood of `count` flows does to a table of `flows_max`, if the server answers it or if not.
fn flood(flows_max: usize, count: u64, packet: &Spec, is_answered: bool) {
    let mut node = Node::new(Shape { flows_max, ..Shape::default() });
    let mut established = Established::open(&mut node);
    let mut flood = Flood::new(&node, packet);
    let memory = node.workers[0].path().flows.region().words().len();
    let (mut delivered, mut took) = (0, std::time::Duration::ZERO);
    while flood.sent < count {
        for _ in 0..BURST {
            assert!(node.peer(UPLINK).inject(flood.next()));
        }
        let start = Instant::now();
        node.run();
        took += start.elapsed();
        let reached = node.peer(POD_B).take_all();
        delivered += reached.len() as u64;
        if is_answered {
            reached.iter().for_each(|packet| assert!(node.peer(POD_B).inject(answer(packet))));
            node.run();
            assert_eq!(node.peer(UPLINK).take_all().len(), reached.len(), "answers");
        }
        let port = (flood.sent / BURST % ESTABLISHED as u64) as u16;
        established.pass(&mut node, true, port, ACK);
        established.pass(&mut node, false, port, ACK);
    }
    let flows = node.flows() as u64;
    let [inserted, expired, evicted] =
        [WorkerCounter::FlowsInserted, WorkerCounter::FlowsExpired, WorkerCounter::FlowsEvicted].map(|c| node.count(c));
    let dropped: u64 = DropReason::ALL.iter().map(|&reason| node.drops(reason)).sum();
    println!(
        "{count} flows against {flows_max}: {} ns each, {delivered} delivered, {dropped} dropped, {evicted} evicted, \
         {expired} expired; established {} of {}",
        took.as_nanos() as u64 / flood.sent,
        established.arrived,
        established.passed
    );
    assert!(
        established.arrived * 1000 >= established.passed * 999,
        "{} lost",
        established.passed - established.arrived
    );
    assert_eq!(delivered + dropped, flood.sent + established.passed - established.arrived, "a packet without account");
    assert_eq!(dropped, node.drops(DropReason::FlowTableFull), "another reason than overload");
    assert_eq!(inserted, flows + expired + evicted, "a flow without account");
    assert!(flows <= flows_max as u64 && (evicted > 0 || is_answered));
    assert_eq!(node.workers[0].path().flows.region().words().len(), memory);
    assert_eq!(node.frames_free(), node.frames());
    // All of them are still there.
    (0..ESTABLISHED).for_each(|port| established.pass(&mut node, false, port, ACK));
    assert!(established.passed - established.arrived <= established.passed / 1000);
}

fn syn() -> Spec {
    tcp((CLIENT, 1024), (B, 8080), SYN)
}

fn datagram() -> Spec {
    udp((CLIENT, 1024), (B, 53))
}

#[test]
fn established_flows_outlive_a_flood_of_syns() {
    flood(100_000, 1_000_000, &syn(), false);
}

#[test]
fn established_flows_outlive_a_flood_of_datagrams() {
    flood(100_000, 500_000, &datagram(), false);
}

#[test]
fn established_flows_outlive_a_flood_of_acknowledgements() {
    flood(100_000, 300_000, &tcp((CLIENT, 1024), (B, 8080), ACK), false);
}

#[test]
fn established_flows_outlive_floods_that_are_answered() {
    flood(100_000, 300_000, &syn(), true);
    flood(100_000, 300_000, &datagram(), true);
}

/// By hand: `cargo test --release --test floods -- --ignored --nocapture`.
#[test]
#[ignore = "takes a minute"]
fn established_flows_outlive_ten_million_new_ones() {
    flood(1_000_000, 10_000_000, &syn(), false);
    flood(1_000_000, 10_000_000, &datagram(), false);
}
