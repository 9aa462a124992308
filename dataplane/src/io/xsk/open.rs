//! Makes a bare AF_XDP socket usable: memory, ring sizes, mappings, bind; and says in a sentence why it cannot. Must not
//! touch packets. Everything here runs before the process gives its capabilities up, except that further sockets may
//! join the memory of a first one at any time (XDP_SHARED_UMEM needs none).
#![allow(unsafe_code)] // one setsockopt that rustix does not know

use super::ring::{Consumer, Producer};
use super::{Chain, Drops, HEADROOM, Holder, Memory, Xsk};
use crate::packet::BURST_MAX;
use rustix::io::Errno;
use rustix::net::sockopt::{
    set_socket_send_buffer_size, set_socket_send_buffer_size_force, set_xdp_rx_ring_size, set_xdp_tx_ring_size,
    set_xdp_umem_completion_ring_size, set_xdp_umem_fill_ring_size, set_xdp_umem_reg, xdp_mmap_offsets, xdp_options,
};
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, SocketAddrXdpWithSharedUmem, XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING,
    XDP_UMEM_PGOFF_COMPLETION_RING, XDP_UMEM_PGOFF_FILL_RING, XdpOptionsFlags, XdpUmemReg, XdpUmemRegFlags,
};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tables::message::XdpMode;

/// Kernel: include/uapi/linux/if_xdp.h, since Linux 6.17: packets that one `sendto` sends in copy mode.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;
/// What the kernel accounts for one packet in flight (an skb and its bytes).
const SEND_BUFFER_PER_PACKET: usize = 4096;
/// A queue stays taken for a moment after its socket was closed (the kernel lets go in a work queue).
const BUSY_TRIES: u32 = 50;
/// What a frame is longer than the MTU: Ethernet header, VLAN tag, FCS.
pub const FRAME_EXTRA_BYTES: usize = 22;
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// Sizes of the rings (powers of two), and who we are.
#[derive(Clone, Debug)]
pub struct XskConfig {
    /// The id that received packets carry.
    pub interface: u32,
    pub fill: u32,
    pub completion: u32,
    pub rx: u32,
    pub tx: u32,
    /// Run the driver's receive loop from here (SO_PREFER_BUSY_POLL, which control has set on the socket).
    pub busy_poll: bool,
    /// Frames that filling leaves in the worker's pool.
    pub reserve: usize,
    /// Bytes of the largest packet with its Ethernet header. If that is more than a frame holds, the kernel must take and
    /// give packets in several.
    pub bytes_max: usize,
}

impl Default for XskConfig {
    fn default() -> XskConfig {
        let (reserve, busy_poll) = (4 * BURST_MAX, false);
        XskConfig {
            interface: 0,
            fill: 2048,
            completion: 2048,
            rx: 2048,
            tx: 2048,
            busy_poll,
            reserve,
            bytes_max: 1518,
        }
    }
}

/// Why a queue cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum XskError {
    #[error(
        "queue {queue} of interface {ifindex} already has an AF_XDP socket: stop the program that holds it \
         (`bpftool net show` and `ls -l /proc/*/fd` find it), then start again"
    )]
    Busy { ifindex: u32, queue: u32 },
    #[error(
        "the kernel refused to pin {mib} MiB of packet memory: start with CAP_IPC_LOCK, or allow it by \
         `LimitMEMLOCK=` (`ulimit -l`), or use fewer frames"
    )]
    Memlock { mib: u64 },
    #[error("interface {ifindex} has no queue {queue}, or its queues cannot share memory (some zero-copy, some not)")]
    NoQueue { ifindex: u32, queue: u32 },
    #[error(
        "interface {ifindex} is not in the namespace that the socket was made in, or was removed: name an interface of this node"
    )]
    NoDevice { ifindex: u32 },
    #[error(
        "interface {ifindex} has frames of up to {bytes_max} bytes, which do not fit the {room} of one buffer, and this kernel does not take packets of several (it needs Linux 6.6): lower its MTU to {}, or, up to 3818, use a profile with frame_size = 4096",
        room - FRAME_EXTRA_BYTES
    )]
    NoChains { ifindex: u32, bytes_max: usize, room: usize },
    #[error("interface {ifindex} is down: `ip link set up` it first")]
    Down { ifindex: u32 },
    #[error(
        "not permitted to {what}: AF_XDP sockets need CAP_NET_RAW when control makes them and CAP_BPF to be found by XDP"
    )]
    NotPermitted { what: &'static str },
    #[error(
        "cannot {what}: {errno} (queue {queue} of interface {ifindex}); the kernel needs CONFIG_XDP_SOCKETS and Linux 5.10 or newer"
    )]
    Other { what: &'static str, ifindex: u32, queue: u32, errno: Errno },
}

/// The queue that errors are about.
#[derive(Clone, Copy)]
struct Place {
    ifindex: u32,
    queue: u32,
}

impl Place {
    fn error(self, what: &'static str, errno: Errno) -> XskError {
        let Place { ifindex, queue } = self;
        match errno {
            Errno::PERM | Errno::ACCESS => XskError::NotPermitted { what },
            Errno::NODEV => XskError::NoDevice { ifindex },
            Errno::NETDOWN => XskError::Down { ifindex },
            Errno::BUSY => XskError::Busy { ifindex, queue },
            errno => XskError::Other { what, ifindex, queue, errno },
        }
    }

    fn bind_error(self, errno: Errno) -> XskError {
        match errno {
            Errno::INVAL => XskError::NoQueue { ifindex: self.ifindex, queue: self.queue },
            errno => self.error("bind the socket", errno),
        }
    }
}

impl Xsk {
    /// Takes a socket that was made by `socket(AF_XDP, SOCK_RAW, 0)`. Without `share` the memory is registered with it;
    /// with `share` it joins the memory of that socket, which must be bound to the same device (or to one of the same
    /// mode). Blocks for up to half a second if the queue was in use until just now.
    pub fn open(
        fd: OwnedFd,
        ifindex: u32,
        queue: u32,
        memory: Arc<Memory>,
        holder: Holder,
        config: XskConfig,
        share: Option<BorrowedFd<'_>>,
    ) -> Result<(Xsk, XdpMode), XskError> {
        assert!(holder != 0, "0 means that nobody holds a frame");
        let place = Place { ifindex, queue };
        if share.is_none() {
            register(fd.as_fd(), &memory, place)?;
        }
        size_rings(fd.as_fd(), &config).map_err(|errno| place.error("size the rings", errno))?;
        let offsets = xdp_mmap_offsets(&fd).map_err(|errno| place.error("learn the rings' layout", errno))?;
        let mapped = |errno| place.error("map the rings", errno);
        let at = fd.as_fd();
        let rx = Consumer::open(at, XDP_PGOFF_RX_RING, offsets.rx, config.rx).map_err(mapped)?;
        let tx = Producer::open(at, XDP_PGOFF_TX_RING, offsets.tx, config.tx).map_err(mapped)?;
        let fill = Producer::open(at, XDP_UMEM_PGOFF_FILL_RING, offsets.fr, config.fill).map_err(mapped)?;
        let completion = Consumer::open(at, XDP_UMEM_PGOFF_COMPLETION_RING, offsets.cr, config.completion);
        let completion = completion.map_err(mapped)?;
        let room = memory.frame_size() - HEADROOM;
        let wakeup = if config.bytes_max > room {
            bind_with_chains(at, place, share, config.bytes_max, room)?
        } else {
            bind(at, place, share, SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP)?
        };
        let mode = mode(at, place)?;
        widen_sending(at, config.tx);
        let always_kick = !wakeup || mode == XdpMode::Copy;
        let XskConfig { interface, reserve, busy_poll, bytes_max, .. } = config;
        let (chain, gone, rounds, drops) = (Chain::default(), false, 0, Drops::default());
        let fd = Some(fd);
        #[rustfmt::skip]
        let xsk = Xsk {
            fd, memory, holder, interface, mode, fill, completion, rx, tx, reserve, busy_poll, always_kick, chain,
            bytes_max, gone, rounds, drops,
        };
        Ok((xsk, mode))
    }
}

/// Registers the whole region as UMEM. The kernel leaves XDP_PACKET_HEADROOM by itself, so no more is asked for.
fn register(fd: BorrowedFd<'_>, memory: &Memory, place: Place) -> Result<(), XskError> {
    let (addr, len) = memory.registration();
    let unaligned = XdpUmemRegFlags::XDP_UMEM_UNALIGNED_CHUNK_FLAG;
    let flags = if memory.is_unaligned() { unaligned } else { XdpUmemRegFlags::empty() };
    let chunk_size = memory.frame_size() as u32;
    let umem = XdpUmemReg { addr, len, chunk_size, headroom: 0, flags, tx_metadata_len: 0 };
    set_xdp_umem_reg(fd, umem).map_err(|errno| match errno {
        Errno::NOBUFS | Errno::NOMEM | Errno::PERM => XskError::Memlock { mib: len >> 20 },
        errno => place.error("register the packet memory", errno),
    })
}

fn size_rings(fd: BorrowedFd<'_>, config: &XskConfig) -> rustix::io::Result<()> {
    set_xdp_umem_fill_ring_size(fd, config.fill)?;
    set_xdp_umem_completion_ring_size(fd, config.completion)?;
    set_xdp_rx_ring_size(fd, config.rx)?;
    set_xdp_tx_ring_size(fd, config.tx)
}

/// Binds; the kernel tries zero-copy and falls back by itself. True if it says when it wants to be woken.
fn bind(
    fd: BorrowedFd<'_>,
    place: Place,
    share: Option<BorrowedFd<'_>>,
    flags: SocketAddrXdpFlags,
) -> Result<bool, XskError> {
    let address = |flags| SocketAddrXdp::new(flags, place.ifindex, place.queue);
    if let Some(shared_umem_fd) = share {
        // Flags are those of the first socket. A kernel that can share between queues (5.10) knows wakeups.
        let addr = address(SocketAddrXdpFlags::XDP_SHARED_UMEM);
        let address = SocketAddrXdpWithSharedUmem { addr, shared_umem_fd };
        return while_busy(|| rustix::net::bind(fd, &address)).map(|()| true).map_err(|e| place.bind_error(e));
    }
    match while_busy(|| rustix::net::bind(fd, &address(flags))) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL) => {
            let flags = flags - SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP;
            let plain = rustix::net::bind(fd, &address(flags));
            plain.map(|()| false).map_err(|errno| place.bind_error(errno))
        }
        Err(errno) => Err(place.bind_error(errno)),
    }
}

/// The same, so that packets may have several buffers. A NIC that cannot do so in zero-copy mode is bound in copy mode.
fn bind_with_chains(
    fd: BorrowedFd<'_>,
    place: Place,
    share: Option<BorrowedFd<'_>>,
    bytes_max: usize,
    room: usize,
) -> Result<bool, XskError> {
    let plain = SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP;
    match bind(fd, place, share, plain | SocketAddrXdpFlags::XDP_USE_SG) {
        // A flag that the kernel does not know, or no such queue: another bind tells which.
        Err(XskError::NoQueue { .. }) => {
            bind(fd, place, share, plain)?;
            Err(XskError::NoChains { ifindex: place.ifindex, bytes_max, room })
        }
        other => other,
    }
}

fn while_busy(mut bind: impl FnMut() -> rustix::io::Result<()>) -> rustix::io::Result<()> {
    for _ in 1..BUSY_TRIES {
        match bind() {
            Err(Errno::BUSY) => std::thread::sleep(BUSY_PAUSE),
            other => return other,
        }
    }
    bind()
}

fn mode(fd: BorrowedFd<'_>, place: Place) -> Result<XdpMode, XskError> {
    let options = xdp_options(fd).map_err(|errno| place.error("learn how the socket was bound", errno))?;
    let zero_copy = options.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY);
    Ok(if zero_copy { XdpMode::ZeroCopy } else { XdpMode::Copy })
}

/// Lets the kernel have a full ring of packets in flight and take a whole burst a call. Only costs speed where refused.
fn widen_sending(fd: BorrowedFd<'_>, tx: u32) {
    let size = tx as usize * SEND_BUFFER_PER_PACKET;
    if set_socket_send_buffer_size_force(fd, size).is_err() {
        let _ = set_socket_send_buffer_size(fd, size);
    }
    let budget = tx.min(4 * BURST_MAX as u32);
    let size = size_of::<u32>() as libc::socklen_t;
    // SAFETY: the option's value is one u32, which lives until the call returns.
    unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, (&raw const budget).cast(), size) };
}
