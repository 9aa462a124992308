//! A plain Linux vxlan device as another node: what Fairway sends, the kernel understands, and the other way round.

use std::time::Duration;

use lab::netns::Netns;
use lab::shell::Cmd;
use lab::{Lab, Options};

const ADDRESS: &str = "172.18.0.13";
const POD: &str = "10.244.3.4";

/// A node without Fairway: a vxlan device, static neighbours and routes, a server on a pod address of its own.
fn kernel_node(lab: &mut Lab) -> Netns {
    let netns = Netns::create(&format!("{}kernel", lab.guard().prefix())).expect("a namespace");
    lab.fabric().connect("kernel", &netns, "eth0", 1).expect("a link into the fabric");
    for setup in [
        format!("address add {ADDRESS}/24 dev eth0"),
        format!(
            "link add vxlan0 address 02:fa:ac:12:00:0d mtu 1450 type vxlan id 1 dstport 4789 local {ADDRESS} nolearning"
        ),
        "link set vxlan0 up".into(),
        format!("address add {POD}/32 dev lo"),
        // node-1: 172.18.0.11 inside tunnels.
        "neigh add 10.244.1.1 lladdr 02:fa:ac:12:00:0b dev vxlan0".into(),
        format!("route add 10.244.1.0/24 via 10.244.1.1 dev vxlan0 onlink src {POD}"),
    ] {
        netns.ip(&setup).unwrap_or_else(|error| panic!("ip {setup}: {error:#}"));
    }
    let entry = "bridge fdb append 02:fa:ac:12:00:0b dev vxlan0 dst 172.18.0.11";
    Cmd::line(entry).netns(&netns).ok().expect("a forwarding entry");
    let manifest = lab::manifests::node("node-3", &[ADDRESS.parse().expect("an address")], &["10.244.3.0/24".into()]);
    lab.objects().apply("node-node-3", &manifest).expect("the node's object");
    lab.serve("kernel", &netns).expect("a server");
    netns
}

fn curl(from: &Netns, url: &str) -> String {
    let command = Cmd::line("curl -sS --max-time 5").arg(url).netns(from).limit(Duration::from_secs(10));
    command.ok().unwrap_or_else(|error| panic!("curl {url}: {error:#}")).stdout
}

#[test]
fn a_kernel_vxlan_node_and_a_fairway_node_reach_each_other() {
    let _one = lab::one_at_a_time();
    let mut lab = Lab::start(&Options::default()).expect("the lab comes up");
    let kernel = kernel_node(&mut lab);
    lab.add_pod("alice", 0, &[]).expect("a pod");
    lab.settle().expect("tables in force");
    let alice = lab.pod("alice").expect("alice");
    let address = alice.address().to_string();
    let seen = curl(alice.netns(), &format!("http://{POD}:8080/"));
    assert!(seen.contains("kernel") && seen.contains(&address), "the kernel's server saw: {seen}");
    let seen = curl(&kernel, &format!("http://{address}:8080/"));
    assert!(seen.contains("alice") && seen.contains(POD), "alice's server saw: {seen}");
    let iperf = Cmd::line("iperf3 -s -1 -D -B").arg(POD).netns(&kernel);
    iperf.ok().expect("an iperf3 server");
    let run = Cmd::line("iperf3 -t 1 -J -c").arg(POD).netns(alice.netns()).limit(Duration::from_secs(20));
    let told: serde_json::Value = serde_json::from_str(&run.ok().expect("iperf3").stdout).expect("JSON");
    let received = told["end"]["sum_received"]["bytes"].as_u64().unwrap_or(0);
    assert!(received > 1_000_000, "bulk TCP into the kernel's vxlan device: {received} bytes in 1 s");
}
