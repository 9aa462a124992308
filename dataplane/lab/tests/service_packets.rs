//! What becomes of the first packet of a new connection to a service, against expected behaviour as data
//! (`cases/services/*.jsonl`), by real packets: a node that runs Fairway, its pods, other nodes, clients outside, each in a
//! namespace, and real sockets. `service_cases.rs` judges the same cases by `explain`, which is exact about sets of backends;
//! here every backend must be hit and nobody besides.

#[path = "service_packets/affinity.rs"]
mod affinity;
#[path = "service_cases/format.rs"]
#[allow(dead_code, reason = "some of it is for those who judge without packets")]
mod format;
#[path = "service_packets/judge.rs"]
mod judge;
#[path = "service_packets/state.rs"]
mod state;
#[path = "service_packets/tally.rs"]
mod tally;
#[path = "service_packets/topology.rs"]
mod topology;
#[path = "service_packets/world.rs"]
mod world;

use anyhow::{Context, Result};
use format::{Case, Config, Flow, Health, Step};
use judge::{Judge, connections_of};
use lab::agent::question::{Outcome, Question};
use lab::agent::transport::Transport;
use lab::fairway::Drops;
use lab::netns::Netns;
use lab::shell::Cmd;
use state::State;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tables::Addr;
use tally::Tally;
use world::{NODE_ADDRESSES, Ports, World};

/// An answer may be late on a busy machine.
const LIMIT_MS: u64 = 5000;
/// Silence counts after this long.
const SILENCE_MS: u64 = 400;
/// What services drop, as `fairway drops` calls it.
const SERVICE_DROPS: [&str; 3] = ["ServiceUnknown", "NoLocalBackend", "SourceRange"];

/// Options of control that a case asks for.
fn control_args(config: &Config) -> Vec<String> {
    let mut args = vec!["--external-ip-ranges".into(), "192.0.2.0/24,2001:db8:bbbb::/48".into()];
    args.extend(["--node-port-addresses".into(), config.node_port_addresses.join(",")]);
    if config.detect_local == "none" {
        args.extend(["--detect-local".into(), "none".into()]);
    }
    if config.masquerade_all {
        args.push("--masquerade-all".into());
    }
    if config.localhost_node_ports {
        args.push("--localhost-node-ports".into());
    }
    args
}

fn transport(flow: &Flow) -> Transport {
    match flow.protocol() {
        tables::Protocol::TCP => Transport::Tcp,
        tables::Protocol::UDP => Transport::Udp,
        _ => Transport::Sctp,
    }
}

/// Changes a flow to what Fairway does by design where that differs from the case; says why. As in `service_cases.rs`.
fn adapt(flow: &mut Flow) -> Option<&'static str> {
    match (flow.from_kind.as_str(), flow.from.ip()) {
        ("pod-remote", IpAddr::V4(pod)) => {
            let [_, _, number, _] = pod.octets();
            flow.from = Addr::v4([192, 168, 0, 2 + number]);
            Some("a pod's packet to another node leaves its own masqueraded: asked by that node")
        }
        ("node", _) if flow.expect.verdict == "forward" && !flow.expect.masquerade => {
            flow.expect.masquerade = true;
            Some(
                "what the node sends into the pod network is always masqueraded, or replies would not come by the tunnel",
            )
        }
        _ => None,
    }
}

/// Where backends listen, and the node itself: on every port of it that a case names, whether served or not.
fn ports(mut cases: Vec<Case>) -> (Ports, Ports) {
    let (mut backends, mut own) = (Ports::new(), Ports::new());
    let node: BTreeSet<IpAddr> =
        NODE_ADDRESSES.iter().chain(&["127.0.0.1", "::1"]).filter_map(|text| text.parse().ok()).collect();
    for flow in cases.iter_mut().flat_map(Case::steps).flat_map(|step| step.flows) {
        for backend in &flow.expect.backends {
            let list = if node.contains(&backend.ip()) { &mut own } else { &mut backends };
            list.entry(transport(&flow)).or_default().insert(backend.port());
        }
        if node.contains(&flow.to.ip()) {
            own.entry(transport(&flow)).or_default().insert(flow.port);
        }
    }
    (backends, own)
}

struct Run<'a> {
    world: &'a World,
    judge: &'a Judge,
    tally: &'a mut Tally,
}

impl Run<'_> {
    fn home(&self, flow: &Flow) -> Result<&Netns> {
        match flow.from_kind.as_str() {
            "pod-local" => self.world.pod(flow.from.ip()).with_context(|| format!("no pod has {}", flow.from)),
            "node" => Ok(self.world.node.netns()),
            "pod-remote" => self.world.other(flow.from.ip()).with_context(|| format!("no node has {}", flow.from)),
            _ => Ok(&self.world.outside),
        }
    }

    /// Asks all flows at once; the outcomes of each, in their order.
    fn ask(&self, flows: &[&Flow]) -> Result<Vec<Vec<Outcome>>> {
        let mut by_home: BTreeMap<String, (&Netns, Vec<usize>)> = BTreeMap::new();
        for (index, flow) in flows.iter().enumerate() {
            let home = self.home(flow)?;
            by_home.entry(home.name().into()).or_insert((home, Vec::new())).1.push(index);
        }
        let mut outcomes = vec![Vec::new(); flows.len()];
        let asked: Vec<_> = std::thread::scope(|scope| {
            let homes = by_home.into_values();
            let asking: Vec<_> = homes
                .map(|(home, indices)| {
                    let questions: Vec<Question> = indices.iter().map(|index| question(flows[*index])).collect();
                    (indices, scope.spawn(move || self.ask_from(home, &questions)))
                })
                .collect();
            asking.into_iter().map(|(indices, asked)| (indices, asked.join().expect("no panic"))).collect()
        });
        for (indices, answers) in asked {
            indices.into_iter().zip(answers?).for_each(|(index, answer)| outcomes[index] = answer);
        }
        Ok(outcomes)
    }

    fn ask_from(&self, home: &Netns, questions: &[Question]) -> Result<Vec<Vec<Outcome>>> {
        let command = Cmd::new(self.world.binaries.agent()).arg("question").netns(home);
        let ran = command.stdin(serde_json::to_string(questions)?).limit(Duration::from_secs(60)).ok()?;
        serde_json::from_str(&ran.stdout).with_context(|| ran.stdout.clone())
    }

    fn service_drops(&self) -> Result<u64> {
        let drops = self.world.node.fairway().drops()?;
        Ok(Drops::total(&drops, |reason| SERVICE_DROPS.contains(&reason)))
    }

    fn step(&mut self, case: &Case, number: usize, step: &mut Step) -> Result<()> {
        let mut flows = Vec::new();
        for flow in &mut step.flows {
            let what = format!("{} {number}: {}", case.name, told(flow));
            if let Some(reason) = adapt(flow) {
                self.tally.note(reason, what);
            }
            flows.push(&*flow);
        }
        let what = format!("{} {number}", case.name);
        let outcomes = self.ask_counting_drops(&what, &flows)?;
        for (flow, outcomes) in flows.iter().zip(&outcomes) {
            let what = format!("{} {number}: {}", case.name, told(flow));
            let cases = if topology::is_one(case) { "topology" } else { "service" };
            self.tally.flow(cases, what, self.judge.way(flow, outcomes));
        }
        for health in &step.health {
            let found = self.health(health)?;
            self.tally.health(format!("{} {number}: health port {}", case.name, health.node_port), found);
        }
        Ok(())
    }

    /// Each flow that must be dropped is counted at least once; if none may be, nothing is. Asks once more where that does
    /// not hold: connections of the state before may have ended late.
    fn ask_counting_drops(&mut self, what: &str, flows: &[&Flow]) -> Result<Vec<Vec<Outcome>>> {
        let must = flows.iter().filter(|flow| flow.expect.verdict == "drop" && flow.expect.also_ok.is_empty()).count();
        let may = flows.iter().any(|flow| flow.expect.verdict == "drop");
        let wrong = |moved: u64| {
            let is_wrong = moved < must as u64 || (!may && moved > 0);
            is_wrong.then(|| format!("{what}: services count {moved} drops, {must} flows are to be dropped"))
        };
        let (mut outcomes, mut moved) = self.ask_and_count(flows)?;
        if let Some(first) = wrong(moved) {
            println!("{first}: asked again");
            (outcomes, moved) = self.ask_and_count(flows)?;
        }
        wrong(moved).into_iter().for_each(|twice| self.tally.wrong(twice));
        Ok(outcomes)
    }

    fn ask_and_count(&self, flows: &[&Flow]) -> Result<(Vec<Vec<Outcome>>, u64)> {
        let before = self.service_drops()?;
        Ok((self.ask(flows)?, self.service_drops()? - before))
    }

    /// What is wrong with the answer of a health port.
    fn health(&self, health: &Health) -> Result<Result<(), String>> {
        let url = format!("http://{}:{}/healthz", NODE_ADDRESSES[0], health.node_port);
        let ran = Cmd::line("curl -sS -i --max-time 3").arg(url).netns(&self.world.outside).run()?;
        let Some(status) = health.status else {
            let is_closed = ran.code == CURL_REFUSED;
            return Ok(if is_closed { Ok(()) } else { Err(format!("refusal expected: {}", ran.complaint())) });
        };
        let count = health.local_endpoints.unwrap_or_default();
        let (head, body) = ran.stdout.split_once("\r\n\r\n").unwrap_or_default();
        let json: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
        let weight = format!("x-load-balancing-endpoint-weight: {count}");
        let is_right = head.starts_with(&format!("HTTP/1.1 {status} "))
            && head.to_lowercase().lines().any(|line| line == weight)
            && json["localEndpoints"] == count;
        Ok(if is_right { Ok(()) } else { Err(format!("{status} and {count} expected: {} {}", ran.stdout, ran.stderr)) })
    }
}

/// curl's exit code for a connection that is refused.
const CURL_REFUSED: i32 = 7;

fn question(flow: &Flow) -> Question {
    let is_silent = matches!(flow.expect.verdict.as_str(), "drop" | "pass");
    Question {
        from: flow.from.ip(),
        to: SocketAddr::new(flow.to.ip(), flow.port),
        transport: transport(flow),
        count: connections_of(flow),
        limit_ms: if is_silent { SILENCE_MS } else { LIMIT_MS },
    }
}

fn told(flow: &Flow) -> String {
    let to = SocketAddr::new(flow.to.ip(), flow.port);
    format!("{} {} to {to} {:?}", flow.from_kind, flow.from, transport(flow))
}

#[test]
fn every_flow_goes_by_real_packets_as_its_case_says() -> Result<()> {
    let _one = lab::one_at_a_time();
    let texts = [format::read_texts()?, topology::read_texts()?].concat();
    let all = texts.iter().map(|text| serde_json::from_str(text)).collect::<Result<_, _>>()?;
    let (backends, own) = ports(all);
    let mut world = World::wire()?;
    world.start(&backends, &own)?;
    let mut by_config: BTreeMap<Vec<String>, Vec<Case>> = BTreeMap::new();
    for case in world.cases(&texts)? {
        by_config.entry(control_args(&case.config)).or_default().push(case);
    }
    let judge = Judge { node_addresses: world.node_addresses()?, witnesses: world.witness_addresses()? };
    let mut state = State::default();
    let mut tally = Tally::default();
    for (args, cases) in by_config {
        world.node.restart_control(args)?;
        let mut run = Run { world: &world, judge: &judge, tally: &mut tally };
        for mut case in cases {
            for (number, step) in case.steps().iter_mut().enumerate() {
                state.reach(&world, step).with_context(|| case.name.clone())?;
                run.step(&case, number, step).with_context(|| case.name.clone())?;
            }
            state.clear();
        }
    }
    affinity::ends_with_its_time(&Run { world: &world, judge: &judge, tally: &mut tally }, &mut state)?;
    tally.print();
    assert!(tally.all_wrong().is_empty(), "wrong:\n{}", tally.all_wrong().join("\n"));
    Ok(())
}
