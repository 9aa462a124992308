//! TAP: a pod's or the host's interface. One packet a system call, each behind a virtio-net header that says what is
//! left to do (checksum, segmentation); super-frames of up to 64 KiB travel whole, in a chain of frames. The descriptor
//! comes from control. Must not know protocols beyond what that header names.
//!
//! No frame is held between calls: a read fills the pool's next frames in place and takes as many as it needed. How long
//! the next packet is cannot be asked, and every part that a read is given costs (measured: 33 parts 500-650 ns a small
//! packet, 8 parts 430-450). So a read is given few frames and one buffer behind them, whose contents are copied on, until
//! a packet was too long for the few; then all frames, until one was not.
#![allow(unsafe_code)] // two ioctls that ask for a number

#[cfg(test)]
mod tests;
mod vnet;

use super::Interface;
use super::drops::Drops;
use super::frames::{Frame, HEADROOM, LINK_BYTES, Memory};
use super::pool::FramePool;
use crate::packet::{Burst, FRAMES_PER_PACKET_MAX, PACKET_BYTES_MAX, Packet};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::ioctl::{Getter, ioctl};
use std::array::from_fn;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use tables::counters::DropReason;
use vnet::{HEADER_BYTES_MAX, VnetHeader};

/// What one call of `rx` takes at most, so that a pod with bulk traffic does not keep others waiting.
const RX_PACKETS_MAX: usize = 32;
const RX_BYTES_MAX: usize = 256 * 1024;
/// The largest packet, a VLAN tag that the kernel put back into it, and one byte more.
const READ_BYTES_MAX: usize = PACKET_BYTES_MAX + 4 + 1;

/// Frames that a read is given while packets are short. With the buffer behind them they are as many parts as the kernel
/// takes without allocating (UIO_FASTIOV).
const FEW_FRAMES: usize = 7;

/// Why a descriptor cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    #[error(
        "the descriptor is no TAP with a device ({0}): the pod's network namespace may be gone; attach the pod again"
    )]
    NoDevice(Errno),
    #[error(
        "the TAP was made without IFF_VNET_HDR | IFF_TAP | IFF_NO_PI (its flags are {flags:#x}): control must set them in TUNSETIFF"
    )]
    Flags { flags: i32 },
    #[error(
        "the TAP's virtio-net header has {size} bytes, 10 or 12 are understood: control must set it by TUNSETVNETHDRSZ"
    )]
    HeaderSize { size: i32 },
    #[error("cannot make the TAP's descriptor non-blocking: {0}")]
    Blocking(Errno),
}

/// One queue of a TAP.
#[derive(Debug)]
pub struct Tap {
    /// None once closed.
    fd: Option<OwnedFd>,
    interface: u32,
    /// Bytes of the virtio-net header.
    header_size: usize,
    /// The last packet filled more than a few frames; the next one probably will.
    long: bool,
    /// What did not fit a few frames.
    spill: Box<[u8]>,
    gone: bool,
    drops: Drops,
}

/// What became of one system call.
enum Done {
    /// A packet of that many bytes was moved.
    Moved(usize),
    Dropped,
    /// Nothing waits, or nothing can be taken now.
    NotNow,
}

impl Tap {
    /// Takes a TAP's descriptor; received packets carry the id `interface`.
    pub fn open(fd: OwnedFd, interface: u32) -> Result<Tap, TapError> {
        let needed = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        let flags = tap_flags(fd.as_fd()).map_err(TapError::NoDevice)?;
        if flags & needed != needed {
            return Err(TapError::Flags { flags });
        }
        let size = header_size(fd.as_fd()).map_err(TapError::NoDevice)?;
        if size != 10 && size != HEADER_BYTES_MAX as i32 {
            return Err(TapError::HeaderSize { size });
        }
        let flags = fcntl_getfl(&fd).map_err(TapError::Blocking)?;
        fcntl_setfl(&fd, flags | OFlags::NONBLOCK).map_err(TapError::Blocking)?;
        let (header_size, spill) = (size as usize, vec![0; READ_BYTES_MAX].into_boxed_slice());
        let (long, gone, drops) = (false, false, Drops::default());
        Ok(Tap { fd: Some(fd), interface, header_size, long, spill, gone, drops })
    }

    /// Reads one packet into the pool's next frames, of which there must be `frames`. The answer is what `read` gave:
    /// header and packet.
    #[inline(always)]
    fn read(&mut self, pool: &mut FramePool, frames: usize) -> Option<rustix::io::Result<usize>> {
        let fd = self.fd.as_ref()?;
        let (memory, next) = pool.next_frames(frames)?;
        let start = HEADROOM - self.header_size;
        if self.long {
            let mut parts: [IoSliceMut<'_>; FRAMES_PER_PACKET_MAX] = parts_of(memory, next, start);
            return Some(rustix::io::readv(fd, &mut parts[..frames]));
        }
        let mut parts: [IoSliceMut<'_>; FEW_FRAMES + 1] = parts_of(memory, next, start);
        parts[FEW_FRAMES] = IoSliceMut::new(&mut self.spill);
        Some(rustix::io::readv(fd, &mut parts))
    }

    /// Copies what a read put behind the few frames into the frames behind them.
    #[cold]
    fn unspill(&self, pool: &mut FramePool, frames: usize) {
        let Some((memory, next)) = pool.next_frames(frames) else { return };
        let room = memory.frame_size() - LINK_BYTES;
        for (frame, bytes) in next.iter_mut().rev().skip(FEW_FRAMES).zip(self.spill.chunks(room)) {
            memory.bytes_mut(frame, LINK_BYTES, bytes.len()).copy_from_slice(bytes);
        }
    }

    #[inline(always)]
    fn receive(&mut self, pool: &mut FramePool, burst: &mut Burst, frames: usize) -> Done {
        let read = match self.read(pool, frames) {
            Some(Ok(read)) => read,
            Some(Err(errno)) => return self.read_failed(errno),
            None => return Done::NotNow,
        };
        let Some(size) = read.checked_sub(self.header_size) else { return Done::NotNow };
        let used = pool.memory().frames_for(size);
        if used > FEW_FRAMES && !self.long {
            self.unspill(pool, used.min(frames));
        }
        self.long = used > FEW_FRAMES;
        // One byte more than the largest packet is read, so that one which was cut off is known.
        let packet = if size < READ_BYTES_MAX { self.packet(pool, size) } else { Err(DropReason::Oversized) };
        match packet {
            Ok(packet) => {
                // The burst had room: `rx` counts.
                let _ = burst.push(packet).map_err(|packet| pool.put_packet(packet));
                Done::Moved(size)
            }
            Err(reason) => {
                self.drops.add(reason);
                Done::Dropped
            }
        }
    }

    /// Takes the frames that a read of `size` bytes filled and says what its header says.
    #[inline(always)]
    fn packet(&self, pool: &mut FramePool, size: usize) -> Result<Packet, DropReason> {
        let mut packet = pool.take_packet(size).ok_or(DropReason::NoFrame)?;
        let header = pool.memory().bytes(&packet.head, HEADROOM - self.header_size, self.header_size);
        let Some(work) = VnetHeader::read(header).and_then(|header| header.work(packet.head_size())) else {
            pool.put_packet(packet);
            return Err(DropReason::Malformed);
        };
        packet.interface = self.interface;
        (packet.checksum, packet.gso, packet.gso_ecn) = (work.checksum, work.gso, work.gso_ecn);
        Ok(packet)
    }

    #[cold]
    fn read_failed(&mut self, errno: Errno) -> Done {
        match errno {
            Errno::AGAIN => Done::NotNow,
            Errno::INTR => Done::Dropped,
            // The kernel threw a packet away that its own header cannot describe.
            Errno::INVAL | Errno::FAULT => {
                self.drops.add(DropReason::Malformed);
                Done::Dropped
            }
            _ => {
                self.gone = true;
                Done::NotNow
            }
        }
    }

    /// Writes one packet with its header.
    #[inline(always)]
    fn send(&mut self, memory: &Memory, packet: &Packet) -> Done {
        let Some(fd) = &self.fd else { return Done::NotNow };
        let bytes = VnetHeader::of(memory, packet).bytes();
        let header = &bytes[..self.header_size];
        let written = if packet.is_chained() {
            write_chain(fd.as_fd(), memory, header, packet)
        } else {
            rustix::io::writev(fd, &[IoSlice::new(header), IoSlice::new(memory.head(packet))])
        };
        match written {
            Ok(written) => Done::Moved(written),
            Err(errno) => self.write_failed(errno),
        }
    }

    #[cold]
    fn write_failed(&mut self, errno: Errno) -> Done {
        let reason = match errno {
            Errno::AGAIN | Errno::INTR => return Done::NotNow,
            Errno::BADFD | Errno::NXIO | Errno::NODEV | Errno::BADF => {
                self.gone = true;
                return Done::NotNow;
            }
            // The interface is down inside the pod.
            Errno::IO => DropReason::InterfaceGone,
            Errno::NOMEM | Errno::NOBUFS => DropReason::TxFull,
            Errno::MSGSIZE => DropReason::Oversized,
            _ => DropReason::Malformed,
        };
        self.drops.add(reason);
        Done::Dropped
    }
}

impl Interface for Tap {
    fn rx(&mut self, pool: &mut FramePool, burst: &mut Burst) {
        if self.gone {
            return;
        }
        let frames = pool.memory().frames_for(READ_BYTES_MAX).min(FRAMES_PER_PACKET_MAX);
        let mut bytes = 0;
        for _ in 0..burst.room().min(RX_PACKETS_MAX) {
            match self.receive(pool, burst, frames) {
                Done::Moved(size) => bytes += size,
                Done::Dropped => {}
                Done::NotNow => return,
            }
            if bytes >= RX_BYTES_MAX {
                return;
            }
        }
    }

    fn tx(&mut self, pool: &mut FramePool, burst: &mut Burst) {
        let mut done = 0;
        for packet in burst.iter() {
            if self.gone || matches!(self.send(pool.memory(), packet), Done::NotNow) {
                break;
            }
            done += 1;
        }
        for packet in burst.drain_front(done) {
            pool.put_packet(packet);
        }
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(|fd| fd.as_fd())
    }

    fn takes_super_frames(&self) -> bool {
        true
    }

    fn is_gone(&self) -> bool {
        self.gone
    }

    fn take_drops(&mut self, tell: &mut dyn FnMut(DropReason, u64)) {
        self.drops.take(tell);
    }

    /// Holds no frames; the descriptor is closed at once, so that control's copy alone keeps the device.
    fn close(&mut self, _pool: &mut FramePool) {
        self.gone = true;
        self.fd = None;
    }
}

/// The next frames, the very next one last, as parts of a read: the first from `start` on, the others behind their link.
#[inline(always)]
fn parts_of<'a, const N: usize>(memory: &'a Memory, next: &'a mut [Frame], start: usize) -> [IoSliceMut<'a>; N] {
    let mut parts = from_fn(|_| IoSliceMut::new(&mut []));
    let mut start = start;
    for (part, frame) in parts.iter_mut().zip(next.iter_mut().rev()) {
        *part = IoSliceMut::new(memory.bytes_mut(frame, start, memory.frame_size() - start));
        start = LINK_BYTES;
    }
    parts
}

fn write_chain(fd: BorrowedFd<'_>, memory: &Memory, header: &[u8], packet: &Packet) -> rustix::io::Result<usize> {
    let mut parts: [IoSlice<'_>; FRAMES_PER_PACKET_MAX + 1] = from_fn(|_| IoSlice::new(&[]));
    let mut len = 0;
    for (part, bytes) in parts.iter_mut().zip(std::iter::once(header).chain(memory.chain(packet))) {
        *part = IoSlice::new(bytes);
        len += 1;
    }
    rustix::io::writev(fd, &parts[..len])
}

/// Flags of the device behind the descriptor (TUNGETIFF), and a check that there is one.
fn tap_flags(fd: BorrowedFd<'_>) -> rustix::io::Result<i32> {
    // SAFETY: TUNGETIFF fills a `struct ifreq`.
    let request = unsafe { ioctl(fd, Getter::<{ libc::TUNGETIFF as _ }, libc::ifreq>::new())? };
    // SAFETY: TUNGETIFF answers with the flags; any bits are a number.
    Ok(i32::from(unsafe { request.ifr_ifru.ifru_flags }) & 0xffff)
}

fn header_size(fd: BorrowedFd<'_>) -> rustix::io::Result<i32> {
    // SAFETY: TUNGETVNETHDRSZ fills an int.
    unsafe { ioctl(fd, Getter::<{ libc::TUNGETVNETHDRSZ as _ }, i32>::new()) }
}
