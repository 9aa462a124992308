//! The two ends at AF_XDP, by xsk-rs: `Sender` and `Sink`. It moves bytes and reads counters; it looks into no packet.
//!
//! The XDP program at the sink is libxdp's default one, which redirects every frame of a bound queue to its socket. The program
//! and libxdp's dispatcher are embedded in the binary: no object file is needed at run time. Creating *and dropping* must
//! happen in the interface's network namespace: dropping detaches the program.
#![allow(unsafe_code)] // xsk-rs leaves frame ownership to its caller; this file keeps it and nothing else in the crate is unsafe.

use crate::error::{Error, Result};
use std::{
    env,
    error::Error as _,
    ffi::CString,
    fs,
    io::{self, Write},
    mem,
    num::NonZeroU32,
    os::fd::{AsRawFd, RawFd},
    thread,
    time::{Duration, Instant},
};
use xsk_rs::{
    CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem,
    config::{BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig, XdpFlags},
    socket::SocketCreateError,
};

/// One page: igb splits frames over 1024 bytes in zero-copy mode when chunks are 2048.
const FRAME_SIZE: u32 = 4096;
/// Frames and ring entries per socket. 4096 packets are 4 ms of sleep at 1 Mpps.
const RING_LEN: u32 = 4096;
/// Frames taken from a ring at a time.
const BURST_LEN: usize = 64;
/// The kernel lets go of a closed socket's queue a little later (xp_release_deferred), so a run right after another waits.
const BUSY_TIMEOUT: Duration = Duration::from_millis(500);
/// The kernel sends at most this many frames per kick in copy mode (net/xdp/xsk.c, TX_BATCH_SIZE).
const KICK_LEN: u32 = 32;

/// Variable that brings back what libbpf and libxdp print: `LIBBPF_LOG_LEVEL=debug pktgen ...`.
const LOG_VARIABLE: &str = "LIBBPF_LOG_LEVEL";

/// Makes libxdp attach its program plainly, with or without a bpffs, and keeps the libraries' remarks off stderr.
/// For the first line of `main`: with other threads about, it changes nothing.
pub fn settle_libraries() {
    let alone = fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1);
    if !alone {
        return;
    }
    // SAFETY: this is the only thread, so nobody reads the environment meanwhile.
    unsafe { env::set_var("LIBXDP_SKIP_DISPATCHER", "1") };
    if env::var_os(LOG_VARIABLE).is_none() {
        // SAFETY: as above.
        unsafe { env::set_var(LOG_VARIABLE, "warn") };
        // SAFETY: libxdp accepts a null function and then prints nothing; what it returns is not used.
        unsafe { libxdp_sys::libxdp_set_print(None) };
    }
}

/// How frames reach the interface, as the kernel reports it after binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    ZeroCopy,
    Copy,
}

/// Where the sink's XDP program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    Native,
    Generic,
}

impl Hook {
    fn flag(self) -> XdpFlags {
        match self {
            Hook::Native => XdpFlags::XDP_FLAGS_DRV_MODE,
            Hook::Generic => XdpFlags::XDP_FLAGS_SKB_MODE,
        }
    }
}

/// Everything of one socket. Any queue keeps socket and UMEM alive; the last one dropped closes them.
struct Rings {
    umem: Umem,
    tx: TxQueue,
    rx: RxQueue,
    fill: FillQueue,
    completion: CompQueue,
    frames: Vec<FrameDesc>,
}

type Bound = (TxQueue, RxQueue, Option<(FillQueue, CompQueue)>);

/// What a socket is bound to.
struct Place<'a> {
    interface: &'a str,
    queue: u32,
    force_copy: bool,
    /// `None` loads no program: a sender needs none.
    hook: Option<Hook>,
}

impl Place<'_> {
    fn error(&self, what: &'static str, error: impl std::error::Error) -> Error {
        let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        let hint = match error.source().and_then(|e| e.downcast_ref::<io::Error>()).and_then(io::Error::raw_os_error) {
            Some(libc::EPERM | libc::EACCES) => "; run as root",
            Some(libc::EBUSY) => {
                "; another AF_XDP socket or XDP program holds it (`ip link show` names programs), stop that first"
            }
            Some(libc::EOPNOTSUPP) => "; its driver has no such XDP support",
            Some(libc::ENOMEM | libc::ENOBUFS) => "; raise the locked memory limit (`ulimit -l unlimited`)",
            _ => "",
        };
        Error::Xsk { interface: self.interface.into(), queue: self.queue, what, cause, hint }
    }

    fn socket_config(&self, ring: QueueSize) -> SocketConfig {
        let mut bind = BindFlags::XDP_USE_NEED_WAKEUP;
        bind.set(BindFlags::XDP_COPY, self.force_copy);
        let mut builder = SocketConfig::builder();
        builder.rx_queue_size(ring).tx_queue_size(ring).bind_flags(bind);
        match self.hook {
            Some(hook) => builder.xdp_flags(hook.flag()),
            None => builder.libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD),
        };
        builder.build()
    }

    fn bind(&self, umem: &Umem, name: &Interface, ring: QueueSize) -> Result<Bound> {
        let deadline = Instant::now() + BUSY_TIMEOUT;
        loop {
            // SAFETY: each UMEM here serves exactly one socket, so the case that needs INHIBIT_PROG_LOAD to avoid a double
            // free (a second socket of one UMEM on the same queue) cannot arise.
            match unsafe { Socket::new(self.socket_config(ring), umem, name, self.queue) } {
                Err(error) if is_busy(&error) && Instant::now() < deadline => thread::sleep(BUSY_TIMEOUT / 50),
                bound => return bound.map_err(|e| self.error("cannot bind", e)),
            }
        }
    }

    fn open(&self) -> Result<Rings> {
        let ring = QueueSize::new(RING_LEN).expect("a power of two");
        let frame_size = FrameSize::new(FRAME_SIZE).expect("at least 2048");
        let config = UmemConfig::builder().frame_size(frame_size).fill_queue_size(ring).comp_queue_size(ring).build();
        let config = config.expect("a page leaves room behind the headroom");
        let frames_len = NonZeroU32::new(RING_LEN).expect("not zero");
        let (umem, frames) =
            Umem::new(config, frames_len, false).map_err(|e| self.error("cannot register memory", e))?;
        let name = CString::new(self.interface).map_err(|e| self.error("no interface name", e))?;
        let (tx, rx, rings) = self.bind(&umem, &Interface::new(name), ring)?;
        let (fill, completion) = rings.expect("a UMEM's first socket gets its fill and completion rings");
        Ok(Rings { umem, tx, rx, fill, completion, frames })
    }
}

/// Whether the queue was taken when the socket wanted it.
fn is_busy(error: &SocketCreateError) -> bool {
    let cause = error.source().and_then(|e| e.downcast_ref::<io::Error>());
    cause.and_then(io::Error::raw_os_error) == Some(libc::EBUSY)
}

/// Sends copies of one frame, each patched by the caller.
pub struct Sender {
    umem: Umem,
    tx: TxQueue,
    completion: CompQueue,
    /// Frames that neither the kernel nor a ring holds.
    free: Vec<FrameDesc>,
    frame_size: usize,
    mode: Mode,
    handed_over: u64,
}

impl Sender {
    /// Binds and writes `template` into every frame; the kernel only ever reads a sender's frames.
    pub fn open(interface: &str, queue: u32, force_copy: bool, template: &[u8]) -> Result<Self> {
        let place = Place { interface, queue, force_copy, hook: None };
        let Rings { umem, tx, completion, mut frames, .. } = place.open()?;
        for frame in &mut frames {
            // SAFETY: the descriptor came from this UMEM's creation and was given to no ring yet.
            let mut data = unsafe { umem.data_mut(frame) };
            data.cursor().write_all(template).map_err(|e| place.error("cannot write the template", e))?;
        }
        let mode = mode_of(tx.fd().as_raw_fd());
        Ok(Sender { umem, tx, completion, free: frames, frame_size: template.len(), mode, handed_over: 0 })
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Hands over up to `count` frames, each patched by `patch`; says how many there was room for.
    pub fn send(&mut self, count: usize, mut patch: impl FnMut(&mut [u8])) -> io::Result<usize> {
        self.reclaim();
        let room = self.tx.nb_free(count as u32) as usize;
        let count = count.min(self.free.len()).min(room);
        let first = self.free.len() - count;
        for frame in &mut self.free[first..] {
            // SAFETY: frames in `free` belong to this UMEM and are held by nobody else: they come from creation or from
            // the completion ring, and leave the list below as they enter the tx ring.
            let mut data = unsafe { self.umem.data_mut(frame) };
            data.cursor().set_pos(self.frame_size);
            patch(data.contents_mut());
        }
        // SAFETY: as above; those that the ring took are truncated from `free` at once.
        let taken = unsafe { self.tx.produce(&self.free[first..]) };
        self.free.truncate(self.free.len() - taken);
        self.handed_over += taken as u64;
        self.kick()?;
        Ok(taken)
    }

    /// Makes the kernel look at the tx ring until it is empty or no longer gets shorter.
    pub fn kick(&mut self) -> io::Result<()> {
        for _ in 0..=self.queued() / u64::from(KICK_LEN) {
            if self.queued() == 0 || !self.tx.needs_wakeup() {
                break;
            }
            self.tx.wakeup()?;
            self.reclaim();
        }
        Ok(())
    }

    /// Frames that the kernel has taken from the ring; a frame still waiting in it is not sent.
    pub fn sent(&mut self) -> u64 {
        self.handed_over - self.queued()
    }

    fn queued(&mut self) -> u64 {
        u64::from(RING_LEN - self.tx.nb_free_exact())
    }

    fn reclaim(&mut self) {
        let mut done = [FrameDesc::default(); BURST_LEN];
        loop {
            // SAFETY: the completion ring only names frames of this UMEM that the kernel is finished with.
            let len = unsafe { self.completion.consume(&mut done) };
            self.free.extend_from_slice(&done[..len]);
            if len < BURST_LEN {
                return;
            }
        }
    }
}

/// Receives on every queue of an interface.
pub struct Sink {
    queues: Vec<SinkQueue>,
    hook: Hook,
    mode: Mode,
}

struct SinkQueue {
    umem: Umem,
    rx: RxQueue,
    fill: FillQueue,
}

impl Sink {
    /// Binds `queues` receive queues (`None`: all there are), natively where the driver can, else generically.
    pub fn open(interface: &str, queues: Option<u32>, force_copy: bool) -> Result<Self> {
        let queues = queues.unwrap_or_else(|| receive_queues(interface));
        let native = Sink::open_with(interface, queues, force_copy, Hook::Native);
        native.or_else(|_| Sink::open_with(interface, queues, force_copy, Hook::Generic))
    }

    fn open_with(interface: &str, queues: u32, force_copy: bool, hook: Hook) -> Result<Self> {
        let open = |queue| SinkQueue::open(&Place { interface, queue, force_copy, hook: Some(hook) });
        let queues = (0..queues).map(open).collect::<Result<Vec<_>>>()?;
        let copies = queues.iter().any(|queue| mode_of(queue.rx.fd().as_raw_fd()) == Mode::Copy);
        Ok(Sink { queues, hook, mode: if copies { Mode::Copy } else { Mode::ZeroCopy } })
    }

    pub fn hook(&self) -> Hook {
        self.hook
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    pub fn queues(&self) -> usize {
        self.queues.len()
    }

    /// Shows up to one burst per queue to `each`; returns how many frames that was.
    pub fn receive(&mut self, mut each: impl FnMut(&[u8])) -> usize {
        self.queues.iter_mut().map(|queue| queue.receive(&mut each)).sum()
    }

    /// Sleeps until a frame is there or the time is over. Wakes the driver as well, where it asks for that.
    pub fn wait(&mut self, timeout_ms: i32) -> io::Result<()> {
        let entry =
            |queue: &SinkQueue| libc::pollfd { fd: queue.rx.fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let mut fds: Vec<_> = self.queues.iter().map(entry).collect();
        // SAFETY: `fds` is a live array of that length, and poll(2) writes only its `revents`.
        let ready = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout_ms) };
        match io::Error::last_os_error() {
            error if ready < 0 && error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    /// Frames that reached a socket but found no room: this program was too slow, not the network lossy.
    pub fn dropped(&self) -> io::Result<u64> {
        let mut dropped = 0;
        for queue in &self.queues {
            let statistics = queue.rx.fd().xdp_statistics()?;
            dropped += statistics.rx_dropped() + statistics.rx_ring_full();
        }
        Ok(dropped)
    }
}

impl SinkQueue {
    fn open(place: &Place) -> Result<Self> {
        let Rings { umem, rx, mut fill, frames, .. } = place.open()?;
        // SAFETY: descriptors fresh from this UMEM's creation, held by no other ring.
        unsafe { fill.produce(&frames) };
        Ok(SinkQueue { umem, rx, fill })
    }

    fn receive(&mut self, each: &mut impl FnMut(&[u8])) -> usize {
        let mut frames = [FrameDesc::default(); BURST_LEN];
        // SAFETY: the rx ring only names frames of this UMEM, and they are ours until given to the fill ring again.
        let len = unsafe { self.rx.consume(&mut frames) };
        for frame in &frames[..len] {
            // SAFETY: the frame was just received, so the kernel does not write it now, and nothing else refers to it.
            each(unsafe { self.umem.data(frame) }.contents());
        }
        // SAFETY: the same frames, no longer referred to. There is room: as many frames as the fill ring has entries.
        unsafe { self.fill.produce(&frames[..len]) };
        len
    }
}

/// Asks the kernel how the socket was bound.
fn mode_of(fd: RawFd) -> Mode {
    let mut options = libc::xdp_options { flags: 0 };
    let mut size = mem::size_of_val(&options) as libc::socklen_t;
    let value = (&raw mut options).cast();
    // SAFETY: `value` points to a live struct of the size that is passed along.
    let failed = unsafe { libc::getsockopt(fd, libc::SOL_XDP, libc::XDP_OPTIONS, value, &mut size) } != 0;
    let zero_copy = !failed && options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0;
    if zero_copy { Mode::ZeroCopy } else { Mode::Copy }
}

/// `struct ethtool_channels` of linux/ethtool.h.
#[repr(C)]
#[derive(Default)]
struct EthtoolChannels {
    command: u32,
    max: [u32; 4],
    rx_len: u32,
    tx_len: u32,
    other_len: u32,
    combined_len: u32,
}

/// ETHTOOL_GCHANNELS of linux/ethtool.h.
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// Receive queues of an interface in the thread's namespace; one if its driver does not say (TAP).
fn receive_queues(interface: &str) -> u32 {
    let mut channels = EthtoolChannels { command: ETHTOOL_GCHANNELS, ..Default::default() };
    // SAFETY: all-zero bytes are a valid ifreq: arrays, integers and a null pointer.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    let name_max = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes().take(name_max)) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut channels).cast();
    let Ok(socket) = std::net::UdpSocket::bind(("0.0.0.0", 0)) else { return 1 };
    // SAFETY: the request names a NUL-terminated interface and points to a live struct of the layout that the command fills.
    let failed = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &mut request) } != 0;
    if failed { 1 } else { (channels.rx_len + channels.combined_len).max(1) }
}
