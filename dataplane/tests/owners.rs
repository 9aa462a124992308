//! Property: whatever a flow is and by whichever queue its packets come, one worker keeps it. A packet goes out, its
//! reply (made of what left, so after all translation) and an ICMP error that quotes it come back by any queue, and both
//! reach the end that opened the flow, translated back; `owner()` names the worker that holds the flow in each case.

mod support;

use proptest::prelude::*;
use support::packets::{L4, Spec, echo, error, quoted, tcp, udp};
use support::*;
use tables::Protocol;
use tables::flow::Tuple;
use tables::owner::{Worker, owner};

const HTTP: (Addr, u16, Protocol) = (SERVICE, 80, Protocol::TCP);
const DNS: (Addr, u16, Protocol) = (SERVICE, 80, Protocol::UDP);

/// Who opens the flow, and to whom.
#[derive(Clone, Debug)]
struct Flow {
    from: u32,
    to: Addr,
    protocol: Protocol,
    src_port: u16,
}

fn flow() -> impl Strategy<Value = Flow> {
    let from = prop::sample::select(vec![HOST, POD_A, POD_B, POD_C]);
    let to = prop::sample::select(vec![REMOTE, CLIENT, SERVICE]);
    let protocol = prop::sample::select(vec![Protocol::TCP, Protocol::UDP, Protocol::ICMP]);
    (from, to, protocol, 1u16..)
        .prop_filter("a service answers no echo", |(_, to, protocol, _)| {
            !(*to == SERVICE && *protocol == Protocol::ICMP)
        })
        .prop_map(|(from, to, protocol, src_port)| Flow { from, to, protocol, src_port })
}

impl Flow {
    /// The address that the opener speaks from: the host from the node's, so that it is translated too.
    fn addr(&self) -> Addr {
        if self.from == HOST { NODE } else { pod(1, self.from as u8) }
    }

    fn packet(&self) -> Spec {
        let (src, dst) = ((self.addr(), self.src_port), (self.to, 80));
        match self.protocol {
            Protocol::TCP => tcp(src, dst, packets::SYN),
            Protocol::UDP => udp(src, dst),
            _ => echo(self.addr(), self.to, self.src_port),
        }
    }
}

/// The answer to a packet that left.
fn answer(packet: &Spec) -> Spec {
    let (src, dst) = (packet.dst, packet.src);
    match packet.l4 {
        L4::Tcp { src: to, dst: from, .. } => tcp((src, from), (dst, to), packets::SYN | packets::ACK),
        L4::Udp { src: to, dst: from } => udp((src, from), (dst, to)),
        L4::Echo { id } => packets::echo_reply(src, dst, id),
        _ => panic!("{packet:?}"),
    }
}

/// The tuple as its local end sees it, of a packet towards that end.
fn towards(packet: &Spec) -> Tuple {
    let (local_port, remote_port, protocol) = match packet.l4 {
        L4::Tcp { src, dst, .. } => (dst, src, Protocol::TCP),
        L4::Udp { src, dst } => (dst, src, Protocol::UDP),
        L4::Echo { id } => (0, id, Protocol::ICMP),
        L4::EchoReply { id } => (id, 0, Protocol::ICMP),
        _ => panic!("{packet:?}"),
    };
    Tuple { local: packet.dst, remote: packet.src, local_port, remote_port, protocol, reserved: 0, network: 0 }
}

fn node(workers: u16) -> Node {
    let last = workers - 1;
    let pods = vec![(4, 0), (5, last), (6, 1)];
    let mut node = Node::new(Shape { workers, uplink_queues: workers, pods, host_owner: last, ..Shape::default() });
    node.publish(|rows| {
        rows.service(1, HTTP, &[(REMOTE, 8080), (REMOTE_TWO, 8080)]);
        rows.service(2, DNS, &[(REMOTE, 8080), (REMOTE_TWO, 8080)]);
    });
    node
}

/// The one worker that holds a flow.
fn holder(node: &mut Node) -> Worker {
    let used: Vec<usize> = node.workers.iter_mut().map(|worker| worker.path().flows.used()).collect();
    assert_eq!(used.iter().sum::<usize>(), 1, "{used:?}");
    used.iter().position(|&used| used == 1).unwrap() as Worker
}

/// As it comes by the uplink: through the tunnel if its sender is a remote pod.
fn by_uplink(node: &Node, packet: &Spec) -> Vec<u8> {
    let by_peer = packet.src == REMOTE || packet.src == REMOTE_TWO;
    if by_peer { node.peers_packet(packet).bytes() } else { node.dressed(UPLINK, packet).bytes() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn one_worker_keeps_a_flow_whoever_receives_its_packets(
        flow in flow(), workers in 2u16..4, queues in (0u16..12, 0u16..12)
    ) {
        // Our translated ports are reserved on the host: its own sockets never use them.
        prop_assume!(flow.from != HOST || !(SNAT_FIRST..=SNAT_LAST).contains(&flow.src_port));
        let mut node = node(workers);
        let (answer_queue, error_queue) = (queues.0 % workers, queues.1 % workers);
        let asked = flow.packet();
        let left = node.pass(flow.from, &asked).packet().clone();
        let keeper = holder(&mut node);
        let snat = tables::owner::SnatPorts::new(SNAT_FIRST, SNAT_LAST, workers).unwrap();
        prop_assert_eq!(owner(&node.publisher.live(), &snat, &towards(&answer(&left))), Some(keeper));

        let bytes = by_uplink(&node, &answer(&left));
        let outcome = node.pass_queue(UPLINK, Some(answer_queue), bytes);
        prop_assert_eq!(outcome, node.delivered(flow.from, answer(&asked).hop()));

        let bytes = by_uplink(&node, &error(left.dst, L4::TimeExceeded, &left));
        let outcome = node.pass_queue(UPLINK, Some(error_queue), bytes);
        let told = outcome.packet();
        prop_assert_eq!((told.src, told.dst), (asked.dst, asked.src));
        let (src, dst, _, start) = quoted(told);
        prop_assert_eq!((src, dst), (asked.src, asked.dst));
        let ports = if flow.protocol == Protocol::ICMP { 4..6 } else { 0..4 };
        prop_assert_eq!(&start[ports.clone()], &asked.bytes()[34..][ports]);
        prop_assert_eq!(holder(&mut node), keeper, "no packet opened a flow elsewhere");
    }

    /// Flows that are opened from outside, by any queue: one worker keeps each, the pod's own.
    #[test]
    fn a_flow_from_outside_is_its_pods_workers(
        octet in 4u8..7, src_port in 1u16.., workers in 2u16..4, queues in (0u16..12, 0u16..12), tunnelled: bool
    ) {
        let mut node = node(workers);
        let client = if tunnelled { REMOTE } else { CLIENT };
        let asked = udp((client, src_port), (pod(1, octet), 53));
        for queue in [queues.0 % workers, queues.1 % workers] {
            let bytes = by_uplink(&node, &asked);
            let outcome = node.pass_queue(UPLINK, Some(queue), bytes);
            prop_assert_eq!(outcome, node.delivered(octet as u32, asked.clone().hop()));
        }
        let pods = node.shape.pods.clone();
        let keeper = pods.iter().find(|(o, _)| *o == octet).unwrap().1;
        prop_assert_eq!(holder(&mut node), keeper);
        let sent = answer(&asked);
        let outcome = node.pass(octet as u32, &sent);
        prop_assert_eq!(outcome.packet(), &sent.clone().hop().macs(outcome.packet().src_mac, outcome.packet().dst_mac));
    }
}
