//! What puts Fairway on a node and takes it off again. These ask no control process; each says what it did, and does nothing
//! twice.

use crate::install::{CniPlaces, InstallError};
use crate::kube_proxy::{self, CleanupError};
use crate::uninstall::{Places, UninstallError};
use clap::{Args, ValueEnum};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("it changes the node and has to run as root: use sudo")]
    Root,
    #[error(transparent)]
    Install(#[from] InstallError),
    #[error(transparent)]
    Uninstall(#[from] UninstallError),
    #[error(transparent)]
    Cleanup(#[from] CleanupError),
    #[error("cannot start the event loop: {0}")]
    Loop(io::Error),
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
}

#[derive(Clone, Debug, Args)]
pub struct InstallCni {
    #[command(flatten)]
    pub places: CniPlaces,
    /// What the configuration says; containerd before 2.0 reads nothing newer than 1.0.0.
    #[arg(long, value_enum, default_value_t)]
    pub cni_version: CniVersion,
}

/// Versions with a list of plugins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum CniVersion {
    #[value(name = "0.3.1")]
    V031,
    #[value(name = "0.4.0")]
    V040,
    #[default]
    #[value(name = "1.0.0")]
    V100,
    #[value(name = "1.1.0")]
    V110,
}

impl InstallCni {
    pub fn run(&self, run_dir: &Path, out: &mut dyn Write) -> Result<(), SetupError> {
        let version = self.cni_version.to_possible_value().map(|value| value.get_name().to_owned());
        for sentence in self.places.install(&version.unwrap_or_default(), run_dir)? {
            writeln!(out, "{sentence}")?;
        }
        Ok(())
    }
}

#[derive(Clone, Debug, Args)]
pub struct Uninstall {
    #[command(flatten)]
    pub cni: CniPlaces,
    /// As given to fairway-control.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/fairway")]
    pub state_dir: PathBuf,
    /// Also while pods are attached, which have no network from then on.
    #[arg(long)]
    pub force: bool,
}

impl Uninstall {
    pub fn run(&self, run_dir: &Path, out: &mut dyn Write) -> Result<(), SetupError> {
        if !rustix::process::geteuid().is_root() {
            return Err(SetupError::Root);
        }
        let places = Places { run_dir: run_dir.to_owned(), state_dir: self.state_dir.clone(), cni: self.cni.clone() };
        let mut printed = Ok(());
        let mut say = |sentence: String| {
            if printed.is_ok() {
                printed = writeln!(out, "{sentence}");
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(SetupError::Loop)?;
        runtime.block_on(places.leave(self.force, &mut say))?;
        Ok(printed?)
    }
}

#[derive(Clone, Debug, Args)]
pub struct KubeProxyCleanup {
    /// Prints what would be run, and runs nothing.
    #[arg(long)]
    pub dry_run: bool,
}

impl KubeProxyCleanup {
    pub fn run(&self, out: &mut dyn Write) -> Result<(), SetupError> {
        if !rustix::process::geteuid().is_root() {
            return Err(SetupError::Root);
        }
        for step in kube_proxy::found()? {
            if self.dry_run {
                writeln!(out, "{}", step.typed())?;
            } else {
                step.run()?;
                writeln!(out, "removed {}", step.what)?;
            }
        }
        Ok(())
    }
}
