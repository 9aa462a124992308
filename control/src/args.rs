//! The command line of `fairway-control`, and what it means.

use crate::encapsulation::Encapsulation;
use clap::Parser;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use tables::Prefix;

/// Turns the cluster's objects into lookup tables for the dataplane of this node, attaches pods, and answers `fairway`.
#[derive(Clone, Debug, Parser)]
#[command(name = "fairway-control", version)]
pub struct Args {
    /// Name of this node's Node object.
    #[arg(long)]
    pub node: String,
    /// Directory of Kubernetes objects (YAML or JSON); followed for changes.
    #[arg(long)]
    pub objects: PathBuf,
    /// The NIC to share with the kernel.
    #[arg(long, value_name = "IFNAME")]
    pub uplink: String,
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
    /// Where /metrics, /healthz and /readyz are served.
    #[arg(long, default_value = "127.0.0.1:9911")]
    pub http: SocketAddr,
    /// Ports of the node that Fairway translates to; as given to fairway-dataplane.
    #[arg(long, default_value = "40000-60999", value_name = "FIRST-LAST", value_parser = parse_ports)]
    pub snat_ports: RangeInclusive<u16>,
}

impl Args {
    pub fn dataplane_socket(&self) -> PathBuf {
        self.run_dir.join("dataplane.sock")
    }

    pub fn tunnel_port(&self) -> u16 {
        self.tunnel_port.unwrap_or(self.encapsulation.default_port())
    }
}

fn parse_ports(text: &str) -> Result<RangeInclusive<u16>, String> {
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
    fn the_tunnels_port_is_the_registered_one_unless_it_is_given() {
        let port = |more: &[&str]| {
            let base = ["fairway-control", "--node", "n", "--objects", "o", "--uplink", "e"];
            Args::try_parse_from(base.iter().chain(more)).unwrap().tunnel_port()
        };
        assert_eq!((port(&[]), port(&["--encapsulation", "geneve"])), (4789, 6081));
        assert_eq!((port(&["--vxlan-port", "8472"]), port(&["--tunnel-port", "8472"])), (8472, 8472));
    }
}
