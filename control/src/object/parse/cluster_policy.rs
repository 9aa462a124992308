//! ClusterNetworkPolicy (policy.networking.k8s.io/v1alpha2), AdminNetworkPolicy and BaselineAdminNetworkPolicy
//! (v1alpha1), as kubernetes-sigs/network-policy-api defines and validates them. Read piece by piece: what becomes of a
//! policy of which a piece cannot be read is decided elsewhere.

use super::policy::selector;
use super::*;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Deserialize;

const NETWORKS_MAX: usize = 25;
const RULE_NAME_CHARS_MAX: usize = 100;

/// What the kinds call things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    pub kind: Kind,
    pub direction: tables::policy::Direction,
}

impl Dialect {
    /// The most rules of a direction, and entries of a rule's lists.
    pub fn items_max(self) -> usize {
        if self.kind == Kind::ClusterNetworkPolicy { 25 } else { 100 }
    }

    fn peers_field(self) -> &'static str {
        if self.direction == tables::policy::Direction::Ingress { "from" } else { "to" }
    }

    fn action(self, field: &str, text: &str) -> Parsed<Action> {
        let accept = if self.kind == Kind::ClusterNetworkPolicy { "Accept" } else { "Allow" };
        match text {
            "Deny" => Ok(Action::Deny),
            "Pass" if self.kind != Kind::BaselineAdminNetworkPolicy => Ok(Action::Pass),
            _ if text == accept => Ok(Action::Accept),
            _ => wrong(format!("{field}.action"), format_args!("{text:?} is no action of a {}", self.kind.name())),
        }
    }
}

#[derive(Debug, Deserialize)]
pub struct SubjectUpstream {
    namespaces: Option<LabelSelector>,
    pods: Option<NamespacedPod>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NamespacedPod {
    namespace_selector: Option<LabelSelector>,
    pod_selector: LabelSelector,
}

/// A rule of either direction and any of the kinds.
#[derive(Debug, Deserialize)]
pub struct Rule {
    name: Option<String>,
    action: String,
    from: Option<Vec<PeerUpstream>>,
    to: Option<Vec<PeerUpstream>>,
    /// v1alpha2
    protocols: Option<Vec<ProtocolUpstream>>,
    /// v1alpha1
    ports: Option<Vec<PortUpstream>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PeerUpstream {
    namespaces: Option<LabelSelector>,
    pods: Option<NamespacedPod>,
    nodes: Option<LabelSelector>,
    networks: Option<Vec<String>>,
    domain_names: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProtocolUpstream {
    tcp: Option<Destination>,
    udp: Option<Destination>,
    sctp: Option<Destination>,
    destination_named_port: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Destination {
    destination_port: Option<DestinationPort>,
}

#[derive(Debug, Deserialize)]
struct DestinationPort {
    number: Option<i32>,
    range: Option<Range>,
}

#[derive(Debug, Deserialize)]
struct Range {
    start: i32,
    end: i32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PortUpstream {
    port_number: Option<PortNumber>,
    named_port: Option<String>,
    port_range: Option<ProtocolRange>,
}

#[derive(Debug, Deserialize)]
struct PortNumber {
    protocol: Option<String>,
    port: i32,
}

#[derive(Debug, Deserialize)]
struct ProtocolRange {
    protocol: Option<String>,
    start: i32,
    end: i32,
}

pub fn subject(field: &str, upstream: &SubjectUpstream) -> Parsed<Subject> {
    match (&upstream.namespaces, &upstream.pods) {
        (Some(namespaces), None) => {
            Ok(Subject { namespaces: selector(&format!("{field}.namespaces"), namespaces)?, pods: Selector::default() })
        }
        (None, Some(pods)) => {
            let (namespaces, pods) = namespaced_pod(&format!("{field}.pods"), pods)?;
            Ok(Subject { namespaces, pods })
        }
        _ => wrong(field, "must name either namespaces or pods"),
    }
}

fn namespaced_pod(field: &str, upstream: &NamespacedPod) -> Parsed<(Selector, Selector)> {
    let namespaces = upstream.namespace_selector.clone().unwrap_or_default();
    let namespaces = selector(&format!("{field}.namespaceSelector"), &namespaces)?;
    Ok((namespaces, selector(&format!("{field}.podSelector"), &upstream.pod_selector)?))
}

impl Rule {
    pub fn read(&self, field: &str, dialect: Dialect) -> Parsed<PolicyRule> {
        let name = self.name.clone().unwrap_or_default();
        if name.chars().count() > RULE_NAME_CHARS_MAX {
            return wrong(format!("{field}.name"), format_args!("is longer than {RULE_NAME_CHARS_MAX} characters"));
        }
        let action = dialect.action(field, &self.action)?;
        let (peers, other) = match dialect.peers_field() {
            "from" => (&self.from, self.to.as_ref().map(|_| "to")),
            _ => (&self.to, self.from.as_ref().map(|_| "from")),
        };
        if let Some(other) = other {
            return wrong(format!("{field}.{other}"), "belongs to rules of the other direction");
        }
        let peers_field = format!("{field}.{}", dialect.peers_field());
        let peers = peers.as_deref().unwrap_or_default();
        count(&peers_field, peers.len(), dialect.items_max())?;
        let read = indexed(peers, &peers_field, |field, peer| peer.read(field, dialect))?.concat();
        let ports = self.read_ports(field, dialect)?;
        let is_named = |port: &PortMatch| matches!(port.port, PortRange::Name(_));
        if read.iter().any(|peer| !matches!(peer, Peer::Pods { .. })) && ports.iter().any(is_named) {
            return wrong(peers_field, "must not name nodes or networks beside a named port, which they have none of");
        }
        Ok(PolicyRule { name, action, peers: read, ports })
    }

    fn read_ports(&self, field: &str, dialect: Dialect) -> Parsed<Vec<PortMatch>> {
        let is_new = dialect.kind == Kind::ClusterNetworkPolicy;
        if let (true, _, Some(_)) | (false, Some(_), _) = (is_new, &self.protocols, &self.ports) {
            let other = if is_new { "ports" } else { "protocols" };
            return wrong(format!("{field}.{other}"), format_args!("is no field of a {}", dialect.kind.name()));
        }
        if let Some(protocols) = &self.protocols {
            let field = format!("{field}.protocols");
            count(&field, protocols.len(), dialect.items_max())?;
            return Ok(indexed(protocols, &field, |field, p| p.read(field))?.concat());
        }
        let Some(ports) = &self.ports else { return Ok(Vec::new()) };
        let field = format!("{field}.ports");
        count(&field, ports.len(), dialect.items_max())?;
        Ok(indexed(ports, &field, |field, p| p.read(field))?.concat())
    }
}

fn count(field: &str, items: usize, most: usize) -> Parsed<()> {
    if (1..=most).contains(&items) {
        return Ok(());
    }
    wrong(field, format_args!("holds {items} entries: 1 to {most} are expected"))
}

impl PeerUpstream {
    fn read(&self, field: &str, dialect: Dialect) -> Parsed<Vec<Peer>> {
        let is_egress = dialect.direction == tables::policy::Direction::Egress;
        let all = |namespaces| vec![Peer::Pods { namespaces: Some(namespaces), pods: Selector::default() }];
        match (&self.namespaces, &self.pods, &self.nodes, &self.networks, &self.domain_names) {
            (Some(namespaces), None, None, None, None) => {
                Ok(all(selector(&format!("{field}.namespaces"), namespaces)?))
            }
            (None, Some(pods), None, None, None) => {
                let (namespaces, pods) = namespaced_pod(&format!("{field}.pods"), pods)?;
                Ok(vec![Peer::Pods { namespaces: Some(namespaces), pods }])
            }
            (None, None, Some(nodes), None, None) if is_egress => {
                Ok(vec![Peer::Nodes(selector(&format!("{field}.nodes"), nodes)?)])
            }
            (None, None, None, Some(networks), None) if is_egress => {
                let field = format!("{field}.networks");
                count(&field, networks.len(), NETWORKS_MAX)?;
                let block = |cidr| Peer::Block { cidr, except: Vec::new() };
                indexed(networks, &field, |field, text| read(field, text).map(block))
            }
            (None, None, None, None, Some(_)) if is_egress => wrong(
                format!("{field}.domainNames"),
                "is not supported: Fairway does not follow what names resolve to; use networks",
            ),
            _ if is_egress => wrong(field, "must name one of namespaces, pods, nodes and networks"),
            _ => wrong(field, "must name either namespaces or pods"),
        }
    }
}

impl ProtocolUpstream {
    fn read(&self, field: &str) -> Parsed<Vec<PortMatch>> {
        let one = |name: &str, protocol, destination: &Destination| {
            let range = destination.read(&format!("{field}.{name}.destinationPort"))?;
            Ok(vec![PortMatch { protocol, port: range }])
        };
        match (&self.tcp, &self.udp, &self.sctp, &self.destination_named_port) {
            (Some(tcp), None, None, None) => one("tcp", Protocol::TCP, tcp),
            (None, Some(udp), None, None) => one("udp", Protocol::UDP, udp),
            (None, None, Some(sctp), None) => one("sctp", Protocol::SCTP, sctp),
            (None, None, None, Some(name)) => named_port(&format!("{field}.destinationNamedPort"), name),
            _ => wrong(field, "must name one of tcp, udp, sctp and destinationNamedPort"),
        }
    }
}

/// A name stands for the port of whatever protocol.
fn named_port(field: &str, name: &str) -> Parsed<Vec<PortMatch>> {
    if name.is_empty() {
        return wrong(field, "is an empty name");
    }
    let of = |protocol| PortMatch { protocol, port: PortRange::Name(name.to_owned()) };
    Ok([Protocol::TCP, Protocol::UDP, Protocol::SCTP].map(of).to_vec())
}

impl Destination {
    /// Without a port: all of them.
    fn read(&self, field: &str) -> Parsed<PortRange> {
        let Some(destination) = &self.destination_port else { return Ok(PortRange::Numbers(0, u16::MAX)) };
        match (destination.number, &destination.range) {
            (Some(number), None) => {
                let number = port(&format!("{field}.number"), number)?;
                Ok(PortRange::Numbers(number, number))
            }
            (None, Some(Range { start, end })) => range(&format!("{field}.range"), *start, *end),
            _ => wrong(field, "must name either number or range"),
        }
    }
}

fn range(field: &str, start: i32, end: i32) -> Parsed<PortRange> {
    let (first, last) = (port(&format!("{field}.start"), start)?, port(&format!("{field}.end"), end)?);
    if first >= last {
        return wrong(format!("{field}.end"), format_args!("{last} is not above start {first}"));
    }
    Ok(PortRange::Numbers(first, last))
}

impl PortUpstream {
    fn read(&self, field: &str) -> Parsed<Vec<PortMatch>> {
        match (&self.port_number, &self.named_port, &self.port_range) {
            (Some(number), None, None) => {
                let field = format!("{field}.portNumber");
                let protocol = protocol(&format!("{field}.protocol"), number.protocol.as_deref())?;
                let number = port(&format!("{field}.port"), number.port)?;
                Ok(vec![PortMatch { protocol, port: PortRange::Numbers(number, number) }])
            }
            (None, Some(name), None) => named_port(&format!("{field}.namedPort"), name),
            (None, None, Some(ports)) => {
                let field = format!("{field}.portRange");
                let protocol = protocol(&format!("{field}.protocol"), ports.protocol.as_deref())?;
                Ok(vec![PortMatch { protocol, port: range(&field, ports.start, ports.end)? }])
            }
            _ => wrong(field, "must name one of portNumber, namedPort and portRange"),
        }
    }
}
