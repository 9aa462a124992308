//! What one worker hands another: a plain packet is told of, and is not read again (`handoff/plain.rs`). What becomes of it must
//! be what becomes of one that is read again; and no packet may overtake another one of its flow on the way.

use crate::support::fragments::split;
use crate::support::packets::{ACK, FIN, PSH, tcp};
use crate::support::rows::Served;
use crate::support::*;
use dataplane::classify::Origin;
use dataplane::classify::whence::Whence;
use dataplane::flow::Way;
use dataplane::handoff::{Batch, Plain, Stage};
use proptest::prelude::*;
use tables::Protocol;
use tables::counters::WorkerCounter::HandoffsIn;
use tables::flow::Tuple;

const NODE_PORT: (Addr, u16, Protocol) = (NODE, 30_080, Protocol::TCP);

/// What is handed over.
#[derive(Clone, Copy, Debug)]
enum Journey {
    OutOfTunnel,
    FromLocal,
    FromClient,
}

const JOURNEYS: [Journey; 3] = [Journey::OutOfTunnel, Journey::FromLocal, Journey::FromClient];

#[derive(Clone, Debug)]
struct Case {
    journey: Journey,
    is_tcp: bool,
    ttl: u8,
    traffic_class: u8,
    payload: Vec<u8>,
}

fn cases() -> impl Strategy<Value = Case> {
    let journey = prop::sample::select(JOURNEYS.to_vec());
    let payload = prop::collection::vec(any::<u8>(), 0..64);
    (journey, any::<bool>(), 2u8.., any::<u8>(), payload).prop_map(|(journey, is_tcp, ttl, traffic_class, payload)| {
        Case { journey, is_tcp, ttl, traffic_class, payload }
    })
}

impl Case {
    fn is_tcp(&self) -> bool {
        self.is_tcp || matches!(self.journey, Journey::FromClient)
    }

    fn ends(&self) -> [(Addr, u16); 2] {
        match self.journey {
            Journey::OutOfTunnel => [(REMOTE, 1000), (A, 80)],
            Journey::FromLocal => [(B, 1000), (A, 80)],
            Journey::FromClient => [(CLIENT, 1000), (NODE, 30_080)],
        }
    }

    fn packet(&self) -> Spec {
        let [src, dst] = self.ends();
        let packet = if self.is_tcp() { tcp(src, dst, ACK | PSH) } else { udp(src, dst) };
        packet.ttl(self.ttl).traffic_class(self.traffic_class).payload(&self.payload)
    }

    fn way(&self) -> (Way, Origin) {
        match self.journey {
            Journey::OutOfTunnel => (Way::Back, Origin::Tunnel(PEER)),
            Journey::FromLocal => (Way::Back, Origin::Local),
            Journey::FromClient => (Way::Out, Origin::Uplink),
        }
    }

    /// As the end that is its flow's local one sees it.
    fn tuple(&self) -> Tuple {
        let [src, dst] = self.ends();
        let protocol = if self.is_tcp() { Protocol::TCP } else { Protocol::UDP };
        let (local, remote) = if self.way().0 == Way::Out { (src, dst) } else { (dst, src) };
        let (local_port, remote_port) = (local.1, remote.1);
        Tuple { local: local.0, remote: remote.0, local_port, remote_port, protocol, reserved: 0, network: 0 }
    }

    /// As its sender tells of it.
    fn told(&self) -> Plain {
        let (way, origin) = self.way();
        Plain::of(&self.tuple().words(), way, &Whence::from(origin)).unwrap()
    }

    /// As its sender addresses it to a pod.
    fn addressed_to(&self, pod: u32) -> (Option<Spec>, Stage) {
        let packet = self.packet().hop().macs(GATEWAY_MAC, pod_mac(1, pod as u8));
        (Some(packet), Stage::Plain(self.told().addressed_to(pod)))
    }

    /// What leaves, byte for byte, when the packet is handed over in these ways, in turn: all are of one flow.
    fn pass(&self, stages: [Stage; 2]) -> Vec<(u32, Vec<u8>)> {
        self.pass_all(stages.map(|stage| (None, stage)))
    }

    /// The same of what stands there instead of the packet.
    fn pass_all(&self, handed: [(Option<Spec>, Stage); 2]) -> Vec<(u32, Vec<u8>)> {
        let mut node = Node::new(Shape::default());
        node.publish(|rows| rows.serve(1, NODE_PORT, Served { outside: &[(A, 8080)], ..Served::default() }));
        let mut left = Vec::new();
        for (packet, stage) in handed {
            let bytes = packet.unwrap_or_else(|| node.dressed(UPLINK, &self.packet())).bytes();
            let path = node.workers[0].path();
            let (mut batch, mut packet) = (Batch::default(), path.pool.copy_in(&bytes));
            packet.as_mut().unwrap().interface = UPLINK;
            batch.push(&mut packet, stage);
            path.forward_handed(&mut batch);
            node.run();
            let sent = node.peers.iter().map(|(&(id, _), peer)| (id, peer.take_all()));
            left.extend(sent.flat_map(|(id, packets)| packets.into_iter().map(move |packet| (id, packet.bytes))));
        }
        assert_eq!(
            (node.count(HandoffsIn), node.flows()),
            (2, if let Journey::FromClient = self.journey { 2 } else { 1 })
        );
        left
    }
}

proptest! {
    #[test]
    fn a_packet_that_was_told_of_leaves_as_one_that_is_read_again(case in cases()) {
        let (way, origin) = case.way();
        let told = Stage::of_plain(&case.tuple().words(), way, &Whence::from(origin));
        prop_assert!(matches!(told, Stage::Plain(_)));
        let read = Stage::of(way, origin);
        let [expected, opened, amid] = [[read, read], [told, read], [read, told]].map(|stages| case.pass(stages));
        prop_assert_eq!(expected.len(), 2, "{:?}", expected);
        prop_assert_eq!(&opened, &expected);
        prop_assert_eq!(&amid, &expected);
    }

    #[test]
    fn what_its_sender_has_addressed_leaves_as_what_its_owner_addresses(case in cases()) {
        let case = Case { journey: Journey::OutOfTunnel, ..case };
        let read = (None, Stage::of(Way::Back, case.way().1));
        let expected = case.pass_all([read.clone(), read.clone()]);
        // To pod A's interface, and to another one, as tables say that are older than the owner's.
        for addressed in [POD_A, POD_B].map(|pod| case.addressed_to(pod)) {
            prop_assert_eq!(&case.pass_all([addressed.clone(), read.clone()]), &expected);
            prop_assert_eq!(&case.pass_all([read.clone(), addressed]), &expected);
        }
    }
}

/// Pod B belongs to worker 1, and everything comes by the queue of worker 0: what reaches pods A and B, in order, each by its
/// last byte.
fn by_one_queue(inner: &[Vec<u8>]) -> [Vec<u8>; 2] {
    let pods = vec![(4, 0), (5, 1)];
    let mut node = Node::new(Shape { workers: 2, uplink_queues: 2, pods, ..Shape::default() });
    for frame in inner {
        assert!(node.peers[&(UPLINK, 0)].inject(node.peers_frame(frame).bytes()));
    }
    node.run();
    assert_eq!(node.frames_free(), node.frames());
    [POD_A, POD_B].map(|pod| node.peer(pod).take_all().iter().map(|packet| *packet.bytes.last().unwrap()).collect())
}

fn inner(packet: Spec, mark: u8) -> Vec<u8> {
    packet.payload(&[mark; 48]).macs(inner_mac(2), inner_mac(1)).bytes()
}

#[test]
fn no_packet_overtakes_another_one_of_its_flow_on_the_way_to_its_owner() {
    let datagram = |mark| inner(udp((REMOTE, 1), (B, 2)), mark);
    // Ids of both workers, where fragments learn their ports.
    for id in 0..8 {
        let mut frames = vec![datagram(1), datagram(2)];
        frames.extend(split(&datagram(3), &[32], id));
        frames.push(datagram(4));
        assert_eq!(by_one_queue(&frames)[1], [1, 2, 3, 3, 4], "id {id}");
    }
    let segments = [ACK, FIN | ACK, ACK].map(|flags| tcp((REMOTE, 1), (B, 2), flags));
    let frames: Vec<Vec<u8>> = segments.into_iter().zip(1..).map(|(segment, mark)| inner(segment, mark)).collect();
    assert_eq!(by_one_queue(&frames)[1], [1, 2, 3]);
}

#[test]
fn bursts_of_which_a_part_is_handed_over_arrive_whole_and_in_order() {
    for step in [2, 3, 7] {
        let is_b = |mark: &u8| mark.is_multiple_of(step);
        let to = |mark: u8| udp((REMOTE, 1), (if is_b(&mark) { B } else { A }, 2));
        let frames: Vec<Vec<u8>> = (0..250).map(|mark| inner(to(mark), mark)).collect();
        let (to_b, to_a): (Vec<u8>, Vec<u8>) = (0..250).partition(is_b);
        assert_eq!(by_one_queue(&frames), [to_a, to_b]);
    }
}
