//! Packets on their way to another worker, at most a burst: they travel in the places that they are worked on in, so that none
//! is moved where they arrive. Beside each stands how far it has come.

use super::Stage;
use crate::packet::{BURST_MAX, Burst, Packet};
use tables::cpu::prefetch_to_write;

/// What is written to was read by another core before: it is fetched so many packets ahead.
const AHEAD: usize = 12;

const _: () = assert!(size_of::<Option<Packet>>() + size_of::<Stage>() <= 64);

#[derive(Debug)]
pub struct Batch {
    pub burst: Burst,
    stages: Vec<Stage>,
}

impl Default for Batch {
    fn default() -> Batch {
        Batch { burst: Burst::default(), stages: Vec::with_capacity(BURST_MAX) }
    }
}

impl Batch {
    pub fn len(&self) -> usize {
        self.stages.len()
    }

    pub fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    #[inline(always)]
    pub fn is_full(&self) -> bool {
        self.stages.len() >= BURST_MAX
    }

    /// Takes the packet out of its place. There must be one, and room.
    #[inline(always)]
    pub fn push(&mut self, place: &mut Option<Packet>, stage: Stage) {
        prefetch_to_write(self.stages.as_ptr().wrapping_add(self.len() + AHEAD).cast());
        self.burst.expect(AHEAD);
        self.burst.push_from(place);
        self.stages.push(stage);
    }

    /// It will be written to soon.
    pub fn expect(&self) {
        for at in (0..AHEAD).step_by(2) {
            prefetch_to_write(self.stages.as_ptr().wrapping_add(at).cast());
            self.burst.expect(at);
        }
    }

    /// The places of the packets, and how far each has come.
    #[inline(always)]
    pub fn parts(&mut self) -> (&mut Burst, &[Stage]) {
        (&mut self.burst, &self.stages)
    }

    /// Gives up all places, which must be empty by now.
    pub fn clear(&mut self) {
        self.burst.clear();
        self.stages.clear();
    }
}
