//! Sockets of the protocols that have ports, opened alike.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketType, bind, ipproto, listen, socket};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "UPPERCASE")]
pub enum Transport {
    Tcp,
    Udp,
    Sctp,
}

impl Transport {
    /// Whether this kernel has it.
    pub fn is_here(self) -> bool {
        self.open(AddressFamily::INET).is_ok()
    }

    fn open(self, family: AddressFamily) -> rustix::io::Result<OwnedFd> {
        match self {
            Transport::Tcp => socket(family, SocketType::STREAM, Some(ipproto::TCP)),
            Transport::Udp => socket(family, SocketType::DGRAM, Some(ipproto::UDP)),
            Transport::Sctp => socket(family, SocketType::STREAM, Some(ipproto::SCTP)),
        }
    }

    /// A socket with this address and port of its own (0: any port), whose sending and receiving, connecting too, end
    /// after `limit`.
    pub fn bound(self, at: SocketAddr, limit: Duration) -> Result<OwnedFd> {
        let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = self.open(family).with_context(|| format!("no socket for {self:?}"))?;
        for which in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&socket, which, Some(limit))?;
        }
        bind(&socket, &at).with_context(|| format!("cannot bind {at} {self:?}"))?;
        Ok(socket)
    }

    pub fn listening(self, at: SocketAddr, limit: Duration) -> Result<OwnedFd> {
        let socket = self.bound(at, limit)?;
        if self != Transport::Udp {
            listen(&socket, 128)?;
        }
        Ok(socket)
    }
}

/// What a server of [`super::witness`] answers.
pub fn testimony(own: SocketAddr, peer: IpAddr) -> String {
    format!("{own} saw {peer}\n")
}

/// And what it means.
pub fn read_testimony(text: &str) -> Option<(SocketAddr, IpAddr)> {
    let (own, peer) = text.trim().split_once(" saw ")?;
    Some((own.parse().ok()?, peer.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_testimony_is_read_as_it_was_given() {
        let (own, peer) = ("[fd00::1]:80".parse().unwrap(), "10.0.0.1".parse().unwrap());
        assert_eq!(read_testimony(&testimony(own, peer)), Some((own, peer)));
        assert_eq!(read_testimony("web-1 saw 10.0.0.1"), None);
    }
}
