//! Brings a whole lab up and changes its cast of pods.
//!
//! Addresses are in `addressing`: nodes 172.18.0.11 and .12, the client outside 172.18.0.100; pods
//! 10.244.NODE.0/24; services 10.96.0.0/16; and their likes in IPv6.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};

use crate::addressing::{self, Families};
use crate::binaries::{Binaries, NotBuilt};
use crate::bond;
use crate::fabric::{Fabric, UPLINK};
use crate::guard::Guard;
use crate::manifests;
use crate::netns::Netns;
use crate::node::{Node, NodeSpec};
use crate::objects::Objects;
use crate::pod::{self, Pod};
use crate::process::Process;
use crate::shell::Cmd;

const NODES: u8 = 2;

/// Two NICs of this machine that are joined: one becomes a node's uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nics {
    pub uplink: String,
    pub port: String,
}

/// What a lab is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// The lab's name, if it is free; else one of its own.
    pub id: Option<String>,
    pub workers: u32,
    pub uplink_queues: u32,
    /// Of all links of the fabric, unless they are NICs.
    pub uplink_mtu: u32,
    /// The uplinks are in this VLAN; 0: in none.
    pub uplink_vlan: u16,
    /// Length of a node's pod range.
    pub pod_prefix: u8,
    pub families: Families,
    /// More arguments for every node's `fairway-control`.
    pub control_args: Vec<String>,
    /// One pair a node, two for a bond; empty: veth pairs.
    pub nics: Vec<Nics>,
    /// The uplinks are bonds of two links, in this mode.
    pub bond: Option<&'static str>,
    /// More arguments for every node's `fairway-dataplane`.
    pub dataplane_args: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            id: None,
            workers: 1,
            uplink_queues: 1,
            uplink_mtu: 1500,
            uplink_vlan: 0,
            pod_prefix: 24,
            families: Families::Ipv4,
            control_args: Vec::new(),
            nics: Vec::new(),
            bond: None,
            dataplane_args: Vec::new(),
        }
    }
}

/// Two nodes, pods, and a client outside. Dropping it removes everything.
#[derive(Debug)]
pub struct Lab {
    pub nodes: Vec<Node>,
    pods: BTreeMap<String, Pod>,
    servers: Vec<Process>,
    client: Netns,
    fabric: Fabric,
    objects: Objects,
    binaries: Binaries,
    has_nics: bool,
    families: Families,
    // Last: it removes what the others were made of.
    guard: Guard,
}

impl Lab {
    /// Namespaces, links, addresses and objects; nothing of Fairway runs yet.
    pub fn wire(options: &Options) -> Result<Self> {
        check_machine()?;
        let binaries = Binaries::find()?;
        let guard = Guard::claim(options.id.as_deref())?;
        let objects = Objects::create(guard.directory())?;
        let fabric = Fabric::create(&format!("{}fabric", guard.prefix()), options.uplink_mtu)?;
        let client = Netns::create(&format!("{}client", guard.prefix()))?;
        if options.families.has_ipv6() {
            silence_ipv6(&client, options.families)?;
        }
        fabric.connect("client", &client, UPLINK, 1)?;
        let device = fabric.tag(&["client".to_string()], &client, UPLINK, options.uplink_vlan)?;
        for address in options.families.client() {
            client.ip(&format!("address add {} dev {device}", addressing::assignment(address)))?;
        }
        let (has_nics, families) = (!options.nics.is_empty(), options.families);
        let (nodes, pods, servers) = (Vec::new(), BTreeMap::new(), Vec::new());
        let mut lab = Lab { nodes, pods, servers, client, fabric, objects, binaries, has_nics, families, guard };
        for number in 1..=NODES {
            lab.wire_node(number, options)?;
        }
        lab.objects.apply("namespace-demo", &manifests::namespace(manifests::NAMESPACE))?;
        Ok(lab)
    }

    fn wire_node(&mut self, number: u8, options: &Options) -> Result<()> {
        let name = format!("node-{number}");
        let netns = Netns::create(&format!("{}{name}", self.guard.prefix()))?;
        silence_ipv6(&netns, self.families)?;
        let (uplink, ports) = self.connect(number, &name, &netns, options)?;
        let uplink = self.fabric.tag(&ports, &netns, &uplink, options.uplink_vlan)?;
        let port = ports.into_iter().next().unwrap_or_default();
        let addresses = options.families.node(number);
        let pod_ranges = options.families.pod_ranges(number, options.pod_prefix);
        for (address, range) in addresses.iter().zip(&pod_ranges) {
            netns.ip(&format!("address add {} dev {uplink}", addressing::assignment(*address)))?;
            self.client.ip(&format!("route add {range} via {address}"))?;
        }
        self.objects.apply(&format!("node-{name}"), &manifests::node(&name, &addresses, &pod_ranges))?;
        let (workers, control_args) = (options.workers, options.control_args.clone());
        let dataplane_args = options.dataplane_args.clone();
        let texts = |ranges: Vec<&str>| ranges.into_iter().map(str::to_string).collect();
        let service_ranges = texts(options.families.service_ranges());
        let cluster_ranges = texts(options.families.cluster_ranges());
        let spec = NodeSpec {
            name,
            addresses,
            pod_ranges,
            uplink,
            port,
            workers,
            service_ranges,
            cluster_ranges,
            control_args,
            dataplane_args,
        };
        let node = Node::create(spec, netns, self.guard.directory(), self.objects.directory(), &self.binaries)?;
        self.nodes.push(node);
        Ok(())
    }

    /// A node's uplink, and its other ends.
    fn connect(&self, number: u8, name: &str, netns: &Netns, options: &Options) -> Result<(String, Vec<String>)> {
        let each = if options.bond.is_some() { 2 } else { 1 };
        let nics = options.nics.chunks(each).nth(usize::from(number) - 1).unwrap_or_default();
        let queues = options.uplink_queues;
        match (options.bond, nics) {
            (Some(mode), _) => {
                let ports = bond::connect(&self.fabric, name, netns, mode, nics, queues)?;
                Ok((bond::BOND.to_string(), ports))
            }
            (None, [nics, ..]) => {
                self.fabric.connect_nics(&nics.port, netns, &nics.uplink)?;
                Ok((nics.uplink.clone(), vec![nics.port.clone()]))
            }
            (None, []) => {
                self.fabric.connect(name, netns, UPLINK, queues)?;
                Ok((UPLINK.to_string(), vec![name.to_string()]))
            }
        }
    }

    /// A lab with Fairway running on both nodes, without pods.
    pub fn start(options: &Options) -> Result<Self> {
        let mut lab = Lab::wire(options)?;
        lab.require_fairway()?;
        // All at once: on an emulated machine the kernel takes its time to check the XDP program.
        for node in &mut lab.nodes {
            node.start_dataplane()?;
            node.start_control()?;
        }
        lab.nodes.iter_mut().try_for_each(|node| node.wait_connected().map(|_| ()))?;
        Ok(lab)
    }

    fn require_fairway(&self) -> Result<()> {
        self.binaries.require("fairway-dataplane", "--socket")?;
        self.binaries.require("fairway-control", "--objects")?;
        self.binaries.require("fairway", "status")?;
        if !self.binaries.path("fairway-cni").exists() {
            return Err(NotBuilt(format!("{} is missing", self.binaries.path("fairway-cni").display())).into());
        }
        Ok(())
    }

    /// Makes a namespace and has it attached, as a container runtime does; then starts its server
    /// and writes its object.
    pub fn add_pod(&mut self, name: &str, node: usize, labels: &[(&str, &str)]) -> Result<()> {
        let netns = Netns::create(&format!("{}{name}", self.guard.prefix()))?;
        silence_ipv6(&netns, self.families)?;
        let attachment = self.nodes[node].plugin().add(&pod::container(name, netns.clone()))?;
        let mut pod = Pod::new(name, node, labels, netns, attachment);
        pod.start_server(&self.binaries, self.guard.directory())?;
        self.pods.insert(name.to_string(), pod);
        self.publish_pod(name).map(|_| ())
    }

    /// Writes the pod's object; the time right after it became visible.
    pub fn publish_pod(&self, name: &str) -> Result<u64> {
        let pod = self.pod(name)?;
        self.objects.apply(&format!("pod-{name}"), &pod.manifest(self.nodes[pod.node].name()))
    }

    /// Takes the pod's object away, as when it is being deleted; the pod itself still runs.
    pub fn withdraw_pod(&self, name: &str) -> Result<u64> {
        self.objects.delete(&format!("pod-{name}"))
    }

    pub fn start_server(&mut self, pod: &str) -> Result<()> {
        let directory = self.guard.directory().to_path_buf();
        let found = self.pods.get_mut(pod).with_context(|| format!("there is no pod {pod}"))?;
        found.start_server(&self.binaries, &directory)
    }

    pub fn kill_server(&mut self, pod: &str) -> Result<()> {
        self.pods.get_mut(pod).with_context(|| format!("there is no pod {pod}"))?.kill_server()
    }

    /// The small server on a node or on the client, which answers with this name.
    pub fn serve(&mut self, name: &str, netns: &Netns) -> Result<()> {
        let server = pod::serve(name, netns, &self.binaries, self.guard.directory())?;
        self.servers.push(server);
        Ok(())
    }

    /// All nodes have acknowledged all that was written before this call.
    pub fn settle(&mut self) -> Result<()> {
        // The objects' directory is watched: what was just written is read within this time.
        crate::wait::sleep_ms(300);
        self.nodes.iter_mut().try_for_each(|node| node.wait_connected().map(|_| ()))
    }

    pub fn pod(&self, name: &str) -> Result<&Pod> {
        self.pods.get(name).with_context(|| format!("there is no pod {name}"))
    }

    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    pub fn node_of(&self, pod: &str) -> Result<&Node> {
        Ok(&self.nodes[self.pod(pod)?.node])
    }

    /// No kernel speaks there before it is asked to.
    pub fn silence(&self, netns: &Netns) -> Result<()> {
        silence_ipv6(netns, self.families)
    }

    pub fn families(&self) -> Families {
        self.families
    }

    /// The uplinks are NICs of this machine, not veth pairs.
    pub fn has_nics(&self) -> bool {
        self.has_nics
    }

    pub fn client(&self) -> &Netns {
        &self.client
    }

    pub fn fabric(&self) -> &Fabric {
        &self.fabric
    }

    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    pub fn directory(&self) -> &Path {
        self.guard.directory()
    }

    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Leaves everything up; `fairway-demo clean` removes it.
    pub fn keep(self) -> Result<()> {
        let Lab { nodes, pods, servers, guard, .. } = self;
        // Their destructors would end the processes.
        std::mem::forget((nodes, pods, servers));
        guard.keep()
    }
}

/// For tests: one lab at a time, since labs share the cores with what they measure.
pub fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// In the lab's usual cluster, which is IPv4 alone.
pub fn client_address() -> IpAddr {
    Families::Ipv4.client()[0]
}

/// A kernel that asks for IPv6 routers would disturb exact counts, and one that first asks whether another has its address
/// could not speak for a while; without IPv6 addresses it has no use for IPv6 at all.
fn silence_ipv6(netns: &Netns, families: Families) -> Result<()> {
    let settings: &[_] = match families.has_ipv6() {
        true => &["accept_ra=0", "accept_dad=0"],
        false => &["disable_ipv6=1"],
    };
    for (scope, setting) in ["all", "default"].iter().flat_map(|scope| settings.iter().map(move |s| (scope, s))) {
        let (name, value) = setting.split_once('=').unwrap_or((setting, ""));
        netns.sysctl(&format!("net.ipv6.conf.{scope}.{name}"), value)?;
    }
    Ok(())
}

/// Everything that the lab needs of the machine, or one sentence that says what to do.
fn check_machine() -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    anyhow::ensure!(
        std::fs::metadata("/proc/self")?.uid() == 0,
        "network namespaces need root: run this with sudo (make demo and make test do)"
    );
    let needed = "ip nsenter setsid timeout sysctl ss ethtool nft curl ping iperf3 tcpdump";
    let missing: Vec<&str> = needed.split(' ').filter(|program| !is_installed(program)).collect();
    anyhow::ensure!(missing.is_empty(), "these programs are missing: {}; run `make deps`", missing.join(", "));
    Ok(())
}

fn is_installed(program: &str) -> bool {
    Cmd::new("sh").args(["-c", &format!("command -v {program}")]).run().is_ok_and(|ran| ran.succeeded())
}
