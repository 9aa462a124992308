//! When affinity ends: the case of two backends and a day of affinity, a day scaled to two seconds. The injected clock of the
//! dataplane's own tests is exact about the moment; here it is the timer of a real worker.

use super::format::Case;
use super::state::State;
use super::{LIMIT_MS, Run};
use anyhow::{Context, Result, ensure};
use lab::agent::question::{Outcome, Question};
use lab::agent::transport::Transport;
use lab::wait;
use serde_json::json;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

const CASE: &str = "affinity-backend-goes-away";
/// Every pod begins anew in each round: that all of eleven choose as before in all rounds is a chance of 2^-22.
const ROUNDS: usize = 3;
const AFFINITY: Duration = Duration::from_secs(2);
/// Two of these together are longer than the affinity, which counts from the last connection.
const BETWEEN_MS: u64 = 1200;
const OVER_MS: u64 = 2800;

/// While connections keep coming the backend stays the same; a while after the last one it is chosen anew.
pub fn ends_with_its_time(run: &Run, state: &mut State) -> Result<()> {
    let cases = run.world.cases(&super::format::read_texts()?)?;
    let mut case: Case = cases.into_iter().find(|case| case.name == CASE).context("the case is there")?;
    let mut steps = case.steps();
    let to = SocketAddr::new(steps[0].flows[0].to.ip(), steps[0].flows[0].port);
    for object in steps[0].apply.iter_mut().filter(|object| object["kind"] == "Service") {
        object["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"] = json!(AFFINITY.as_secs());
    }
    state.reach(run.world, &steps[0])?;
    let pods: Vec<IpAddr> = run.world.pod_addresses().collect();
    let (mut last, mut stayed, mut moved) = (Vec::new(), 0, 0);
    for round in 0..ROUNDS {
        if round > 0 {
            wait::sleep_ms(OVER_MS);
        }
        let begun = Instant::now();
        let first = chosen(run, &pods, to)?;
        moved += if round > 0 { first.iter().zip(&last).filter(|(now, before)| now != before).count() } else { 0 };
        let (kept, judged) = kept(run, &pods, to, &first, begun)?;
        ensure!(kept, "a client moved although its affinity was not over");
        stayed += judged;
        last = first;
    }
    state.clear();
    println!(
        "affinity of {AFFINITY:?}: {stayed} times kept by connections in time, {moved} clients moved when it was over"
    );
    ensure!(stayed > 0 && moved > 0, "affinity must both hold and end");
    Ok(())
}

/// Whether all keep their backends over connections that come in time, and how many such there were: on a busy machine
/// some may come too late to be judged, and then no later one is, either.
fn kept(run: &Run, pods: &[IpAddr], to: SocketAddr, first: &[SocketAddr], mut begun: Instant) -> Result<(bool, usize)> {
    let mut judged = 0;
    for _ in 0..2 {
        wait::sleep_ms(BETWEEN_MS);
        let since = std::mem::replace(&mut begun, Instant::now());
        let now = chosen(run, pods, to)?;
        if since.elapsed() > AFFINITY {
            break;
        }
        if now != first {
            return Ok((false, judged));
        }
        judged += pods.len();
    }
    Ok((true, judged))
}

/// The backend of each of these pods: that of all connections it opens now.
fn chosen(run: &Run, pods: &[IpAddr], to: SocketAddr) -> Result<Vec<SocketAddr>> {
    let question =
        |from: &IpAddr| Question { from: *from, to, transport: Transport::Tcp, count: 3, limit_ms: LIMIT_MS };
    let homes: Vec<_> = pods.iter().map(|pod| run.world.pod(*pod).context("a pod")).collect::<Result<_>>()?;
    let asked: Vec<_> = std::thread::scope(|scope| {
        let asking: Vec<_> = pods
            .iter()
            .zip(homes)
            .map(|(pod, home)| scope.spawn(move || run.ask_from(home, &[question(pod)])))
            .collect();
        asking.into_iter().map(|asked| asked.join().expect("no panic")).collect()
    });
    asked.into_iter().map(|outcomes| one_backend(&outcomes?[0])).collect()
}

fn one_backend(outcomes: &[Outcome]) -> Result<SocketAddr> {
    let backends: Vec<_> = outcomes
        .iter()
        .map(|outcome| match outcome {
            Outcome::Answered { by, .. } => Some(*by),
            _ => None,
        })
        .collect();
    let first = backends.first().copied().flatten();
    ensure!(backends.iter().all(|backend| *backend == first), "not one backend: {outcomes:?}");
    first.with_context(|| format!("no backend: {outcomes:?}"))
}
