//! What two ends say to each other to show that every kind of packet passes between them, both ways: HTTP, bulk TCP,
//! datagrams that fit and that do not, pings that fit exactly and that do not.
//!
//! Fails with the first thing that did not pass; what a pass is worth is the caller's to say.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::addressing::host_part;
use crate::agent::serve::{ECHO_PORT, HTTP_PORT};
use crate::binaries::Binaries;
use crate::netns::Netns;
use crate::process::Process;
use crate::shell::Cmd;
use crate::wait;

/// Enough for TCP to open its window and fill every segment.
const BULK_MEGABYTES: u64 = 8;
/// Of the segments sent. A busy machine drops some in a queue; a path that spoils them would have nearly all sent again.
const RETRANSMITS_MAX_PERCENT: u64 = 5;
/// More than any MTU of the lab, and less than three fragments.
const FRAGMENTED_BYTES: u32 = 4000;

/// Someone who talks; his server runs ([`crate::pod::serve`]).
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    pub name: &'a str,
    pub netns: &'a Netns,
    pub address: IpAddr,
}

/// What lies between two ends.
#[derive(Clone, Copy, Debug)]
pub struct Road {
    /// It takes IP packets of this many bytes.
    pub mtu: u32,
    /// Bulk TCP goes no faster than this, for a switch that drops what it has no time for; 0: as it can.
    pub megabits_per_second: u32,
}

/// An iperf3 server at an end, of both families.
pub fn bulk_server(netns: &Netns, directory: &Path) -> Result<Process> {
    let what = format!("iperf3-{}", netns.name());
    let server = Process::spawn(&what, &Cmd::line("iperf3 -s").netns(netns), directory)?;
    let listens = || Cmd::line("ss -Hltn").netns(netns).ok().is_ok_and(|ran| ran.stdout.contains(":5201 "));
    ensure!(wait::until(Duration::from_secs(5), listens), "iperf3: {}", server.log_end());
    Ok(server)
}

/// Waits until the first ping is answered: neighbours have to be found first.
pub fn meet(from: End, to: End) -> Result<()> {
    let ping = Cmd::line("ping -q -c 1 -W 1").arg(to.address).netns(from.netns);
    let met = wait::until(Duration::from_secs(10), || ping.run().is_ok_and(|ran| ran.succeeded()));
    ensure!(met, "{} does not reach {} at {}", from.name, to.name, to.address);
    Ok(())
}

/// Everything, each way; both have a [`bulk_server`]. Says what bulk TCP did.
pub fn everything(binaries: &Binaries, one: End, other: End, road: Road) -> Result<String> {
    let mut told = Vec::new();
    for (from, to) in [(one, other), (other, one)] {
        let what = || format!("{} -> {} at {}", from.name, to.name, to.address);
        small(binaries, from, to, road.mtu).with_context(what)?;
        told.push(format!("{}: {}", what(), bulk(from, to, road).with_context(what)?));
    }
    Ok(told.join("; "))
}

fn small(binaries: &Binaries, from: End, to: End, mtu: u32) -> Result<()> {
    let answer = http(from, to)?;
    let saw = format!("{} saw {}", to.name, from.address);
    ensure!(answer.trim() == saw, "HTTP answered {answer:?}, not {saw:?}");
    let headers = if to.address.is_ipv4() { 28 } else { 48 };
    ping(from, to, &format!("-M do -s {}", mtu - headers))?;
    ping(from, to, &format!("-s {FRAGMENTED_BYTES}"))?;
    for size in [1, 333, mtu - headers, FRAGMENTED_BYTES] {
        echo(binaries, from, to, size)?;
    }
    Ok(())
}

fn http(from: End, to: End) -> Result<String> {
    let url = format!("http://{}:{HTTP_PORT}/", host_part(to.address));
    Ok(Cmd::line("curl -sS --max-time 5").arg(url).netns(from.netns).ok()?.stdout)
}

fn ping(from: End, to: End, options: &str) -> Result<()> {
    let ran = Cmd::line(&format!("ping -q -c 3 -i 0.02 -W 2 {options}")).arg(to.address).netns(from.netns).run()?;
    ensure!(ran.stdout.contains(" 3 received"), "`{}`: {}{}", ran.command, ran.stdout, ran.stderr);
    Ok(())
}

/// Datagrams come back as they were sent.
fn echo(binaries: &Binaries, from: End, to: End, size: u32) -> Result<()> {
    let address = format!("{}:{ECHO_PORT}", host_part(to.address));
    let ran = Cmd::new(binaries.agent())
        .args(["send", "--echo", "--count", "5", "--size", &size.to_string(), "--to", &address])
        .netns(from.netns)
        .ok()?;
    ensure!(ran.stdout.trim() == "5", "of 5 datagrams of {size} bytes came back {}", ran.stdout.trim());
    Ok(())
}

fn bulk(from: End, to: End, road: Road) -> Result<String> {
    let pace = road.megabits_per_second;
    let run = Cmd::line(&format!("iperf3 -J --fq-rate {pace}M -n {BULK_MEGABYTES}M -c"))
        .arg(to.address)
        .netns(from.netns)
        .run()?;
    let told: Value = serde_json::from_str(&run.stdout).with_context(|| run.complaint())?;
    let count = |side: &str, what: &str| told["end"][side][what].as_u64();
    let received = count("sum_received", "bytes").with_context(|| run.stdout.clone())?;
    let retransmits = count("sum_sent", "retransmits").context("retransmits")?;
    let segments = (BULK_MEGABYTES << 20) / 1400;
    let megabits = told["end"]["sum_received"]["bits_per_second"].as_f64().unwrap_or(0.0) / 1e6;
    let text = format!("{megabits:.0} Mbit/s, {retransmits} retransmitted");
    ensure!(received >= BULK_MEGABYTES << 19, "bulk TCP: {received} bytes received; {text}");
    ensure!(retransmits * 100 <= segments * RETRANSMITS_MAX_PERCENT, "bulk TCP: {text}");
    Ok(text)
}
