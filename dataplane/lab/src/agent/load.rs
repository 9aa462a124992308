//! Requests on new connections, one after the other, each with its time and its answer.
//!
//! Runs until its standard input closes. It judges nothing: see `traffic` for that.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::wait::now_us;

/// One request on a connection of its own.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Request {
    /// When it was started, in microseconds since 1970.
    pub started_us: u64,
    pub took_us: u64,
    /// The name that answered, or why none did.
    pub answer: Result<String, String>,
}

/// What to send.
#[derive(Clone, Debug, clap::Args)]
pub struct Load {
    /// Address and port to ask
    #[arg(long)]
    to: SocketAddr,
    /// Requests under way at a time
    #[arg(long, default_value_t = 1)]
    parallel: usize,
    /// Pause of each of them between two requests
    #[arg(long, default_value_t = 5)]
    pause_ms: u64,
    /// When a request counts as failed
    #[arg(long, default_value_t = 2000)]
    limit_ms: u64,
}

/// Sends until standard input closes, then prints all requests as JSON in the order of their start.
pub fn run(load: &Load) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopper = Arc::clone(&stop);
    super::on_stdin(move |line| stopper.store(line.is_none(), Ordering::Relaxed));
    let requests = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..load.parallel {
            scope.spawn(|| ask_again_and_again(load, &stop, &requests));
        }
    });
    let mut requests = requests.into_inner().unwrap_or_else(PoisonError::into_inner);
    requests.sort_by_key(|request: &Request| request.started_us);
    println!("{}", serde_json::to_string(&requests)?);
    Ok(())
}

fn ask_again_and_again(load: &Load, stop: &AtomicBool, requests: &Mutex<Vec<Request>>) {
    while !stop.load(Ordering::Relaxed) {
        let request = ask(load.to, Duration::from_millis(load.limit_ms));
        requests.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        std::thread::sleep(Duration::from_millis(load.pause_ms));
    }
}

fn ask(to: SocketAddr, limit: Duration) -> Request {
    let started_us = now_us();
    let started = Instant::now();
    let answer = fetch(to, limit).map_err(|error| format!("{error:#}"));
    Request { started_us, took_us: started.elapsed().as_micros() as u64, answer }
}

fn fetch(to: SocketAddr, limit: Duration) -> Result<String> {
    let mut connection = TcpStream::connect_timeout(&to, limit).context("connect")?;
    connection.set_read_timeout(Some(limit))?;
    write!(connection, "GET / HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n").context("send")?;
    let mut text = String::new();
    connection.read_to_string(&mut text).context("receive")?;
    let (head, body) = text.split_once("\r\n\r\n").context("the answer ends in its header")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "answered {}", head.lines().next().unwrap_or_default());
    Ok(body.split_whitespace().next().unwrap_or_default().to_string())
}
