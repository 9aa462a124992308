//! Section 6: Fairway's counters are the packets that were sent, neither more nor less; and pktgen,
//! which numbers its packets, finds none lost or doubled.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::binaries::NotBuilt;
use crate::fairway::{Drops, Interface};
use crate::report::{Measured, Report};
use crate::shell::Cmd;
use crate::stage::Stage;
use crate::wait::{sleep_ms, until};

const PINGS: u64 = 50;
const DATAGRAMS: u64 = 1000;
/// A port that nothing else of the lab uses.
const SINK_PORT: u16 = 9000;
/// Counters become visible once per burst or housekeeping round.
const COUNTERS_LAG_MS: u64 = 200;
/// Connections that may still send: all but those that listen or only wait for their time to be over.
const MAY_SEND: &str = "ss -Htn state connected exclude time-wait exclude fin-wait-2";
/// Far more than a FIN needs that was sent to a pod while it was out of its service.
const QUIET_LIMIT: Duration = Duration::from_secs(60);

/// Counters of both nodes at one time.
struct Snapshot {
    interfaces: Vec<Vec<Interface>>,
    drops: u64,
}

/// Packets that an interface received and sent between two snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Moved {
    rx: u64,
    tx: u64,
}

pub fn play(stage: &mut Stage, report: &mut Report) -> Result<()> {
    stage.show.ran(&stage.lab.nodes[0].fairway().run("interfaces")?);
    wait_for_quiet(stage)?;
    on_one_node(stage, report)?;
    across_nodes(stage, report)?;
    numbered_packets(stage, report)
}

/// The kernel repeats the last segments of connections that other sections cut: they would be counted here.
fn wait_for_quiet(stage: &Stage) -> Result<()> {
    let mut open = String::new();
    let mut look = || -> Result<bool> {
        open.clear();
        for pod in stage.lab.pods() {
            open += &Cmd::line(MAY_SEND).netns(pod.netns()).ok()?.stdout;
        }
        Ok(open.is_empty())
    };
    let mut looked = Ok(false);
    until(QUIET_LIMIT, || {
        looked = look();
        !matches!(looked, Ok(false))
    });
    ensure!(
        looked?,
        "after {QUIET_LIMIT:?} connections of pods are still open, nothing can be counted beside them:\n{open}"
    );
    Ok(())
}

/// Pings there and back: as many in as out, on both pods, and nothing on the uplink.
fn on_one_node(stage: &Stage, report: &mut Report) -> Result<()> {
    let (alice, web) = (stage.lab.pod("alice")?, stage.lab.pod("web-1")?);
    refresh_neighbours(stage, &["alice", "web-1"])?;
    let before = Snapshot::take(stage)?;
    stage.ping(alice.netns(), &format!("-c {PINGS} -i 0.01"), web.address())?;
    let after = Snapshot::take(stage)?;
    let both = Moved { rx: PINGS, tx: PINGS };
    for pod in [alice, web] {
        let moved = after.pod_since(&before, 0, &pod.full_name())?;
        moved.judge(report, &format!("{PINGS} pings on one node, {}", pod.name()), both);
    }
    after.uplink_since(&before, 0)?.judge(report, "the uplink meanwhile", Moved { rx: 0, tx: 0 });
    report.exactly("dropped meanwhile", after.drops - before.drops, 0);
    Ok(())
}

/// Datagrams one way: each counted once where it enters and once where it leaves, on both nodes.
fn across_nodes(stage: &Stage, report: &mut Report) -> Result<()> {
    let (alice, web) = (stage.lab.pod("alice")?, stage.lab.pod("web-2")?);
    refresh_neighbours(stage, &["alice", "web-2"])?;
    let sink = stage.spawn_agent("sink", web.netns(), &format!("sink --port {SINK_PORT} --count {DATAGRAMS}"))?;
    sleep_ms(200);
    let before = Snapshot::take(stage)?;
    let send = stage.agent(alice.netns(), &format!("send --count {DATAGRAMS} --to {}:{SINK_PORT}", web.address()));
    stage.run(&send)?.ok()?;
    let received: u64 = sink.finish(Duration::from_secs(10))?.trim().parse()?;
    let after = Snapshot::take(stage)?;
    report.exactly(format!("of {DATAGRAMS} UDP datagrams across nodes, received"), received, DATAGRAMS);
    let (enters, leaves) = (Moved { rx: DATAGRAMS, tx: 0 }, Moved { rx: 0, tx: DATAGRAMS });
    after.pod_since(&before, 0, &alice.full_name())?.judge(report, "node-1, alice", enters);
    after.uplink_since(&before, 0)?.judge(report, "node-1, uplink", leaves);
    after.uplink_since(&before, 1)?.judge(report, "node-2, uplink", enters);
    after.pod_since(&before, 1, &web.full_name())?.judge(report, "node-2, web-2", leaves);
    report.exactly("dropped meanwhile", after.drops - before.drops, 0);
    Ok(())
}

/// A pod asks for its gateway's MAC now, and so not while packets are counted.
fn refresh_neighbours(stage: &Stage, pods: &[&str]) -> Result<()> {
    let (alice, web, far) = (stage.lab.pod("alice")?, stage.lab.pod("web-1")?, stage.lab.pod("web-2")?);
    for pod in pods {
        let pod = stage.lab.pod(pod)?;
        pod.netns().ip("neighbour flush all")?;
        let to = if pod.name() == alice.name() { [web, far] } else { [alice, alice] };
        for to in to {
            crate::stage::ping(pod.netns(), "-c 1 -W 1", to.address()).ok()?;
        }
    }
    Ok(())
}

impl Snapshot {
    fn take(stage: &Stage) -> Result<Self> {
        sleep_ms(COUNTERS_LAG_MS);
        let interfaces = stage.lab.nodes.iter().map(|node| node.fairway().interfaces()).collect::<Result<Vec<_>>>()?;
        let drops = stage.lab.nodes.iter().map(|node| Ok(Drops::total(&node.fairway().drops()?, |_| true)));
        Ok(Snapshot { interfaces, drops: drops.sum::<Result<u64>>()? })
    }

    fn pod_since(&self, before: &Snapshot, node: usize, pod: &str) -> Result<Moved> {
        self.since(before, node, &format!("pod {pod}"), |interface| interface.pod.as_deref() == Some(pod))
    }

    fn uplink_since(&self, before: &Snapshot, node: usize) -> Result<Moved> {
        self.since(before, node, "uplink", |interface| interface.kind == "uplink")
    }

    fn since(&self, before: &Snapshot, node: usize, what: &str, is_it: impl Fn(&Interface) -> bool) -> Result<Moved> {
        let find = |snapshot: &Snapshot| snapshot.interfaces[node].iter().find(|i| is_it(i)).cloned();
        let missing = || format!("`fairway interfaces` on node-{} shows no {what}", node + 1);
        let (old, new) = (find(before).with_context(missing)?, find(self).with_context(missing)?);
        let grown = |new: u64, old: u64| new.checked_sub(old).with_context(|| format!("a counter of {what} went back"));
        Ok(Moved { rx: grown(new.rx_packets, old.rx_packets)?, tx: grown(new.tx_packets, old.tx_packets)? })
    }
}

impl Moved {
    fn judge(self, report: &mut Report, what: &str, expected: Moved) {
        report.equal(format!("{what} counts"), &self.to_string(), &expected.to_string());
    }
}

impl std::fmt::Display for Moved {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} in, {} out", self.rx, self.tx)
    }
}

/// What `pktgen run -o json` reports, as far as it is judged here.
#[derive(Debug, Deserialize)]
struct Generated {
    sent: u64,
    lost: u64,
    duplicated: u64,
    corrupted: u64,
    latency: Option<Latency>,
}

#[derive(Debug, Deserialize)]
struct Latency {
    p50_ns: u64,
    p99_ns: u64,
}

/// From the client outside through node-2's Fairway into a pod.
fn numbered_packets(stage: &Stage, report: &mut Report) -> Result<()> {
    let pktgen = stage.lab.binaries().require("pktgen", "run")?;
    let (bob, node, client) = (stage.lab.pod("bob")?, &stage.lab.nodes[1], stage.lab.client());
    // Node and pod have met before, so that no packet waits for a neighbour.
    crate::stage::ping(client, "-c 1 -W 1", bob.address()).ok()?;
    let command = Cmd::new(pktgen)
        .args(["run", "--iface", "eth0", "--iface-netns", client.name()])
        .args(["--sink", crate::cni::POD_INTERFACE, "--sink-netns", bob.netns().name()])
        .args(["--dst-mac", &mac(node.netns(), node.uplink())?, "--rate", "2000", "--duration", "2s", "-o", "json"]);
    stage.show.typed(&command.typed());
    let ran = command.run()?.ok()?;
    if ran.stdout.trim().is_empty() {
        return Err(NotBuilt("`pktgen run` reports nothing".into()).into());
    }
    let generated: Generated = serde_json::from_str(&ran.stdout).with_context(|| ran.stdout.clone())?;
    judge_generated(report, &generated);
    Ok(())
}

fn judge_generated(report: &mut Report, generated: &Generated) {
    let Generated { sent, lost, duplicated, corrupted, latency } = generated;
    let text = format!("{lost} lost, {duplicated} doubled, {corrupted} corrupted");
    report.equal(
        format!("pktgen: {sent} numbered packets, client outside -> bob"),
        &text,
        "0 lost, 0 doubled, 0 corrupted",
    );
    report.check("pktgen sent", Measured::Count(*sent), *sent > 0, "some");
    let text = latency.as_ref().map(|l| format!("p50 {} us, p99 {} us", l.p50_ns / 1000, l.p99_ns / 1000));
    let measured = Measured::Text(text.clone().unwrap_or_default());
    report.check("pktgen's latency", measured, text.is_some(), "a latency");
}

fn mac(netns: &crate::netns::Netns, interface: &str) -> Result<String> {
    let link = netns.ip(&format!("-o link show dev {interface}"))?.stdout;
    let mac = link.split_whitespace().skip_while(|word| *word != "link/ether").nth(1);
    Ok(mac.with_context(|| format!("no MAC in `{}`", link.trim()))?.to_string())
}
