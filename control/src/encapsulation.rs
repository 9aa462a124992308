//! How packets reach other nodes' pods: what a user may choose, what it costs in bytes, and what it means in the tables.
//! It must not know which nodes there are.

use clap::ValueEnum;
use tables::route::RouteKind;
use tables::{Addr, node};

/// One way for the whole cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Encapsulation {
    /// RFC 7348.
    #[default]
    Vxlan,
    /// RFC 8926.
    Geneve,
    /// IP in IP: RFC 2003, 2473 and 4213.
    Ipip,
    /// As they are, to the other node's Ethernet address: for nodes on one link, or routers that know the pod ranges.
    None,
}

/// Bytes of an Ethernet header, and of UDP with VXLAN's or Geneve's.
const ETHERNET_BYTES: u32 = 14;
const UDP_AND_TUNNEL_BYTES: u32 = 8 + 8;

impl Encapsulation {
    /// UDP port as IANA registered it.
    pub fn default_port(self) -> u16 {
        match self {
            Encapsulation::Geneve => 6081,
            Encapsulation::Vxlan | Encapsulation::Ipip | Encapsulation::None => 4789,
        }
    }

    /// Bytes that it takes of the underlay's MTU.
    pub fn overhead(self, outer_is_v4: bool) -> u32 {
        let ip = if outer_is_v4 { 20 } else { 40 };
        match self {
            Encapsulation::Vxlan | Encapsulation::Geneve => ip + UDP_AND_TUNNEL_BYTES + ETHERNET_BYTES,
            Encapsulation::Ipip => ip,
            Encapsulation::None => 0,
        }
    }

    /// Of the routes to other nodes' pods.
    pub fn route_kind(self) -> RouteKind {
        match self {
            Encapsulation::Vxlan | Encapsulation::Geneve => RouteKind::Tunnel,
            Encapsulation::Ipip => RouteKind::Ipip,
            Encapsulation::None => RouteKind::Via,
        }
    }

    /// What the node's row says.
    pub fn row(self) -> node::Encapsulation {
        match self {
            Encapsulation::Geneve => node::Encapsulation::Geneve,
            Encapsulation::Vxlan | Encapsulation::Ipip | Encapsulation::None => node::Encapsulation::Vxlan,
        }
    }
}

/// The other node's address that tunnels to it lead to: IPv4 if both nodes have it, else IPv6. As long as nothing is known
/// of this node, what the other has.
pub fn peer(own: &[Addr], other: &[Addr]) -> Option<Addr> {
    let shared = |v4: bool| {
        let ours = own.is_empty() || own.iter().any(|addr| addr.is_v4() == v4);
        other.iter().find(|addr| ours && addr.is_v4() == v4).copied()
    };
    shared(true).or_else(|| shared(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_meet_in_the_family_they_share_ipv4_before_ipv6() {
        let [v4, v6] = ["192.168.0.1", "fd99::1"].map(|text| text.parse::<Addr>().unwrap());
        assert_eq!(peer(&[v6, v4], &[v6, v4]), Some(v4));
        assert_eq!(peer(&[v6, v4], &[v6]), Some(v6));
        assert_eq!(peer(&[v4], &[v6]), None);
        assert_eq!((peer(&[], &[v6]), peer(&[], &[v6, v4])), (Some(v6), Some(v4)));
    }

    #[test]
    fn each_costs_the_headers_it_adds() {
        use Encapsulation::*;
        let both = |how: Encapsulation| (how.overhead(true), how.overhead(false));
        assert_eq!([Vxlan, Geneve, Ipip, None].map(both), [(50, 70), (50, 70), (20, 40), (0, 0)]);
    }
}
