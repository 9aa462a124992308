//! Exact numbers of UDP datagrams: a sender with a steady pace, a sink that counts, an echo check.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// What to send.
#[derive(Clone, Debug, clap::Args)]
pub struct Send {
    /// Address and port to send to
    #[arg(long)]
    to: SocketAddr,
    #[arg(long, default_value_t = 100)]
    count: u32,
    /// Bytes of payload
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Time from one datagram to the next
    #[arg(long, default_value_t = 200)]
    gap_us: u64,
    /// Wait for the echo of each and print how many came back
    #[arg(long)]
    echo: bool,
}

/// An echo that takes longer than this is lost.
const PATIENCE: Duration = Duration::from_millis(500);
/// A sink gives up when nothing more comes for this long.
const QUIET: Duration = Duration::from_secs(3);

/// Sends, and prints the number sent (or echoed).
pub fn send(send: &Send) -> Result<()> {
    let any: SocketAddr = match send.to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(send.to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let started = Instant::now();
    let mut done = 0;
    for number in 0..send.count {
        wait_for_slot(started, number, send.gap_us);
        let sent = transmit(&socket, number, send).with_context(|| format!("datagram {number} to {}", send.to));
        done += u32::from(if send.echo { sent.is_ok() } else { sent.map(|()| true)? });
    }
    println!("{done}");
    Ok(())
}

fn transmit(socket: &UdpSocket, number: u32, send: &Send) -> std::io::Result<()> {
    let mut payload = vec![0; send.size.max(4)];
    payload[..4].copy_from_slice(&number.to_le_bytes());
    socket.send(&payload)?;
    if send.echo {
        let mut echo = vec![0; payload.len() + 1];
        let size = socket.recv(&mut echo)?;
        if echo[..size] != payload[..] {
            return Err(std::io::Error::other("the echo differs"));
        }
    }
    Ok(())
}

fn wait_for_slot(started: Instant, number: u32, gap_us: u64) {
    let slot = started + Duration::from_micros(gap_us) * number;
    std::thread::sleep(slot.saturating_duration_since(Instant::now()));
}

/// Counts datagrams on the port until that many came or nothing more comes; prints the number.
pub fn sink(port: u16, count: u32) -> Result<()> {
    let socket = super::serve::bind_udp(port)?;
    socket.set_read_timeout(Some(QUIET))?;
    let mut datagram = [0; 65_536];
    let mut received = 0;
    while received < count && socket.recv(&mut datagram).is_ok() {
        received += 1;
    }
    // One more than asked for would be a duplicate: look for it.
    socket.set_read_timeout(Some(PATIENCE))?;
    while socket.recv(&mut datagram).is_ok() {
        received += 1;
    }
    println!("{received}");
    Ok(())
}
