//! A node as Flannel's VXLAN backend and kube-proxy have it: the kernel's tunnel with static neighbours, forwarding entries and
//! routes for each other node, pods behind a bridge, services by nftables. What they would learn from the API server is
//! told by the caller.

use std::net::IpAddr;

use anyhow::{Context, Result};

use crate::lab::Lab;
use crate::manifests::{self, PodSpec};
use crate::netns::Netns;
use crate::shell::Cmd;

/// Linux's own number, which Flannel keeps.
pub const PORT: u16 = 8472;
const POD_RANGE: &str = "10.244.0.0/16";

/// One such node of a lab.
#[derive(Clone, Debug)]
pub struct Flannel {
    netns: Netns,
    name: String,
    number: u8,
    address: IpAddr,
    mac: String,
}

/// A pod behind its bridge.
#[derive(Clone, Debug)]
pub struct KernelPod {
    pub name: String,
    pub netns: Netns,
    pub address: IpAddr,
}

impl Flannel {
    /// Makes the tunnel and the bridge, and writes what the node says of itself into its object.
    pub fn start(lab: &Lab, index: usize) -> Result<Flannel> {
        let (node, number) = (&lab.nodes[index], index as u8 + 1);
        let (netns, address) = (node.netns().clone(), node.address());
        netns.sysctl("net.ipv4.ip_forward", "1")?;
        for setup in [
            format!("link add flannel.1 mtu 1450 type vxlan id 1 dev eth0 local {address} dstport {PORT} nolearning"),
            format!("address add 10.244.{number}.0/32 dev flannel.1"),
            "link set flannel.1 up".to_string(),
            "link add cni0 mtu 1450 type bridge".to_string(),
            format!("address add 10.244.{number}.1/24 dev cni0"),
            "link set cni0 up".to_string(),
        ] {
            netns.ip(&setup)?;
        }
        let link = netns.ip("-o link show dev flannel.1")?.stdout;
        let mac = link.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).context("an address")?;
        let flannel = Flannel { name: node.name().to_string(), netns, number, address, mac: mac.to_string() };
        flannel.say(lab)?;
        Ok(flannel)
    }

    fn say(&self, lab: &Lab) -> Result<()> {
        let node = manifests::node(&self.name, &[self.address], &[self.pod_range()]);
        let data = format!("'{{\"VNI\":1,\"VtepMAC\":\"{}\"}}'", self.mac);
        let said = manifests::annotated(&node, "flannel.alpha.coreos.com/backend-data", &data);
        lab.objects().apply(&format!("node-{}", self.name), &said).map(|_| ())
    }

    fn pod_range(&self) -> String {
        format!("10.244.{}.0/24", self.number)
    }

    /// Learns another node from what its object says, which stays there when Flannel itself does not run any more.
    pub fn learn(&self, other: &Flannel) -> Result<()> {
        let (number, mac, address) = (other.number, &other.mac, other.address);
        self.netns.ip(&format!("neigh replace 10.244.{number}.0 lladdr {mac} dev flannel.1 nud permanent"))?;
        Cmd::line(&format!("bridge fdb append {mac} dev flannel.1 dst {address}")).netns(&self.netns).ok()?;
        let route = format!("route replace {} via 10.244.{number}.0 dev flannel.1 onlink", other.pod_range());
        self.netns.ip(&route).map(|_| ())
    }

    /// Attaches a pod as the plugins `flannel` and `bridge` do, with its server, and writes its object.
    pub fn add_pod(&self, lab: &mut Lab, name: &str, place: u8, labels: &[(&str, &str)]) -> Result<KernelPod> {
        let netns = Netns::create(&format!("{}{name}", lab.guard().prefix()))?;
        let (port, pod, number) = (format!("veth{place}"), netns.name().to_string(), self.number);
        let ends = format!(
            "ip link add {port} netns {} mtu 1450 type veth peer name eth0 mtu 1450 netns {pod}",
            self.netns.name()
        );
        Cmd::line(&ends).ok()?;
        self.netns.ip(&format!("link set {port} master cni0 up"))?;
        let address = format!("10.244.{number}.{place}");
        for setup in [
            "link set eth0 up".to_string(),
            format!("address add {address}/24 dev eth0"),
            format!("route add default via 10.244.{number}.1"),
        ] {
            netns.ip(&setup)?;
        }
        lab.serve(name, &netns)?;
        let pod = KernelPod { name: name.to_string(), netns, address: address.parse()? };
        self.publish(lab, &pod, labels)?;
        Ok(pod)
    }

    fn publish(&self, lab: &Lab, pod: &KernelPod, labels: &[(&str, &str)]) -> Result<()> {
        let labels: Vec<_> = labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        let spec = PodSpec { name: &pod.name, node: &self.name, labels: &labels, addresses: &[pod.address] };
        lab.objects().apply(&format!("pod-{}", pod.name), &manifests::pod(&spec)).map(|_| ())
    }

    /// Serves HTTP at a service's address as kube-proxy's mode nftables does.
    pub fn serve(&self, service: IpAddr, backends: &[IpAddr]) -> Result<()> {
        let targets: Vec<String> = backends.iter().enumerate().map(|(i, to)| format!("{i} : {to}")).collect();
        let (targets, count) = (targets.join(", "), backends.len());
        let rules = format!(
            "table ip kube-proxy {{
}}
delete table ip kube-proxy
table ip kube-proxy {{
  chain services {{
    ip daddr {service} tcp dport 80 dnat ip to numgen random mod {count} map {{ {targets} }} : 8080
  }}
  chain nat-prerouting {{
    type nat hook prerouting priority -100;
    jump services
  }}
  chain nat-output {{
    type nat hook output priority -100;
    jump services
  }}
  chain nat-postrouting {{
    type nat hook postrouting priority 100;
    ct status dnat ip saddr != {POD_RANGE} masquerade
  }}
}}
"
        );
        Cmd::line("nft -f -").netns(&self.netns).stdin(rules).ok().map(|_| ())
    }

    /// Takes the devices away, as is done by hand when its DaemonSet has left the node: it leaves them.
    pub fn remove(self) -> Result<()> {
        self.netns.ip("link delete flannel.1")?;
        self.netns.ip("link delete cni0")?;
        self.netns.sysctl("net.ipv4.ip_forward", "0")
    }
}
