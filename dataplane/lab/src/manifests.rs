//! The Kubernetes objects of the lab as a user would write them.
//!
//! Text in, text out: which file they go to and when is the caller's.

use std::net::IpAddr;

/// The namespace that all pods of the lab live in.
pub const NAMESPACE: &str = "demo";

pub fn namespace(name: &str) -> String {
    format!(
        "apiVersion: v1
kind: Namespace
metadata:
  name: {name}
  labels:
    kubernetes.io/metadata.name: {name}
"
    )
}

pub fn node(name: &str, addresses: &[IpAddr], pod_ranges: &[String]) -> String {
    let first = pod_ranges.first().map_or("", String::as_str);
    let ranges: String = pod_ranges.iter().map(|range| format!("  - {range}\n")).collect();
    let internal: String =
        addresses.iter().map(|address| format!("  - type: InternalIP\n    address: {address}\n")).collect();
    format!(
        "apiVersion: v1
kind: Node
metadata:
  name: {name}
  labels:
    kubernetes.io/hostname: {name}
spec:
  podCIDR: {first}
  podCIDRs:
{ranges}status:
  addresses:
{internal}  - type: Hostname
    address: {name}
  conditions:
  - type: Ready
    status: \"True\"
"
    )
}

/// What a manifest says about a pod.
#[derive(Clone, Debug)]
pub struct PodSpec<'a> {
    pub name: &'a str,
    pub node: &'a str,
    pub labels: &'a [(String, String)],
    pub addresses: &'a [IpAddr],
}

pub fn pod(pod: &PodSpec) -> String {
    let PodSpec { name, node, labels, addresses } = pod;
    let labels: String = labels.iter().map(|(key, value)| format!("    {key}: {value}\n")).collect();
    let all: String = addresses.iter().map(|address| format!("  - ip: {address}\n")).collect();
    let first = addresses.first().map(|address| format!("  podIP: {address}\n  podIPs:\n{all}")).unwrap_or_default();
    format!(
        "apiVersion: v1
kind: Pod
metadata:
  namespace: {NAMESPACE}
  name: {name}
  labels:
    name: {name}
{labels}spec:
  nodeName: {node}
  containers:
  - name: main
    image: none
    ports:
    - name: http
      containerPort: 8080
status:
  phase: Running
{first}  conditions:
  - type: Ready
    status: \"True\"
"
    )
}

/// A ClusterIP service for the pods that carry one label: HTTP on 80, echo on 7 (TCP and UDP).
pub fn service(name: &str, addresses: &[IpAddr], label: (&str, &str)) -> String {
    let ports = [("http", "TCP", 80, 8080), ("echo", "TCP", 7, 7777), ("echo-udp", "UDP", 7, 7777)];
    cluster_ip(name, addresses, label, &ports)
}

/// The same with a single port: protocol, port, target port.
pub fn one_port(name: &str, addresses: &[IpAddr], label: (&str, &str), port: (&str, u16, u16)) -> String {
    let (protocol, port, target) = port;
    cluster_ip(name, addresses, label, &[("only", protocol, port, target)])
}

/// A service that clients outside reach.
#[derive(Clone, Copy, Debug)]
pub struct Exposed<'a> {
    pub name: &'a str,
    pub addresses: &'a [IpAddr],
    pub label: (&'a str, &'a str),
    /// HTTP is on this node port, echo (TCP and UDP) on the next one.
    pub node_port: u16,
    /// Its load balancer's addresses, which make it one of that type.
    pub balancer: &'a [IpAddr],
    pub external: &'a [IpAddr],
    /// `externalTrafficPolicy: Local`; of a load balancer's service with this health-check port.
    pub local: Option<u16>,
}

/// As [`service`], and reached from outside.
pub fn exposed(exposed: &Exposed) -> String {
    let Exposed { name, addresses, label, node_port, .. } = *exposed;
    let mut text = service(name, addresses, label);
    for (target, node_port) in [(8080, node_port), (7777, node_port + 1)] {
        let line = format!("    targetPort: {target}\n");
        text = text.replace(&line, &format!("{line}    nodePort: {node_port}\n"));
    }
    let kind = if exposed.balancer.is_empty() { "NodePort" } else { "LoadBalancer" };
    text = text.replace("type: ClusterIP\n", &format!("type: {kind}\n"));
    if !exposed.external.is_empty() {
        let all: String = exposed.external.iter().map(|address| format!("  - {address}\n")).collect();
        text += &format!("  externalIPs:\n{all}");
    }
    if let Some(health_port) = exposed.local {
        text += "  externalTrafficPolicy: Local\n";
        if !exposed.balancer.is_empty() {
            text += &format!("  healthCheckNodePort: {health_port}\n");
        }
    }
    if !exposed.balancer.is_empty() {
        let all: String = exposed.balancer.iter().map(|address| format!("    - ip: {address}\n")).collect();
        text += &format!("status:\n  loadBalancer:\n    ingress:\n{all}");
    }
    text
}

/// Name, protocol, port, target port.
type Port<'a> = (&'a str, &'a str, u16, u16);

fn cluster_ip(name: &str, addresses: &[IpAddr], label: (&str, &str), ports: &[Port]) -> String {
    let (key, value) = label;
    let first = addresses.first().map_or_else(String::new, ToString::to_string);
    let all: String = addresses.iter().map(|address| format!("  - {address}\n")).collect();
    let families: String = addresses.iter().map(|address| format!("  - {}\n", family(*address))).collect();
    let of_port = |(name, protocol, port, target): &Port| {
        format!("  - name: {name}\n    protocol: {protocol}\n    port: {port}\n    targetPort: {target}\n")
    };
    let ports: String = ports.iter().map(of_port).collect();
    format!(
        "apiVersion: v1
kind: Service
metadata:
  namespace: {NAMESPACE}
  name: {name}
spec:
  type: ClusterIP
  clusterIP: {first}
  clusterIPs:
{all}  ipFamilies:
{families}  selector:
    {key}: {value}
  ports:
{ports}"
    )
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// How far an endpoint has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Ready,
    /// It serves until it ends.
    Terminating,
    NotReady,
}

impl Condition {
    fn lines(self) -> String {
        let (ready, serving, terminating) = match self {
            Condition::Ready => (true, true, false),
            Condition::Terminating => (false, true, true),
            Condition::NotReady => (false, false, false),
        };
        format!("  conditions:\n    ready: {ready}\n    serving: {serving}\n    terminating: {terminating}\n")
    }
}

/// An EndpointSlice of the service `service` as the lab's services have ports: one family each.
pub fn endpoint_slice(name: &str, service: &str, addresses: &[IpAddr]) -> String {
    let all: Vec<_> = addresses.iter().map(|address| (*address, Condition::Ready)).collect();
    slice(name, service, &all, &[("http", "TCP", 8080), ("echo", "TCP", 7777), ("echo-udp", "UDP", 7777)])
}

/// The same in any condition, with ports: name, protocol, number. Without endpoints it is one of IPv4.
pub fn slice(name: &str, service: &str, endpoints: &[(IpAddr, Condition)], ports: &[(&str, &str, u16)]) -> String {
    let kind = endpoints.first().map_or("IPv4", |(address, _)| family(*address));
    let of_endpoint =
        |(address, condition): &(IpAddr, Condition)| format!("- addresses: [\"{address}\"]\n{}", condition.lines());
    let of_port = |(name, protocol, port): &(&str, &str, u16)| {
        format!("- name: {name}\n  protocol: {protocol}\n  port: {port}\n")
    };
    let listed: String = endpoints.iter().map(of_endpoint).collect();
    let endpoints = if endpoints.is_empty() { " []\n".to_string() } else { format!("\n{listed}") };
    let ports: String = ports.iter().map(of_port).collect();
    format!(
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  namespace: {NAMESPACE}
  name: {name}
  labels:
    kubernetes.io/service-name: {service}
addressType: {kind}
endpoints:{endpoints}ports:
{ports}"
    )
}

/// A service of [`service`] or [`exposed`] whose clients stay with their backend for so long.
pub fn with_affinity(service: &str, seconds: u32) -> String {
    let lines = format!(
        "  sessionAffinity: ClientIP\n  sessionAffinityConfig:\n    clientIP:\n      timeoutSeconds: {seconds}\n"
    );
    service.replacen("spec:\n", &format!("spec:\n{lines}"), 1)
}

/// The same object with an annotation.
pub fn annotated(object: &str, key: &str, value: &str) -> String {
    object.replacen("metadata:\n", &format!("metadata:\n  annotations:\n    {key}: {value}\n"), 1)
}

/// The same object after its deletion was asked for: it is still there, and is to end.
pub fn terminating(object: &str) -> String {
    object.replacen("metadata:\n", "metadata:\n  deletionTimestamp: \"2020-01-01T00:00:00Z\"\n", 1)
}

/// Pods labelled `app: web` answer only to these ranges.
pub fn ranges_only(name: &str, ranges: &[&str]) -> String {
    let from: String = ranges.iter().map(|range| format!("    - ipBlock:\n        cidr: {range}\n")).collect();
    format!(
        "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  namespace: {NAMESPACE}
  name: {name}
spec:
  podSelector:
    matchLabels:
      app: web
  policyTypes:
  - Ingress
  ingress:
  - from:
{from}"
    )
}

/// Only pods labelled `role: friend` may open connections to pods labelled `app: web`.
pub fn friends_only(name: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  namespace: {NAMESPACE}
  name: {name}
spec:
  podSelector:
    matchLabels:
      app: web
  policyTypes:
  - Ingress
  ingress:
  - from:
    - podSelector:
        matchLabels:
          role: friend
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_names_its_node_labels_and_addresses() {
        let labels = [("app".to_string(), "web".to_string())];
        let addresses = ["10.244.1.4".parse().unwrap()];
        let text = pod(&PodSpec { name: "web-1", node: "node-1", labels: &labels, addresses: &addresses });
        assert!(text.contains("    app: web\nspec:\n  nodeName: node-1\n"), "{text}");
        assert!(text.contains("  podIP: 10.244.1.4\n  podIPs:\n  - ip: 10.244.1.4\n  conditions:"), "{text}");
    }

    #[test]
    fn a_pod_without_an_address_says_none() {
        let text = pod(&PodSpec { name: "a", node: "n", labels: &[], addresses: &[] });
        assert!(text.contains("phase: Running\n  conditions:"), "{text}");
    }
}
