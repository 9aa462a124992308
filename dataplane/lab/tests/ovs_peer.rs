//! Open vSwitch, with its datapath in user space, as another node: VXLAN and Geneve as it writes and reads them. Geneve
//! options of its that we may ignore are ignored, and one that we must understand stops its packet.

use lab::exchange::{self, End, Road};
use lab::fabric::UPLINK;
use lab::fairway::Drops;
use lab::netns::Netns;
use lab::ovs::Ovs;
use lab::peer::Peer;
use lab::process::Process;
use lab::{Families, Lab, Options, wait};

/// Fairway's pods on node-1, and a namespace behind the switch.
struct Scene {
    ovs: Ovs,
    behind: Netns,
    peer: Peer,
    _servers: Vec<Process>,
    // Last: it removes what the others are made of.
    lab: Lab,
}

impl Scene {
    fn set(families: Families, encapsulation: &str, tunnel: &str, route: &str) -> Self {
        let control_args = ["--encapsulation", encapsulation].map(str::to_string).to_vec();
        let options = Options { families, control_args, ..Options::default() };
        let mut lab = Lab::start(&options).expect("the lab comes up");
        let peer = Peer::join(&lab).expect("a third node");
        let ovs = Ovs::start(peer.netns(), lab.directory()).expect("Open vSwitch");
        let behind = Netns::create(&format!("{}behind", lab.guard().prefix())).expect("a namespace");
        lab.silence(&behind).expect("sysctl");
        switch(&ovs, &peer, &behind, &format!("type={encapsulation} {tunnel}"));
        peer.route(&behind, "eth0", route).expect("routes");
        lab.add_pod("alice", 0, &[]).expect("a pod");
        lab.serve("behind", &behind).expect("a server");
        lab.settle().expect("tables in force");
        let alice = lab.pod("alice").expect("alice").netns();
        let servers = [alice, &behind].map(|netns| exchange::bulk_server(netns, lab.directory()).expect("iperf3"));
        Scene { ovs, behind, peer, _servers: servers.into(), lab }
    }

    /// alice and the namespace behind the switch, of each family.
    fn ends(&self) -> Vec<[End<'_>; 2]> {
        let alice = self.lab.pod("alice").expect("alice");
        let end = |name, netns, address| End { name, netns, address };
        let pairs = alice.addresses().iter().zip(self.peer.pods());
        pairs.map(|(&near, &far)| [end("alice", alice.netns(), near), end("behind", &self.behind, far)]).collect()
    }

    #[track_caller]
    fn talk(&self, what: &str, mtu: u32) {
        for [near, far] in self.ends() {
            let road = Road { mtu, megabits_per_second: 200 };
            let told =
                exchange::meet(far, near).and_then(|()| exchange::everything(self.lab.binaries(), near, far, road));
            println!("{what}: {}", told.unwrap_or_else(|error| panic!("{what}: {error:#}")));
        }
    }

    fn drops(&self, reason: &str) -> u64 {
        Drops::total(&self.lab.nodes[0].fairway().drops().expect("drops"), |name| name == reason)
    }
}

/// One bridge has the uplink and the node's addresses, the other has the namespace and the tunnel.
fn switch(ovs: &Ovs, peer: &Peer, behind: &Netns, tunnel: &str) {
    let outside = peer.netns();
    outside.ip(&format!("address flush dev {UPLINK} scope global")).expect("ip address");
    ovs.configure(&format!("add-br outside -- set bridge outside datapath_type=netdev -- add-port outside {UPLINK}"))
        .expect("a bridge");
    for address in peer.assignments() {
        outside.ip(&format!("address add {address} dev outside")).expect("ip address");
    }
    outside.ip("link set outside up").expect("ip link");
    let [mac, _] = peer.macs();
    let pair = format!("link add pod0 type veth peer name eth0 address {mac} mtu 1450 netns {}", behind.name());
    for setup in [pair.as_str(), "link set pod0 up"] {
        outside.ip(setup).expect("ip link");
    }
    behind.ip("link set eth0 up").expect("ip link");
    // The switch reads packets as they are: a half-computed checksum would go out so.
    lab::shell::Cmd::line("ethtool -K eth0 tx off").netns(behind).ok().expect("ethtool");
    peer.own_pods(behind, "eth0").expect("addresses");
    let (local, node) = (peer.address(), peer.node());
    ovs.configure(&format!(
        "add-br inside -- set bridge inside datapath_type=netdev -- add-port inside pod0 -- add-port inside tunnel0 \
         -- set interface tunnel0 {tunnel} options:local_ip={local} options:remote_ip={node} options:key=1"
    ))
    .expect("a tunnel");
}

#[test]
fn a_vxlan_node_of_open_vswitch_and_a_fairway_node_reach_each_other() {
    let _one = lab::one_at_a_time();
    Scene::set(Families::Dual, "vxlan", "", "").talk("vxlan", 1450);
}

#[test]
fn a_vxlan_node_of_open_vswitch_over_ipv6_with_checksums() {
    let _one = lab::one_at_a_time();
    Scene::set(Families::Ipv6, "vxlan", "options:csum=true", "mtu 1430").talk("vxlan over IPv6", 1430);
}

/// Options take room in the tunnel: 12 bytes of the first kind, 8 of the other.
const OPTIONS: &str = "{class=0x0102,type=0x1,len=8}->tun_metadata0,{class=0x0102,type=0x80,len=4}->tun_metadata1";

#[test]
fn a_geneve_node_of_open_vswitch_and_a_fairway_node_reach_each_other() {
    let _one = lab::one_at_a_time();
    let scene = Scene::set(Families::Dual, "geneve", "", "mtu 1400");
    scene.talk("geneve", 1400);
    scene.ovs.openflow("add-tlv-map", "inside", OPTIONS).expect("options have names");
    let out_with = |options: &str| {
        let flow = format!("in_port=pod0,actions={options},output:tunnel0");
        scene.ovs.openflow("add-flow", "inside", &flow).expect("a flow");
    };
    out_with("set_field:0x1122334455667788->tun_metadata0");
    scene.talk("geneve with an option", 1400);
    assert_eq!(scene.drops("TunnelOption"), 0);
    out_with("set_field:0x11223344->tun_metadata1");
    for [near, far] in scene.ends() {
        let before = scene.drops("TunnelOption");
        let ping = lab::shell::Cmd::line("ping -q -c 3 -i 0.05 -W 0.5").arg(near.address).netns(far.netns);
        assert!(ping.run().expect("ping runs").stdout.contains(" 0 received"), "a critical option is not understood");
        let counted = wait::until(std::time::Duration::from_secs(2), || scene.drops("TunnelOption") >= before + 3);
        assert!(counted, "TunnelOption was {before} and is {}", scene.drops("TunnelOption"));
    }
}
