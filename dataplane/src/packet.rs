//! A packet: one head frame that holds all headers contiguously, and up to 17 more frames of payload chained behind it.
//! Moved, never copied; its start slides, its payload stays. A burst is up to 64 of them. No bytes are touched here:
//! that is `io::frames`' part (access) and `rewrite`'s (writing).

use crate::io::frames::Frame;

/// Packets handled together.
pub const BURST_MAX: usize = 64;
/// Frames of one packet: the head and 17 more carry a 64 KiB super-frame in 4 KiB chunks; with 2 KiB chunks up to
/// twice as many are chained.
pub const FRAMES_PER_PACKET_MAX: usize = 36;
/// Bytes of a super-frame with its Ethernet header: IP's 65,535 and 14.
pub const PACKET_BYTES_MAX: usize = 65_549;

/// Whether the layer-4 checksum in the packet is complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// Complete, and not looked at by anybody we trust.
    #[default]
    Unverified,
    /// Complete and known to be right: made on this host, or verified.
    Valid,
    /// The field holds the uncomplemented pseudo-header sum (virtio 1.2, 5.1.6.2); whoever puts the packet on a wire
    /// sums from `start` (bytes from the packet's start) and stores at `start + offset`.
    Partial { start: u16, offset: u16 },
}

/// What a super-frame is to be cut into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gso {
    #[default]
    None,
    /// TCP segments of that many payload bytes.
    Tcp4(u16),
    Tcp6(u16),
    /// UDP datagrams of that many payload bytes (virtio USO).
    Udp(u16),
}

impl Gso {
    pub fn size(self) -> Option<u16> {
        match self {
            Gso::None => None,
            Gso::Tcp4(size) | Gso::Tcp6(size) | Gso::Udp(size) => Some(size),
        }
    }
}

/// One packet. Holds its frames exclusively; give them back with `FramePool::put_packet`.
#[derive(Debug)]
#[must_use = "a dropped packet leaks its frames: send it or give it back to the pool"]
pub struct Packet {
    pub(crate) head: Frame,
    /// Offset of the first byte in the head frame.
    pub(crate) start: u16,
    /// Bytes in the head frame.
    pub(crate) size: u16,
    /// First of the further frames.
    pub(crate) rest: Option<Frame>,
    /// Bytes in the further frames.
    pub(crate) rest_size: u32,
    /// The interface it came in by.
    pub interface: u32,
    pub checksum: Checksum,
    pub gso: Gso,
    /// Of a TCP super-frame: congestion was seen, so only its first segment keeps CWR (virtio's GSO_ECN).
    pub gso_ecn: bool,
}

impl Packet {
    /// A packet of one frame: `size` bytes at `start`.
    pub fn new(head: Frame, start: u16, size: u16) -> Packet {
        let (checksum, gso) = (Checksum::default(), Gso::None);
        Packet { head, start, size, rest: None, rest_size: 0, interface: 0, checksum, gso, gso_ecn: false }
    }

    /// All bytes, headers included.
    #[inline(always)]
    pub fn total_size(&self) -> usize {
        self.size as usize + self.rest_size as usize
    }

    /// Bytes in the head frame.
    #[inline(always)]
    pub fn head_size(&self) -> usize {
        self.size as usize
    }

    /// All of it is in one frame, and nothing about it is left to be done before it is on a wire.
    #[inline(always)]
    pub fn is_simple(&self) -> bool {
        self.rest.is_none() && self.gso == Gso::None && !matches!(self.checksum, Checksum::Partial { .. })
    }

    /// Its head frame, and the offset of its first byte there.
    #[inline(always)]
    pub fn head(&self) -> (&Frame, u16) {
        (&self.head, self.start)
    }

    pub fn is_chained(&self) -> bool {
        self.rest.is_some()
    }

    /// Bytes free before the packet's start.
    #[inline(always)]
    pub fn headroom(&self) -> usize {
        (self.start as usize).saturating_sub(crate::io::frames::LINK_BYTES)
    }

    /// Slides the start forward over `bytes` of outer headers. False, and nothing done, if there are not so many.
    #[inline(always)]
    pub fn pop_front(&mut self, bytes: usize) -> bool {
        if bytes > self.size as usize {
            return false;
        }
        self.start += bytes as u16;
        self.size -= bytes as u16;
        if let Checksum::Partial { start, .. } = &mut self.checksum {
            *start = start.saturating_sub(bytes as u16);
        }
        true
    }

    /// Slides the start back to make room for outer headers. False, and nothing done, if the headroom is too small.
    #[inline(always)]
    pub fn push_front(&mut self, bytes: usize) -> bool {
        if bytes > self.headroom() {
            return false;
        }
        self.start -= bytes as u16;
        self.size += bytes as u16;
        if let Checksum::Partial { start, .. } = &mut self.checksum {
            *start += bytes as u16;
        }
        true
    }

    /// Makes a packet of one frame at least `size` bytes long, as far as its chunk of `frame_size` goes. What stands in the
    /// new bytes is undefined: the caller writes them.
    pub fn extend(&mut self, size: usize, frame_size: usize) {
        let room = frame_size.saturating_sub(self.start as usize);
        if self.rest.is_none() {
            self.size = self.size.max(size.min(room) as u16);
        }
    }

    /// Cuts a packet of one frame to `size` bytes (Ethernet padding).
    pub fn truncate(&mut self, size: usize) {
        if self.rest.is_none() && size < self.size as usize {
            self.size = size as u16;
        }
    }
}

/// Up to [`BURST_MAX`] packets, in order. Its memory is taken once. While a burst is worked on, packets stay in their
/// places until each has come to its end; a burst that is handed on has no empty place.
#[derive(Debug)]
pub struct Burst {
    places: Vec<Option<Packet>>,
}

impl Default for Burst {
    fn default() -> Burst {
        Burst { places: Vec::with_capacity(BURST_MAX) }
    }
}

impl Burst {
    /// One without room, which stands where another one was taken from.
    pub fn none() -> Burst {
        Burst { places: Vec::new() }
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.places.len() >= BURST_MAX
    }

    pub fn room(&self) -> usize {
        BURST_MAX - self.places.len()
    }

    /// Gives the packet back if the burst is full.
    #[inline(always)]
    pub fn push(&mut self, packet: Packet) -> Result<(), Packet> {
        if self.is_full() {
            return Err(packet);
        }
        self.places.push(Some(packet));
        Ok(())
    }

    /// Takes all that is in another one, for which there must be room.
    #[inline(always)]
    pub fn append(&mut self, other: &mut Burst) {
        debug_assert!(other.len() <= self.room());
        self.places.append(&mut other.places);
    }

    /// Keeps these places alone, in order; all others must be empty.
    #[inline(always)]
    pub fn close_ranks(&mut self, places: impl ExactSizeIterator<Item = usize>) {
        let count = places.len();
        places.enumerate().for_each(|(at, from)| self.places.swap(at, from));
        debug_assert!(self.places[count..].iter().all(Option::is_none), "a packet was forgotten");
        self.places.truncate(count);
    }

    /// Takes a packet out of another place, for which there must be room here. Not looked at: it is moved as a whole.
    #[inline(always)]
    pub fn push_from(&mut self, place: &mut Option<Packet>) {
        debug_assert!(!self.is_full() && place.is_some());
        self.places.push(place.take());
    }

    /// The same with their places.
    pub fn drain_all(&mut self) -> std::vec::Drain<'_, Option<Packet>> {
        self.places.drain(..)
    }

    /// Takes all packets out, in order.
    #[inline(always)]
    pub fn drain(&mut self) -> impl Iterator<Item = Packet> + '_ {
        self.places.drain(..).flatten()
    }

    /// Takes the first `count` packets out.
    #[inline(always)]
    pub fn drain_front(&mut self, count: usize) -> impl Iterator<Item = Packet> + '_ {
        let count = count.min(self.places.len());
        self.places.drain(..count).flatten()
    }

    /// Offers every packet, in order; what is not given back has come to its end.
    pub fn retain(&mut self, mut keep: impl FnMut(Packet) -> Option<Packet>) {
        self.places.retain_mut(|place| {
            *place = place.take().and_then(&mut keep);
            place.is_some()
        });
    }

    pub fn iter(&self) -> impl Iterator<Item = &Packet> {
        self.places.iter().flatten()
    }

    /// The places, for whoever works on them; take the packets out, then [`clear`](Self::clear).
    pub fn places_mut(&mut self) -> &mut [Option<Packet>] {
        &mut self.places
    }

    /// Gives up the places, which must be empty by now.
    pub fn clear(&mut self) {
        debug_assert!(self.places.iter().all(Option::is_none), "a packet was forgotten");
        self.places.clear();
    }
}
