use super::*;
use crate::object::forwarding::Forwarding;
use crate::object::selector::Test;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use serde_json::{Value, json};
use tables::policy::Direction;

fn refused<T: std::fmt::Debug>(outcome: Result<T, FieldError>) -> String {
    outcome.unwrap_err().to_string()
}

fn service(spec: Value) -> Result<Service, FieldError> {
    let value =
        json!({"metadata": {"name": "s", "namespace": "a"}, "spec": spec, "apiVersion": "v1", "kind": "Service"});
    serde_json::from_value::<core::Service>(value).unwrap().try_into()
}

fn policy(spec: Value) -> Result<NetworkPolicy, FieldError> {
    let meta = json!({"name": "n"});
    let value = json!({"metadata": meta, "spec": spec, "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"});
    serde_json::from_value::<networking::NetworkPolicy>(value).unwrap().try_into()
}

fn pod(spec: Value, status: Value) -> Pod {
    let value = json!({"metadata": {"name": "p"}, "spec": spec, "status": status, "apiVersion": "v1", "kind": "Pod"});
    serde_json::from_value::<core::Pod>(value).unwrap().try_into().unwrap()
}

#[test]
fn which_services_have_addresses() {
    let ips = |spec| service(spec).unwrap().cluster_ips.iter().map(ToString::to_string).collect::<Vec<_>>();
    let dual = json!({"clusterIP": "172.30.0.1", "clusterIPs": ["172.30.0.1", "fd30::1"], "type": "LoadBalancer"});
    assert_eq!(ips(dual), ["172.30.0.1", "fd30::1"]);
    assert_eq!(ips(json!({"clusterIP": "None", "clusterIPs": ["None"]})), [""; 0]);
    assert_eq!(ips(json!({"clusterIP": "172.30.0.1", "type": "ExternalName"})), [""; 0]);
    assert_eq!(ips(json!({})), [""; 0]);
}

#[test]
fn a_service_says_how_it_is_balanced_in_annotations() {
    let read = |algorithm: &str, weights: &str| {
        Service::try_from(core::Service {
            metadata: ObjectMeta {
                name: Some("web".into()),
                namespace: Some("shop".into()),
                annotations: Some(
                    [("fairway.dev/load-balancing", algorithm), ("fairway.dev/weights", weights)]
                        .map(|(key, value)| (key.to_owned(), value.to_owned()))
                        .into(),
                ),
                ..ObjectMeta::default()
            },
            ..core::Service::default()
        })
    };
    let balancing = read("wrr", "10.2.0.7=3").unwrap().balancing;
    assert_eq!(balancing.algorithm, Some(tables::service::Algorithm::RoundRobin));
    assert_eq!(balancing.weights, [("10.2.0.7/32".parse().unwrap(), 3)]);
    let refused = |algorithm, weights| read(algorithm, weights).unwrap_err().to_string();
    assert!(
        refused("nq", "").contains("fairway.dev/load-balancing") && refused("nq", "").contains("least-connections")
    );
    assert!(refused("rr", "x").contains("fairway.dev/weights"));
}

#[test]
fn a_service_says_how_clients_outside_reach_backends_elsewhere() {
    let read = |forwarding: &str| {
        let (name, namespace) = (Some("web".into()), Some("shop".into()));
        let annotations = Some([("fairway.dev/forwarding".to_owned(), forwarding.to_owned())].into());
        let metadata = ObjectMeta { name, namespace, annotations, ..ObjectMeta::default() };
        Service::try_from(core::Service { metadata, ..core::Service::default() })
    };
    assert_eq!(read("dsr").unwrap().forwarding, Some(Forwarding::Dsr));
    assert_eq!(read("snat").unwrap().forwarding, Some(Forwarding::Snat));
    let refused = read("DSR").unwrap_err().to_string();
    assert!(refused.contains("fairway.dev/forwarding") && refused.contains("neither snat nor dsr"), "{refused}");
}

#[test]
fn service_ports_and_affinity_take_the_apis_defaults() {
    let parsed = service(json!({"ports": [{"port": 80}], "sessionAffinity": "ClientIP"})).unwrap();
    let target = TargetPort::Number(80);
    let port = ServicePort { name: String::new(), port: 80, protocol: Protocol::TCP, target, node_port: None };
    assert_eq!((parsed.ports, parsed.affinity_s), (vec![port], 10_800));
    let named = service(json!({"ports": [{"port": 80, "targetPort": "web", "protocol": "UDP"}]})).unwrap();
    assert_eq!(named.ports[0].target, TargetPort::Name("web".into()));
}

fn addresses(spec: Value, status: Value, labels: Value) -> Service {
    let value = json!({"metadata": {"name": "s", "labels": labels}, "spec": spec, "status": status, "apiVersion": "v1",
        "kind": "Service"});
    Service::try_from(serde_json::from_value::<core::Service>(value).unwrap()).unwrap()
}

#[test]
fn addresses_outside_are_of_the_services_families_and_not_a_proxys() {
    let spec = json!({"type": "LoadBalancer", "clusterIP": "172.30.0.041", "ipFamilies": ["IPv4"],
        "externalIPs": ["192.000.002.011", "2001:db8::1"], "loadBalancerSourceRanges": [" 203.0.113.0/25 "],
        "ports": [{"port": 80, "nodePort": 0}], "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000});
    let ingress = json!([{"ip": "198.51.100.010"}, {"ip": "198.51.100.20", "ipMode": "Proxy"},
        {"ip": "198.51.100.30", "ipMode": "VIP"}, {"hostname": "a.example"}, {"ip": "2001:db8::2"}]);
    let status = json!({"loadBalancer": {"ingress": ingress}});
    let read = addresses(spec.clone(), status.clone(), json!({}));
    let texts = |addrs: &[Addr]| addrs.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(texts(&read.cluster_ips), ["172.30.0.41"]);
    assert_eq!(texts(&read.external_ips), ["192.0.2.11"]);
    assert_eq!(texts(&read.load_balancer_ips), ["198.51.100.10", "198.51.100.30"]);
    assert_eq!((read.families, read.source_ranges.len()), ([true, false], 1));
    assert_eq!((read.external_policy, read.internal_policy), (TrafficPolicy::Local, TrafficPolicy::Cluster));
    assert_eq!((read.ports[0].node_port, read.health_port), (None, Some(31000)));
    for label in ["service.kubernetes.io/headless", "service.kubernetes.io/service-proxy-name"] {
        let others = addresses(spec.clone(), status.clone(), json!({label: "x"}));
        assert!(others.cluster_ips.is_empty() && others.external_ips.is_empty() && others.load_balancer_ips.is_empty());
    }
}

#[test]
fn host_ports_are_of_pods_that_have_a_network_of_their_own() {
    let ports = json!([{"containerPort": 80, "hostPort": 8080, "hostIP": "192.168.0.1"}, {"containerPort": 81},
        {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "0.0.0.0"}]);
    let read = |network: bool| {
        pod(json!({"hostNetwork": network, "containers": [{"name": "c", "ports": ports.clone()}]}), json!({}))
            .host_ports
    };
    let one = HostPort {
        addr: Some("192.168.0.1".parse().unwrap()),
        port: 8080,
        protocol: Protocol::TCP,
        container_port: 80,
    };
    let other = HostPort { addr: None, port: 53, protocol: Protocol::UDP, container_port: 53 };
    assert_eq!((read(false), read(true)), (vec![one, other], vec![]));
}

#[test]
fn wrong_service_values_name_their_field() {
    let wrong = |spec| refused(service(spec));
    assert_eq!(wrong(json!({"ports": [{"port": 0}]})), "spec.ports[0].port: 0 is not a port: 1 to 65535 is expected");
    assert!(wrong(json!({"ports": [{"port": 1, "protocol": "tcp"}]})).starts_with("spec.ports[0].protocol: \"tcp\""));
    assert!(wrong(json!({"ports": [{"port": 1}, {"port": 2}]})).starts_with("spec.ports[0].name: is missing"));
    assert!(wrong(json!({"clusterIPs": ["172.30.0.1", "x"]})).starts_with("spec.clusterIPs[1]: \"x\""));
    assert!(wrong(json!({"sessionAffinity": "Client"})).starts_with("spec.sessionAffinity"));
    assert!(wrong(json!({"externalTrafficPolicy": "local"})).starts_with("spec.externalTrafficPolicy: \"local\""));
    let ranges = json!({"type": "LoadBalancer", "clusterIP": "172.30.0.1", "loadBalancerSourceRanges": ["10.0.0.0"]});
    assert!(wrong(ranges).starts_with("spec.loadBalancerSourceRanges[0]: \"10.0.0.0\" is not a CIDR"));
}

#[test]
fn a_pod_is_ready_unless_it_says_otherwise() {
    let ready = |status| pod(json!({"containers": []}), status).ready;
    assert!(ready(json!({})));
    assert!(ready(json!({"conditions": [{"type": "Ready", "status": "True"}]})));
    assert!(!ready(json!({"conditions": [{"type": "Ready", "status": "Unknown"}]})));
}

#[test]
fn a_pods_addresses_and_named_ports() {
    let port = |name: &str, number: u16| json!({"name": name, "containerPort": number});
    let containers =
        json!([{"name": "a", "ports": [port("web", 80), port("web", 81)]}, {"name": "b", "ports": [port("x", 9)]}]);
    let parsed = pod(
        json!({"containers": containers}),
        json!({"podIP": "10.1.0.4", "podIPs": [{"ip": "10.1.0.4"}, {"ip": "fd00::4"}]}),
    );
    assert_eq!(parsed.addrs.len(), 2);
    let ports: Vec<_> = parsed.ports.iter().map(|p| (p.name.as_str(), p.port)).collect();
    assert_eq!(ports, [("web", 80), ("x", 9)]);
    assert_eq!(*parsed.id, Named::new("default", "p"));
}

#[test]
fn directions_default_as_the_api_says() {
    let isolates = |spec| policy(spec).unwrap().rules.map(|rules| rules.is_some());
    assert_eq!(isolates(json!({"podSelector": {}})), [true, false]);
    assert_eq!(isolates(json!({"podSelector": {}, "egress": [{}]})), [true, true]);
    assert_eq!(isolates(json!({"podSelector": {}, "policyTypes": ["Egress"], "ingress": [{}]})), [false, true]);
    assert!(refused(policy(json!({"policyTypes": ["ingress"]}))).starts_with("spec.policyTypes[0]"));
}

#[test]
fn peers_and_ports_of_a_policy() {
    let rule = json!({
        "from": [
            {"podSelector": {"matchLabels": {"app": "x"}}},
            {"namespaceSelector": {"matchExpressions": [{"key": "env", "operator": "NotIn", "values": ["prod"]}]}},
            {"ipBlock": {"cidr": "2001:db8::/32", "except": ["2001:db8:1::/48"]}}
        ],
        "ports": [{"port": 80, "endPort": 90}, {"protocol": "UDP"}, {"port": "web"}]
    });
    let parsed = policy(json!({"podSelector": {}, "ingress": [rule]})).unwrap();
    let rule = &parsed.rules[Direction::Ingress as usize].as_ref().unwrap()[0];
    let Peer::Pods { namespaces: Some(namespaces), pods } = &rule.peers[1] else { panic!("{:?}", rule.peers[1]) };
    assert_eq!(namespaces.0[0].test, Test::NotIn(vec!["prod".into()]));
    assert!(pods.0.is_empty() && matches!(rule.peers[2], Peer::Block { .. }));
    let ranges: Vec<_> = rule.ports.iter().map(|p| p.port.clone()).collect();
    let expected = [PortRange::Numbers(80, 90), PortRange::Numbers(0, 65535), PortRange::Name("web".into())];
    assert_eq!(ranges, expected);
}

#[test]
fn wrong_policy_values_name_their_field() {
    let wrong = |rule| refused(policy(json!({"podSelector": {}, "egress": [rule]})));
    let at = "spec.egress[0]";
    for (rule, expected) in [
        (json!({"to": [{}]}), "to[0]: names no peer"),
        (json!({"to": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}), "to[0].ipBlock.cidr: \"10.0.0.0/33\""),
        (
            json!({"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}),
            "to[0].ipBlock.except[0]: 11.0.0.0/16 does not lie",
        ),
        (json!({"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}), "to[0].ipBlock: must not"),
        (json!({"ports": [{"port": 90, "endPort": 80}]}), "ports[0].endPort: 80 is below"),
        (json!({"ports": [{"port": "web", "endPort": 80}]}), "ports[0].endPort: needs a numeric"),
        (json!({"ports": [{"protocol": "ICMP"}]}), "ports[0].protocol: \"ICMP\""),
        (
            json!({"to": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}]}),
            "to[0].podSelector.matchExpressions[0].values: must hold",
        ),
        (
            json!({"to": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "in"}]}}]}),
            "to[0].podSelector.matchExpressions[0].operator: \"in\"",
        ),
    ] {
        let text = wrong(rule);
        assert!(text.starts_with(&format!("{at}.{expected}")), "{text}");
    }
}

#[test]
fn slices_take_nil_conditions_as_the_api_says_and_check_families() {
    let slice = |family: &str, endpoints: Value| {
        let meta = json!({"name": "e", "labels": {"kubernetes.io/service-name": "s"}});
        let value = json!({"metadata": meta, "addressType": family, "endpoints": endpoints, "ports": [{"port": 80}],
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice"});
        EndpointSlice::try_from(serde_json::from_value::<discovery::EndpointSlice>(value).unwrap())
    };
    let parsed =
        slice("IPv6", json!([{"addresses": ["fd00::1"]}, {"addresses": ["fd00::2"], "conditions": {"ready": false}}]))
            .unwrap();
    let conditions: Vec<_> = parsed.endpoints.iter().map(|e| (e.ready, e.serving, e.terminating)).collect();
    assert_eq!(conditions, [(true, true, false), (false, true, false)]);
    assert_eq!(parsed.service.as_deref(), Some("s"));
    let text = refused(slice("IPv4", json!([{"addresses": ["fd00::1"]}])));
    assert!(text.starts_with("endpoints[0].addresses[0]: fd00::1 is not of"), "{text}");
    assert!(refused(slice("ipv4", json!([]))).starts_with("addressType"));
    assert!(slice("FQDN", json!([{"addresses": ["a.example"]}])).unwrap().endpoints.is_empty());
    // As of services: endpoints that are another's to serve, or nobody's.
    for label in ["service.kubernetes.io/headless", "service.kubernetes.io/service-proxy-name"] {
        let metadata = json!({"name": "s", "namespace": "a", "labels": {label: ""}});
        let text = json!({"metadata": metadata, "addressType": "IPv4", "endpoints": [{"addresses": ["10.1.0.4"]}],
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice"});
        let read = serde_json::from_value::<discovery::EndpointSlice>(text).unwrap();
        assert!(EndpointSlice::try_from(read).unwrap().endpoints.is_empty(), "{label}");
    }
}

#[test]
fn a_nodes_ranges_and_addresses() {
    let node = |spec: Value, addresses: Value| {
        let value = json!({"metadata": {"name": "n"}, "spec": spec, "status": {"addresses": addresses}, "apiVersion": "v1", "kind": "Node"});
        Node::try_from(serde_json::from_value::<core::Node>(value).unwrap())
    };
    let addresses = json!([{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "fd99::1"}]);
    let parsed = node(json!({"podCIDR": "10.1.0.0/24"}), addresses).unwrap();
    assert_eq!((parsed.addrs.len(), parsed.pod_cidrs.len()), (1, 1));
    assert_eq!(parsed.inner_mac, None);
    assert!(refused(node(json!({"podCIDRs": ["10.1.0.0/24", "x"]}), json!([]))).starts_with("spec.podCIDRs[1]"));
    let wrong = json!([{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "n"}]);
    assert!(refused(node(json!({}), wrong)).starts_with("status.addresses[1].address"));
}

#[test]
fn what_flannel_says_of_a_node_is_heard_if_it_is_of_vxlan() {
    let of = |said: &str| {
        let annotations = Some([("flannel.alpha.coreos.com/backend-data".to_owned(), said.to_owned())].into());
        let metadata = ObjectMeta { name: Some("n".to_owned()), annotations, ..ObjectMeta::default() };
        Node::try_from(core::Node { metadata, ..core::Node::default() }).unwrap().inner_mac.map(|mac| mac.to_string())
    };
    assert_eq!(of(r#"{"VNI":1,"VtepMAC":"9e:6b:2c:d0:41:17"}"#).as_deref(), Some("9e:6b:2c:d0:41:17"));
    for other in ["null", r#"{"PublicKey":"x"}"#, r#"{"VtepMAC":7}"#, "{", r#"{"VtepMAC":"x"}"#] {
        assert_eq!(of(other), None, "{other}");
    }
}
