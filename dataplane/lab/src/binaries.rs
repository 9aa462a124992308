//! Finds Fairway's programs and tells one that is not built from one that fails.
//!
//! "Not built" is always observed, never assumed: the file is missing, or the program does not
//! know what it is asked for.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::shell::Cmd;

/// Something that this build of Fairway cannot do yet.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotBuilt(pub String);

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Binaries {
    directory: PathBuf,
    agent: PathBuf,
}

impl Binaries {
    /// `FAIRWAY_BIN_DIR` if set, else beside the running program (a test runs one level below).
    pub fn find() -> Result<Self> {
        let beside = beside_this_program()?;
        let directory = match std::env::var_os("FAIRWAY_BIN_DIR") {
            Some(directory) => std::fs::canonicalize(&directory)
                .with_context(|| format!("FAIRWAY_BIN_DIR={} cannot be used", directory.display()))?,
            None => beside.clone(),
        };
        let agent = beside.join("fairway-demo");
        anyhow::ensure!(agent.exists(), "{} is missing: run `cargo build --release --workspace`", agent.display());
        Ok(Binaries { directory, agent })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The lab's own helper programs: sub-commands of the demo.
    pub fn agent(&self) -> &Path {
        &self.agent
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The program, if its help names what is needed of it.
    pub fn require(&self, name: &str, option: &str) -> Result<PathBuf> {
        let path = self.path(name);
        if !path.exists() {
            return Err(NotBuilt(format!("{} is missing", path.display())).into());
        }
        let help = Cmd::new(&path).arg("--help").run()?;
        if !help.stdout.contains(option) && !help.stderr.contains(option) {
            return Err(NotBuilt(format!("`{name} --help` does not know `{option}`")).into());
        }
        Ok(path)
    }
}

fn beside_this_program() -> Result<PathBuf> {
    let program = std::env::current_exe().context("where is this program?")?;
    let directory = program.parent().context("this program has no directory")?;
    let is_test = directory.file_name().is_some_and(|name| name == "deps");
    Ok(if is_test { directory.parent().unwrap_or(directory) } else { directory }.to_path_buf())
}
