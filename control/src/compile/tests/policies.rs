//! Random policies of the small world.

use super::world::{namespace_name, prefix, protocol};
use crate::object::selector::{Requirement, Test};
use crate::object::*;
use proptest::prelude::*;

fn selector() -> impl Strategy<Value = Selector> {
    let values = || prop::sample::subsequence(vec!["x".to_owned(), "y".to_owned()], 1..=2);
    let test = prop_oneof![
        values().prop_map(Test::In),
        values().prop_map(Test::NotIn),
        Just(Test::Exists),
        Just(Test::DoesNotExist)
    ];
    let requirement = (prop::sample::select(vec!["app", "tier"]), test);
    prop::collection::vec(requirement.prop_map(|(key, test)| Requirement { key: key.into(), test }), 0..2)
        .prop_map(Selector)
}

fn block() -> impl Strategy<Value = Peer> {
    let blocks = [
        ("0.0.0.0/0", vec!["10.0.0.0/8"]),
        ("0.0.0.0/0", vec![]),
        ("10.2.0.0/24", vec!["10.2.0.8/31"]),
        ("10.1.0.5/32", vec![]),
        // Around, within and equal to pod ranges and what these keep for their nodes.
        ("10.0.0.0/8", vec!["10.2.0.128/25", "10.3.0.8/29"]),
        ("10.3.0.0/24", vec!["10.3.0.0/30"]),
        ("10.2.0.2/31", vec![]),
        ("10.2.0.140/32", vec![]),
        ("8.8.0.0/16", vec!["8.8.8.0/24", "8.8.4.4/32"]),
        ("::/0", vec!["fd00::/16"]),
        ("fd00:2::/64", vec![]),
        ("192.168.0.0/16", vec![]),
    ];
    let block = |(cidr, except): (&str, Vec<&str>)| Peer::Block {
        cidr: prefix(cidr),
        except: except.into_iter().map(prefix).collect(),
    };
    prop::sample::select(blocks.to_vec()).prop_map(block)
}

fn peer() -> impl Strategy<Value = Peer> {
    prop_oneof![
        2 => (prop::option::of(selector()), selector()).prop_map(|(namespaces, pods)| Peer::Pods { namespaces, pods }),
        1 => block(),
    ]
}

fn port() -> impl Strategy<Value = PortMatch> {
    let range = prop_oneof![
        Just(PortRange::Numbers(0, u16::MAX)),
        (79u16..84, 0u16..3).prop_map(|(first, more)| PortRange::Numbers(first, first + more)),
        Just(PortRange::Name("http".into())),
    ];
    (protocol(), range).prop_map(|(protocol, port)| PortMatch { protocol, port })
}

fn rules() -> impl Strategy<Value = Option<Vec<PolicyRule>>> {
    let rule = (prop::collection::vec(peer(), 0..3), prop::collection::vec(port(), 0..3));
    let rule = rule.prop_map(|(peers, ports)| PolicyRule { peers, ports, ..PolicyRule::default() });
    prop::option::weighted(0.6, prop::collection::vec(rule, 0..3))
}

pub fn policy() -> impl Strategy<Value = Object> {
    (namespace_name(), 0..3, selector(), rules(), rules()).prop_map(|(namespace, i, pods, ingress, egress)| {
        Object::NetworkPolicy(NetworkPolicy {
            audit: false,
            id: Named::new(namespace, format!("n{i}")),
            pods,
            rules: [ingress, egress],
        })
    })
}

fn cluster_peer() -> impl Strategy<Value = Peer> {
    prop_oneof![
        4 => (selector(), selector()).prop_map(|(namespaces, pods)| Peer::Pods { namespaces: Some(namespaces), pods }),
        1 => block(),
        1 => selector().prop_map(Peer::Nodes),
    ]
}

fn cluster_rules() -> impl Strategy<Value = Vec<PolicyRule>> {
    let action = prop::sample::select(vec![Action::Accept, Action::Deny, Action::Pass]);
    // Without a peer: a rule that denies all because it could not be read.
    let peers = prop_oneof![
        9 => prop::collection::vec(cluster_peer(), 1..3),
        1 => Just(Vec::new()),
        1 => Just(vec![Peer::Nobody]),
    ];
    let rule = (action, peers, prop::collection::vec(port(), 0..3));
    let rule = rule.prop_map(|(action, peers, ports)| PolicyRule { action, peers, ports, ..PolicyRule::default() });
    prop::collection::vec(rule, 0..4)
}

pub fn cluster_policy() -> impl Strategy<Value = Object> {
    let kinds = [Kind::ClusterNetworkPolicy, Kind::ClusterNetworkPolicy, Kind::AdminNetworkPolicy];
    let tier = prop::sample::select(vec![Tier::Admin, Tier::Baseline]);
    let subject = (selector(), selector()).prop_map(|(namespaces, pods)| Subject { namespaces, pods });
    let what = (prop::sample::select(kinds.to_vec()), 0..3, tier, 0u16..3);
    (what, subject, cluster_rules(), cluster_rules()).prop_map(
        |((kind, i, tier, priority), subject, ingress, egress)| {
            let name = format!("c{i}");
            Object::ClusterPolicy(ClusterPolicy {
                audit: false,
                kind,
                name,
                tier,
                priority,
                subject,
                rules: [ingress, egress],
            })
        },
    )
}
