//! Links of 9000 bytes: pods talk in packets of 8950 across nodes and of 9000 with the world outside, and no byte is lost.

use lab::exchange::{self, End, Road};
use lab::fairway::Drops;
use lab::shell::Cmd;
use lab::{Families, Lab, Options};

const UPLINK_MTU: u32 = 9000;
/// Less what VXLAN over IPv4 adds.
const POD_MTU: u32 = UPLINK_MTU - 50;

/// Alice and bob on one node, carol on the other, a server outside.
fn lab(workers: u32) -> Lab {
    let families = Families::Dual;
    let options = Options { uplink_mtu: UPLINK_MTU, families, workers, uplink_queues: workers, ..Options::default() };
    let mut lab = Lab::start(&options).expect("the lab comes up");
    for (name, node) in [("alice", 0), ("bob", 0), ("carol", 1)] {
        lab.add_pod(name, node, &[]).expect("a pod");
    }
    let client = lab.client().clone();
    lab.serve("client", &client).expect("a server");
    lab.settle().expect("tables in force");
    lab
}

/// Everything between two pods, in every family.
#[track_caller]
fn talk(lab: &Lab, one: &str, other: &str) {
    let pods = [one, other].map(|name| lab.pod(name).expect("a pod"));
    let road = Road { mtu: POD_MTU, megabits_per_second: 0 };
    for i in 0..lab.families().client().len() {
        let [near, far] = pods.map(|pod| End { name: pod.name(), netns: pod.netns(), address: pod.addresses()[i] });
        let told = exchange::meet(near, far).and_then(|()| exchange::everything(lab.binaries(), near, far, road));
        println!("{one}, {other}: {}", told.unwrap_or_else(|error| panic!("{one}, {other}: {error:#}")));
        pings(near, far.address, "-s 20000", 3);
    }
}

#[track_caller]
fn pings(from: End, to: std::net::IpAddr, options: &str, answers: u32) {
    let ping = Cmd::line(&format!("ping -q -c 3 -i 0.05 -W 1 {options} {to}")).netns(from.netns);
    let ran = ping.run().expect("ping runs");
    assert!(ran.stdout.contains(&format!(" {answers} received")), "{}: {}{}", ran.command, ran.stdout, ran.stderr);
}

#[test]
fn pods_talk_in_packets_as_large_as_the_links_take() {
    let _one = lab::one_at_a_time();
    for workers in [1, 2] {
        let lab = lab(workers);
        let servers = ["alice", "bob", "carol"].map(|name| {
            let netns = lab.pod(name).expect("a pod").netns();
            exchange::bulk_server(netns, lab.directory()).expect("iperf3")
        });
        talk(&lab, "alice", "carol");
        talk(&lab, "alice", "bob");
        let alice = lab.pod("alice").expect("alice");
        let alice = End { name: "alice", netns: alice.netns(), address: alice.addresses()[0] };
        // Masqueraded, from the client's larger packets too: those come back in pieces that the pod's interface takes.
        pings(alice, lab.families().client()[0], &format!("-M do -s {}", POD_MTU - 28), 3);
        pings(alice, lab.families().client()[0], "-s 20000", 3);
        for node in &lab.nodes {
            let drops = node.fairway().drops().expect("drops");
            let spoiled = ["Oversized", "TooBig", "BadChecksum", "Malformed", "Truncated"];
            assert_eq!(Drops::total(&drops, |reason| spoiled.contains(&reason)), 0, "{}: {drops:?}", node.name());
        }
        drop(servers);
    }
}
