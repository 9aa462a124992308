//! What control does to network namespaces, done to real ones made for it. Needs root and iproute2, as control does.

use control::bandwidth::{Bandwidth, Rate};
use control::compile::Single;
use control::ipam::{GATEWAY_MAC, PodRange, mac_of};
use control::netlink::Netlink;
use control::node::{HOST_DEVICE, Node, Steered};
use control::offload;
use control::pod::{PodError, PodInterface};
use control::reserve;
use control::sys;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tables::{Addr, Prefix, Protocol};

/// A namespace that is gone at the end of the test, whatever becomes of it. One test at a time has one: a program that
/// another one starts would hold this one's descriptors for a moment.
struct Namespace(String, #[expect(dead_code, reason = "held, not read")] MutexGuard<'static, ()>);

impl Namespace {
    fn new(name: &str) -> Namespace {
        static ONE: Mutex<()> = Mutex::new(());
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("fairway-test-{name}-{}", std::process::id());
        let made = run(&["ip", "netns", "add", &name]);
        assert!(made.1, "this test makes network namespaces: run it as root, with iproute2 ({})", made.0);
        Namespace(name, one)
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.0)
    }

    fn ip(&self, arguments: &str) -> String {
        let base = ["ip", "-n", &self.0];
        run(&base.into_iter().chain(arguments.split(' ')).collect::<Vec<_>>()).0
    }

    fn tc(&self, arguments: &str) -> String {
        let base = ["tc", "-n", &self.0];
        run(&base.into_iter().chain(arguments.split(' ')).collect::<Vec<_>>()).0
    }

    /// Runs a future on a thread inside.
    fn run<T: Send>(&self, work: impl AsyncFnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = || {
                let file = File::open(self.path()).unwrap();
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(work())
            };
            scope.spawn(inside).join().unwrap()
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        run(&["ip", "netns", "del", &self.0]);
    }
}

fn run(command: &[&str]) -> (String, bool) {
    let output = Command::new(command[0]).args(&command[1..]).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8_lossy(&text).into_owned(), output.status.success())
}

fn addr(text: &str) -> Addr {
    text.parse().unwrap()
}

fn interface(netns: &Namespace) -> PodInterface {
    PodInterface {
        netns: netns.path(),
        ifname: "eth0".into(),
        mac: mac_of(addr("10.244.1.4")),
        addrs: vec![addr("10.244.1.4"), addr("fd00:1::4")],
        gateways: vec![addr("10.244.1.1"), addr("fd00:1::1")],
        mtu: 1450,
        bandwidth: Bandwidth::default(),
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_pod_gets_its_interface_and_loses_it_again() {
    let netns = Namespace::new("pod");
    let made = interface(&netns).create().await.unwrap();
    let link = netns.ip("-d link show eth0");
    for part in ["mtu 1450", "02:fa:0a:f4:01:04", "vnet_hdr on", "persist on", "UP"] {
        assert!(link.contains(part), "{part} in {link}");
    }
    let routes = netns.ip("route");
    assert!(routes.contains("default via 10.244.1.1 dev eth0") && routes.contains("10.244.1.1 dev eth0"), "{routes}");
    assert!(netns.ip("-6 route").contains("default via fd00:1::1 dev eth0"));
    assert!(netns.ip("neigh").contains(&format!("10.244.1.1 dev eth0 lladdr {GATEWAY_MAC} PERMANENT")));
    assert!(netns.ip("-o addr show eth0").contains("10.244.1.4/32"));
    let v6 = netns.ip("-6 -o addr show eth0");
    assert!(v6.contains("fd00:1::4/128 scope global nodad") && !v6.contains("tentative"), "usable at once: {v6}");
    assert!(made.ifindex > 0);
    interface(&netns).check().await.unwrap();
    assert!(matches!(interface(&netns).create().await, Err(PodError::Exists(_))));

    assert!(interface(&netns).reopen().await.is_err(), "it has a reader");
    drop(made.tap);
    drop(interface(&netns).reopen().await.unwrap());

    netns.ip("link set eth0 address 02:00:00:00:00:01");
    let changed = interface(&netns).check().await.unwrap_err().to_string();
    assert!(changed.contains("02:00:00:00:00:01"), "{changed}");
    netns.ip("link set eth0 address 02:fa:0a:f4:01:04");
    interface(&netns).check().await.unwrap();
    // Each is told before what was changed earlier.
    for (change, told) in [
        ("route del default dev eth0", "the route to 0.0.0.0/0"),
        ("addr del fd00:1::4/128 dev eth0", "address fd00:1::4"),
        ("addr del 10.244.1.4/32 dev eth0", "address 10.244.1.4"),
        ("link set eth0 down", "it is down"),
    ] {
        netns.ip(change);
        let changed = interface(&netns).check().await.unwrap_err().to_string();
        assert!(changed.contains(told), "{change}: {changed}");
    }
    for _ in 0..2 {
        interface(&netns).remove().await.unwrap();
    }
    assert!(!netns.ip("link").contains("eth0"));
}

#[tokio::test(flavor = "current_thread")]
async fn rates_are_made_in_the_directions_that_are_asked_for() {
    let netns = Namespace::new("rates");
    let rate = |bits_per_s| Some(Rate { bits_per_s, burst_bits: 0 });
    let bandwidth = Bandwidth { egress: rate(100_000_000), ingress: None };
    let of = |bandwidth: &Bandwidth| PodInterface { bandwidth: bandwidth.clone(), ..interface(&netns) };
    drop(of(&bandwidth).create().await.unwrap());
    assert!(
        netns.tc("qdisc show dev eth0").contains("rate 102Mbit burst 249Kb lat 50ms"),
        "{}",
        netns.tc("qdisc show")
    );
    assert!(!netns.ip("link").contains("ifb"));
    of(&bandwidth).check().await.unwrap();
    of(&bandwidth).remove().await.unwrap();

    // 34 Gbit/s and more do not fit the kernel's 32 bits.
    let bandwidth = Bandwidth { egress: None, ingress: rate(100_000_000_000) };
    let named = PodInterface { ifname: "a-name-of-15-by".into(), ..of(&bandwidth) };
    drop(named.clone().create().await.unwrap());
    assert!(netns.tc("qdisc show dev ifb-me-of-15-by").contains("rate 102Gbit"), "{}", netns.tc("qdisc show"));
    assert!(!netns.tc("qdisc show dev a-name-of-15-by root").contains("tbf"));
    named.clone().check().await.unwrap();
    let other = Bandwidth { ingress: rate(50_000_000_000), ..bandwidth };
    let changed = PodInterface { bandwidth: other, ..named.clone() }.check().await.unwrap_err().to_string();
    assert!(changed.contains("what it receives is not limited to 50000000000 bit/s"), "{changed}");
    for _ in 0..2 {
        named.clone().remove().await.unwrap();
    }
    assert_eq!(netns.ip("-o link").lines().count(), 1, "{}", netns.ip("-o link"));
}

#[tokio::test(flavor = "current_thread")]
async fn a_missing_or_the_nodes_own_namespace_is_told_apart() {
    let own = PathBuf::from("/proc/self/ns/net");
    let missing = PathBuf::from("/run/netns/fairway-test-nobody");
    let netns = Namespace::new("apart");
    let of = |path: &PathBuf| PodInterface { netns: path.clone(), ..interface(&netns) };
    assert!(matches!(of(&own).create().await, Err(PodError::HostNetwork(_))));
    assert!(matches!(of(&missing).create().await, Err(PodError::Enter { .. })));
    of(&missing).remove().await.expect("what is gone is removed");
    netns.ip("link add eth0 type veth peer name other");
    interface(&netns).remove().await.unwrap();
    assert!(netns.ip("link").contains("eth0"), "another's interface is left");
}

#[test]
fn a_node_is_given_back_as_it_was() {
    let netns = Namespace::new("node");
    netns.ip("link add up0 type veth peer name far");
    netns.ip("link set up0 up");
    netns.ip("addr add 192.168.77.1/24 dev up0");
    let before = (netns.ip("route"), netns.ip("-6 route"), netns.ip("-o link"));
    netns.run(async || {
        let netlink = Netlink::connect().unwrap();
        let uplink = netlink.link("up0").await.unwrap().unwrap().index;
        let mut node = Node::prepare(netlink.clone(), 1450).await.unwrap();
        let ranges = ["10.244.1.0/24", "fd00:1::/64"].map(|range| PodRange::new(range.parse().unwrap()).unwrap());
        let cidrs = ["10.244.0.0/16", "fd00::/16", "10.96.0.0/16"].map(|cidr| cidr.parse::<Prefix>().unwrap());
        node.configure(&ranges, &cidrs).await.unwrap();
        let hop = BTreeSet::from([addr("192.168.77.2")]);
        assert!(node.keep_next_hops(uplink, &hop).await && !node.keep_next_hops(uplink, &hop).await);
        let routes = netns.ip("route");
        for part in [
            "10.244.0.0/16 via 10.244.1.1 dev fairway0 proto 250 src 10.244.1.2 onlink",
            "blackhole 10.244.0.0/16 proto 250 metric 4294967295",
            "10.96.0.0/16 via",
        ] {
            assert!(routes.contains(part), "{part} in {routes}");
        }
        let routes = netns.ip("-6 route");
        assert!(
            routes.contains("fd00::/16 via fd00:1::1 dev fairway0") && routes.contains("blackhole fd00::/16"),
            "{routes}"
        );
        assert!(netns.ip("neigh").contains("192.168.77.2 dev up0 managed extern_learn"), "{}", netns.ip("neigh"));

        // A successor of a killed process finds it all, and takes away what is no longer wanted.
        drop(node);
        let mut node = Node::prepare(netlink, 1450).await.unwrap();
        assert!(node.tap().is_ok());
        node.configure(&ranges, &cidrs[..2]).await.unwrap();
        assert!(!netns.ip("route").contains("10.96.0.0/16"), "{}", netns.ip("route"));
        assert!(netns.ip("-o addr show").contains(HOST_DEVICE));
        assert!(node.keep_next_hops(uplink, &hop).await);
        node.undo().await.unwrap();
    });
    assert_eq!((netns.ip("route"), netns.ip("-6 route"), netns.ip("-o link")), before);
    assert!(!netns.ip("neigh").contains("managed"));
}

fn single(text: &str, protocol: Protocol, port: u16) -> Single {
    Single { addr: addr(text), protocol, port }
}

fn asked(rows: &[Single]) -> Steered {
    Steered { asked: rows.iter().copied().collect(), ..Steered::default() }
}

/// By which device the node itself sends to a port.
fn way(netns: &Namespace, to: &str, port: u16) -> String {
    let shown = netns.ip(&format!("route get {to} ipproto tcp dport {port}"));
    shown.split_whitespace().skip_while(|word| *word != "dev").nth(1).unwrap_or("none").to_owned()
}

/// A node with an uplink, prepared and configured; `work` gets it with its netlink socket.
fn with_node(netns: &Namespace, work: impl AsyncFnOnce(Node, Netlink) + Send) {
    netns.ip("link set lo up");
    netns.ip("link add up0 type veth peer name far");
    netns.ip("link set up0 up");
    netns.ip("addr add 192.168.77.1/24 dev up0");
    netns.ip("addr add 2001:db8::1/64 dev up0 nodad");
    netns.run(async || {
        let netlink = Netlink::connect().unwrap();
        let node = configured(netlink.clone()).await;
        work(node, netlink).await;
    });
}

async fn configured(netlink: Netlink) -> Node {
    let mut node = Node::prepare(netlink, 1450).await.unwrap();
    let ranges = ["10.244.1.0/24", "fd00:1::/64"].map(|range| PodRange::new(range.parse().unwrap()).unwrap());
    let cidrs = ["10.244.0.0/16", "fd00::/16", "10.96.0.0/16"].map(|cidr| cidr.parse::<Prefix>().unwrap());
    node.configure(&ranges, &cidrs).await.unwrap();
    node
}

#[test]
fn addresses_of_services_are_routed_one_by_one_and_only_while_there_are_such() {
    let netns = Namespace::new("hosts");
    with_node(&netns, async |mut node, netlink| {
        let hosts = |all: &[&str]| all.iter().map(|text| addr(text)).collect::<BTreeSet<Addr>>();
        let none = Steered::default();
        node.serve(&hosts(&["198.51.100.7", "10.96.0.9", "2001:db8:7::7"]), &none).await.unwrap();
        let (routes, v6) = (netns.ip("route"), netns.ip("-6 route"));
        for part in ["198.51.100.7 via 10.244.1.1 dev fairway0 proto 250 src 10.244.1.2", "blackhole 198.51.100.7 "] {
            assert!(routes.contains(part), "{part} in {routes}");
        }
        assert!(v6.contains("2001:db8:7::7 via fd00:1::1") && v6.contains("blackhole 2001:db8:7::7 "), "{v6}");
        assert!(!routes.contains("10.96.0.9"), "its range has a route: {routes}");

        // Control was killed; its successor does not cut what still is, nor keep what is not.
        drop(node);
        let mut node = configured(netlink).await;
        assert_eq!(netns.ip("route"), routes);
        node.serve(&hosts(&["2001:db8:7::7", "198.51.100.8"]), &none).await.unwrap();
        let (routes, v6) = (netns.ip("route"), netns.ip("-6 route"));
        assert!(!routes.contains("198.51.100.7") && routes.contains("blackhole 198.51.100.8 "), "{routes}");
        assert!(v6.contains("2001:db8:7::7 via fd00:1::1"), "{v6}");
        node.serve(&BTreeSet::new(), &none).await.unwrap();
        let (routes, v6) = (netns.ip("route"), netns.ip("-6 route"));
        assert!(!routes.contains("198.51.100") && !v6.contains("2001:db8:7::7"), "{routes}{v6}");
        assert!(routes.contains("blackhole 10.96.0.0/16"), "{routes}");
        node.undo().await.unwrap();
    });
}

#[test]
fn the_nodes_own_packets_to_its_node_ports_are_steered_and_all_is_undone_also_after_a_crash() {
    let netns = Namespace::new("steer");
    let rules = || (netns.ip("rule"), netns.ip("-6 rule"));
    let before = rules();
    assert!(before.0.starts_with("0:\tfrom all lookup local"), "{before:?}");
    with_node(&netns, async |mut node, netlink| {
        let none = BTreeSet::new();
        let rows = [
            single("192.168.77.1", Protocol::TCP, 30080),
            single("192.168.77.1", Protocol::TCP, 30081),
            single("127.0.0.1", Protocol::TCP, 30080),
            single("2001:db8::1", Protocol::TCP, 30080),
        ];
        node.serve(&none, &asked(&rows)).await.unwrap();
        let check = |steered: &[(&str, u16)]| {
            for to in ["192.168.77.1", "127.0.0.1", "2001:db8::1", "::1"] {
                for port in [22, 30079, 30080, 30081, 30082] {
                    let device = if steered.contains(&(to, port)) { HOST_DEVICE } else { "lo" };
                    assert_eq!(way(&netns, to, port), device, "{to} {port} by {:?}", rules());
                }
            }
        };
        let all = rows.map(|row| (row.addr.to_string(), row.port));
        let all: Vec<(&str, u16)> = all.iter().map(|(to, port)| (to.as_str(), *port)).collect();
        check(&all);
        let set =
            |name: &str| std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{HOST_DEVICE}/{name}")).unwrap();
        assert_eq!((set("accept_local").trim(), set("route_localnet").trim()), ("1", "1"));

        // Killed and started again: nothing is cut before it is known what there is now.
        drop(node);
        let mut node = configured(netlink.clone()).await;
        check(&all);
        node.serve(&none, &asked(&rows[..1])).await.unwrap();
        check(&all[..1]);
        assert_eq!(rules().1, before.1, "no node port of this family is left");
        assert_eq!(set("route_localnet").trim(), "0");
        node.serve(&none, &Steered::default()).await.unwrap();
        assert_eq!(rules(), before);
        node.serve(&none, &asked(&rows)).await.unwrap();
        drop(node);
        Node::prepare(netlink, 1450).await.unwrap().undo().await.unwrap();
    });
    assert_eq!(rules(), before);
    assert_eq!(netns.ip("route show table all proto 250"), "");
    assert_eq!(netns.ip("-6 route show table all proto 250"), "");
}

/// What the node's own sockets answer to clients whose addresses are kept.
#[test]
fn answers_of_what_serves_clients_outside_go_to_fairway_and_others_as_before() {
    let netns = Namespace::new("answers");
    let rules = || (netns.ip("rule"), netns.ip("-6 rule"));
    let before = rules();
    with_node(&netns, async |mut node, netlink| {
        let serving = [single("192.168.77.1", Protocol::TCP, 9100), single("2001:db8::1", Protocol::TCP, 9100)];
        let steered = Steered { answering: serving.into(), ..Steered::default() };
        let way = |from: &str, to: &str, port: u16| {
            let shown = netns.ip(&format!("route get {to} from {from} ipproto tcp sport {port}"));
            shown.split_whitespace().skip_while(|word| *word != "dev").nth(1).unwrap_or("none").to_owned()
        };
        node.serve(&BTreeSet::new(), &steered).await.unwrap();
        // Its successor finds the rules of one that was killed.
        drop(node);
        let mut node = configured(netlink).await;
        node.serve(&BTreeSet::new(), &steered).await.unwrap();
        for (own, client) in [("192.168.77.1", "192.168.77.9"), ("2001:db8::1", "2001:db8::9")] {
            assert_eq!(way(own, client, 9100), HOST_DEVICE, "{:?}", rules());
            assert_ne!(way(own, client, 9101), HOST_DEVICE);
            assert_eq!(way(own, own, 9100), "lo", "what stays on the node stays there");
        }
        node.serve(&BTreeSet::new(), &Steered::default()).await.unwrap();
        assert_eq!(rules(), before);
        node.serve(&BTreeSet::new(), &steered).await.unwrap();
        node.undo().await.unwrap();
    });
    assert_eq!(rules(), before);
    assert_eq!(netns.ip("route show table all proto 250"), "");
}

#[test]
fn who_moved_the_rule_of_the_table_local_finds_it_where_it_was() {
    let netns = Namespace::new("moved");
    netns.ip("rule add pref 100 lookup local");
    netns.ip("rule del pref 0");
    let before = netns.ip("rule");
    with_node(&netns, async |mut node, _| {
        node.serve(&BTreeSet::new(), &asked(&[single("192.168.77.1", Protocol::TCP, 30080)])).await.unwrap();
        assert_eq!(way(&netns, "192.168.77.1", 30080), HOST_DEVICE);
        assert_eq!(way(&netns, "192.168.77.1", 30081), "lo");
        node.undo().await.unwrap();
    });
    assert_eq!(netns.ip("rule"), before);
}

/// As many as a node's range of node ports holds, every other one, so that none are adjacent; and addresses of load balancers.
#[test]
fn thousands_of_services_cost_the_kernel_little_and_a_change_of_one_next_to_nothing() {
    let netns = Namespace::new("many");
    with_node(&netns, async |mut node, _| {
        let hosts: BTreeSet<Addr> = (0..4000u32).map(|i| Addr::v4((0xc633_0000 + i).to_be_bytes())).collect();
        let rows: Vec<Single> = (0..1384).map(|i| single("192.168.77.1", Protocol::TCP, 30000 + 2 * i)).collect();
        let (few_hosts, few_rows) = (hosts.iter().skip(1).copied().collect(), asked(&rows[1..]));
        let begun = Instant::now();
        node.serve(&hosts, &asked(&rows)).await.unwrap();
        let all = begun.elapsed();
        let begun = Instant::now();
        node.serve(&few_hosts, &few_rows).await.unwrap();
        let one = begun.elapsed();
        let count = |text: String| text.lines().count();
        println!("all: {all:?}, one of each: {one:?}, rules: {}", count(netns.ip("rule")));
        assert_eq!(count(netns.ip("route show proto 250")), 2 * (2 + 3999));
        assert!(all < Duration::from_secs(10), "{all:?}");
        assert!(one < Duration::from_millis(500), "{one:?}");
        node.undo().await.unwrap();
    });
    assert_eq!(netns.ip("rule").lines().count(), 3);
}

#[test]
fn snat_ports_are_reserved_and_restored_even_after_a_crash() {
    let netns = Namespace::new("reserve");
    let state = std::env::temp_dir().join(&netns.0);
    std::fs::create_dir_all(&state).unwrap();
    let reserved = || std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports").unwrap();
    netns.run(async || {
        std::fs::write("/proc/sys/net/ipv4/ip_local_reserved_ports", "8080\n").unwrap();
        drop(reserve::reserve(&(40000..=60999), &state).unwrap());
        assert_eq!(reserved(), "8080,40000-60999\n");
        let again = reserve::reserve(&(40000..=60999), &state).unwrap();
        again.release().unwrap();
        assert_eq!(reserved(), "8080\n");

        // Whoever is there already stays.
        let socket = std::net::TcpListener::bind("0.0.0.0:50000").unwrap();
        let beside = reserve::reserve(&(40000..=60999), &state).unwrap();
        assert_eq!(reserve::taken(&(40000..=60999)), [50000].into());
        beside.release().unwrap();
        drop(socket);
    });
    std::fs::remove_dir_all(state).unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn tags_stay_in_frames_while_it_is_wanted_also_after_a_crash() {
    let netns = Namespace::new("offload");
    netns.ip("link add nic0 type veth peer name nic1");
    let state = std::env::temp_dir().join(netns.0.clone());
    std::fs::create_dir_all(&state).unwrap();
    let is_on = || sys::vlan_offload("nic0").unwrap();
    let name = str::to_owned;
    netns.run(async || {
        assert!(is_on(), "a veth takes tags out by default");
        let crashed = offload::turn_off(&[name("nic0")], true, &state).unwrap();
        assert!(!is_on());
        drop(crashed);
        let again = offload::turn_off(&[name("nic0")], true, &state).unwrap();
        assert!(!is_on());
        again.release().unwrap();
        assert!(is_on());
        sys::set_vlan_offload("nic0", false).unwrap();
        offload::turn_off(&[name("nic0")], true, &state).unwrap().release().unwrap();
        assert!(!is_on(), "it was off before");
        assert!(offload::turn_off(&[name("nic7")], true, &state).is_err());
        offload::turn_off(&[name("nic7")], false, &state).unwrap().release().unwrap();
    });
    std::fs::remove_dir_all(state).unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn tags_stay_in_frames_of_all_members_of_a_bond() {
    let netns = Namespace::new("offloads");
    netns.ip("link add nic0 type veth peer name nic1");
    let state = std::env::temp_dir().join(netns.0.clone());
    std::fs::create_dir_all(&state).unwrap();
    let are_on = || ["nic0", "nic1"].map(|nic| sys::vlan_offload(nic).unwrap());
    let both = ["nic0", "nic1"].map(str::to_owned);
    netns.run(async || {
        drop(offload::turn_off(&both, true, &state).unwrap());
        assert_eq!(are_on(), [false, false]);
        // A successor whose uplink is the first of them alone.
        let one = offload::turn_off(&both[..1], true, &state).unwrap();
        assert_eq!(are_on(), [false, true]);
        one.release().unwrap();
        assert_eq!(are_on(), [true, true]);
        sys::set_vlan_offload("nic1", false).unwrap();
        std::fs::write(state.join("vlan-offload.json"), "\"nic1\"").unwrap();
        assert_eq!(offload::Offload::left(&state).unwrap(), ["nic1"], "as builds before wrote it");
        assert_eq!(are_on(), [true, true]);
    });
    std::fs::remove_dir_all(state).unwrap();
}
