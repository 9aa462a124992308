//! Numbered datagrams from one pod to another at a steady pace, and when each was answered. It judges nothing.

use anyhow::{Context, Result};
use lab::netns::Netns;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// One datagram.
#[derive(Clone, Copy, Debug)]
pub struct Beat {
    pub sent: Instant,
    pub answered: Option<Instant>,
}

/// Sends until it is told to stop. While the pod has no address yet, it tries on.
pub struct Pulse {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<Beat>>>,
}

impl Pulse {
    pub fn start(netns: &Netns, to: SocketAddr, pace: Duration) -> Pulse {
        let (stop, netns) = (Arc::new(AtomicBool::new(false)), netns.clone());
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || netns.inside(|| beat(to, pace, &stopped))?);
        Pulse { stop, thread }
    }

    /// All that was sent. Answers to the last ones are waited for.
    pub fn stop(self) -> Result<Vec<Beat>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("the pulse panicked")?
    }
}

fn beat(to: SocketAddr, pace: Duration, stop: &AtomicBool) -> Result<Vec<Beat>> {
    let mut beats: Vec<Beat> = Vec::new();
    let mut socket: Option<UdpSocket> = None;
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        if socket.is_none() {
            socket = open(to);
        }
        if let Some(socket) = &socket
            && socket.send(&(beats.len() as u32).to_ne_bytes()).is_ok()
        {
            beats.push(Beat { sent: Instant::now(), answered: None });
        }
        next += pace;
        hear(socket.as_ref(), &mut beats, next);
        next = next.max(Instant::now());
    }
    hear(socket.as_ref(), &mut beats, Instant::now() + LATE);
    Ok(beats)
}

/// Whoever is on the way when it ends is waited for.
const LATE: Duration = Duration::from_millis(50);

fn open(to: SocketAddr) -> Option<UdpSocket> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect(to).ok().map(|()| socket)
}

/// Takes answers until then.
fn hear(socket: Option<&UdpSocket>, beats: &mut [Beat], until: Instant) {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        let Some(socket) = socket else { return std::thread::sleep(left) };
        // Finer than a socket's own time limit, which is counted in the kernel's ticks.
        let ready = Timespec::try_from(left).is_ok_and(|left| {
            poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&left)).is_ok_and(|ready| ready > 0)
        });
        let mut number = [0; 4];
        if ready
            && let Ok(4) = socket.recv(&mut number)
            && let Some(beat) = beats.get_mut(u32::from_ne_bytes(number) as usize)
        {
            beat.answered.get_or_insert(Instant::now());
        }
    }
}

/// Answers datagrams as they came, and counts them, until it is dropped.
pub struct Echo {
    count: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Echo {
    pub fn start(netns: &Netns, at: SocketAddr) -> Result<Echo> {
        let socket = netns.inside(|| UdpSocket::bind(at))??;
        socket.set_read_timeout(Some(LATE))?;
        let echo = Echo { count: Arc::default(), stop: Arc::default() };
        let (count, stop) = (Arc::clone(&echo.count), Arc::clone(&echo.stop));
        std::thread::spawn(move || {
            let mut datagram = [0; 64];
            while !stop.load(Ordering::Relaxed) {
                let Ok((size, from)) = socket.recv_from(&mut datagram) else { continue };
                count.fetch_add(1, Ordering::Relaxed);
                let _ = socket.send_to(&datagram[..size], from);
            }
        });
        Ok(echo)
    }

    pub fn heard(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
