//! A node's address changes, as a DHCP server or an administrator has it: the kernel has another one, and the node's object
//! says so a little later. Connections of pods go on, and the node is reached by its new address and no more by the old.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use lab::agent::converse::Conversation;
use lab::agent::serve::ECHO_PORT;
use lab::manifests::{self, Exposed};
use lab::netns::Netns;
use lab::process::Process;
use lab::shell::Cmd;
use lab::stage::harvest;
use lab::{Families, Lab, Options, addressing, wait};

const NODE_PORT: u16 = 30080;
/// Whatever has to be told of the new address, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn answers(from: &Netns, address: IpAddr, port: u16) -> bool {
    let connect = || TcpStream::connect_timeout(&SocketAddr::new(address, port), Duration::from_millis(300)).is_ok();
    from.inside(connect).expect("inside")
}

fn converse(lab: &Lab, from: &str, to: IpAddr) -> Process {
    let to = SocketAddr::new(to, ECHO_PORT).to_string();
    let netns = lab.pod(from).expect("a pod").netns();
    let command = Cmd::new(lab.binaries().agent()).args(["converse", "--to", &to]).netns(netns);
    Process::spawn(&format!("converse-{from}"), &command, lab.directory()).expect("it starts")
}

fn wire(families: Families) -> Lab {
    let mut lab = Lab::start(&Options { families, ..Options::default() }).expect("the lab comes up");
    lab.add_pod("alice", 0, &[]).expect("a pod");
    lab.add_pod("web", 1, &[("app", "web")]).expect("a pod");
    let exposed = Exposed {
        name: "web",
        addresses: &families.service(20),
        label: ("app", "web"),
        node_port: NODE_PORT,
        balancer: &[],
        external: &[],
        local: None,
    };
    lab.objects().apply("service-web", &manifests::exposed(&exposed)).expect("a service");
    lab.settle().expect("tables in force");
    lab
}

fn renumber(lab: &Lab, families: Families) -> (Vec<IpAddr>, Vec<IpAddr>) {
    let (node, old, new) = (&lab.nodes[0], families.node(1), families.node(101));
    let ranges = families.pod_ranges(1, Options::default().pod_prefix);
    let (device, assigned) = (node.uplink(), addressing::assignment);
    for ((old, new), range) in old.iter().zip(&new).zip(&ranges) {
        // In this order: with the first address the kernel takes away the others of its subnet.
        node.netns().ip(&format!("address del {} dev {device}", assigned(*old))).expect("ip");
        node.netns().ip(&format!("address add {} dev {device}", assigned(*new))).expect("ip");
        lab.client().ip(&format!("route replace {range} via {new}")).expect("ip");
    }
    wait::sleep_ms(500);
    let object = manifests::node(node.name(), &new, &ranges);
    lab.objects().apply(&format!("node-{}", node.name()), &object).expect("an object");
    (old, new)
}

fn is_followed(families: Families) {
    let _one = lab::one_at_a_time();
    let lab = wire(families);
    let client = lab.client().clone();
    let (alice, web) = (lab.pod("alice").expect("alice").address(), lab.pod("web").expect("web").address());
    let talks = [converse(&lab, "alice", web), converse(&lab, "web", alice)];
    families.node(1).iter().for_each(|old| assert!(answers(&client, *old, NODE_PORT), "{old}"));

    let (old, new) = renumber(&lab, families);
    let changed_us = wait::now_us();
    for (old, new) in old.iter().zip(&new) {
        assert!(wait::until(PATIENCE, || answers(&client, *new, NODE_PORT)), "{new} does not answer");
        assert!(!answers(&client, *old, NODE_PORT), "{old} still answers");
    }
    let (service, pod) = (families.service(20)[0], lab.pod("alice").expect("alice").netns().clone());
    assert!(wait::until(PATIENCE, || answers(&pod, service, 7)), "the service does not answer");
    // What pods say to the world outside is masqueraded to the new address.
    assert!(wait::until(PATIENCE, || answers(&client, alice, ECHO_PORT)), "the pod does not answer");
    wait::sleep_ms(1000);
    for talk in talks {
        let conversation: Conversation = harvest(talk).expect("a conversation");
        assert_eq!(conversation.broken, None);
        let exchanges = &conversation.exchanges;
        let longest = exchanges.iter().map(|exchange| exchange.echoed_us - exchange.sent_us).max();
        println!("{families:?}: {} exchanges, the slowest took {longest:?} us", exchanges.len());
        assert!(exchanges.last().is_some_and(|last| last.sent_us > changed_us + 500_000), "it hangs");
    }
}

#[test]
fn a_new_ipv4_address_of_a_node_is_followed() {
    is_followed(Families::Ipv4);
}

#[test]
fn new_addresses_of_both_families_are_followed() {
    is_followed(Families::Dual);
}
