//! The command line of `fairway-control`, and what it means.

use crate::encapsulation::Encapsulation;
use crate::ipam::pool::{self as pod_pool, PodPool};
use crate::object::balancing;
use crate::object::forwarding::Forwarding;
use crate::pool::{self, Pool};
use crate::state::{DetectLocal, NodePortAddresses, ServiceOptions};
use clap::{ArgGroup, Parser, ValueEnum};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use tables::Prefix;

/// Turns the cluster's objects into lookup tables for the dataplane of this node, attaches pods, and answers `fairway`.
#[derive(Clone, Debug, Parser)]
#[command(name = "fairway-control", version)]
#[command(group(ArgGroup::new("source").required(true).args(["objects", "kubernetes", "kubeconfig"])))]
pub struct Args {
    /// Name of this node's Node object.
    #[arg(long)]
    pub node: String,
    /// Directory of Kubernetes objects (YAML or JSON); followed for changes.
    #[arg(long)]
    pub objects: Option<PathBuf>,
    /// Follow the objects of the API server, as a pod of the cluster.
    #[arg(long)]
    pub kubernetes: bool,
    /// Follow the objects of the API server that this file names, as whom it says.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Where the API server is. Needed with --kubernetes where nothing else serves the cluster's own addresses: the one that
    /// a pod is told is a service.
    #[arg(long, value_name = "URL", conflicts_with = "objects")]
    pub api_server: Option<http::Uri>,
    /// The NIC to share with the kernel; `auto`: that of the default route.
    #[arg(long, value_name = "IFNAME")]
    pub uplink: String,
    /// What becomes of the node's network when this process is told to stop. `keep` leaves it to a successor, and pods
    /// connected as long as the dataplane runs; `fairway uninstall` then undoes it.
    #[arg(long, value_enum, default_value_t)]
    pub at_exit: AtExit,
    /// While another fairway-control runs on this node, wait to take its place instead of refusing to start: for pods that
    /// replace each other.
    #[arg(long)]
    pub stand_by: bool,
    /// Sockets and lock.
    #[arg(long, default_value = "/run/fairway")]
    pub run_dir: PathBuf,
    /// What survives a restart: addresses and attachments.
    #[arg(long, default_value = "/var/lib/fairway")]
    pub state_dir: PathBuf,
    /// Range of service addresses; may be given once for each.
    #[arg(long = "service-cidr", value_name = "CIDR")]
    pub service_cidrs: Vec<Prefix>,
    /// Range that holds all pod ranges; may be given once for each.
    #[arg(long = "cluster-cidr", value_name = "CIDR")]
    pub cluster_cidrs: Vec<Prefix>,
    /// How packets reach other nodes' pods; `none`: as they are, for nodes on one link or behind routers that know the
    /// pod ranges.
    #[arg(long, value_enum, default_value_t)]
    pub encapsulation: Encapsulation,
    /// VXLAN or Geneve network identifier of the cluster.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..1 << 24))]
    pub vni: u32,
    /// UDP port of the tunnel: else as registered, 4789 for VXLAN and 6081 for Geneve (8472 is what Linux once chose).
    #[arg(long, alias = "vxlan-port")]
    pub tunnel_port: Option<u16>,
    /// Where node ports are served: `primary` (the Node object's first address of each family), or the node's addresses
    /// in these ranges; a family without any range is served on all.
    #[arg(long, default_value = "primary", value_name = "primary|CIDR,...", value_parser = parse_node_port_addresses)]
    pub node_port_addresses: NodePortAddresses,
    /// Serve IPv4 node ports on 127.0.0.1, too, if the ranges of --node-port-addresses hold it.
    #[arg(long)]
    pub localhost_node_ports: bool,
    /// Every client of a cluster address is masqueraded, pods of this node, too.
    #[arg(long)]
    pub masquerade_all: bool,
    /// How clients of cluster addresses outside the cluster are told from pods, to be masqueraded: by `cluster-cidr`, the
    /// ranges of --cluster-cidr, or not at all, by `none`.
    #[arg(long, value_enum, default_value_t)]
    pub detect_local: DetectLocal,
    /// How services spread new flows that do not say it by the annotation fairway.dev/load-balancing: random, round-robin,
    /// source-hash, least-connections or maglev. Turns and connections are counted by each node for itself.
    #[arg(long, default_value = "random")]
    pub load_balancing: balancing::Named,
    /// How clients outside reach backends of other nodes (external traffic policy Cluster), by services that do not say it by
    /// the annotation fairway.dev/forwarding: `snat`, as an address of the node that they asked, or `dsr` (direct server
    /// return), with their own; the backend's node answers them by itself.
    #[arg(long, value_enum, default_value_t)]
    pub forwarding: Forwarding,
    /// Where `externalIPs` of services may lie; nowhere, unless it is said: whoever may write a Service could else take
    /// any address.
    #[arg(long, value_name = "CIDR,...", value_delimiter = ',')]
    pub external_ip_ranges: Vec<Prefix>,
    /// Addresses for services of type LoadBalancer, CIDRs or FIRST-LAST; may be given several times, and has to be the same
    /// on every node.
    #[arg(long = "load-balancer-pool", value_name = "NAME=RANGE,...")]
    pub load_balancer_pools: Vec<Pool>,
    /// Addresses of pods that ask for them by the annotation fairway.dev/pod-pool: CIDRs or FIRST-LAST, of which a node gives
    /// what lies in its own pod ranges, or +FIRST-LAST, these of each pod range; may be given several times.
    #[arg(long = "pod-pool", value_name = "NAME=PART,...")]
    pub pod_pools: Vec<PodPool>,
    /// Which addresses the nodes of the uplink's link answer for by ARP and neighbour discovery, one node for each;
    /// nothing, unless it is said.
    #[arg(long, value_name = "WHAT,...", value_enum, value_delimiter = ',')]
    pub announce: Vec<Announce>,
    /// UDP port at which nodes that announce hear each other, in multicast on the uplink.
    #[arg(long, default_value_t = 9912, value_parser = clap::value_parser!(u16).range(1..))]
    pub announce_port: u16,
    /// Where /metrics, /healthz and /readyz are served.
    #[arg(long, default_value = "127.0.0.1:9911")]
    pub http: SocketAddr,
    /// Ports of the node that Fairway translates to; as given to fairway-dataplane.
    #[arg(long, default_value = "40000-60999", value_name = "FIRST-LAST", value_parser = parse_ports)]
    pub snat_ports: RangeInclusive<u16>,
}

/// What a process does that is told to stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum AtExit {
    #[default]
    Undo,
    Keep,
}

/// Kinds of addresses that are announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Announce {
    /// Of load balancers that are Fairway's own.
    LoadBalancer,
    /// `externalIPs` in their ranges.
    External,
}

impl Args {
    /// What the parser of single arguments cannot see.
    pub fn check(&self) -> Result<(), pool::PoolError> {
        pool::check(&self.load_balancer_pools)?;
        pod_pool::check(&self.pod_pools)
    }

    pub fn dataplane_socket(&self) -> PathBuf {
        self.run_dir.join("dataplane.sock")
    }

    pub fn tunnel_port(&self) -> u16 {
        self.tunnel_port.unwrap_or(self.encapsulation.default_port())
    }

    /// UDP port of what clients outside asked other nodes: that of the tunnels if these are Geneve, too, else Geneve's own.
    /// 0, so that there is no direct server return, where something else of Fairway's has it.
    pub fn direct_port(&self) -> u16 {
        let port = Encapsulation::Geneve.default_port();
        match self.encapsulation {
            Encapsulation::Geneve => self.tunnel_port(),
            _ if port == self.tunnel_port() || self.snat_ports.contains(&port) => 0,
            _ => port,
        }
    }
}

impl Args {
    pub fn service_options(&self) -> ServiceOptions {
        ServiceOptions {
            node_port_addresses: self.node_port_addresses.clone(),
            localhost_node_ports: self.localhost_node_ports,
            masquerade_all: self.masquerade_all,
            load_balancing: self.load_balancing.0,
            forwarding: self.forwarding,
            detect_local: self.detect_local,
            external_ip_ranges: self.external_ip_ranges.clone(),
        }
    }
}

fn parse_node_port_addresses(text: &str) -> Result<NodePortAddresses, String> {
    if text == "primary" {
        return Ok(NodePortAddresses::Primary);
    }
    let range = |item: &str| {
        let parsed = item.trim().parse::<Prefix>();
        parsed.map_err(|_| format!("{item:?} is no range: `primary` alone, or ranges such as 192.168.0.0/16,fd00::/8"))
    };
    text.split(',').map(range).collect::<Result<_, _>>().map(NodePortAddresses::Ranges)
}

pub(crate) fn parse_ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let parse = || {
        let (first, last) = text.split_once('-')?;
        let range = first.trim().parse::<u16>().ok()?..=last.trim().parse::<u16>().ok()?;
        (*range.start() >= 1024 && !range.is_empty()).then_some(range)
    };
    parse().ok_or_else(|| "two ports from 1024 on joined by a dash are expected, as in 40000-60999".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_range_is_checked() {
        assert_eq!(parse_ports("40000-60999"), Ok(40000..=60999));
        for bad in ["", "40000", "5-9", "60000-50000", "40000-70000"] {
            assert!(parse_ports(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_wrong_is_refused_with_its_name() {
        let base = ["fairway-control", "--node", "n", "--objects", "o", "--uplink", "e"];
        assert!(Args::try_parse_from(base).is_ok());
        let error = Args::try_parse_from(base.iter().chain(&["--service-cidr", "10.96.0.0"])).unwrap_err();
        assert!(error.to_string().contains("--service-cidr"), "{error}");
        assert!(Args::try_parse_from(base.iter().chain(&["--vni", "16777216"])).is_err());
    }

    #[test]
    fn node_port_addresses_are_primary_or_ranges() {
        assert_eq!(parse_node_port_addresses("primary"), Ok(NodePortAddresses::Primary));
        let two = ["192.168.0.0/16", "fd00::/8"].map(|range| range.parse().unwrap());
        assert_eq!(parse_node_port_addresses("192.168.0.0/16, fd00::/8"), Ok(NodePortAddresses::Ranges(two.to_vec())));
        for bad in ["", "primary,10.0.0.0/8", "10.0.0.0", "10.0.0.0/8,", "10.0.0.0/33"] {
            let error = parse_node_port_addresses(bad).unwrap_err();
            assert!(error.contains("primary"), "{bad}: {error}");
        }
    }

    #[test]
    fn external_addresses_are_nowhere_unless_it_is_said() {
        let parse = |more: &[&str]| {
            let base = ["fairway-control", "--node", "n", "--objects", "o", "--uplink", "e"];
            Args::try_parse_from(base.iter().chain(more)).map(|args| args.service_options())
        };
        assert_eq!(parse(&[]).unwrap(), ServiceOptions::default());
        let ranges = parse(&["--external-ip-ranges", "192.0.2.0/24,2001:db8::/32"]).unwrap().external_ip_ranges;
        assert_eq!(ranges.len(), 2);
        assert!(parse(&["--external-ip-ranges", "192.0.2.1"]).is_err());
    }

    #[test]
    fn pools_and_announcements_are_off_unless_they_are_named() {
        let parse = |more: &[&str]| {
            let base = ["fairway-control", "--node", "n", "--objects", "o", "--uplink", "e"];
            Args::try_parse_from(base.iter().chain(more))
        };
        let none = parse(&[]).unwrap();
        assert!(none.load_balancer_pools.is_empty() && none.announce.is_empty());
        let pool = |text| ["--load-balancer-pool", text];
        let two = [pool("a=192.0.2.0/24"), pool("b=192.0.2.9-192.0.2.20")].concat();
        assert!(parse(&two).unwrap().check().unwrap_err().to_string().contains("overlap"));
        assert!(parse(&pool("192.0.2.0/24")).unwrap_err().to_string().contains("NAME=RANGE"));
        let both = parse(&["--announce", "load-balancer,external"]).unwrap().announce;
        assert_eq!(both, [Announce::LoadBalancer, Announce::External]);
    }

    #[test]
    fn the_tunnels_port_is_the_registered_one_unless_it_is_given() {
        let port = |more: &[&str]| {
            let base = ["fairway-control", "--node", "n", "--objects", "o", "--uplink", "e"];
            Args::try_parse_from(base.iter().chain(more)).unwrap().tunnel_port()
        };
        assert_eq!((port(&[]), port(&["--encapsulation", "geneve"])), (4789, 6081));
        assert_eq!((port(&["--vxlan-port", "8472"]), port(&["--tunnel-port", "8472"])), (8472, 8472));
    }
}
