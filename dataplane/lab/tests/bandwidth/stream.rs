//! A stream from one namespace to another, and how many bits of payload a second its receiver gets of it.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use lab::netns::Netns;

/// What a bucket has saved is used up, and TCP knows the path.
const BEFORE: Duration = Duration::from_secs(1);
const MEASURED: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(10);
const DATAGRAM: [u8; 1200] = [0; 1200];
/// Datagrams that leave at once.
const BATCH: u32 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tcp,
    /// With so many bits a second offered.
    Udp(u64),
}

/// One stream.
#[derive(Clone, Copy, Debug)]
pub struct Stream<'a> {
    pub kind: Kind,
    pub from: &'a Netns,
    pub to: &'a Netns,
    pub at: IpAddr,
}

impl Stream<'_> {
    /// Bits of payload that arrive in a second.
    pub fn measure(&self) -> Result<f64> {
        match self.kind {
            Kind::Tcp => self.tcp(),
            Kind::Udp(offered) => self.udp(offered),
        }
    }

    fn tcp(&self) -> Result<f64> {
        let listener = self.to.inside(|| TcpListener::bind((self.at, 0)))??;
        let to = listener.local_addr()?;
        let mut sender = self.from.inside(|| TcpStream::connect_timeout(&to, PATIENCE))??;
        let mut receiver = listener.accept()?.0;
        receiver.set_read_timeout(Some(PATIENCE))?;
        let end = sender.try_clone()?;
        std::thread::scope(|scope| {
            scope.spawn(move || while sender.write_all(&[0; 1 << 16]).is_ok() {});
            let measured = measure(|bytes| receiver.read(bytes));
            let _ = end.shutdown(Shutdown::Both);
            measured
        })
    }

    fn udp(&self, offered: u64) -> Result<f64> {
        let receiver = self.to.inside(|| UdpSocket::bind((self.at, 0)))??;
        receiver.set_read_timeout(Some(PATIENCE))?;
        let to = receiver.local_addr()?;
        let sender = self.from.inside(|| UdpSocket::bind(SocketAddr::new(unspecified(self.at), 0)))??;
        sender.connect(to)?;
        let (done, gap) = (AtomicBool::new(false), gap(offered));
        std::thread::scope(|scope| {
            scope.spawn(|| send(&sender, gap, &done));
            let measured = measure(|bytes| receiver.recv(bytes));
            done.store(true, Ordering::Relaxed);
            measured
        })
    }
}

fn unspecified(of: IpAddr) -> IpAddr {
    if of.is_ipv4() { std::net::Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() }
}

/// From one batch to the next.
fn gap(offered: u64) -> Duration {
    Duration::from_secs(u64::from(BATCH) * DATAGRAM.len() as u64 * 8) / offered as u32
}

fn send(socket: &UdpSocket, gap: Duration, done: &AtomicBool) {
    let mut slot = Instant::now();
    while !done.load(Ordering::Relaxed) {
        for _ in 0..BATCH {
            let _ = socket.send(&DATAGRAM);
        }
        slot = (slot + gap).max(Instant::now() - gap);
        std::thread::sleep(slot.saturating_duration_since(Instant::now()));
    }
}

fn measure(mut receive: impl FnMut(&mut [u8]) -> std::io::Result<usize>) -> Result<f64> {
    let mut buffer = vec![0; 1 << 16];
    let begun = Instant::now();
    while begun.elapsed() < BEFORE {
        receive(&mut buffer)?;
    }
    let (started, mut bytes) = (Instant::now(), 0);
    while started.elapsed() < MEASURED {
        bytes += receive(&mut buffer)?;
    }
    Ok(bytes as f64 * 8.0 / started.elapsed().as_secs_f64())
}
