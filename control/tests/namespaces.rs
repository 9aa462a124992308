//! What control does to network namespaces, done to real ones made for it. Needs root and iproute2, as control does.

use control::ipam::{GATEWAY_MAC, PodRange, mac_of};
use control::netlink::Netlink;
use control::node::{HOST_DEVICE, Node};
use control::offload;
use control::pod::{self, PodError, PodInterface};
use control::reserve::{self, ReserveError};
use control::sys;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;
use tables::{Addr, Prefix};

/// A namespace that is gone at the end of the test, whatever becomes of it.
struct Namespace(String);

impl Namespace {
    fn new(name: &str) -> Namespace {
        let name = format!("fairway-test-{name}-{}", std::process::id());
        let made = run(&["ip", "netns", "add", &name]);
        assert!(made.1, "this test makes network namespaces: run it as root, with iproute2 ({})", made.0);
        Namespace(name)
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.0)
    }

    fn ip(&self, arguments: &str) -> String {
        let base = ["ip", "-n", &self.0];
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
    assert_eq!(interface(&netns).check().await.unwrap(), made.ifindex);
    assert!(matches!(interface(&netns).create().await, Err(PodError::Exists(_))));

    assert!(interface(&netns).reopen().await.is_err(), "it has a reader");
    drop(made.tap);
    drop(interface(&netns).reopen().await.unwrap());

    netns.ip("addr del 10.244.1.4/32 dev eth0");
    let changed = interface(&netns).check().await.unwrap_err().to_string();
    assert!(changed.contains("10.244.1.4"), "{changed}");
    for _ in 0..2 {
        pod::remove(netns.path(), "eth0".into()).await.unwrap();
    }
    assert!(!netns.ip("link").contains("eth0"));
}

#[tokio::test(flavor = "current_thread")]
async fn a_missing_or_the_nodes_own_namespace_is_told_apart() {
    let own = PathBuf::from("/proc/self/ns/net");
    let missing = PathBuf::from("/run/netns/fairway-test-nobody");
    let netns = Namespace::new("apart");
    let of = |path: &PathBuf| PodInterface { netns: path.clone(), ..interface(&netns) };
    assert!(matches!(of(&own).create().await, Err(PodError::HostNetwork(_))));
    assert!(matches!(of(&missing).create().await, Err(PodError::Enter { .. })));
    pod::remove(missing, "eth0".into()).await.expect("what is gone is removed");
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

        let socket = std::net::TcpListener::bind("0.0.0.0:50000").unwrap();
        let refused = reserve::reserve(&(40000..=60999), &state).unwrap_err();
        assert!(matches!(refused, ReserveError::Socket { protocol: "TCP", port: 50000, .. }), "{refused}");
        assert_eq!(reserved(), "8080\n");
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
    netns.run(async || {
        assert!(is_on(), "a veth takes tags out by default");
        let crashed = offload::turn_off("nic0", true, &state).unwrap();
        assert!(!is_on());
        drop(crashed);
        let again = offload::turn_off("nic0", true, &state).unwrap();
        assert!(!is_on());
        again.release().unwrap();
        assert!(is_on());
        sys::set_vlan_offload("nic0", false).unwrap();
        offload::turn_off("nic0", true, &state).unwrap().release().unwrap();
        assert!(!is_on(), "it was off before");
        assert!(offload::turn_off("nic7", true, &state).is_err());
        offload::turn_off("nic7", false, &state).unwrap().release().unwrap();
    });
    std::fs::remove_dir_all(state).unwrap();
}
