//! The peer for table changes: `nft -f` of what kube-proxy would write ([`rules`]), in a network namespace of its own.
//!
//! The namespace has no name: it lives as long as a process that reads from this one, so it is gone however the bench ends.
//! Times are wall times from nft's start to its end, as kube-proxy waits for it.

use crate::case::{AtMost, By, Case, Cost, Planned, Target};
use crate::clock::Stopwatch;
use anyhow::{Context, Result, bail, ensure};
use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Output, Stdio};
use std::rc::Rc;
use std::thread;

mod rules;
pub use rules::{Cluster, Shape};

/// A transaction that takes longer is given up.
const PATIENCE_SECONDS: &str = "240";
/// Every how many-th service a change hits: they are spread over the table.
const STRIDE: u32 = 7919;

/// Ours is to be so many times faster.
const FULL_RATIO: f64 = 20.0;
const DELTA_RATIO: f64 = 1000.0;

/// How often a change is made where everything is loaded so often at most.
pub fn deltas(loads: usize) -> usize {
    4 * loads
}

/// A network namespace that a process holds.
struct Namespace {
    holder: Child,
}

impl Namespace {
    fn new() -> Result<Namespace> {
        // `cat` ends when its input does, which is when this process ends.
        let holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo made; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start unshare (of util-linux) for a network namespace")?;
        let mut namespace = Namespace { holder };
        let mut said = String::new();
        BufReader::new(namespace.holder.stdout.take().context("no pipe")?).read_line(&mut said)?;
        ensure!(said == "made\n", "no network namespace can be made: this needs root");
        Ok(namespace)
    }

    /// One transaction; how long it took.
    fn load(&self, text: &str) -> Result<Cost> {
        let stopwatch = Stopwatch::wall();
        let output = self.nft(&["-f", "-"], text)?;
        let cost = Cost { ticks: f64::NAN, ..Cost::ns(stopwatch.ns()) };
        match output.status.code() {
            Some(0) => Ok(cost),
            Some(124) => bail!("nft did not end in {PATIENCE_SECONDS} s"),
            _ => {
                bail!("nft refuses: {}", String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("no reason"))
            }
        }
    }

    fn nft(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let namespace = format!("--net=/proc/{}/ns/net", self.holder.id());
        let mut nft = Command::new("timeout")
            .args([PATIENCE_SECONDS, "nsenter", &namespace, "nft"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start timeout, nsenter and nft (of coreutils, util-linux and nftables)")?;
        let mut stdin = nft.stdin.take().context("no pipe to nft")?;
        thread::scope(|scope| {
            // What nft did not read it says why itself.
            scope.spawn(move || stdin.write_all(input.as_bytes()));
            nft.wait_with_output().context("nft is lost")
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// One cluster's rules, in a namespace that both its cases share.
#[derive(Clone)]
pub struct Nft {
    cluster: Cluster,
    loaded: Rc<RefCell<Option<Namespace>>>,
}

impl Nft {
    pub fn new(cluster: Cluster) -> Nft {
        Nft { cluster, loaded: Rc::default() }
    }

    /// Both as peers of ours: `what` and `size` are ours, so that they are compared. The full load runs so many times at most.
    pub fn planned(&self, [full, delta]: [&str; 2], size: &str, runs_max: usize) -> [Planned; 2] {
        let by = By::Peer(match self.cluster.shape {
            Shape::Maps => "nft -f, as kube-proxy",
            Shape::Chains => "nft -f, a chain each",
        });
        let (first, second) = (self.clone(), self.clone());
        let full = Planned::ours(full, size, move || Ok(AtMost { case: first.full()?, rounds: runs_max }));
        let delta = Planned::ours(delta, size, move || Ok(AtMost { case: second.delta()?, rounds: deltas(runs_max) }));
        [
            full.by(by.clone()).unit("ms").target(Target::ratio(FULL_RATIO)),
            delta.by(by).unit("ms").target(Target::ratio(DELTA_RATIO)),
        ]
    }

    /// Everything anew, flush and load in one transaction.
    pub fn full(&self) -> Result<impl Case + use<>> {
        let (nft, text) = (self.clone(), self.cluster.full());
        Ok(move || {
            let mut loaded = nft.loaded.borrow_mut();
            let namespace = loaded.take().map_or_else(Namespace::new, Ok)?;
            let cost = namespace.load(&text)?;
            *loaded = Some(namespace);
            Ok(cost)
        })
    }

    /// One service's endpoint comes or goes. Loads everything first if that was not done yet.
    pub fn delta(&self) -> Result<impl Case + use<>> {
        let (nft, mut changes) = (self.clone(), 0u32);
        Ok(move || {
            if nft.loaded.borrow().is_none() {
                nft.full()?.run()?;
            }
            // The same one comes and goes, then it is another's turn.
            let (service, more) = ((changes / 2).wrapping_mul(STRIDE) % nft.cluster.services, changes % 2 == 0);
            changes += 1;
            let loaded = nft.loaded.borrow();
            loaded.as_ref().context("the rules are lost")?.load(&nft.cluster.delta(service, more))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(nft: &Nft) -> String {
        let output = nft.loaded.borrow().as_ref().unwrap().nft(&["list", "ruleset"], "").unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn an_endpoint_comes_and_goes() {
        for shape in [Shape::Maps, Shape::Chains] {
            let nft = Nft::new(Cluster { services: 20, endpoints_each: 3, shape });
            let mut delta = nft.delta().unwrap();
            delta.run().unwrap();
            assert_eq!(listed(&nft).matches("random mod 4").count(), 1, "{shape:?}");
            delta.run().unwrap();
            let after = listed(&nft);
            assert_eq!((after.matches("random mod 4").count(), after.matches("random mod 3").count()), (0, 20));
            nft.full().unwrap().run().unwrap();
            assert_eq!(listed(&nft).matches("goto service-").count(), 20, "loaded anew, not twice");
        }
    }

    #[test]
    fn what_nft_refuses_is_an_error_with_its_reason() {
        let error = Namespace::new().unwrap().load("add rule ip nowhere at-all accept\n").unwrap_err().to_string();
        assert!(error.contains("nft refuses"), "{error}");
    }
}
