//! Which cores there are, and which of them measures. Must be asked before a thread is pinned: later it sees one only.

use anyhow::{Context, Result};
use core_affinity::CoreId;
use std::sync::OnceLock;

/// All cores that this program may use, the measuring one last.
pub fn all() -> &'static [CoreId] {
    static CORES: OnceLock<Vec<CoreId>> = OnceLock::new();
    CORES.get_or_init(|| {
        let mut cores = core_affinity::get_core_ids().unwrap_or_default();
        cores.sort_by_key(|core| core.id);
        cores
    })
}

/// The measuring thread's core.
pub fn measuring() -> Result<CoreId> {
    all().last().copied().context("no core is known")
}

/// A core that the measuring thread does not use.
pub fn other() -> Result<CoreId> {
    all().first().filter(|_| all().len() > 1).copied().context("this needs a second core")
}

/// Pins this thread to the last core: interrupts and other work tend to be on the first.
pub fn pin_to_last() -> Option<usize> {
    let core = *all().last()?;
    core_affinity::set_for_current(core).then_some(core.id)
}
