//! When to try again: longer after each failure, and never at the same time as other nodes.

use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    pub fn new(first: Duration, most: Duration) -> Backoff {
        Backoff { first, most, failures: 0 }
    }

    /// How often in a row it failed.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Another failure: what to wait now.
    pub fn failed(&mut self) -> Duration {
        let wait = self.first.saturating_mul(1 << self.failures.min(16)).min(self.most);
        self.failures += 1;
        spread(wait)
    }
}

/// From the given time on up to half as much more.
pub fn spread(time: Duration) -> Duration {
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    time + time.mul_f64((random % 1024) as f64 / 2048.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_most_and_begin_anew_after_a_success() {
        let (first, most) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new(first, most);
        let at_least = [100, 200, 400, 800, 1000, 1000].map(Duration::from_millis);
        for least in at_least {
            let wait = backoff.failed();
            assert!(least <= wait && wait <= least.mul_f64(1.5), "{wait:?} after {least:?}");
        }
        assert!((0..100).all(|_| backoff.failed() <= most.mul_f64(1.5)));
        backoff.succeeded();
        assert!(backoff.failed() < Duration::from_millis(151));
    }
}
