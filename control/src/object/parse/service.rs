//! Services.

use super::{FieldError, Parsed, annotation, indexed, is_others, named, port, protocol, read_addr, wrong};
use crate::object::balancer::{self, ADDRESSES_ANNOTATION, Balancer, POOL_ANNOTATION};
use crate::object::balancing::{self, ALGORITHM_ANNOTATION, Balancing, Named, WEIGHTS_ANNOTATION};
use crate::object::forwarding::{self, FORWARDING_ANNOTATION, Forwarding};
use crate::object::{Distribution, Service, ServiceKind, ServicePort, TargetPort, TrafficPolicy};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::fmt::Display;
use tables::node::family;
use tables::{Addr, Prefix};

/// The API's default for ClientIP affinity: three hours.
const AFFINITY_DEFAULT_S: i32 = 10_800;

impl TryFrom<core::Service> for Service {
    type Error = FieldError;
    fn try_from(service: core::Service) -> Parsed<Service> {
        let spec = service.spec.unwrap_or_default();
        let kind = kind(&spec)?;
        let ports = spec.ports.clone().unwrap_or_default();
        let read = Service {
            id: named(&service.metadata)?.into(),
            kind,
            ports: indexed(&ports, "spec.ports", |field, port| service_port(field, port, ports.len(), kind))?,
            affinity_s: affinity(&spec)?,
            balancing: balancing(&service.metadata)?,
            forwarding: forwarding(&service.metadata)?,
            publish_not_ready: spec.publish_not_ready_addresses == Some(true),
            internal_policy: policy("spec.internalTrafficPolicy", spec.internal_traffic_policy.as_deref())?,
            external_policy: policy("spec.externalTrafficPolicy", spec.external_traffic_policy.as_deref())?,
            health_port: node_port("spec.healthCheckNodePort", spec.health_check_node_port)?,
            distribution: distribution(&spec)?,
            selector: spec.selector.clone().unwrap_or_default().into(),
            ..Service::default()
        };
        let cluster_ips = cluster_ips(&spec)?;
        if is_others(&service.metadata) || kind == ServiceKind::ExternalName || cluster_ips.is_empty() {
            return Ok(read);
        }
        let read = addressed(read, cluster_ips, &spec, &service.status.clone().unwrap_or_default())?;
        let is_balanced = kind == ServiceKind::LoadBalancer;
        let balancer = is_balanced.then(|| balancer(&read, &service.metadata, &spec, service.status.as_ref()));
        Ok(Service { balancer: balancer.transpose()?.map(Box::new), ..read })
    }
}

/// Adds the addresses, those of the service's families alone.
fn addressed(
    read: Service,
    cluster_ips: Vec<Addr>,
    spec: &core::ServiceSpec,
    status: &core::ServiceStatus,
) -> Parsed<Service> {
    let families = families(spec, &cluster_ips)?;
    let own = |addrs: Vec<Addr>| addrs.into_iter().filter(|addr| families[family(*addr)]).collect();
    let external = indexed(spec.external_ips.as_deref().unwrap_or_default(), "spec.externalIPs", |field, ip| {
        read_addr(field, ip)
    })?;
    let is_balanced = read.kind == ServiceKind::LoadBalancer;
    Ok(Service {
        cluster_ips: own(cluster_ips),
        external_ips: own(external),
        load_balancer_ips: if is_balanced { own(load_balancer_ips(status)?) } else { Vec::new() },
        source_ranges: if is_balanced { source_ranges(spec)? } else { Vec::new() },
        families,
        ..read
    })
}

fn balancer(
    read: &Service,
    meta: &ObjectMeta,
    spec: &core::ServiceSpec,
    status: Option<&core::ServiceStatus>,
) -> Parsed<Balancer> {
    let deprecated = spec.load_balancer_ip.as_deref().filter(|ip| !ip.is_empty());
    let (field, wished) = match annotation(meta, ADDRESSES_ANNOTATION) {
        Some(text) => (format!("metadata.annotations[{ADDRESSES_ANNOTATION}]"), text),
        None => ("spec.loadBalancerIP".to_owned(), deprecated.unwrap_or_default()),
    };
    let wished = wished.split(',').map(str::trim).filter(|text| !text.is_empty());
    let ingress = status.and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    let is_elsewhere = |one: &core::LoadBalancerIngress| one.ip_mode.as_deref() == Some("Proxy") || one.ip.is_none();
    let class = spec.load_balancer_class.as_deref().filter(|class| !class.is_empty());
    Ok(Balancer {
        is_ours: class.is_none_or(|class| class == balancer::CLASS)
            && !ingress.iter().copied().flatten().any(is_elsewhere),
        wished: wished.map(|text| read_addr(&field, text)).collect::<Parsed<_>>()?,
        pool: annotation(meta, POOL_ANNOTATION).filter(|name| !name.is_empty()).map(str::to_owned),
        requires_all: spec.ip_family_policy.as_deref() == Some("RequireDualStack"),
        status: read.load_balancer_ips.clone(),
    })
}

fn kind(spec: &core::ServiceSpec) -> Parsed<ServiceKind> {
    match spec.type_.as_deref() {
        None | Some("" | "ClusterIP") => Ok(ServiceKind::ClusterIp),
        Some("NodePort") => Ok(ServiceKind::NodePort),
        Some("LoadBalancer") => Ok(ServiceKind::LoadBalancer),
        Some("ExternalName") => Ok(ServiceKind::ExternalName),
        Some(other) => {
            wrong("spec.type", format_args!("{other:?} is none of ClusterIP, NodePort, LoadBalancer and ExternalName"))
        }
    }
}

fn policy(field: &str, text: Option<&str>) -> Parsed<TrafficPolicy> {
    match text {
        None | Some("" | "Cluster") => Ok(TrafficPolicy::Cluster),
        Some("Local") => Ok(TrafficPolicy::Local),
        Some(other) => wrong(field, format_args!("{other:?} is neither Cluster nor Local")),
    }
}

fn distribution(spec: &core::ServiceSpec) -> Parsed<Distribution> {
    match spec.traffic_distribution.as_deref() {
        None | Some("") => Ok(Distribution::Any),
        Some("PreferSameZone" | "PreferClose") => Ok(Distribution::SameZone),
        Some("PreferSameNode") => Ok(Distribution::SameNode),
        Some(other) => wrong(
            "spec.trafficDistribution",
            format_args!("{other:?} is none of PreferSameZone, PreferSameNode and PreferClose"),
        ),
    }
}

/// As the object says; an old one that does not has the families of its cluster addresses.
fn families(spec: &core::ServiceSpec, cluster_ips: &[Addr]) -> Parsed<[bool; 2]> {
    let mut families = [false; 2];
    for (i, name) in spec.ip_families.iter().flatten().enumerate() {
        match name.as_str() {
            "IPv4" => families[0] = true,
            "IPv6" => families[1] = true,
            other => return wrong(format!("spec.ipFamilies[{i}]"), format_args!("{other:?} is neither IPv4 nor IPv6")),
        }
    }
    if families == [false; 2] {
        cluster_ips.iter().for_each(|addr| families[family(*addr)] = true);
    }
    Ok(families)
}

fn cluster_ips(spec: &core::ServiceSpec) -> Parsed<Vec<Addr>> {
    let one = spec.cluster_ip.iter().map(|ip| ("spec.clusterIP".to_owned(), ip));
    let all = spec.cluster_ips.iter().flatten().enumerate().map(|(i, ip)| (format!("spec.clusterIPs[{i}]"), ip));
    let mut addrs = Vec::new();
    for (field, ip) in one.chain(all).filter(|(_, ip)| !ip.is_empty() && *ip != "None") {
        let addr = read_addr(&field, ip)?;
        if !addrs.contains(&addr) {
            addrs.push(addr);
        }
    }
    Ok(addrs)
}

/// Names are somebody else's, and so are addresses at which a proxy (`ipMode`) ends connections.
pub fn load_balancer_ips(status: &core::ServiceStatus) -> Parsed<Vec<Addr>> {
    let ingress = status.load_balancer.iter().flat_map(|balancer| balancer.ingress.iter().flatten()).enumerate();
    let served = ingress.filter(|(_, one)| one.ip_mode.as_deref() != Some("Proxy"));
    let ips = served.filter_map(|(i, one)| Some((i, one.ip.as_deref().filter(|ip| !ip.is_empty())?)));
    ips.map(|(i, ip)| read_addr(&format!("status.loadBalancer.ingress[{i}].ip"), ip)).collect()
}

fn source_ranges(spec: &core::ServiceSpec) -> Parsed<Vec<Prefix>> {
    let ranges = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    indexed(ranges, "spec.loadBalancerSourceRanges", |field, text| {
        let text = text.trim();
        let parts = text.split_once('/').and_then(|(addr, length)| Some((addr, length.parse().ok()?)));
        let prefix = parts.map(|(addr, length)| Ok(Prefix::new(read_addr(field, addr)?, length))).transpose()?;
        prefix.flatten().map_or_else(|| wrong(field, format_args!("{text:?} is not a CIDR")), Ok)
    })
}

fn service_port(field: &str, upstream: &core::ServicePort, siblings: usize, kind: ServiceKind) -> Parsed<ServicePort> {
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
    let node_port = node_port(&format!("{field}.nodePort"), upstream.node_port)?;
    let node_port = node_port.filter(|_| matches!(kind, ServiceKind::NodePort | ServiceKind::LoadBalancer));
    Ok(ServicePort { name, port: number, protocol, target, node_port })
}

/// 0 says that there is none, too.
fn node_port(field: &str, number: Option<i32>) -> Parsed<Option<u16>> {
    number.filter(|number| *number != 0).map(|number| port(field, number)).transpose()
}

fn balancing(meta: &ObjectMeta) -> Parsed<Balancing> {
    let algorithm = annotated(meta, ALGORITHM_ANNOTATION, str::parse)?;
    let weights = annotated(meta, WEIGHTS_ANNOTATION, balancing::weights)?;
    Ok(Balancing { algorithm: algorithm.map(|Named(algorithm)| algorithm), weights: weights.unwrap_or_default() })
}

fn forwarding(meta: &ObjectMeta) -> Parsed<Option<Forwarding>> {
    annotated(meta, FORWARDING_ANNOTATION, forwarding::parse)
}

/// What is read out of an annotation, if it is there.
fn annotated<T, E: Display>(meta: &ObjectMeta, key: &str, read: fn(&str) -> Result<T, E>) -> Parsed<Option<T>> {
    let read = |text| read(text).or_else(|error| wrong(format!("metadata.annotations[{key}]"), error));
    annotation(meta, key).map(read).transpose()
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
