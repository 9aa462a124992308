//! What has no ports: other protocols pass by address, ICMP by what it is, an echo by its identifier, whichever it is.

use crate::node;
use crate::support::packets::{echo, echo_reply, icmp, raw};
use crate::support::*;
use tables::counters::{DropReason, WorkerCounter};

/// GRE, ESP, AH, and two of nobody's.
const PROTOCOLS: [u8; 5] = [47, 50, 51, 99, 253];

#[test]
fn another_protocol_passes_between_pods_and_is_counted() {
    let mut node = node();
    for protocol in PROTOCOLS {
        // An authentication header says how long it is.
        let body = if protocol == 51 {
            &[59, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9][..]
        } else {
            &[0; 40]
        };
        let (asked, answer) = (raw(A, REMOTE, protocol, body), raw(REMOTE, A, protocol, body));
        let before = node.count(WorkerCounter::PassedByAddress);
        assert!(node.pass(POD_A, &asked).dropped.is_empty() && node.pass_tunnel(&answer).dropped.is_empty());
        assert_eq!(node.count(WorkerCounter::PassedByAddress) - before, 2, "protocol {protocol}");
    }
    assert_eq!(node.flows(), PROTOCOLS.len());
}

#[test]
fn another_protocol_is_masqueraded_by_address_for_one_pod_at_a_time() {
    let mut node = node();
    let (gre, answer) = (|pod| raw(pod, CLIENT, 47, &[0; 40]), raw(CLIENT, NODE, 47, &[0; 40]));
    assert_eq!(node.pass(POD_A, &gre(A)), node.routed(ROUTER_MAC, gre(NODE).hop()));
    assert_eq!(node.pass(UPLINK, &answer), node.delivered(POD_A, raw(CLIENT, A, 47, &[0; 40]).hop()));
    assert_eq!(node.pass(POD_B, &gre(B)), Outcome::dropped(DropReason::TupleClash));
}

#[test]
fn an_echo_is_masqueraded_whatever_its_identifier() {
    let mut node = node();
    let mut ids = Vec::new();
    for (interface, pod, id) in [(POD_A, A, 0), (POD_B, B, 0), (POD_A, A, 1), (POD_A, A, 0xffff)] {
        let asked = echo(pod, CLIENT, id);
        let outcome = node.pass(interface, &asked);
        let outside = outcome.packet().src_port();
        assert!((SNAT_FIRST..=SNAT_LAST).contains(&outside), "{outside}");
        assert_eq!(outcome, node.routed(ROUTER_MAC, asked.from(NODE, outside).hop()));
        ids.push((interface, pod, id, outside));
    }
    for (interface, pod, id, outside) in ids {
        let answer = echo_reply(CLIENT, NODE, outside);
        assert_eq!(node.pass(UPLINK, &answer), node.delivered(interface, answer.clone().to(pod, id).hop()));
    }
}

#[test]
fn an_ipv6_echo_is_masqueraded_whatever_its_identifier() {
    let mut node = node();
    for id in [0, 7] {
        let asked = echo(v6::A, v6::CLIENT, id);
        let outcome = node.pass(POD_A, &asked);
        let outside = outcome.packet().src_port();
        assert!((SNAT_FIRST..=SNAT_LAST).contains(&outside), "{outside}");
        assert_eq!(outcome, node.routed(ROUTER_MAC, asked.from(v6::NODE, outside).hop()));
        let answer = echo_reply(v6::CLIENT, v6::NODE, outside);
        assert_eq!(node.pass(UPLINK, &answer), node.delivered(POD_A, answer.clone().to(v6::A, id).hop()));
    }
}

#[test]
fn icmp_that_asks_something_else_passes_by_address() {
    let mut node = node();
    let message = |src, dst, kind| icmp(src, dst, (kind, 0), [0, 7, 0, 1]).payload(&[0; 12]);
    // Timestamp and its reply, address mask (RFC 792, RFC 950).
    for (kind, answer) in [(13, 14), (17, 18)] {
        let (asked, answer) = (message(A, REMOTE, kind), message(REMOTE, A, answer));
        assert_eq!(node.pass(POD_A, &asked), node.tunnelled(asked.clone().hop()));
        assert_eq!(node.pass_tunnel(&answer), node.delivered(POD_A, answer.clone().hop()));
    }
    assert_eq!(node.count(WorkerCounter::PassedByAddress), 4);
}

#[test]
fn icmp_that_ends_on_its_link_or_that_nobody_shall_heed_goes_no_further() {
    let mut node = node();
    for kind in [4, 5, 9, 10] {
        let dropped = Outcome::dropped(DropReason::IcmpKind);
        assert_eq!(node.pass(POD_A, &icmp(A, REMOTE, (kind, 0), [0; 4]).payload(&[0; 28])), dropped);
        assert_eq!(node.pass_tunnel(&icmp(REMOTE, A, (kind, 1), [0; 4]).payload(&[0; 28])), dropped);
    }
    assert_eq!(node.flows(), 0);
}
