//! The command line of `fairway-control`, and what it means.

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
    /// VXLAN network identifier of the cluster.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..1 << 24))]
    pub vni: u32,
    /// UDP port of the tunnel: 4789 as registered, 8472 as Linux once chose.
    #[arg(long, default_value_t = 4789)]
    pub vxlan_port: u16,
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
}
