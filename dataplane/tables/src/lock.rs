//! There is one process of a kind at a place: whoever has a file open and locked. It must not start or wait for anything.

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::path::Path;

/// Held as long as the file is open; gone with the process, whatever ends it. None: another process holds it.
pub fn take(path: &Path) -> io::Result<Option<File>> {
    let file = File::create(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_has_it_and_the_next_one_when_that_is_gone() {
        let path = std::env::temp_dir().join(format!("fairway-lock-{}", std::process::id()));
        let first = take(&path).unwrap();
        assert!(first.is_some() && take(&path).unwrap().is_none());
        drop(first);
        assert!(take(&path).unwrap().is_some());
        std::fs::remove_file(path).unwrap();
    }
}
