//! What a processor does better if told in its own terms: fetching ahead, comparing sixteen bytes at once, wider vectors
//! where it has them. Hints and plain arithmetic; each has a portable form beside it. Must not know what the bytes mean.
#![allow(unsafe_code)] // vendor intrinsics

use std::sync::atomic::AtomicU32;
#[cfg(any(test, not(target_arch = "x86_64")))]
use std::sync::atomic::Ordering;

/// Cache lines that may be on their way to the first-level cache when one more is asked for. A processor has few places for
/// them (AMD's Zen 4: about sixteen before the first hints are lost), and drops hints that find none: who asks for more at
/// once gets less.
pub const LINES_AT_ONCE: usize = 16;

/// Asks the processor to fetch what is about to be read: a hint, nothing else.
#[inline(always)]
pub fn prefetch<T>(value: &T) {
    prefetch_at(std::ptr::from_ref(value).cast());
}

/// The same of what is read after many others, all of which are asked for at once: into the second-level cache, which has
/// places for many more on their way (Zen 4: for two lines of each of 64 packets). Not for what is written soon: asked for
/// in this way where a new flow will stand, it takes longer.
#[inline(always)]
pub fn prefetch_far<T>(value: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which never faults; SSE is part of x86_64.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(value.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// As `prefetch`, of any address, which need not even exist.
#[inline(always)]
pub fn prefetch_at(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which never faults; SSE is part of x86_64.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// The same of what is about to be written: other cores lose it now, and not only when it is written.
#[inline(always)]
pub fn prefetch_to_write(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which never faults; 64-bit processors that do not know it take it for no operation. The intrinsic
    // becomes a plain fetch unless all is compiled for newer processors.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// A bit for each byte that equals `wanted`, bit 0 for the first.
#[inline(always)]
pub fn equal_bytes(bytes: &[u8; 16], wanted: u8) -> u16 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE2 is part of x86_64; the load is of 16 valid bytes at any alignment.
    unsafe {
        use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi8};
        let lanes = _mm_loadu_si128(bytes.as_ptr().cast());
        _mm_movemask_epi8(_mm_cmpeq_epi8(lanes, _mm_set1_epi8(wanted as i8))) as u16
    }
    #[cfg(not(target_arch = "x86_64"))]
    equal_bytes_portable(bytes, wanted)
}

#[cfg(any(test, not(target_arch = "x86_64")))]
fn equal_bytes_portable(bytes: &[u8; 16], wanted: u8) -> u16 {
    bytes.iter().enumerate().fold(0, |bits, (i, &byte)| bits | ((byte == wanted) as u16) << i)
}

/// A bit for each of twelve words that equals `wanted`, bit 0 for the first.
#[inline(always)]
pub fn equal_words(words: &[u32; 12], wanted: u32) -> u16 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE2 is part of x86_64; the loads are of 48 valid bytes at any alignment.
    unsafe {
        use std::arch::x86_64::{
            _mm_cmpeq_epi32, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16, _mm_packs_epi32, _mm_set1_epi32,
            _mm_setzero_si128,
        };
        let wanted = _mm_set1_epi32(wanted as i32);
        let equal = |at: usize| _mm_cmpeq_epi32(_mm_loadu_si128(words.as_ptr().add(at).cast()), wanted);
        let (first, last) = (_mm_packs_epi32(equal(0), equal(4)), _mm_packs_epi32(equal(8), _mm_setzero_si128()));
        _mm_movemask_epi8(_mm_packs_epi16(first, last)) as u16
    }
    #[cfg(not(target_arch = "x86_64"))]
    equal_words_portable(words, wanted)
}

#[cfg(any(test, not(target_arch = "x86_64")))]
fn equal_words_portable(words: &[u32; 12], wanted: u32) -> u16 {
    words.iter().enumerate().fold(0, |bits, (i, &word)| bits | ((word == wanted) as u16) << i)
}

/// Plain work on many values.
pub trait Work {
    /// To be inlined always: it is compiled for what the caller may use.
    fn run(self);
}

/// Does it by the widest vectors that pay, where the processor has them: it is compiled once for these, and once for any.
#[inline(always)]
pub fn widest(work: impl Work) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has it.
        return unsafe { by_avx2(work) };
    }
    work.run();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn by_avx2(work: impl Work) {
    work.run();
}

/// A bit for each of four ranges that holds `at`: the firsts of all of them, then what each ends before.
#[inline(always)]
pub fn holding_ranges(bounds: &[AtomicU32; 8], at: i32) -> u32 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reads the 32 bytes of `bounds` and nothing else. SSE2 is part of x86_64. Others may write there meanwhile: that
    // is why it is no intrinsic, which would have to be the only one; each bound is read as a whole.
    unsafe {
        let found: u32;
        std::arch::asm!(
            "movd {at}, {at_word:e}",
            "pshufd {at}, {at}, 0",
            "movdqu {firsts}, [{bounds}]",
            "movdqu {ends}, [{bounds} + 16]",
            "pcmpgtd {firsts}, {at}",
            "pcmpgtd {ends}, {at}",
            "pandn {firsts}, {ends}",
            "movmskps {found:e}, {firsts}",
            bounds = in(reg) bounds.as_ptr(),
            at_word = in(reg) at,
            at = out(xmm_reg) _,
            firsts = out(xmm_reg) _,
            ends = out(xmm_reg) _,
            found = lateout(reg) found,
            options(pure, readonly, nostack, preserves_flags),
        );
        found
    }
    #[cfg(not(target_arch = "x86_64"))]
    holding_ranges_portable(bounds, at)
}

#[cfg(any(test, not(target_arch = "x86_64")))]
fn holding_ranges_portable(bounds: &[AtomicU32; 8], at: i32) -> u32 {
    let bound = |i: usize| bounds[i].load(Ordering::Relaxed) as i32;
    (0..4).fold(0, |bits, i| bits | u32::from(bound(i) <= at && at < bound(4 + i)) << i)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_looking_into_ranges_agree() {
        let values = [i32::MIN, -1, 0, 1, 2, 3, i32::MAX - 1, i32::MAX];
        for seed in 0..1u64 << 12 {
            let random = |i: u32| seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(8 * i) as usize & 7;
            let bounds: [AtomicU32; 8] = std::array::from_fn(|i| AtomicU32::new(values[random(i as u32)] as u32));
            for at in values {
                assert_eq!(holding_ranges(&bounds, at), holding_ranges_portable(&bounds, at), "{bounds:?} {at}");
            }
        }
        let ranges = [1, 5, 7, 9, 5, 6, 9, 9].map(AtomicU32::new);
        assert_eq!([0, 1, 4, 5, 6, 8, 9].map(|at| holding_ranges(&ranges, at)), [0, 1, 1, 2, 0, 4, 0]);
    }

    #[test]
    fn both_ways_of_comparing_agree() {
        for seed in 0..=255u8 {
            let bytes: [u8; 16] = std::array::from_fn(|i| (i as u8).wrapping_mul(seed) & 7);
            assert_eq!(equal_bytes(&bytes, seed & 7), equal_bytes_portable(&bytes, seed & 7));
        }
        assert_eq!(equal_bytes(&[9; 16], 9), u16::MAX);
    }

    #[test]
    fn both_ways_of_comparing_words_agree() {
        for seed in 0..1 << 12u32 {
            let words = std::array::from_fn(|i| if seed >> i & 1 == 1 { 0x8000_0001 } else { 1 << i });
            for wanted in [0x8000_0001, 1, 0] {
                assert_eq!(equal_words(&words, wanted), equal_words_portable(&words, wanted));
            }
            assert_eq!(equal_words(&words, 0x8000_0001), seed as u16);
        }
    }
}
