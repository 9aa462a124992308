//! Addresses of pod ranges of which no pod is known: rules that deny pods by what their objects say take them for any pod,
//! others for none, and what the object says when it comes holds at once.

use super::world::{addr, local};
use super::*;
use crate::file::parse::{Syntax, parse};
use crate::object::{Kind, ObjectChange, ObjectKey};
use crate::state::LocalEndpoint;

const NODES: &str = "
---
{apiVersion: v1, kind: Node, metadata: {name: n1}, spec: {podCIDRs: [10.1.0.0/24]}}
---
{apiVersion: v1, kind: Node, metadata: {name: n2}, spec: {podCIDRs: [10.2.0.0/24]},
 status: {addresses: [{type: InternalIP, address: 192.168.0.2}]}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: a}}
";
const WEB: &str = "10.1.0.4";
const LATE: &str = "10.2.0.4";

fn pod(name: &str, address: &str) -> String {
    let labels = format!("labels: {{app: {name}}}");
    format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{namespace: a, name: {name}, {labels}}}, spec: {{containers: [{{name: c, \
         ports: [{{name: http, containerPort: 80}}]}}]}}, status: {{podIP: {address}, podIPs: [{{ip: {address}}}]}}}}\n"
    )
}

fn pods(app: &str) -> String {
    format!("{{pods: {{namespaceSelector: {{}}, podSelector: {{matchLabels: {{app: {app}}}}}}}}}")
}

/// A policy for web: what it says of its ingress and its egress.
fn policy(ingress: &str, egress: &str) -> String {
    format!(
        "---\n{{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {{name: c}}, \
         spec: {{tier: Admin, priority: 1, subject: {}, ingress: [{ingress}], egress: [{egress}]}}}}\n",
        pods("web")
    )
}

fn started(more: &[String]) -> Rig {
    let mut rig = Rig::new(local());
    let web = crate::object::Named::new("a", "web");
    let addrs = vec![addr(WEB)];
    let endpoint = LocalEndpoint { interface: 9, owner: 0, mac: tables::Mac([2; 6]), addrs, pod: web };
    rig.state.attach("c".into(), endpoint);
    put(&mut rig, &[&[NODES.to_owned(), pod("web", WEB)], more].concat());
    rig
}

fn put(rig: &mut Rig, texts: &[String]) {
    let parsed = parse(&texts.concat(), Syntax::Yaml);
    assert_eq!(parsed.problems, []);
    parsed.objects.into_iter().for_each(|object| rig.state.apply(ObjectChange::Put(object)));
    let report = rig.update();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}

/// Whether TCP to this port passes between web and an address.
fn passes(rig: &Rig, direction: Direction, other: &str, port: u16) -> bool {
    let own = endpoint(&rig.view(), addr(WEB)).unwrap();
    verdict(&rig.view(), &own, direction, addr(other), Protocol::TCP, port)
}

fn comes_in(rig: &Rig, from: &str) -> bool {
    passes(rig, Direction::Ingress, from, 80)
}

#[test]
fn a_rule_that_denies_pods_denies_what_may_be_any_until_its_object_says_that_it_is_another() {
    let mut rig = started(&[policy(&format!("{{action: Deny, from: [{}]}}", pods("bad")), "")]);
    let named = |rig: &Rig, of| rig.compiler.identity_name(rig.compiler.identity_of(addr(of)));
    assert!(!comes_in(&rig, LATE));
    assert_eq!(named(&rig, LATE), "unclaimed pod addresses");
    for other in ["10.2.0.1", "10.2.0.2", "10.2.0.3", "192.168.0.2", "8.8.8.8"] {
        assert!(comes_in(&rig, other), "{other} is no pod's");
    }
    assert_eq!(named(&rig, "10.2.0.3"), "world");
    let flow =
        |rig: &Rig| rig.counters.depend([Some(Scope::Identity(identity(&rig.view(), addr(LATE)))), None, None, None]);
    let before = flow(&rig);
    put(&mut rig, &[pod("good", LATE)]);
    assert!(comes_in(&rig, LATE));
    assert!(!rig.counters.is_current(&before), "its flows are looked at again");
    let before = flow(&rig);
    rig.state.apply(ObjectChange::Delete(ObjectKey { kind: Kind::Pod, namespace: "a".into(), name: "good".into() }));
    rig.update();
    assert!(!comes_in(&rig, LATE) && !rig.counters.is_current(&before), "whose it is now nobody knows");
    put(&mut rig, &[pod("bad", LATE)]);
    assert!(!comes_in(&rig, LATE));
}

#[test]
fn what_is_accepted_or_left_to_the_next_tier_for_pods_holds_for_none_that_is_not_known() {
    for action in ["Accept", "Pass"] {
        let late = format!("{{action: {action}, from: [{}]}}", pods("late"));
        let denied = "{action: Deny, from: [{namespaces: {}}]}";
        let mut rig = started(&[policy(&format!("{late}, {denied}"), "")]);
        assert!(!comes_in(&rig, LATE));
        put(&mut rig, &[pod("late", LATE)]);
        assert!(comes_in(&rig, LATE), "{action}");
        put(&mut rig, &[policy(&late, "")]);
        assert_eq!(rig.compiler.identity_of(addr("10.2.0.5")), IDENTITY_WORLD, "nobody denies pods any more");
    }
}

#[test]
fn any_port_of_what_may_be_any_pod_may_have_the_name_that_a_rule_denies() {
    let deny = format!("{{action: Deny, to: [{}], protocols: [{{destinationNamedPort: http}}]}}", pods("late"));
    let mut rig = started(&[policy("", &deny)]);
    let goes_out = |rig: &Rig, port| passes(rig, Direction::Egress, LATE, port);
    assert!(!goes_out(&rig, 80) && !goes_out(&rig, 81));
    assert!(passes(&rig, Direction::Egress, "10.2.0.3", 80), "what is no pod has no named ports");
    put(&mut rig, &[pod("late", LATE)]);
    assert!(!goes_out(&rig, 80) && goes_out(&rig, 81));
}

/// As ranges, and what is no pod of them, come and go.
#[test]
fn an_address_may_be_a_pods_as_long_as_a_node_has_its_range_and_no_node_the_address() {
    let mut rig = started(&[policy(&format!("{{action: Deny, from: [{}]}}", pods("bad")), "")]);
    let node = |ranges: &str, address: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Node, metadata: {{name: n2}}, spec: {{podCIDRs: [{ranges}]}}, \
             status: {{addresses: [{{type: InternalIP, address: {address}}}]}}}}\n"
        )
    };
    put(&mut rig, &[node("10.2.0.0/24", LATE)]);
    assert!(comes_in(&rig, LATE) && !comes_in(&rig, "10.2.0.5"));
    put(&mut rig, &[node("10.3.0.0/24", LATE)]);
    assert!(comes_in(&rig, "10.2.0.5") && !comes_in(&rig, "10.3.0.5"));
    put(&mut rig, &[node("10.2.0.0/24", "192.168.0.2")]);
    assert!(!comes_in(&rig, LATE) && comes_in(&rig, "10.3.0.5"));
}
