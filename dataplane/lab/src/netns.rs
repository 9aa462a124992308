//! One network namespace of the lab, by its name under /run/netns.
//!
//! Removing what a dead lab left is the guard's work: a `Netns` going out of scope does nothing.

use std::fs::File;
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::shell::{Cmd, Ran};

/// A network namespace that this lab made.
#[derive(Clone, Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes the namespace and brings its loopback up, as a container runtime does.
    pub fn create(name: &str) -> Result<Self> {
        Cmd::line(&format!("ip netns add {name}")).ok()?;
        let netns = Netns { name: name.to_string() };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace.
    pub fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Runs `ip` on this namespace.
    pub fn ip(&self, arguments: &str) -> Result<Ran> {
        Cmd::line(&format!("ip -n {} {arguments}", self.name)).ok()
    }

    /// Sets one `net.*` value; these belong to the namespace that the writer is in.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        Cmd::line("sysctl -qw").arg(format!("{key}={value}")).netns(self).ok().map(|_| ())
    }

    /// Does something on a thread that is inside: a socket made there stays a socket of this namespace.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let namespace = File::open(self.path()).with_context(|| self.path())?;
        let enter_and_work = || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        };
        std::thread::scope(|scope| scope.spawn(enter_and_work).join().expect("the work does not panic"))
    }

    pub fn remove(self) -> Result<()> {
        Cmd::line(&format!("ip netns del {}", self.name)).ok().map(|_| ())
    }
}
