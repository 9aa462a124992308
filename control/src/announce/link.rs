//! The sockets of announcement on one link: packet sockets that see who is asked for, a datagram socket of each family in
//! which nodes hear each other, and one that joins the groups at which our IPv6 addresses are asked for. No decisions.

use super::Config;
use super::members::{BEAT_BYTES_MAX, GROUP_V4, GROUP_V6};
use super::neighbour::solicited_node;
use crate::sys;
use rustix::net::{RecvFlags, SendFlags, sockopt};
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::OwnedFd;
use tables::Addr;
use tokio::io::unix::AsyncFd;
use tokio::net::UdpSocket;

const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const PROTOCOL_ICMPV6: u32 = 58;
const NEIGHBOUR_SOLICITATION: u32 = 135;
const ARP_REQUEST: u32 = 1;
/// Longer than any question.
const FRAME_BYTES_MAX: usize = 1514;

pub struct Link {
    arp: AsyncFd<OwnedFd>,
    ndp: AsyncFd<OwnedFd>,
    v4: UdpSocket,
    /// Not where the uplink speaks no IPv6.
    v6: Option<UdpSocket>,
    groups: Option<std::net::UdpSocket>,
    joined: BTreeSet<Ipv6Addr>,
    index: u32,
    port: u16,
}

impl Link {
    pub fn open(config: &Config) -> io::Result<Link> {
        let index = config.device_index;
        // Offsets in the frame: ARP's operation; IPv6's next header and ICMPv6's type.
        let asks = [(20, true, ARP_REQUEST)];
        let solicits = [(20, false, PROTOCOL_ICMPV6), (54, false, NEIGHBOUR_SOLICITATION)];
        let v6 = heard_v6(config).ok();
        Ok(Link {
            arp: sys::watched(sys::packet_socket(index, ETHERTYPE_ARP, &asks)?)?,
            ndp: sys::watched(sys::packet_socket(index, ETHERTYPE_IPV6, &solicits)?)?,
            v4: heard_v4(config)?,
            groups: if v6.is_some() { std::net::UdpSocket::bind("[::]:0").ok() } else { None },
            v6,
            joined: BTreeSet::new(),
            index,
            port: config.port,
        })
    }

    /// A frame that asks for an address.
    pub async fn frame(&self) -> io::Result<Vec<u8>> {
        tokio::select! {
            frame = read_frame(&self.arp) => frame,
            frame = read_frame(&self.ndp) => frame,
        }
    }

    pub async fn beat(&self) -> io::Result<Vec<u8>> {
        let (mut four, mut six) = ([0; BEAT_BYTES_MAX], [0; BEAT_BYTES_MAX]);
        tokio::select! {
            read = self.v4.recv(&mut four) => read.map(|size| four[..size].to_vec()),
            read = recv(self.v6.as_ref(), &mut six) => read.map(|size| six[..size].to_vec()),
        }
    }

    /// An error if nobody can have heard it.
    pub fn say(&self, beat: &[u8]) -> io::Result<()> {
        let four = self.v4.try_send_to(beat, SocketAddr::new(GROUP_V4.into(), self.port));
        let group = SocketAddrV6::new(GROUP_V6, self.port, 0, self.index);
        match self.v6.as_ref().map(|six| six.try_send_to(beat, group.into())) {
            Some(Ok(_)) => Ok(()),
            _ => four.map(drop),
        }
    }

    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        rustix::net::send(self.arp.get_ref(), frame, SendFlags::DONTWAIT)?;
        Ok(())
    }

    /// Listens where these are asked for, and nowhere else.
    pub fn listen_for<'a>(&mut self, addrs: impl Iterator<Item = &'a Addr>) -> io::Result<()> {
        let Some(socket) = &self.groups else { return Ok(()) };
        let group = |addr: &Addr| match addr.ip() {
            IpAddr::V6(v6) => Some(solicited_node(v6)),
            IpAddr::V4(_) => None,
        };
        let wanted: BTreeSet<Ipv6Addr> = addrs.filter_map(group).collect();
        for gone in self.joined.extract_if(.., |group| !wanted.contains(group)) {
            let _ = socket.leave_multicast_v6(&gone, self.index);
        }
        for group in wanted {
            if !self.joined.contains(&group) {
                socket.join_multicast_v6(&group, self.index)?;
                self.joined.insert(group);
            }
        }
        Ok(())
    }
}

async fn read_frame(socket: &AsyncFd<OwnedFd>) -> io::Result<Vec<u8>> {
    let mut frame = [0; FRAME_BYTES_MAX];
    loop {
        let mut ready = socket.readable().await?;
        let read = |fd: &AsyncFd<OwnedFd>| Ok(rustix::net::recv(fd.get_ref(), &mut frame, RecvFlags::DONTWAIT)?.0);
        if let Ok(read) = ready.try_io(read) {
            return read.map(|size| frame[..size].to_vec());
        }
    }
}

async fn recv(socket: Option<&UdpSocket>, bytes: &mut [u8]) -> io::Result<usize> {
    match socket {
        Some(socket) => socket.recv(bytes).await,
        None => std::future::pending().await,
    }
}

/// Bound to the group: what is sent to the node's own address is not heard.
fn heard_v4(config: &Config) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind((GROUP_V4, config.port))?;
    socket.set_nonblocking(true)?;
    let unspecified = std::net::Ipv4Addr::UNSPECIFIED;
    sockopt::set_ip_add_membership_with_ifindex(&socket, &GROUP_V4, &unspecified, config.device_index)?;
    socket.set_multicast_loop_v4(false)?;
    let socket = UdpSocket::from_std(socket)?;
    socket.bind_device(Some(config.device.as_bytes()))?;
    Ok(socket)
}

fn heard_v6(config: &Config) -> io::Result<UdpSocket> {
    let at = SocketAddrV6::new(GROUP_V6, config.port, 0, config.device_index);
    let socket = std::net::UdpSocket::bind(at)?;
    socket.set_nonblocking(true)?;
    socket.join_multicast_v6(&GROUP_V6, config.device_index)?;
    socket.set_multicast_loop_v6(false)?;
    let socket = UdpSocket::from_std(socket)?;
    socket.bind_device(Some(config.device.as_bytes()))?;
    Ok(socket)
}
