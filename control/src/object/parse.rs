//! From upstream types to ours. Every refusal names the field. What the API server would have refused is refused here
//! too, because a directory has no API server before it.

mod cluster_policy;
mod policy;
mod service;
mod slice;

pub use cluster_policy::{Dialect, Rule, SubjectUpstream, subject};
pub use policy::selector;
pub use service::load_balancer_ips;
#[cfg(test)]
mod tests;

use super::*;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::str::FromStr;

const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// A field whose value is of the right type and still wrong.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
#[error("{field}: {message}")]
pub struct FieldError {
    /// As in `spec.ports[0].port`.
    pub field: String,
    pub message: String,
}

type Parsed<T> = Result<T, FieldError>;

fn wrong<T>(field: impl Into<String>, message: impl fmt::Display) -> Parsed<T> {
    Err(FieldError { field: field.into(), message: message.to_string() })
}

fn read<T: FromStr<Err: fmt::Display>>(field: &str, text: &str) -> Parsed<T> {
    text.parse().or_else(|error| wrong(field, format_args!("{text:?}: {error}")))
}

fn name(meta: &ObjectMeta) -> Parsed<String> {
    match meta.name.as_deref() {
        None | Some("") => wrong("metadata.name", "is missing"),
        Some(name) => Ok(name.to_owned()),
    }
}

/// Old objects may hold IPv4 addresses with leading zeros, which are decimal.
fn read_addr(field: &str, text: &str) -> Parsed<Addr> {
    let plain = |part: &str| match part.trim_start_matches('0') {
        "" if !part.is_empty() => "0".to_owned(),
        digits => digits.to_owned(),
    };
    match text.contains(':') {
        true => read(field, text),
        false => read(field, &text.split('.').map(plain).collect::<Vec<_>>().join(".")),
    }
}

/// A namespaced object without a namespace is in `default`, as kubectl has it.
fn named(meta: &ObjectMeta) -> Parsed<Named> {
    let namespace = meta.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or("default");
    Ok(Named::new(namespace, name(meta)?))
}

fn label<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a String> {
    meta.labels.as_ref()?.get(key)
}

/// Another proxy serves it, or none: Services and EndpointSlices alike.
fn is_others(meta: &ObjectMeta) -> bool {
    [PROXY_NAME_LABEL, HEADLESS_LABEL].iter().any(|key| label(meta, key).is_some())
}

fn protocol(field: &str, text: Option<&str>) -> Parsed<Protocol> {
    match text.unwrap_or("TCP") {
        "TCP" => Ok(Protocol::TCP),
        "UDP" => Ok(Protocol::UDP),
        "SCTP" => Ok(Protocol::SCTP),
        other => wrong(field, format_args!("{other:?} is none of TCP, UDP and SCTP")),
    }
}

fn port(field: &str, number: i32) -> Parsed<u16> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        _ => wrong(field, format_args!("{number} is not a port: 1 to 65535 is expected")),
    }
}

/// What an annotation says, if it is there.
pub(super) fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// What Flannel has a node say of its VXLAN device, in JSON. Of other backends it says other things, which are none of ours.
const FLANNEL_ANNOTATION: &str = "flannel.alpha.coreos.com/backend-data";

fn inner_mac(meta: &ObjectMeta) -> Option<Mac> {
    let said: serde_json::Value = serde_json::from_str(annotation(meta, FLANNEL_ANNOTATION)?).ok()?;
    said.get("VtepMAC")?.as_str()?.parse().ok()
}

impl TryFrom<core::Node> for Node {
    type Error = FieldError;
    fn try_from(node: core::Node) -> Parsed<Node> {
        let spec = node.spec.unwrap_or_default();
        let pod_cidrs = match (spec.pod_cidrs, spec.pod_cidr) {
            (Some(all), _) if !all.is_empty() => {
                indexed(&all, "spec.podCIDRs", |field, text| read::<Prefix>(field, text))?
            }
            (_, Some(one)) if !one.is_empty() => vec![read("spec.podCIDR", &one)?],
            _ => Vec::new(),
        };
        let addresses = node.status.unwrap_or_default().addresses.unwrap_or_default();
        let of_type = |kind: &str| {
            let chosen = addresses.iter().enumerate().filter(|(_, a)| a.type_ == kind);
            chosen.map(|(i, a)| read(&format!("status.addresses[{i}].address"), &a.address)).collect::<Parsed<Vec<_>>>()
        };
        let (addrs, external_addrs) = (of_type("InternalIP")?, of_type("ExternalIP")?);
        let zone = label(&node.metadata, ZONE_LABEL).filter(|zone| !zone.is_empty()).cloned();
        let name = name(&node.metadata)?;
        let inner_mac = inner_mac(&node.metadata);
        let labels = node.metadata.labels.unwrap_or_default().into();
        Ok(Node { name, zone, labels, addrs, external_addrs, pod_cidrs, inner_mac })
    }
}

fn indexed<T, U>(items: &[T], field: &str, each: impl Fn(&str, &T) -> Parsed<U>) -> Parsed<Vec<U>> {
    items.iter().enumerate().map(|(i, item)| each(&format!("{field}[{i}]"), item)).collect()
}

impl TryFrom<core::Namespace> for Namespace {
    type Error = FieldError;
    fn try_from(namespace: core::Namespace) -> Parsed<Namespace> {
        let name = name(&namespace.metadata)?;
        let audit = is_audit(&namespace.metadata);
        let pod_pool = addressing::pool(&namespace.metadata);
        Ok(Namespace {
            labels: namespace_labels(&name, &namespace.metadata.labels.unwrap_or_default().into()),
            audit,
            pod_pool,
            name,
        })
    }
}

/// On a policy, or on a namespace for all of its NetworkPolicies.
pub const AUDIT_ANNOTATION: &str = "fairway.dev/policy-audit";

/// Whether policies are only to be tried. Anything but `true` keeps them in force.
fn is_audit(meta: &ObjectMeta) -> bool {
    annotation(meta, AUDIT_ANNOTATION) == Some("true")
}

/// The labels of a namespace, with the one that the API server always adds.
pub fn namespace_labels(name: &str, labels: &Labels) -> Labels {
    labels.with(NAMESPACE_NAME_LABEL, name)
}

impl TryFrom<core::Pod> for Pod {
    type Error = FieldError;
    fn try_from(pod: core::Pod) -> Parsed<Pod> {
        let spec = pod.spec.unwrap_or_default();
        let status = pod.status.unwrap_or_default();
        let ready = status.conditions.iter().flatten().find(|c| c.type_ == "Ready").is_none_or(|c| c.status == "True");
        Ok(Pod {
            id: named(&pod.metadata)?.into(),
            addrs: pod_addrs(&status)?,
            node: spec.node_name.as_deref().filter(|node| !node.is_empty()).map(Common::from),
            host_network: spec.host_network == Some(true),
            ready,
            terminating: pod.metadata.deletion_timestamp.is_some(),
            finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
            ports: named_ports(&spec)?.into(),
            host_ports: host_ports(&spec)?,
            addressing: addressing::Addressing::of(&pod.metadata),
            labels: pod.metadata.labels.unwrap_or_default().into(),
        })
    }
}

fn pod_addrs(status: &core::PodStatus) -> Parsed<Vec<Addr>> {
    match (&status.pod_ips, &status.pod_ip) {
        (Some(all), _) if !all.is_empty() => {
            let mut addrs = indexed(all, "status.podIPs", |field, ip| read(&format!("{field}.ip"), &ip.ip))?;
            addrs.shrink_to_fit();
            Ok(addrs)
        }
        (_, Some(one)) if !one.is_empty() => Ok(vec![read("status.podIP", one)?]),
        _ => Ok(Vec::new()),
    }
}

/// Calls `each` with every port of containers that run as long as the pod, and the name of its field.
fn each_port(spec: &core::PodSpec, mut each: impl FnMut(&str, &core::ContainerPort) -> Parsed<()>) -> Parsed<()> {
    let containers = spec.containers.iter().map(|c| ("containers", c)).enumerate();
    let sidecars = spec.init_containers.iter().flatten().map(|c| ("initContainers", c)).enumerate();
    let sidecars = sidecars.filter(|(_, (_, c))| c.restart_policy.as_deref() == Some("Always"));
    for (c, (list, container)) in containers.chain(sidecars) {
        for (i, p) in container.ports.iter().flatten().enumerate() {
            each(&format!("spec.{list}[{c}].ports[{i}]"), p)?;
        }
    }
    Ok(())
}

fn named_ports(spec: &core::PodSpec) -> Parsed<Vec<NamedPort>> {
    let mut ports: Vec<NamedPort> = Vec::new();
    each_port(spec, |field, p| {
        let number = port(&format!("{field}.containerPort"), p.container_port)?;
        let protocol = protocol(&format!("{field}.protocol"), p.protocol.as_deref())?;
        let Some(name) = p.name.clone().filter(|name| !name.is_empty()) else { return Ok(()) };
        if !ports.iter().any(|known| known.name == name && known.protocol == protocol) {
            ports.push(NamedPort { name, protocol, port: number });
        }
        Ok(())
    })?;
    Ok(ports)
}

fn host_ports(spec: &core::PodSpec) -> Parsed<Vec<HostPort>> {
    let mut ports = Vec::new();
    if spec.host_network == Some(true) {
        return Ok(ports);
    }
    each_port(spec, |field, p| {
        let Some(number) = p.host_port.filter(|number| *number != 0) else { return Ok(()) };
        let ip = p.host_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "0.0.0.0" && *ip != "::");
        ports.push(HostPort {
            addr: ip.map(|ip| read_addr(&format!("{field}.hostIP"), ip)).transpose()?,
            port: port(&format!("{field}.hostPort"), number)?,
            protocol: protocol(&format!("{field}.protocol"), p.protocol.as_deref())?,
            container_port: port(&format!("{field}.containerPort"), p.container_port)?,
        });
        Ok(())
    })?;
    Ok(ports)
}
