//! What a node's container runtime needs of Fairway: the plugin's program, and the configuration that names it. Each is put
//! in place whole or not at all, the configuration last. It must not touch what others put there.

use crate::cni::loopback;
use crate::disk;
use serde_json::{Value, json};
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// As in the configuration's `type`.
const PLUGIN: &str = "fairway-cni";
/// The first by name is the one that runtimes use.
const CONFIGURATION: &str = "05-fairway.conflist";

#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error("cannot read {path}: {source}; it is installed beside `fairway`")]
    Program { path: PathBuf, source: io::Error },
    #[error("cannot write {path}: {source}; name the runtime's directories with --cni-bin-dir and --cni-conf-dir")]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot remove {path}: {source}")]
    Remove { path: PathBuf, source: io::Error },
}

/// Where the runtime looks.
#[derive(Clone, Debug, clap::Args)]
pub struct CniPlaces {
    /// Directory of the runtime's CNI plugins.
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    pub cni_bin_dir: PathBuf,
    /// Directory of the runtime's CNI configurations.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub cni_conf_dir: PathBuf,
}

impl CniPlaces {
    fn program(&self) -> PathBuf {
        self.cni_bin_dir.join(PLUGIN)
    }

    fn loopback(&self) -> PathBuf {
        self.cni_bin_dir.join(loopback::NAME)
    }

    fn configuration(&self) -> PathBuf {
        self.cni_conf_dir.join(CONFIGURATION)
    }

    /// Puts the plugin in place, and then what names it, in this version of the CNI; says what it did.
    pub fn install(&self, version: &str, run_dir: &Path) -> Result<Vec<String>, InstallError> {
        let program = beside_this_program().and_then(|path| Ok((fs::read(&path)?, path)));
        let (program, from) = program.map_err(|source| InstallError::Program { path: PLUGIN.into(), source })?;
        let mut done = Vec::new();
        if put(&self.program(), &program, 0o755)? {
            done.push(format!("{} is {}", self.program().display(), from.display()));
        }
        if link_loopback(&self.loopback())? {
            done.push(format!("{} is {PLUGIN}, too: there was none", self.loopback().display()));
        }
        let text = format!("{:#}\n", configuration(version, run_dir));
        if put(&self.configuration(), text.as_bytes(), 0o644)? {
            done.push(format!("{} names it", self.configuration().display()));
        }
        Ok(done)
    }

    /// Takes both away, the configuration first, so that nobody is sent to a program that is gone.
    pub fn remove(&self) -> Result<Vec<String>, InstallError> {
        let mut done = Vec::new();
        let loopback = Some(self.loopback()).filter(|path| is_ours(path));
        for path in [Some(self.configuration()), loopback, Some(self.program())].into_iter().flatten() {
            if remove(&path)? {
                done.push(format!("removed {}", path.display()));
            }
        }
        Ok(done)
    }
}

fn beside_this_program() -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    Ok(program.with_file_name(PLUGIN))
}

fn configuration(version: &str, run_dir: &Path) -> Value {
    let capabilities = json!({ "ips": true, "mac": true, "portMappings": true, "bandwidth": true });
    let plugin = json!({ "type": PLUGIN, "runDir": run_dir, "capabilities": capabilities });
    json!({ "cniVersion": version, "name": "fairway", "plugins": [plugin] })
}

/// Runtimes want this plugin before any network, and many a node has none. One that is there is left as it is.
fn link_loopback(path: &Path) -> Result<bool, InstallError> {
    match symlink(PLUGIN, path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(source) => Err(InstallError::Write { path: path.to_owned(), source }),
    }
}

fn is_ours(loopback: &Path) -> bool {
    fs::read_link(loopback).is_ok_and(|to| to == Path::new(PLUGIN))
}

/// False if it was there just so.
fn put(path: &Path, bytes: &[u8], mode: u32) -> Result<bool, InstallError> {
    if fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(false);
    }
    let made = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| disk::put(path, bytes, mode));
    made.map(|()| true).map_err(|source| InstallError::Write { path: path.to_owned(), source })
}

/// False if it was not there; a draft of a killed run goes, too.
fn remove(path: &Path) -> Result<bool, InstallError> {
    let _ = fs::remove_file(path.with_extension(disk::DRAFT));
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(InstallError::Remove { path: path.to_owned(), source }),
    }
}
