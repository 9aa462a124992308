//! The memory that packets live in: one region of equal chunks (*frames*), registered with the kernel as UMEM.
//!
//! Each chunk has a page of its own, and so that the headers of many packets do not all want the same few lines of a
//! cache, chunks begin at different cache lines of their pages ([`Memory::frame`]). The kernel takes chunks that are not
//! aligned (XDP_UMEM_UNALIGNED_CHUNK_FLAG; Documentation/networking/af_xdp.rst), but drops those that cross into a page
//! which does not follow in the device's addresses, as behind an IOMMU: none does. Chunks of a whole page all begin
//! with it.
//!
//! Ownership: a [`Frame`] is the exclusive right to one chunk's bytes. It cannot be cloned; it is made when the memory
//! is (all of them, once) and, after it was lent to the kernel, by [`Memory::take_back`], which believes the kernel
//! only if the ledger says that this frame was lent to that holder. So no chunk is ever held twice.
//!
//! A chunk begins with a link of [`LINK_BYTES`] by which frames of one packet are chained; the kernel never writes
//! there (it leaves XDP_PACKET_HEADROOM, 256 bytes; kernel: include/uapi/linux/bpf.h). This file must not know
//! protocols or devices.
#![allow(unsafe_code)] // mmap, and slices into it

use crate::packet::Packet;
use std::io;
use std::num::NonZeroU32;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

/// Room at the start of each chunk for the link to the next frame of a packet.
pub const LINK_BYTES: usize = 16;
/// What each chunk has for itself.
const PAGE: usize = 4096;
const LINE: usize = 64;
const LINES: u32 = (PAGE / LINE) as u32;
/// With so many lines of its page a chunk of half a page may begin.
const PLACES: u32 = LINES / 2;
/// In unaligned mode the address of a received packet is that of its chunk; how far behind it begins stands above these
/// bits (kernel: XSK_UNALIGNED_BUF_OFFSET_SHIFT in include/uapi/linux/if_xdp.h).
const ADDRESS_BITS: u32 = 48;
/// Where received bytes begin: XDP_PACKET_HEADROOM, of which the outer headers take up to 128.
pub const HEADROOM: usize = 256;

/// The exclusive right to one chunk. The number is that of the cache line with which the chunk begins, counted from one,
/// so that an `Option<Frame>` is four bytes.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a dropped frame is lost: give it back to the pool"]
pub struct Frame(NonZeroU32);

impl Frame {
    /// Of its page.
    #[inline(always)]
    pub fn index(&self) -> u32 {
        (self.0.get() - 1) / LINES
    }

    /// Where its chunk begins in the region.
    #[inline(always)]
    fn offset(&self) -> usize {
        (self.0.get() - 1) as usize * LINE
    }
}

/// The two parts of a descriptor's address: of a received packet its chunk and how far behind that it begins, or all of it in
/// one, as of a sent one.
#[inline(always)]
fn parts(address: u64) -> (u64, u64) {
    (address & ((1 << ADDRESS_BITS) - 1), address >> ADDRESS_BITS)
}

/// Who holds frames that are not in user space: 0 nobody (they are ours), else an interface's number.
pub type Holder = u8;

/// All frames of the process.
pub struct Memory {
    base: NonNull<u8>,
    frames: u32,
    frame_size: u32,
    /// Of how many lines of its page a chunk may begin with one, a power of two, less one.
    places_mask: u32,
    ledger: Box<[AtomicU8]>,
}

// SAFETY: the region is plain memory; a chunk's bytes are reached only through its one `Frame`.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

/// Where chunks lie: by value, so that a pass over a burst has it in registers. To hint at what is in them, which takes no right
/// to it.
#[derive(Clone, Copy)]
pub struct Chunks {
    /// Where one would be that is numbered 0: lines count from 1.
    before: *const u8,
}

impl Chunks {
    #[inline(always)]
    fn at(&self, frame: &Frame, start: u16) -> *const u8 {
        self.before.wrapping_add(frame.0.get() as usize * LINE + start as usize)
    }

    /// So many bytes from the start of the packet in this place on will be read soon, at most two cache lines of them, and
    /// as many `front` of it be written after that.
    #[inline(always)]
    pub fn prefetch_head(&self, place: &Option<Packet>, bytes: usize, front: usize) {
        if let Some(packet) = place {
            let head = self.at(&packet.head, packet.start);
            tables::cpu::prefetch_at(head);
            tables::cpu::prefetch_at(head.wrapping_add(bytes - 1));
            tables::cpu::prefetch_at(head.wrapping_sub(front));
        }
    }

    /// The same of a packet that another worker wrote last and that is written here soon.
    #[inline(always)]
    pub fn prefetch_handed(&self, head: &Frame, start: u16, bytes: usize) {
        let head = self.at(head, start);
        tables::cpu::prefetch_to_write(head);
        tables::cpu::prefetch_to_write(head.wrapping_add(bytes - 1));
    }
}

/// The link at the start of a chunk.
#[derive(Clone, Copy)]
#[repr(C)]
struct Link {
    /// 0: none, else the next frame's index plus one.
    next: u32,
    start: u16,
    size: u16,
}

impl Memory {
    /// `frames` chunks of `frame_size` (2048 or 4096) bytes, and the rights to all of them. Huge pages if there are any.
    pub fn create(frames: u32, frame_size: u32) -> io::Result<(Memory, Vec<Frame>)> {
        assert!(matches!(frame_size, 2048 | 4096) && frames > 0 && frames < u32::MAX / LINES);
        let size = frames as usize * PAGE;
        let map = |extra: i32| {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | extra;
            // SAFETY: a fresh anonymous mapping at an address of the kernel's choice.
            unsafe { libc::mmap(std::ptr::null_mut(), size, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) }
        };
        let mut base = if size.is_multiple_of(2 << 20) { map(libc::MAP_HUGETLB) } else { libc::MAP_FAILED };
        if base == libc::MAP_FAILED {
            base = map(0);
        }
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: advice about the mapping just made; where the kernel does not take it, pages stay small.
        unsafe { libc::madvise(base, size, libc::MADV_HUGEPAGE) };
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap answered address 0"))?;
        let ledger = (0..frames).map(|_| AtomicU8::new(0)).collect();
        let places_mask = if frame_size < PAGE as u32 { PLACES - 1 } else { 0 };
        let memory = Memory { base, frames, frame_size, places_mask, ledger };
        let frames = (0..frames).map(|index| memory.frame(index)).collect();
        Ok((memory, frames))
    }

    /// Neighbours begin with different lines, for the first-level cache, whose sets are told apart by the bits of an address
    /// within its page; and from page to page of the same low bits they go on, for the larger ones.
    #[inline(always)]
    fn frame(&self, index: u32) -> Frame {
        let place = (index + index / PLACES) & self.places_mask;
        Frame(NonZeroU32::MIN.saturating_add(index * LINES + place))
    }

    pub fn frame_size(&self) -> usize {
        self.frame_size as usize
    }

    /// Frames that a packet of `size` bytes fills: the head from [`HEADROOM`] on, the others from behind their link.
    pub fn frames_for(&self, size: usize) -> usize {
        1 + size.saturating_sub(self.frame_size() - HEADROOM).div_ceil(self.frame_size() - LINK_BYTES)
    }

    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// Start and size of the region, for registering it as UMEM.
    pub fn registration(&self) -> (u64, u64) {
        (self.base.as_ptr() as u64, self.size() as u64)
    }

    /// Whether the kernel must be told that chunks begin anywhere.
    pub fn is_unaligned(&self) -> bool {
        self.places_mask != 0
    }

    /// Bytes of the region.
    pub fn size(&self) -> usize {
        self.frames as usize * PAGE
    }

    #[inline(always)]
    fn chunk(&self, frame: &Frame) -> *mut u8 {
        debug_assert!(frame.index() < self.frames);
        // SAFETY: a frame's index is below `frames` by construction, so its page is inside the mapping, and so is its chunk.
        unsafe { self.base.as_ptr().add(frame.offset()) }
    }

    /// `size` bytes at `start` of a frame; none if they are not all in its chunk.
    #[inline(always)]
    pub fn bytes<'a>(&'a self, frame: &'a Frame, start: usize, size: usize) -> &'a [u8] {
        if start + size > self.frame_size() {
            return &[];
        }
        // SAFETY: inside the chunk (seen above); the frame is the only right to it and is borrowed for as long.
        unsafe { std::slice::from_raw_parts(self.chunk(frame).add(start), size) }
    }

    #[inline(always)]
    pub fn bytes_mut<'a>(&'a self, frame: &'a mut Frame, start: usize, size: usize) -> &'a mut [u8] {
        if start + size > self.frame_size() {
            return &mut [];
        }
        // SAFETY: as `bytes`; the frame is borrowed mutably, so this is the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.chunk(frame).add(start), size) }
    }

    /// The bytes in the packet's head frame: all headers are here.
    #[inline(always)]
    pub fn head<'a>(&'a self, packet: &'a Packet) -> &'a [u8] {
        self.bytes(&packet.head, packet.start as usize, packet.size as usize)
    }

    #[inline(always)]
    pub fn head_mut<'a>(&'a self, packet: &'a mut Packet) -> &'a mut [u8] {
        let (start, size) = (packet.start as usize, packet.size as usize);
        self.bytes_mut(&mut packet.head, start, size)
    }

    /// As `head_mut`, after the start of a [simple](Packet::is_simple) packet slid back over so many bytes. None, and nothing
    /// done: there is no room. All that must hold is asked once, so that who knows the packet's size asks no more.
    #[inline(always)]
    pub fn grow<'a>(&'a self, packet: &'a mut Packet, front: usize) -> Option<&'a mut [u8]> {
        debug_assert!(packet.is_simple());
        let (start, size) = (packet.start as usize, packet.size as usize);
        if start < LINK_BYTES + front || start + size > self.frame_size() {
            return None;
        }
        packet.start = (start - front) as u16;
        packet.size = (size + front) as u16;
        // SAFETY: inside the chunk, since the end, which stays, is (seen above), and the start is behind the link; the frame
        // is borrowed mutably, so this is the only reference.
        Some(unsafe { std::slice::from_raw_parts_mut(self.chunk(&packet.head).add(start - front), size + front) })
    }

    /// What stands in front of the packet: headers that were taken off, if they were so large; else nothing.
    pub fn front<'a>(&'a self, packet: &'a Packet, bytes: usize) -> &'a [u8] {
        let start = (packet.start as usize).checked_sub(bytes).filter(|&start| start >= LINK_BYTES);
        start.map_or(&[], |start| self.bytes(&packet.head, start, bytes))
    }

    /// Where chunks lie.
    #[inline(always)]
    pub fn chunks(&self) -> Chunks {
        Chunks { before: self.base.as_ptr().wrapping_sub(LINE) }
    }

    fn link(&self, frame: &Frame) -> Link {
        // SAFETY: the chunk begins with room for a link, aligned to its size, only written by `set_link`.
        unsafe { self.chunk(frame).cast::<Link>().read() }
    }

    fn set_link(&self, frame: &mut Frame, link: Link) {
        // SAFETY: as above, and the frame is borrowed mutably.
        unsafe { self.chunk(frame).cast::<Link>().write(link) }
    }

    /// Makes one packet of frames that were filled in order: (frame, start, size). The first is the head.
    pub fn join(&self, frames: impl DoubleEndedIterator<Item = (Frame, u16, u16)>) -> Option<Packet> {
        let (mut next, mut total, mut first) = (0, 0, None);
        for (mut frame, start, size) in frames.rev() {
            // The right to `frame` lives on as the number in the link before it.
            self.set_link(&mut frame, Link { next, start, size });
            next = frame.0.get();
            total += size as u32;
            first = Some((frame, start, size));
        }
        let (head, start, size) = first?;
        let mut packet = Packet::new(head, start, size);
        packet.rest = self.take_next(&mut packet.head);
        packet.rest_size = total - size as u32;
        Some(packet)
    }

    /// The frames of a packet in order, each with start and size of its bytes. All must be taken.
    pub(crate) fn take_apart(&self, packet: Packet) -> impl Iterator<Item = (Frame, u16, u16)> + '_ {
        let Packet { head, start, size, mut rest, .. } = packet;
        let behind = std::iter::from_fn(move || {
            let mut frame = rest.take()?;
            let Link { start, size, .. } = self.link(&frame);
            rest = self.take_next(&mut frame);
            Some((frame, start, size))
        });
        std::iter::once((head, start, size)).chain(behind)
    }

    /// Unlinks and returns the frame behind this one.
    pub(crate) fn take_next(&self, frame: &mut Frame) -> Option<Frame> {
        let link = self.link(frame);
        self.set_link(frame, Link { next: 0, ..link });
        self.linked(link.next)
    }

    /// The frame that a link names, if it is one.
    fn linked(&self, next: u32) -> Option<Frame> {
        let frame = Frame(NonZeroU32::new(next)?);
        (frame.index() < self.frames && self.frame(frame.index()) == frame).then_some(frame)
    }

    /// All bytes of a packet in order: the head, then the further frames.
    pub fn chain<'a>(&'a self, packet: &'a Packet) -> impl Iterator<Item = &'a [u8]> {
        let mut next = packet.rest.as_ref().map_or(0, |frame| frame.0.get());
        let rest = std::iter::from_fn(move || {
            let frame = self.linked(next)?;
            let link = self.link(&frame);
            next = link.next;
            let (start, end) = (link.start as usize, link.start as usize + link.size as usize);
            if end > self.frame_size() {
                return None;
            }
            // SAFETY: the chained frames belong to `packet`, which is borrowed; the range is inside the chunk.
            Some(unsafe { std::slice::from_raw_parts(self.chunk(&frame).add(start), end - start) })
        });
        std::iter::once(self.head(packet)).chain(rest)
    }

    /// Gives the kernel the right to a frame; returns the chunk's address in the region.
    #[inline(always)]
    pub fn lend(&self, frame: Frame, holder: Holder) -> u64 {
        self.ledger[frame.index() as usize].store(holder, Ordering::Relaxed);
        frame.offset() as u64
    }

    /// Takes a frame back whose page holds `address`. None if it was not lent to that holder: the kernel (or a damaged
    /// ring) is not believed.
    #[inline(always)]
    pub fn take_back(&self, address: u64, holder: Holder) -> Option<Frame> {
        let index = parts(address).0 / PAGE as u64;
        let owner = self.ledger.get(index as usize)?;
        if holder == 0 || owner.load(Ordering::Relaxed) != holder {
            return None;
        }
        owner.store(0, Ordering::Relaxed);
        Some(self.frame(index as u32))
    }

    /// How far behind the start of its chunk a received packet begins; what is no such address may give any number.
    #[inline(always)]
    pub fn start_of(&self, address: u64, frame: &Frame) -> u64 {
        let (base, start) = parts(address);
        (base + start).wrapping_sub(frame.offset() as u64)
    }

    /// Takes back everything lent to a holder whose device is closed.
    pub fn reclaim(&self, holder: Holder) -> impl Iterator<Item = Frame> + '_ {
        (0..self.frames as u64).filter_map(move |index| self.take_back(index * PAGE as u64, holder))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `create`, unmapped once.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.size()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_frame_comes_back_only_to_whom_it_was_lent_and_only_once() {
        let (memory, mut frames) = Memory::create(8, 2048).unwrap();
        let address = memory.lend(frames.pop().unwrap(), 3);
        assert!(memory.take_back(address, 2).is_none());
        assert!(memory.take_back(1 << 40, 3).is_none());
        assert_eq!(memory.take_back(address + 256, 3).map(|f| f.index()), Some(7));
        assert!(memory.take_back(address, 3).is_none());
    }

    #[test]
    fn chunks_lie_in_pages_of_their_own_and_begin_all_over_them() {
        for (frame_size, places) in [(2048, 32), (4096, 1)] {
            let (memory, frames) = Memory::create(1024, frame_size).unwrap();
            let (mut first_level, mut second_level) = (BTreeSet::new(), BTreeSet::new());
            for (index, frame) in frames.iter().enumerate() {
                let (page, start) = (frame.offset() / PAGE, frame.offset() % PAGE);
                assert_eq!((page, frame.index() as usize), (index, index));
                assert!(start.is_multiple_of(LINE) && start + memory.frame_size() <= PAGE);
                first_level.insert(start);
                second_level.insert((page % 32, start));
            }
            assert_eq!((first_level.len(), second_level.len()), (places, 32 * places));
            assert_eq!(memory.is_unaligned(), places > 1);
        }
    }

    #[test]
    fn a_received_address_says_where_in_its_chunk_a_packet_begins() {
        let (memory, mut frames) = Memory::create(8, 2048).unwrap();
        let chunk = memory.lend(frames.pop().unwrap(), 3);
        assert!(chunk > 7 * PAGE as u64, "in the middle of its page");
        let frame = memory.take_back(chunk | 256 << ADDRESS_BITS, 3).unwrap();
        for (address, start) in [(chunk | 256 << ADDRESS_BITS, 256), (chunk + 300, 300), (chunk, 0)] {
            assert_eq!(memory.start_of(address, &frame), start);
        }
        assert!(memory.start_of(chunk - 1, &frame) > PAGE as u64, "in front of it");
    }

    #[test]
    fn a_link_to_what_is_no_frame_leads_nowhere() {
        let (memory, frames) = Memory::create(4, 2048).unwrap();
        assert_eq!(memory.linked(frames[3].0.get()), Some(memory.frame(3)));
        for next in [0, frames[3].0.get() + 1, 5 * LINES, u32::MAX] {
            assert_eq!(memory.linked(next), None);
        }
    }

    #[test]
    fn closing_reclaims_everything_lent() {
        let (memory, frames) = Memory::create(8, 2048).unwrap();
        for frame in frames {
            let holder = 1 + (frame.index() % 2) as u8;
            memory.lend(frame, holder);
        }
        assert_eq!(memory.reclaim(2).count(), 4);
        assert_eq!(memory.reclaim(2).count(), 0);
    }

    #[test]
    fn a_chain_reads_in_order() {
        let (memory, frames) = Memory::create(8, 2048).unwrap();
        let filled = frames.into_iter().take(4).map(|mut frame| {
            let tag = frame.index() as u8;
            memory.bytes_mut(&mut frame, 256, 10).fill(tag);
            (frame, 256u16, 10u16)
        });
        let packet = memory.join(filled.collect::<Vec<_>>().into_iter()).unwrap();
        assert_eq!((packet.head_size(), packet.total_size()), (10, 40));
        let bytes: Vec<u8> = memory.chain(&packet).flatten().copied().collect();
        assert_eq!(bytes, [[0; 10], [1; 10], [2; 10], [3; 10]].concat());
    }
}
