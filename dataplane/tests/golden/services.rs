//! ClusterIP: to remote and local backends and back, hairpin, and what a service without answer gives.

use crate::node;
use crate::support::packets::{echo, quoted, tcp};
use crate::support::rows::Served;
use crate::support::*;
use packets::{ACK, FIN, RST, SYN};
use std::collections::BTreeMap;
use tables::counters::{DropReason, WorkerCounter};
use tables::lpm::Lpm;
use tables::service::{FLAG_MASQUERADE_ALL, FLAG_PODS_OUTSIDE};
use tables::{Prefix, Protocol};

const HTTP: (Addr, u16, Protocol) = (SERVICE, 80, Protocol::TCP);
const DNS: (Addr, u16, Protocol) = (SERVICE, 53, Protocol::UDP);

fn with_backends(backends: &[(Addr, u16)]) -> Node {
    let mut node = node();
    node.publish(|rows| {
        rows.service(1, HTTP, backends);
        rows.service(2, DNS, backends);
    });
    node
}

#[test]
fn a_service_is_translated_to_a_remote_backend_and_the_answer_back() {
    let mut node = with_backends(&[(REMOTE, 8080)]);
    for (asked, answer) in [
        (tcp((A, 1000), (SERVICE, 80), SYN), tcp((REMOTE, 8080), (A, 1000), SYN | ACK)),
        (udp((A, 1000), (SERVICE, 53)), udp((REMOTE, 8080), (A, 1000))),
    ] {
        assert_eq!(node.pass(POD_A, &asked), node.tunnelled(asked.clone().to(REMOTE, 8080).hop()));
        let port = if matches!(asked.l4, L4::Tcp { .. }) { 80 } else { 53 };
        assert_eq!(node.pass_tunnel(&answer), node.delivered(POD_A, answer.clone().from(SERVICE, port).hop()));
    }
}

#[test]
fn a_service_is_translated_to_a_local_backend_which_sees_its_client() {
    let mut node = with_backends(&[(B, 8080)]);
    for (asked, answer) in [
        (tcp((A, 1000), (SERVICE, 80), SYN), tcp((B, 8080), (A, 1000), SYN | ACK)),
        (udp((A, 1000), (SERVICE, 53)), udp((B, 8080), (A, 1000))),
    ] {
        assert_eq!(node.pass(POD_A, &asked), node.delivered(POD_B, asked.clone().to(B, 8080).hop()));
        let port = if matches!(asked.l4, L4::Tcp { .. }) { 80 } else { 53 };
        assert_eq!(node.pass(POD_B, &answer), node.delivered(POD_A, answer.clone().from(SERVICE, port).hop()));
    }
    assert_eq!(node.flows(), 4);
}

#[test]
fn a_pod_that_is_its_own_backend_meets_itself_as_snat() {
    let mut node = with_backends(&[(A, 8080)]);
    let asked = tcp((A, 1000), (SERVICE, 80), SYN);
    let outcome = node.pass(POD_A, &asked);
    let port = outcome.packet().src_port();
    assert!((SNAT_FIRST..=SNAT_LAST).contains(&port), "{port}");
    assert_eq!(outcome, node.delivered(POD_A, asked.clone().from(SNAT, port).to(A, 8080).hop()));
    let answer = tcp((A, 8080), (SNAT, port), SYN | ACK);
    assert_eq!(node.pass(POD_A, &answer), node.delivered(POD_A, answer.clone().from(SERVICE, 80).to(A, 1000).hop()));
}

#[test]
fn new_connections_spread_over_the_backends_and_each_stays_where_it_is() {
    let backends = [(REMOTE, 8080), (REMOTE_TWO, 8080), (B, 8080)];
    let mut node = with_backends(&backends);
    let mut shares: BTreeMap<Addr, u32> = BTreeMap::new();
    for port in 1000..1300 {
        let first = node.pass(POD_A, &tcp((A, port), (SERVICE, 80), SYN)).packet().dst;
        let later = node.pass(POD_A, &tcp((A, port), (SERVICE, 80), ACK)).packet().dst;
        assert_eq!(first, later);
        *shares.entry(first).or_default() += 1;
    }
    assert_eq!(shares.len(), 3);
    assert!(shares.values().all(|&share| (60..140).contains(&share)), "{shares:?}");
}

#[test]
fn a_service_without_backends_resets_tcp() {
    let mut node = with_backends(&[]);
    let outcome = node.pass(POD_A, &tcp((A, 1000), (SERVICE, 80), SYN));
    let expected = tcp((SERVICE, 80), (A, 1000), RST | ACK);
    let L4::Tcp { src, dst, flags, .. } = expected.l4 else { unreachable!() };
    let reset = Spec { l4: L4::Tcp { src, dst, flags, seq: 0, ack: 1001 }, ..expected };
    assert_eq!(outcome, node.delivered(POD_A, reset));
    assert_eq!((node.flows(), node.count(WorkerCounter::Rejected)), (0, 1));
}

#[test]
fn a_segment_with_an_acknowledgement_is_reset_from_there() {
    let mut node = with_backends(&[]);
    let outcome = node.pass(POD_A, &tcp((A, 1000), (SERVICE, 80), ACK | FIN));
    let reset = tcp((SERVICE, 80), (A, 1000), RST);
    let L4::Tcp { src, dst, flags, .. } = reset.l4 else { unreachable!() };
    let L4::Tcp { seq, ack, .. } = outcome.packet().l4 else { panic!("{outcome:?}") };
    assert_eq!((seq, outcome.packet().dst), (9000, A));
    assert_eq!(outcome, node.delivered(POD_A, Spec { l4: L4::Tcp { src, dst, flags, seq, ack }, ..reset }));
}

#[test]
fn a_service_without_backends_tells_udp_that_the_port_is_unreachable_however_small_the_datagram() {
    let mut node = with_backends(&[]);
    for payload in [&b""[..], b"tiny", &[7; 27], &[7; 28], &[7; 500]] {
        let asked = udp((A, 1000), (SERVICE, 53)).payload(payload);
        let outcome = node.pass(POD_A, &asked);
        let error = outcome.packet();
        assert_eq!((error.src, error.dst, &error.l4), (SERVICE, A, &L4::Unreachable { code: 3 }));
        let (src, dst, protocol, ports) = quoted(error);
        assert_eq!((src, dst, protocol.0), (A, SERVICE, 17), "{} bytes", payload.len());
        assert_eq!(ports[..4], [1000u16.to_be_bytes(), 53u16.to_be_bytes()].concat());
    }
}

#[test]
fn a_port_that_the_service_does_not_define_is_refused() {
    let mut node = with_backends(&[(B, 8080)]);
    let outcome = node.pass(POD_A, &tcp((A, 1000), (SERVICE, 81), SYN));
    assert!(matches!(outcome.packet().l4, L4::Tcp { flags, .. } if flags == RST | ACK));
    let outcome = node.pass(POD_A, &udp((A, 1000), (SERVICE, 80)));
    assert_eq!(outcome.packet().l4, L4::Unreachable { code: 3 });
}

#[test]
fn a_service_answers_no_echo_and_an_unallocated_address_answers_nothing() {
    let mut node = with_backends(&[(B, 8080)]);
    let unknown = Outcome::dropped(DropReason::ServiceUnknown);
    let unallocated = Addr::v4([172, 30, 9, 9]);
    assert_eq!(node.pass(POD_A, &echo(A, SERVICE, 1)), unknown);
    assert_eq!(node.pass(POD_A, &tcp((A, 1), (unallocated, 80), SYN)), unknown);
    assert_eq!(node.pass(POD_A, &udp((A, 1), (unallocated, 80))), unknown);
}

#[test]
fn two_flows_of_one_pod_to_one_backend_by_two_services_are_not_confused() {
    let mut node = with_backends(&[(REMOTE, 8080)]);
    let other = Addr::v4([172, 30, 0, 11]);
    node.publish(|rows| rows.service(3, (other, 80, Protocol::TCP), &[(REMOTE, 8080)]));
    assert_eq!(node.pass(POD_A, &tcp((A, 1000), (SERVICE, 80), SYN)).packet().dst, REMOTE);
    // The same four-tuple towards the backend: the second flow bears another port there.
    let second = tcp((A, 1000), (other, 80), SYN);
    let outcome = node.pass(POD_A, &second);
    let port = outcome.packet().src_port();
    assert!((SNAT_FIRST..=SNAT_LAST).contains(&port), "{port}");
    assert_eq!(outcome, node.tunnelled(second.from(A, port).to(REMOTE, 8080).hop()));
    for (port, service) in [(1000, SERVICE), (port, other)] {
        let answer = tcp((REMOTE, 8080), (A, port), SYN | ACK);
        let back = answer.clone().from(service, 80).to(A, 1000).hop();
        assert_eq!(node.pass_tunnel(&answer), node.delivered(POD_A, back));
    }
}

#[test]
fn a_flow_follows_all_that_its_service_says_of_who_asks() {
    let (key, asked) = ((SERVICE, 53, Protocol::UDP), udp((A, 1000), (SERVICE, 53)));
    let (inside, outside) = (&[(REMOTE, 53)][..], &[(REMOTE_TWO, 53)][..]);
    let (range, plain) = (["10.9.0.0/16".parse().unwrap()], Served { inside, outside, ..Served::default() });
    for (what, served) in [
        ("masquerade", Served { inside, outside, flags: FLAG_MASQUERADE_ALL, ..Served::default() }),
        ("backends", Served { inside, outside, flags: FLAG_PODS_OUTSIDE, ..Served::default() }),
        ("sources", Served { inside, outside, sources: &range, ..Served::default() }),
    ] {
        let mut node = node();
        node.publish(|rows| rows.serve(1, key, Served { ..plain }));
        let before = node.tunnelled(asked.clone().to(REMOTE, 53).hop());
        assert_eq!(node.pass(POD_A, &asked), before);
        node.publish(|rows| rows.serve(1, key, Served { ..plain }));
        assert_eq!(node.pass(POD_A, &asked), before, "{what}: nothing changed");
        node.publish(|rows| rows.serve(1, key, served));
        let outcome = node.pass(POD_A, &asked);
        match what {
            "masquerade" => assert_eq!(outcome.packet().src, SNAT),
            "backends" => assert_eq!(outcome, node.tunnelled(asked.clone().to(REMOTE_TWO, 53).hop())),
            _ => assert_eq!(outcome, Outcome::dropped(DropReason::SourceRange)),
        }
    }
}

#[test]
fn a_flow_that_its_service_stops_masquerading_begins_anew_as_itself() {
    let (key, asked) = ((SERVICE, 53, Protocol::UDP), udp((A, 1000), (SERVICE, 53)));
    let inside = &[(REMOTE, 53)][..];
    let mut node = node();
    node.publish(|rows| rows.serve(1, key, Served { inside, flags: FLAG_MASQUERADE_ALL, ..Served::default() }));
    assert_eq!(node.pass(POD_A, &asked).packet().src, SNAT);
    node.publish(|rows| rows.serve(1, key, Served { inside, ..Served::default() }));
    assert_eq!(node.pass(POD_A, &asked), node.tunnelled(asked.to(REMOTE, 53).hop()));
}

#[test]
fn a_change_of_a_service_alone_costs_its_flows_no_whole_judgement() {
    let (key, asked) = ((SERVICE, 53, Protocol::UDP), udp((A, 1000), (SERVICE, 53)));
    let mut node = node();
    node.publish(|rows| rows.service(1, key, &[(REMOTE, 53)]));
    assert!(node.pass(POD_A, &asked).dropped.is_empty());
    // A whole judgement would follow the route, of which nothing is said here.
    node.publish(|rows| {
        rows.service(1, key, &[(REMOTE, 53), (REMOTE_TWO, 53)]);
        assert!(rows.batch.remove_prefix(Lpm::Route, &Prefix::new(REMOTE, 24).unwrap()).unwrap());
    });
    assert_eq!(node.pass(POD_A, &asked), node.tunnelled(asked.to(REMOTE, 53).hop()));
    assert_eq!(node.count(WorkerCounter::FlowsRevalidated), 1);
}
