//! A plain Linux vxlan device as another node: what Fairway sends, the kernel understands, and the other way round,
//! whatever its devices do or leave to others.

use lab::exchange::{self, End, Road};
use lab::peer::Peer;
use lab::shell::Cmd;
use lab::{Families, Lab, Options};

/// How the kernel's side is set up: options of its vxlan device, and what `ethtool -K` says on both of its devices.
struct Variant {
    vxlan: &'static str,
    offloads: &'static str,
}

const AS_IT_COMES: Variant = Variant { vxlan: "nolearning", offloads: "rx on tx on tso on gso on gro on" };
const LEARNS_AND_DOES_ALL_ITSELF: Variant =
    Variant { vxlan: "learning", offloads: "rx off tx off tso off gso off gro off" };
/// Its packets are cut late, and ours are not put together.
const NO_GRO: Variant = Variant { vxlan: "nolearning", offloads: "rx on tx on tso on gso on gro off" };
/// Its outer checksums are computed, which over IPv4 they usually are not.
const OUTER_CHECKSUMS: Variant = Variant { vxlan: "learning udpcsum", offloads: "rx on tx on tso off gso off gro on" };

impl Variant {
    fn set_up(&self, peer: &Peer, mtu: u32) {
        let ([mac, node_mac], netns) = (peer.macs(), peer.netns());
        let _ = Cmd::line("ip link del vxlan0").netns(netns).run();
        let _ = Cmd::line("ip address flush dev lo scope global").netns(netns).run();
        // Over IPv6 Fairway's outer checksum is zero, which RFC 6935 allows and this kernel has to be told.
        let zero = if peer.address().is_ipv6() { "udp6zerocsumrx" } else { "" };
        let (local, node, options) = (peer.address(), peer.node(), self.vxlan);
        let device = format!(
            "link add vxlan0 address {mac} mtu {mtu} type vxlan id 1 dstport 4789 local {local} {options} {zero}"
        );
        for setup in [&device, "link set vxlan0 up"] {
            netns.ip(setup).unwrap_or_else(|error| panic!("ip {setup}: {error:#}"));
        }
        let entry = format!("bridge fdb append {node_mac} dev vxlan0 dst {node}");
        Cmd::line(&entry).netns(netns).ok().expect("a forwarding entry");
        for device in ["eth0", "vxlan0"] {
            Cmd::line(&format!("ethtool -K {device} {}", self.offloads)).netns(netns).ok().expect("ethtool");
        }
        peer.route_by_ethernet("vxlan0").expect("routes");
    }
}

fn reach_each_other(families: Families, workers: u32, mtu: u32, variants: &[Variant]) {
    let _one = lab::one_at_a_time();
    let options = Options { families, workers, uplink_queues: workers, ..Options::default() };
    let mut lab = Lab::start(&options).expect("the lab comes up");
    let peer = Peer::join(&lab).expect("a third node");
    lab.serve("kernel", peer.netns()).expect("a server");
    lab.add_pod("alice", 0, &[]).expect("a pod");
    lab.settle().expect("tables in force");
    let alice = lab.pod("alice").expect("alice");
    let _servers =
        [alice.netns(), peer.netns()].map(|netns| exchange::bulk_server(netns, lab.directory()).expect("iperf3"));
    for variant in variants {
        variant.set_up(&peer, mtu);
        for (&near, &far) in alice.addresses().iter().zip(peer.pods()) {
            let near = End { name: "alice", netns: alice.netns(), address: near };
            let far = End { name: "kernel", netns: peer.netns(), address: far };
            let told = exchange::everything(lab.binaries(), near, far, Road { mtu, megabits_per_second: 0 });
            let told =
                told.unwrap_or_else(|error| panic!("vxlan {}, {:?}: {error:#}", variant.vxlan, variant.offloads));
            println!("vxlan {}, {:?}: {told}", variant.vxlan, variant.offloads);
        }
    }
}

#[test]
fn a_kernel_vxlan_node_and_a_fairway_node_reach_each_other() {
    reach_each_other(Families::Dual, 1, 1450, &[AS_IT_COMES, LEARNS_AND_DOES_ALL_ITSELF, NO_GRO, OUTER_CHECKSUMS]);
}

#[test]
fn a_kernel_vxlan_node_and_a_fairway_node_reach_each_other_over_ipv6() {
    reach_each_other(Families::Ipv6, 1, 1430, &[AS_IT_COMES, LEARNS_AND_DOES_ALL_ITSELF]);
}

/// What comes in on one queue belongs to either worker, fragments and errors too.
#[test]
fn a_kernel_vxlan_node_and_a_fairway_node_of_two_workers_reach_each_other() {
    reach_each_other(Families::Dual, 2, 1450, &[AS_IT_COMES, LEARNS_AND_DOES_ALL_ITSELF]);
}
