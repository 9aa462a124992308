//! There is one control process of a run directory, and none while `fairway uninstall` works there. It must not start
//! anything.

use crate::log;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("another fairway-control holds {0}: stop it, or give another --run-dir")]
    Held(PathBuf),
    #[error("cannot lock {path}: {source}")]
    Lock { path: PathBuf, source: io::Error },
}

pub const FILE: &str = "control.lock";

/// From one look to the next at whether the predecessor is gone.
const LOOK: Duration = Duration::from_millis(10);

/// Held as long as the file is open; gone with the process, whatever ends it.
pub fn take(run_dir: &Path) -> Result<File, LockError> {
    let path = run_dir.join(FILE);
    match tables::lock::take(&path) {
        Ok(Some(file)) => Ok(file),
        Ok(None) => Err(LockError::Held(path)),
        Err(source) => Err(LockError::Lock { path, source }),
    }
}

/// Waits until the one that holds it is gone.
pub async fn take_over(run_dir: &Path) -> Result<File, LockError> {
    let mut is_first = true;
    loop {
        match take(run_dir) {
            Err(LockError::Held(path)) if std::mem::take(&mut is_first) => {
                log(format_args!("another fairway-control holds {}: standing by to take its place", path.display()))
            }
            Err(LockError::Held(_)) => {}
            other => return other,
        }
        tokio::time::sleep(LOOK).await;
    }
}
