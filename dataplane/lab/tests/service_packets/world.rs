//! The world of the shared cases, in namespaces: the node under test with its pods, the other nodes with theirs behind
//! kernel vxlan devices, and everybody outside. Must not judge.
//!
//! Pods of the node under test have the addresses that Fairway gives them, so the cases' are renamed to these; everything
//! else has the address that it has in the cases.

use super::format::Case;
use anyhow::{Context, Result, ensure};
use lab::agent::transport::Transport;
use lab::binaries::Binaries;
use lab::fabric::{Fabric, UPLINK};
use lab::guard::Guard;
use lab::manifests::{self, PodSpec};
use lab::netns::Netns;
use lab::node::{Node, NodeSpec};
use lab::objects::Objects;
use lab::pod;
use lab::process::Process;
use lab::shell::Cmd;
use lab::wait;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub const NODE: &str = "worker-a";
const WORKERS: u32 = 2;
pub const NODE_ADDRESSES: [&str; 4] = ["192.168.0.2", "192.168.1.2", "2001:db8::1", "2001:db8:1::2"];
/// What its pods may be called in the cases: their places in the node's ranges.
const PODS: [&str; 11] = ["1", "2", "3", "4", "10", "11", "12", "31", "32", "33", "200"];
/// Other nodes: name, place on the link and among pod ranges, and places of pods that serve.
const OTHERS: [(&str, u8, u8); 3] = [("worker-b", 3, 1), ("worker-c", 4, 2), ("worker-d", 5, 3)];
const REMOTE_PODS: [u8; 10] = [1, 2, 3, 4, 5, 6, 10, 11, 12, 13];
const OUTSIDE: [&str; 5] =
    ["203.0.113.2/32", "203.0.113.130/32", "203.0.113.81/32", "2001:db8:ffff::1/128", "2001:db8:fffe::1/128"];
const ROUTER: [&str; 2] = ["192.168.0.254", "2001:db8::fe"];
/// What everybody outside reaches by the node under test.
const BEHIND_NODE: [&str; 8] = [
    "192.168.1.2",
    "198.51.100.0/24",
    "192.0.2.0/24",
    "172.30.0.0/16",
    "2001:db8:1::2",
    "2001:db8:aaaa::/48",
    "2001:db8:bbbb::/48",
    "fd00:10:96::/112",
];

/// Who asks or serves.
pub struct World {
    pub node: Node,
    pub outside: Netns,
    pods: Vec<Netns>,
    others: BTreeMap<IpAddr, Netns>,
    /// Addresses of pods in the cases, and what they are here.
    names: BTreeMap<IpAddr, IpAddr>,
    homes: BTreeMap<IpAddr, usize>,
    witnesses: Vec<Process>,
    pub objects: Objects,
    fabric: Fabric,
    pub binaries: Binaries,
    // Last: it removes what the others were made of.
    guard: Guard,
}

/// Where somebody listens: by protocol.
pub type Ports = BTreeMap<Transport, BTreeSet<u16>>;

impl World {
    /// Without Fairway.
    pub fn wire() -> Result<World> {
        let (binaries, guard) = (Binaries::find()?, Guard::claim(None)?);
        let objects = Objects::create(guard.directory())?;
        let fabric = Fabric::create(&format!("{}fabric", guard.prefix()), 1500)?;
        let outside = attached(&guard, &fabric, "outside", &ROUTER, 1)?;
        for address in OUTSIDE {
            outside.ip(&format!("address add {address} dev lo"))?;
        }
        for range in BEHIND_NODE {
            outside.ip(&format!("route add {range} via {}", like(range, ["192.168.0.2", "2001:db8::1"])))?;
        }
        let netns = attached(&guard, &fabric, NODE, &NODE_ADDRESSES, WORKERS)?;
        for router in ROUTER {
            netns.ip(&format!("route add default via {router}"))?;
        }
        let node = Node::create(node_spec(), netns, guard.directory(), objects.directory(), &binaries)?;
        let (pods, witnesses) = (Vec::new(), Vec::new());
        let (others, names, homes) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Ok(World { node, outside, pods, others, names, homes, witnesses, objects, fabric, binaries, guard })
    }

    /// All objects that every case has, Fairway on its node, its pods; and everybody listens.
    pub fn start(&mut self, backends: &Ports, own: &Ports) -> Result<()> {
        self.objects.apply("namespace", &manifests::namespace(manifests::NAMESPACE))?;
        self.objects.apply(NODE, &node_under_test(&json!({})).to_string())?;
        self.node.start()?;
        for place in PODS {
            self.add_pod(place, backends)?;
        }
        for (name, host, number) in OTHERS {
            self.objects.apply(name, &other_node(name, host, number).to_string())?;
            self.add_other(name, host, number, backends)?;
        }
        let outside: Vec<IpAddr> = OUTSIDE.iter().map(|range| first(range)).collect::<Result<_>>()?;
        self.witness("outside", &self.outside.clone(), &outside, backends)?;
        let loopback = ["127.0.0.1", "::1"];
        let own_addresses: Vec<IpAddr> =
            NODE_ADDRESSES.iter().chain(&loopback).map(|text| first(text)).collect::<Result<_>>()?;
        self.witness(NODE, &self.node.netns().clone(), &own_addresses, own)
    }

    fn add_pod(&mut self, place: &str, ports: &Ports) -> Result<()> {
        let netns = Netns::create(&format!("{}pod-{place}", self.guard.prefix()))?;
        quiet(&netns)?;
        let name = format!("pod-{place}");
        let attachment = self.node.plugin().add(&pod::container(&name, netns.clone()))?;
        let spec = PodSpec { name: &name, node: NODE, labels: &[], addresses: &attachment.addresses };
        self.objects.apply(&name, &manifests::pod(&spec))?;
        for is_v4 in [true, false] {
            let given = attachment.addresses.iter().find(|address| address.is_ipv4() == is_v4);
            let given = *given.context("a pod has an address of each family")?;
            let in_cases = if is_v4 { format!("10.1.0.{place}") } else { format!("fd00:10:1::{place}") };
            self.names.insert(in_cases.parse()?, given);
            self.homes.insert(given, self.pods.len());
        }
        self.witness(&name, &netns, &attachment.addresses, ports)?;
        self.pods.push(netns);
        Ok(())
    }

    fn add_other(&mut self, name: &str, host: u8, number: u8, ports: &Ports) -> Result<()> {
        let own = [format!("192.168.0.{host}"), format!("2001:db8::{host}")];
        let netns = attached(&self.guard, &self.fabric, name, &own.each_ref().map(String::as_str), 1)?;
        let mut pods = Vec::new();
        for place in REMOTE_PODS {
            for address in [format!("10.1.{number}.{place}"), format!("fd00:10:1:{number}::{place}")] {
                netns.ip(&format!("address add {address} dev lo"))?;
                pods.push(address.parse()?);
            }
        }
        // Ethernet addresses inside of tunnels: two bytes of Fairway's, then the node's address.
        let mac = |host: u8| format!("02:fa:c0:a8:00:{host:02x}");
        let device = format!("link add vxlan0 address {} mtu 1450 type vxlan id 1 dstport 4789", mac(host));
        netns.ip(&format!("{device} local {} nolearning", own[0]))?;
        netns.ip("link set vxlan0 up")?;
        let entry = format!("bridge fdb append {} dev vxlan0 dst 192.168.0.2", mac(2));
        Cmd::line(&entry).netns(&netns).ok()?;
        for (gateway, range) in [("10.1.0.1", "10.1.0.0/24"), ("fd00:10:1::1", "fd00:10:1::/64")] {
            netns.ip(&format!("neigh replace {gateway} lladdr {} dev vxlan0", mac(2)))?;
            netns.ip(&format!("route replace {range} via {gateway} dev vxlan0 onlink"))?;
        }
        // Where pods are not told apart, a client outside whom the node under test sends here keeps its address; upstream
        // leaves it to the network that the answers pass that node, too.
        netns.ip("route add 203.0.113.0/24 via 10.1.0.1 dev vxlan0 onlink")?;
        self.others.insert(own[0].parse()?, netns.clone());
        self.witness(name, &netns, &pods, ports)
    }

    fn witness(&mut self, name: &str, netns: &Netns, at: &[IpAddr], ports: &Ports) -> Result<()> {
        let joined = |texts: Vec<String>| texts.join(",");
        let mut command = Cmd::new(self.binaries.agent()).netns(netns).arg("witness").arg("--at");
        command = command.arg(joined(at.iter().map(ToString::to_string).collect()));
        for (transport, ports) in ports {
            let option = format!("--{transport:?}").to_lowercase();
            command = command.arg(option).arg(joined(ports.iter().map(ToString::to_string).collect()));
        }
        let mut process = Process::spawn(&format!("witness-{name}"), &command, self.guard.directory())?;
        let said = self.guard.directory().join(format!("witness-{name}.out"));
        let listens = || std::fs::read_to_string(&said).is_ok_and(|text| !text.is_empty());
        let listens = wait::until(Duration::from_secs(5), listens);
        process.still_running()?;
        ensure!(listens, "the witness {name} does not listen: {}", process.log_end());
        self.witnesses.push(process);
        Ok(())
    }

    /// Where somebody listens on what he is asked for.
    pub fn witness_addresses(&self) -> Result<BTreeSet<IpAddr>> {
        let node = NODE_ADDRESSES.iter().chain(&["127.0.0.1", "::1"]).map(|text| first(text));
        node.chain(self.homes.keys().map(|address| Ok(*address))).collect()
    }

    /// Another node, by its IPv4 address.
    pub fn other(&self, address: IpAddr) -> Option<&Netns> {
        self.others.get(&address)
    }

    /// IPv4 addresses of all pods of the node under test.
    pub fn pod_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.homes.keys().copied().filter(IpAddr::is_ipv4)
    }

    pub fn pod(&self, address: IpAddr) -> Option<&Netns> {
        self.homes.get(&address).map(|index| &self.pods[*index])
    }

    /// Every address that is the node's, or Fairway's own inside the pod network.
    pub fn node_addresses(&self) -> Result<BTreeSet<IpAddr>> {
        let own = NODE_ADDRESSES.iter().map(|text| first(text));
        own.chain(self.node.reserved_addresses()?.into_iter().map(Ok)).collect()
    }

    /// The cases of these texts, with the addresses of pods that they have here.
    pub fn cases(&self, texts: &[String]) -> Result<Vec<Case>> {
        let rename = |text: &String| {
            let mut value = serde_json::from_str(text)?;
            self.rename(&mut value);
            Ok(serde_json::from_value(value)?)
        };
        texts.iter().map(rename).collect()
    }

    fn rename(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Some(given) = text.parse().ok().and_then(|address| self.names.get(&address)) {
                    *text = given.to_string();
                } else if let Ok(at) = text.parse::<SocketAddr>()
                    && let Some(given) = self.names.get(&at.ip())
                {
                    *text = SocketAddr::new(*given, at.port()).to_string();
                }
            }
            Value::Array(values) => values.iter_mut().for_each(|value| self.rename(value)),
            Value::Object(fields) => fields.values_mut().for_each(|value| self.rename(value)),
            _ => {}
        }
    }
}

fn node_spec() -> NodeSpec {
    let texts = |texts: [&str; 2]| texts.map(str::to_string).to_vec();
    NodeSpec {
        name: NODE.into(),
        addresses: vec![],
        pod_ranges: texts(["10.1.0.0/24", "fd00:10:1::/64"]),
        uplink: UPLINK.into(),
        port: NODE.into(),
        workers: WORKERS,
        service_ranges: texts(["172.30.0.0/16", "fd00:10:96::/112"]),
        cluster_ranges: texts(["10.1.0.0/16", "fd00:10:1::/48"]),
        control_args: vec![],
        dataplane_args: Vec::new(),
    }
}

/// The node under test as the service cases have it, but for these labels.
pub fn node_under_test(labels: &Value) -> Value {
    let mut labels = labels.clone();
    labels["kubernetes.io/hostname"] = NODE.into();
    node_object(NODE, &labels, ["10.1.0.0/24", "fd00:10:1::/64"], ["192.168.0.2", "2001:db8::1"])
}

fn other_node(name: &str, host: u8, number: u8) -> Value {
    let zone = ["zone-b", "zone-c", "zone-a"][usize::from(number) - 1];
    let labels = json!({"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": zone});
    let ranges = [format!("10.1.{number}.0/24"), format!("fd00:10:1:{number}::/64")];
    let addresses = [format!("192.168.0.{host}"), format!("2001:db8::{host}")];
    node_object(name, &labels, ranges.each_ref().map(String::as_str), addresses.each_ref().map(String::as_str))
}

fn node_object(name: &str, labels: &Value, ranges: [&str; 2], addresses: [&str; 2]) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"podCIDR": ranges[0], "podCIDRs": ranges},
        "status": {"addresses": addresses.map(|address| json!({"type": "InternalIP", "address": address}))},
    })
}

/// A namespace on the link.
fn attached(guard: &Guard, fabric: &Fabric, name: &str, addresses: &[&str], queues: u32) -> Result<Netns> {
    let netns = Netns::create(&format!("{}{name}", guard.prefix()))?;
    quiet(&netns)?;
    fabric.connect(name, &netns, UPLINK, queues)?;
    for address in addresses {
        let length = if address.contains(':') { "64 nodad" } else { "24" };
        netns.ip(&format!("address add {address}/{length} dev {UPLINK}"))?;
    }
    Ok(netns)
}

/// Nobody waits until an address has been found to be free, or heeds routers.
fn quiet(netns: &Netns) -> Result<()> {
    for (scope, setting) in ["all", "default"].iter().flat_map(|scope| [(scope, "accept_ra"), (scope, "accept_dad")]) {
        netns.sysctl(&format!("net.ipv6.conf.{scope}.{setting}"), "0")?;
    }
    Ok(())
}

/// The one of the same family.
fn like<'a>(text: &str, both: [&'a str; 2]) -> &'a str {
    both[usize::from(text.contains(':'))]
}

/// The address of a range.
fn first(range: &str) -> Result<IpAddr> {
    range.split('/').next().unwrap_or(range).parse().with_context(|| format!("{range} is no address"))
}
