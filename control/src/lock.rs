//! There is one control process of a run directory, and none while `fairway uninstall` works there. It must not start
//! anything.

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("cannot make {path}: {source}")]
    Make { path: PathBuf, source: io::Error },
    #[error("another fairway-control holds {0}: stop it, or give another --run-dir")]
    Held(PathBuf),
    #[error("cannot lock {path}: {source}")]
    Lock { path: PathBuf, source: io::Error },
}

pub const FILE: &str = "control.lock";

/// Held as long as the file is open; gone with the process, whatever ends it.
pub fn take(run_dir: &Path) -> Result<File, LockError> {
    let path = run_dir.join(FILE);
    let file = File::create(&path).map_err(|source| LockError::Make { path: path.clone(), source })?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(LockError::Held(path)),
        Err(errno) => Err(LockError::Lock { path, source: errno.into() }),
    }
}
