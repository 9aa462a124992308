//! NetworkPolicy: allow, deny, default deny, replies, and changes that cut one flow and spare another.

use crate::node;
use crate::support::packets::{echo, tcp};
use crate::support::rows::{DENYING, identity};
use crate::support::*;
use packets::{ACK, SYN};
use tables::Protocol;
use tables::counters::{DropReason, WorkerCounter};
use tables::policy::Direction::{Egress, Ingress};

fn rule(identity: u32, protocol: Protocol, port: u16) -> Rule {
    Rule { identity, protocol, port, policy: 41 }
}

/// Policy drops counted for the policy that denies.
fn counted(node: &Node) -> u64 {
    node.status.blocks().map(|block| block.policy_drops(DENYING as usize)).sum()
}

#[test]
fn ingress_lets_in_whom_and_what_a_rule_names_and_nothing_else() {
    let mut node = node();
    node.publish(|rows| {
        rows.policy(1, Ingress, &[rule(identity(1, 4), Protocol::TCP, 80)]);
        rows.pod(5, 0, 1);
    });
    let denied = Outcome::dropped(DropReason::PolicyIngress);
    let allowed = tcp((A, 1000), (B, 80), SYN);
    assert_eq!(node.pass(POD_A, &allowed), node.delivered(POD_B, allowed.hop()));
    assert_eq!(node.pass(POD_A, &tcp((A, 1000), (B, 81), SYN)), denied);
    assert_eq!(node.pass(POD_A, &udp((A, 1000), (B, 80))), denied);
    assert_eq!(node.pass(POD_A, &echo(A, B, 1)), denied);
    assert_eq!(node.pass(POD_C, &tcp((C, 1000), (B, 80), SYN)), denied);
    assert_eq!(node.pass_tunnel(&tcp((REMOTE, 1000), (B, 80), SYN)), denied);
    assert_eq!(node.pass(UPLINK, &tcp((CLIENT, 1000), (B, 80), SYN)), denied);
    assert_eq!(counted(&node), 6, "the denying policy is named");
    let unselected = tcp((C, 1000), (A, 80), SYN);
    assert_eq!(node.pass(POD_C, &unselected), node.delivered(POD_A, unselected.hop()));
}

#[test]
fn a_default_deny_stops_all_but_the_node_and_replies() {
    let mut node = node();
    node.publish(|rows| {
        rows.policy(1, Ingress, &[]);
        rows.pod(5, 0, 1);
    });
    assert_eq!(node.pass(POD_A, &udp((A, 1), (B, 2))), Outcome::dropped(DropReason::PolicyIngress));
    let probe = tcp((HOST_ADDR, 5000), (B, 80), SYN);
    assert_eq!(node.pass(HOST, &probe), node.delivered(POD_B, probe.hop()));
    let asked = udp((B, 7), (REMOTE, 53));
    assert_eq!(node.pass(POD_B, &asked), node.tunnelled(asked.hop()));
    let answer = udp((REMOTE, 53), (B, 7));
    assert_eq!(node.pass_tunnel(&answer), node.delivered(POD_B, answer.hop()), "a reply always passes");
}

#[test]
fn egress_is_judged_on_the_backend_that_a_service_chose() {
    let mut node = node();
    node.publish(|rows| {
        rows.policy(1, Egress, &[rule(identity(2, 4), Protocol::TCP, 8080)]);
        rows.pod(4, 0, 1);
        rows.service(1, (SERVICE, 80, Protocol::TCP), &[(REMOTE, 8080)]);
        rows.service(2, (SERVICE, 81, Protocol::TCP), &[(REMOTE_TWO, 8080)]);
    });
    let asked = tcp((A, 1000), (SERVICE, 80), SYN);
    assert_eq!(node.pass(POD_A, &asked), node.tunnelled(asked.to(REMOTE, 8080).hop()));
    let denied = Outcome::dropped(DropReason::PolicyEgress);
    assert_eq!(node.pass(POD_A, &tcp((A, 1000), (SERVICE, 81), SYN)), denied);
    assert_eq!(node.pass(POD_A, &tcp((A, 1000), (REMOTE, 80), SYN)), denied);
    assert_eq!(node.pass(POD_A, &tcp((A, 1000), (CLIENT, 8080), SYN)), denied);
    // A flow opened from outside is answered, whatever egress says.
    let asked = udp((REMOTE_TWO, 9), (A, 53));
    assert_eq!(node.pass_tunnel(&asked), node.delivered(POD_A, asked.hop()));
    let answer = udp((A, 53), (REMOTE_TWO, 9));
    assert_eq!(node.pass(POD_A, &answer), node.tunnelled(answer.hop()));
}

#[test]
fn a_rule_for_everybody_counts_for_everybody() {
    let mut node = node();
    node.publish(|rows| {
        rows.policy(1, Ingress, &[rule(0, Protocol(0), 0)]);
        rows.pod(5, 0, 1);
    });
    assert!(node.pass(POD_A, &echo(A, B, 1)).dropped.is_empty());
    assert!(node.pass(UPLINK, &udp((CLIENT, 1), (B, 2))).dropped.is_empty());
}

#[test]
fn a_change_cuts_the_established_flow_it_forbids_and_spares_the_other_and_brings_it_back() {
    let mut node = node();
    node.publish(|rows| {
        rows.policy(1, Ingress, &[rule(identity(1, 4), Protocol::TCP, 80), rule(identity(1, 6), Protocol::TCP, 80)]);
        rows.pod(5, 0, 1);
    });
    let (of_a, of_c) = (|flags| tcp((A, 1000), (B, 80), flags), |flags| tcp((C, 1000), (B, 80), flags));
    assert!(node.pass(POD_A, &of_a(SYN)).dropped.is_empty() && node.pass(POD_C, &of_c(SYN)).dropped.is_empty());
    node.publish(|rows| rows.forbid(1, Ingress, identity(1, 4)));
    assert_eq!(node.pass(POD_A, &of_a(ACK)), Outcome::dropped(DropReason::PolicyIngress));
    assert_eq!(node.pass(POD_C, &of_c(ACK)), node.delivered(POD_B, of_c(ACK).hop()));
    let answer = tcp((B, 80), (A, 1000), ACK);
    assert_eq!(node.pass(POD_B, &answer), Outcome::dropped(DropReason::PolicyIngress), "cut in both directions");
    assert_eq!(counted(&node), 2);
    node.publish(|rows| rows.policy(1, Ingress, &[rule(identity(1, 4), Protocol::TCP, 80)]));
    assert_eq!(node.pass(POD_A, &of_a(ACK)), node.delivered(POD_B, of_a(ACK).hop()));
}

#[test]
fn a_change_looks_again_only_at_flows_in_its_scopes() {
    let mut node = node();
    node.publish(|rows| {
        rows.policy(1, Ingress, &[rule(0, Protocol(0), 0)]);
        rows.policy(2, Ingress, &[rule(0, Protocol(0), 0)]);
        rows.pod(5, 0, 1);
        rows.pod(6, 0, 2);
    });
    let (to_b, to_c) = (udp((REMOTE, 1), (B, 2)), udp((REMOTE, 1), (C, 2)));
    node.pass_tunnel(&to_b);
    node.pass_tunnel(&to_c);
    node.publish(|rows| rows.policy(1, Ingress, &[]));
    let before = node.count(WorkerCounter::FlowsRevalidated);
    node.pass_tunnel(&to_c);
    assert_eq!(node.count(WorkerCounter::FlowsRevalidated), before);
    node.pass_tunnel(&to_b);
    assert_eq!(node.count(WorkerCounter::FlowsRevalidated), before + 1);
}

#[test]
fn a_pod_whose_policy_is_not_in_force_neither_speaks_nor_is_spoken_to() {
    let mut node = node();
    let spoken = udp((A, 1), (REMOTE, 2));
    assert!(node.pass(POD_A, &spoken).dropped.is_empty());
    node.publish(|rows| rows.pending(4));
    let pending = Outcome::dropped(DropReason::PolicyPending);
    assert_eq!(node.pass(POD_A, &spoken), pending, "not even on an established flow");
    assert_eq!(node.pass(POD_A, &udp((A, 9), (REMOTE, 2))), pending);
    assert_eq!(node.pass_tunnel(&udp((REMOTE, 9), (A, 2))), pending);
    node.publish(|rows| rows.pod(4, 0, 0));
    assert_eq!(node.pass(POD_A, &spoken), node.tunnelled(spoken.hop()), "in force again: the flow goes on");
}

#[test]
fn a_rule_that_denies_denies_whatever_holds_elsewhere_and_is_counted_for_its_policy() {
    let mut node = node();
    node.publish(|rows| {
        rows.tiered(1, Ingress, identity(1, 4), (Protocol::TCP, 80), DENYING);
        rows.pod(5, 0, 1);
    });
    let denied = Outcome::dropped(DropReason::PolicyIngress);
    assert_eq!(node.pass(POD_A, &tcp((A, 1000), (B, 80), SYN)), denied);
    let other = tcp((A, 1000), (B, 81), SYN);
    assert_eq!(node.pass(POD_A, &other), node.delivered(POD_B, other.hop()), "what no rule denies is allowed");
    let another = tcp((C, 1000), (B, 80), SYN);
    assert_eq!(node.pass(POD_C, &another), node.delivered(POD_B, another.hop()));
    assert_eq!(counted(&node), 1);
}

#[test]
fn what_a_service_leads_back_to_who_asked_is_judged_by_cluster_wide_policies_alone() {
    let mut node = node();
    let (itself, port) = (identity(1, 4), (Protocol::TCP, 8080));
    node.publish(|rows| {
        rows.policy(1, Ingress, &[]);
        rows.policy(1, Egress, &[]);
        rows.pod(4, 0, 1);
        rows.service(1, (SERVICE, 80, Protocol::TCP), &[(A, 8080)]);
    });
    let asked = |from| tcp((A, from), (SERVICE, 80), SYN);
    assert!(node.pass(POD_A, &asked(1000)).dropped.is_empty(), "no NetworkPolicy parts a pod from itself");
    for (direction, reason, from) in
        [(Egress, DropReason::PolicyEgress, 1001), (Ingress, DropReason::PolicyIngress, 1002)]
    {
        node.publish(|rows| rows.tiered(2, direction, itself, port, DENYING));
        node.publish(|rows| rows.pod(4, 0, 2));
        assert_eq!(node.pass(POD_A, &asked(from)), Outcome::dropped(reason));
        node.publish(|rows| rows.forbid(2, direction, itself));
    }
}
