//! SCTP by the kernel's own sockets: a server that names itself and whom it saw and then echoes, and a client of it.
//! Only where the kernel has SCTP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::net::{AddressFamily, SocketType, bind, connect, ipproto, listen, socket};

/// Where the server listens.
pub const SCTP_PORT: u16 = 9999;
const PATIENCE: Duration = Duration::from_secs(5);
/// More than a path takes at once, so that each message goes in several chunks.
const MESSAGE_BYTES: usize = 4000;
const MESSAGES: usize = 10;

fn open(family: AddressFamily) -> Result<OwnedFd> {
    socket(family, SocketType::STREAM, Some(ipproto::SCTP)).context("this kernel has no SCTP")
}

/// Serves for ever.
pub fn serve(name: &str) -> Result<()> {
    let server = open(AddressFamily::INET6)?;
    bind(&server, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, SCTP_PORT)))?;
    listen(&server, 16)?;
    // One-to-one sockets of SCTP are accepted, read and written as those of TCP are.
    for mut association in TcpListener::from(server).incoming().flatten() {
        let hello = format!("{name} saw {}\n", association.peer_addr()?.ip().to_canonical());
        std::thread::spawn(move || {
            let greeted = association.write_all(hello.as_bytes());
            greeted.and_then(|()| std::io::copy(&mut association.try_clone()?, &mut association))
        });
    }
    Ok(())
}

/// Prints what the server said; fails unless everything came back as it was sent.
pub fn ask(to: SocketAddr) -> Result<()> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let client = open(family)?;
    let mut association = TcpStream::from(client);
    association.set_write_timeout(Some(PATIENCE))?;
    association.set_read_timeout(Some(PATIENCE))?;
    connect(&association, &to).with_context(|| format!("cannot connect to {to}"))?;
    let mut answers = BufReader::new(association.try_clone()?);
    let mut hello = String::new();
    answers.read_line(&mut hello)?;
    for number in 0..MESSAGES {
        let message = [number as u8; MESSAGE_BYTES];
        association.write_all(&message)?;
        let mut echo = [0; MESSAGE_BYTES];
        answers.read_exact(&mut echo).with_context(|| format!("message {number}"))?;
        ensure!(echo == message, "message {number} came back as another");
    }
    print!("{hello}");
    Ok(())
}
