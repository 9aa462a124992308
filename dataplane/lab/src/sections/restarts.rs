//! Section 5: control is killed amid traffic and returns; then the dataplane is killed and returns.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::agent::converse::Conversation;
use crate::agent::serve::ECHO_PORT;
use crate::iperf;
use crate::lab;
use crate::pod::{Identity, Pod};
use crate::process::Process;
use crate::report::{Measured, Report};
use crate::sections::web_service;
use crate::shell::Cmd;
use crate::stage::{Ping, Stage, harvest, iperf_client};
use crate::wait::{now_us, sleep_ms};

/// A steady rate below what two shared cores can do, so that a lost packet means something.
const RATE: &str = "-b 300M";
/// Retransmissions are compared in windows of this many seconds.
const WINDOW_S: f64 = 2.0;
/// One in two thousand packets: what a machine that is busy otherwise loses by itself now and then. A pause of 1 ms would be
/// as many.
const RETRANSMITS_MORE_MAX: u64 = 25;

/// The course of the first half, in milliseconds.
const BEFORE_MS: u64 = 6000;
const WITHOUT_CONTROL_MS: u64 = 4000;
const AFTER_MS: u64 = 3000;
/// Requests a second of the curl loop, and for how long.
const CURL_RATE: u64 = 40;
const CURL_S: u64 = 13;

/// From the dataplane's return until an established connection goes on.
const RESUME_MAX_MS: f64 = 1000.0;

pub fn play(stage: &mut Stage, report: &mut Report) -> Result<()> {
    control_dies(stage, report)?;
    dataplane_dies(stage, report)
}

fn control_dies(stage: &mut Stage, report: &mut Report) -> Result<()> {
    let _server = stage.iperf_server(stage.lab.pod("bob")?)?;
    let (stream, loop_) = (start_iperf(stage, "-t 15 -i 0.5")?, start_curl_loop(stage)?);
    let started = Instant::now();
    stage.show.progress(&format!("iperf3 and a curl loop run; {} s later ...", BEFORE_MS / 1000));
    sleep_ms(BEFORE_MS);
    let killed_s = started.elapsed().as_secs_f64();
    for node in &mut stage.lab.nodes {
        stage.show.typed(&format!(
            "kill -KILL {}   # fairway-control of {}",
            node.control_pid().unwrap_or(0),
            node.name()
        ));
        node.kill_control()?;
    }
    sleep_ms(WITHOUT_CONTROL_MS);
    stage.show.progress(&format!("{} s without control; now both start again ...", WITHOUT_CONTROL_MS / 1000));
    for node in &mut stage.lab.nodes {
        node.start_control()?;
        node.wait_connected()?;
    }
    sleep_ms(AFTER_MS);
    judge_retransmits(stage, report, stream, killed_s)?;
    judge_curl_loop(report, loop_)?;
    attachments_are_known(stage, report)
}

fn start_iperf(stage: &Stage, options: &str) -> Result<Process> {
    let (alice, bob) = (stage.lab.pod("alice")?, stage.lab.pod("bob")?);
    let command = iperf_client(alice.netns(), bob, &format!("{RATE} {options}"));
    stage.show.typed(&command.typed());
    Process::spawn("iperf3-client", &command, stage.lab.directory())
}

fn start_curl_loop(stage: &Stage) -> Result<Process> {
    let url = format!("http://{}/?n=[1-{}]", web_service(), CURL_RATE * CURL_S);
    let command = Cmd::line(&format!("curl -s --rate {CURL_RATE}/s --max-time 3 -o /dev/null -w"))
        .arg(r"%{http_code} %{errormsg}\n")
        .arg(url)
        .netns(stage.lab.pod("alice")?.netns());
    stage.show.typed(&command.typed());
    Process::spawn("curl-loop", &command, stage.lab.directory())
}

fn judge_retransmits(stage: &Stage, report: &mut Report, stream: Process, killed_s: f64) -> Result<()> {
    let run = iperf::Run::parse(&stream.finish(Duration::from_secs(20))?)?;
    let end = run.intervals.last().context("iperf3 reports no interval")?.end;
    let before = run.worst_retransmits(0.0, killed_s, WINDOW_S);
    let after = run.worst_retransmits(killed_s, end, WINDOW_S);
    let rate = run.megabits_per_second();
    stage.show.progress(&format!(
        "iperf3: {rate:.0} Mbit/s; retransmitted in the worst {WINDOW_S} s: {before} before, {after} since"
    ));
    let limit = before + RETRANSMITS_MORE_MAX;
    let what = format!("iperf3 retransmits in its worst {WINDOW_S} s since control died");
    report.check(what, Measured::Count(after), after <= limit, format!("at most {before} + {RETRANSMITS_MORE_MAX}"));
    // Its last interval may be a splinter.
    let whole = run.intervals.iter().filter(|interval| interval.start >= 0.5 && interval.end - interval.start > 0.25);
    let stalled = whole.filter(|interval| interval.bytes == 0).count();
    report.exactly("half seconds in which iperf3 stood still", stalled as u64, 0);
    Ok(())
}

fn judge_curl_loop(report: &mut Report, curl: Process) -> Result<()> {
    let text = curl.finish(Duration::from_secs(20))?;
    let bad: Vec<&str> = text.lines().filter(|line| !line.starts_with("200")).collect();
    let what = format!("of {} requests while control was there, gone and back, failed", text.lines().count());
    let good = bad.is_empty() && text.lines().count() as u64 == CURL_RATE * CURL_S;
    let expected = format!("0 of {}; {}", CURL_RATE * CURL_S, bad.first().unwrap_or(&"none failed"));
    report.check(what, Measured::Count(bad.len() as u64), good, expected);
    Ok(())
}

/// The new control process knows the pods that the old one attached.
fn attachments_are_known(stage: &Stage, report: &mut Report) -> Result<()> {
    for name in ["alice", "bob"] {
        let (pod, node) = (stage.lab.pod(name)?, stage.lab.node_of(name)?);
        let checked = node.plugin().check(pod.container(), &pod.attachment().result);
        let said = checked.map_or_else(|error| format!("{error:#}"), |()| "ok".to_string());
        report.equal(format!("CNI CHECK of {name} after control's return"), &said, "ok");
    }
    Ok(())
}

/// Connections that were there before the dataplane died.
struct Established {
    conversations: Vec<(String, Process)>,
    stream: Process,
    stream_started: Instant,
    host_ping: Process,
}

fn dataplane_dies(stage: &mut Stage, report: &mut Report) -> Result<()> {
    let _server = stage.iperf_server(stage.lab.pod("bob")?)?;
    let before = identities(stage)?;
    let mut established = establish(stage)?;
    sleep_ms(1200);
    tell_all(&mut established, "pause")?;
    // The last echo is on its way back for a moment.
    sleep_ms(50);
    let killed = Instant::now();
    let killed_s = established.stream_started.elapsed().as_secs_f64();
    let node = &mut stage.lab.nodes[0];
    stage.show.typed(&format!("kill -KILL {}   # fairway-dataplane of node-1", node.dataplane_pid().unwrap_or(0)));
    node.kill_dataplane()?;
    node.wait_dataplane_gone()?;
    report.check("`fairway status` says so", Measured::Text("dataplane gone".into()), true, "");
    node.start_dataplane()?;
    node.wait_connected()?;
    let (returned_us, outage) = (now_us(), killed.elapsed());
    stage.show.progress(&format!("the dataplane was away for {} ms", outage.as_millis()));
    tell_all(&mut established, "go")?;
    sleep_ms(2000);
    judge_established(report, established, returned_us, killed_s, outage)?;
    let kept =
        before.iter().filter(|(name, old)| stage.lab.pod(name).and_then(Pod::identity).is_ok_and(|new| new == *old));
    report.exactly("pods of node-1 that kept interface, MAC and address", kept.count() as u64, before.len() as u64);
    Ok(())
}

fn identities(stage: &Stage) -> Result<Vec<(String, Identity)>> {
    let pods = stage.lab.pods().filter(|pod| pod.node == 0);
    pods.map(|pod| Ok((pod.name().to_string(), pod.identity()?))).collect()
}

fn establish(stage: &Stage) -> Result<Established> {
    let alice = stage.lab.pod("alice")?;
    let targets = [
        ("alice -> web-1 on one node", stage.lab.pod("web-1")?.echo()),
        ("alice -> web-2 across nodes", stage.lab.pod("web-2")?.echo()),
        ("alice -> service web", format!("{}:7", web_service())),
        ("alice -> client outside, masqueraded", format!("{}:{ECHO_PORT}", lab::client_address())),
    ];
    let converse = |(number, (what, to)): (usize, &(&str, String))| {
        let arguments = format!("converse --to {to}");
        Ok((what.to_string(), stage.spawn_agent(&format!("converse-{number}"), alice.netns(), &arguments)?))
    };
    let conversations = targets.iter().enumerate().map(converse).collect::<Result<Vec<_>>>()?;
    let node = &stage.lab.nodes[0];
    let ping = Cmd::line("ping -q -i 0.02 -c 150").arg(stage.lab.nodes[1].address()).netns(node.netns());
    stage.show.typed(&ping.typed());
    let host_ping = Process::spawn("host-ping", &ping, stage.lab.directory())?;
    Ok(Established {
        conversations,
        stream: start_iperf(stage, "-t 6 -i 0.1")?,
        stream_started: Instant::now(),
        host_ping,
    })
}

fn tell_all(established: &mut Established, word: &str) -> Result<()> {
    established.conversations.iter_mut().try_for_each(|(_, conversation)| conversation.tell(word))
}

fn judge_established(
    report: &mut Report,
    established: Established,
    returned_us: u64,
    killed_s: f64,
    outage: Duration,
) -> Result<()> {
    let ping = Ping::in_text(&established.host_ping.finish(Duration::from_secs(10))?)?;
    let lost = ping.sent - ping.received;
    report.exactly(format!("the node's own {} pings meanwhile, lost", ping.sent), lost, 0);
    for (what, conversation) in established.conversations {
        let conversation: Conversation = harvest(conversation)?;
        judge_conversation(report, &what, &conversation, returned_us);
    }
    let run = iperf::Run::parse(&established.stream.finish(Duration::from_secs(10))?)?;
    judge_stream(report, &run, killed_s, outage);
    Ok(())
}

fn judge_conversation(report: &mut Report, what: &str, conversation: &Conversation, returned_us: u64) {
    let after = conversation.exchanges.iter().find(|exchange| exchange.sent_us >= returned_us);
    let before = conversation.exchanges.iter().filter(|exchange| exchange.echoed_us < returned_us).count();
    let what = format!("established {what}: goes on after");
    match (after, before) {
        (Some(exchange), 1..) => {
            report.within_ms(what, (exchange.echoed_us - returned_us) as f64 / 1000.0, RESUME_MAX_MS);
        }
        _ => {
            let why = conversation.broken.clone().unwrap_or_else(|| "nothing came back".to_string());
            report.check(what, Measured::Text(why), false, format!("at most {RESUME_MAX_MS} ms"));
        }
    }
}

/// iperf3 kept sending into the outage, so its kernel's retransmission timer doubled meanwhile:
/// by then up to as long again as the outage was.
fn judge_stream(report: &mut Report, run: &iperf::Run, killed_s: f64, outage: Duration) {
    let outage_ms = outage.as_secs_f64() * 1000.0;
    let resumed_s = run.first_progress(killed_s + outage.as_secs_f64());
    let resumed_ms = resumed_s.map_or(f64::INFINITY, |s| (s - killed_s) * 1000.0 - outage_ms);
    let what = format!("iperf3, which sent on during these {outage_ms:.0} ms, goes on after");
    report.within_ms(what, resumed_ms, RESUME_MAX_MS + outage_ms);
}
