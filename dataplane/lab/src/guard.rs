//! Leaves nothing behind, however the lab ends.
//!
//! A watcher process holds the other end of a pipe. When the lab is dropped, interrupted or
//! killed, the pipe closes and the watcher removes everything that carries the lab's prefix.
//! Should the watcher be killed too, the next lab to start finds the directory of a lab whose
//! lock nobody holds, and removes it. There is only this one way to remove a lab.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

const SCRIPT: &str = include_str!("guard.sh");
/// Labs live here: only root writes it, and it does not outlive a restart of the machine.
const HOME: &str = "/run";
const PREFIX: &str = "fwlab-";
/// In the directory of a lab that was left up on purpose.
const KEPT: &str = "kept";

/// Holds the lab's name and directory for as long as it lives.
#[derive(Debug)]
pub struct Guard {
    id: String,
    directory: PathBuf,
    watcher: Child,
    lock: File,
}

impl Guard {
    /// Removes what dead labs left, then claims `wanted` or, if that is taken, a name of its own.
    pub fn claim(wanted: Option<&str>) -> Result<Self> {
        // Held while looking and claiming, so that nobody takes a half-made lab for a dead one.
        let home = File::open(HOME).with_context(|| format!("cannot open {HOME}"))?;
        home.lock()?;
        for stale in labs()?.into_iter().filter(|lab| lab.is_dead()) {
            stale.remove()?;
        }
        let own = format!("{:x}", std::process::id());
        let id = wanted.filter(|id| !directory_of(id).exists()).map_or_else(|| free_id(&own), str::to_string);
        Self::make(id)
    }

    fn make(id: String) -> Result<Self> {
        let directory = directory_of(&id);
        std::fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let lock = File::create(directory.join("lock"))?;
        lock.try_lock().context("the lock of a new lab is taken")?;
        let watcher = Command::new("setsid")
            .args(["sh", "-c", SCRIPT, "guard", "watch", &prefix_of(&id)])
            .arg(&directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .spawn()
            .context("cannot start the guard (sh, setsid)")?;
        Ok(Guard { id, directory, watcher, lock })
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The watcher's process id.
    pub fn watcher_pid(&self) -> u32 {
        self.watcher.id()
    }

    /// What every namespace of this lab begins with.
    pub fn prefix(&self) -> String {
        prefix_of(&self.id)
    }

    /// Leaves the lab up. It stays until [`remove`] is called for it.
    pub fn keep(mut self) -> Result<()> {
        File::create(self.directory.join(KEPT))?;
        let mut pipe = self.watcher.stdin.take().context("the guard is gone")?;
        writeln!(pipe, "keep")?;
        drop(pipe);
        self.watcher.wait()?;
        Ok(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.watcher.stdin.take());
        // The watcher has done its work, or has died and the next lab does it.
        let _ = self.watcher.wait();
        let _ = self.lock.unlock();
    }
}

/// Removes the named lab, or all kept and dead ones. Running ones are left alone. Says which went.
pub fn remove(id: Option<&str>) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for lab in labs()?.into_iter().filter(|lab| id.is_none_or(|id| lab.id == id)) {
        if lab.is_held() {
            continue;
        }
        lab.remove()?;
        removed.push(lab.id);
    }
    Ok(removed)
}

struct Found {
    id: String,
    directory: PathBuf,
}

impl Found {
    /// Somebody runs it now.
    fn is_held(&self) -> bool {
        File::open(self.directory.join("lock")).is_ok_and(|lock| lock.try_lock().is_err())
    }

    fn is_dead(&self) -> bool {
        !self.is_held() && !self.directory.join(KEPT).exists()
    }

    fn remove(&self) -> Result<()> {
        let status = Command::new("sh")
            .args(["-c", SCRIPT, "guard", "remove", &prefix_of(&self.id)])
            .arg(&self.directory)
            .stdin(Stdio::null())
            .status()?;
        if !status.success() {
            bail!("cannot remove what the lab {} left; see `ip netns list`", self.id);
        }
        Ok(())
    }
}

fn labs() -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(HOME)? {
        let entry = entry?;
        if let Some(id) = entry.file_name().to_str().and_then(|name| name.strip_prefix(PREFIX)) {
            found.push(Found { id: id.to_string(), directory: entry.path() });
        }
    }
    Ok(found)
}

fn free_id(own: &str) -> String {
    let ids = std::iter::once(own.to_string()).chain((1..).map(|n| format!("{own}{n}")));
    ids.into_iter().find(|id| !directory_of(id).exists()).unwrap_or_default()
}

fn directory_of(id: &str) -> PathBuf {
    Path::new(HOME).join(format!("{PREFIX}{id}"))
}

fn prefix_of(id: &str) -> String {
    format!("{PREFIX}{id}-")
}
