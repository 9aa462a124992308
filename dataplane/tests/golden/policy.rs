//! NetworkPolicy: allow, deny, default deny, replies, and changes that cut one flow and spare another.

use crate::node;
use crate::support::packets::{echo, tcp};
use crate::support::rows::{DENYING, ROUTE_PEER, identity};
use crate::support::*;
use packets::{ACK, SYN};
use tables::counters::{DropReason, WorkerCounter};
use tables::endpoint::EndpointRecord;
use tables::layout::Table;
use tables::lpm::Lpm;
use tables::policy::Direction::{Egress, Ingress};
use tables::route::{RouteKind, RouteRecord};
use tables::scope::Scope;
use tables::{Prefix, Protocol};

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

/// Two pods, in a set each, that may speak with both remote pods.
fn two_pods_that_may_speak() -> Node {
    let mut node = node();
    node.publish(|rows| {
        for set in [1, 2] {
            let to = |octet, port| Rule { identity: identity(2, octet), protocol: Protocol::UDP, port, policy: 41 };
            rows.policy(set, Egress, &[to(4, 53), to(5, 53)]);
            rows.policy(set, Ingress, &[to(4, 53)]);
        }
        rows.pod(4, 0, 1);
        rows.pod(5, 0, 2);
    });
    node
}

#[test]
fn what_a_flow_is_still_allowed_is_not_what_another_pod_or_another_end_is() {
    let [of_a, of_b, to_two] =
        [((A, 1000), (REMOTE, 53)), ((B, 1000), (REMOTE, 53)), ((A, 1000), (REMOTE_TWO, 53))].map(|(a, b)| udp(a, b));
    let denied = Outcome::dropped(DropReason::PolicyEgress);
    for (set, octet, from, cut) in [(2, 4, POD_B, &of_b), (1, 5, POD_A, &to_two)] {
        let mut node = two_pods_that_may_speak();
        for (pod, packet) in [(POD_A, &of_a), (POD_B, &of_b), (POD_A, &to_two)] {
            assert!(node.pass(pod, packet).dropped.is_empty());
        }
        // Touched and still allowed; then forbidden to one of them, and the other comes first.
        node.publish(|rows| [1, 2].into_iter().for_each(|set| rows.batch.touch(Scope::PolicySet(set))));
        assert!([(POD_A, &of_a), (from, cut)].iter().all(|(pod, packet)| node.pass(*pod, packet).dropped.is_empty()));
        node.publish(|rows| {
            rows.forbid(set, Egress, identity(2, octet));
            rows.batch.touch(Scope::PolicySet(1));
        });
        assert_eq!(node.pass(POD_A, &of_a), node.tunnelled(of_a.clone().hop()));
        assert_eq!(node.pass(from, cut), denied);
        assert_eq!(node.pass(POD_A, &of_a), node.tunnelled(of_a.clone().hop()));
    }
}

#[test]
fn what_a_flow_is_still_allowed_is_not_what_another_port_or_direction_is() {
    let mut node = node();
    let remote = identity(2, 4);
    node.publish(|rows| {
        rows.tiered(1, Egress, remote, (Protocol::UDP, 9), DENYING);
        rows.tiered(1, Ingress, remote, (Protocol::UDP, 9), DENYING);
        rows.pod(4, 0, 1);
    });
    let [to, to_other, from] =
        [((A, 1000), (REMOTE, 53)), ((A, 1000), (REMOTE, 54)), ((REMOTE, 1000), (A, 53))].map(|(a, b)| udp(a, b));
    for packet in [&to, &to_other] {
        assert!(node.pass(POD_A, packet).dropped.is_empty());
    }
    assert!(node.pass_tunnel(&from).dropped.is_empty());
    node.publish(|rows| {
        rows.tiered(1, Egress, remote, (Protocol::UDP, 54), DENYING);
        rows.tiered(1, Ingress, remote, (Protocol::UDP, 53), DENYING);
    });
    assert_eq!(node.pass(POD_A, &to), node.tunnelled(to.hop()));
    assert_eq!(node.pass(POD_A, &to_other), Outcome::dropped(DropReason::PolicyEgress));
    assert_eq!(node.pass_tunnel(&from), Outcome::dropped(DropReason::PolicyIngress));
}

#[test]
fn a_flow_whose_policies_changed_with_something_else_follows_that_too() {
    let dns = (SERVICE, 53, Protocol::UDP);
    let (asked, away) = (udp((A, 1000), (SERVICE, 53)), udp((A, 1000), (CLIENT, 53)));
    for apart in [false, true] {
        let mut node = node();
        node.publish(|rows| {
            rows.policy(1, Egress, &[rule(0, Protocol(0), 0)]);
            rows.pod(4, 0, 1);
            rows.service(1, dns, &[(REMOTE, 53)]);
        });
        assert!([&asked, &away].iter().all(|packet| node.pass(POD_A, packet).dropped.is_empty()));
        node.publish(|rows| {
            rows.service(1, dns, &[(REMOTE_TWO, 53)]);
            rows.no_default_route();
            if !apart {
                rows.batch.touch(Scope::PolicySet(1));
            }
        });
        if apart {
            node.publish(|rows| rows.batch.touch(Scope::PolicySet(1)));
        }
        assert_eq!(node.pass(POD_A, &asked), node.tunnelled(asked.clone().to(REMOTE_TWO, 53).hop()), "apart: {apart}");
        assert_eq!(node.pass(POD_A, &away).dropped, [DropReason::NoRoute], "apart: {apart}");
    }
}

#[test]
fn a_pod_that_got_another_interface_hears_there_what_it_asked_before() {
    let mut node = node();
    let (asked, answer) = (udp((A, 1000), (REMOTE, 53)), udp((REMOTE, 53), (A, 1000)));
    assert!(node.pass(POD_A, &asked).dropped.is_empty());
    node.publish(|rows| {
        let mut row: EndpointRecord = rows.batch.view().find(Table::Endpoint, &A).unwrap();
        row.interface = POD_B;
        rows.batch.insert(Table::Endpoint, &A, &row).unwrap();
        rows.batch.touch(Scope::PolicySet(row.policy_set));
    });
    assert_eq!(node.pass_tunnel(&answer), node.delivered(POD_B, answer.hop()));
}

#[test]
fn a_change_of_policies_alone_costs_a_flow_no_whole_judgement() {
    let mut node = node();
    let packet = udp((A, 1000), (REMOTE, 53));
    assert!(node.pass(POD_A, &packet).dropped.is_empty());
    // A whole judgement would follow the route, of which nothing is said here.
    node.publish(|rows| {
        assert!(rows.batch.remove_prefix(Lpm::Route, &Prefix::new(REMOTE, 24).unwrap()).unwrap());
        rows.batch.touch(Scope::PolicySet(0));
    });
    assert_eq!(node.pass(POD_A, &packet), node.tunnelled(packet.hop()));
    assert_eq!(node.count(WorkerCounter::FlowsRevalidated), 1);
}

#[test]
fn a_flow_whose_pod_came_under_other_policies_follows_these_from_then_on() {
    let mut node = two_pods_that_may_speak();
    let packet = udp((A, 1000), (REMOTE, 53));
    assert!(node.pass(POD_A, &packet).dropped.is_empty());
    node.publish(|rows| rows.pod(4, 0, 2));
    assert_eq!(node.pass(POD_A, &packet), node.tunnelled(packet.clone().hop()));
    node.publish(|rows| rows.forbid(2, Egress, identity(2, 4)));
    assert_eq!(node.pass(POD_A, &packet), Outcome::dropped(DropReason::PolicyEgress));
}

#[test]
fn a_flow_to_a_service_is_cut_by_its_policies_and_follows_its_route() {
    let (key, asked) = ((SERVICE, 53, Protocol::UDP), udp((A, 1000), (SERVICE, 53)));
    let mut node = two_pods_that_may_speak();
    node.publish(|rows| rows.service(1, key, &[(REMOTE, 53)]));
    assert_eq!(node.pass(POD_A, &asked), node.tunnelled(asked.clone().to(REMOTE, 53).hop()));
    let blackhole = RouteRecord::new(RouteKind::Blackhole);
    node.publish(|rows| rows.route(ROUTE_PEER, Prefix::new(REMOTE, 24).unwrap(), blackhole));
    assert_eq!(node.pass(POD_A, &asked), Outcome::dropped(DropReason::Blackhole));
    let mut node = two_pods_that_may_speak();
    node.publish(|rows| rows.service(1, key, &[(REMOTE, 53)]));
    assert!(node.pass(POD_A, &asked).dropped.is_empty());
    node.publish(|rows| rows.forbid(1, Egress, identity(2, 4)));
    assert_eq!(node.pass(POD_A, &asked), Outcome::dropped(DropReason::PolicyEgress));
}

#[test]
fn what_a_pod_may_say_to_itself_is_not_what_it_may_say_to_one_like_it() {
    let mut node = node();
    let (itself, like_it) = (udp((A, 1000), (A, 53)), udp((A, 1000), (B, 53)));
    node.publish(|rows| {
        rows.tiered(1, Egress, identity(1, 4), (Protocol::UDP, 9), DENYING);
        rows.pod(4, 0, 1);
        rows.batch.insert_prefix(Lpm::Identity, &Prefix::host(B), identity(1, 4) as u64).unwrap();
    });
    assert!([&itself, &like_it].iter().all(|packet| node.pass(POD_A, packet).dropped.is_empty()));
    node.publish(|rows| rows.policy(1, Egress, &[]));
    assert!(node.pass(POD_A, &itself).dropped.is_empty());
    assert_eq!(node.pass(POD_A, &like_it), Outcome::dropped(DropReason::PolicyEgress));
}
