//! The network configuration that a runtime gives on standard input, and what of it concerns one interface. Parsed here and
//! nowhere else; what is not for us is left alone.
//!
//! Sources: CNI specification 1.1, "Section 1: Network configuration format" and "Section 2: Execution Protocol";
//! CONVENTIONS.md of containernetworking/cni ("Dynamic plugin specific fields (Capabilities / Runtime Configuration)").

use super::VERSIONS;
use crate::api::{CniWants, Failure, code};
use crate::bandwidth::{Bandwidth, Rate};
use crate::object::HostPort;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::path::PathBuf;
use tables::{Addr, Mac, Protocol};

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Configuration {
    pub cni_version: String,
    /// Of the network. Attachments of different networks do not know of each other.
    #[serde(default)]
    pub name: String,
    #[serde(default = "default_run_dir")]
    pub run_dir: PathBuf,
    /// What plugins before this one made, or (CHECK, DEL) what all together did.
    pub prev_result: Option<Value>,
    #[serde(default)]
    runtime_config: RuntimeConfig,
    /// GC: what the runtime still knows.
    #[serde(default, rename = "cni.dev/valid-attachments")]
    pub valid: Option<Vec<ValidAttachment>>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct ValidAttachment {
    #[serde(rename = "containerID")]
    pub container: String,
    pub ifname: String,
}

/// What was asked for this one interface.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RuntimeConfig {
    #[serde(deserialize_with = "or_none")]
    ips: Vec<String>,
    mac: Option<String>,
    #[serde(deserialize_with = "or_none")]
    port_mappings: Vec<PortMapping>,
    bandwidth: Option<Rates>,
}

/// Runtimes in Go write `null` for an empty list.
fn or_none<'de, T: Deserialize<'de>, D: Deserializer<'de>>(list: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(list)?.unwrap_or_default())
}

/// containerd names these as its own fields are called: Go takes both for the same.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PortMapping {
    #[serde(alias = "HostPort")]
    host_port: u16,
    #[serde(alias = "ContainerPort")]
    container_port: u16,
    #[serde(default, alias = "Protocol")]
    protocol: String,
    #[serde(rename = "hostIP", alias = "HostIP", default)]
    host_ip: String,
}

/// Bits per second, and bits; 0 is none.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rates {
    #[serde(alias = "IngressRate")]
    ingress_rate: u64,
    #[serde(alias = "IngressBurst")]
    ingress_burst: u64,
    #[serde(alias = "EgressRate")]
    egress_rate: u64,
    #[serde(alias = "EgressBurst")]
    egress_burst: u64,
}

fn default_run_dir() -> PathBuf {
    "/run/fairway".into()
}

impl Configuration {
    pub fn parse(stdin: &str) -> Result<Configuration, Failure> {
        let configuration: Configuration = serde_json::from_str(stdin).map_err(|error| {
            Failure::new(code::DECODE, format!("the network configuration on standard input is not valid: {error}"))
        })?;
        let version = &configuration.cni_version;
        if !VERSIONS.contains(&version.as_str()) {
            let text = format!("cniVersion {version} is not supported: use one of {}", VERSIONS.join(", "));
            return Err(Failure::new(code::VERSION, text));
        }
        Ok(configuration)
    }

    /// Fails if the command is younger than the version of the configuration.
    pub fn allows(&self, command: &str, since: &str) -> Result<(), Failure> {
        let place = |version: &str| VERSIONS.iter().position(|known| *known == version);
        if place(&self.cni_version) >= place(since) {
            return Ok(());
        }
        let text = format!("cniVersion {} does not have {command}: it came with {since}", self.cni_version);
        Err(Failure::new(code::VERSION, text))
    }

    /// What the runtime asks for this interface.
    pub fn wants(&self) -> Result<CniWants, Failure> {
        let RuntimeConfig { ips, mac, port_mappings, bandwidth } = &self.runtime_config;
        Ok(CniWants {
            addrs: ips.iter().map(|text| address(text)).collect::<Result<_, _>>()?,
            mac: mac.as_deref().filter(|text| !text.is_empty()).map(ethernet).transpose()?,
            ports: port_mappings.iter().filter(|port| port.host_port != 0).map(host_port).collect::<Result<_, _>>()?,
            bandwidth: bandwidth.as_ref().map(rates).transpose()?.unwrap_or_default(),
        })
    }
}

fn refused(field: &str, why: impl std::fmt::Display) -> Failure {
    Failure::new(code::NETWORK_CONFIG, format!("runtimeConfig.{field}: {why}"))
}

/// `10.244.1.9` or, as the convention has it, `10.244.1.9/24`; the length says nothing here.
fn address(text: &str) -> Result<Addr, Failure> {
    let (addr, length) = text.split_once('/').map_or((text, None), |(addr, length)| (addr, Some(length)));
    let is_length = length.is_none_or(|length| length.parse::<u8>().is_ok_and(|bits| bits <= 128));
    addr.parse().ok().filter(|_| is_length).ok_or_else(|| refused("ips", format_args!("{text:?} is no address")))
}

fn ethernet(text: &str) -> Result<Mac, Failure> {
    let parts: Vec<u8> = text.split(':').filter_map(|part| u8::from_str_radix(part, 16).ok()).collect();
    let mac = <[u8; 6]>::try_from(parts).ok().filter(|_| text.split(':').count() == 6);
    // Neither a group's nor nobody's (IEEE 802, 8.2).
    let mac = mac.filter(|mac| mac[0] & 1 == 0 && *mac != [0; 6]);
    mac.map(Mac).ok_or_else(|| refused("mac", format_args!("{text:?} is no Ethernet address of one interface")))
}

fn rates(rates: &Rates) -> Result<Bandwidth, Failure> {
    let rate = |name: &str, bits_per_s: u64, burst_bits: u64| match (bits_per_s, burst_bits) {
        (0, 0) => Ok(None),
        (0, _) => Err(refused("bandwidth", format_args!("{name}Burst is given without {name}Rate"))),
        _ => Ok(Some(Rate { bits_per_s, burst_bits })),
    };
    Ok(Bandwidth {
        ingress: rate("ingress", rates.ingress_rate, rates.ingress_burst)?,
        egress: rate("egress", rates.egress_rate, rates.egress_burst)?,
    })
}

fn host_port(mapping: &PortMapping) -> Result<HostPort, Failure> {
    let protocol = match mapping.protocol.to_ascii_lowercase().as_str() {
        "" | "tcp" => Protocol::TCP,
        "udp" => Protocol::UDP,
        "sctp" => Protocol::SCTP,
        other => return Err(refused("portMappings", format_args!("{other:?} is none of tcp, udp, sctp"))),
    };
    if mapping.container_port == 0 {
        return Err(refused("portMappings", "containerPort is 0"));
    }
    let is_any = matches!(mapping.host_ip.as_str(), "" | "0.0.0.0" | "::");
    let addr = (!is_any).then(|| mapping.host_ip.parse()).transpose();
    let addr = addr.map_err(|_| refused("portMappings", format_args!("hostIP {:?} is no address", mapping.host_ip)))?;
    Ok(HostPort { addr, port: mapping.host_port, protocol, container_port: mapping.container_port })
}
