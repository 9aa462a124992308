//! What a node does not take for another one's packets of clients: everything that is not just that.

use crate::direct::{FLAGS, NODE_PORT, Pair};
use crate::support::packets::{ACK, Outer, SYN, encapsulate, error, tcp};
use crate::support::*;
use tables::Protocol;
use tables::counters::DropReason;

const BACKEND: (Addr, u16) = (REMOTE, 8080);

fn pair() -> Pair {
    let mut pair = Pair::new(&Shape::default());
    pair.serves(1, (NODE, NODE_PORT, Protocol::TCP), &[BACKEND]);
    assert_ne!(FLAGS, 0);
    pair
}

fn segment(flags: u8) -> Spec {
    tcp((CLIENT, 5000), (NODE, NODE_PORT), flags)
}

/// What comes of a client's packet with other outer headers than the asked node's own.
fn changed(pair: &mut Pair, change: impl Fn(Outer) -> Outer, inner: &Spec) -> Outcome {
    let outer = change(pair.outer(1, BACKEND, 0));
    let inner = inner.clone().macs(inner_mac(1), inner_mac(2));
    pair.serving.pass_wire(UPLINK, encapsulate(&outer, 55_555, &inner.bytes()).bytes())
}

#[test]
fn only_from_nodes_of_the_cluster_and_their_network() {
    let mut pair = pair();
    let strange = |outer: Outer| Outer { src: ROUTER, ..outer };
    for _ in 0..2 {
        assert_eq!(changed(&mut pair, strange, &segment(SYN)), Outcome::dropped(DropReason::TunnelPeer));
        let other = changed(&mut pair, |outer| Outer { vni: VNI + 1, ..outer }, &segment(SYN));
        assert_eq!(other, Outcome::dropped(DropReason::TunnelNetwork));
        // An established flow is no way in either.
        pair.asks(&segment(SYN), BACKEND);
    }
}

#[test]
fn only_clients_outside() {
    for (mut pair, inner) in [A, REMOTE, pod(2, 1), pod(2, 2), SNAT, PEER, SERVICE]
        .map(|src| (pair(), tcp((src, 5000), (NODE, NODE_PORT), SYN)))
    {
        assert_eq!(pair.arrives(BACKEND, &inner), Outcome::dropped(DropReason::ForgedOutside), "{}", inner.src);
        pair.asks(&segment(SYN), BACKEND);
        let answered = pair.serving.pass(POD_A, &tcp(BACKEND, (CLIENT, 5000), SYN | ACK)).packet().clone();
        let forged = error(inner.src, L4::TimeExceeded, &answered);
        assert_eq!(pair.arrives(BACKEND, &forged), Outcome::dropped(DropReason::ForgedOutside), "{}", inner.src);
    }
}

#[test]
fn only_to_pods_that_are_here() {
    let mut pair = pair();
    for stray in [pod(2, 99), pod(1, 4), pod(2, 2), PEER, CLIENT] {
        let outcome = pair.arrives((stray, 8080), &segment(SYN));
        assert_eq!(outcome, Outcome::dropped(DropReason::TunnelStray), "{stray}");
    }
    pair.serving.publish(|rows| rows.pending(4));
    assert_eq!(pair.arrives(BACKEND, &segment(SYN)), Outcome::dropped(DropReason::PolicyPending));
}

#[test]
fn an_option_that_is_not_just_ours_is_named() {
    let mut pair = pair();
    let option = Outcome::dropped(DropReason::TunnelOption);
    // Of the other family than the packet, both ways.
    assert_eq!(pair.arrives((v6::REMOTE, 8080), &segment(SYN)), option);
    assert_eq!(pair.arrives(BACKEND, &tcp((v6::CLIENT, 5000), (v6::NODE, NODE_PORT), SYN)), option);
    let outer = pair.outer(1, BACKEND, 0);
    let inner = segment(SYN).macs(inner_mac(1), inner_mac(2));
    let right = encapsulate(&outer, 55_555, &inner.bytes());
    // Class, type, length, and one word more or less.
    for (at, value) in [(8, 0xfe), (9, 0x47), (10, 0x82), (10, 0x01), (11, 3), (0, 2), (0, 4), (0, 1), (0, 63), (0, 0)]
    {
        let mut payload = right.payload.clone();
        payload[at] = value;
        let outcome = pair.serving.pass_wire(UPLINK, right.clone().payload(&payload).bytes());
        let truncated = Outcome::dropped(DropReason::Truncated);
        assert!(outcome == option || value == 63 && outcome == truncated, "byte {at}: {outcome:?}");
    }
    // Before the flag that says so, it is anybody's datagram.
    for size in 2..right.payload.len() {
        let cut = right.clone().payload(&right.payload[..size]).bytes();
        let outcome = pair.serving.pass_wire(UPLINK, cut);
        assert_eq!(outcome, Outcome::dropped(DropReason::Truncated), "{size}");
    }
    assert_eq!(pair.serving.flows(), 0);
}

#[test]
fn geneve_without_such_an_option_is_the_kernels_where_tunnels_are_not_geneve() {
    let mut node = Node::new(Shape::default());
    let usual = Shape { wrapped: Wrapped::Geneve, ..Shape::default() }.outer(2, 1);
    let frame = udp((REMOTE, 1), (A, 2)).macs(inner_mac(2), inner_mac(1)).bytes();
    let packet = encapsulate(&usual, 55_555, &frame);
    assert_eq!(node.pass_wire(UPLINK, packet.bytes()), node.delivered(HOST, packet.hop()));
}

#[test]
fn a_second_service_asked_from_one_port_by_another_node_is_dropped_while_the_first_lives() {
    let mut pair = pair();
    let datagram = |port| udp((CLIENT, 5000), (NODE, port));
    assert_eq!(pair.arrives((REMOTE, 53), &datagram(1053)).sent.len(), 1);
    assert_eq!(pair.arrives((REMOTE, 53), &datagram(1054)), Outcome::dropped(DropReason::TupleClash));
    assert_eq!(pair.arrives((REMOTE, 53), &datagram(1053)).sent.len(), 1);
    pair.asks(&segment(SYN), BACKEND);
    pair.answers(&tcp(BACKEND, (CLIENT, 5000), SYN | ACK), (NODE, NODE_PORT));
    pair.asks(&segment(ACK), BACKEND);
    let other = tcp((CLIENT, 5000), (NODE, NODE_PORT + 1), SYN);
    assert_eq!(pair.arrives(BACKEND, &other), Outcome::dropped(DropReason::TupleClash));
}

#[test]
fn nobody_breaks_into_a_flow_of_another_kind() {
    let mut pair = pair();
    let sent = pair.serving.pass(POD_A, &tcp((REMOTE, 1000), (CLIENT, 443), SYN)).packet().clone();
    let back = tcp((CLIENT, 443), (sent.src, sent.src_port()), SYN | ACK);
    assert_eq!(pair.arrives(BACKEND, &back), Outcome::dropped(DropReason::TupleClash));
    let about = error(ROUTER, L4::TimeExceeded, &sent);
    assert_eq!(pair.arrives(BACKEND, &about), Outcome::dropped(DropReason::IcmpUnrelated));
}
