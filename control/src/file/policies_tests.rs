use super::super::parse::{Syntax, parse};
use super::*;
use crate::object::selector::{Requirement, Test};
use tables::Protocol;

/// The only object of a text, and what is said of it.
fn read(text: &str) -> (Object, Vec<String>) {
    let mut parsed = parse(text, Syntax::Yaml);
    assert!(!parsed.is_partial && parsed.objects.len() == 1, "{:?}", parsed.problems);
    (parsed.objects.remove(0), parsed.problems.into_iter().map(|problem| problem.message).collect())
}

fn namespaced(spec: &str) -> (NetworkPolicy, Vec<String>) {
    let head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: a}\n";
    match read(&format!("{head}spec: {spec}\n")) {
        (Object::NetworkPolicy(policy), said) => (policy, said),
        other => panic!("{other:?}"),
    }
}

fn cluster_of(kind: &str, version: &str, spec: &str) -> (ClusterPolicy, Vec<String>) {
    let head = format!("apiVersion: policy.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{name: default}}\n");
    match read(&format!("{head}spec: {spec}\n")) {
        (Object::ClusterPolicy(policy), said) => (policy, said),
        other => panic!("{other:?}"),
    }
}

fn cluster_policy(spec: &str) -> (ClusterPolicy, Vec<String>) {
    cluster_of("ClusterNetworkPolicy", "v1alpha2", spec)
}

fn app(value: &str) -> Selector {
    Selector(vec![Requirement { key: "app".into(), test: Test::In(vec![value.into()]) }])
}

#[test]
fn a_network_policy_with_a_mistake_closes_what_it_selects_in_the_directions_that_it_names() {
    const WEB: &str = "podSelector: {matchLabels: {app: web}}";
    // (spec, whether the selector counts, isolates ingress, egress, what is said)
    let cases = [
        (
            "ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}]",
            true,
            [true, false],
            "spec.ingress[0].from[0].ipBlock.cidr",
        ),
        (
            "ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}]",
            true,
            [true, false],
            "spec.ingress[0].from[0].ipBlock.except[0]: 11.0.0.0/16 does not lie inside",
        ),
        (
            "egress: [{ports: [{port: 80, endPort: 79}]}]",
            true,
            [true, true],
            "spec.egress[0].ports[0].endPort: 79 is below port 80",
        ),
        (
            "policyTypes: [Egress], egress: [{ports: [{port: x, endPort: 79}]}]",
            true,
            [false, true],
            "spec.egress[0].ports[0].endPort",
        ),
        ("ingress: [{form: [{podSelector: {}}]}]", true, [true, false], "spec.ingress[0].form: is no field"),
        ("ingress: [{from: nobody}]", true, [true, false], "spec.ingress[0].from"),
        ("policyTypes: [Ingres]", false, [true, true], "spec.policyTypes[0]: \"Ingres\" is neither"),
        ("egres: [], policyTypes: [Ingress]", false, [true, true], "spec.egres: is no field"),
        (
            "ingress: [{from: [{podSelector: {matchExpressions: [{key: a, operator: Is}]}}]}]",
            true,
            [true, false],
            "spec.ingress[0].from[0].podSelector.matchExpressions[0].operator: \"Is\" is none",
        ),
    ];
    for (spec, is_selected, isolates, message) in cases {
        let (policy, said) = namespaced(&format!("{{{WEB}, {spec}}}"));
        assert_eq!(policy.pods, if is_selected { app("web") } else { Selector::default() }, "{spec}");
        assert_eq!(policy.rules, isolates.map(|isolates| isolates.then(Vec::new)), "{spec}");
        assert!(said.len() == 1 && said[0].starts_with(message), "{spec}\n{said:?}");
        assert!(said[0].ends_with("NetworkPolicy a/p is closed where this counts"), "{said:?}");
    }
    let (policy, _) =
        namespaced("{podSelector: {matchExpressions: [{key: app, operator: Is}]}, policyTypes: [Egress]}");
    assert_eq!((policy.pods, policy.rules), (Selector::default(), [Some(vec![]), Some(vec![])]));
}

#[test]
fn a_network_policy_without_a_mistake_stays_as_it_is() {
    let (policy, said) = namespaced("{podSelector: {}, ingress: [{ports: [{port: 80, protocol: SCTP}]}]}");
    assert!(said.is_empty(), "{said:?}");
    let port = PortMatch { protocol: Protocol::SCTP, port: PortRange::Numbers(80, 80) };
    assert_eq!(policy.rules, [Some(vec![PolicyRule { ports: vec![port], ..PolicyRule::default() }]), None]);
}

const SUBJECT: &str = "subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}}";

#[test]
fn every_field_of_a_cluster_policy_is_read() {
    let (policy, said) = cluster_policy(&format!(
        "{{tier: Baseline, priority: 7, {SUBJECT}, \
         ingress: [{{name: one, action: Pass, from: [{{namespaces: {{}}}}], protocols: [{{destinationNamedPort: web}}]}}], \
         egress: [{{action: Accept, to: [{{networks: [10.0.0.0/8, 'fd00::/8']}}, {{nodes: {{matchLabels: {{app: host}}}}}}], \
         protocols: [{{tcp: {{destinationPort: {{number: 80}}}}}}, {{udp: {{destinationPort: {{range: {{start: 5, end: 9}}}}}}}}, {{sctp: {{}}}}]}}]}}"
    ));
    assert!(said.is_empty(), "{said:?}");
    assert_eq!((policy.tier, policy.priority, &policy.subject.pods), (Tier::Baseline, 7, &app("web")));
    let [ingress, egress] = [&policy.rules[0][0], &policy.rules[1][0]];
    assert_eq!((ingress.name.as_str(), ingress.action, ingress.ports.len()), ("one", Action::Pass, 3));
    let block = |cidr: &str| Peer::Block { cidr: cidr.parse().unwrap(), except: Vec::new() };
    assert_eq!(egress.peers, [block("10.0.0.0/8"), block("fd00::/8"), Peer::Nodes(app("host"))]);
    let ports: Vec<_> = egress.ports.iter().map(|p| (p.protocol, p.port.clone())).collect();
    let expected = [
        (Protocol::TCP, PortRange::Numbers(80, 80)),
        (Protocol::UDP, PortRange::Numbers(5, 9)),
        (Protocol::SCTP, PortRange::Numbers(0, u16::MAX)),
    ];
    assert_eq!(ports, expected);
}

#[test]
fn the_forerunners_are_read_as_the_same_thing() {
    let rule = "action: Allow, from: [{namespaces: {}}], ports: [{portNumber: {port: 80}}, {namedPort: web}, {portRange: {protocol: UDP, start: 1, end: 2}}]";
    let spec = format!("{{priority: 3, {SUBJECT}, ingress: [{{{rule}}}]}}");
    let (policy, said) = cluster_of("AdminNetworkPolicy", "v1alpha1", &spec);
    assert!(said.is_empty(), "{said:?}");
    assert_eq!((policy.tier, policy.priority, policy.rules[0][0].ports.len()), (Tier::Admin, 3, 5));
    let spec = format!("{{{SUBJECT}, egress: [{{action: Deny, to: [{{networks: [0.0.0.0/0]}}]}}]}}");
    let (policy, said) = cluster_of("BaselineAdminNetworkPolicy", "v1alpha1", &spec);
    assert!(said.is_empty(), "{said:?}");
    assert_eq!((policy.tier, policy.rules[1][0].action), (Tier::Baseline, Action::Deny));
    let (_, said) = cluster_of("BaselineAdminNetworkPolicy", "v1alpha1", &spec.replace("Deny", "Pass"));
    assert!(said[0].starts_with("spec.egress[0].action: \"Pass\" is no action"), "{said:?}");
}

#[test]
fn a_cluster_rule_with_a_mistake_matches_nothing_if_it_accepts_and_denies_all_else() {
    let mistakes = [
        ("to: [{networks: [10.0.0.0/33]}]", "spec.egress[0].to[0].networks[0]"),
        ("to: [{domainNames: [example.com]}]", "spec.egress[0].to[0].domainNames: is not supported"),
        ("to: [{}]", "spec.egress[0].to[0]: must name one of"),
        ("to: [{services: {}}]", "spec.egress[0].to[0].services: is no field"),
        ("to: []", "spec.egress[0].to: holds 0 entries"),
        (
            "to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {range: {start: 9, end: 9}}}}]",
            "spec.egress[0].protocols[0].tcp.destinationPort.range.end: 9 is not above",
        ),
        ("to: [{nodes: {}}], protocols: [{destinationNamedPort: web}]", "spec.egress[0].to: must not name nodes"),
        ("to: [{namespaces: {}}], ports: [{portNumber: {port: 80}}]", "spec.egress[0].ports: is no field"),
    ];
    for (mistake, message) in mistakes {
        for (action, closed) in [("Accept", Action::Accept), ("Deny", Action::Deny), ("Pass", Action::Deny)] {
            let rules = format!("[{{action: {action}, {mistake}}}, {{action: Accept, to: [{{namespaces: {{}}}}]}}]");
            let (policy, said) = cluster_policy(&format!("{{tier: Admin, priority: 1, {SUBJECT}, egress: {rules}}}"));
            let [first, second] = &policy.rules[1][..] else { panic!("{policy:?}") };
            let peers = if action == "Accept" { vec![Peer::Nobody] } else { Vec::new() };
            assert_eq!((first.action, &first.peers, first.ports.len()), (closed, &peers, 0), "{mistake}");
            assert_eq!(second.action, Action::Accept);
            assert!(said.len() == 1 && said[0].starts_with(message), "{mistake}\n{said:?}");
        }
    }
}

#[test]
fn a_cluster_policy_with_a_mistake_denies_its_subject_everything_in_the_directions_of_its_rules() {
    let rules = "ingress: [{action: Accept, from: [{namespaces: {}}]}]";
    let everything = PolicyRule { action: Action::Deny, ..PolicyRule::default() };
    for (mistake, message, directions) in [
        (format!("tier: Admn, priority: 1, {SUBJECT}"), "spec.tier", [1, 0]),
        (format!("tier: Admin, priority: 1001, {SUBJECT}"), "spec.priority", [1, 0]),
        (format!("tier: Admin, priority: 1, {SUBJECT}, egres: []"), "spec.egres: is no field", [1, 1]),
    ] {
        let (policy, said) = cluster_policy(&format!("{{{mistake}, {rules}}}"));
        assert_eq!(policy.rules, directions.map(|count| vec![everything.clone(); count]), "{mistake}");
        assert_eq!(policy.subject.pods, app("web"));
        assert!(said.len() == 1 && said[0].starts_with(message), "{said:?}");
    }
    let (policy, said) = cluster_policy(&format!("{{tier: Admin, priority: 1, subject: {{pods: {{}}}}, {rules}}}"));
    assert_eq!((policy.subject, policy.rules), (Subject::default(), [vec![everything], Vec::new()]));
    assert!(said[0].starts_with("spec.subject.pods"), "{said:?}");
}
