//! The `fairway` command line of one node: what the sections read from it, as types.
//!
//! Only the fields that a section judges are named; others may come and go.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::binaries::NotBuilt;
use crate::shell::{Cmd, Ran};

/// The exit code for a usage error: this build does not know the sub-command.
const USAGE: i32 = 2;

/// Asks one node's control process.
#[derive(Clone, Debug)]
pub struct Fairway {
    program: PathBuf,
    run_dir: PathBuf,
}

/// `fairway status -o json`
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// The last published generation.
    pub generation: u64,
    /// `connected` or `gone`.
    pub dataplane: String,
    #[serde(default)]
    pub workers: Vec<Worker>,
    #[serde(default)]
    pub uplink: Uplink,
    /// Sentences.
    #[serde(default)]
    pub problems: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct Uplink {
    /// `zero-copy` or `copy`.
    #[serde(default)]
    pub mode: Option<String>,
    /// What a bond does with its members.
    #[serde(default)]
    pub bond: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Worker {
    pub id: u32,
    /// The last generation that it acknowledged.
    pub generation: u64,
    #[serde(default)]
    pub asleep: bool,
    #[serde(default)]
    pub handoffs_out: u64,
    #[serde(default)]
    pub handoffs_in: u64,
    /// How many it keeps.
    #[serde(default)]
    pub flows: u64,
}

/// One row of `fairway interfaces -o json`. Directions are Fairway's: `rx` is what it received.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Interface {
    pub id: u64,
    pub name: String,
    /// `uplink`, `pod` or `host`.
    pub kind: String,
    /// `namespace/name` of the pod.
    #[serde(default)]
    pub pod: Option<String>,
    pub rx_packets: u64,
    pub tx_packets: u64,
    /// The worker that keeps its flows.
    #[serde(default)]
    pub owner: u32,
}

/// One row of `fairway addresses -o json`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Address {
    pub namespace: String,
    /// The service's.
    pub name: String,
    pub addr: IpAddr,
    #[serde(default)]
    pub pool: Option<String>,
    /// The node that answers for it on the link.
    #[serde(default)]
    pub announced_by: Option<String>,
}

/// One row of `fairway drops -o json`. A row without a policy is the total of its reason.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Drops {
    pub reason: String,
    pub count: u64,
    /// `namespace/name` of the NetworkPolicy.
    #[serde(default)]
    pub policy: Option<String>,
}

/// `fairway explain SOURCE DESTINATION:PORT/PROTOCOL -o json`
#[derive(Clone, Debug, Deserialize)]
pub struct Explanation {
    /// `forward`, `drop`, `reject` or `punt`.
    pub verdict: String,
    #[serde(default)]
    pub reason: Option<String>,
    #[serde(default)]
    pub policy: Option<String>,
    /// Which of its rules, as in `ingress[0]`.
    #[serde(default)]
    pub rule: Option<String>,
}

impl Status {
    pub fn is_connected(&self) -> bool {
        self.dataplane == "connected"
    }

    /// Every worker that is awake has acknowledged the last published generation.
    pub fn is_in_force(&self) -> bool {
        let in_force = |worker: &Worker| worker.asleep || worker.generation >= self.generation;
        self.is_connected() && self.workers.iter().all(in_force)
    }

    pub fn handoffs(&self) -> u64 {
        self.workers.iter().map(|worker| worker.handoffs_out).sum()
    }
}

impl Drops {
    /// Adds up the totals of the reasons that are asked for.
    pub fn total(drops: &[Drops], wanted: impl Fn(&str) -> bool) -> u64 {
        let totals = drops.iter().filter(|row| row.policy.is_none() && wanted(&row.reason));
        totals.map(|row| row.count).sum()
    }
}

impl Fairway {
    pub fn new(program: PathBuf, run_dir: PathBuf) -> Self {
        Fairway { program, run_dir }
    }

    /// The command as a user would type it.
    pub fn command(&self, arguments: &str) -> Cmd {
        Cmd::new(&self.program).arg("--run-dir").arg(self.run_dir.display()).args(arguments.split_whitespace())
    }

    /// Runs it. A sub-command that this build does not know is [`NotBuilt`].
    pub fn run(&self, arguments: &str) -> Result<Ran> {
        if !self.program.exists() {
            return Err(NotBuilt(format!("{} is missing", self.program.display())).into());
        }
        let ran = self.command(arguments).run()?;
        if ran.code == USAGE {
            return Err(NotBuilt(format!("`fairway {arguments}` is not known to this build")).into());
        }
        ran.ok()
    }

    fn read<T: DeserializeOwned>(&self, arguments: &str) -> Result<T> {
        let ran = self.run(&format!("{arguments} -o json"))?;
        if ran.stdout.trim().is_empty() {
            return Err(NotBuilt(format!("`fairway {arguments}` answers nothing")).into());
        }
        serde_json::from_str(&ran.stdout).with_context(|| format!("`{}` answered: {}", ran.command, ran.stdout.trim()))
    }

    pub fn status(&self) -> Result<Status> {
        self.read("status")
    }

    pub fn interfaces(&self) -> Result<Vec<Interface>> {
        self.read("interfaces")
    }

    pub fn addresses(&self) -> Result<Vec<Address>> {
        self.read("addresses")
    }

    pub fn drops(&self) -> Result<Vec<Drops>> {
        self.read("drops")
    }

    /// `from` is a pod's `namespace/name` or its address.
    pub fn explain(&self, from: &str, to: &str) -> Result<Explanation> {
        self.read(&format!("explain {from} {to}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(text: &str) -> Status {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_generation_is_in_force_when_all_that_are_awake_have_it() {
        let one_behind = r#"{"generation":7,"dataplane":"connected","workers":[
            {"id":0,"generation":7},{"id":1,"generation":6,"asleep":false}]}"#;
        assert!(!status(one_behind).is_in_force());
        assert!(status(&one_behind.replace("false", "true")).is_in_force());
        assert!(!status(&one_behind.replace("connected", "gone")).is_in_force());
    }

    #[test]
    fn handoffs_add_up_over_workers() {
        let two = r#"{"generation":1,"dataplane":"connected","workers":[
            {"id":0,"generation":1,"handoffs_out":3},{"id":1,"generation":1,"handoffs_out":4}]}"#;
        assert_eq!(status(two).handoffs(), 7);
    }
}
