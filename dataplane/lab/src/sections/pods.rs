//! Section 1: pod to pod on one node and across nodes; the receiver sees the sender's own address.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::cni::POD_INTERFACE;
use crate::netns::Netns;
use crate::node::Node;
use crate::process::Process;
use crate::report::{Measured, Report};
use crate::shell::Cmd;
use crate::stage::Stage;
use crate::wait;

/// IPv4 and ICMP headers of an echo request.
const ECHO_HEADERS_SIZE: u64 = 28;

pub fn play(stage: &mut Stage, report: &mut Report) -> Result<()> {
    for node in &stage.lab.nodes {
        kernel_stays_out(report, node)?;
        if stage.lab.has_nics() {
            let mode = node.fairway().status()?.uplink.mode.unwrap_or_default();
            report.equal(format!("the uplink of {} is bound", node.name()), &mode, "zero-copy");
        }
    }
    let alice = stage.lab.pod("alice")?;
    for (receiver, place) in [("web-1", "on one node"), ("web-2", "across nodes")] {
        let to = stage.lab.pod(receiver)?;
        let sees = (receiver, [alice.address().to_string()]);
        stage.curl_sees(report, &format!("curl {place}"), alice.netns(), &to.url(), (sees.0, &sees.1))?;
        let ping = stage.ping(alice.netns(), "-c 5 -i 0.05", to.address())?;
        report.exactly(format!("ping {place}, answers"), ping.received, 5);
    }
    full_size(stage, report)?;
    on_the_wire(stage, report)?;
    throughput(stage, report)
}

/// Whatever arrives came through Fairway: the node's kernel does not forward, nor does nft rewrite.
fn kernel_stays_out(report: &mut Report, node: &Node) -> Result<()> {
    let forwards = Cmd::line("sysctl -n net.ipv4.ip_forward").netns(node.netns()).ok()?.stdout;
    let ruleset = Cmd::line("nft list ruleset").netns(node.netns()).ok()?.stdout;
    let text = format!("ip_forward={}, {} nft rules", forwards.trim(), ruleset.lines().count());
    report.equal(format!("the kernel of {} stays out", node.name()), &text, "ip_forward=0, 0 nft rules");
    Ok(())
}

/// The largest packet that a pod may send crosses the tunnel in one piece.
fn full_size(stage: &Stage, report: &mut Report) -> Result<()> {
    let alice = stage.lab.pod("alice")?;
    let mtu = mtu(alice.netns())?;
    let options = format!("-c 2 -i 0.05 -M do -s {}", mtu.saturating_sub(ECHO_HEADERS_SIZE));
    let ping = stage.ping(alice.netns(), &options, stage.lab.pod("web-2")?.address())?;
    report.exactly(format!("pings of {mtu} bytes across nodes, answers"), ping.received, 2);
    Ok(())
}

fn mtu(netns: &Netns) -> Result<u64> {
    let link = netns.ip(&format!("-o link show dev {POD_INTERFACE}"))?.stdout;
    let mtu = link.split_whitespace().skip_while(|word| *word != "mtu").nth(1);
    mtu.and_then(|mtu| mtu.parse().ok()).with_context(|| format!("no MTU in `{}`", link.trim()))
}

/// What leaves the node is VXLAN from node to node, with the pods' own packet inside.
fn on_the_wire(stage: &Stage, report: &mut Report) -> Result<()> {
    let (alice, web) = (stage.lab.pod("alice")?, stage.lab.pod("web-2")?);
    let port = stage.lab.nodes[1].port();
    let command = Cmd::line(&format!("tcpdump -nn -l -c 2 -i {port} udp port 4789")).netns(stage.lab.fabric().netns());
    let capture = Process::spawn("tcpdump", &command, stage.lab.directory())?;
    let listens = wait::until(Duration::from_secs(5), || capture.log_end().contains("listening on"));
    anyhow::ensure!(listens, "tcpdump does not start: {}", capture.log_end());
    stage.ping(alice.netns(), "-c 2 -i 0.05", web.address())?;
    let text = capture.finish(Duration::from_secs(5)).context("no VXLAN packet on the fabric")?;
    stage.show.typed(&command.typed());
    stage.show.answer(&text);
    let inner = format!("IP {} > {}", alice.address(), web.address());
    let good = text.contains("VXLAN") && text.contains(&inner);
    report.check("the fabric carries VXLAN with the pods' packet inside", Measured::Text(inner), good, "both");
    Ok(())
}

fn throughput(stage: &Stage, report: &mut Report) -> Result<()> {
    let alice = stage.lab.pod("alice")?;
    for (receiver, place) in [("web-1", "on one node"), ("web-2", "across nodes")] {
        let run = stage.iperf(alice.netns(), stage.lab.pod(receiver)?, "-t 2 -i 0.5")?;
        let rate = run.megabits_per_second();
        report.check(
            format!("iperf3 {place}"),
            Measured::MegabitsPerSecond(rate),
            rate >= 1.0,
            "more than nothing in 2 s",
        );
    }
    Ok(())
}
