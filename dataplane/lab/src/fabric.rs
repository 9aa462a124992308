//! The network between the nodes: one bridge in a namespace of its own, and links into it.

use anyhow::Result;

use crate::netns::Netns;
use crate::shell::Cmd;

const BRIDGE: &str = "bridge";
/// Every node and the client call their link so, unless a NIC has a name of its own.
pub const UPLINK: &str = "eth0";

/// The underlay.
#[derive(Clone, Debug)]
pub struct Fabric {
    netns: Netns,
    mtu: u32,
}

impl Fabric {
    pub fn create(name: &str, mtu: u32) -> Result<Self> {
        let netns = Netns::create(name)?;
        netns.ip(&format!("link add {BRIDGE} type bridge mcast_snooping 0"))?;
        netns.ip(&format!("link set {BRIDGE} up"))?;
        Ok(Fabric { netns, mtu })
    }

    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// A veth pair: `interface` in the given namespace, the other end in the bridge as `port`.
    pub fn connect(&self, port: &str, netns: &Netns, interface: &str, queues: u32) -> Result<()> {
        self.lay(port, netns, interface, queues)?;
        self.plug(port)?;
        self.complete_checksums(port)?;
        netns.ip(&format!("link set {interface} up")).map(|_| ())
    }

    /// The same pair, with its end here not in the bridge yet.
    pub fn lay(&self, port: &str, netns: &Netns, interface: &str, queues: u32) -> Result<()> {
        let shape = format!("mtu {} numrxqueues {queues} numtxqueues {queues}", self.mtu);
        let (here, there) = (self.netns.name(), netns.name());
        Cmd::line(&format!(
            "ip link add {port} netns {here} {shape} type veth peer name {interface} netns {there} {shape}"
        ))
        .ok()
        .map(|_| ())
    }

    /// A VLAN on a link, or on a bond of several, whose name is the answer; 0: none, and the link itself.
    pub fn tag(&self, ports: &[String], netns: &Netns, interface: &str, vlan: u16) -> Result<String> {
        if vlan == 0 {
            return Ok(interface.to_string());
        }
        // Towards AF_XDP a tag beside the frame would be lost, so this end puts it in.
        for port in ports {
            Cmd::line(&format!("ethtool -K {port} txvlan off")).netns(&self.netns).ok()?;
        }
        let device = format!("{interface}.{vlan}");
        netns.ip(&format!("link add link {interface} name {device} type vlan id {vlan}"))?;
        netns.ip(&format!("link set {device} up"))?;
        Ok(device)
    }

    /// Moves two joined NICs of this machine: one into the node, the other into the bridge.
    pub fn connect_nics(&self, port: &str, netns: &Netns, interface: &str) -> Result<()> {
        self.move_in(port, netns, interface)?;
        self.plug(port)?;
        self.complete_checksums(port)?;
        netns.ip(&format!("link set {interface} up")).map(|_| ())
    }

    /// The same, with the end here not in the bridge yet.
    pub fn move_in(&self, port: &str, netns: &Netns, interface: &str) -> Result<()> {
        for (nic, home) in [(port, &self.netns), (interface, netns)] {
            Cmd::line(&format!("ip link set {nic} netns {}", home.name())).ok()?;
        }
        Ok(())
    }

    pub fn plug(&self, port: &str) -> Result<()> {
        self.netns.ip(&format!("link set {port} master {BRIDGE} up")).map(|_| ())
    }

    /// Towards AF_XDP a half-computed checksum would arrive without its mark, so this end completes it.
    pub fn complete_checksums(&self, port: &str) -> Result<()> {
        Cmd::line(&format!("ethtool -K {port} tx off")).netns(&self.netns).ok().map(|_| ())
    }
}
