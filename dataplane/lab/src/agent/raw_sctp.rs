//! The beginning of an SCTP association by raw sockets, where the kernel has no SCTP: an INIT, and an INIT-ACK that says who
//! answers whom. Goes no further.

use std::hash::{BuildHasher, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::PollFd;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketType, bind, connect, ipproto, recv, recvfrom, send, sendto,
};

use super::init::Packet;
use super::transport::testimony;

/// One that is not answered is sent again after this long: the first to a new neighbour may have to wait.
const AGAIN: Duration = Duration::from_millis(500);

/// Who answers on some ports of an address.
pub struct Server {
    socket: OwnedFd,
    own: IpAddr,
    ports: Vec<u16>,
}

fn open(own: IpAddr) -> rustix::io::Result<OwnedFd> {
    let family = if own.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket(family, SocketType::RAW, Some(ipproto::SCTP))?;
    bind(&socket, &SocketAddr::new(own, 0))?;
    Ok(socket)
}

/// What IPv4 puts in front of the payload, IPv6 does not.
fn payload(is_v4: bool, bytes: &[u8]) -> &[u8] {
    let header = if is_v4 { bytes.first().map_or(0, |first| usize::from(first & 15) * 4) } else { 0 };
    bytes.get(header..).unwrap_or_default()
}

impl Server {
    pub fn open(own: IpAddr, ports: &[u16]) -> rustix::io::Result<Server> {
        Ok(Server { socket: open(own)?, own, ports: ports.to_vec() })
    }

    pub fn answer(&self) -> std::io::Result<()> {
        let mut bytes = [0; 2048];
        let (size, _, peer) = recvfrom(&self.socket, &mut bytes[..], RecvFlags::empty())?;
        let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
        let init = Packet::read(payload(self.own.is_ipv4(), &bytes[..size]));
        let asked = init.filter(|init| !init.is_answer && self.ports.contains(&init.dst_port));
        if let (Some(init), Some(peer)) = (asked, peer) {
            let text = testimony(SocketAddr::new(self.own, init.dst_port), peer.ip());
            sendto(&self.socket, &init.answer().bytes_with(&text), SendFlags::empty(), &SocketAddr::new(peer.ip(), 0))?;
        }
        Ok(())
    }

    pub fn poll_fd(&self) -> PollFd<'_> {
        PollFd::new(&self.socket, rustix::event::PollFlags::IN)
    }
}

/// What the answer to an INIT says; an error of kind `TimedOut` if there is none.
pub fn ask(from: IpAddr, to: SocketAddr, limit: Duration) -> std::io::Result<String> {
    let socket = open(from)?;
    connect(&socket, &SocketAddr::new(to.ip(), 0))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(limit.min(AGAIN)))?;
    let drawn = std::collections::hash_map::RandomState::new().build_hasher().finish();
    let init = Packet::init(32_768 + (drawn as u16 >> 1), to.port(), (drawn >> 32) as u32 | 1);
    let (started, mut bytes) = (Instant::now(), [0; 2048]);
    while started.elapsed() < limit {
        send(&socket, &init.bytes(), SendFlags::empty())?;
        // Others' packets are seen here as well.
        while let Some(size) = received(recv(&socket, &mut bytes[..], RecvFlags::empty()))? {
            let answer = payload(from.is_ipv4(), &bytes[..size.0]);
            if Packet::read(answer).is_some_and(|packet| is_answer_to(&init, &packet)) {
                return Ok(Packet::said(answer).unwrap_or_default());
            }
        }
    }
    Err(std::io::ErrorKind::TimedOut.into())
}

/// Nothing if the time is over.
fn received<T>(outcome: rustix::io::Result<T>) -> rustix::io::Result<Option<T>> {
    match outcome {
        Err(rustix::io::Errno::AGAIN) => Ok(None),
        other => other.map(Some),
    }
}

fn is_answer_to(init: &Packet, answer: &Packet) -> bool {
    let expected = Packet { initiate_tag: answer.initiate_tag, ..init.answer() };
    *answer == expected
}
