//! What policies say, read naively and straight from the API's documentation, object by object, without any index or
//! table: what tests compare with, here and in the lab. Nothing that runs may ask it.
//!
//! Sources: kubernetes.io "Network Policies" and the comments of networking.k8s.io/v1; site-src/api-overview.md and
//! apis/v1alpha{1,2} of kubernetes-sigs/network-policy-api.

use crate::object::selector::{Labels, Requirement, Selector, Test};
use crate::object::*;
use crate::state::policy_key;
use tables::policy::Direction;
use tables::{Addr, Protocol};

/// The objects that policies are judged by.
#[derive(Clone, Debug, Default)]
pub struct Reference<'a> {
    pub namespaces: Vec<&'a Namespace>,
    pub policies: Vec<&'a NetworkPolicy>,
    pub cluster_policies: Vec<&'a ClusterPolicy>,
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    pub addr: Addr,
    /// The pod with this address, unless it is of the host's network: such a pod is no more than its node.
    pub pod: Option<&'a Pod>,
    /// The node with this address.
    pub node: Option<&'a Node>,
    /// It is the node on which the judged pod runs.
    pub is_own_node: bool,
    /// It is in a node's pod range and not among the addresses that the range keeps for its node, and neither a pod nor a
    /// node is known to have it. It may be any pod, of which we do not know yet: so it is to rules that deny, never to
    /// others.
    pub is_unclaimed: bool,
}

/// What is allowed or not, and which policy says it; None if no policy speaks of it. The rule is counted from 0 within its
/// direction; None if that no rule allows it is what denies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub allowed: bool,
    pub by: Option<(ObjectKey, Option<usize>)>,
}

/// One question: a pod, and a packet that opens a connection from or to it.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    pub pod: &'a Pod,
    pub direction: Direction,
    pub other: End<'a>,
    pub protocol: Protocol,
    /// The destination port.
    pub port: u16,
}

impl<'a> Reference<'a> {
    pub fn of(objects: impl IntoIterator<Item = &'a Object>) -> Reference<'a> {
        let mut reference = Reference::default();
        for object in objects {
            match object {
                Object::Namespace(namespace) => reference.namespaces.push(namespace),
                Object::NetworkPolicy(policy) => reference.policies.push(policy),
                Object::ClusterPolicy(policy) => reference.cluster_policies.push(policy),
                _ => {}
            }
        }
        reference.policies.sort_by_key(|policy| policy.id.clone());
        reference.cluster_policies.sort_by_key(|policy| (policy.priority, policy.name.clone(), policy.kind));
        reference
    }

    /// "Policy tiers are evaluated in the following order: Admin tier, NetworkPolicy tier, Baseline tier." "If a given
    /// connection wasn't allowed or denied by any of the tiers, the default kubernetes policy is applied, which says that
    /// all pods can communicate with each other."
    pub fn verdict(&self, question: &Question) -> Verdict {
        self.tier(Tier::Admin, question)
            .or_else(|| self.network_policies(question))
            .or_else(|| self.tier(Tier::Baseline, question))
            .unwrap_or(Verdict { allowed: true, by: None })
    }

    /// "Policies with lower priority values have higher precedence"; "a rule that appears at the top of the ingress rules
    /// would take the highest precedence"; Pass "skips all further ClusterNetworkPolicy rules in the current tier".
    fn tier(&self, tier: Tier, question: &Question) -> Option<Verdict> {
        for policy in self.cluster_policies.iter().filter(|policy| policy.tier == tier) {
            let denies = policy.rules.iter().flatten().any(|rule| rule.action == Action::Deny);
            let is_within = self.selects_namespace(&policy.subject.namespaces, &question.pod.id.namespace, denies);
            if !is_within || !selects(&policy.subject.pods, &question.pod.labels) {
                continue;
            }
            for (i, rule) in policy.rules[question.direction as usize].iter().enumerate() {
                if self.matches(rule, None, question) {
                    let by = Some((policy.key(), Some(i)));
                    return match rule.action {
                        Action::Accept => Some(Verdict { allowed: true, by }),
                        Action::Deny => Some(Verdict { allowed: false, by }),
                        Action::Pass => None,
                    };
                }
            }
        }
        None
    }

    /// "By default, a pod is non-isolated"; "a pod is isolated for egress if there is any NetworkPolicy that both selects
    /// the pod and has `Egress` in its policyTypes"; then "the only allowed connections from the pod are those allowed by
    /// the egress list of some NetworkPolicy that applies to the pod". "Traffic to and from the node where a Pod is running
    /// is always allowed".
    fn network_policies(&self, question: &Question) -> Option<Verdict> {
        let applies = |policy: &&&NetworkPolicy| {
            policy.id.namespace == question.pod.id.namespace
                && selects(&policy.pods, &question.pod.labels)
                && policy.rules[question.direction as usize].is_some()
        };
        let isolating: Vec<&NetworkPolicy> = self.policies.iter().filter(applies).copied().collect();
        let first = isolating.first()?;
        if question.other.is_own_node {
            return Some(Verdict { allowed: true, by: None });
        }
        for policy in &isolating {
            for (i, rule) in policy.rules[question.direction as usize].iter().flatten().enumerate() {
                if self.matches(rule, Some(&policy.id.namespace), question) {
                    return Some(Verdict { allowed: true, by: Some((policy_key(&policy.id), Some(i))) });
                }
            }
        }
        Some(Verdict { allowed: false, by: Some((policy_key(&first.id), None)) })
    }

    /// Peers are joined by or, ports are joined by or, both must match.
    fn matches(&self, rule: &PolicyRule, own_namespace: Option<&str>, question: &Question) -> bool {
        let other = &question.other;
        let peer = rule.peers.is_empty()
            || rule.peers.iter().any(|peer| self.is_peer(peer, rule.action, own_namespace, other));
        let receiver = if question.direction == Direction::Ingress { Some(question.pod) } else { other.pod };
        let is_port = |wanted: &PortMatch| {
            wanted.protocol == question.protocol
                && match &wanted.port {
                    PortRange::Numbers(first, last) => (*first..=*last).contains(&question.port),
                    PortRange::Name(_) if receiver.is_none() => other.is_unclaimed && rule.action == Action::Deny,
                    PortRange::Name(name) => receiver.is_some_and(|pod| {
                        let mut ports = pod.ports.iter();
                        let found = ports.find(|port| port.name == *name && port.protocol == question.protocol);
                        found.is_some_and(|port| port.port == question.port)
                    }),
                }
        };
        peer && (rule.ports.is_empty() || rule.ports.iter().any(is_port))
    }

    fn is_peer(&self, peer: &Peer, action: Action, own_namespace: Option<&str>, other: &End) -> bool {
        match peer {
            Peer::Nobody => false,
            Peer::Block { cidr, except } => {
                cidr.contains(other.addr) && !except.iter().any(|range| range.contains(other.addr))
            }
            Peer::Nodes(nodes) => other.node.is_some_and(|node| selects(nodes, &node.labels)),
            Peer::Pods { .. } if other.is_unclaimed => action == Action::Deny,
            Peer::Pods { namespaces, pods } => other.pod.is_some_and(|pod| {
                let is_of_namespace = match namespaces {
                    None => own_namespace == Some(pod.id.namespace.as_str()),
                    Some(selector) => self.selects_namespace(selector, &pod.id.namespace, action == Action::Deny),
                };
                is_of_namespace && selects(pods, &pod.labels)
            }),
        }
    }

    /// A namespace has its name as a label, whether or not there is an object of it. What else a selector asks of one
    /// without an object holds for who denies, and not for who allows.
    fn selects_namespace(&self, selector: &Selector, name: &str, denies: bool) -> bool {
        const NAME: &str = "kubernetes.io/metadata.name";
        let labels = Labels::from([(NAME.to_owned(), name.to_owned())]);
        match self.namespaces.iter().find(|namespace| namespace.name == name) {
            Some(namespace) => selects(selector, &namespace.labels.with(NAME, name)),
            None => {
                let (of_name, others): (Vec<_>, Vec<_>) = selector.0.iter().cloned().partition(|r| r.key == NAME);
                selects(&Selector(of_name), &labels) && (others.is_empty() || denies)
            }
        }
    }
}

/// "The requirements are ANDed"; NotIn and DoesNotExist hold for objects without the label.
pub fn selects(selector: &Selector, labels: &Labels) -> bool {
    selector.0.iter().all(|Requirement { key, test }| match (test, labels.get(key)) {
        (Test::In(values), Some(value)) => values.iter().any(|v| v == value),
        (Test::In(_), None) => false,
        (Test::NotIn(values), Some(value)) => !values.iter().any(|v| v == value),
        (Test::NotIn(_), None) => true,
        (Test::Exists, value) => value.is_some(),
        (Test::DoesNotExist, value) => value.is_none(),
    })
}
