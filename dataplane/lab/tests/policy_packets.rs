//! What NetworkPolicies do to every flow between nine pods, against upstream's verdicts (`cases/policies`), by real packets
//! between pods on two nodes: TCP and UDP by sockets, SCTP by raw packets. All flows of a state go at once. Blocked means
//! that nothing comes back and that the drop counters name the policy; what running control and dataplane explain must be
//! the same. `policy_cases.rs` judges the same cases without packets.

#[path = "policy_cases/format.rs"]
mod format;
#[path = "policy_packets/prober.rs"]
mod prober;
#[path = "policy_packets/world.rs"]
mod world;

use anyhow::{Context, Result};
use control::listing::ExplainView;
use format::{Blocked, Case, Step, Verdict};
use lab::agent::transport::Transport;
use prober::{Outcome, Probe};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use world::{World, question};

/// An answer may be late on a busy machine.
const ANSWERED: Duration = Duration::from_secs(2);
/// Silence counts after this long.
const SILENT: Duration = Duration::from_millis(150);

/// Drops by node and policy.
type Drops = BTreeMap<(usize, String), u64>;

/// What one step came to.
#[derive(Default)]
struct Tally {
    flows: usize,
    blocked: usize,
    retries: Vec<String>,
    wrong: Vec<String>,
}

fn told(verdict: &Verdict) -> String {
    let Verdict(from, to, protocol, port, ..) = verdict;
    format!("{from} to {to}:{port} {protocol}")
}

fn transport(protocol: &str) -> Transport {
    match protocol {
        "TCP" => Transport::Tcp,
        "UDP" => Transport::Udp,
        _ => Transport::Sctp,
    }
}

/// What running nodes say of each flow of a state: at the sender, and where that is another node, at the receiver.
struct Explained {
    sent: Vec<ExplainView>,
    received: Vec<Option<ExplainView>>,
}

fn explain(world: &World, step: &Step) -> Result<Explained> {
    let mut asked: [Vec<(usize, bool)>; 2] = Default::default();
    let mut questions: [Vec<_>; 2] = Default::default();
    for (index, Verdict(from, to, protocol, port, ..)) in step.verdicts.iter().enumerate() {
        let question = question(&world.homes[from].0, &world.homes[to].0, *port, protocol);
        let (here, there) = (world.node_of(from)?, world.node_of(to)?);
        let halves = [Some((here, true)), (here != there).then_some((there, false))];
        for (node, is_sender) in halves.into_iter().flatten() {
            asked[node].push((index, is_sender));
            questions[node].push(question.clone());
        }
    }
    let count = step.verdicts.len();
    let mut explained = Explained { sent: vec![ExplainView::default(); count], received: vec![None; count] };
    for (node, questions) in questions.into_iter().enumerate() {
        for ((index, is_sender), told) in asked[node].iter().zip(world.explain(node, questions)?) {
            match is_sender {
                true => explained.sent[*index] = told,
                false => explained.received[*index] = Some(told),
            }
        }
    }
    Ok(explained)
}

impl Explained {
    /// What is wrong with what is said of a flow.
    fn wrong(&self, index: usize, blocked: Blocked) -> Option<String> {
        let reason = |told: &ExplainView| told.reason.clone().unwrap_or(told.verdict.clone());
        let (sent, received) = (&self.sent[index], self.received[index].as_ref());
        let half = match blocked {
            Blocked { egress: true, .. } => "PolicyEgress",
            Blocked { ingress: true, .. } if received.is_none() => "PolicyIngress",
            _ => "forward",
        };
        let ingress = if blocked.ingress { "PolicyIngress" } else { "forward" };
        let is_right = reason(sent) == half && received.is_none_or(|told| reason(told) == ingress);
        (!is_right).then(|| format!("explained as {} and {:?}", reason(sent), received.map(reason)))
    }

    /// The policy that the drop of a flow is counted for, and on which node.
    fn dropper(&self, world: &World, verdict: &Verdict, index: usize) -> Result<Option<(usize, String)>> {
        let sent = &self.sent[index];
        let (pod, told) = match &self.received[index] {
            Some(received) if sent.verdict == "forward" => (&verdict.1, received),
            _ => (&verdict.0, sent),
        };
        let policy = told.policy.clone().filter(|_| told.verdict == "drop");
        policy.map(|policy| Ok((world.node_of(pod)?, policy))).transpose()
    }

    fn drops(&self, world: &World, step: &Step) -> Result<Drops> {
        let mut drops = Drops::new();
        for (index, verdict) in step.verdicts.iter().enumerate() {
            if let Some(dropper) = self.dropper(world, verdict, index)? {
                *drops.entry(dropper).or_default() += 1;
            }
        }
        Ok(drops)
    }
}

/// Sends all flows of a state at once; what came of each, in their order.
fn probe(world: &World, step: &Step) -> Result<Vec<Outcome>> {
    let mut by_pod: BTreeMap<&str, Vec<(usize, Probe)>> = BTreeMap::new();
    for (index, verdict) in step.verdicts.iter().enumerate() {
        let Verdict(from, to, protocol, port, ..) = verdict;
        let is_blocked = verdict.blocked().is_some_and(|blocked| blocked.egress || blocked.ingress);
        let limit = if is_blocked { SILENT } else { ANSWERED };
        let probe = Probe { to: SocketAddr::new(world.address(to)?, *port), transport: transport(protocol), limit };
        by_pod.entry(from).or_default().push((index, probe));
    }
    let probes = |all: &[(usize, Probe)]| all.iter().map(|(_, probe)| *probe).collect();
    by_pod.iter().try_for_each(|(pod, all)| world.probers[*pod].ask(probes(all)))?;
    let mut outcomes = vec![Outcome::Silence; step.verdicts.len()];
    for (pod, all) in &by_pod {
        let told = world.probers[*pod].told().with_context(|| pod.to_string())?;
        all.iter().zip(told).for_each(|((index, _), outcome)| outcomes[*index] = outcome);
    }
    Ok(outcomes)
}

fn counted(world: &World) -> Result<Drops> {
    let mut drops = Drops::new();
    for node in 0..world.lab.nodes.len() {
        drops.extend(world.drops(node)?.into_iter().map(|(policy, count)| ((node, policy), count)));
    }
    Ok(drops)
}

/// What is wrong with what became of the packets.
fn packets(world: &World, step: &Step, explained: &Explained) -> Result<Vec<String>> {
    let before = counted(world)?;
    let outcomes = probe(world, step)?;
    let mut wrong = Vec::new();
    for (verdict, outcome) in step.verdicts.iter().zip(outcomes) {
        let is_blocked = verdict.blocked().is_none_or(|blocked| blocked.egress || blocked.ingress);
        let expected = if is_blocked { Outcome::Silence } else { Outcome::Answered };
        if outcome != expected {
            wrong.push(format!("{}: {expected:?} expected, {outcome:?}", told(verdict)));
        }
    }
    let grown = |(dropper, count): (&(usize, String), &u64)| {
        let by = count - before.get(dropper).copied().unwrap_or(0).min(*count);
        (by > 0).then(|| (dropper.clone(), by))
    };
    let (grown, expected) =
        (counted(world)?.iter().filter_map(grown).collect::<Drops>(), explained.drops(world, step)?);
    if grown != expected {
        wrong.push(format!("drops {expected:?} expected, {grown:?} counted"));
    }
    Ok(wrong)
}

fn play(world: &mut World, case: &Case, number: usize, step: &Step, tally: &mut Tally) -> Result<()> {
    let at = format!("case {} ({}), state {number}", case.id, case.description);
    world.reach(step).with_context(|| at.clone())?;
    let explained = explain(world, step)?;
    for (index, verdict) in step.verdicts.iter().enumerate() {
        let blocked = verdict.blocked().with_context(|| format!("{at}: no such verdict: {verdict:?}"))?;
        tally.flows += 1;
        tally.blocked += usize::from(blocked.egress || blocked.ingress);
        let wrong = explained.wrong(index, blocked);
        tally.wrong.extend(wrong.map(|wrong| format!("{at}: {}: {wrong}", told(verdict))));
    }
    let first = packets(world, step, &explained)?;
    if first.is_empty() {
        return Ok(());
    }
    tally.retries.push(format!("{at}: {}", first.join("; ")));
    let again = packets(world, step, &explained)?;
    tally.wrong.extend(again.into_iter().map(|wrong| format!("{at}: {wrong}")));
    Ok(())
}

/// Plays every case of those that there are, or every second, third, ...; how many flows these have.
fn play_every(nth: usize, workers: u32) -> Result<usize> {
    let _one = lab::one_at_a_time();
    let cases = format::read(world::rename)?;
    let mut world = World::start(workers)?;
    let (mut tally, since) = (Tally::default(), Instant::now());
    for case in cases.iter().step_by(nth) {
        for (number, step) in case.steps.iter().enumerate() {
            play(&mut world, case, number, step, &mut tally)?;
        }
    }
    let Tally { flows, blocked, retries, wrong } = tally;
    let count = cases.len().div_ceil(nth);
    println!("{count} cases, {flows} flows, {blocked} of them blocked, {workers} workers: {:?}", since.elapsed());
    println!("{} states were tried again:\n{}", retries.len(), retries.join("\n"));
    assert!(wrong.is_empty(), "wrong:\n{}", wrong.join("\n"));
    Ok(flows)
}

#[test]
fn every_flow_between_pods_goes_or_is_dropped_by_name_as_its_case_says() -> Result<()> {
    assert_eq!(play_every(1, 2)?, 54_336);
    Ok(())
}

#[test]
fn and_so_they_do_with_one_worker() -> Result<()> {
    play_every(4, 1).map(drop)
}
