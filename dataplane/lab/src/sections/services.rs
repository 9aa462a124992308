//! Section 2: requests to a ClusterIP spread evenly; a backend that goes takes no request with it;
//! a pod reaches itself through its own service.

use std::time::Duration;

use anyhow::Result;

use crate::agent::load::Request;
use crate::report::{Measured, Report};
use crate::sections::{WEB, mirror_service, web_service};
use crate::shell::Cmd;
use crate::stage::{Stage, harvest};
use crate::traffic::{answers_by_name, failures, spread, started, worst_share_percent};
use crate::wait::{now_us, sleep_ms};

const REQUESTS: u64 = 900;
/// How far a backend may be off from its equal share, in per cent.
const OFF_MAX_PERCENT: f64 = 25.0;
const DATAGRAMS: u64 = 20;

pub fn play(stage: &mut Stage, report: &mut Report) -> Result<()> {
    stage.show.ran(&stage.lab.nodes[0].fairway().run("services -A")?);
    spreads_evenly(stage, report)?;
    over_udp(stage, report)?;
    hairpin(stage, report)?;
    backend_goes(stage, report)
}

/// One curl, 900 URLs; the server closes each connection, so each request is on a new one.
fn spreads_evenly(stage: &Stage, report: &mut Report) -> Result<()> {
    let alice = stage.lab.pod("alice")?;
    let url = format!("http://{}/?n=[1-{REQUESTS}]", web_service());
    let command = Cmd::line("curl -sS --max-time 2").arg(url).netns(alice.netns()).limit(Duration::from_secs(120));
    stage.show.typed(&command.typed());
    let ran = command.run()?;
    let answers = answers_by_name(&ran.stdout);
    stage.show.answer(&format!("{} in {:.1} s", spread(&answers), ran.took.as_secs_f64()));
    stage.show.answer(ran.stderr.lines().next().unwrap_or_default());
    report.exactly(format!("of {REQUESTS} requests on new connections, answered"), answers.values().sum(), REQUESTS);
    let off = worst_share_percent(&answers, WEB.len());
    let limit = format!("at most {OFF_MAX_PERCENT} %");
    report.check("worst off from its third", Measured::Percent(off), off <= OFF_MAX_PERCENT, limit);
    Ok(())
}

fn over_udp(stage: &Stage, report: &mut Report) -> Result<()> {
    let alice = stage.lab.pod("alice")?;
    let send = format!("send --echo --count {DATAGRAMS} --to {}:7", web_service());
    let ran = stage.run(&stage.agent(alice.netns(), &send))?.ok()?;
    let echoed = ran.stdout.trim().parse()?;
    report.exactly(format!("of {DATAGRAMS} UDP datagrams to the service, echoed"), echoed, DATAGRAMS);
    Ok(())
}

fn hairpin(stage: &Stage, report: &mut Report) -> Result<()> {
    let web = stage.lab.pod("web-1")?;
    let sources: Vec<String> = stage.lab.nodes[0].reserved_addresses()?.iter().map(ToString::to_string).collect();
    let url = format!("http://{}/", mirror_service());
    stage.curl_sees(report, "a pod reaches itself through its service", web.netns(), &url, ("web-1", &sources))
}

/// web-3 goes while requests run: its object first, its server as soon as that is in force.
fn backend_goes(stage: &mut Stage, report: &mut Report) -> Result<()> {
    let client = stage.lab.pod("alice")?.netns().clone();
    let load = stage.spawn_agent("load", &client, &format!("load --parallel 4 --to {}:80", web_service()))?;
    sleep_ms(700);
    stage.show.typed(&format!("rm {}", stage.lab.objects().file("pod-web-3").display()));
    let in_force_us = withdraw(stage, "web-3")?;
    stage.lab.kill_server("web-3")?;
    sleep_ms(1500);
    let requests: Vec<Request> = harvest(load)?;
    judge_departure(report, &requests, in_force_us);
    restore(stage, report, "web-3")
}

/// Takes the pod out of the service; the time at which that was known to be in force everywhere.
fn withdraw(stage: &mut Stage, pod: &str) -> Result<u64> {
    let before: Vec<u64> = generations(stage)?;
    stage.lab.withdraw_pod(pod)?;
    for (node, generation) in stage.lab.nodes.iter_mut().zip(before) {
        node.wait_published_after(generation)?;
    }
    Ok(now_us())
}

fn generations(stage: &Stage) -> Result<Vec<u64>> {
    stage.lab.nodes.iter().map(|node| Ok(node.fairway().status()?.generation)).collect()
}

fn judge_departure(report: &mut Report, requests: &[Request], in_force_us: u64) {
    let after: Vec<&Request> = started(requests, in_force_us, u64::MAX).collect();
    let (failed, why) = failures(after.iter().copied());
    let what = format!("of {} requests started after web-3 was gone, failed", after.len());
    let expected = format!("0 of at least 50; {}", why.unwrap_or("none failed"));
    report.check(what, Measured::Count(failed), failed == 0 && after.len() >= 50, expected);
    let to_the_gone = after.iter().filter(|request| request.answer.as_deref() == Ok("web-3")).count();
    report.exactly("answers of web-3 among them", to_the_gone as u64, 0);
}

fn restore(stage: &mut Stage, report: &mut Report, pod: &str) -> Result<()> {
    stage.lab.start_server(pod)?;
    let before = generations(stage)?;
    stage.lab.publish_pod(pod)?;
    for (node, generation) in stage.lab.nodes.iter_mut().zip(before) {
        node.wait_published_after(generation)?;
    }
    let url = format!("http://{}/?n=[1-60]", web_service());
    let ran = Cmd::line("curl -sS --max-time 5").arg(url).netns(stage.lab.pod("alice")?.netns()).run()?;
    let answers = answers_by_name(&ran.stdout);
    let good = answers.contains_key(pod) && answers.values().sum::<u64>() == 60;
    report.check("back again, of 60 requests", Measured::Text(spread(&answers)), good, "60 answers, web-3 among them");
    Ok(())
}
