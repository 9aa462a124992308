//! Waiting for something to become true, and the clock that requests are stamped with.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Pause between two looks: short against every limit that a section measures.
const LOOK: Duration = Duration::from_millis(10);

/// Looks until `true` or until the limit is over; says which.
pub fn until(limit: Duration, mut look: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if look() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(LOOK);
    }
}

/// Microseconds since 1970, the same in every process of the lab.
pub fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_micros() as u64).unwrap_or(0)
}

pub fn sleep_ms(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}
