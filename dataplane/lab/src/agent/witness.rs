//! A server on many addresses and ports that answers to whom it was spoken to and by whom, and nothing else.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::Result;
use rustix::event::{PollFd, PollFlags, poll};

use super::raw_sctp;
use super::transport::{Transport, testimony};

/// Nobody else is served while one client is; a client that is gone must not hold up the others.
const PATIENCE: Duration = Duration::from_millis(50);

/// Where to listen: on every port at every address.
#[derive(Clone, Debug, clap::Args)]
pub struct Witness {
    #[arg(long, value_delimiter = ',')]
    at: Vec<IpAddr>,
    #[arg(long, value_delimiter = ',')]
    tcp: Vec<u16>,
    #[arg(long, value_delimiter = ',')]
    udp: Vec<u16>,
    #[arg(long, value_delimiter = ',')]
    sctp: Vec<u16>,
}

enum Socket {
    /// SCTP sockets of one association are accepted and written as those of TCP are.
    Stream(TcpListener),
    Datagrams(UdpSocket),
    /// SCTP where the kernel has none.
    Raw(raw_sctp::Server),
}

impl Socket {
    fn of(transport: Transport, socket: OwnedFd) -> Self {
        match transport {
            Transport::Udp => Socket::Datagrams(socket.into()),
            Transport::Tcp | Transport::Sctp => Socket::Stream(socket.into()),
        }
    }

    fn answer(&self) -> std::io::Result<()> {
        match self {
            Socket::Stream(listener) => {
                let (mut client, peer) = listener.accept()?;
                client.write_all(testimony(listener.local_addr()?, peer.ip()).as_bytes())
            }
            Socket::Datagrams(socket) => {
                let (_, peer) = socket.recv_from(&mut [0; 64])?;
                socket.send_to(testimony(socket.local_addr()?, peer.ip()).as_bytes(), peer).map(|_| ())
            }
            Socket::Raw(server) => server.answer(),
        }
    }

    fn poll_fd(&self) -> PollFd<'_> {
        match self {
            Socket::Stream(listener) => PollFd::new(listener, PollFlags::IN),
            Socket::Datagrams(socket) => PollFd::new(socket, PollFlags::IN),
            Socket::Raw(server) => server.poll_fd(),
        }
    }
}

/// Serves for ever; says so once it listens.
pub fn run(witness: &Witness) -> Result<()> {
    let mut ports = vec![(Transport::Tcp, &witness.tcp), (Transport::Udp, &witness.udp)];
    let mut sockets = Vec::new();
    if Transport::Sctp.is_here() {
        ports.push((Transport::Sctp, &witness.sctp));
    } else if !witness.sctp.is_empty() {
        for address in &witness.at {
            sockets.push(Socket::Raw(raw_sctp::Server::open(*address, &witness.sctp)?));
        }
    }
    for (transport, port) in ports.iter().flat_map(|(transport, ports)| ports.iter().map(|port| (*transport, *port))) {
        for address in &witness.at {
            let socket = transport.listening(SocketAddr::new(*address, port), PATIENCE)?;
            sockets.push(Socket::of(transport, socket));
        }
    }
    println!("listening");
    let mut fds: Vec<PollFd> = sockets.iter().map(Socket::poll_fd).collect();
    loop {
        poll(&mut fds, None)?;
        for (socket, _) in sockets.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty()) {
            // A client that goes away in the middle is its own business, and so is one that refuses the answer.
            let _ = socket.answer();
        }
    }
}
