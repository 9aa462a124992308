//! One long connection to an echo server: small messages and when each came back.
//!
//! Standard input steers it: `pause` and `go`; its end ends the conversation.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::wait::now_us;

/// A message and its echo.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Exchange {
    pub sent_us: u64,
    pub echoed_us: u64,
}

/// What became of the connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Conversation {
    pub exchanges: Vec<Exchange>,
    /// Why it ended before it should.
    pub broken: Option<String>,
}

/// Whom to talk to.
#[derive(Clone, Debug, clap::Args)]
pub struct Converse {
    /// Address and port of the echo server
    #[arg(long)]
    to: SocketAddr,
    /// Pause between a message's echo and the next message
    #[arg(long, default_value_t = 20)]
    pause_ms: u64,
}

/// No echo for this long means that the connection is dead.
const PATIENCE: Duration = Duration::from_secs(10);

const GO: u8 = 0;
const PAUSE: u8 = 1;
const END: u8 = 2;

/// Talks until standard input closes, then prints the conversation as JSON.
pub fn run(converse: &Converse) -> Result<()> {
    let mode = Arc::new(AtomicU8::new(GO));
    let steered = Arc::clone(&mode);
    super::on_stdin(move |line| {
        let next = match line {
            Some("pause") => PAUSE,
            Some(_) => GO,
            None => END,
        };
        steered.store(next, Ordering::SeqCst);
    });
    let mut exchanges = Vec::new();
    let broken = talk(converse, &mode, &mut exchanges).err().map(|error| format!("{error:#}"));
    println!("{}", serde_json::to_string(&Conversation { exchanges, broken })?);
    Ok(())
}

fn talk(converse: &Converse, mode: &AtomicU8, exchanges: &mut Vec<Exchange>) -> Result<()> {
    let mut connection = TcpStream::connect_timeout(&converse.to, PATIENCE).context("connect")?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    loop {
        match mode.load(Ordering::SeqCst) {
            GO => exchanges.push(exchange(&mut connection)?),
            PAUSE => {}
            _ => return Ok(()),
        }
        std::thread::sleep(Duration::from_millis(converse.pause_ms));
    }
}

fn exchange(connection: &mut TcpStream) -> Result<Exchange> {
    let sent_us = now_us();
    let message = sent_us.to_le_bytes();
    connection.write_all(&message).context("send")?;
    let mut echo = [0; 8];
    connection.read_exact(&mut echo).context("receive")?;
    anyhow::ensure!(echo == message, "the echo differs from the message");
    Ok(Exchange { sent_us, echoed_us: now_us() })
}
