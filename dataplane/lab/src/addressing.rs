//! Which addresses a lab has: one place for all of them, in both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The address families of a lab's cluster, the first of two being the primary one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Families {
    #[default]
    Ipv4,
    Ipv6,
    /// Both, IPv4 first.
    Dual,
}

impl Families {
    pub fn has_ipv4(self) -> bool {
        self != Families::Ipv6
    }

    pub fn has_ipv6(self) -> bool {
        self != Families::Ipv4
    }

    fn pick<T>(self, ipv4: T, ipv6: T) -> Vec<T> {
        let both = [(self.has_ipv4(), ipv4), (self.has_ipv6(), ipv6)];
        both.into_iter().filter_map(|(wanted, value)| wanted.then_some(value)).collect()
    }

    /// Of node 1, 2, ... on the fabric.
    pub fn node(self, number: u8) -> Vec<IpAddr> {
        self.on_fabric(10 + number)
    }

    /// Of the client outside.
    pub fn client(self) -> Vec<IpAddr> {
        self.on_fabric(100)
    }

    fn on_fabric(self, host: u8) -> Vec<IpAddr> {
        let ipv6 = Ipv6Addr::new(0xfd00, 0x18, 0, 0, 0, 0, 0, u16::from(host));
        self.pick(Ipv4Addr::new(172, 18, 0, host).into(), ipv6.into())
    }

    /// Pod ranges of a node; `length` is that of the IPv4 one.
    pub fn pod_ranges(self, number: u8, length: u8) -> Vec<String> {
        self.pick(format!("10.244.{number}.0/{length}"), format!("fd00:10:244:{number}::/64"))
    }

    /// Service `number`'s cluster addresses.
    pub fn service(self, number: u8) -> Vec<IpAddr> {
        let ipv6 = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, u16::from(number));
        self.pick(Ipv4Addr::new(10, 96, 0, number).into(), ipv6.into())
    }

    pub fn service_ranges(self) -> Vec<&'static str> {
        self.pick("10.96.0.0/16", "fd00:10:96::/112")
    }

    pub fn cluster_ranges(self) -> Vec<&'static str> {
        self.pick("10.244.0.0/16", "fd00:10:244::/48")
    }
}

/// Of the fabric's network.
pub fn prefix_length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 24 } else { 64 }
}

/// As `ip address add` takes it; nobody else on the fabric is asked about it first.
pub fn assignment(address: IpAddr) -> String {
    let nodad = if address.is_ipv6() { " nodad" } else { "" };
    format!("{address}/{}{nodad}", prefix_length(address))
}

/// An address as part of a URL or before a port.
pub fn host_part(address: IpAddr) -> String {
    if address.is_ipv4() { address.to_string() } else { format!("[{address}]") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_has_its_addresses_and_ipv4_comes_first() {
        let texts = |all: Vec<IpAddr>| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts(Families::Dual.node(1)), ["172.18.0.11", "fd00:18::b"]);
        assert_eq!(texts(Families::Ipv6.service(10)), ["fd00:10:96::a"]);
        assert_eq!(Families::Ipv4.pod_ranges(2, 28), ["10.244.2.0/28"]);
        assert_eq!(assignment(Families::Ipv6.client()[0]), "fd00:18::64/64 nodad");
    }
}
