//! A directory of Kubernetes objects in YAML and JSON, read and then followed. The only file of this half of control
//! that does I/O.
//!
//! What cannot be read changes nothing: the last good version of every object in that file stays in force until the file
//! can be read again or is gone. Policies are closed instead ([`policies`]). Names that begin with a dot, and everything
//! but `.yaml`, `.yml` and `.json`, is not looked at, which leaves out what editors write on the way. What Fairway itself
//! says of objects stands beside them in the directory [`status::DIRECTORY`]: it never writes to the objects' own files.

mod documents;
mod locate;
pub mod parse;
mod policies;
mod reader;
mod scan;
pub mod status;
#[cfg(test)]
mod tests;
pub(crate) mod typed;
mod watch;

use crate::object::ObjectChange;
use crate::state::Status;
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// Updates that may wait; the reader stops reading files when so many do.
const UPDATES_WAITING_MAX: usize = 16;

/// Why a file, or a part of it, is not in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileProblem {
    pub path: PathBuf,
    /// Line and column count from 1, where known.
    pub line: Option<u64>,
    pub column: Option<u64>,
    /// Names the field, if it is about one.
    pub message: String,
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        for number in [self.line, self.column].into_iter().flatten() {
            write!(f, ":{number}")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// What a look at the directory brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    pub changes: Vec<ObjectChange>,
    /// What stands beside the objects about services' load balancers.
    pub statuses: Vec<Status>,
    /// Everything that is wrong now, not only what is new.
    pub problems: Vec<FileProblem>,
}

/// "cannot follow the directory"
#[derive(Debug, thiserror::Error)]
#[error("cannot follow the objects in {path}: {source}; create the directory or name another one with --objects")]
pub struct DirectoryError {
    path: PathBuf,
    source: notify::Error,
}

/// A directory that is being followed until this is dropped.
pub struct Directory {
    updates: mpsc::Receiver<Update>,
    /// Its end ends the thread that reads.
    _watcher: watch::Watcher,
}

impl Directory {
    /// Begins to follow a directory. The first update is the complete first read.
    pub fn open(path: &Path) -> Result<Directory, DirectoryError> {
        let (sender, updates) = mpsc::channel(UPDATES_WAITING_MAX);
        let watcher = watch::follow(path, sender).map_err(|source| DirectoryError { path: path.to_owned(), source })?;
        Ok(Directory { updates, _watcher: watcher })
    }

    /// The next update; waits for ever if there is none. May be cancelled without loss.
    pub async fn next(&mut self) -> Update {
        match self.updates.recv().await {
            Some(update) => update,
            // Only when the reading thread died, whose panic says why.
            None => std::future::pending().await,
        }
    }
}
