//! The command line, and what it means: arguments and the interfaces' own addresses become a checked `Plan`.

use crate::{
    error::{Error, Result},
    netns::{InterfaceFacts, Netns},
    packet::Addresses,
    rate::{Rate, parse_duration},
    run::{End, Plan},
};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
    time::Duration,
};

#[derive(Debug, Parser)]
#[command(name = "pktgen", version, about = "Sends numbered packets over AF_XDP and says what became of them")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send out of one interface, receive on another, report loss, duplicates, order and latency
    Run(Box<RunArgs>),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Output {
    Table,
    Json,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// Interface to send from
    #[arg(long)]
    iface: String,
    /// Interface to receive on; while the run lasts, everything that arrives there goes to pktgen
    #[arg(long)]
    sink: String,
    /// Network namespace of --iface: a name of `ip netns` or a path
    #[arg(long, value_name = "NAME|PATH")]
    iface_netns: Option<Netns>,
    /// Network namespace of --sink
    #[arg(long, value_name = "NAME|PATH")]
    sink_netns: Option<Netns>,
    /// Packets per second, such as 100k or 1M
    #[arg(long)]
    rate: Rate,
    /// How long to send, such as 3s or 500ms
    #[arg(long, value_parser = parse_duration)]
    duration: Duration,
    /// Bytes of a frame, Ethernet header included, FCS not [default: 64, or 84 for IPv6]
    #[arg(long)]
    size: Option<usize>,
    /// Flows: as many source ports in turn, from --src-port up
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    flows: u16,
    /// Format of the report
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// [default: --iface's]
    #[arg(long)]
    src_mac: Option<Mac>,
    /// Next hop's address [default: --sink's]
    #[arg(long)]
    dst_mac: Option<Mac>,
    /// [default: --iface's address, else 198.18.0.1 or 2001:2::1 of the benchmarking ranges]
    #[arg(long)]
    src_ip: Option<IpAddr>,
    /// [default: --sink's address, else 198.18.0.2 or 2001:2::2]
    #[arg(long)]
    dst_ip: Option<IpAddr>,
    /// First source port
    #[arg(long, default_value_t = 20_000)]
    src_port: u16,
    /// Destination port; 9 is discard
    #[arg(long, default_value_t = 9)]
    dst_port: u16,
    /// Queue of --iface to send on
    #[arg(long, default_value_t = 0)]
    queue: u32,
    /// Receive queues of --sink to bind, from 0 up [default: what its driver reports]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    sink_queues: Option<u32>,
    /// Never ask for zero-copy mode
    #[arg(long)]
    copy: bool,
    /// Never sleep: exact pacing and lowest latency, for two spare cores
    #[arg(long)]
    spin: bool,
    /// CPUs to pin the sender and the sink to
    #[arg(long, value_delimiter = ',', num_args = 1..=2, value_name = "SENDER,SINK")]
    cpus: Vec<usize>,
    /// How long without a packet after the last was sent before the rest counts as lost
    #[arg(long, default_value = "500ms", value_parser = parse_duration)]
    drain: Duration,
}

/// A MAC address written `02:00:00:00:00:01`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mac([u8; 6]);

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        // from_str_radix alone would take a sign.
        let byte = |part: &str| match part.as_bytes() {
            [high, low] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => u8::from_str_radix(part, 16).ok(),
            _ => None,
        };
        let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
        let bytes = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
        bytes.map(Mac).ok_or_else(|| format!("`{text}` is no MAC address; write it like 02:00:00:00:00:01"))
    }
}

impl RunArgs {
    pub fn plan(&self) -> Result<Plan> {
        let end = |interface: &str, netns: &Option<Netns>, cpu| End {
            interface: interface.into(),
            netns: netns.clone().unwrap_or_default(),
            cpu,
        };
        let from = end(&self.iface, &self.iface_netns, self.cpus.first().copied());
        let to = end(&self.sink, &self.sink_netns, self.cpus.get(1).copied());
        let source = InterfaceFacts::read(&from.interface, &from.netns)?;
        let target = InterfaceFacts::read(&to.interface, &to.netns)?;
        let addresses = self.addresses(&source, &target)?;
        let size = self.size.unwrap_or(if addresses.src_ip.is_ipv6() { 84 } else { 64 });
        let plan = Plan {
            from,
            to,
            addresses,
            rate: self.rate,
            duration: self.duration,
            size,
            flows: self.flows,
            tx_queue: self.queue,
            sink_queues: self.sink_queues,
            force_copy: self.copy,
            spin: self.spin,
            drain: self.drain,
        };
        plan.packets().map(|_| plan)
    }

    fn addresses(&self, source: &InterfaceFacts, target: &InterfaceFacts) -> Result<Addresses> {
        let ipv6 = self.wants_ipv6(source, target);
        let default = |v4: [u8; 4], v6: [u16; 8]| {
            if ipv6 { IpAddr::from(Ipv6Addr::from(v6)) } else { IpAddr::from(Ipv4Addr::from(v4)) }
        };
        // RFC 2544 and RFC 5180: ranges set aside for benchmarks.
        let src_ip = self.src_ip.or(source.ip(ipv6)).unwrap_or(default([198, 18, 0, 1], [0x2001, 2, 0, 0, 0, 0, 0, 1]));
        let dst_ip = self.dst_ip.or(target.ip(ipv6)).unwrap_or(default([198, 18, 0, 2], [0x2001, 2, 0, 0, 0, 0, 0, 2]));
        if src_ip.is_ipv6() != dst_ip.is_ipv6() {
            return Err(Error::MixedFamilies { src: src_ip, dst: dst_ip });
        }
        let src_mac = self.src_mac.map_or(source.mac, |mac| mac.0);
        let dst_mac = self.dst_mac.map_or(target.mac, |mac| mac.0);
        Ok(Addresses { src_mac, dst_mac, src_ip, dst_ip, src_port: self.src_port, dst_port: self.dst_port })
    }

    /// An address that was given decides; else IPv4, unless only IPv6 is there on both ends.
    fn wants_ipv6(&self, source: &InterfaceFacts, target: &InterfaceFacts) -> bool {
        let given = self.src_ip.or(self.dst_ip).map(|ip| ip.is_ipv6());
        let no_ipv4 = source.ipv4.is_none() && target.ipv4.is_none();
        given.unwrap_or(no_ipv4 && source.ipv6.is_some() && target.ipv6.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: InterfaceFacts = InterfaceFacts { mac: [2; 6], ipv4: Some(Ipv4Addr::new(10, 0, 0, 1)), ipv6: None };
    const V6: InterfaceFacts = InterfaceFacts { mac: [4; 6], ipv4: None, ipv6: Some(Ipv6Addr::LOCALHOST) };
    const BARE: InterfaceFacts = InterfaceFacts { mac: [6; 6], ipv4: None, ipv6: None };

    fn args(more: &[&str]) -> RunArgs {
        let base = ["pktgen", "run", "--iface", "a", "--sink", "b", "--rate", "1k", "--duration", "1s"];
        let Command::Run(args) = Cli::try_parse_from(base.iter().chain(more)).unwrap().command;
        *args
    }

    #[test]
    fn the_interfaces_own_addresses_are_the_defaults() {
        let found = args(&[]).addresses(&V4, &V4).unwrap();
        assert_eq!((found.src_mac, found.dst_mac), (V4.mac, V4.mac));
        assert_eq!((found.src_ip, found.dst_ip), (IpAddr::V4(V4.ipv4.unwrap()), IpAddr::V4(V4.ipv4.unwrap())));
        assert!(args(&[]).addresses(&V6, &V6).unwrap().src_ip.is_ipv6());
        assert_eq!(args(&[]).addresses(&BARE, &V6).unwrap().dst_ip.to_string(), "198.18.0.2");
    }

    #[test]
    fn what_was_given_wins_and_families_do_not_mix() {
        let found = args(&["--dst-ip", "fd00::9", "--dst-mac", "0a:00:00:00:00:0b"]).addresses(&V4, &V4).unwrap();
        assert_eq!((found.src_ip.to_string().as_str(), found.dst_mac), ("2001:2::1", [10, 0, 0, 0, 0, 11]));
        let mixed = args(&["--src-ip", "10.1.1.1", "--dst-ip", "fd00::9"]).addresses(&V4, &V4);
        assert!(matches!(mixed, Err(Error::MixedFamilies { .. })));
    }

    #[test]
    fn malformed_macs_are_refused() {
        for bad in
            ["", "02:00:00:00:00", "02:00:00:00:00:00:00", "02:00:00:00:00:0g", "2:0:0:0:0:1", "+2:00:00:00:00:01"]
        {
            assert!(bad.parse::<Mac>().is_err(), "{bad:?}");
        }
    }
}
