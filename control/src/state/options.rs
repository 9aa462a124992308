//! How this node serves services: what `fairway-control` was told on its command line. Plain data; what follows for one
//! service is decided where rows are made.

use super::Local;
use crate::object::forwarding::Forwarding;
use clap::ValueEnum;
use std::net::IpAddr;
use tables::service::Algorithm;
use tables::{Addr, Prefix};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceOptions {
    pub node_port_addresses: NodePortAddresses,
    /// IPv4 node ports on 127.0.0.1, too, if the ranges allow it.
    pub localhost_node_ports: bool,
    /// The source of everything that is sent to a cluster address becomes the node's.
    pub masquerade_all: bool,
    pub detect_local: DetectLocal,
    /// `externalIPs` count only inside these, for whoever may write a Service could else take any address
    /// (CVE-2020-8554).
    pub external_ip_ranges: Vec<Prefix>,
    /// How services spread flows that do not say it themselves.
    pub load_balancing: Algorithm,
    /// How clients outside reach backends of other nodes by services that do not say it themselves.
    pub forwarding: Forwarding,
}

/// The node addresses that answer for node ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// The first address of each family of the Node object.
    #[default]
    Primary,
    /// Addresses of the node inside these; if none is of a family, all addresses of that family.
    Ranges(Vec<Prefix>),
}

/// How pods are told from other clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DetectLocal {
    /// Their addresses are in the cluster's ranges.
    #[default]
    ClusterCidr,
    /// Not at all.
    None,
}

const LOCALHOST: Addr = Addr::v4([127, 0, 0, 1]);

impl Local {
    /// The node's addresses that others can send to.
    pub fn usable_addrs(&self) -> impl Iterator<Item = Addr> {
        let all = if self.node_addrs.is_empty() { &self.addrs } else { &self.node_addrs };
        all.iter().copied().filter(|addr| !stays_here(*addr))
    }

    /// The addresses that answer for node ports, each once.
    pub fn node_port_addrs(&self) -> Vec<Addr> {
        let mut chosen = Vec::new();
        for v4 in [true, false] {
            match &self.services.node_port_addresses {
                NodePortAddresses::Primary => chosen.extend(self.addrs.iter().find(|addr| addr.is_v4() == v4)),
                NodePortAddresses::Ranges(ranges) => {
                    let usable = self.usable_addrs().filter(|addr| addr.is_v4() == v4);
                    chosen.extend(usable.filter(|addr| allows(ranges, *addr)));
                    if v4 && self.services.localhost_node_ports && allows(ranges, LOCALHOST) {
                        chosen.push(LOCALHOST);
                    }
                }
            }
        }
        let mut once = std::collections::BTreeSet::new();
        chosen.retain(|addr| once.insert(*addr));
        chosen
    }
}

fn allows(ranges: &[Prefix], addr: Addr) -> bool {
    let mut own = ranges.iter().filter(|range| range.is_v4() == addr.is_v4()).peekable();
    own.peek().is_none() || own.any(|range| range.contains(addr))
}

/// Loopback and link-local addresses.
fn stays_here(addr: Addr) -> bool {
    match addr.ip() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(addresses: NodePortAddresses, localhost: bool) -> Vec<String> {
        let addrs = |all: &[&str]| all.iter().map(|text| text.parse().unwrap()).collect::<Vec<Addr>>();
        let services = ServiceOptions {
            node_port_addresses: addresses,
            localhost_node_ports: localhost,
            ..ServiceOptions::default()
        };
        let local = Local {
            addrs: addrs(&["192.168.0.2", "2001:db8::1"]),
            node_addrs: addrs(&["127.0.0.1", "::1", "192.168.0.2", "192.168.1.2", "2001:db8::1"]),
            services,
            ..Local::default()
        };
        local.node_port_addrs().iter().map(Addr::to_string).collect()
    }

    fn ranges(all: &[&str]) -> NodePortAddresses {
        NodePortAddresses::Ranges(all.iter().map(|text| text.parse().unwrap()).collect())
    }

    #[test]
    fn ranges_choose_and_a_family_without_any_is_whole() {
        assert_eq!(chosen(NodePortAddresses::Primary, true), ["192.168.0.2", "2001:db8::1"]);
        assert_eq!(chosen(ranges(&["192.168.1.0/24"]), true), ["192.168.1.2", "2001:db8::1"]);
        assert_eq!(chosen(ranges(&["2001:db8:1::/64"]), false), ["192.168.0.2", "192.168.1.2"]);
        assert_eq!(chosen(ranges(&["0.0.0.0/0", "fd00::/8"]), true), ["192.168.0.2", "192.168.1.2", "127.0.0.1"]);
        assert_eq!(chosen(ranges(&["127.0.0.0/8", "::1/128"]), true), ["127.0.0.1"]);
    }
}
