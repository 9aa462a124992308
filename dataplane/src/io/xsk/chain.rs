//! A packet that the kernel delivers in several buffers, until it is complete. Must not know rings.

use super::{Frame, FramePool, Memory, Packet};

/// Frames of one packet that every kernel takes in copy mode: CONFIG_MAX_SKB_FRAGS, at least 17, and its head (kernel:
/// Documentation/networking/af_xdp.rst). In zero-copy mode it is the NIC's to say; 5, which all are known to take, hold
/// 9,000 bytes behind a tunnel header.
pub const FRAMES_MAX: usize = 18;

/// The buffers so far.
#[derive(Debug)]
pub struct Chain {
    /// (frame, start, size)
    parts: Vec<(Frame, u16, u16)>,
    bytes: usize,
    open: bool,
    refused: bool,
}

impl Default for Chain {
    fn default() -> Chain {
        Chain { parts: Vec::with_capacity(FRAMES_MAX), bytes: 0, open: false, refused: false }
    }
}

impl Chain {
    /// Whether the next buffer goes on with a packet.
    #[inline(always)]
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// One more buffer. The packet is given up for if it cannot be one, or is larger than `bytes_max`.
    pub fn push(&mut self, pool: &mut FramePool, part: (Frame, u16, u16), is_sound: bool, bytes_max: usize) {
        self.open = true;
        self.bytes += part.2 as usize;
        self.refused |= !is_sound || self.bytes > bytes_max || self.parts.len() == FRAMES_MAX;
        if self.refused {
            pool.put(part.0);
            self.put_all(pool);
        } else {
            self.parts.push(part);
        }
    }

    /// That was the last one. None if the packet was given up for.
    pub fn finish(&mut self, memory: &Memory) -> Option<Packet> {
        (self.open, self.bytes) = (false, 0);
        let refused = std::mem::take(&mut self.refused);
        if refused { None } else { memory.join(self.parts.drain(..)) }
    }

    pub fn put_all(&mut self, pool: &mut FramePool) {
        self.parts.drain(..).for_each(|(frame, _, _)| pool.put(frame));
    }
}
