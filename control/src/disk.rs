//! Small files, most of them JSON, that survive a crash: a file is either the old or the new one, whole. It must not know
//! what they say.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("cannot write {path}: {source}; see that the state directory exists and has room")]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is damaged ({source}): if you know what it was for, remove it and start again")]
    Damaged { path: PathBuf, source: serde_json::Error },
}

/// Extension of what is not whole yet.
pub const DRAFT: &str = "draft";

/// Replaces the file; on return it is on the disk.
pub fn write(path: &Path, value: &impl Serialize) -> Result<(), DiskError> {
    let fail = |source| DiskError::Write { path: path.to_owned(), source };
    let bytes = serde_json::to_vec_pretty(value).map_err(|error| fail(error.into()))?;
    put(path, &bytes, 0o644).map_err(fail)
}

/// The same for any bytes, with these permissions.
pub fn put(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let draft = path.with_extension(DRAFT);
    let mut file = File::create(&draft)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    sync_parent(path)
}

/// None if there is no such file.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, DiskError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(DiskError::Read { path: path.to_owned(), source }),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|source| DiskError::Damaged { path: path.to_owned(), source })
}

/// Removes the file if it is there.
pub fn remove(path: &Path) -> Result<(), DiskError> {
    match fs::remove_file(path).and_then(|()| sync_parent(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(DiskError::Write { path: path.to_owned(), source }),
        Ok(()) => Ok(()),
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}
