//! The CNI plugin as a container runtime uses it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use lab::netns::Netns;
use lab::pod::container;
use lab::{Lab, Options};

/// What 99 of 100 ADDs take at most.
const ADD_LIMIT: Duration = Duration::from_millis(50);
const ADDS: usize = 100;
/// On a machine that is busy with something else.
const TRIES: usize = 5;

/// A pod range of 16 addresses: the node's own, the first and the last leave 11 for pods.
const SMALL: u8 = 28;
const ROOM: usize = 11;

fn lab() -> Lab {
    Lab::start(&Options { pod_prefix: SMALL, ..Options::default() }).expect("the lab comes up")
}

fn netns(lab: &Lab, name: &str) -> Netns {
    Netns::create(&format!("{}{name}", lab.guard().prefix())).expect("a namespace")
}

#[test]
fn a_pod_is_attached_checked_and_detached() {
    let _one = lab::one_at_a_time();
    let lab = lab();
    let plugin = lab.nodes[0].plugin();
    let pod = container("solo", netns(&lab, "solo"));
    let attached = plugin.add(&pod).expect("ADD");
    let address = attached.addresses[0].to_string();
    assert!(address.starts_with("10.244.1."), "{address} is outside of the node's pod range");
    let shown = pod.netns.ip("-o -4 address show dev eth0").expect("eth0 is there").stdout;
    assert!(shown.contains(&format!("inet {address}/")), "{shown}");
    let mtu = pod.netns.ip("-o link show dev eth0").expect("eth0 is there").stdout;
    assert!(mtu.contains("mtu 1450"), "the tunnel's header leaves 1450 of 1500: {mtu}");
    plugin.check(&pod, &attached.result).expect("CHECK of an attached pod");
    plugin.del(&pod, Some(&attached.result)).expect("DEL");
    plugin.del(&pod, Some(&attached.result)).expect("DEL once more must succeed");
    plugin.del(&pod, None).expect("DEL without the result must succeed");
    plugin.check(&pod, &attached.result).expect_err("CHECK of a detached pod must fail");
    let gone = pod.netns.ip("-o link show dev eth0");
    assert!(gone.is_err(), "eth0 is left in the pod");
}

#[test]
fn the_plugin_tells_its_versions() {
    let _one = lab::one_at_a_time();
    let versions = lab().nodes[0].plugin().versions().expect("VERSION");
    for wanted in ["1.0.0", "1.1.0"] {
        assert!(versions.iter().any(|version| version == wanted), "{wanted} is not among {versions:?}");
    }
}

#[test]
fn addresses_are_given_back() {
    let _one = lab::one_at_a_time();
    let lab = lab();
    let plugin = lab.nodes[0].plugin();
    for round in 0..2 * ROOM {
        let pod = container("again", netns(&lab, &format!("again-{round}")));
        let attached = plugin.add(&pod).unwrap_or_else(|error| panic!("ADD of round {round}: {error:#}"));
        plugin.del(&pod, Some(&attached.result)).unwrap_or_else(|error| panic!("DEL of round {round}: {error:#}"));
        pod.netns.remove().expect("the namespace goes");
    }
}

#[test]
fn a_full_range_is_said_and_survives_a_restart() {
    let _one = lab::one_at_a_time();
    let mut lab = lab();
    let mut given: Vec<IpAddr> = Vec::new();
    for number in 0..ROOM {
        let pod = container(&format!("p{number}"), netns(&lab, &format!("p{number}")));
        let attached = lab.nodes[0].plugin().add(&pod).unwrap_or_else(|error| panic!("ADD {number}: {error:#}"));
        assert!(!given.contains(&attached.addresses[0]), "{} was given twice", attached.addresses[0]);
        given.push(attached.addresses[0]);
    }
    let late = container("late", netns(&lab, "late"));
    let full = lab.nodes[0].plugin().add(&late).expect_err("the range is full").to_string();
    assert!(full.contains("10.244.1.0/28"), "the error must name the range: {full}");
    lab.nodes[0].kill_control().expect("control runs");
    lab.nodes[0].start_control().expect("control starts");
    lab.nodes[0].wait_connected().expect("control returns");
    lab.nodes[0].plugin().add(&late).expect_err("the range is still full after a restart");
}

#[test]
fn a_device_that_dies_without_a_del_is_said() {
    let _one = lab::one_at_a_time();
    let lab = lab();
    let node = &lab.nodes[0];
    let pod = container("lost", netns(&lab, "lost"));
    let attached = node.plugin().add(&pod).expect("ADD");
    let status = || node.fairway().run("status").expect("status").stdout;
    assert!(!status().contains("is gone"), "{}", status());
    pod.netns.ip("link del eth0").expect("the device goes");
    let said = lab::wait::until(Duration::from_secs(3), || status().contains("is gone"));
    assert!(said, "nothing in: {}", status());
    node.plugin().del(&pod, Some(&attached.result)).expect("DEL");
    assert!(!status().contains("is gone"), "it is said for ever: {}", status());
}

/// How long ADDs take, one after the other, beside a service and pods: from the start of the plugin's process to its end.
fn adds(lab: &Lab, round: usize) -> Vec<Duration> {
    let plugin = lab.nodes[0].plugin();
    let mut took: Vec<Duration> = Vec::new();
    for number in 0..ADDS {
        let pod = container("timed", netns(lab, &format!("t{round}-{number}")));
        let begun = Instant::now();
        let attached = plugin.add(&pod).unwrap_or_else(|error| panic!("ADD {number}: {error:#}"));
        took.push(begun.elapsed());
        plugin.del(&pod, Some(&attached.result)).unwrap_or_else(|error| panic!("DEL {number}: {error:#}"));
        pod.netns.remove().expect("the namespace goes");
    }
    took.sort();
    took
}

#[test]
fn an_add_takes_little_time() {
    let _one = lab::one_at_a_time();
    let lab = Lab::start(&Options { families: lab::Families::Dual, ..Options::default() }).expect("the lab comes up");
    let is_quick = |round| {
        let took = adds(&lab, round);
        let [median, p99] = [ADDS / 2, ADDS * 99 / 100 - 1].map(|place| took[place]);
        println!("ADD of both families: median {median:?}, p99 {p99:?}, longest {:?}", took[ADDS - 1]);
        p99 <= ADD_LIMIT
    };
    assert!((0..TRIES).any(is_quick), "never within {ADD_LIMIT:?}");
}
