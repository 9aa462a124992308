//! Clusters with both address families, and with IPv6 alone: everything that two nodes do, in every family that they have.

use std::net::IpAddr;
use std::time::Duration;

use lab::addressing::host_part;
use lab::agent::serve::HTTP_PORT;
use lab::netns::Netns;
use lab::process::Process;
use lab::shell::Cmd;
use lab::stage::answer_in;
use lab::{Families, Lab, Options, manifests, wait};

const WEB: u8 = 10;
const SLICED: u8 = 11;

/// web-1, alice and mallory on node-1, web-2 on node-2; a derived service and one by slices; servers on node and client.
fn lab(families: Families, workers: u32, control_args: &[&str]) -> Lab {
    let control_args = control_args.iter().map(ToString::to_string).collect();
    let options = Options { families, control_args, workers, uplink_queues: workers, ..Options::default() };
    let mut lab = Lab::start(&options).expect("the lab comes up");
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
    let [near, far] = [0, 1].map(|node: usize| lab.nodes[node].netns().clone());
    for (name, netns) in [("node-1", near), ("node-2", far), ("client", lab.client().clone())] {
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
fn pings(what: &str, from: &Netns, to: &str) {
    let ran = Cmd::line(&format!("ping -q -c 2 -i 0.05 -W 2 {to}")).netns(from).run().expect("ping runs");
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
            pings(&format!("alice -> {receiver}"), alice.netns(), &address.to_string());
            sees(&format!("alice -> {receiver}"), alice.netns(), (address, HTTP_PORT), &[receiver], &[own]);
        }
    }
}

/// What a UDP echo port sends back.
fn udp_echo(from: &Netns, address: IpAddr, port: u16) -> String {
    let talk = format!("exec 3<>/dev/udp/{address}/{port}; echo hello >&3; timeout 2 head -n 1 <&3");
    Cmd::new("bash").args(["-c", &talk]).netns(from).run().expect("bash runs").stdout
}

fn services_answer_on_every_address(lab: &Lab) {
    let alice = lab.pod("alice").expect("alice");
    for address in lab.families().service(WEB) {
        let own = of_family(alice.addresses(), address);
        for _ in 0..4 {
            sees("alice -> service", alice.netns(), (address, 80), &["web-1", "web-2"], &[own]);
            assert_eq!(udp_echo(alice.netns(), address, 7), "hello\n", "UDP through {address}");
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
            pings("host -> pod", node.netns(), &address.to_string());
        }
    }
    for &address in node.addresses() {
        let own = of_family(alice.addresses(), address);
        sees("pod -> host", alice.netns(), (address, HTTP_PORT), &["node-1"], &[own]);
        pings("pod -> host", alice.netns(), &address.to_string());
    }
    let others = lab.nodes[1].addresses().iter().map(|address| (*address, "node-2"));
    for (address, name) in client.iter().map(|address| (*address, "client")).chain(others) {
        let masquerade = of_family(node.addresses(), address);
        sees("pod -> outside", alice.netns(), (address, HTTP_PORT), &[name], &[masquerade]);
        pings("pod -> outside", alice.netns(), &address.to_string());
    }
    for &address in lab.pod("web-1").expect("web-1").addresses() {
        let outside = of_family(&client, address);
        sees("outside -> pod", lab.client(), (address, HTTP_PORT), &["web-1"], &[outside]);
    }
}

/// A router that is known by its link-local address alone leads to networks of both families.
fn a_link_local_router_is_a_next_hop(lab: &mut Lab) {
    let shown = lab.client().ip("-6 -o address show dev eth0 scope link").expect("addresses").stdout;
    let router = shown.split_whitespace().skip_while(|word| *word != "inet6").nth(1).expect("a link-local address");
    let router = router.split('/').next().unwrap_or_default().to_string();
    let far: Vec<IpAddr> = match lab.families() {
        Families::Ipv6 => vec!["2001:db8::1".parse().expect("an address")],
        _ => ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().expect("an address")).to_vec(),
    };
    for address in &far {
        lab.client().ip(&format!("address add {address} dev lo")).expect("an address");
        lab.nodes[0].netns().ip(&format!("route add {address} via inet6 {router} dev eth0")).expect("a route");
    }
    lab.settle().expect("the routes in force");
    let (alice, node) = (lab.pod("alice").expect("alice"), &lab.nodes[0]);
    for address in far {
        let masquerade = of_family(node.addresses(), address);
        sees("pod -> behind a router", alice.netns(), (address, HTTP_PORT), &["client"], &[masquerade]);
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
    let drops = lab.nodes[0].fairway().run("drops").expect("drops").stdout;
    assert!(drops.contains("PolicyIngress"), "the drops have a name: {drops}");
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
    a_link_local_router_is_a_next_hop(&mut lab);
}

#[test]
fn a_dual_stack_cluster_answers_in_both_families() {
    let _one = lab::one_at_a_time();
    play(lab(Families::Dual, 1, &[]));
}

#[test]
fn a_cluster_of_ipv6_alone_needs_no_ipv4() {
    let _one = lab::one_at_a_time();
    play(lab(Families::Ipv6, 1, &[]));
}

/// What the fabric must carry, and how large packets of pods may be. Two workers, so that packets are handed over, too.
#[track_caller]
fn crosses(families: Families, encapsulation: &str, filter: &str, mtu: u32) {
    let _one = lab::one_at_a_time();
    let lab = lab(families, 2, &["--encapsulation", encapsulation]);
    let alice = lab.pod("alice").expect("alice");
    let link = alice.netns().ip("-o link show dev eth0").expect("eth0").stdout;
    assert!(link.contains(&format!("mtu {mtu} ")), "{mtu} are left for pods: {link}");
    let capture = format!("tcpdump -nn -l -c 4 -i {} {filter}", lab.nodes[1].port());
    let capture = Process::spawn("tcpdump", &Cmd::line(&capture).netns(lab.fabric().netns()), lab.directory());
    let capture = capture.expect("tcpdump starts");
    assert!(
        wait::until(Duration::from_secs(5), || capture.log_end().contains("listening on")),
        "{}",
        capture.log_end()
    );
    for &address in lab.pod("web-2").expect("web-2").addresses() {
        let headers = if address.is_ipv4() { 28 } else { 48 };
        pings("full size", alice.netns(), &format!("-M do -s {} {address}", mtu - headers));
    }
    capture.finish(Duration::from_secs(5)).unwrap_or_else(|error| panic!("{filter} on the fabric: {error:#}"));
    pods_answer_in_every_family(&lab);
    services_answer_on_every_address(&lab);
    the_node_and_the_world_reach_pods_and_back(&lab);
}

#[test]
fn both_families_cross_without_encapsulation() {
    crosses(Families::Dual, "none", "host 10.244.2.4 or host fd00:10:244:2::4", 1500);
}

#[test]
fn both_families_cross_in_geneve() {
    crosses(Families::Dual, "geneve", "host 172.18.0.11 and udp port 6081", 1450);
}

#[test]
fn both_families_cross_in_ipip() {
    crosses(Families::Dual, "ipip", "host 172.18.0.11 and (ip proto 4 or ip proto 41)", 1480);
}

#[test]
fn ipv6_crosses_in_vxlan_over_ipv6() {
    crosses(Families::Ipv6, "vxlan", "host fd00:18::b and udp port 4789", 1430);
}

#[test]
fn ipv6_crosses_in_ipip_over_ipv6() {
    crosses(Families::Ipv6, "ipip", "host fd00:18::b and ip6 proto 41", 1460);
}

#[test]
fn listings_and_the_plugin_know_both_families_and_a_restart_of_control_cuts_neither() {
    let _one = lab::one_at_a_time();
    let mut lab = lab(Families::Dual, 1, &[]);
    for (what, wanted) in [
        ("endpoints -A", "10.244.1.5,fd00:10:244:1::5"),
        ("services -A", "fd00:10:96::b"),
        ("routes", "fd00:10:244:2::/64"),
        ("explain demo/alice [fd00:10:96::a]:80/tcp", "[fd00:10:244:2::4]:8080"),
    ] {
        let told = lab.nodes[0].fairway().run(what).expect("an answer").stdout;
        assert!(told.contains(wanted), "fairway {what} does not tell {wanted}: {told}");
    }
    let alice = lab.pod("alice").expect("alice");
    lab.nodes[0].plugin().check(alice.container(), &alice.attachment().result).expect("CHECK");
    let addresses = lab.pod("web-1").expect("web-1").addresses().to_vec();
    let pings: Vec<_> = addresses
        .iter()
        .map(|address| {
            let ping = Cmd::line("ping -q -i 0.01 -c 150").arg(address).netns(lab.nodes[0].netns());
            std::thread::spawn(move || ping.run().expect("ping runs").stdout)
        })
        .collect();
    lab.nodes[0].kill_control().expect("control runs");
    lab.nodes[0].start_control().expect("control starts");
    lab.nodes[0].wait_connected().expect("control returns");
    for ping in pings {
        let told = ping.join().expect("ping ends");
        assert!(told.contains(" 150 received"), "while control is killed and starts again: {told}");
    }
}
