//! What the comparison needs to know of a frame's bytes: where its headers are, which fields hold a port of the node's
//! own, and how to write another one there with every checksum above it. Knows nothing of the code that is tested.

use crate::support::*;

/// IP protocols.
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// Where the headers of an IP packet are, counted from the frame's start.
#[derive(Clone, Copy, Debug)]
pub struct Headers {
    pub is_v4: bool,
    pub src: Addr,
    pub dst: Addr,
    pub protocol: u8,
    pub l4: usize,
    /// Where the packet says that it ends; of a quote it may be cut off before.
    pub end: usize,
}

/// A port or echo id of the node's own: which one, where it stands, and which checksums cover it, inner ones first.
#[derive(Clone, Debug)]
pub struct OwnPort {
    pub protocol: u8,
    pub port: u16,
    /// Whom it is for: another end may meet the same port.
    pub remote: (Addr, u16),
    at: usize,
    checksums: Vec<usize>,
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

impl Headers {
    /// Those of a frame.
    pub fn of(frame: &[u8]) -> Headers {
        Headers::at(frame, 14).expect("an IP packet")
    }

    fn at(bytes: &[u8], l3: usize) -> Option<Headers> {
        let ip = bytes.get(l3..)?;
        let is_v4 = ip.first()? >> 4 == 4;
        if is_v4 {
            let (src, dst) = (ip.get(12..16)?.try_into().unwrap(), ip.get(16..20)?.try_into().unwrap());
            let (l4, end) = (l3 + (ip[0] & 15) as usize * 4, l3 + word(ip, 2) as usize);
            return Some(Headers { is_v4, src: Addr::v4(src), dst: Addr::v4(dst), protocol: ip[9], l4, end });
        }
        let (src, dst) = (ip.get(8..24)?.try_into().unwrap(), ip.get(24..40)?.try_into().unwrap());
        let (mut protocol, mut l4, end) = (ip[6], l3 + 40, l3 + 40 + word(ip, 4) as usize);
        while matches!(protocol, 0 | 43 | 60) && l4 + 2 <= bytes.len() {
            (protocol, l4) = (bytes[l4], l4 + 8 + bytes[l4 + 1] as usize * 8);
        }
        Some(Headers { is_v4, src: Addr::v6(src), dst: Addr::v6(dst), protocol, l4, end })
    }

    pub fn is_icmp(&self) -> bool {
        matches!(self.protocol, ICMP | ICMPV6)
    }

    /// Whether this is an ICMP error, and so followed by a quote.
    pub fn is_error(&self, bytes: &[u8]) -> bool {
        let kind = bytes.get(self.l4).copied().unwrap_or_default();
        match self.protocol {
            ICMP => matches!(kind, 3 | 11 | 12),
            ICMPV6 => (1..128).contains(&kind),
            _ => false,
        }
    }

    /// The packet that an ICMP error quotes.
    pub fn quoted(&self, bytes: &[u8]) -> Option<Headers> {
        if self.is_error(bytes) { Headers::at(bytes, self.l4 + 8) } else { None }
    }

    /// Where the checksum of layer 4 is, if there is one.
    pub fn checksum_at(&self, bytes: &[u8]) -> Option<usize> {
        let at = match self.protocol {
            TCP => self.l4 + 16,
            UDP => self.l4 + 6,
            ICMP | ICMPV6 => self.l4 + 2,
            _ => return None,
        };
        let is_there = at + 2 <= bytes.len() && !(self.protocol == UDP && word(bytes, at) == 0);
        is_there.then_some(at)
    }

    /// Where the end with this address has its port or echo id.
    fn port_at(&self, bytes: &[u8], addr: Addr) -> Option<usize> {
        let at = match self.protocol {
            TCP | UDP if self.src == addr => self.l4,
            TCP | UDP if self.dst == addr => self.l4 + 2,
            ICMP if matches!(bytes.get(self.l4)?, 0 | 8) => self.l4 + 4,
            ICMPV6 if matches!(bytes.get(self.l4)?, 128 | 129) => self.l4 + 4,
            _ => return None,
        };
        let is_own = self.src == addr || self.dst == addr;
        (is_own && at + 2 <= bytes.len()).then_some(at)
    }

    /// The node's port in this packet, or in the one that it quotes.
    pub fn own_port(&self, bytes: &[u8]) -> Option<OwnPort> {
        let own = self.checksum_at(bytes);
        let (headers, above) = match self.quoted(bytes) {
            Some(quoted) => (quoted, own),
            None => (*self, None),
        };
        let is_own = |addr: &Addr| [NODE, v6::NODE, SNAT, v6::SNAT].contains(addr);
        let node = [headers.src, headers.dst].into_iter().find(is_own)?;
        let at = headers.port_at(bytes, node)?;
        let remote = if headers.src == node { headers.dst } else { headers.src };
        let remote_port = if headers.is_icmp() { 0 } else { word(bytes, headers.port_at(bytes, remote)?) };
        let checksums = headers.checksum_at(bytes).into_iter().chain(above).collect();
        let (protocol, port) = (headers.protocol, word(bytes, at));
        Some(OwnPort { protocol, port, remote: (remote, remote_port), at, checksums })
    }
}

impl OwnPort {
    /// Writes another port in this one's place.
    pub fn replace(&self, bytes: &mut [u8], port: u16) {
        write(bytes, self.at, port, &self.checksums);
        // Zero would say that there is none.
        if let (UDP, Some(&checksum)) = (self.protocol, self.checksums.first())
            && word(bytes, checksum) == 0
        {
            bytes[checksum..checksum + 2].fill(0xff);
        }
    }
}

/// Writes a word, and what that changes in the checksums over it (RFC 1624), of which each also covers those before.
fn write(bytes: &mut [u8], at: usize, value: u16, checksums: &[usize]) {
    let before = word(bytes, at);
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
    for (i, &checksum) in checksums.iter().enumerate() {
        let mut sum = !word(bytes, checksum) as u32 + !before as u32 + value as u32;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        write(bytes, checksum, !(sum as u16), &checksums[i + 1..]);
    }
}
