//! One lab for all tests of a file, one test at a time: it is slow to come up and quick to ask.

use crate::Lab;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A lab that the first test brings up. Left to the guard's watch at the end, as statics are.
pub struct Shared {
    start: fn() -> anyhow::Result<Lab>,
    /// Why it did not come up, if it did not.
    lab: Mutex<Option<Result<Lab, String>>>,
}

impl Shared {
    pub const fn new(start: fn() -> anyhow::Result<Lab>) -> Shared {
        Shared { start, lab: Mutex::new(None) }
    }

    /// The lab for this test alone; a test that failed before does not matter.
    #[track_caller]
    pub fn enter(&'static self) -> Entered {
        let mut lab = self.lab.lock().unwrap_or_else(PoisonError::into_inner);
        let started = lab.get_or_insert_with(|| (self.start)().map_err(|error| format!("{error:#}")));
        if let Err(why) = started {
            panic!("the lab did not come up: {why}");
        }
        Entered(lab)
    }
}

/// The lab, until the test ends.
pub struct Entered(MutexGuard<'static, Option<Result<Lab, String>>>);

impl Deref for Entered {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        self.0.as_ref().and_then(|lab| lab.as_ref().ok()).expect("it is up")
    }
}

impl DerefMut for Entered {
    fn deref_mut(&mut self) -> &mut Lab {
        self.0.as_mut().and_then(|lab| lab.as_mut().ok()).expect("it is up")
    }
}
