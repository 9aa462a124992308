//! The processor's own clock, which costs a few nanoseconds to read where it can be had (x86_64: the TSC; elsewhere the
//! kernel's), and whether the kernel took the core away meanwhile. Must not decide what is measured.
#![allow(unsafe_code)] // an instruction and a system call that have no safe form

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Ticks since some point in the past. Threads on different cores see the same clock on every machine whose TSC Linux
/// itself would use; whoever subtracts saturates.
#[inline(always)]
pub fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reads a counter; Linux leaves it readable to all programs.
    let ticks = unsafe { std::arch::x86_64::_rdtsc() };
    #[cfg(not(target_arch = "x86_64"))]
    let ticks = kernel_ns();
    ticks
}

#[cfg(not(target_arch = "x86_64"))]
fn kernel_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Long enough for five digits of the rate, short enough to wait for at start.
const CALIBRATION: Duration = Duration::from_millis(10);

/// Ticks a second. Measured at the first call, which takes a while.
pub fn tick_hz() -> u64 {
    static HZ: OnceLock<u64> = OnceLock::new();
    *HZ.get_or_init(|| {
        let (ticks_before, before) = both();
        std::thread::sleep(CALIBRATION);
        let (ticks_after, after) = both();
        let hz = (ticks_after - ticks_before) as f64 / (after - before).as_secs_f64();
        hz.round().max(1.0) as u64
    })
}

/// Both clocks at one time: the pair that was read the fastest, so that no interrupt came between.
fn both() -> (u64, Instant) {
    let pair = |_| {
        let (before, now, after) = (ticks(), Instant::now(), ticks());
        (after.saturating_sub(before), before + after.saturating_sub(before) / 2, now)
    };
    let (_, ticks, now) = (0..16).map(pair).min_by_key(|(took, ..)| *took).unwrap_or((0, ticks(), Instant::now()));
    (ticks, now)
}

/// How often the kernel gave this thread's core to another one although it could have run on.
pub fn preemptions() -> u64 {
    // SAFETY: all-zero bytes are a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel fills in the record that the pointer leads to; RUSAGE_THREAD cannot fail.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, &mut usage) };
    usage.ru_nivcsw as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_make_seconds() {
        let (hz, start, ticks_before) = (tick_hz() as f64, Instant::now(), ticks());
        std::thread::sleep(Duration::from_millis(50));
        let (ticks_after, wall) = (ticks(), start.elapsed().as_secs_f64());
        let measured = (ticks_after - ticks_before) as f64 / hz;
        // The thread may have been kept from running between two reads.
        assert!((measured / wall - 1.0).abs() < 0.2, "{measured} s of ticks in {wall} s");
    }
}
