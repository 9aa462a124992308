//! Services from outside the cluster with real sockets: node ports, addresses of load balancers and external addresses, to
//! clients outside, pods, other nodes and the node itself, in both families.

use std::collections::BTreeSet;
use std::net::IpAddr;

use lab::addressing::host_part;
use lab::manifests::Exposed;
use lab::netns::Netns;
use lab::shared::{Entered, Shared};
use lab::shell::Cmd;
use lab::stage::answer_in;
use lab::{Families, Lab, Options, manifests};

const FAMILIES: Families = Families::Dual;
/// Of pods on both nodes, policy `Cluster`; on web-1 alone and on web-2 alone, policy `Local`.
const BOTH: u16 = 30080;
const NEAR: u16 = 30180;
const FAR: u16 = 30280;
const NEAR_HEALTH: u16 = 31180;
const FAR_HEALTH: u16 = 31280;

fn addresses(texts: [&str; 2]) -> [IpAddr; 2] {
    texts.map(|text| text.parse().expect("an address"))
}

fn balancer(number: u8) -> [IpAddr; 2] {
    addresses([&format!("198.51.100.{number}"), &format!("2001:db8:98::{number}")])
}

/// In the ranges that are allowed, and outside of them.
fn external() -> [IpAddr; 2] {
    addresses(["192.0.2.7", "2001:db8:92::7"])
}

const FORBIDDEN: &str = "203.0.113.7";

/// One lab for all tests of this file, one test at a time.
static LAB: Shared = Shared::new(start);

fn start() -> anyhow::Result<Lab> {
    let ranges = "--node-port-addresses 0.0.0.0/0,::/0 --localhost-node-ports";
    let more = "--external-ip-ranges 192.0.2.0/24,2001:db8:92::/48";
    let control_args = [ranges, more].iter().flat_map(|args| args.split(' ')).map(str::to_string).collect();
    let options = Options { families: FAMILIES, workers: 2, uplink_queues: 2, control_args, ..Options::default() };
    let mut lab = Lab::start(&options)?;
    for (name, node, label) in [("web-1", 0, "web"), ("alice", 0, "friend"), ("web-2", 1, "web")] {
        lab.add_pod(name, node, &[("app", label)])?;
    }
    expose(&lab)?;
    let client = lab.client().clone();
    for address in balancer(1).iter().chain(&balancer(2)).chain(&external()) {
        client.ip(&format!("route add {address} via {}", of_family(lab.nodes[0].addresses(), *address)))?;
    }
    client.ip(&format!("route add {FORBIDDEN} via {}", lab.nodes[0].address()))?;
    lab.settle()?;
    Ok(lab)
}

fn expose(lab: &Lab) -> anyhow::Result<()> {
    let (one, two) = (balancer(1), balancer(2));
    let mut all_external = external().to_vec();
    all_external.push(FORBIDDEN.parse()?);
    let service = |number| FAMILIES.service(number);
    let (a, b, c) = (service(20), service(21), service(22));
    let both = Exposed {
        name: "both",
        addresses: &a,
        label: ("app", "web"),
        node_port: BOTH,
        balancer: &one,
        external: &all_external,
        local: None,
    };
    let near = Exposed {
        name: "near",
        addresses: &b,
        label: ("name", "web-1"),
        node_port: NEAR,
        balancer: &two,
        external: &[],
        local: Some(NEAR_HEALTH),
    };
    let three = balancer(3);
    let far = Exposed {
        name: "far",
        addresses: &c,
        label: ("name", "web-2"),
        node_port: FAR,
        balancer: &three,
        local: Some(FAR_HEALTH),
        ..near
    };
    for exposed in [both, near, far] {
        lab.objects().apply(&format!("service-{}", exposed.name), &manifests::exposed(&exposed))?;
    }
    Ok(())
}

struct Stage(Entered);

impl Stage {
    fn enter() -> Self {
        Stage(LAB.enter())
    }

    fn lab(&self) -> &Lab {
        &self.0
    }

    fn node(&self, number: usize) -> Vec<IpAddr> {
        self.lab().nodes[number].addresses().to_vec()
    }

    /// Any address of this node: its own, `host`, `snat`.
    fn any_of_node(&self, number: usize) -> Vec<IpAddr> {
        let reserved = self.lab().nodes[number].reserved_addresses().expect("reserved addresses");
        [reserved, self.node(number)].concat()
    }

    fn pod(&self, name: &str) -> (&Netns, &[IpAddr]) {
        let pod = self.lab().pod(name).expect("a pod");
        (pod.netns(), pod.addresses())
    }
}

fn of_family(all: &[IpAddr], like: IpAddr) -> IpAddr {
    *all.iter().find(|address| address.is_ipv4() == like.is_ipv4()).expect("an address of each family")
}

/// Who answered and whom it saw, or what curl says.
fn curl(from: &Netns, to: IpAddr, port: u16) -> Result<(String, IpAddr), String> {
    let url = format!("http://{}:{port}/", host_part(to));
    let ran = Cmd::line("curl -sS --max-time 2").arg(url).netns(from).run().expect("curl runs");
    let answer = answer_in(&ran.stdout).ok_or_else(|| ran.stderr.trim().to_string())?;
    Ok((answer.name, answer.saw.parse().expect("an address")))
}

/// Every one of `names` answers within some requests, nobody else does, and all see one of `sources`.
#[track_caller]
fn sees(what: &str, from: &Netns, to: (IpAddr, u16), names: &[&str], sources: &[IpAddr]) {
    let mut answered = BTreeSet::new();
    for _ in 0..if names.len() == 1 { 3 } else { 12 } {
        match curl(from, to.0, to.1) {
            Ok((name, saw)) => {
                assert!(sources.contains(&saw), "{what} -> {to:?}: {name} saw {saw}, none of {sources:?}");
                answered.insert(name);
            }
            Err(why) => panic!("{what} -> {to:?}: {why}"),
        }
    }
    let names: BTreeSet<String> = names.iter().map(ToString::to_string).collect();
    assert_eq!(answered, names, "{what} -> {to:?}");
}

/// Echo over UDP, several times from one socket: the answers must come from where was asked.
#[track_caller]
fn echoes(what: &str, from: &Netns, to: IpAddr, port: u16) {
    let talk = format!(
        "exec 3<>/dev/udp/{to}/{port}; for i in 1 2 3; do echo hello-$i >&3; timeout 2 head -n 1 <&3 || exit 1; done"
    );
    let ran = Cmd::new("bash").args(["-c", &talk]).netns(from).run().expect("bash runs");
    assert_eq!(ran.stdout, "hello-1\nhello-2\nhello-3\n", "{what} -> udp {to}:{port}: {}", ran.stderr);
}

#[test]
fn a_client_outside_reaches_pods_of_both_nodes_by_any_nodes_port_as_the_node() {
    let stage = Stage::enter();
    let client = stage.lab().client();
    for number in [0, 1] {
        for address in stage.node(number) {
            sees("client", client, (address, BOTH), &["web-1", "web-2"], &stage.any_of_node(number));
            (0..6).for_each(|_| echoes("client", client, address, BOTH + 1));
        }
    }
}

#[test]
fn a_client_outside_keeps_its_address_where_the_policy_is_local() {
    let stage = Stage::enter();
    let (client, own) = (stage.lab().client(), FAMILIES.client());
    for address in stage.node(0) {
        sees("client", client, (address, NEAR), &["web-1"], &[of_family(&own, address)]);
        echoes("client", client, address, NEAR + 1);
        let why = curl(client, address, FAR).expect_err("web-2 is not on this node");
        assert!(why.contains("timed out") || why.contains("Timeout"), "dropped, not refused: {why}");
    }
    for address in stage.node(1) {
        sees("client", client, (address, FAR), &["web-2"], &[of_family(&own, address)]);
        echoes("client", client, address, FAR + 1);
    }
}

#[test]
fn addresses_of_load_balancers_answer_on_the_ports_of_their_service() {
    let stage = Stage::enter();
    let (client, own) = (stage.lab().client(), FAMILIES.client());
    for address in balancer(1) {
        sees("client", client, (address, 80), &["web-1", "web-2"], &stage.any_of_node(0));
        echoes("client", client, address, 7);
        curl(client, address, BOTH).expect_err("node ports are the node's addresses'");
    }
    for address in balancer(2) {
        sees("client", client, (address, 80), &["web-1"], &[of_family(&own, address)]);
        echoes("client", client, address, 7);
    }
    let alice = stage.pod("alice").0;
    for address in balancer(1) {
        sees("pod", alice, (address, 80), &["web-1", "web-2"], &stage.any_of_node(0));
        sees("node", stage.lab().nodes[0].netns(), (address, 80), &["web-1", "web-2"], &stage.any_of_node(0));
    }
    for address in balancer(3) {
        // Clients on a node are no clients outside: the policy does not hold for them.
        sees("node", stage.lab().nodes[0].netns(), (address, 80), &["web-2"], &stage.any_of_node(0));
    }
}

#[test]
fn external_addresses_count_inside_the_ranges_alone() {
    let stage = Stage::enter();
    let client = stage.lab().client();
    for address in external() {
        sees("client", client, (address, 80), &["web-1", "web-2"], &stage.any_of_node(0));
    }
    let forbidden = FORBIDDEN.parse().expect("an address");
    curl(client, forbidden, 80).expect_err("nobody serves it");
    let routes = stage.lab().nodes[0].netns().ip("route").expect("routes").stdout;
    assert!(!routes.contains(FORBIDDEN) && routes.contains("192.0.2.7"), "{routes}");
}

#[test]
fn pods_reach_node_ports_of_their_own_node_and_of_others() {
    let stage = Stage::enter();
    let (alice, own) = stage.pod("alice");
    for address in stage.node(0) {
        sees("pod", alice, (address, BOTH), &["web-1", "web-2"], &stage.any_of_node(0));
        sees("pod", alice, (address, NEAR), &["web-1"], &[of_family(own, address)]);
        sees("pod", alice, (address, FAR), &["web-2"], &[of_family(own, address)]);
        echoes("pod", alice, address, BOTH + 1);
    }
    for address in stage.node(1) {
        sees("pod", alice, (address, BOTH), &["web-1", "web-2"], &stage.any_of_node(1));
        echoes("pod", alice, address, BOTH + 1);
    }
}

#[test]
fn a_node_reaches_its_own_node_ports_and_its_other_ports_stay_its_own() {
    let stage = Stage::enter();
    let node = stage.lab().nodes[0].netns();
    let localhost: IpAddr = "127.0.0.1".parse().expect("an address");
    for address in stage.node(0).into_iter().chain([localhost]) {
        sees("node", node, (address, BOTH), &["web-1", "web-2"], &stage.any_of_node(0));
        sees("node", node, (address, FAR), &["web-2"], &stage.any_of_node(0));
        (0..6).for_each(|_| echoes("node", node, address, BOTH + 1));
        let why = curl(node, address, BOTH - 1).expect_err("nobody listens there");
        assert!(why.contains("refused") || why.contains("Couldn't connect"), "{address}: {why}");
    }
    for address in stage.node(1) {
        sees("node", node, (address, BOTH), &["web-1", "web-2"], &stage.any_of_node(1));
    }
}

/// Status, and what the body says of endpoints.
fn health(from: &Netns, to: IpAddr, port: u16) -> String {
    let url = format!("http://{}:{port}/healthz", host_part(to));
    let ran = Cmd::line("curl -sS --max-time 2 -w %{http_code}").arg(url).netns(from).run().expect("curl runs");
    ran.stdout
}

#[test]
fn load_balancers_are_told_where_endpoints_are() {
    let stage = Stage::enter();
    let client = stage.lab().client();
    for (number, near, far) in [(0, 1, 0), (1, 0, 1)] {
        for address in stage.node(number) {
            for (port, name, count) in [(NEAR_HEALTH, "near", near), (FAR_HEALTH, "far", far)] {
                let told = health(client, address, port);
                let status = if count > 0 { "200" } else { "503" };
                assert!(told.ends_with(status), "{address}:{port}: {told}");
                assert!(told.contains(&format!("\"localEndpoints\":{count}")), "{told}");
                assert!(told.contains(&format!("\"name\":\"{name}\"")), "{told}");
            }
        }
    }
}
