//! One node: a namespace with an uplink, its control process and its dataplane process.
//!
//! The node's kernel forwards nothing: `ip_forward` is 0 and its nft ruleset is empty.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::binaries::{Binaries, NotBuilt};
use crate::cni::Plugin;
use crate::fairway::{Fairway, Interface, Status};
use crate::netns::Netns;
use crate::process::Process;
use crate::shell::Cmd;
use crate::wait;

/// Addresses that a node keeps for itself, counted from the start of its pod range.
const HOST_OFFSET: u32 = 2;
const SNAT_OFFSET: u32 = 3;

/// A process must be there after this long, also on an emulated machine.
const START_LIMIT: Duration = Duration::from_secs(90);
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// What tells one node from another.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    pub name: String,
    /// On the fabric, one of each family.
    pub addresses: Vec<IpAddr>,
    /// `10.244.1.0/24`, one of each family.
    pub pod_ranges: Vec<String>,
    pub uplink: String,
    /// The other end of the uplink, in the fabric.
    pub port: String,
    pub workers: u32,
    pub service_ranges: Vec<String>,
    pub cluster_ranges: Vec<String>,
    /// More arguments for `fairway-control`.
    pub control_args: Vec<String>,
    /// More arguments for `fairway-dataplane`.
    pub dataplane_args: Vec<String>,
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    spec: NodeSpec,
    netns: Netns,
    directory: PathBuf,
    fairway: Fairway,
    plugin: Plugin,
    dataplane_command: Cmd,
    control_command: Cmd,
    control_args: Vec<String>,
    dataplane: Option<Process>,
    control: Option<Process>,
}

impl Node {
    /// Prepares the node; nothing of Fairway runs yet.
    pub fn create(spec: NodeSpec, netns: Netns, lab: &Path, objects: &Path, binaries: &Binaries) -> Result<Self> {
        let directory = lab.join(&spec.name);
        std::fs::create_dir_all(directory.join("run"))?;
        std::fs::create_dir_all(directory.join("state"))?;
        for key in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
            netns.sysctl(key, "0")?;
        }
        let run_dir = directory.join("run");
        let plugin = Plugin { directory: binaries.directory().into(), netns: netns.clone(), run_dir: run_dir.clone() };
        Ok(Node {
            dataplane_command: dataplane_command(&spec, &netns, &run_dir, binaries),
            control_command: control_command(&spec, &netns, &directory, objects, binaries),
            control_args: spec.control_args.clone(),
            fairway: Fairway::new(binaries.path("fairway"), run_dir),
            plugin,
            spec,
            netns,
            directory,
            dataplane: None,
            control: None,
        })
    }

    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Its first address.
    pub fn address(&self) -> IpAddr {
        self.spec.addresses[0]
    }

    pub fn addresses(&self) -> &[IpAddr] {
        &self.spec.addresses
    }

    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    pub fn uplink(&self) -> &str {
        &self.spec.uplink
    }

    pub fn port(&self) -> &str {
        &self.spec.port
    }

    pub fn fairway(&self) -> &Fairway {
        &self.fairway
    }

    pub fn plugin(&self) -> &Plugin {
        &self.plugin
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The addresses that Fairway uses inside the pod network for what is no pod.
    pub fn reserved_addresses(&self) -> Result<Vec<IpAddr>> {
        let mut reserved = Vec::new();
        for range in &self.spec.pod_ranges {
            let first = range.split('/').next().unwrap_or_default();
            let first: IpAddr = first.parse().with_context(|| format!("pod range {range}"))?;
            reserved.extend([HOST_OFFSET, SNAT_OFFSET].map(|offset| nth_after(first, offset)));
        }
        Ok(reserved)
    }

    pub fn start(&mut self) -> Result<()> {
        self.start_dataplane()?;
        self.start_control()?;
        self.wait_connected().map(|_| ())
    }

    pub fn start_dataplane(&mut self) -> Result<()> {
        self.dataplane = Some(Process::spawn("dataplane", &self.dataplane_command, &self.directory)?);
        Ok(())
    }

    pub fn start_control(&mut self) -> Result<()> {
        let command = self.control_command.clone().args(&self.control_args);
        self.control = Some(Process::spawn("control", &command, &self.directory)?);
        Ok(())
    }

    /// Ends control as a service manager does and starts it with other arguments beyond those of every node; the dataplane
    /// runs on.
    pub fn restart_control(&mut self, control_args: Vec<String>) -> Result<()> {
        let code = self.control.take().context("no control runs")?.terminate(STOP_LIMIT)?;
        anyhow::ensure!(code == 0, "control of {} ended with {code} after SIGTERM", self.name());
        self.control_args = control_args;
        self.start_control()?;
        self.wait_connected().map(|_| ())
    }

    /// SIGKILL.
    pub fn kill_dataplane(&mut self) -> Result<()> {
        self.dataplane.take().context("no dataplane runs")?.kill()
    }

    /// SIGKILL.
    pub fn kill_control(&mut self) -> Result<()> {
        self.control.take().context("no control runs")?.kill()
    }

    /// SIGTERM to both, control first: it undoes what it did to the node.
    pub fn stop(&mut self) -> Result<()> {
        for process in [self.control.take(), self.dataplane.take()].into_iter().flatten() {
            let code = process.terminate(STOP_LIMIT)?;
            anyhow::ensure!(code == 0, "a process of {} ended with {code} after SIGTERM", self.name());
        }
        Ok(())
    }

    /// SIGTERM to both at the same time, as a runtime ends the containers of a pod.
    pub fn stop_at_once(&mut self) -> Result<()> {
        let both: Vec<Process> = [self.dataplane.take(), self.control.take()].into_iter().flatten().collect();
        for process in &both {
            Cmd::new("kill").args(["-TERM".to_string(), process.pid().to_string()]).ok()?;
        }
        both.into_iter().try_for_each(|process| process.finish(STOP_LIMIT).map(|_| ()))
    }

    /// Both processes once more: they stand by until those that run have ended.
    pub fn start_successors(&self) -> Result<[Process; 2]> {
        let dataplane = self.dataplane_command.clone().arg("--stand-by");
        let control = self.control_command.clone().args(&self.control_args).arg("--stand-by");
        let dataplane = Process::spawn("dataplane-2", &dataplane, &self.directory)?;
        Ok([dataplane, Process::spawn("control-2", &control, &self.directory)?])
    }

    /// Ends those that run, as a runtime ends a pod, and these take their place.
    pub fn succeed(&mut self, [dataplane, control]: [Process; 2]) -> Result<()> {
        self.stop_at_once()?;
        (self.dataplane, self.control) = (Some(dataplane), Some(control));
        self.wait_connected().map(|_| ())
    }

    pub fn dataplane_pid(&self) -> Option<u32> {
        self.dataplane.as_ref().map(Process::pid)
    }

    pub fn control_pid(&self) -> Option<u32> {
        self.control.as_ref().map(Process::pid)
    }

    /// Both processes run, talk to each other, and the last published tables are in force.
    pub fn wait_connected(&mut self) -> Result<Status> {
        self.wait_status("both processes to find each other", START_LIMIT, Status::is_in_force)
    }

    /// Everything up to a generation after this one is in force.
    pub fn wait_published_after(&mut self, generation: u64) -> Result<Status> {
        let what = format!("generation {} to be in force", generation + 1);
        self.wait_status(&what, START_LIMIT, |status| status.generation > generation && status.is_in_force())
    }

    pub fn wait_dataplane_gone(&mut self) -> Result<Status> {
        self.wait_status("`fairway status` to miss the dataplane", START_LIMIT, |status| !status.is_connected())
    }

    fn wait_status(&mut self, what: &str, limit: Duration, good: impl Fn(&Status) -> bool) -> Result<Status> {
        let mut last = Err(anyhow::anyhow!("never asked"));
        let there = wait::until(limit, || {
            last = self.processes_run().and_then(|()| self.fairway.status());
            matches!(&last, Ok(status) if good(status)) || is_final(&last)
        });
        match last {
            Ok(status) if there => Ok(status),
            Err(error) if error.downcast_ref::<NotBuilt>().is_some() => Err(error),
            Ok(status) => bail!("{}: waited {limit:?} for {what}; last: {status:?}; {}", self.name(), self.logs()),
            Err(error) => Err(error.context(format!("{}: waited for {what}; {}", self.name(), self.logs()))),
        }
    }

    fn processes_run(&mut self) -> Result<()> {
        let both = [self.dataplane.as_mut(), self.control.as_mut()];
        both.into_iter().flatten().try_for_each(Process::still_running)
    }

    fn logs(&self) -> String {
        let log = |what: &str, process: &Option<Process>| match process {
            Some(process) => format!("{what}: {}", process.log_end()),
            None => format!("{what} does not run"),
        };
        format!("{}; {}", log("control", &self.control), log("dataplane", &self.dataplane))
    }

    /// Processor time of both processes, in ticks of 10 ms.
    pub fn cpu_ticks(&self) -> Result<u64> {
        let both = [self.dataplane.as_ref(), self.control.as_ref()];
        both.into_iter().flatten().map(Process::cpu_ticks).sum()
    }

    /// The row of a pod's interface.
    pub fn interface_of_pod(&self, pod: &str) -> Result<Interface> {
        self.interface(&format!("of pod {pod}"), |interface| interface.pod.as_deref() == Some(pod))
    }

    /// The row of the first interface of a kind.
    pub fn interface_of_kind(&self, kind: &str) -> Result<Interface> {
        self.interface(&format!("of kind {kind}"), |interface| interface.kind == kind)
    }

    fn interface(&self, which: &str, is_it: impl Fn(&Interface) -> bool) -> Result<Interface> {
        let found = self.fairway.interfaces()?.into_iter().find(is_it);
        found.with_context(|| format!("`fairway interfaces` on {} shows no interface {which}", self.name()))
    }
}

/// Waiting longer changes nothing.
fn is_final(last: &Result<Status>) -> bool {
    matches!(last, Err(error) if error.downcast_ref::<NotBuilt>().is_some() || error.to_string().contains(" ended with "))
}

fn nth_after(first: IpAddr, offset: u32) -> IpAddr {
    match first {
        IpAddr::V4(address) => IpAddr::V4((u32::from(address) + offset).into()),
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) + u128::from(offset)).into()),
    }
}

fn dataplane_command(spec: &NodeSpec, netns: &Netns, run_dir: &Path, binaries: &Binaries) -> Cmd {
    Cmd::new(binaries.path("fairway-dataplane"))
        .netns(netns)
        .arg("--socket")
        .arg(run_dir.join("dataplane.sock").display())
        .arg("--workers")
        .arg(spec.workers)
        .args(&spec.dataplane_args)
}

fn control_command(spec: &NodeSpec, netns: &Netns, directory: &Path, objects: &Path, binaries: &Binaries) -> Cmd {
    let command = Cmd::new(binaries.path("fairway-control"))
        .netns(netns)
        .args(["--node", &spec.name, "--uplink", &spec.uplink])
        .args(spec.service_ranges.iter().flat_map(|range| ["--service-cidr", range]))
        .args(spec.cluster_ranges.iter().flat_map(|range| ["--cluster-cidr", range]))
        .arg("--run-dir")
        .arg(directory.join("run").display())
        .arg("--state-dir")
        .arg(directory.join("state").display());
    // A node that is told of an API server reads no directory.
    let has_server = spec.control_args.iter().any(|arg| arg == "--kubeconfig");
    if has_server { command } else { command.arg("--objects").arg(objects.display()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_addresses_follow_the_start_of_the_range() {
        assert_eq!(nth_after("10.244.1.0".parse().unwrap(), 3).to_string(), "10.244.1.3");
        assert_eq!(nth_after("fd00:1::".parse().unwrap(), 2).to_string(), "fd00:1::2");
    }
}
