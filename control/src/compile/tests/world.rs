//! A small world for property tests: few names, addresses and labels, so that everything meets everything.

use super::policies::{cluster_policy, policy};
use crate::object::forwarding::Forwarding;
use crate::object::*;
use crate::state::{DetectLocal, KernelRoute, Local, LocalEndpoint, ServiceOptions, State, Uplink};
use proptest::prelude::*;
use std::collections::BTreeMap;
use tables::{Addr, Mac, Prefix, Protocol};

/// Pods below this number are attached to this node.
pub const LOCAL_PODS: usize = 3;
pub const PODS: usize = 6;

pub fn addr(text: &str) -> Addr {
    text.parse().unwrap()
}

pub fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Step {
    Put(Object),
    Delete(ObjectKey),
    Attach(usize, bool),
    Detach(usize),
    Neighbour(Addr, Option<Mac>),
    KernelRoutes(Vec<KernelRoute>),
    Services(ServiceOptions),
    /// Compile and publish.
    Update,
}

/// What is true after some steps: plain lists, for the naive reading.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    pub objects: BTreeMap<ObjectKey, Object>,
    pub local: Local,
}

impl Truth {
    pub fn new() -> Truth {
        Truth { objects: BTreeMap::new(), local: local() }
    }

    pub fn step(&mut self, step: &Step) {
        match step.clone() {
            Step::Put(object) => {
                self.objects.insert(object.key(), object);
            }
            Step::Delete(key) => {
                self.objects.remove(&key);
            }
            Step::Attach(pod, both) => {
                self.local.endpoints.insert(attachment(pod), endpoint(pod, both));
            }
            Step::Detach(pod) => {
                self.local.endpoints.remove(&attachment(pod));
            }
            Step::Neighbour(addr, Some(mac)) => {
                self.local.neighbours.insert(addr, mac);
            }
            Step::Neighbour(addr, None) => {
                self.local.neighbours.remove(&addr);
            }
            Step::KernelRoutes(routes) => self.local.kernel_routes = routes,
            Step::Services(services) => self.local.services = services,
            Step::Update => {}
        }
    }
}

pub fn apply(state: &mut State, step: &Step) {
    match step.clone() {
        Step::Put(object) => state.apply(ObjectChange::Put(object)),
        Step::Delete(key) => state.apply(ObjectChange::Delete(key)),
        Step::Attach(pod, both) => state.attach(attachment(pod), endpoint(pod, both)),
        Step::Detach(pod) => state.detach(&attachment(pod)),
        Step::Neighbour(addr, mac) => state.set_neighbour(addr, mac),
        Step::KernelRoutes(routes) => state.set_kernel_routes(routes),
        Step::Services(services) => state.set_local(Local { services, ..state.local().clone() }),
        Step::Update => {}
    }
}

pub fn attachment(pod: usize) -> String {
    format!("container-{pod}/eth0")
}

pub fn pod_id(pod: usize) -> Named {
    Named::new(["a", "b"][pod % 2], format!("p{pod}"))
}

pub fn pod_addrs(pod: usize) -> [Addr; 2] {
    let node = if pod < LOCAL_PODS { 1 } else { 2 };
    [addr(&format!("10.{node}.0.{}", 4 + pod)), addr(&format!("fd00:{node}::{}", 4 + pod))]
}

fn endpoint(pod: usize, both: bool) -> LocalEndpoint {
    let addrs = pod_addrs(pod)[..1 + both as usize].to_vec();
    let id = pod as u32;
    LocalEndpoint {
        interface: 10 + id,
        owner: pod as u16 % 2,
        mac: Mac([2, 0, 0, 0, 0, pod as u8]),
        addrs,
        pod: pod_id(pod),
    }
}

/// This node.
pub fn local() -> Local {
    Local {
        node: "n1".into(),
        addrs: vec![addr("192.168.0.1"), addr("fd99::1")],
        gateway: [addr("10.1.0.1"), addr("fd00:1::1")],
        host: [addr("10.1.0.2"), addr("fd00:1::2")],
        snat: [addr("10.1.0.3"), addr("fd00:1::3")],
        gateway_mac: Mac([2, 0, 0, 0, 1, 1]),
        host_mac: Mac([2, 0, 0, 0, 1, 2]),
        encapsulation: crate::encapsulation::Encapsulation::Vxlan,
        vni: 1,
        tunnel_port: 4789,
        uplink: Uplink { interface: 1, mac: Mac([2, 0, 0, 0, 1, 3]), mtu: 1500 },
        host_interface: 2,
        host_owner: 1,
        workers: 2,
        cluster_cidrs: vec![prefix("10.0.0.0/8"), prefix("fd00::/16")],
        service_cidrs: vec![prefix("172.30.0.0/16"), prefix("fd30::/112")],
        ..Local::default()
    }
}

pub fn labels() -> impl Strategy<Value = Labels> {
    let value = || prop::sample::select(vec!["x", "y"]);
    (prop::option::of(value()), prop::option::of(value())).prop_map(|(app, tier)| {
        let pair = |key: &str, value: Option<&str>| Some((key.to_owned(), value?.to_owned()));
        [pair("app", app), pair("tier", tier)].into_iter().flatten().collect()
    })
}

pub fn protocol() -> impl Strategy<Value = Protocol> {
    prop::sample::select(vec![Protocol::TCP, Protocol::UDP])
}

pub fn namespace_name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b"])
}

pub fn namespace() -> impl Strategy<Value = Object> {
    (namespace_name(), labels()).prop_map(|(name, labels)| {
        Object::Namespace(Namespace {
            audit: false,
            pod_pool: None,
            name: name.into(),
            labels: parse::namespace_labels(name, &labels),
        })
    })
}

fn named_port() -> impl Strategy<Value = NamedPort> {
    (protocol(), 80u16..83).prop_map(|(protocol, port)| NamedPort { name: "http".into(), protocol, port })
}

fn host_port() -> impl Strategy<Value = HostPort> {
    let own = prop::option::of(prop::sample::select(["192.168.0.1", "fd99::1", "127.0.0.1", "::1"].map(addr).to_vec()));
    (own, protocol()).prop_map(|(addr, protocol)| HostPort { addr, port: 30_000, protocol, container_port: 81 })
}

fn options() -> impl Strategy<Value = ServiceOptions> {
    let ranges = prop::sample::subsequence(["192.0.2.0/24", "2001:db8::/32"].map(prefix).to_vec(), 0..=2);
    (any::<bool>(), any::<bool>(), ranges).prop_map(|(masquerade_all, detects, external_ip_ranges)| ServiceOptions {
        masquerade_all,
        detect_local: if detects { DetectLocal::ClusterCidr } else { DetectLocal::None },
        external_ip_ranges,
        ..ServiceOptions::default()
    })
}

pub fn pod() -> impl Strategy<Value = Object> {
    let flags = prop::array::uniform3(prop::bool::weighted(0.15));
    let ready = prop::bool::weighted(0.8);
    let node = prop::option::of(prop::sample::select(vec!["n1".to_owned(), "n2".to_owned()]));
    let place = (node, prop::option::weighted(0.3, host_port()));
    (0..PODS, 0..PODS, labels(), ready, flags, prop::option::of(named_port()), place).prop_map(
        |(pod, from, labels, ready, [terminating, finished, host_network], port, (node, host_port))| {
            Object::Pod(Pod {
                id: pod_id(pod).into(),
                labels,
                // Now and then another pod's addresses, or none yet.
                addrs: match from {
                    _ if from == pod => pod_addrs((pod + 1) % PODS).to_vec(),
                    0 | 1 => Vec::new(),
                    _ => pod_addrs(pod).to_vec(),
                },
                node: node.map(Into::into),
                host_network,
                ready,
                terminating,
                finished,
                ports: port.into_iter().collect(),
                host_ports: host_port.into_iter().collect(),
                addressing: None,
            })
        },
    )
}

/// How each case begins: with all pods, so that the rest has something to bear on.
pub fn prelude() -> impl Strategy<Value = Vec<Step>> {
    let attached = (0..LOCAL_PODS).map(|pod| Step::Attach(pod, true));
    let attached: Vec<Step> = attached.chain([Step::Update]).collect();
    prop::collection::vec(pod(), 2 * PODS).prop_map(move |pods| {
        let pods = pods.into_iter().map(Step::Put);
        pods.chain(attached.clone()).collect()
    })
}

pub fn cluster_ips() -> Vec<Addr> {
    // The last of each family is in a range that a ServiceCIDR object has added.
    ["172.30.0.1", "172.30.0.2", "198.18.0.1", "fd30::1", "fd31::1"].map(addr).to_vec()
}

pub fn external_ips() -> Vec<Addr> {
    ["192.0.2.1", "192.0.3.1", "2001:db8::99"].map(addr).to_vec()
}

fn service_port() -> impl Strategy<Value = ServicePort> {
    let target = prop_oneof![(80u16..83).prop_map(TargetPort::Number), Just(TargetPort::Name("http".into()))];
    let node_port = prop::option::weighted(0.4, Just(30_000));
    (80u16..82, protocol(), target, node_port).prop_map(|(port, protocol, target, node_port)| ServicePort {
        name: String::new(),
        port,
        protocol,
        target,
        node_port,
    })
}

fn traffic_policy() -> impl Strategy<Value = TrafficPolicy> {
    prop::sample::select(vec![TrafficPolicy::Cluster, TrafficPolicy::Cluster, TrafficPolicy::Local])
}

/// A service without its addresses.
fn plain_service() -> impl Strategy<Value = Service> {
    let ports = prop::collection::vec(service_port(), 1..3);
    let forwarding = prop::option::of(prop::sample::select(vec![Forwarding::Snat, Forwarding::Dsr]));
    let policies = (traffic_policy(), traffic_policy(), forwarding);
    let distribution = prop::sample::select(vec![Distribution::Any, Distribution::SameZone, Distribution::SameNode]);
    let rest = (prop::sample::select(vec![0u32, 60]), any::<bool>(), prop::option::of(Just(31_000)), distribution);
    (namespace_name(), 0..3, labels(), ports, policies, rest).prop_map(
        |(namespace, i, selector, mut ports, policies, (affinity_s, publish_not_ready, health_port, distribution))| {
            ports.iter_mut().enumerate().for_each(|(i, port)| port.name = format!("q{i}"));
            Service {
                id: Named::new(namespace, format!("s{i}")).into(),
                kind: ServiceKind::LoadBalancer,
                ports,
                selector,
                affinity_s,
                publish_not_ready,
                internal_policy: policies.0,
                external_policy: policies.1,
                forwarding: policies.2,
                health_port,
                distribution,
                ..Service::default()
            }
        },
    )
}

fn service() -> impl Strategy<Value = Object> {
    let ips = prop::sample::subsequence(cluster_ips(), 0..=2);
    let others = || prop::sample::subsequence(external_ips(), 0..=2);
    let ranges = prop::sample::subsequence(["203.0.113.0/24", "10.2.0.0/24", "fd00::/16"].map(prefix).to_vec(), 0..=3);
    (plain_service(), ips, others(), others(), ranges).prop_map(|(plain, cluster_ips, external, balanced, ranges)| {
        let families = [true, false].map(|v4| cluster_ips.iter().any(|addr| addr.is_v4() == v4));
        let own = |addrs: Vec<Addr>| addrs.into_iter().filter(|addr| families[!addr.is_v4() as usize]).collect();
        Object::Service(Service {
            families,
            external_ips: own(external),
            load_balancer_ips: own(balanced),
            source_ranges: if cluster_ips.is_empty() { Vec::new() } else { ranges },
            cluster_ips,
            ..plain
        })
    })
}

fn names(all: [&'static str; 2]) -> impl Strategy<Value = Vec<String>> {
    prop::sample::subsequence(all.map(str::to_owned).to_vec(), 0..=2)
}

fn slice() -> impl Strategy<Value = Object> {
    let node = prop::option::of(prop::sample::select(vec!["n1".to_owned(), "n2".to_owned()]));
    let place = (node, names(["z1", "z2"]), names(["n1", "n2"]));
    let endpoint = (0..PODS, any::<bool>(), prop::array::uniform3(any::<bool>()), place).prop_map(
        |(pod, v6, [ready, serving, terminating], (node, for_zones, for_nodes))| SliceEndpoint {
            addr: pod_addrs(pod)[v6 as usize],
            ready,
            serving,
            terminating,
            node,
            for_zones,
            for_nodes,
        },
    );
    let port = (0..2, protocol(), 80u16..83).prop_map(|(i, protocol, port)| SlicePort {
        name: format!("q{i}"),
        protocol,
        port,
    });
    let parts = (prop::collection::vec(endpoint, 0..4), prop::collection::vec(port, 0..3));
    (namespace_name(), 0..3, prop::option::weighted(0.9, 0..3), parts).prop_map(
        |(namespace, i, service, (endpoints, ports))| {
            let service = service.map(|s| format!("s{s}"));
            Object::EndpointSlice(EndpointSlice {
                id: Named::new(namespace, format!("e{i}")).into(),
                service,
                ports,
                endpoints,
            })
        },
    )
}

pub fn node() -> impl Strategy<Value = Object> {
    let addrs = prop::sample::subsequence(vec![addr("192.168.0.2"), addr("192.168.7.3"), addr("fd99::2")], 0..=2)
        .prop_shuffle();
    // Some lie within others, begin like others, or are too small for a node.
    let cidrs =
        ["10.1.0.0/24", "10.2.0.0/24", "10.2.0.0/25", "10.2.0.128/26", "10.3.0.0/24", "10.3.0.2/31", "fd00:2::/64"];
    let cidrs = prop::sample::subsequence(cidrs.map(prefix).to_vec(), 0..=2);
    let zone = prop::option::of(prop::sample::select(vec!["z1".to_owned(), "z2".to_owned()]));
    let external_addrs = prop::sample::subsequence(vec![addr("8.8.4.4"), addr("192.168.0.1"), addr("10.3.0.9")], 0..=1);
    (1..4, zone, (addrs, external_addrs), cidrs, labels()).prop_map(
        |(i, zone, (addrs, external_addrs), pod_cidrs, labels)| {
            Object::Node(Node {
                name: format!("n{i}"),
                zone,
                labels,
                addrs,
                external_addrs,
                pod_cidrs,
                inner_mac: None,
            })
        },
    )
}

fn kernel_routes() -> impl Strategy<Value = Vec<KernelRoute>> {
    let route =
        |(prefix_text, via): (&str, Option<&str>)| KernelRoute { prefix: prefix(prefix_text), via: via.map(addr) };
    let all = [
        ("192.168.0.0/24", None),
        ("0.0.0.0/0", Some("192.168.0.254")),
        ("192.168.7.0/24", Some("192.168.0.253")),
        ("8.8.8.0/24", Some("192.168.0.253")),
        ("fd99::/64", None),
        ("::/0", Some("fd99::fe")),
        ("172.30.0.0/16", None),
    ];
    prop::sample::subsequence(all.map(route).to_vec(), 0..=7)
}

fn neighbour() -> impl Strategy<Value = Step> {
    let addrs = ["192.168.0.2", "192.168.0.254", "192.168.0.253", "192.168.7.3", "fd99::2", "192.168.0.1"].map(addr);
    (prop::sample::select(addrs.to_vec()), prop::option::of(0u8..3))
        .prop_map(|(addr, mac)| Step::Neighbour(addr, mac.map(|last| Mac([2, 0, 0, 0, 9, last]))))
}

fn object() -> impl Strategy<Value = Object> {
    prop_oneof![
        1 => namespace(), 4 => pod(), 3 => service(), 3 => slice(), 3 => policy(), 2 => cluster_policy(), 2 => node()
    ]
}

pub fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => object().prop_map(Step::Put),
        4 => object().prop_map(|object| Step::Delete(object.key())),
        2 => (0..LOCAL_PODS, any::<bool>()).prop_map(|(pod, both)| Step::Attach(pod, both)),
        1 => (0..LOCAL_PODS).prop_map(Step::Detach),
        1 => neighbour(),
        1 => kernel_routes().prop_map(Step::KernelRoutes),
        1 => options().prop_map(Step::Services),
        5 => Just(Step::Update),
    ]
}

/// Every address worth asking about.
pub fn addrs() -> Vec<Addr> {
    let others = [
        "10.1.0.1",
        "10.1.0.2",
        "10.1.0.3",
        "10.1.0.200",
        "10.2.0.2",
        "10.2.0.130",
        "10.2.0.140",
        "10.2.0.200",
        "10.3.0.3",
        "10.3.0.7",
        "10.3.0.9",
        "fd00:2::3",
        "fd00:2::77",
        "127.0.0.1",
        "::1",
        "192.168.0.1",
        "192.168.0.2",
        "192.168.7.3",
        "192.168.0.254",
        "8.8.8.8",
        "8.8.4.4",
        "8.8.1.1",
        "1.1.1.1",
        "fd99::1",
        "fd99::2",
        "fd99::77",
        "2001:db8::1",
        "172.30.0.77",
        "fd30::77",
    ];
    let pods = (0..PODS).flat_map(pod_addrs);
    pods.chain(others.map(addr)).chain(cluster_ips()).chain(external_ips()).collect()
}
