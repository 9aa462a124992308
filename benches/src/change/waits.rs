//! How long a thread was kept from running by others, so that what a busy machine adds can be set apart. Must not judge.

use anyhow::{Context, Result};
use rustix::thread::gettid;

/// One thread of this process; any other may ask about it.
pub struct Waits {
    file: String,
}

impl Waits {
    pub fn of_this_thread() -> Waits {
        Waits { file: format!("/proc/self/task/{}/schedstat", gettid().as_raw_nonzero()) }
    }

    /// Since the thread began: it was ready, and others ran. A wait counts when it is over.
    pub fn ns(&self) -> Result<u64> {
        let text = std::fs::read_to_string(&self.file).with_context(|| format!("cannot read {}", self.file))?;
        waited(&text).with_context(|| format!("{} holds no times: {text:?}", self.file))
    }
}

/// The second number: "time spent waiting on a runqueue", in ns (Documentation/scheduler/sched-stats.rst).
fn waited(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_on_the_run_queue_is_the_second_number() {
        assert_eq!(waited("113281 3304650 2\n"), Some(3_304_650));
        assert_eq!(waited("113281"), None);
        let ours = Waits::of_this_thread();
        assert!(std::thread::scope(|scope| scope.spawn(|| ours.ns()).join()).unwrap().is_ok());
    }
}
