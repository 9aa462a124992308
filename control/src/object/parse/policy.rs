//! NetworkPolicy: selectors, peers and ports (networking.k8s.io/v1, and its validation in
//! kubernetes pkg/apis/networking/validation).

use super::*;
use crate::object::selector::{Requirement, Test};
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

impl TryFrom<networking::NetworkPolicy> for NetworkPolicy {
    type Error = FieldError;
    fn try_from(policy: networking::NetworkPolicy) -> Parsed<NetworkPolicy> {
        let id = named(&policy.metadata)?;
        let Some(spec) = policy.spec else { return wrong("spec", "is missing") };
        let ingress = spec.ingress.unwrap_or_default();
        let egress = spec.egress.unwrap_or_default();
        let types = directions(spec.policy_types.as_deref(), !egress.is_empty())?;
        let ingress = indexed(&ingress, "spec.ingress", |field, r| rule(field, "from", &r.from, &r.ports))?;
        let egress = indexed(&egress, "spec.egress", |field, r| rule(field, "to", &r.to, &r.ports))?;
        Ok(NetworkPolicy {
            audit: is_audit(&policy.metadata),
            id,
            pods: selector("spec.podSelector", &spec.pod_selector.unwrap_or_default())?,
            rules: [types[0].then_some(ingress), types[1].then_some(egress)],
        })
    }
}

/// Without `policyTypes`: ingress always, egress if there are egress rules.
fn directions(types: Option<&[String]>, has_egress: bool) -> Parsed<[bool; 2]> {
    let types = types.unwrap_or_default();
    for (i, kind) in types.iter().enumerate() {
        if kind != "Ingress" && kind != "Egress" {
            let field = format!("spec.policyTypes[{i}]");
            return wrong(field, format_args!("{kind:?} is neither Ingress nor Egress"));
        }
    }
    let named = |kind: &str| types.iter().any(|t| t == kind);
    Ok(if types.is_empty() { [true, has_egress] } else { [named("Ingress"), named("Egress")] })
}

fn rule(
    field: &str,
    peers_field: &str,
    peers: &Option<Vec<networking::NetworkPolicyPeer>>,
    ports: &Option<Vec<networking::NetworkPolicyPort>>,
) -> Parsed<PolicyRule> {
    let (peers, ports) = (peers.as_deref().unwrap_or_default(), ports.as_deref().unwrap_or_default());
    Ok(PolicyRule {
        name: String::new(),
        action: Action::Accept,
        peers: indexed(peers, &format!("{field}.{peers_field}"), peer)?,
        ports: indexed(ports, &format!("{field}.ports"), port_match)?,
    })
}

fn peer(field: &str, peer: &networking::NetworkPolicyPeer) -> Parsed<Peer> {
    match (&peer.ip_block, &peer.namespace_selector, &peer.pod_selector) {
        (None, None, None) => wrong(field, "names no peer: ipBlock, namespaceSelector or podSelector is expected"),
        (Some(block), None, None) => ip_block(&format!("{field}.ipBlock"), block),
        (Some(_), _, _) => wrong(format!("{field}.ipBlock"), "must not stand beside a selector in one peer"),
        (None, namespaces, pods) => {
            let namespaces =
                namespaces.as_ref().map(|s| selector(&format!("{field}.namespaceSelector"), s)).transpose()?;
            let pods = pods.as_ref().map(|s| selector(&format!("{field}.podSelector"), s)).transpose()?;
            Ok(Peer::Pods { namespaces, pods: pods.unwrap_or_default() })
        }
    }
}

fn ip_block(field: &str, block: &networking::IPBlock) -> Parsed<Peer> {
    let cidr: Prefix = read(&format!("{field}.cidr"), &block.cidr)?;
    let except = block.except.as_deref().unwrap_or_default();
    let except = indexed(except, &format!("{field}.except"), |field, text| {
        let except: Prefix = read(field, text)?;
        if !cidr.covers(&except) || cidr == except {
            return wrong(field, format_args!("{except} does not lie inside {cidr}"));
        }
        Ok(except)
    })?;
    Ok(Peer::Block { cidr, except })
}

fn port_match(field: &str, upstream: &networking::NetworkPolicyPort) -> Parsed<PortMatch> {
    let protocol = protocol(&format!("{field}.protocol"), upstream.protocol.as_deref())?;
    let end_field = format!("{field}.endPort");
    let number = |n: &i32| port(&format!("{field}.port"), *n);
    let range = match (&upstream.port, upstream.end_port) {
        (None, None) => PortRange::Numbers(0, u16::MAX),
        (Some(IntOrString::Int(n)), None) => PortRange::Numbers(number(n)?, number(n)?),
        (Some(IntOrString::Int(n)), Some(end)) => PortRange::Numbers(number(n)?, port(&end_field, end)?),
        (Some(IntOrString::String(name)), None) if !name.is_empty() => PortRange::Name(name.clone()),
        (Some(IntOrString::String(_)), None) => return wrong(format!("{field}.port"), "is an empty name"),
        (_, Some(_)) => return wrong(end_field, "needs a numeric port beside it"),
    };
    if let PortRange::Numbers(first, last) = range
        && first > last
    {
        return wrong(end_field, format_args!("{last} is below port {first}"));
    }
    Ok(PortMatch { protocol, port: range })
}

pub fn selector(field: &str, upstream: &LabelSelector) -> Parsed<Selector> {
    let labels = upstream.match_labels.iter().flatten();
    let mut all: Vec<_> =
        labels.map(|(key, value)| Requirement { key: key.clone(), test: Test::In(vec![value.clone()]) }).collect();
    let expressions = upstream.match_expressions.as_deref().unwrap_or_default();
    all.extend(indexed(expressions, &format!("{field}.matchExpressions"), requirement)?);
    Ok(Selector(all))
}

fn requirement(field: &str, upstream: &LabelSelectorRequirement) -> Parsed<Requirement> {
    let values = upstream.values.clone().unwrap_or_default();
    let needs_values = matches!(upstream.operator.as_str(), "In" | "NotIn");
    let test = match upstream.operator.as_str() {
        "In" => Test::In(values.clone()),
        "NotIn" => Test::NotIn(values.clone()),
        "Exists" => Test::Exists,
        "DoesNotExist" => Test::DoesNotExist,
        other => {
            let expected = "is none of In, NotIn, Exists and DoesNotExist";
            return wrong(format!("{field}.operator"), format_args!("{other:?} {expected}"));
        }
    };
    if needs_values == values.is_empty() {
        let message =
            if needs_values { "must hold a value for this operator" } else { "must be empty for this operator" };
        return wrong(format!("{field}.values"), message);
    }
    if upstream.key.is_empty() {
        return wrong(format!("{field}.key"), "is missing");
    }
    Ok(Requirement { key: upstream.key.clone(), test })
}
