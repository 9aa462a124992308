//! Clusters with both address families, and with IPv6 alone: everything that two nodes do, in every family that they have.

use std::net::IpAddr;

use lab::addressing::host_part;
use lab::agent::serve::HTTP_PORT;
use lab::netns::Netns;
use lab::shell::Cmd;
use lab::stage::answer_in;
use lab::{Families, Lab, Options, manifests};

const WEB: u8 = 10;
const SLICED: u8 = 11;

/// web-1, alice and mallory on node-1, web-2 on node-2; a derived service and one by slices; servers on node and client.
fn lab(families: Families, control_args: &[&str]) -> Lab {
    let control_args = control_args.iter().map(ToString::to_string).collect();
    let mut lab = Lab::start(&Options { families, control_args, ..Options::default() }).expect("the lab comes up");
    for (name, node, label) in [("web-1", 0, "web"), ("alice", 0, "friend"), ("web-2", 1, "web")] {
        lab.add_pod(name, node, &[("app", label)]).expect("a pod");
    }
    let web = manifests::service("web", &families.service(WEB), ("app", "web"));
    lab.objects().apply("service-web", &web).expect("an object");
    let sliced = manifests::service("sliced", &families.service(SLICED), ("app", "nobody"));
    lab.objects().apply("service-sliced", &sliced).expect("an object");
    for address in lab.pod("web-2").expect("web-2").addresses() {
        let name = format!("sliced-{}", if address.is_ipv4() { 4 } else { 6 });
        let slice = manifests::endpoint_slice(&name, "sliced", &[*address]);
        lab.objects().apply(&name, &slice).expect("an object");
    }
    for (name, netns) in [("node-1", lab.nodes[0].netns().clone()), ("client", lab.client().clone())] {
        lab.serve(name, &netns).expect("a server");
    }
    lab.settle().expect("tables in force");
    lab
}

fn url(address: IpAddr, port: u16) -> String {
    format!("http://{}:{port}/", host_part(address))
}

/// Who answered and whom it saw; None without an answer.
fn curl(from: &Netns, address: IpAddr, port: u16, seconds: &str) -> Option<(String, IpAddr)> {
    let command = Cmd::line("curl -sS --max-time").arg(seconds).arg(url(address, port)).netns(from);
    let answer = answer_in(&command.run().expect("curl runs").stdout)?;
    Some((answer.name, answer.saw.parse().expect("an address")))
}

#[track_caller]
fn sees(what: &str, from: &Netns, to: (IpAddr, u16), names: &[&str], sources: &[IpAddr]) {
    let answer = curl(from, to.0, to.1, "3");
    let good = answer.as_ref().is_some_and(|(name, saw)| names.contains(&name.as_str()) && sources.contains(saw));
    assert!(
        good,
        "{what}: {} answered {answer:?}, expected one of {names:?} to see one of {sources:?}",
        url(to.0, to.1)
    );
}

#[track_caller]
fn pings(what: &str, from: &Netns, to: IpAddr) {
    let ran = Cmd::line("ping -q -c 2 -i 0.05 -W 2").arg(to).netns(from).run().expect("ping runs");
    assert!(ran.stdout.contains(" 2 received"), "{what}: {}{}", ran.stdout, ran.stderr);
}

fn of_family(addresses: &[IpAddr], like: IpAddr) -> IpAddr {
    *addresses.iter().find(|address| address.is_ipv4() == like.is_ipv4()).expect("an address of each family")
}

fn pods_answer_in_every_family(lab: &Lab) {
    let alice = lab.pod("alice").expect("alice");
    for receiver in ["web-1", "web-2"] {
        let to = lab.pod(receiver).expect("a pod");
        assert_eq!(to.addresses().len(), lab.families().client().len(), "one address a family: {:?}", to.addresses());
        for &address in to.addresses() {
            let own = of_family(alice.addresses(), address);
            pings(&format!("alice -> {receiver}"), alice.netns(), address);
            sees(&format!("alice -> {receiver}"), alice.netns(), (address, HTTP_PORT), &[receiver], &[own]);
        }
    }
}

fn services_answer_on_every_address(lab: &Lab) {
    let alice = lab.pod("alice").expect("alice");
    for address in lab.families().service(WEB) {
        let own = of_family(alice.addresses(), address);
        for _ in 0..4 {
            sees("alice -> service", alice.netns(), (address, 80), &["web-1", "web-2"], &[own]);
        }
    }
    for address in lab.families().service(SLICED) {
        let own = of_family(alice.addresses(), address);
        sees("alice -> service by slices", alice.netns(), (address, 80), &["web-2"], &[own]);
        let reserved = lab.nodes[0].reserved_addresses().expect("reserved addresses");
        sees("host -> service by slices", lab.nodes[0].netns(), (address, 80), &["web-2"], &reserved);
    }
}

fn the_node_and_the_world_reach_pods_and_back(lab: &Lab) {
    let (alice, node, client) = (lab.pod("alice").expect("alice"), &lab.nodes[0], lab.families().client());
    let reserved = node.reserved_addresses().expect("reserved addresses");
    for receiver in ["web-1", "web-2"] {
        for &address in lab.pod(receiver).expect("a pod").addresses() {
            sees("host -> pod", node.netns(), (address, HTTP_PORT), &[receiver], &reserved);
            pings("host -> pod", node.netns(), address);
        }
    }
    for &address in node.addresses() {
        let own = of_family(alice.addresses(), address);
        sees("pod -> host", alice.netns(), (address, HTTP_PORT), &["node-1"], &[own]);
        pings("pod -> host", alice.netns(), address);
    }
    for &address in &client {
        let masquerade = of_family(node.addresses(), address);
        sees("pod -> outside", alice.netns(), (address, HTTP_PORT), &["client"], &[masquerade]);
        pings("pod -> outside", alice.netns(), address);
    }
    for &address in lab.pod("web-1").expect("web-1").addresses() {
        let outside = of_family(&client, address);
        sees("outside -> pod", lab.client(), (address, HTTP_PORT), &["web-1"], &[outside]);
    }
}

/// A block of one family says nothing about the other.
fn a_policy_cuts_by_family(lab: &mut Lab) {
    let cuts = |lab: &Lab, who: &str, address: IpAddr| {
        let from = lab.pod(who).expect("a pod").netns().clone();
        curl(&from, address, HTTP_PORT, "0.5").is_none()
    };
    let targets = [lab.pod("web-1"), lab.pod("web-2")].map(|pod| pod.expect("a pod").addresses().to_vec()).concat();
    let ipv4_only = manifests::ranges_only("blocks", &["10.244.0.0/16"]);
    lab.objects().apply("policy-blocks", &ipv4_only).expect("an object");
    lab.settle().expect("the policy in force");
    for &address in &targets {
        assert_eq!(cuts(lab, "alice", address), address.is_ipv6(), "alice -> {address} under an IPv4 block");
    }
    let both = manifests::ranges_only("blocks", &["10.244.0.0/16", "fd00:10:244:1::/64"]);
    lab.objects().apply("policy-blocks", &both).expect("an object");
    lab.settle().expect("the policy in force");
    for &address in &targets {
        assert!(!cuts(lab, "alice", address), "alice -> {address} under blocks of both families");
    }
    lab.objects().delete("policy-blocks").expect("an object");
}

fn play(mut lab: Lab) {
    pods_answer_in_every_family(&lab);
    services_answer_on_every_address(&lab);
    the_node_and_the_world_reach_pods_and_back(&lab);
    a_policy_cuts_by_family(&mut lab);
}

#[test]
fn a_dual_stack_cluster_answers_in_both_families() {
    let _one = lab::one_at_a_time();
    play(lab(Families::Dual, &[]));
}

#[test]
fn a_cluster_without_encapsulation_answers_in_both_families() {
    let _one = lab::one_at_a_time();
    let lab = lab(Families::Dual, &["--encapsulation", "none"]);
    let mtu = lab.pod("alice").expect("alice").netns().ip("-o link show dev eth0").expect("eth0").stdout;
    assert!(mtu.contains("mtu 1500"), "nothing is added to packets: {mtu}");
    play(lab);
}
