//! From upstream types to ours. Every refusal names the field. What the API server would have refused is refused here
//! too, because a directory has no API server before it.

mod policy;
#[cfg(test)]
mod tests;

use super::*;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::str::FromStr;

const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// The API's default for ClientIP affinity: three hours.
const AFFINITY_DEFAULT_S: i32 = 10_800;

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

/// A namespaced object without a namespace is in `default`, as kubectl has it.
fn named(meta: &ObjectMeta) -> Parsed<Named> {
    let namespace = meta.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or("default");
    Ok(Named::new(namespace, name(meta)?))
}

fn label<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a String> {
    meta.labels.as_ref()?.get(key)
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
        let mut addrs = Vec::new();
        for (i, address) in addresses.iter().enumerate().filter(|(_, a)| a.type_ == "InternalIP") {
            addrs.push(read(&format!("status.addresses[{i}].address"), &address.address)?);
        }
        Ok(Node { name: name(&node.metadata)?, addrs, pod_cidrs })
    }
}

fn indexed<T, U>(items: &[T], field: &str, each: impl Fn(&str, &T) -> Parsed<U>) -> Parsed<Vec<U>> {
    items.iter().enumerate().map(|(i, item)| each(&format!("{field}[{i}]"), item)).collect()
}

impl TryFrom<core::Namespace> for Namespace {
    type Error = FieldError;
    fn try_from(namespace: core::Namespace) -> Parsed<Namespace> {
        let name = name(&namespace.metadata)?;
        Ok(Namespace { labels: namespace_labels(&name, namespace.metadata.labels.unwrap_or_default()), name })
    }
}

/// The labels of a namespace, with the one that the API server always adds.
pub fn namespace_labels(name: &str, mut labels: Labels) -> Labels {
    labels.insert(NAMESPACE_NAME_LABEL.to_owned(), name.to_owned());
    labels
}

impl TryFrom<core::Pod> for Pod {
    type Error = FieldError;
    fn try_from(pod: core::Pod) -> Parsed<Pod> {
        let spec = pod.spec.unwrap_or_default();
        let status = pod.status.unwrap_or_default();
        let ready = status.conditions.iter().flatten().find(|c| c.type_ == "Ready").is_none_or(|c| c.status == "True");
        Ok(Pod {
            id: named(&pod.metadata)?,
            addrs: pod_addrs(&status)?,
            node: spec.node_name.clone().filter(|node| !node.is_empty()),
            host_network: spec.host_network == Some(true),
            ready,
            terminating: pod.metadata.deletion_timestamp.is_some(),
            finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
            ports: named_ports(&spec)?,
            labels: pod.metadata.labels.unwrap_or_default(),
        })
    }
}

fn pod_addrs(status: &core::PodStatus) -> Parsed<Vec<Addr>> {
    match (&status.pod_ips, &status.pod_ip) {
        (Some(all), _) if !all.is_empty() => {
            indexed(all, "status.podIPs", |field, ip| read(&format!("{field}.ip"), &ip.ip))
        }
        (_, Some(one)) if !one.is_empty() => Ok(vec![read("status.podIP", one)?]),
        _ => Ok(Vec::new()),
    }
}

fn named_ports(spec: &core::PodSpec) -> Parsed<Vec<NamedPort>> {
    let mut ports: Vec<NamedPort> = Vec::new();
    let containers = spec.containers.iter().map(|c| ("containers", c)).enumerate();
    let sidecars = spec.init_containers.iter().flatten().map(|c| ("initContainers", c)).enumerate();
    let sidecars = sidecars.filter(|(_, (_, c))| c.restart_policy.as_deref() == Some("Always"));
    for (c, (list, container)) in containers.chain(sidecars) {
        for (i, p) in container.ports.iter().flatten().enumerate() {
            let field = |last: &str| format!("spec.{list}[{c}].ports[{i}].{last}");
            let number = port(&field("containerPort"), p.container_port)?;
            let protocol = protocol(&field("protocol"), p.protocol.as_deref())?;
            let Some(name) = p.name.clone().filter(|name| !name.is_empty()) else { continue };
            if !ports.iter().any(|known| known.name == name && known.protocol == protocol) {
                ports.push(NamedPort { name, protocol, port: number });
            }
        }
    }
    Ok(ports)
}

impl TryFrom<core::Service> for Service {
    type Error = FieldError;
    fn try_from(service: core::Service) -> Parsed<Service> {
        let spec = service.spec.unwrap_or_default();
        let served =
            spec.type_.as_deref() != Some("ExternalName") && label(&service.metadata, PROXY_NAME_LABEL).is_none();
        let ports = spec.ports.clone().unwrap_or_default();
        Ok(Service {
            id: named(&service.metadata)?,
            cluster_ips: if served { cluster_ips(&spec)? } else { Vec::new() },
            ports: indexed(&ports, "spec.ports", |field, port| service_port(field, port, ports.len()))?,
            affinity_s: affinity(&spec)?,
            publish_not_ready: spec.publish_not_ready_addresses == Some(true),
            selector: spec.selector.unwrap_or_default(),
        })
    }
}

fn cluster_ips(spec: &core::ServiceSpec) -> Parsed<Vec<Addr>> {
    let one = spec.cluster_ip.iter().map(|ip| ("spec.clusterIP".to_owned(), ip));
    let all = spec.cluster_ips.iter().flatten().enumerate().map(|(i, ip)| (format!("spec.clusterIPs[{i}]"), ip));
    let mut addrs = Vec::new();
    for (field, ip) in one.chain(all).filter(|(_, ip)| !ip.is_empty() && *ip != "None") {
        let addr = read(&field, ip)?;
        if !addrs.contains(&addr) {
            addrs.push(addr);
        }
    }
    Ok(addrs)
}

fn service_port(field: &str, upstream: &core::ServicePort, siblings: usize) -> Parsed<ServicePort> {
    let number = port(&format!("{field}.port"), upstream.port)?;
    let target = match &upstream.target_port {
        None | Some(IntOrString::Int(0)) => TargetPort::Number(number),
        Some(IntOrString::Int(n)) => TargetPort::Number(port(&format!("{field}.targetPort"), *n)?),
        Some(IntOrString::String(name)) if name.is_empty() => TargetPort::Number(number),
        Some(IntOrString::String(name)) => TargetPort::Name(name.clone()),
    };
    let name = upstream.name.clone().unwrap_or_default();
    if name.is_empty() && siblings > 1 {
        return wrong(format!("{field}.name"), "is missing: a service with several ports must name each");
    }
    let protocol = protocol(&format!("{field}.protocol"), upstream.protocol.as_deref())?;
    Ok(ServicePort { name, port: number, protocol, target })
}

fn affinity(spec: &core::ServiceSpec) -> Parsed<u32> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => return Ok(0),
        Some("ClientIP") => {}
        Some(other) => return wrong("spec.sessionAffinity", format_args!("{other:?} is neither None nor ClientIP")),
    }
    let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
    let seconds = config.and_then(|c| c.timeout_seconds).unwrap_or(AFFINITY_DEFAULT_S);
    if !(1..=86_400).contains(&seconds) {
        let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        return wrong(field, format_args!("{seconds} is not between 1 and 86400"));
    }
    Ok(seconds as u32)
}

impl TryFrom<discovery::EndpointSlice> for EndpointSlice {
    type Error = FieldError;
    fn try_from(slice: discovery::EndpointSlice) -> Parsed<EndpointSlice> {
        let v4 = match slice.address_type.as_str() {
            "IPv4" => Some(true),
            "IPv6" => Some(false),
            "FQDN" => None,
            other => return wrong("addressType", format_args!("{other:?} is none of IPv4, IPv6 and FQDN")),
        };
        let endpoints = match v4 {
            Some(v4) => {
                let all = slice.endpoints.unwrap_or_default();
                indexed(&all, "endpoints", |field, endpoint| slice_endpoint(field, endpoint, v4))?
            }
            None => Vec::new(),
        };
        let mut ports = Vec::new();
        for (i, p) in slice.ports.iter().flatten().enumerate() {
            // A port without a number means "all ports", which no service port can be mapped to.
            let Some(number) = p.port else { continue };
            ports.push(SlicePort {
                name: p.name.clone().unwrap_or_default(),
                protocol: protocol(&format!("ports[{i}].protocol"), p.protocol.as_deref())?,
                port: port(&format!("ports[{i}].port"), number)?,
            });
        }
        let service = label(&slice.metadata, SERVICE_NAME_LABEL).cloned();
        Ok(EndpointSlice { id: named(&slice.metadata)?, service, ports, endpoints })
    }
}

/// Conditions left out mean: ready, serving as ready, not terminating.
fn slice_endpoint(field: &str, endpoint: &discovery::Endpoint, v4: bool) -> Parsed<SliceEndpoint> {
    let Some(first) = endpoint.addresses.first() else { return wrong(format!("{field}.addresses"), "is empty") };
    let field = format!("{field}.addresses[0]");
    let addr: Addr = read(&field, first)?;
    if addr.is_v4() != v4 {
        return wrong(field, format_args!("{addr} is not of the slice's addressType"));
    }
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    let serving = conditions.serving.unwrap_or(ready);
    Ok(SliceEndpoint { addr, ready, serving, terminating: conditions.terminating.unwrap_or(false) })
}
