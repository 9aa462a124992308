//! One pod's sockets: it answers on its ports, and asks others, all at once. It knows nothing of Fairway and judges nothing.

use anyhow::{Context, Result};
use lab::agent::init::Packet;
use lab::agent::transport::Transport;
use lab::netns::Netns;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::sockopt::{set_socket_linger, socket_error};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketType, bind, connect, ipproto, recv, recvfrom, send, sendto, socket,
};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// Whom to ask.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    pub to: SocketAddr,
    pub transport: Transport,
    /// When it counts as not answered.
    pub limit: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Answered,
    Silence,
    Failed(String),
}

/// A pod that answers for ever, and asks when it is told to.
pub struct Prober {
    ask: Sender<Vec<Probe>>,
    told: Receiver<Result<Vec<Outcome>>>,
}

impl Prober {
    pub fn start(netns: Netns, own: IpAddr, ports: &[u16]) -> Result<Prober> {
        let server = netns.inside(|| Server::open(own, ports))??;
        std::thread::spawn(move || server.run());
        let (ask, asked) = channel::<Vec<Probe>>();
        let (tell, told) = channel();
        let work = move || asked.iter().try_for_each(|probes| tell.send(ask_all(own, &probes)));
        std::thread::spawn(move || netns.inside(work));
        Ok(Prober { ask, told })
    }

    /// Begins to ask; [`Self::told`] waits for what comes of it, in the same order.
    pub fn ask(&self, probes: Vec<Probe>) -> Result<()> {
        self.ask.send(probes).context("the prober has ended")
    }

    pub fn told(&self) -> Result<Vec<Outcome>> {
        self.told.recv().context("the prober has ended")?
    }
}

struct Server {
    streams: Vec<TcpListener>,
    datagrams: Vec<UdpSocket>,
    sctp: OwnedFd,
    ports: Vec<u16>,
}

impl Server {
    fn open(own: IpAddr, ports: &[u16]) -> Result<Server> {
        let open = |transport: Transport, port: &u16| {
            let socket = transport.listening(SocketAddr::new(own, *port), Duration::from_millis(50))?;
            ioctl_fionbio(&socket, true)?;
            anyhow::Ok(socket)
        };
        Ok(Server {
            streams: ports.iter().map(|port| Ok(open(Transport::Tcp, port)?.into())).collect::<Result<_>>()?,
            datagrams: ports.iter().map(|port| Ok(open(Transport::Udp, port)?.into())).collect::<Result<_>>()?,
            sctp: raw(own)?,
            ports: ports.to_vec(),
        })
    }

    fn run(&self) {
        let streams = self.streams.iter().map(|socket| PollFd::new(socket, PollFlags::IN));
        let datagrams = self.datagrams.iter().map(|socket| PollFd::new(socket, PollFlags::IN));
        let mut fds: Vec<PollFd> = streams.chain(datagrams).chain([PollFd::new(&self.sctp, PollFlags::IN)]).collect();
        while poll(&mut fds, None).is_ok() {
            // Whoever went away in the middle is his own business.
            self.streams.iter().for_each(|listener| while listener.accept().is_ok() {});
            let mut question = [0; 64];
            for socket in &self.datagrams {
                while let Ok((_, from)) = socket.recv_from(&mut question) {
                    let _ = socket.send_to(b"I", from);
                }
            }
            while let Some((packet, from)) = receive(&self.sctp) {
                if !packet.is_answer && self.ports.contains(&packet.dst_port) {
                    let _ = sendto(&self.sctp, &packet.answer().bytes(), SendFlags::empty(), &SocketAddr::new(from, 0));
                }
            }
        }
    }
}

/// A socket that hears all SCTP of a pod. While there is one, the kernel does not say that it has no SCTP.
fn raw(own: IpAddr) -> Result<OwnedFd> {
    let socket = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::SCTP)).context("a raw socket")?;
    bind(&socket, &SocketAddr::new(own, 0))?;
    ioctl_fionbio(&socket, true)?;
    Ok(socket)
}

/// The next packet that is SCTP as it should be; None if there is none.
fn receive(socket: &OwnedFd) -> Option<(Packet, IpAddr)> {
    let mut bytes = [0; 2048];
    loop {
        let (size, _, from) = recvfrom(socket, &mut bytes, RecvFlags::empty()).ok()?;
        let header = usize::from(bytes[0] & 15) * 4;
        let from = SocketAddr::try_from(from?).ok()?.ip();
        if let Some(packet) = bytes.get(header..size).and_then(Packet::read) {
            return Some((packet, from));
        }
    }
}

/// The first of the ports that INITs come from; each has its own.
const SCTP_PORT: u16 = 20_000;

struct Asking {
    /// Its own socket, unless the one for SCTP.
    socket: Option<OwnedFd>,
    outcome: Option<Outcome>,
    deadline: Instant,
}

fn ask_all(own: IpAddr, probes: &[Probe]) -> Result<Vec<Outcome>> {
    let sctp = raw(own)?;
    let begin = |(index, probe): (usize, &Probe)| begin(own, index, probe, &sctp).with_context(|| format!("{probe:?}"));
    let mut all: Vec<Asking> = probes.iter().enumerate().map(begin).collect::<Result<_>>()?;
    while let Some(next) = all.iter().filter(|asking| asking.outcome.is_none()).map(|asking| asking.deadline).min() {
        wait(&all, &sctp, next)?;
        while let Some((packet, from)) = receive(&sctp) {
            let index = usize::from(packet.dst_port.wrapping_sub(SCTP_PORT));
            let is_it =
                |probe: &Probe| packet.is_answer && from == probe.to.ip() && packet.verification_tag == tag(index);
            if probes.get(index).is_some_and(is_it) {
                all[index].outcome.get_or_insert(Outcome::Answered);
            }
        }
        let now = Instant::now();
        for (asking, probe) in all.iter_mut().zip(probes).filter(|(asking, _)| asking.outcome.is_none()) {
            asking.outcome = asking.socket.as_ref().and_then(|socket| outcome(socket, probe.transport));
            if asking.outcome.is_none() && asking.deadline <= now {
                asking.outcome = Some(Outcome::Silence);
            }
            if asking.outcome.is_some() {
                // Closed at once, so that nothing is sent again later.
                asking.socket = None;
            }
        }
    }
    Ok(all.into_iter().filter_map(|asking| asking.outcome).collect())
}

fn tag(index: usize) -> u32 {
    0x1000_0000 + index as u32
}

fn begin(own: IpAddr, index: usize, probe: &Probe, sctp: &OwnedFd) -> Result<Asking> {
    let deadline = Instant::now() + probe.limit;
    let mut asking = Asking { socket: None, outcome: None, deadline };
    if probe.transport == Transport::Sctp {
        let init = Packet::init(SCTP_PORT + index as u16, probe.to.port(), tag(index));
        sendto(sctp, &init.bytes(), SendFlags::empty(), &SocketAddr::new(probe.to.ip(), 0))?;
        return Ok(asking);
    }
    let socket = probe.transport.client(own, probe.limit)?;
    ioctl_fionbio(&socket, true)?;
    match connect(&socket, &probe.to) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(error) => asking.outcome = Some(Outcome::Failed(error.to_string())),
    }
    if probe.transport == Transport::Udp {
        send(&socket, b"who?", SendFlags::empty())?;
    } else {
        // Ended by a reset: nothing of it is left for the next state.
        set_socket_linger(&socket, Some(Duration::ZERO))?;
    }
    asking.socket = Some(socket);
    Ok(asking)
}

fn wait(all: &[Asking], sctp: &OwnedFd, until: Instant) -> Result<()> {
    let open = all.iter().filter(|asking| asking.outcome.is_none()).filter_map(|asking| asking.socket.as_ref());
    // A stream is connected when it can be written; a datagram socket always can.
    let flags = |socket: &OwnedFd| match rustix::net::sockopt::socket_type(socket) {
        Ok(SocketType::STREAM) => PollFlags::OUT,
        _ => PollFlags::IN,
    };
    let mut fds: Vec<PollFd> = open.map(|socket| PollFd::from_borrowed_fd(socket.as_fd(), flags(socket))).collect();
    fds.push(PollFd::new(sctp, PollFlags::IN));
    let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
    poll(&mut fds, Some(&left.try_into()?))?;
    Ok(())
}

/// What came of a connection or a datagram so far.
fn outcome(socket: &OwnedFd, transport: Transport) -> Option<Outcome> {
    if let Ok(Err(error)) = socket_error(socket) {
        return Some(Outcome::Failed(error.to_string()));
    }
    let is_answered = match transport {
        Transport::Udp => recv(socket, &mut [0; 64][..], RecvFlags::empty()).is_ok(),
        _ => rustix::net::getpeername(socket).is_ok_and(|peer| peer.is_some()),
    };
    is_answered.then_some(Outcome::Answered)
}
