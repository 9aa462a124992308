//! Section 4: a NetworkPolicy file takes effect within 100 ms, on what it names and nothing else;
//! `drops` and `explain` name it; a forged source is stopped and counted.

use std::net::IpAddr;

use anyhow::Result;

use crate::agent::load::Request;
use crate::agent::serve::HTTP_PORT;
use crate::cni::POD_INTERFACE;
use crate::fairway::Drops;
use crate::manifests::{self, NAMESPACE};
use crate::process::Process;
use crate::report::{Measured, Report};
use crate::stage::{Stage, harvest};
use crate::traffic::{failures, first_answer_us, last_answered_us, started};
use crate::wait::sleep_ms;

const POLICY: &str = "web-friends-only";
const POLICY_FILE: &str = "networkpolicy-web-friends-only";
/// From the file's appearance until nothing that it forbids begins any more.
const CUT_MAX_MS: f64 = 100.0;
/// A request that waits for a lost packet's retransmission needs more than 1 s; a cut one ends before.
const LOAD: &str = "load --parallel 6 --pause-ms 2 --limit-ms 300";
/// From the file's end until answers come again: the cut, and a request that was waiting.
const RETURN_MAX_MS: f64 = 500.0;
const FORGED: u64 = 5;

/// Loads that run while the policy comes and goes.
struct Loads {
    cut: Vec<(String, Process)>,
    open: Vec<(String, Process)>,
}

pub fn play(stage: &mut Stage, report: &mut Report) -> Result<()> {
    stage.show.ran(&stage.lab.nodes[0].fairway().run("policies -A")?);
    let loads = start_loads(stage)?;
    sleep_ms(500);
    let file = stage.lab.objects().file(POLICY_FILE);
    stage.show.typed(&format!("cp {POLICY}.yaml {}", file.display()));
    let applied_us = stage.lab.objects().apply(POLICY_FILE, &manifests::friends_only(POLICY))?;
    let shown = observe(stage, report);
    // Whatever was found, the policy goes again: other sections follow.
    stage.show.typed(&format!("rm {}", file.display()));
    let removed_us = stage.lab.objects().delete(POLICY_FILE)?;
    shown?;
    sleep_ms(800);
    judge(report, loads, applied_us, removed_us)?;
    forged_source(stage, report)
}

fn start_loads(stage: &Stage) -> Result<Loads> {
    let cut = [("mallory", "web-1"), ("mallory", "web-2")];
    let open = [("alice", "web-1"), ("alice", "web-2"), ("mallory", "bob")];
    let start = |(from, to): (&str, &str)| {
        let what = format!("{from}-to-{to}");
        // The open ones only have to run beside: they leave the processor to the others.
        let pace = if cut.contains(&(from, to)) { LOAD } else { "load --pause-ms 10" };
        let target = (stage.lab.pod(to)?.address(), HTTP_PORT);
        let arguments = format!("{pace} --to {}", std::net::SocketAddr::from(target));
        Ok((format!("{from} -> {to}"), stage.spawn_agent(&what, stage.lab.pod(from)?.netns(), &arguments)?))
    };
    let all = |pairs: &[(&'static str, &'static str)]| pairs.iter().copied().map(start).collect::<Result<Vec<_>>>();
    Ok(Loads { cut: all(&cut)?, open: all(&open)? })
}

/// While the policy is in force: what the commands say about it.
fn observe(stage: &Stage, report: &mut Report) -> Result<()> {
    sleep_ms(800);
    let (mallory, web) = (stage.lab.pod("mallory")?, stage.lab.pod("web-1")?);
    stage.curl_fails(report, "mallory -> web-1 while the policy is there", mallory, &web.url())?;
    let fairway = stage.lab.nodes[0].fairway();
    let name = format!("{NAMESPACE}/{POLICY}");
    stage.show.ran(&fairway.run("drops")?);
    let dropped: u64 =
        fairway.drops()?.iter().filter(|drops| drops.policy.as_ref() == Some(&name)).map(|d| d.count).sum();
    report.check("drops that name the policy", Measured::Count(dropped), dropped > 0, "at least 1");
    let (from, to) = (mallory.full_name(), format!("{}:{HTTP_PORT}/tcp", web.address()));
    stage.show.ran(&fairway.run(&format!("explain {from} {to}"))?);
    let explained = fairway.explain(&from, &to)?;
    let said = format!("{} by {}", explained.verdict, explained.policy.as_deref().unwrap_or("no policy"));
    report.equal("explain mallory -> web-1", &said, &format!("drop by {name}"));
    let friend = fairway.explain(&stage.lab.pod("alice")?.full_name(), &to)?;
    report.equal("explain alice -> web-1", &friend.verdict, "forward");
    Ok(())
}

fn judge(report: &mut Report, loads: Loads, applied_us: u64, removed_us: u64) -> Result<()> {
    for (what, load) in loads.cut {
        let requests: Vec<Request> = harvest(load)?;
        let before = started(&requests, 0, applied_us).filter(|request| request.answer.is_ok()).count();
        report.check(format!("{what} before the policy, answers"), Measured::Count(before as u64), before > 0, "some");
        let during: Vec<Request> = started(&requests, applied_us, removed_us).cloned().collect();
        let last_us = last_answered_us(&during).unwrap_or(applied_us);
        report.within_ms(format!("{what} cut after"), milliseconds(applied_us, last_us), CUT_MAX_MS);
        let back_us = first_answer_us(&requests, removed_us).unwrap_or(u64::MAX);
        report.within_ms(format!("{what} back after"), milliseconds(removed_us, back_us), RETURN_MAX_MS);
    }
    for (what, load) in loads.open {
        let requests: Vec<Request> = harvest(load)?;
        let (failed, why) = failures(requests.iter());
        let good = failed == 0 && !requests.is_empty();
        let what = format!("{what}, of {} requests failed", requests.len());
        report.check(what, Measured::Count(failed), good, format!("0; {}", why.unwrap_or("there were none")));
    }
    Ok(())
}

fn milliseconds(from_us: u64, to_us: u64) -> f64 {
    to_us.saturating_sub(from_us) as f64 / 1000.0
}

/// mallory takes alice's address as a second one and sends from it.
fn forged_source(stage: &Stage, report: &mut Report) -> Result<()> {
    let (mallory, web) = (stage.lab.pod("mallory")?, stage.lab.pod("web-1")?);
    let stolen = stage.lab.pod("alice")?.address();
    let fairway = stage.lab.nodes[0].fairway();
    // The neighbour is resolved with mallory's own address, so that only the pings are forged.
    stage.ping(mallory.netns(), "-c 1", web.address())?;
    let before = fairway.drops()?;
    mallory.netns().ip(&format!("address add {stolen}/32 dev {POD_INTERFACE}"))?;
    let ping = stage.ping(mallory.netns(), &format!("-c {FORGED} -i 0.05 -W 0.3 -I {stolen}"), web.address());
    mallory.netns().ip(&format!("address del {stolen}/32 dev {POD_INTERFACE}"))?;
    sleep_ms(100);
    judge_forgery(report, ping?.received, stolen, &before, &fairway.drops()?);
    Ok(())
}

fn judge_forgery(report: &mut Report, answered: u64, stolen: IpAddr, before: &[Drops], after: &[Drops]) {
    report.exactly(format!("pings from the forged source {stolen}, answered"), answered, 0);
    let grown: Vec<String> = growth(before, after).map(|(reason, count)| format!("{reason} +{count}")).collect();
    let good = growth(before, after).any(|(reason, count)| names_the_source(reason) && count == FORGED);
    let expected = format!("a reason that names the source to grow by {FORGED}");
    report.check("drops for it", Measured::Text(grown.join(", ")), good, expected);
}

fn names_the_source(reason: &str) -> bool {
    let reason = reason.to_lowercase();
    ["spoof", "forge", "source"].iter().any(|word| reason.contains(word))
}

/// Reasons whose total grew, with by how much.
fn growth<'a>(before: &'a [Drops], after: &'a [Drops]) -> impl Iterator<Item = (&'a str, u64)> {
    let totals = after.iter().filter(|row| row.policy.is_none());
    totals.filter_map(|row| {
        let reason = row.reason.as_str();
        let grown = row.count.saturating_sub(Drops::total(before, |other| other == reason));
        (grown > 0).then_some((reason, grown))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drops(reason: &str, count: u64, policy: Option<&str>) -> Drops {
        Drops { reason: reason.into(), count, policy: policy.map(str::to_string) }
    }

    #[test]
    fn growth_is_that_of_a_reasons_total() {
        let before = [drops("SpoofedAddress", 1, None)];
        let after = [
            drops("SpoofedAddress", 6, None),
            drops("PolicyIngress", 4, None),
            drops("PolicyIngress", 4, Some("demo/p")),
            drops("Malformed", 0, None),
        ];
        assert_eq!(growth(&before, &after).collect::<Vec<_>>(), [("SpoofedAddress", 5), ("PolicyIngress", 4)]);
        assert!(names_the_source("SpoofedAddress") && !names_the_source("PolicyIngress"));
    }
}
