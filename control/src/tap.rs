//! TAP devices with a virtio-net header: persistent once they are whole, so that pods keep their interface while processes
//! come and go. Only inside the namespace that the device lives in does opening join it (from elsewhere it would make a new
//! one).

use crate::sys;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// `struct virtio_net_hdr_mrg_rxbuf`: the virtio-net header with its count of buffers, bytes.
pub const HEADER_SIZE: i32 = 12;

/// Makes the TAP of this name in the caller's namespace, or joins the one that is there without a reader (else
/// `ResourceBusy`). A new one goes with its descriptor unless it is [kept](keep). Non-blocking.
pub fn open(name: &str) -> io::Result<OwnedFd> {
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags.bits() as i32).open("/dev/net/tun")?;
    let fd = OwnedFd::from(file);
    sys::tun_set_interface(fd.as_fd(), name)?;
    sys::tun_set_header_size(fd.as_fd(), HEADER_SIZE)?;
    sys::tun_set_offloads(fd.as_fd())?;
    Ok(fd)
}

/// Lets it outlive its descriptors. For one that is configured: what a killed process leaves half made nobody would know.
pub fn keep(tap: BorrowedFd<'_>) -> io::Result<()> {
    sys::tun_set_persistent(tap)
}
