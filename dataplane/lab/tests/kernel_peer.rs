//! A plain Linux vxlan device as another node: what Fairway sends, the kernel understands, and the other way round.

use std::time::Duration;

use lab::addressing::{assignment, host_part};
use lab::netns::Netns;
use lab::shell::Cmd;
use lab::{Families, Lab, Options};

/// The third node: a kernel with one pod address of its own.
struct Peer {
    families: Families,
    address: &'static str,
    /// Its Ethernet address inside tunnels.
    mac: &'static str,
    pod: &'static str,
    range: &'static str,
    /// Of node-1: its address outside, its Ethernet address inside tunnels, its pods' gateway and range.
    node: [&'static str; 4],
    mtu: u32,
    /// Over IPv6 Fairway's outer checksum is zero, which RFC 6935 allows and this kernel has to be told.
    checksums: &'static str,
}

const OVER_IPV4: Peer = Peer {
    families: Families::Ipv4,
    address: "172.18.0.13",
    mac: "02:fa:ac:12:00:0d",
    pod: "10.244.3.4",
    range: "10.244.3.0/24",
    node: ["172.18.0.11", "02:fa:ac:12:00:0b", "10.244.1.1", "10.244.1.0/24"],
    mtu: 1450,
    checksums: "",
};

const OVER_IPV6: Peer = Peer {
    families: Families::Ipv6,
    address: "fd00:18::d",
    mac: "02:fa:00:00:00:0d",
    pod: "fd00:10:244:3::4",
    range: "fd00:10:244:3::/64",
    node: ["fd00:18::b", "02:fa:00:00:00:0b", "fd00:10:244:1::1", "fd00:10:244:1::/64"],
    mtu: 1430,
    checksums: "udp6zerocsumrx",
};

/// A node without Fairway: a vxlan device, static neighbours and routes, a server on a pod address of its own.
fn kernel_node(lab: &mut Lab, peer: &Peer) -> Netns {
    let netns = Netns::create(&format!("{}kernel", lab.guard().prefix())).expect("a namespace");
    lab.fabric().connect("kernel", &netns, "eth0", 1).expect("a link into the fabric");
    let Peer { address, mac, pod, node: [node, node_mac, gateway, range], mtu, .. } = peer;
    for setup in [
        format!("address add {} dev eth0", assignment(address.parse().expect("an address"))),
        format!(
            "link add vxlan0 address {mac} mtu {mtu} type vxlan id 1 dstport 4789 local {address} nolearning {}",
            peer.checksums
        ),
        "link set vxlan0 up".into(),
        format!("address add {pod} dev lo"),
        format!("neigh add {gateway} lladdr {node_mac} dev vxlan0"),
        format!("route add {range} via {gateway} dev vxlan0 onlink src {pod}"),
    ] {
        netns.ip(&setup).unwrap_or_else(|error| panic!("ip {setup}: {error:#}"));
    }
    let entry = format!("bridge fdb append {node_mac} dev vxlan0 dst {node}");
    Cmd::line(&entry).netns(&netns).ok().expect("a forwarding entry");
    let addresses = [address.parse().expect("an address")];
    let manifest = lab::manifests::node("node-3", &addresses, &[peer.range.into()]);
    lab.objects().apply("node-node-3", &manifest).expect("the node's object");
    lab.serve("kernel", &netns).expect("a server");
    netns
}

fn curl(from: &Netns, address: &str) -> String {
    let url = format!("http://{}:8080/", host_part(address.parse().expect("an address")));
    let command = Cmd::line("curl -sS --max-time 5").arg(&url).netns(from).limit(Duration::from_secs(10));
    command.ok().unwrap_or_else(|error| panic!("curl {url}: {error:#}")).stdout
}

fn reach_each_other(peer: &Peer) {
    let _one = lab::one_at_a_time();
    let mut lab = Lab::start(&Options { families: peer.families, ..Options::default() }).expect("the lab comes up");
    let kernel = kernel_node(&mut lab, peer);
    lab.add_pod("alice", 0, &[]).expect("a pod");
    lab.settle().expect("tables in force");
    let alice = lab.pod("alice").expect("alice");
    let (address, pod) = (alice.address().to_string(), peer.pod);
    let seen = curl(alice.netns(), pod);
    assert!(seen.contains("kernel") && seen.contains(&address), "the kernel's server saw: {seen}");
    let seen = curl(&kernel, &address);
    assert!(seen.contains("alice") && seen.contains(pod), "alice's server saw: {seen}");
    let iperf = Cmd::line("iperf3 -s -1 -D -B").arg(pod).netns(&kernel);
    iperf.ok().expect("an iperf3 server");
    let run = Cmd::line("iperf3 -t 1 -J -c").arg(pod).netns(alice.netns()).limit(Duration::from_secs(20));
    let told: serde_json::Value = serde_json::from_str(&run.ok().expect("iperf3").stdout).expect("JSON");
    let received = told["end"]["sum_received"]["bytes"].as_u64().unwrap_or(0);
    assert!(received > 1_000_000, "bulk TCP into the kernel's vxlan device: {received} bytes in 1 s");
}

#[test]
fn a_kernel_vxlan_node_and_a_fairway_node_reach_each_other() {
    reach_each_other(&OVER_IPV4);
}

#[test]
fn a_kernel_vxlan_node_and_a_fairway_node_reach_each_other_over_ipv6() {
    reach_each_other(&OVER_IPV6);
}
