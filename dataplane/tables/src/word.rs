//! One 64-bit word shared between threads or processes, and the fence that goes with it. A trait, so that the publish
//! and the sleep/wake code runs unchanged over the machine's atomics and under loom's.

use std::sync::atomic::{AtomicU64, Ordering};

pub trait Word {
    fn load(&self, order: Ordering) -> u64;
    fn store(&self, value: u64, order: Ordering);
    /// A sequentially consistent fence of the same memory model.
    fn fence();
}

impl Word for AtomicU64 {
    #[inline(always)]
    fn load(&self, order: Ordering) -> u64 {
        AtomicU64::load(self, order)
    }

    #[inline(always)]
    fn store(&self, value: u64, order: Ordering) {
        AtomicU64::store(self, value, order)
    }

    #[inline(always)]
    fn fence() {
        std::sync::atomic::fence(Ordering::SeqCst)
    }
}

/// Adds to a word that only the caller writes: a load and a store, no locked instruction.
#[inline(always)]
pub fn add_single_writer(word: &AtomicU64, by: u64) {
    word.store(AtomicU64::load(word, Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}
