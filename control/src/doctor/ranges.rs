//! Whether addresses are unambiguous: pod ranges, service ranges, nodes' own addresses, and what other devices of this node
//! lead to; and whether the tunnels' UDP port is free, and ports are left for the node itself.

use super::{Diagnosis, Patient};
use crate::encapsulation::Encapsulation;
use crate::netlink::{Netlink, NetlinkError};
use crate::node::HOST_DEVICE;
use crate::object::Node;
use crate::reserve::Shortage;
use std::fs;
use tables::Prefix;

const CHECK: &str = "ranges";

/// A range, and what it is in a sentence.
type Range = (Prefix, String);

pub async fn check(patient: &Patient, nodes: &[Node], netlink: &Netlink, diagnosis: &mut Diagnosis) {
    let (pods, services) = (pod_ranges(nodes), service_ranges(patient));
    let before = diagnosis.findings.len();
    check_node(patient, nodes, diagnosis);
    check_objects(patient, nodes, &pods, &services, diagnosis);
    match foreign_routes(netlink, patient).await {
        Ok(routes) => check_routes(&routes, &pods, &services, patient, diagnosis),
        Err(error) => diagnosis.wrong(CHECK, error, "run it as root"),
    }
    if diagnosis.findings.len() == before {
        let sizes = format!("{} pod ranges, {} service ranges", pods.len(), services.len());
        diagnosis.fact(CHECK, format!("{sizes} and {} nodes do not overlap", nodes.len()));
    }
    check_port(patient, diagnosis);
    check_local_ports(patient, diagnosis);
}

fn pod_ranges(nodes: &[Node]) -> Vec<Range> {
    let of = |node: &Node| {
        node.pod_cidrs
            .iter()
            .map(|range| (*range, format!("the pod range {range} of node {}", node.name)))
            .collect::<Vec<_>>()
    };
    nodes.iter().flat_map(of).collect()
}

fn service_ranges(patient: &Patient) -> Vec<Range> {
    patient.service_cidrs.iter().map(|range| (*range, format!("the service range {range}"))).collect()
}

fn overlap(one: &Prefix, other: &Prefix) -> bool {
    one.covers(other) || other.covers(one)
}

fn check_node(patient: &Patient, nodes: &[Node], diagnosis: &mut Diagnosis) {
    let Some(name) = &patient.node else { return };
    let has_objects = patient.server.is_some() || !nodes.is_empty();
    match nodes.iter().find(|node| node.name == *name) {
        None if has_objects => diagnosis.wrong(
            CHECK,
            format!("there is no Node object {name:?}, so no pod here gets an address"),
            "give --node the name that `kubectl get nodes` shows",
        ),
        Some(node) if node.pod_cidrs.is_empty() => diagnosis.wrong(
            CHECK,
            format!("Node {name} has no pod range, so no pod here gets an address"),
            "have the controller manager give ranges: --allocate-node-cidrs and --cluster-cidr",
        ),
        _ => {}
    }
}

fn check_objects(patient: &Patient, nodes: &[Node], pods: &[Range], services: &[Range], diagnosis: &mut Diagnosis) {
    let advice = "give each its own: a packet to an address of both can be meant for either";
    let cluster = patient.cluster_cidrs.iter().map(|range| (*range, format!("the cluster range {range}")));
    let outer: Vec<Range> = pods.iter().cloned().chain(cluster).collect();
    for (i, (range, name)) in pods.iter().enumerate() {
        for (_, other) in pods[i + 1..].iter().filter(|(other, _)| overlap(range, other)) {
            diagnosis.wrong(CHECK, format!("{name} overlaps {other}"), advice);
        }
    }
    for (range, name) in services {
        for (_, other) in outer.iter().filter(|(other, _)| overlap(range, other)) {
            diagnosis.wrong(CHECK, format!("{name} overlaps {other}"), advice);
        }
    }
    for (addr, node) in nodes.iter().flat_map(|node| node.addrs.iter().map(move |addr| (*addr, &node.name))) {
        for (_, other) in outer.iter().chain(services).filter(|(range, _)| range.contains(addr)) {
            diagnosis.wrong(CHECK, format!("the address {addr} of node {node} lies in {other}"), advice);
        }
    }
}

/// Where the node's other devices lead: (destination, device).
async fn foreign_routes(netlink: &Netlink, patient: &Patient) -> Result<Vec<(Prefix, String)>, NetlinkError> {
    let mut found = Vec::new();
    for link in netlink.links().await? {
        let is_own = link.name == HOST_DEVICE || Some(&link.name) == patient.uplink.as_ref() || link.name == "lo";
        if !is_own {
            let routes = netlink.routes_by(link.index).await?;
            found.extend(routes.into_iter().map(|route| (route.to, link.name.clone())));
        }
    }
    Ok(found)
}

/// A default route is no claim to anything.
fn check_routes(
    routes: &[(Prefix, String)],
    pods: &[Range],
    services: &[Range],
    patient: &Patient,
    diagnosis: &mut Diagnosis,
) {
    let cluster = patient.cluster_cidrs.iter().map(|range| (*range, format!("the cluster range {range}")));
    let ours: Vec<Range> = pods.iter().chain(services).cloned().chain(cluster).collect();
    let is_link_local = |to: &Prefix| to.to_string().starts_with("fe80:") || to.to_string().starts_with("ff");
    for (to, device) in routes.iter().filter(|(to, _)| to.length() > 0 && !is_link_local(to)) {
        if let Some((_, name)) = ours.iter().find(|(range, _)| overlap(range, to)) {
            let what = format!("{device} of this node has a route to {to}, which overlaps {name}");
            let advice = format!(
                "if {device} is another network plugin's or a container engine's, take that off the node (ip link delete {device}); else give it other addresses"
            );
            diagnosis.wrong(CHECK, what, advice);
        }
    }
}

/// Another tunnel device or program that has the port gets the packets that the XDP program passes, and answers for them.
fn check_port(patient: &Patient, diagnosis: &mut Diagnosis) {
    let (port, has_port) =
        (patient.tunnel_port, matches!(patient.encapsulation, Encapsulation::Vxlan | Encapsulation::Geneve));
    if !has_port {
        return;
    }
    let holds = |file: &str| {
        fs::read_to_string(format!("/proc/thread-self/net/{file}")).is_ok_and(|text| has_socket(&text, port))
    };
    if ["udp", "udp6"].iter().any(|file| holds(file)) {
        let what = format!("UDP port {port}, which Fairway's tunnels use, is taken on this node");
        let advice = format!(
            "find who has it (ss -ulpn 'sport = :{port}'; without a process it is a kernel tunnel: ip -d link show type vxlan) and remove that, or give --tunnel-port"
        );
        return diagnosis.wrong("tunnel-port", what, advice);
    }
    diagnosis.fact("tunnel-port", format!("UDP port {port} is free"));
}

/// The kernel gives none of ours to the node's own sockets.
fn check_local_ports(patient: &Patient, diagnosis: &mut Diagnosis) {
    let Some(snat) = &patient.snat_ports else { return };
    match Shortage::check(snat) {
        Ok(()) => diagnosis.fact("local-ports", "the node's own connections have ports of their own"),
        Err(shortage) => diagnosis.wrong("local-ports", shortage, Shortage::ADVICE),
    }
}

/// As in /proc/net/udp: the second field is the local address and port.
fn has_socket(table: &str, port: u16) -> bool {
    let of_line =
        |line: &str| line.split_whitespace().nth(1)?.rsplit_once(':').map(|(_, port)| u16::from_str_radix(port, 16));
    table.lines().skip(1).filter_map(of_line).any(|found| found == Ok(port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, range: &str, addr: &str) -> Node {
        let (pod_cidrs, addrs) = (vec![range.parse().unwrap()], vec![addr.parse().unwrap()]);
        Node { name: name.to_owned(), pod_cidrs, addrs, ..Node::default() }
    }

    fn found(nodes: &[Node], services: &str, routes: &[(&str, &str)]) -> Vec<String> {
        let (patient, mut diagnosis) = (
            Patient {
                service_cidrs: vec![services.parse().unwrap()],
                node: Some("a".to_owned()),
                ..Patient::default()
            },
            Diagnosis::default(),
        );
        let (pods, ranges) = (pod_ranges(nodes), service_ranges(&patient));
        check_node(&patient, nodes, &mut diagnosis);
        check_objects(&patient, nodes, &pods, &ranges, &mut diagnosis);
        let routes: Vec<_> = routes.iter().map(|(to, device)| (to.parse().unwrap(), device.to_string())).collect();
        check_routes(&routes, &pods, &ranges, &patient, &mut diagnosis);
        diagnosis.findings.into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn every_overlap_is_named_and_nothing_else() {
        let well = [node("a", "10.1.1.0/24", "192.168.0.1"), node("b", "10.1.2.0/24", "192.168.0.2")];
        let others = [("0.0.0.0/0", "eth9"), ("192.168.7.0/24", "eth9"), ("fe80::/64", "eth9")];
        assert_eq!(found(&well, "172.30.0.0/16", &others), [""; 0]);
        let twice = [node("a", "10.1.0.0/16", "192.168.0.1"), node("b", "10.1.2.0/24", "192.168.0.2")];
        assert_eq!(
            found(&twice, "172.30.0.0/16", &[]),
            ["the pod range 10.1.0.0/16 of node a overlaps the pod range 10.1.2.0/24 of node b"]
        );
        assert!(
            found(&well, "10.1.0.0/16", &[])[0].starts_with("the service range 10.1.0.0/16 overlaps the pod range")
        );
        let inside = [node("a", "10.1.1.0/24", "10.1.1.7")];
        assert!(
            found(&inside, "172.30.0.0/16", &[])[0].contains("the address 10.1.1.7 of node a lies in the pod range")
        );
        let flannel = found(&well, "172.30.0.0/16", &[("10.1.2.0/24", "flannel.1")]);
        assert!(flannel[0].starts_with("flannel.1 of this node has a route to 10.1.2.0/24"), "{flannel:?}");
        assert!(
            found(&[node("b", "10.1.2.0/24", "192.168.0.2")], "172.30.0.0/16", &[])[0].contains("no Node object \"a\"")
        );
    }

    #[test]
    fn a_port_is_taken_by_a_socket_of_its_number() {
        let table = "  sl  local_address rem_address\n  1: 00000000:12B5 00000000:0000 07 0\n";
        assert!(has_socket(table, 4789) && !has_socket(table, 4790) && !has_socket("", 4789));
    }
}
