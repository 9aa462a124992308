//! A third node without Fairway: a namespace on the fabric whose pods sit behind a tunnel of another make.
//!
//! It knows where everything is. What the tunnel is made of is the caller's.

use std::net::IpAddr;

use anyhow::{Context, Result};

use crate::addressing::assignment;
use crate::fabric::UPLINK;
use crate::lab::Lab;
use crate::manifests;
use crate::netns::Netns;

const NUMBER: u8 = 3;
/// The place of the peer's pod in its range.
const POD: u8 = 4;

/// The node, on the fabric.
#[derive(Clone, Debug)]
pub struct Peer {
    netns: Netns,
    addresses: Vec<IpAddr>,
    pods: Vec<IpAddr>,
    /// The node whose pods it talks to: its address on the fabric, and (gateway, range) of its pods.
    node: IpAddr,
    far: Vec<(String, String)>,
}

impl Peer {
    /// Joins the fabric and has its object written; no tunnel leads anywhere yet.
    pub fn join(lab: &Lab) -> Result<Self> {
        let netns = Netns::create(&format!("{}peer", lab.guard().prefix()))?;
        lab.silence(&netns)?;
        lab.fabric().connect("peer", &netns, UPLINK, 1)?;
        let families = lab.families();
        let (addresses, ranges) = (families.node(NUMBER), families.pod_ranges(NUMBER, 24));
        lab.objects().apply("node-peer", &manifests::node("peer", &addresses, &ranges))?;
        let pods = ranges.iter().map(|range| nth(range, POD)?.parse().context("a pod's address"));
        let far = families.pod_ranges(1, 24).into_iter().map(|range| Ok((nth(&range, 1)?, range)));
        let (pods, far, node) = (pods.collect::<Result<_>>()?, far.collect::<Result<_>>()?, families.node(1)[0]);
        let peer = Peer { netns, addresses, pods, node, far };
        for address in peer.assignments() {
            peer.netns.ip(&format!("address add {address} dev {UPLINK}"))?;
        }
        Ok(peer)
    }

    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The end of its tunnel.
    pub fn address(&self) -> IpAddr {
        self.addresses[0]
    }

    /// Its addresses on the fabric as `ip address add` takes them.
    pub fn assignments(&self) -> Vec<String> {
        self.addresses.iter().map(|address| assignment(*address)).collect()
    }

    /// The end of the other node's tunnel.
    pub fn node(&self) -> IpAddr {
        self.node
    }

    /// One of each family.
    pub fn pods(&self) -> &[IpAddr] {
        &self.pods
    }

    /// Its Ethernet address inside tunnels, and the other node's.
    pub fn macs(&self) -> [String; 2] {
        [self.address(), self.node].map(mac)
    }

    /// Its pods' addresses are on the loopback, and the other node's pods are behind this device, which has Ethernet inside.
    pub fn route_by_ethernet(&self, device: &str) -> Result<()> {
        self.own_pods(&self.netns, "lo")?;
        self.route(&self.netns, device, "")
    }

    /// The same, but for a device that has IP inside, and for the family of this route alone.
    pub fn route_by_ip(&self, device: &str, is_v4: bool) -> Result<()> {
        for (pod, (_, range)) in self.pods.iter().zip(&self.far).filter(|(pod, _)| pod.is_ipv4() == is_v4) {
            self.netns.ip(&format!("address replace {pod} dev lo"))?;
            self.netns.ip(&format!("route add {range} dev {device} src {pod}"))?;
        }
        Ok(())
    }

    /// Gives its pods' addresses to a device of this namespace.
    pub fn own_pods(&self, netns: &Netns, device: &str) -> Result<()> {
        self.pods.iter().try_for_each(|pod| netns.ip(&format!("address add {pod} dev {device}")).map(|_| ()))
    }

    /// Routes in this namespace to the pods of the other node, with these options, such as `mtu 1400`.
    pub fn route(&self, netns: &Netns, device: &str, options: &str) -> Result<()> {
        let [_, node_mac] = self.macs();
        for (pod, (gateway, range)) in self.pods.iter().zip(&self.far) {
            netns.ip(&format!("neigh replace {gateway} lladdr {node_mac} dev {device}"))?;
            netns.ip(&format!("route replace {range} via {gateway} dev {device} onlink src {pod} {options}"))?;
        }
        Ok(())
    }
}

/// The n-th address of a range whose text ends with a zero or with colons.
fn nth(range: &str, n: u8) -> Result<String> {
    let first = range.split('/').next().context("a range")?;
    Ok(format!("{}{n}", first.strip_suffix('0').filter(|_| !first.contains(':')).unwrap_or(first)))
}

/// A node's Ethernet address inside tunnels: two bytes of ours, then the end of its address.
fn mac(address: IpAddr) -> String {
    let end = match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => (u128::from(address) as u32).to_be_bytes(),
    };
    let bytes = [[0x02, 0xfa].as_slice(), &end].concat();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_macs_follow_from_the_node() {
        assert_eq!(nth("10.244.3.0/24", 4).unwrap(), "10.244.3.4");
        assert_eq!(nth("fd00:10:244:3::/64", 4).unwrap(), "fd00:10:244:3::4");
        assert_eq!(mac("172.18.0.13".parse().unwrap()), "02:fa:ac:12:00:0d");
        assert_eq!(mac("fd00:18::d".parse().unwrap()), "02:fa:00:00:00:0d");
    }
}
