use super::*;
use crate::file::parse::{Syntax, parse};
use crate::object::ObjectChange;

const CLUSTER: &str = r#"
{apiVersion: v1, kind: Namespace, metadata: {name: demo}}
---
apiVersion: v1
kind: Pod
metadata: {namespace: demo, name: web, labels: {app: web}}
spec: {containers: [{name: main, ports: [{name: http, containerPort: 80}]}]}
status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: demo, name: db, labels: {app: db}}
spec: {containers: [{name: main}]}
status: {podIP: 10.0.0.2, podIPs: [{ip: 10.0.0.2}]}
"#;

/// A policy for web's ingress.
fn policy(name: &str, app: &str, ingress: &str) -> String {
    format!(
        "---\n{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{namespace: demo, name: {name}}}, \
         spec: {{podSelector: {{matchLabels: {{app: {app}}}}}, ingress: [{ingress}]}}}}\n"
    )
}

const FROM_DB: &str = "{from: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: 80}]}";

/// `name rule: finding`
fn found(policies: &[String]) -> Vec<String> {
    let parsed = parse(&format!("{CLUSTER}{}", policies.concat()), Syntax::Yaml);
    assert_eq!(parsed.problems, []);
    let mut state = State::new();
    parsed.objects.into_iter().for_each(|object| state.apply(ObjectChange::Put(object)));
    let line = |view: LintView| format!("{} {}: {}", view.name, view.rule.unwrap_or_default(), view.finding);
    findings(&state).into_iter().map(line).collect()
}

#[test]
fn policies_that_do_what_they_say_are_not_talked_about() {
    let deny = policy("deny", "web", "");
    let by_name = policy("by-name", "web", "{ports: [{port: http}], from: [{ipBlock: {cidr: 10.1.0.0/16}}]}");
    assert_eq!(found(&[deny, by_name, policy("web", "web", FROM_DB)]), [""; 0]);
}

#[test]
fn a_policy_that_selects_nobody_is_pointed_out() {
    assert_eq!(found(&[policy("ghost", "ghost", FROM_DB)]), ["ghost : selects no pod"]);
}

#[test]
fn a_policy_that_others_make_needless_is_pointed_out_with_them() {
    let wide = policy("a-wide", "web", "{ports: [{port: 79, endPort: 81}]}");
    let expected = "b-narrow : says nothing that is not said before it by NetworkPolicy demo/a-wide";
    assert_eq!(found(&[wide.clone(), policy("b-narrow", "web", FROM_DB)]), [expected]);
    let udp = "{ports: [{port: 80, protocol: UDP}]}";
    assert_eq!(found(&[wide, policy("b-other", "web", udp)]), [""; 0], "another protocol is something else");
}

#[test]
fn rules_that_nobody_reaches_or_is_spoken_of_by_are_pointed_out() {
    let rules = ["{ports: [{port: 80}]}", FROM_DB, "{from: [{podSelector: {matchLabels: {app: ghost}}}]}"];
    let found = found(&[policy("rules", "web", &rules.join(", "))]);
    assert_eq!(
        found,
        [
            "rules ingress[2]: speaks of nobody: no pod or address is among its peers",
            "rules ingress[1]: is never reached: NetworkPolicy demo/rules says it all before",
        ]
    );
}

#[test]
fn a_port_by_a_name_that_no_receiver_has_is_pointed_out() {
    let found = found(&[
        policy("ports", "web", "{ports: [{port: grpc}, {port: http}]}"),
        policy("udp", "web", "{ports: [{port: http, protocol: UDP}]}"),
    ]);
    assert_eq!(
        found,
        ["ports ingress[0]: names a port that no pod has: grpc", "udp ingress[0]: names a port that no pod has: http"]
    );
}

fn cluster(name: &str, tier: &str, priority: u16, action: &str) -> String {
    format!(
        "---\n{{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {{name: {name}}}, spec: \
         {{tier: {tier}, priority: {priority}, subject: {{namespaces: {{}}}}, ingress: [{{action: {action}, from: \
         [{{namespaces: {{}}}}]}}]}}}}\n"
    )
}

#[test]
fn a_rule_of_a_cluster_wide_policy_behind_others_of_its_tier_is_pointed_out() {
    let found = found(&[cluster("first", "Admin", 1, "Deny"), cluster("second", "Admin", 2, "Accept")]);
    let before = "says nothing that is not said before it by ClusterNetworkPolicy first";
    assert_eq!(found, [format!("second : {before}")]);
}

#[test]
fn what_is_passed_on_reaches_the_next_tier() {
    let found = found(&[cluster("first", "Admin", 1, "Pass"), cluster("second", "Baseline", 1, "Deny")]);
    assert_eq!(found, [""; 0]);
}
