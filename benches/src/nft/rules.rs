//! The text that kube-proxy's nftables mode would hand to nft for a cluster. Must not run anything.

use crate::peers::keys::mix;
use std::fmt::Write;
use std::net::Ipv4Addr;

/// Table, sets, base chains and the rules between them: equal for all clusters (base.nft).
const BASE: &str = include_str!("base.nft");
const SERVICE_ADDRS: u32 = 0xac10_0000;
const ENDPOINT_ADDRS: u32 = 0x0a00_0000;
/// Of the endpoint that comes and goes.
const MORE: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);

/// How kube-proxy spreads a service over its endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A map of addresses in the service's own chain, or one address: today's, and the fastest to change.
    Maps,
    /// A chain for each endpoint, as KEP-3866 has it and kube-proxy wrote for years.
    Chains,
}

/// What is written.
#[derive(Clone, Copy, Debug)]
pub struct Cluster {
    pub services: u32,
    pub endpoints_each: u32,
    pub shape: Shape,
}

impl Cluster {
    /// Everything anew: what is there goes in the same transaction.
    pub fn full(&self) -> String {
        let mut text = format!("add table ip kube-proxy\ndelete table ip kube-proxy\n{BASE}");
        for i in 0..self.services {
            self.service(&mut text, i, &self.endpoints(i));
            let (addr, chain) = (Ipv4Addr::from(SERVICE_ADDRS + i), chain(i));
            line(&mut text, format_args!("add element ip kube-proxy cluster-ips {{ {addr} }}"));
            let element = format_args!("add element ip kube-proxy service-ips {{ {addr} . tcp . 80 : goto {chain} }}");
            line(&mut text, element);
        }
        text
    }

    /// Service `i` gets one endpoint more, or loses it again. Its chains are flushed and written anew, as in kube-proxy's
    /// partial sync; a chain without use is only emptied, since it is deleted in a later transaction.
    pub fn delta(&self, i: u32, more: bool) -> String {
        let mut endpoints = self.endpoints(i);
        let mut text = format!("add chain ip kube-proxy {0}\nflush chain ip kube-proxy {0}\n", chain(i));
        if self.shape == Shape::Chains {
            let gone = (!more).then(|| endpoint_chain(i, MORE));
            let flushed = endpoints.iter().map(|&addr| endpoint_chain(i, addr)).chain(gone);
            for chain in flushed {
                line(&mut text, format_args!("add chain ip kube-proxy {chain}\nflush chain ip kube-proxy {chain}"));
            }
        }
        endpoints.extend(more.then_some(MORE));
        self.service(&mut text, i, &endpoints);
        text
    }

    fn endpoints(&self, i: u32) -> Vec<Ipv4Addr> {
        let first = ENDPOINT_ADDRS + i * self.endpoints_each;
        (first..first + self.endpoints_each).map(Ipv4Addr::from).collect()
    }

    fn service(&self, text: &mut String, i: u32, endpoints: &[Ipv4Addr]) {
        let (chain, addr) = (chain(i), Ipv4Addr::from(SERVICE_ADDRS + i));
        line(text, format_args!("add chain ip kube-proxy {chain}"));
        let spread = match self.shape {
            Shape::Maps => to_addrs(endpoints),
            Shape::Chains => to_chains(text, i, endpoints),
        };
        let outside = format_args!("ip daddr {addr} ip saddr != 10.0.0.0/8 jump mark-for-masquerade");
        line(text, format_args!("add rule ip kube-proxy {chain} {outside}"));
        line(text, format_args!("add rule ip kube-proxy {chain} {spread}"));
    }
}

fn line(text: &mut String, line: std::fmt::Arguments) {
    writeln!(text, "{line}").expect("a string takes all");
}

/// A service's rule without chains for its endpoints.
fn to_addrs(endpoints: &[Ipv4Addr]) -> String {
    if let [addr] = endpoints {
        return format!("meta l4proto tcp dnat to {addr}:8080");
    }
    let map: Vec<String> = endpoints.iter().enumerate().map(|(k, addr)| format!("{k} : {addr} . 8080")).collect();
    let (count, map) = (endpoints.len(), map.join(" , "));
    format!("meta l4proto tcp dnat ip addr . port to numgen random mod {count} map {{ {map} }}")
}

/// Writes the endpoints' chains; the service's rule.
fn to_chains(text: &mut String, i: u32, endpoints: &[Ipv4Addr]) -> String {
    let mut map = Vec::new();
    for (k, &addr) in endpoints.iter().enumerate() {
        let chain = endpoint_chain(i, addr);
        line(text, format_args!("add chain ip kube-proxy {chain}"));
        line(text, format_args!("add rule ip kube-proxy {chain} ip saddr {addr} jump mark-for-masquerade"));
        line(text, format_args!("add rule ip kube-proxy {chain} meta l4proto tcp dnat to {addr}:8080"));
        map.push(format!("{k} : goto {chain}"));
    }
    format!("numgen random mod {} vmap {{ {} }}", endpoints.len(), map.join(" , "))
}

/// Eight letters in the place of kube-proxy's hash.
fn letters(of: u64) -> String {
    let random = mix(of);
    (0..8).map(|i| char::from(b'A' + (random >> (8 * i) & 15) as u8)).collect()
}

fn chain(i: u32) -> String {
    format!("service-{}-default/service-{i}/tcp/http", letters(i as u64))
}

fn endpoint_chain(i: u32, addr: Ipv4Addr) -> String {
    format!("endpoint-{}-default/service-{i}/tcp/http__{addr}/8080", letters(u32::from(addr) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_spread_over_all_its_endpoints() {
        let of = |endpoints_each, shape| Cluster { services: 2, endpoints_each, shape }.full();
        assert!(of(1, Shape::Maps).contains("dnat to 10.0.0.1:8080"));
        assert!(of(2, Shape::Maps).contains("mod 2 map { 0 : 10.0.0.2 . 8080 , 1 : 10.0.0.3 . 8080 }"));
        let chains = of(2, Shape::Chains);
        assert_eq!(chains.matches("add chain ip kube-proxy endpoint-").count(), 4);
        assert_eq!(chains.matches("vmap { 0 : goto endpoint-").count(), 2);
    }
}
