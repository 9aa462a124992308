//! `fairway doctor` in network namespaces with faults made on purpose: each check finds its own and is quiet without. Needs
//! root, iproute2, ethtool, nftables and clang, as building and running Fairway does.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

const FAIRWAY: &str = env!("CARGO_BIN_EXE_fairway");

/// A namespace with an uplink that is well, and a directory of objects; both are gone at the end.
struct Node {
    netns: String,
    objects: PathBuf,
}

impl Drop for Node {
    fn drop(&mut self) {
        run(&["ip", "netns", "del", &self.netns]);
        let _ = std::fs::remove_dir_all(&self.objects);
    }
}

fn run(command: &[&str]) -> (String, bool) {
    let output = Command::new(command[0]).args(&command[1..]).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8_lossy(&text).into_owned(), output.status.success())
}

impl Node {
    fn new() -> Node {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let netns = format!("fairway-doctor-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let made = run(&["ip", "netns", "add", &netns]);
        assert!(made.1, "this test makes network namespaces: run it as root, with iproute2 ({})", made.0);
        let objects = std::env::temp_dir().join(&netns);
        std::fs::create_dir_all(&objects).unwrap();
        let node = Node { netns, objects };
        node.does("ip link set lo up");
        node.does("ip link add up0 numrxqueues 2 numtxqueues 2 type veth peer name peer0 numrxqueues 2 numtxqueues 2");
        node.does("ethtool -L up0 rx 1 tx 1");
        node.does("ip link set peer0 up");
        node.does("ip link set up0 up");
        node.does("ip addr add 192.168.0.1/24 dev up0");
        node.says(&[("a", "10.1.1.0/24", "192.168.0.1"), ("b", "10.1.2.0/24", "192.168.0.2")]);
        node
    }

    fn inside(&self, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.netns]).args(words);
        command
    }

    fn does(&self, line: &str) {
        let output = self.inside(&line.split(' ').collect::<Vec<_>>()).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Node objects: name, pod range, address.
    fn says(&self, nodes: &[(&str, &str, &str)]) {
        let object = |(name, range, addr): &(&str, &str, &str)| {
            json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name }, "spec": { "podCIDRs": [range] },
                "status": { "addresses": [{ "type": "InternalIP", "address": addr }] } })
        };
        let items: Vec<Value> = nodes.iter().map(object).collect();
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
        std::fs::write(self.objects.join("nodes.json"), list.to_string()).unwrap();
    }

    fn doctor(&self, more: &[&str]) -> Told {
        let objects = self.objects.display().to_string();
        let base = [
            FAIRWAY,
            "-o",
            "json",
            "doctor",
            "--objects",
            &objects,
            "--node",
            "a",
            "--service-cidr",
            "172.30.0.0/16",
            "--uplink",
            "up0",
        ];
        Told::of(self.inside(&[&base[..], more].concat()))
    }

    fn nic(&self, more: &[&str]) -> Told {
        Told::of(self.inside(&[&[FAIRWAY, "-o", "json", "doctor", "nic", "up0"][..], more].concat()))
    }
}

/// What it said, and how it ended.
struct Told {
    findings: Vec<(String, String, String)>,
    fixes: Vec<String>,
    code: i32,
}

impl Told {
    fn of(mut command: Command) -> Told {
        let output = command.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        let all: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{error}"));
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let finding = |f: &Value| {
            assert!(!text(&f["advice"]).is_empty(), "{f}");
            (text(&f["severity"]), text(&f["check"]), text(&f["what"]))
        };
        let findings = all["findings"].as_array().unwrap().iter().map(finding).collect();
        let fixes = all["fixes"].as_array().unwrap().iter().map(|fix| text(&fix["command"])).collect();
        Told { findings, fixes, code: output.status.code().unwrap() }
    }

    fn wrong(&self) -> Vec<&str> {
        self.findings.iter().filter(|(severity, ..)| severity == "wrong").map(|(_, _, what)| what.as_str()).collect()
    }

    /// Exactly one thing is wrong, of this check.
    fn only(&self, check: &str, part: &str) {
        let wrong: Vec<_> = self.findings.iter().filter(|(severity, ..)| severity == "wrong").collect();
        assert!(
            wrong.len() == 1 && wrong[0].1 == check && wrong[0].2.contains(part),
            "{part:?} in {:?}",
            self.findings
        );
        assert_eq!(self.code, 1);
    }
}

#[test]
fn a_node_whose_own_ports_are_all_ours_is_told() {
    let node = Node::new();
    node.does("sysctl -qw net.ipv4.ip_local_port_range=45000\t50000");
    node.doctor(&[]).only("local-ports", "leave 0");
    assert_eq!(node.doctor(&["--snat-ports", "20000-29999"]).wrong(), Vec::<&str>::new());
}

#[test]
fn a_node_that_is_well_has_nothing_wrong() {
    let told = Node::new().doctor(&[]);
    assert_eq!((told.wrong(), told.code), (vec![], 0));
}

#[test]
fn what_the_uplink_lacks_is_found_with_its_commands() {
    let node = Node::new();
    assert!(node.nic(&[]).fixes.is_empty());
    node.does("ip link set up0 down");
    let told = node.nic(&[]);
    told.only("nic", "up0 is down");
    assert_eq!(told.fixes, ["ip link set up0 up"]);
    node.does("ip link set up0 up");
    node.does("ip link set up0 mtu 1300");
    let told = node.nic(&[]);
    told.only("mtu", "an MTU of 1300");
    assert_eq!(told.fixes, ["ip link set up0 mtu 1500"]);
    node.does("ip link set up0 mtu 1500");
    Told::of(node.inside(&[FAIRWAY, "-o", "json", "doctor", "nic", "none0"])).only("nic", "there is no device none0");
    assert_eq!(node.nic(&[]).code, 0);
}

#[test]
fn queues_that_are_too_few_for_the_workers_are_found() {
    let node = Node::new();
    let queues = |told: &Told| told.findings.iter().filter(|(_, check, _)| check == "queues").count();
    assert_eq!(queues(&node.nic(&["--cpus", "0"])), 0);
    let told = node.nic(&["--cpus", "0,1"]);
    assert_eq!((queues(&told), told.code), (1, 0), "slow is not wrong: {:?}", told.findings);
    assert_eq!(told.fixes, ["ethtool -L up0 combined 2"]);
}

#[test]
fn a_member_of_a_bridge_is_no_uplink() {
    let node = Node::new();
    node.does("ip link add br0 type bridge");
    node.does("ip link set up0 master br0");
    node.nic(&[]).only("nic", "member of br0 (bridge)");
    node.does("ip link set up0 nomaster");
    assert_eq!(node.nic(&[]).wrong(), [""; 0]);
}

#[test]
fn another_xdp_program_is_named() {
    let node = Node::new();
    let (source, object) = (node.objects.join("other.c"), node.objects.join("other.o"));
    std::fs::write(&source, "__attribute__((section(\"xdp\"), used)) int other_program(void *ctx) { return 2; }\n")
        .unwrap();
    let (source, object) = (source.display().to_string(), object.display().to_string());
    let built = run(&["clang", "-O2", "-g", "-target", "bpf", "-c", &source, "-o", &object]);
    assert!(built.1, "{}", built.0);
    node.does(&format!("ip link set up0 xdpgeneric obj {object} sec xdp"));
    node.nic(&[]).only("nic", "another XDP program (other_program)");
    node.does("ip link set up0 xdpgeneric off");
    assert_eq!(node.nic(&[]).wrong(), [""; 0]);
}

#[test]
fn ranges_that_overlap_are_found() {
    let node = Node::new();
    node.says(&[("a", "10.1.0.0/16", "192.168.0.1"), ("b", "10.1.2.0/24", "192.168.0.2")]);
    node.doctor(&[]).only("ranges", "the pod range 10.1.0.0/16 of node a overlaps the pod range 10.1.2.0/24 of node b");
    node.says(&[("a", "172.30.1.0/24", "192.168.0.1")]);
    node.doctor(&[]).only("ranges", "the service range 172.30.0.0/16 overlaps");
    node.says(&[("a", "10.1.1.0/24", "10.1.1.9")]);
    node.doctor(&[]).only("ranges", "the address 10.1.1.9 of node a lies in the pod range");
    node.says(&[("b", "10.1.1.0/24", "192.168.0.2")]);
    node.doctor(&[]).only("ranges", "no Node object \"a\"");
    node.says(&[("a", "10.1.1.0/24", "192.168.0.1")]);
    node.does("ip link add cni0 type bridge");
    node.does("ip addr add 10.1.1.1/24 dev cni0");
    node.does("ip link set cni0 up");
    node.doctor(&[]).only("ranges", "cni0 of this node has a route to 10.1.1.0/24");
    node.does("ip link del cni0");
    assert_eq!(node.doctor(&[]).wrong(), [""; 0]);
}

#[test]
fn another_tunnel_on_the_same_port_is_found() {
    let node = Node::new();
    node.does("ip link add flannel.1 type vxlan id 1 dstport 4789 local 192.168.0.1 dev up0");
    node.does("ip link set flannel.1 up");
    node.doctor(&[]).only("tunnel-port", "UDP port 4789");
    assert_eq!(node.doctor(&["--tunnel-port", "8472"]).wrong(), [""; 0]);
    node.does("ip link del flannel.1");
    assert_eq!(node.doctor(&[]).wrong(), [""; 0]);
}

#[test]
fn what_kube_proxy_left_is_found() {
    let node = Node::new();
    node.does("nft add table ip kube-proxy");
    node.doctor(&[]).only("kube-proxy", "table ip kube-proxy");
    node.does("nft delete table ip kube-proxy");
    node.does("iptables -t nat -N KUBE-SERVICES");
    node.doctor(&[]).only("kube-proxy", "iptables");
    node.does("iptables -t nat -X KUBE-SERVICES");
    node.does("iptables -t nat -N KUBE-MARK-DROP");
    assert_eq!(node.doctor(&[]).wrong(), [""; 0], "the kubelet's own");
}

/// In a mount namespace of its own, where nobody misses the device.
#[test]
fn a_kernel_without_tun_is_found() {
    let node = Node::new();
    let script = format!("mount -t tmpfs none /dev/net && exec {FAIRWAY} -o json doctor");
    Told::of(node.inside(&["unshare", "--mount", "sh", "-c", &script])).only("kernel", "/dev/net/tun");
    let script = format!("exec {FAIRWAY} -o json doctor");
    assert_eq!(Told::of(node.inside(&["unshare", "--mount", "sh", "-c", &script])).wrong(), [""; 0]);
}

#[test]
fn whoever_is_not_root_is_told() {
    let node = Node::new();
    let told = Told::of(node.inside(&[
        "setpriv",
        "--reuid",
        "65534",
        "--clear-groups",
        "--inh-caps=-all",
        FAIRWAY,
        "-o",
        "json",
        "doctor",
    ]));
    assert!(told.wrong().iter().any(|what| what.contains("not run as root")), "{:?}", told.findings);
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_is_applied_is_undone_at_the_end() {
    let node = Node::new();
    node.does("ip link set up0 mtu 1300");
    node.does("ip link set up0 down");
    let link = || run(&["ip", "-n", &node.netns, "link", "show", "up0"]).0;
    let before = link();
    assert!(before.contains("mtu 1300") && !before.contains(",UP"), "{before}");
    let mut command = node.inside(&[FAIRWAY, "doctor", "nic", "up0", "--apply"]);
    let mut running = Running(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines();
    assert!(lines.by_ref().any(|line| line.unwrap().contains("This is done until Ctrl-C")));
    let during = link();
    assert!(during.contains("mtu 1500") && during.contains(",UP"), "{during}");
    rustix::process::kill_process(rustix::process::Pid::from_child(&running.0), rustix::process::Signal::INT).unwrap();
    assert!(running.0.wait().unwrap().success());
    let after = link();
    assert!(after.contains("mtu 1300") && !after.contains(",UP"), "{after}");
}
