//! TCP between pods of two nodes, in memory: real workers, service translation and the tunnel between them, and a wire
//! that loses, doubles and reorders by a seed. Every byte is compared.

mod support;

#[path = "end_to_end/stack.rs"]
mod stack;

use dataplane::io::mem::{Impairment, Wire};
use smoltcp::time::{Duration, Instant};
use stack::Stack;
use support::{Node, SERVICE, Shape, UPLINK, pod, pod_mac};
use tables::counters::{DropReason, WorkerCounter};
use tables::{Addr, Protocol};

const BYTES: usize = 1 << 20;
/// Of the test's own clock: smoltcp's retransmissions double up to seconds.
const PATIENCE: Duration = Duration::from_secs(600);

/// A repeatable stream of its own for each seed and number.
fn stream(seed: u64, number: u16) -> Vec<u8> {
    let mut state = seed ^ (number as u64) << 32 | 1;
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state ^ state >> 29
    });
    words.flat_map(u64::to_le_bytes).take(BYTES).collect()
}

/// Two nodes, the wires between their queues, and pods.
struct World {
    nodes: Vec<Node>,
    wires: Vec<Wire>,
    pods: Vec<Stack>,
    now: Instant,
    seed: u64,
}

impl World {
    fn new(workers: u16, seed: u64) -> World {
        // With two workers the pods belong to different ones.
        let pods = vec![(4, 0), (5, workers - 1)];
        let shape = |number| Shape { number, workers, uplink_queues: workers, pods: pods.clone(), ..Shape::default() };
        let mut nodes = vec![Node::new(shape(1)), Node::new(shape(2))];
        for node in &mut nodes {
            node.publish(|rows| {
                rows.service(1, (SERVICE, 80, Protocol::TCP), &[(pod(2, 4), 8000)]);
                rows.service(2, (SERVICE, 81, Protocol::TCP), &[(pod(1, 5), 8000)]);
            });
        }
        let wire = |queue: u16| {
            let impairment = Impairment { seed: seed + queue as u64, loss: 10, duplicate: 10, reorder: 30 };
            let ends = [0, 1].map(|node: usize| nodes[node].peers[&(UPLINK, queue)].clone());
            let [one, other] = ends;
            Wire::new(one, other, impairment)
        };
        let wires = (0..workers).map(wire).collect();
        let stack = |n: u8, octet: u8| {
            let peer = nodes[n as usize - 1].peer(octet as u32).clone();
            Stack::new(peer, pod(n, octet), pod_mac(n, octet), pod(n, 1))
        };
        let pods = vec![stack(1, 4), stack(1, 5), stack(2, 4), stack(2, 5)];
        World { nodes, wires, pods, now: Instant::ZERO, seed }
    }

    /// One step: everybody works, packets travel. Time jumps when nothing moves.
    fn step(&mut self) {
        let answer = |port: u16| stream(self.seed, port + 1);
        for pod in &mut self.pods {
            pod.poll(self.now, &answer);
        }
        let mut moved = self.nodes.iter_mut().map(Node::run).sum::<usize>();
        moved += self.wires.iter_mut().map(Wire::carry).sum::<usize>();
        moved += self.nodes.iter_mut().map(Node::run).sum::<usize>();
        let tick = Duration::from_micros(100);
        let next = self.pods.iter_mut().filter_map(|pod| pod.poll_at(self.now)).min();
        self.now = match next {
            Some(next) if moved == 0 => next.max(self.now + tick),
            _ => self.now + tick,
        };
    }

    fn run(&mut self) {
        let mut steps = 0u64;
        while !self.pods.iter().all(|pod| pod.is_done(BYTES)) {
            self.step();
            steps += 1;
            if steps.is_multiple_of(500) {
                // Every flow is looked at again, amid traffic.
                self.nodes.iter_mut().for_each(|node| node.publish(|rows| rows.batch.touch_all()));
            }
            if self.now > Instant::ZERO + PATIENCE {
                let states: Vec<String> = self.pods.iter().map(Stack::states).collect();
                for node in &self.nodes {
                    let drops = DropReason::ALL.iter().map(|&reason| (reason, node.drops(reason)));
                    println!("{:?}", drops.filter(|(_, count)| *count > 0).collect::<Vec<_>>());
                }
                panic!("seed {}: no end after {steps} steps\n{}", self.seed, states.join("\n"));
            }
        }
    }
}

/// Connections of the test: (client pod's index, destination, client's port).
fn connections() -> Vec<(usize, (Addr, u16), u16)> {
    let direct = (pod(2, 4), 7000);
    let (to_two, to_one) = ((SERVICE, 80), (SERVICE, 81));
    vec![
        (0, direct, 10_000),
        (0, direct, 10_010),
        (0, to_two, 10_020),
        (0, to_one, 10_030),
        (3, to_one, 10_040),
        (3, to_two, 10_050),
    ]
}

fn run(workers: u16, seed: u64) {
    println!("{workers} workers, seed {seed}");
    let mut world = World::new(workers, seed);
    // 1 -> 2 directly; by a service 1 -> 2, 1 -> 1, 2 -> 1, 2 -> 2.
    world.pods[2].listen(7000, 2);
    world.pods[2].listen(8000, 2);
    world.pods[1].listen(8000, 2);
    for (client, to, port) in connections() {
        world.pods[client].connect(to, port, stream(seed, port));
    }
    world.run();
    let mut expected: Vec<Vec<u8>> = Vec::new();
    for (_, _, port) in connections() {
        expected.extend([stream(seed, port), stream(seed, port + 1)]);
    }
    let mut seen = 0;
    for (sent, received) in world.pods.iter().flat_map(Stack::results) {
        // Whoever sent stream 2n received stream 2n + 1, and the other way round.
        let at = expected.iter().position(|stream| stream == sent).expect("a stream of ours");
        assert!(received == expected[at ^ 1], "seed {seed}: connection {} differs", at / 2);
        seen += 1;
    }
    assert_eq!(seen, 2 * connections().len());
    judge_counters(&mut world, workers);
}

/// The wire did harm, the dataplane did none.
fn judge_counters(world: &mut World, workers: u16) {
    assert!(world.wires.iter().all(|wire| wire.lost > 0));
    for node in &mut world.nodes {
        for &reason in DropReason::ALL {
            // A ring that is full loses what TCP sends again; nothing else may be dropped.
            let expected = matches!(reason, DropReason::TxFull | DropReason::HandoffFull);
            assert!(expected || node.drops(reason) == 0, "{}: {}", reason.name(), node.drops(reason));
        }
        assert_eq!(node.frames_free(), node.frames());
        assert_eq!(node.count(WorkerCounter::HandoffsIn) > 0, workers > 1);
    }
}

#[test]
fn every_byte_arrives_with_one_worker() {
    (1..=6).for_each(|seed| run(1, seed));
}

#[test]
fn every_byte_arrives_with_two_workers() {
    (11..=16).for_each(|seed| run(2, seed));
}
