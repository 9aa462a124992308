//! Sockets of the protocols that have ports, opened alike.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketType, bind, ipproto, listen, socket};
use serde::{Deserialize, Serialize};

/// Where clients have their ports: below node ports, and below those that the kernel gives out.
const CLIENT_PORTS: Range<u16> = 10_000..30_000;
/// The next one of this process.
static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| {
    let drawn = RandomState::new().build_hasher().finish();
    AtomicU16::new((drawn % CLIENT_PORTS.len() as u64) as u16)
});

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

    /// A socket with this address and a port that this process had not before. The kernel would give the same few again
    /// and again where most of its range is reserved, and a flow of the same ports goes to the same backend.
    pub fn client(self, from: IpAddr, limit: Duration) -> Result<OwnedFd> {
        let next = || CLIENT_PORTS.start + NEXT.fetch_add(1, Ordering::Relaxed) % CLIENT_PORTS.len() as u16;
        let tries = CLIENT_PORTS.map(|_| self.bound(SocketAddr::new(from, next()), limit));
        let in_use = |error: &anyhow::Error| error.downcast_ref::<Errno>() == Some(&Errno::ADDRINUSE);
        let mut opened = tries.skip_while(|tried| tried.as_ref().is_err_and(in_use));
        opened.next().with_context(|| format!("{from} has no free port for {self:?}"))?
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
    use rustix::net::getsockname;

    #[test]
    fn clients_have_other_ports_each_and_leave_out_what_is_in_use() {
        let local: IpAddr = "127.0.0.1".parse().unwrap();
        let port = |socket: &OwnedFd| TryInto::<SocketAddr>::try_into(getsockname(socket).unwrap()).unwrap().port();
        let client = || Transport::Udp.client(local, Duration::from_secs(1)).unwrap();
        // Of the next ports another test may have some.
        let bound = |port| Transport::Udp.bound(SocketAddr::new(local, port), Duration::from_secs(1)).ok();
        let (taken, _socket) = (port(&client()) + 1..).find_map(|port| Some((port, bound(port)?))).unwrap();
        let ports: Vec<u16> = (0..20).map(|_| port(&client())).collect();
        let mut different = ports.clone();
        different.sort_unstable();
        different.dedup();
        assert!(different.len() == 20 && ports.iter().all(|p| CLIENT_PORTS.contains(p) && *p != taken), "{ports:?}");
    }

    #[test]
    fn a_testimony_is_read_as_it_was_given() {
        let (own, peer) = ("[fd00::1]:80".parse().unwrap(), "10.0.0.1".parse().unwrap());
        assert_eq!(read_testimony(&testimony(own, peer)), Some((own, peer)));
        assert_eq!(read_testimony("web-1 saw 10.0.0.1"), None);
    }
}
