//! What traceroute, tracepath, ping and curl tell of a path through gateways, tunnel and services: every router names itself
//! once, limits are told as they are, and what cannot be reached is said at once. In both families.

use std::net::IpAddr;
use std::time::Duration;

use lab::addressing::host_part;
use lab::agent::serve::{ECHO_PORT, HTTP_PORT};
use lab::netns::Netns;
use lab::shared::{Entered, Shared};
use lab::shell::{Cmd, Ran};
use lab::{Families, Lab, Options, manifests};

const FAMILIES: Families = Families::Dual;
/// Selects web-2, on the other node.
const FAR: u8 = 12;
/// Selects nobody.
const EMPTY: u8 = 13;
const POD_MTU: u32 = 1450;
/// Refused at once: far below every time that a program waits for an answer.
const AT_ONCE: Duration = Duration::from_millis(900);

/// One lab for all tests of this file, one test at a time.
static LAB: Shared = Shared::new(start);

fn start() -> anyhow::Result<Lab> {
    let mut lab = Lab::start(&Options { families: FAMILIES, workers: 2, uplink_queues: 2, ..Options::default() })?;
    for (name, node) in [("alice", 0), ("web-2", 1)] {
        lab.add_pod(name, node, &[])?;
    }
    for (name, number, selected) in [("far", FAR, "web-2"), ("empty", EMPTY, "nobody")] {
        let service = manifests::service(name, &FAMILIES.service(number), ("name", selected));
        lab.objects().apply(&format!("service-{name}"), &service)?;
    }
    let client = lab.client().clone();
    lab.serve("client", &client)?;
    // Kernels tell one sender six errors at once, which a trace's last hop may exceed.
    for netns in [lab.pod("alice")?.netns(), lab.pod("web-2")?.netns(), &client] {
        netns.sysctl("net.ipv4.icmp_ratelimit", "0")?;
        netns.sysctl("net.ipv6.icmp.ratelimit", "0")?;
    }
    lab.settle()?;
    Ok(lab)
}

struct Stage(Entered);

impl Stage {
    fn enter() -> Self {
        Stage(LAB.enter())
    }

    fn lab(&self) -> &Lab {
        &self.0
    }

    fn netns(&self, pod: &str) -> &Netns {
        self.lab().pod(pod).expect("a pod").netns()
    }

    /// A program in alice.
    fn alice(&self, line: &str, to: IpAddr) -> Ran {
        Cmd::line(line).arg(to).netns(self.netns("alice")).run().expect("it runs")
    }

    fn web_2(&self) -> [IpAddr; 2] {
        self.lab().pod("web-2").expect("web-2").addresses().to_vec().try_into().expect("two families")
    }
}

/// The gateway of a node's pods, as of this address's family.
fn gateway(node: u8, like: IpAddr) -> IpAddr {
    let text = if like.is_ipv4() { format!("10.244.{node}.1") } else { format!("fd00:10:244:{node}::1") };
    text.parse().expect("an address")
}

fn pair(addresses: Vec<IpAddr>) -> [IpAddr; 2] {
    addresses.try_into().expect("two families")
}

/// What traceroute says in place of each hop, probe by probe.
fn traced(told: &str) -> Vec<Vec<String>> {
    let of_hop = |line: &str| -> Vec<String> {
        let words = line.split_whitespace().skip(1);
        words.filter(|word| word.parse::<IpAddr>().is_ok() || word.contains(['*', '!'])).map(str::to_string).collect()
    };
    told.lines().skip(1).map(of_hop).collect()
}

#[track_caller]
fn trace(stage: &Stage, options: &str, to: IpAddr, hops: &[IpAddr]) {
    // A sender is told twenty errors a second; two a trace and gateway stay far below.
    lab::wait::sleep_ms(150);
    trace_from(stage.netns("alice"), options, to, hops);
}

#[track_caller]
fn trace_from(from: &Netns, options: &str, to: IpAddr, hops: &[IpAddr]) {
    let ran = Cmd::line(&format!("traceroute -n -q 2 -w 2 -m 6 {options}")).arg(to).netns(from).run().expect("it runs");
    let expected: Vec<Vec<String>> = hops.iter().map(|hop| vec![hop.to_string()]).collect();
    assert_eq!(traced(&ran.stdout), expected, "`{}`: {}{}", ran.command, ran.stdout, ran.stderr);
}

#[test]
fn traceroute_names_both_gateways_on_the_way_to_a_pod() {
    let stage = Stage::enter();
    for pod in stage.web_2() {
        let hops = [gateway(1, pod), gateway(2, pod), pod];
        for options in ["-U -p 7777", "-T -p 8080", "-I", ""] {
            trace(&stage, options, pod, &hops);
        }
    }
}

#[test]
fn traceroute_names_both_gateways_on_the_way_through_a_service() {
    let stage = Stage::enter();
    for service in FAMILIES.service(FAR) {
        let hops = [gateway(1, service), gateway(2, service), service];
        for options in ["-U -p 7", "-T -p 80"] {
            trace(&stage, options, service, &hops);
        }
    }
}

#[test]
fn traceroute_names_the_gateway_on_the_way_outside() {
    let stage = Stage::enter();
    for client in FAMILIES.client() {
        let hops = [gateway(1, client), client];
        for options in ["-U -p 7777", "-T -p 8080", "-I", ""] {
            trace(&stage, options, client, &hops);
        }
    }
}

#[test]
fn traceroute_names_the_node_on_the_way_in() {
    let stage = Stage::enter();
    let pods = stage.lab().pod("alice").expect("alice").addresses();
    for (&pod, node) in pods.iter().zip(FAMILIES.node(1)) {
        for options in ["-U -p 7777", "-T -p 8080", "-I"] {
            trace_from(stage.lab().client(), options, pod, &[node, pod]);
        }
    }
}

#[test]
fn traceroute_names_the_gateways_on_the_way_from_the_node() {
    let stage = Stage::enter();
    for pod in stage.web_2() {
        for options in ["-U -p 7777", "-T -p 8080", "-I"] {
            trace_from(stage.lab().nodes[0].netns(), options, pod, &[gateway(1, pod), gateway(2, pod), pod]);
        }
    }
}

/// The limit is what a pod sends: larger packets from outside need not be cut for it.
#[test]
fn tracepath_from_outside_finds_the_limit_of_the_fabric() {
    let stage = Stage::enter();
    for pod in stage.lab().pod("alice").expect("alice").addresses() {
        let ran = Cmd::line("tracepath -n -m 5").arg(pod).netns(stage.lab().client()).run().expect("tracepath runs");
        assert!(ran.stdout.contains("Resume: pmtu 1500 hops 2"), "{}", ran.stdout);
    }
}

#[test]
fn tracepath_finds_the_mtu_and_every_hop() {
    let stage = Stage::enter();
    for pod in stage.web_2() {
        let ran = stage.alice("tracepath -n -m 6", pod);
        for wanted in [&format!("pmtu {POD_MTU}"), "hops 3", &gateway(1, pod).to_string(), &gateway(2, pod).to_string()]
        {
            assert!(ran.stdout.contains(wanted), "{wanted} is missing: {}{}", ran.stdout, ran.stderr);
        }
        assert!(!ran.stdout.contains("no reply"), "{}", ran.stdout);
    }
}

#[test]
fn a_ping_that_does_not_fit_is_told_the_limit() {
    let stage = Stage::enter();
    for pod in stage.web_2() {
        let ran = stage.alice("ping -c 1 -W 2 -M do -s 1460", pod);
        assert!(ran.stderr.contains("essage too long") && ran.stderr.contains("1450"), "{}{}", ran.stdout, ran.stderr);
    }
}

/// Pods whose own interface would send more than the path takes.
struct Wider<'a>(&'a Stage);

impl<'a> Wider<'a> {
    fn set(stage: &'a Stage) -> Self {
        for pod in ["alice", "web-2"] {
            stage.netns(pod).ip("link set eth0 mtu 1500").expect("ip link");
        }
        Wider(stage)
    }

    /// Nothing is known of the path.
    fn forget(&self) {
        for (pod, family) in ["alice", "web-2"].iter().flat_map(|pod| [(pod, "-4"), (pod, "-6")]) {
            let _ = self.0.netns(pod).ip(&format!("{family} route flush cache"));
        }
    }
}

impl Drop for Wider<'_> {
    fn drop(&mut self) {
        for pod in ["alice", "web-2"] {
            let _ = self.0.netns(pod).ip(&format!("link set eth0 mtu {POD_MTU}"));
        }
        self.forget();
    }
}

#[test]
fn a_pod_that_sends_too_much_is_told_the_limit_by_its_gateway() {
    let stage = Stage::enter();
    let wider = Wider::set(&stage);
    for pod in stage.web_2() {
        wider.forget();
        let ran = stage.alice("ping -c 1 -W 2 -M do -s 1450", pod);
        let from = format!("From {} ", gateway(1, pod));
        let limit = if pod.is_ipv4() { "(mtu = 1450)" } else { "mtu=1450" };
        assert!(ran.stdout.contains(&from) && ran.stdout.contains(limit), "{}{}", ran.stdout, ran.stderr);
        wider.forget();
        let ran = stage.alice("tracepath -n -m 6", pod);
        assert!(ran.stdout.contains("pmtu 1500") && ran.stdout.contains("Resume: pmtu 1450 hops 3"), "{}", ran.stdout);
    }
}

#[test]
fn tcp_between_pods_that_send_too_much_finds_the_limit() {
    let stage = Stage::enter();
    let wider = Wider::set(&stage);
    let _server = lab::exchange::bulk_server(stage.netns("web-2"), stage.lab().directory()).expect("iperf3");
    for (to, reverse) in stage.web_2().iter().flat_map(|to| [(to, ""), (to, "-R")]) {
        wider.forget();
        let ran = stage.alice(&format!("iperf3 {reverse} -n 8M -c"), *to);
        assert!(ran.succeeded() && ran.took < Duration::from_secs(5), "{:?}: {}{}", ran.took, ran.stdout, ran.stderr);
    }
}

#[test]
fn datagrams_in_fragments_pass_a_service_and_the_tunnel() {
    let stage = Stage::enter();
    let addresses =
        [pair(FAMILIES.service(FAR)).map(|service| (service, 7)), stage.web_2().map(|pod| (pod, ECHO_PORT))];
    for (to, port) in addresses.concat() {
        let to = format!("{}:{port}", host_part(to));
        let echoed = Cmd::new(stage.lab().binaries().agent())
            .args(["send", "--echo", "--count", "20", "--size", "4000", "--to", &to])
            .netns(stage.netns("alice"));
        assert_eq!(echoed.ok().expect("it runs").stdout.trim(), "20", "datagrams of 4000 bytes to {to}");
    }
}

#[test]
fn a_service_without_endpoints_refuses_at_once() {
    let stage = Stage::enter();
    for service in FAMILIES.service(EMPTY) {
        let curl = Cmd::line("curl -sS --max-time 5").arg(format!("http://{}/", host_part(service)));
        let ran = curl.netns(stage.netns("alice")).run().expect("curl runs");
        assert!(ran.code == 7 && ran.took < AT_ONCE, "{:?}: {}", ran.took, ran.complaint());
        let talk = format!("exec 3<>/dev/udp/{service}/7; echo hello >&3; timeout 3 head -n 1 <&3");
        let ran = Cmd::new("bash").args(["-c", &talk]).netns(stage.netns("alice")).run().expect("bash runs");
        assert!(ran.stderr.contains("Connection refused") && ran.took < AT_ONCE, "{:?}: {}", ran.took, ran.complaint());
    }
}

#[test]
fn a_port_where_nobody_listens_refuses_at_once() {
    let stage = Stage::enter();
    for to in stage.web_2().into_iter().chain(FAMILIES.client()) {
        let curl = Cmd::line("curl -sS --max-time 5").arg(format!("http://{}:{}/", host_part(to), HTTP_PORT + 1));
        let ran = curl.netns(stage.netns("alice")).run().expect("curl runs");
        assert!(ran.code == 7 && ran.took < AT_ONCE, "{:?}: {}", ran.took, ran.complaint());
        let talk = format!("exec 3<>/dev/udp/{to}/9; echo hello >&3; timeout 3 head -n 1 <&3");
        let ran = Cmd::new("bash").args(["-c", &talk]).netns(stage.netns("alice")).run().expect("bash runs");
        assert!(ran.stderr.contains("Connection refused") && ran.took < AT_ONCE, "{:?}: {}", ran.took, ran.complaint());
    }
}

#[test]
fn a_neighbour_that_is_not_there_is_told_after_a_while() {
    let stage = Stage::enter();
    for (nobody, told) in [("172.18.0.99", "Destination Host Unreachable"), ("fd00:18::63", "Address unreachable")] {
        let nobody: IpAddr = nobody.parse().expect("an address");
        let ran = stage.alice("ping -c 1 -W 6", nobody);
        let from = format!("From {} ", gateway(1, nobody));
        assert!(ran.stdout.contains(&from) && ran.stdout.contains(told), "{:?}: {}", ran.took, ran.stdout);
        assert!(ran.took < Duration::from_secs(5), "{:?}", ran.took);
    }
}
