//! Requests on new connections or on ones that carry several, one after the other, each with its time and its answer.
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
    /// Requests on one connection
    #[arg(long, default_value_t = 1)]
    each: u32,
    /// Requests a second of all together, if they can; 0: as fast as they come
    #[arg(long, default_value_t = 0)]
    rate: u32,
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
    let gap = Duration::from_secs(load.parallel as u64) / load.rate.max(1);
    let mut slot = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let mut connection = None;
        for number in 1..=load.each {
            if load.rate > 0 {
                std::thread::sleep(slot.saturating_duration_since(Instant::now()));
                // Slots that were missed are not made up for.
                slot = (slot + gap).max(Instant::now() - gap);
            }
            let request = ask(load, &mut connection, number == load.each);
            requests.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        }
        std::thread::sleep(Duration::from_millis(load.pause_ms));
    }
}

fn ask(load: &Load, connection: &mut Option<TcpStream>, is_last: bool) -> Request {
    let started_us = now_us();
    let started = Instant::now();
    let answer = fetch(load, connection, is_last).map_err(|error| {
        let from = connection.take().and_then(|connection| connection.local_addr().ok());
        format!("{error:#} (from {from:?})")
    });
    Request { started_us, took_us: started.elapsed().as_micros() as u64, answer }
}

fn fetch(load: &Load, connection: &mut Option<TcpStream>, is_last: bool) -> Result<String> {
    let limit = Duration::from_millis(load.limit_ms);
    if connection.is_none() {
        let fresh = connection.insert(TcpStream::connect_timeout(&load.to, limit).context("connect")?);
        fresh.set_read_timeout(Some(limit))?;
        fresh.set_nodelay(true)?;
    }
    let stream = connection.as_mut().context("no connection")?;
    let then = if is_last { "Connection: close" } else { super::serve::KEEP };
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {}\r\n{then}\r\n\r\n", load.to).as_bytes()).context("send")?;
    let text = read_answer(stream)?;
    if is_last {
        ensure!(stream.read(&mut [0]).context("the end")? == 0, "more than an answer came");
        *connection = None;
    }
    let (head, body) = text.split_once("\r\n\r\n").context("the answer ends in its header")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "answered {}", head.lines().next().unwrap_or_default());
    Ok(body.split_whitespace().next().unwrap_or_default().to_string())
}

/// Header and body, by the length that the header names.
fn read_answer(stream: &mut TcpStream) -> Result<String> {
    let (mut text, mut chunk) = (String::new(), [0; 1024]);
    while !is_whole(&text) {
        let size = stream.read(&mut chunk).context("receive")?;
        ensure!(size > 0, "the connection ended after {} bytes of an answer", text.len());
        text.push_str(std::str::from_utf8(&chunk[..size])?);
    }
    Ok(text)
}

fn is_whole(text: &str) -> bool {
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok());
    length.is_some_and(|length: usize| body.len() >= length)
}
