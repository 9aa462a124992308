//! Addresses, prefixes and protocol numbers as they lie in shared memory. No parsing of packets here.

use bytemuck::{Pod, Zeroable};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An IPv4 or IPv6 address: 16 bytes in network order, IPv4 as `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2), so that both
/// families share every table. Stored as two words in native order so that comparing costs two instructions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable, Default, PartialOrd, Ord)]
#[repr(C)]
pub struct Addr([u64; 2]);

const V4_MAPPED: u64 = 0xffff_0000_0000;

impl Addr {
    pub const UNSPECIFIED: Addr = Addr([0, 0]);

    pub const fn v4(octets: [u8; 4]) -> Addr {
        Addr::v4_bits(u32::from_be_bytes(octets))
    }

    /// An IPv4 address, its first octet highest.
    #[inline(always)]
    pub const fn v4_bits(bits: u32) -> Addr {
        Addr([0, V4_MAPPED | bits as u64])
    }

    pub const fn v6(octets: [u8; 16]) -> Addr {
        let bits = u128::from_be_bytes(octets);
        Addr([(bits >> 64) as u64, bits as u64])
    }

    pub const fn from_bits(bits: u128) -> Addr {
        Addr([(bits >> 64) as u64, bits as u64])
    }

    /// The 128 bits, most significant first.
    pub const fn bits(self) -> u128 {
        ((self.0[0] as u128) << 64) | self.0[1] as u128
    }

    pub const fn words(self) -> [u64; 2] {
        self.0
    }

    /// The address of these [`words`](Self::words).
    pub const fn of_words(words: [u64; 2]) -> Addr {
        Addr(words)
    }

    pub const fn is_v4(self) -> bool {
        self.0[0] == 0 && self.0[1] >> 32 == V4_MAPPED >> 32
    }

    pub const fn is_unspecified(self) -> bool {
        self.0[0] == 0 && (self.0[1] == 0 || self.0[1] == V4_MAPPED)
    }

    /// The 32 bits of an IPv4 address, its first octet highest; for IPv6 the last 32.
    #[inline(always)]
    pub const fn low_bits(self) -> u32 {
        self.0[1] as u32
    }

    /// The four octets of an IPv4 address, network order; for IPv6 the last four.
    pub const fn v4_octets(self) -> [u8; 4] {
        self.low_bits().to_be_bytes()
    }

    pub const fn v6_octets(self) -> [u8; 16] {
        self.bits().to_be_bytes()
    }

    /// Class D or ff00::/8.
    pub const fn is_multicast(self) -> bool {
        if self.is_v4() { self.v4_octets()[0] & 0xf0 == 0xe0 } else { self.0[0] >> 56 == 0xff }
    }

    pub const fn is_v4_broadcast(self) -> bool {
        self.is_v4() && self.low_bits() == u32::MAX
    }

    pub fn ip(self) -> IpAddr {
        if self.is_v4() {
            IpAddr::V4(Ipv4Addr::from(self.v4_octets()))
        } else {
            IpAddr::V6(Ipv6Addr::from(self.v6_octets()))
        }
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Addr {
        match ip {
            IpAddr::V4(v4) => Addr::v4(v4.octets()),
            IpAddr::V6(v6) => Addr::v6(v6.octets()),
        }
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(ip: Ipv4Addr) -> Addr {
        Addr::v4(ip.octets())
    }
}

impl From<Ipv6Addr> for Addr {
    fn from(ip: Ipv6Addr) -> Addr {
        Addr::v6(ip.octets())
    }
}

impl FromStr for Addr {
    type Err = std::net::AddrParseError;
    fn from_str(text: &str) -> Result<Addr, Self::Err> {
        text.parse::<IpAddr>().map(Addr::from)
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip().fmt(f)
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip().fmt(f)
    }
}

impl Serialize for Addr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.ip().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Addr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Addr, D::Error> {
        IpAddr::deserialize(deserializer).map(Addr::from)
    }
}

/// An Ethernet address, wire order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable, Default, Serialize, Deserialize)]
#[repr(C)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The same in one word, to be compared.
    #[inline(always)]
    pub fn word(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_le_bytes([0, 0, a, b, c, d, e, f])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = self.0;
        write!(f, "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", m[0], m[1], m[2], m[3], m[4], m[5])
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// "not an Ethernet address: six hex bytes joined by colons are expected"
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("{0:?} is not an Ethernet address: six hex bytes joined by colons are expected")]
pub struct MacParseError(String);

impl FromStr for Mac {
    type Err = MacParseError;
    fn from_str(text: &str) -> Result<Mac, MacParseError> {
        let fail = || MacParseError(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(fail)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| fail())?;
        }
        if parts.next().is_some() { Err(fail()) } else { Ok(Mac(bytes)) }
    }
}

impl TryFrom<String> for Mac {
    type Error = MacParseError;
    fn try_from(text: String) -> Result<Mac, MacParseError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

/// Addresses that share their first `length` of 128 bits. An IPv4 /24 has length 120, so that one table serves both
/// families; `is_v4` addresses never match an IPv6 prefix shorter than 96.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable, PartialOrd, Ord)]
#[repr(C)]
pub struct Prefix {
    addr: Addr,
    length: u64,
}

impl Prefix {
    /// `length` as a person counts it: 0 to 32 for IPv4, 0 to 128 for IPv6. Host bits are cleared.
    pub fn new(addr: Addr, length: u8) -> Option<Prefix> {
        let (most, shift) = if addr.is_v4() { (32, 96) } else { (128, 0) };
        (length <= most).then(|| Prefix::mapped(addr, length + shift))
    }

    /// A prefix by its length in the 128-bit space.
    pub fn mapped(addr: Addr, length: u8) -> Prefix {
        Prefix { addr: Addr::from_bits(addr.bits() & mask(length)), length: length as u64 }
    }

    /// The prefix that holds this address alone.
    pub fn host(addr: Addr) -> Prefix {
        Prefix { addr, length: 128 }
    }

    pub fn addr(&self) -> Addr {
        self.addr
    }

    /// Length in the 128-bit space.
    pub fn mapped_length(&self) -> u8 {
        self.length as u8
    }

    pub fn is_v4(&self) -> bool {
        self.length >= 96 && self.addr.is_v4()
    }

    /// Length as a person counts it.
    pub fn length(&self) -> u8 {
        if self.is_v4() { self.length as u8 - 96 } else { self.length as u8 }
    }

    pub fn contains(&self, addr: Addr) -> bool {
        addr.is_v4() == self.is_v4() && addr.bits() & mask(self.length as u8) == self.addr.bits()
    }

    pub fn covers(&self, other: &Prefix) -> bool {
        self.length <= other.length && self.is_v4() == other.is_v4() && self.contains(other.addr)
    }
}

fn mask(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - length.min(128) as u32).unwrap_or(0)
}

/// "not a CIDR"
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("{0:?} is not a CIDR: an address, a slash and a prefix length are expected, as in 10.1.0.0/16")]
pub struct PrefixParseError(String);

impl FromStr for Prefix {
    type Err = PrefixParseError;
    fn from_str(text: &str) -> Result<Prefix, PrefixParseError> {
        let parse = || {
            let (addr, length) = text.split_once('/')?;
            Prefix::new(addr.parse().ok()?, length.parse().ok()?)
        };
        parse().ok_or_else(|| PrefixParseError(text.to_owned()))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.length())
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Prefix {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Prefix, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A layer-4 protocol number (IANA). A newtype, not an enum: shared memory and packets can hold any value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[repr(transparent)]
#[serde(transparent)]
pub struct Protocol(pub u8);

impl Protocol {
    pub const ICMP: Protocol = Protocol(1);
    pub const TCP: Protocol = Protocol(6);
    pub const UDP: Protocol = Protocol(17);
    pub const ICMPV6: Protocol = Protocol(58);
    pub const SCTP: Protocol = Protocol(132);

    /// Whether flows of this protocol are told apart by ports.
    pub const fn has_ports(self) -> bool {
        matches!(self, Protocol::TCP | Protocol::UDP | Protocol::SCTP)
    }

    pub const fn is_icmp(self) -> bool {
        matches!(self, Protocol::ICMP | Protocol::ICMPV6)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Protocol::ICMP => f.write_str("icmp"),
            Protocol::TCP => f.write_str("tcp"),
            Protocol::UDP => f.write_str("udp"),
            Protocol::ICMPV6 => f.write_str("icmpv6"),
            Protocol::SCTP => f.write_str("sctp"),
            Protocol(other) => write!(f, "proto-{other}"),
        }
    }
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Protocol {
    type Err = String;
    fn from_str(text: &str) -> Result<Protocol, String> {
        match text.to_ascii_lowercase().as_str() {
            "icmp" => Ok(Protocol::ICMP),
            "tcp" => Ok(Protocol::TCP),
            "udp" => Ok(Protocol::UDP),
            "icmpv6" => Ok(Protocol::ICMPV6),
            "sctp" => Ok(Protocol::SCTP),
            other => Err(format!("{other:?} is not a protocol: tcp, udp, sctp, icmp or icmpv6 is expected")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_address_is_mapped_and_comes_back() {
        let addr: Addr = "10.1.2.3".parse().unwrap();
        assert!(addr.is_v4());
        assert_eq!(addr.v6_octets()[10..], [0xff, 0xff, 10, 1, 2, 3]);
        assert_eq!(addr.to_string(), "10.1.2.3");
    }

    #[test]
    fn the_ipv6_default_does_not_swallow_ipv4() {
        let default: Prefix = "::/0".parse().unwrap();
        assert!(default.contains("2001:db8::1".parse().unwrap()));
        assert!(!default.contains("10.0.0.1".parse().unwrap()));
        let default: Prefix = "0.0.0.0/0".parse().unwrap();
        assert!(default.contains("10.0.0.1".parse().unwrap()) && default.length() == 0);
    }

    #[test]
    fn a_prefix_clears_host_bits_and_refuses_too_long_ones() {
        assert_eq!("10.1.2.3/16".parse::<Prefix>().unwrap().to_string(), "10.1.0.0/16");
        assert!("10.1.2.3/33".parse::<Prefix>().is_err());
        assert!("10.1.2.3".parse::<Prefix>().is_err());
    }

    #[test]
    fn a_mac_reads_what_it_writes() {
        let mac = Mac([2, 0, 0xab, 4, 5, 6]);
        assert_eq!(mac.to_string().parse(), Ok(mac));
        assert!("02:00".parse::<Mac>().is_err() && "02:00:00:00:00:00:00".parse::<Mac>().is_err());
    }
}
