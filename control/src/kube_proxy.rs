//! What kube-proxy left on a node, in whichever of its modes, and how it goes: found and removed by the kernel tools that it
//! uses itself. Only what bears one of its names is its own; the kubelet's chains and everybody else's stay as they are.

mod ipsets;
mod iptables;
mod ipvs;

use std::io::{self, Write};
use std::process::{Command, Stdio};

#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    #[error("cannot run {program}: {source}")]
    Run { program: String, source: io::Error },
    #[error("`{command}` failed: {said}")]
    Failed { command: String, said: String },
}

/// One command that removes something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub what: String,
    pub command: Vec<String>,
    /// Its standard input.
    pub input: String,
}

impl Step {
    fn new(what: String, command: &str, input: String) -> Step {
        Step { what, command: command.split(' ').map(str::to_owned).collect(), input }
    }

    pub fn run(&self) -> Result<(), CleanupError> {
        let words: Vec<&str> = self.command.iter().map(String::as_str).collect();
        run(&words, &self.input)?.map(drop).ok_or_else(|| CleanupError::Run {
            program: self.command[0].clone(),
            source: io::ErrorKind::NotFound.into(),
        })
    }

    /// As one would type it.
    pub fn typed(&self) -> String {
        let line = self.command.join(" ");
        if self.input.is_empty() { line } else { format!("{line} <<END\n{}END", self.input) }
    }
}

/// All that there is, in the order in which it can go.
pub fn found() -> Result<Vec<Step>, CleanupError> {
    let mut steps = Vec::new();
    // A kernel without them, or without IPVS, refuses the question.
    let sets = ask("ipset list").ok().flatten().map(|text| ipsets::read(&text)).unwrap_or_default();
    for tool in iptables::TOOLS {
        let saved = ask(&format!("{tool}-save"))?.unwrap_or_default();
        steps.extend(iptables::step(tool, &saved));
    }
    for family in ["ip", "ip6"] {
        let tables = ask(&format!("nft list tables {family}"))?.unwrap_or_default();
        let table = format!("{family} kube-proxy");
        let is_there = tables.lines().any(|line| line == format!("table {table}"));
        let step =
            || Step::new(format!("table {table} of nftables"), &format!("nft delete table {table}"), String::new());
        steps.extend(is_there.then(step));
    }
    let addresses = ask(&format!("ip -o address show dev {}", ipvs::DEVICE));
    // It fails where there is no such device.
    let addresses = addresses.ok().flatten();
    if let Some(services) = ask("ipvsadm --save --numeric").ok().flatten() {
        steps.extend(ipvs::steps(&services, addresses.as_deref().unwrap_or_default(), &sets));
    }
    steps.extend(addresses.map(|_| {
        let (what, command) = (format!("device {}", ipvs::DEVICE), format!("ip link delete {}", ipvs::DEVICE));
        Step::new(what, &command, String::new())
    }));
    // Rules referred to them until here.
    steps.extend(
        sets.iter().map(|set| {
            Step::new(format!("IP set {}", set.name), &format!("ipset destroy {}", set.name), String::new())
        }),
    );
    Ok(steps)
}

/// What a program answers; None where it is not installed.
fn ask(line: &str) -> Result<Option<String>, CleanupError> {
    run(&line.split(' ').collect::<Vec<_>>(), "")
}

fn run(words: &[&str], input: &str) -> Result<Option<String>, CleanupError> {
    let fail = |source| CleanupError::Run { program: words[0].to_owned(), source };
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(fail)?,
    };
    if let Some(mut pipe) = child.stdin.take() {
        // One that does not read is judged by how it ends.
        let _ = pipe.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(fail)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(CleanupError::Failed { command: words.join(" "), said });
    }
    Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()))
}
