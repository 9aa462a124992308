//! The few fields that Fairway needs from Kubernetes objects, already valid: addresses are addresses, ports are numbers
//! in range, selectors can be evaluated. Built from the upstream types in [`parse`]; nothing past this file meets a
//! string that still has to be understood. No I/O.

pub mod addressing;
pub mod balancer;
pub mod balancing;
mod common;
pub mod forwarding;
mod labels;
pub mod parse;
pub mod policy;
pub mod selector;

pub use common::Common;
pub use parse::FieldError;
pub use policy::{Action, ClusterPolicy, NetworkPolicy, Peer, PolicyRule, PortMatch, PortRange, Subject, Tier};
pub use selector::{Labels, Selector};

use serde::{Deserialize, Serialize};
use std::fmt;
use tables::{Addr, Mac, Prefix, Protocol};

/// The kinds that Fairway follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    Node,
    Namespace,
    Pod,
    Service,
    EndpointSlice,
    NetworkPolicy,
    ClusterNetworkPolicy,
    AdminNetworkPolicy,
    BaselineAdminNetworkPolicy,
}

pub const KINDS: [Kind; 9] = [
    Kind::Node,
    Kind::Namespace,
    Kind::Pod,
    Kind::Service,
    Kind::EndpointSlice,
    Kind::NetworkPolicy,
    Kind::ClusterNetworkPolicy,
    Kind::AdminNetworkPolicy,
    Kind::BaselineAdminNetworkPolicy,
];

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Node => "Node",
            Kind::Namespace => "Namespace",
            Kind::Pod => "Pod",
            Kind::Service => "Service",
            Kind::EndpointSlice => "EndpointSlice",
            Kind::NetworkPolicy => "NetworkPolicy",
            Kind::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Kind::AdminNetworkPolicy => "AdminNetworkPolicy",
            Kind::BaselineAdminNetworkPolicy => "BaselineAdminNetworkPolicy",
        }
    }

    pub fn api_version(self) -> &'static str {
        match self {
            Kind::EndpointSlice => "discovery.k8s.io/v1",
            Kind::NetworkPolicy => "networking.k8s.io/v1",
            Kind::ClusterNetworkPolicy => "policy.networking.k8s.io/v1alpha2",
            Kind::AdminNetworkPolicy | Kind::BaselineAdminNetworkPolicy => "policy.networking.k8s.io/v1alpha1",
            _ => "v1",
        }
    }

    pub fn is_namespaced(self) -> bool {
        !matches!(self, Kind::Node | Kind::Namespace) && !self.is_cluster_policy()
    }

    pub fn is_cluster_policy(self) -> bool {
        matches!(self, Kind::ClusterNetworkPolicy | Kind::AdminNetworkPolicy | Kind::BaselineAdminNetworkPolicy)
    }

    pub fn from_name(name: &str) -> Option<Kind> {
        KINDS.into_iter().find(|kind| kind.name() == name)
    }
}

/// `namespace/name`: what a namespaced object is called among its kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Default, Deserialize)]
pub struct Named {
    pub namespace: String,
    pub name: String,
}

impl Named {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Named {
        Named { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What tells objects apart. The namespace is empty for those of the whole cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectKey {
    pub kind: Kind,
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{} {}", self.kind.name(), self.name),
            namespace => write!(f, "{} {}/{}", self.kind.name(), namespace, self.name),
        }
    }
}

/// One object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Object {
    Node(Node),
    Namespace(Namespace),
    Pod(Pod),
    Service(Service),
    EndpointSlice(EndpointSlice),
    NetworkPolicy(NetworkPolicy),
    ClusterPolicy(ClusterPolicy),
}

impl Object {
    pub fn key(&self) -> ObjectKey {
        let (kind, id) = match self {
            Object::Node(node) => (Kind::Node, Named::new("", &node.name)),
            Object::Namespace(namespace) => (Kind::Namespace, Named::new("", &namespace.name)),
            Object::Pod(pod) => (Kind::Pod, Named::clone(&pod.id)),
            Object::Service(service) => (Kind::Service, Named::clone(&service.id)),
            Object::EndpointSlice(slice) => (Kind::EndpointSlice, Named::clone(&slice.id)),
            Object::NetworkPolicy(policy) => (Kind::NetworkPolicy, policy.id.clone()),
            Object::ClusterPolicy(policy) => (policy.kind, Named::new("", &policy.name)),
        };
        ObjectKey { kind, namespace: id.namespace, name: id.name }
    }
}

/// What happened to an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ObjectChange {
    Put(Object),
    Delete(ObjectKey),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub name: String,
    /// Label `topology.kubernetes.io/zone`, unless it is empty.
    pub zone: Option<String>,
    pub labels: Labels,
    /// `status.addresses` of type InternalIP, in order.
    pub addrs: Vec<Addr>,
    /// Those of type ExternalIP.
    pub external_addrs: Vec<Addr>,
    /// `spec.podCIDRs`, or `spec.podCIDR` alone.
    pub pod_cidrs: Vec<Prefix>,
    /// Its Ethernet address inside VXLAN, where Flannel says one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inner_mac: Option<Mac>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    pub name: String,
    /// Always with `kubernetes.io/metadata.name`, as the API server sees to.
    pub labels: Labels,
    /// All of its NetworkPolicies are only being tried.
    pub audit: bool,
    /// Out of which its pods get their addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_pool: Option<String>,
}

/// A container port that has a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NamedPort {
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
}

/// A port of the node that leads to a container.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostPort {
    /// None: every address of the node.
    pub addr: Option<Addr>,
    pub port: u16,
    pub protocol: Protocol,
    pub container_port: u16,
}

impl HostPort {
    /// The node's loopback, where it is asked for by name. From that of IPv6 the kernel lets nothing leave by another device.
    pub fn loopback(&self) -> Option<Addr> {
        self.addr.filter(|addr| addr.is_v4() && addr.ip().is_loopback())
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    pub id: Common<Named>,
    pub labels: Labels,
    /// `status.podIPs`.
    pub addrs: Vec<Addr>,
    pub node: Option<Common<str>>,
    pub host_network: bool,
    /// The Ready condition. A pod that lists none is ready: a directory has no kubelet that would say so.
    pub ready: bool,
    /// `metadata.deletionTimestamp` is set.
    pub terminating: bool,
    /// Phase Succeeded or Failed: its addresses may belong to somebody else by now.
    pub finished: bool,
    /// In the order of the containers; of equal name and protocol only the first.
    pub ports: Common<[NamedPort]>,
    /// Empty for pods of the node's own network, whose ports are the node's anyway.
    pub host_ports: Vec<HostPort>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addressing: Option<Box<addressing::Addressing>>,
}

/// A service. All its addresses are of its families. Headless and ExternalName services and those that another proxy
/// serves have neither.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub id: Common<Named>,
    pub kind: ServiceKind,
    pub cluster_ips: Vec<Addr>,
    /// Whether it serves IPv4, IPv6.
    pub families: [bool; 2],
    /// `spec.externalIPs`, whether or not they may be used here.
    pub external_ips: Vec<Addr>,
    /// `status.loadBalancer.ingress`, without addresses that a proxy before the node keeps for itself; what pools give
    /// it, once that is known.
    pub load_balancer_ips: Vec<Addr>,
    /// Clients that may use the load balancer's addresses; empty: all.
    pub source_ranges: Vec<Prefix>,
    pub internal_policy: TrafficPolicy,
    pub external_policy: TrafficPolicy,
    /// `spec.healthCheckNodePort`.
    pub health_port: Option<u16>,
    /// Which endpoints clients prefer, where Fairway itself finds them by the selector; slices bring hints of their own.
    pub distribution: Distribution,
    pub ports: Vec<ServicePort>,
    /// Empty: none, its EndpointSlices are somebody else's.
    pub selector: Labels,
    /// Seconds of ClientIP affinity, 0 for none.
    pub affinity_s: u32,
    pub balancing: balancing::Balancing,
    /// None: as the node does it.
    pub forwarding: Option<forwarding::Forwarding>,
    /// Of type LoadBalancer alone.
    pub balancer: Option<Box<balancer::Balancer>>,
    pub publish_not_ready: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceKind {
    #[default]
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

/// Which endpoints serve: all of the cluster, or those on the client's or receiving node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrafficPolicy {
    #[default]
    Cluster,
    Local,
}

/// `spec.trafficDistribution`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Distribution {
    #[default]
    Any,
    SameZone,
    SameNode,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Empty for the only port of a service.
    pub name: String,
    pub port: u16,
    pub protocol: Protocol,
    pub target: TargetPort,
    pub node_port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetPort {
    Number(u16),
    Name(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSlice {
    pub id: Common<Named>,
    /// Label `kubernetes.io/service-name`.
    pub service: Option<String>,
    pub ports: Vec<SlicePort>,
    /// Empty for slices of host names (FQDN), which no dataplane can use.
    pub endpoints: Vec<SliceEndpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlicePort {
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceEndpoint {
    /// Interchangeable addresses; by the API's advice only the first is used.
    pub addr: Addr,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    pub node: Option<String>,
    /// Zones and nodes whose clients are to use it; empty: not said.
    pub for_zones: Vec<String>,
    pub for_nodes: Vec<String>,
}
