//! How long it takes until policies are in force, and that nothing they forbid passes meanwhile: a pod's first packet after
//! CNI ADD, objects that arrive in any order, changes among 10,000 policies, connections that a change cuts or spares.
//! Figures are printed; limits have slack for a machine that does other things too.

#[path = "policy_times/pulse.rs"]
mod pulse;
#[path = "policy_times/unclaimed.rs"]
mod unclaimed;
#[path = "policy_times/world.rs"]
mod world;

use anyhow::{Context, Result, ensure};
use lab::netns::Netns;
use lab::wait::sleep_ms;
use pulse::{Beat, Echo, Pulse};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use world::{Place, World, namespace, policy, quantile};

/// Between two datagrams.
const PACE: Duration = Duration::from_micros(500);
const ALLOWED: u16 = 80;
const FORBIDDEN: u16 = 81;
/// Nobody waits that long for a pod's network.
const START_MAX: Duration = Duration::from_secs(1);
/// From a file's appearance to the first packet that goes otherwise; the design's figure is 10 ms, on a machine of its own.
const CHANGE_MAX: Duration = Duration::from_millis(100);
/// From when control has read it until every worker has it: 10 ms at most, with slack.
const LAG_MAX: Duration = Duration::from_millis(30);
/// Each way.
const CHANGES: usize = 50;
const POLICIES: usize = 10_000;
const PODS: usize = 1000;

fn first_answer(beats: &[Beat]) -> Option<Instant> {
    beats.iter().filter_map(|beat| beat.answered).min()
}

/// Pods of the namespace may be asked by those of namespaces whose team is not bad, and ask those whose team is good, on
/// one port each.
fn not_bad(namespace: &str) -> Value {
    let team = |operator: &str, value: &str| json!({"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": operator, "values": [value]}]}});
    let ports = json!([{"protocol": "UDP", "port": ALLOWED}]);
    let spec = json!({
        "podSelector": {"matchLabels": {"app": "web"}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [team("NotIn", "bad")], "ports": ports}],
        "egress": [{"to": [team("In", "good")], "ports": ports}],
    });
    policy(namespace, "not-bad", spec)
}

/// As a pod comes up: its policies and its object are there, its address is not. It asks from before it has an interface.
#[test]
fn a_pod_is_cut_until_its_policies_are_in_force_and_then_speaks_at_once() -> Result<()> {
    let _one = lab::one_at_a_time();
    let mut world = World::start(2)?;
    world.add("good", "server", 1, &[])?;
    world.apply("namespaces", &[namespace("good", "good"), namespace("fresh", "none")])?;
    world.apply("policies", &[not_bad("fresh")])?;
    sleep_ms(300);
    let server = world.address("good/server")?;
    let _open = Echo::start(world.netns("good/server"), SocketAddr::new(server, ALLOWED))?;
    let closed = Echo::start(world.netns("good/server"), SocketAddr::new(server, FORBIDDEN))?;
    let (mut from_add, mut from_end) = (Vec::new(), Vec::new());
    for number in 0..20 {
        let place = Place { namespace: "fresh", name: &format!("pod-{number}"), node: 0, labels: &[("app", "web")] };
        let netns = world.prepare(&place)?;
        world.apply(place.name, &[world.pod_object(&place, None)])?;
        sleep_ms(20);
        let pulses = [ALLOWED, FORBIDDEN].map(|port| Pulse::start(&netns, SocketAddr::new(server, port), PACE));
        let begun = Instant::now();
        world.attach(&place, netns)?;
        let ended = Instant::now();
        sleep_ms(150);
        let [asked, forbidden] = pulses.map(Pulse::stop);
        let first = first_answer(&asked?).with_context(|| format!("{} never got an answer", place.name))?;
        ensure!(first_answer(&forbidden?).is_none(), "{} got an answer that its policy forbids", place.name);
        from_add.push(first - begun);
        from_end.push(first.saturating_duration_since(ended));
    }
    let [median, worst] = [0.5, 1.0].map(|share| quantile(&from_add, share));
    println!("first answer after CNI ADD began: median {median:?}, worst {worst:?}");
    println!("after it ended: median {:?}, worst {:?}", quantile(&from_end, 0.5), quantile(&from_end, 1.0));
    assert_eq!(closed.heard(), 0, "what a policy forbids reached a pod");
    assert!(worst < START_MAX, "a pod waited {worst:?} for its network");
    Ok(())
}

/// What arrives about a pod and who asks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrival {
    PodNamespace,
    AskerNamespace,
    Pod,
    Policy,
    Attachment,
}

fn permutations(all: &[Arrival]) -> Vec<Vec<Arrival>> {
    if all.is_empty() {
        return vec![Vec::new()];
    }
    let with_first = |i: usize| {
        let rest: Vec<_> = all.iter().enumerate().filter(|(k, _)| *k != i).map(|(_, arrival)| *arrival).collect();
        permutations(&rest).into_iter().map(move |rest| [&[all[i]], &rest[..]].concat())
    };
    (0..all.len()).flat_map(with_first).collect()
}

/// Each arrives in every order, with a file of its own, while pods that may and that may not ask go on asking. Until the
/// policy has arrived the pod is open, as a pod without policies is; from then on nothing passes that it forbids.
#[test]
fn no_order_of_arrival_opens_a_hole() -> Result<()> {
    use Arrival::*;
    let _one = lab::one_at_a_time();
    let mut world = World::start(2)?;
    world.apply("namespaces", &[namespace("good", "good")])?;
    world.add("good", "asker", 1, &[])?;
    world.add("bad", "asker", 0, &[])?;
    let orders = permutations(&[PodNamespace, AskerNamespace, Pod, Policy, Attachment]);
    let mut wrong = Vec::new();
    for (number, order) in orders.iter().enumerate() {
        let holes = one_order(&mut world, number, order).with_context(|| format!("{order:?}"))?;
        wrong.extend((holes > 0).then(|| format!("{order:?}: {holes} datagrams passed")));
    }
    println!("{} orders", orders.len());
    assert!(wrong.is_empty(), "what a policy forbids that had arrived:\n{}", wrong.join("\n"));
    Ok(())
}

/// How many datagrams passed that must not.
fn one_order(world: &mut World, number: usize, order: &[Arrival]) -> Result<usize> {
    let name = format!("pod-{number}");
    let place = Place { namespace: "own", name: &name, node: number % 2, labels: &[("app", "web")] };
    let netns = world.prepare(&place)?;
    // Addresses go up one by one, so that who asks knows beforehand whom.
    let to = world.next_address(place.node)?;
    let start = |asker: &str, port| Pulse::start(world.netns(asker), SocketAddr::new(to, port), PACE);
    let good = start("good/asker", ALLOWED);
    let forbidden = [start("bad/asker", ALLOWED), start("bad/asker", FORBIDDEN), start("good/asker", FORBIDDEN)];
    let mut in_force = None;
    for (place_in_order, arrival) in order.iter().enumerate() {
        match arrival {
            Arrival::PodNamespace => world.apply("own", &[namespace("own", "own")])?,
            Arrival::AskerNamespace => world.apply("bad", &[namespace("bad", "bad")])?,
            Arrival::Pod => world.apply("pod", &[world.pod_object(&place, None)])?,
            Arrival::Policy => {
                world.apply("policy", &[not_bad("own")])?;
                // A pod that spoke before is cut a little later; one that comes up later never speaks.
                let was_open = order[..place_in_order].contains(&Arrival::Attachment);
                in_force = Some(Instant::now() + if was_open { CHANGE_MAX } else { Duration::ZERO });
            }
            Arrival::Attachment => {
                ensure!(world.attach(&place, netns.clone())? == to, "another address than expected");
                world.echo(&netns, to, &[ALLOWED, FORBIDDEN])?;
            }
        }
        sleep_ms(20);
    }
    sleep_ms(CHANGE_MAX.as_millis() as u64);
    let in_force = in_force.context("a policy arrives")?;
    let is_hole = |beat: &&Beat| beat.sent >= in_force && beat.answered.is_some();
    let mut holes = 0;
    for beats in forbidden.map(Pulse::stop) {
        holes += beats?.iter().filter(is_hole).count();
    }
    let good = good.stop()?;
    let end = good.last().context("nothing was sent")?.sent;
    let last = good.iter().rev().find(|beat| beat.answered.is_some()).context("who may ask was never answered")?;
    ensure!(end - last.sent < CHANGE_MAX, "who may ask was not answered at the end");
    world.remove(&place)?;
    world.delete(&["own", "bad", "pod", "policy"])?;
    sleep_ms(20);
    Ok(holes)
}

/// Many policies of many namespaces, of which each selects some pods elsewhere.
fn many() -> Vec<Value> {
    let spec = |i: usize| {
        let from = json!([{"podSelector": {"matchLabels": {"app": format!("app-{}", i % 70)}}}]);
        let ports = json!([{"protocol": "TCP", "port": 1000 + i % 50}]);
        json!({
            "podSelector": {"matchLabels": {"app": format!("app-{}", i % 90)}},
            "ingress": [{"from": from, "ports": ports}],
        })
    };
    (0..POLICIES).map(|i| policy(&format!("many-{}", i % 100), &format!("policy-{i}"), spec(i))).collect()
}

/// And pods there, on no node of ours.
fn many_pods() -> Vec<Value> {
    let pod = |i: usize| {
        let address = format!("10.245.{}.{}", i / 250, 1 + i % 250);
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "namespace": format!("many-{}", i % 100), "name": format!("pod-{i}"),
                "labels": {"app": format!("app-{}", i % 90)},
            },
            "spec": {"nodeName": "elsewhere", "containers": [{"name": "main", "image": "none"}]},
            "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
        })
    };
    (0..PODS).map(pod).collect()
}

/// Something whose change opens or closes the way from one pod to the other.
struct Switch {
    what: &'static str,
    /// The file, and what stands in it to open or close the way.
    file: &'static str,
    open: Value,
    closed: Value,
}

fn switches(world: &World) -> Result<Vec<Switch>> {
    let asker = |team: &str| -> Result<Value> {
        let place = Place { namespace: "team", name: "asker", node: 0, labels: &[("team", team)] };
        Ok(world.pod_object(&place, Some(world.address("team/asker")?)))
    };
    let allowing = |team: &str| {
        let pods = json!({"matchLabels": {"team": team}});
        let from = json!([{"namespaceSelector": {"matchLabels": {"team": "good"}}, "podSelector": pods}]);
        policy("web", "team-only", json!({"podSelector": {}, "ingress": [{"from": from}]}))
    };
    Ok(vec![
        Switch { what: "a policy", file: "policy", closed: allowing("other"), open: allowing("good") },
        Switch { what: "a pod's label", file: "pod-team-asker", closed: asker("other")?, open: asker("good")? },
        Switch {
            what: "a namespace's",
            file: "team",
            closed: namespace("team", "other"),
            open: namespace("team", "good"),
        },
    ])
}

#[test]
fn a_change_among_ten_thousand_policies_is_in_force_at_once() -> Result<()> {
    let _one = lab::one_at_a_time();
    let mut world = World::start(2)?;
    world.apply("namespaces", &[namespace("web", "web")])?;
    world.apply("many", &many())?;
    world.apply("many-pods", &many_pods())?;
    let server = world.add("web", "server", 0, &[])?;
    world.add("team", "asker", 0, &[("team", "good")])?;
    let to = SocketAddr::new(server, ALLOWED);
    let _echo = Echo::start(world.netns("web/server"), to)?;
    let switches = switches(&world)?;
    switches.iter().try_for_each(|switch| world.apply(switch.file, slice::from_ref(&switch.open)))?;
    let probe = || Pulse::start(world.netns("team/asker"), to, PACE);
    let since = Instant::now();
    while first_answer(&{
        let pulse = probe();
        sleep_ms(20);
        pulse.stop()?
    })
    .is_none()
        || world.policies(0)? <= POLICIES
    {
        ensure!(since.elapsed() < Duration::from_secs(60), "the objects are not read");
    }
    println!("{POLICIES} policies and {PODS} pods were read in {:?}", since.elapsed());
    for switch in &switches {
        let (mut cut, mut opened, mut lags) = (Vec::new(), Vec::new(), Vec::new());
        let pulse = probe();
        let mut applied = Vec::new();
        for _ in 0..CHANGES {
            for object in [&switch.closed, &switch.open] {
                // Before it: it may be in force before this thread goes on.
                applied.push(Instant::now());
                world.apply(switch.file, slice::from_ref(object))?;
                sleep_ms(60);
                lags.push(world.lag(0)?);
            }
        }
        let beats = pulse.stop()?;
        for (i, at) in applied.iter().enumerate() {
            let until = applied.get(i + 1).copied().unwrap_or(*at + Duration::from_millis(60));
            let seen: Vec<_> = beats.iter().filter(|beat| beat.sent >= *at && beat.sent < until).collect();
            let changed = if i % 2 == 0 {
                seen.iter().rev().find(|beat| beat.answered.is_some()).map_or(*at, |beat| beat.sent)
            } else {
                seen.iter().find(|beat| beat.answered.is_some()).context("the way never opened")?.sent
            };
            if i % 2 == 0 { &mut cut } else { &mut opened }.push(changed - *at);
        }
        let told = |all: &[Duration]| format!("{:?}, {:?}", quantile(all, 0.5), quantile(all, 0.99));
        println!(
            "{}: file to last packet that passes {}; to first one that does {}; control to workers {} (p50, p99)",
            switch.what,
            told(&cut),
            told(&opened),
            told(&lags)
        );
        for all in [&cut, &opened, &lags] {
            assert!(quantile(all, 0.5) < CHANGE_MAX, "{} takes {:?}", switch.what, quantile(all, 0.5));
        }
        assert!(quantile(&lags, 0.5) < LAG_MAX, "{} takes {:?}", switch.what, quantile(&lags, 0.5));
    }
    Ok(())
}

/// A connection that sends and hears a byte again and again: when each came back.
struct Talk {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<Instant>>>,
}

impl Talk {
    fn start(netns: &Netns, to: SocketAddr) -> Result<Talk> {
        let mut stream = netns.inside(|| TcpStream::connect(to))??;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_millis(50)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut echoes = Vec::new();
            let mut waits = false;
            while !stopped.load(Ordering::Relaxed) {
                if !waits {
                    stream.write_all(b"?")?;
                }
                waits = stream.read(&mut [0]).is_err();
                if !waits {
                    echoes.push(Instant::now());
                    sleep_ms(1);
                }
            }
            Ok(echoes)
        });
        Ok(Talk { stop, thread })
    }

    fn stop(self) -> Result<Vec<Instant>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("the talk panicked")?
    }
}

fn serve(netns: &Netns, at: SocketAddr) -> Result<()> {
    let listener = netns.inside(|| TcpListener::bind(at))??;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || std::io::copy(&mut stream.try_clone()?, &mut stream));
        }
    });
    Ok(())
}

/// By real connections, to a pod of the same node and from another one.
#[test]
fn a_change_cuts_established_connections_that_it_forbids_spares_the_rest_and_lets_them_go_on_later() -> Result<()> {
    let _one = lab::one_at_a_time();
    let mut world = World::start(2)?;
    world.apply("namespaces", &[namespace("web", "web")])?;
    let server = world.add("web", "server", 0, &[])?;
    let to = SocketAddr::new(server, ALLOWED);
    serve(world.netns("web/server"), to)?;
    let teams = ["good", "bad"].into_iter().flat_map(|team| [(team, 0), (team, 1)]);
    for (team, node) in teams.clone() {
        world.add("web", &format!("{team}-{node}"), node, &[("team", team)])?;
    }
    sleep_ms(300);
    let start = |(team, node)| Talk::start(world.netns(&format!("web/{team}-{node}")), to);
    let talks: Vec<Talk> = teams.clone().map(start).collect::<Result<_>>()?;
    sleep_ms(200);
    let from = json!([{"podSelector": {"matchLabels": {"team": "good"}}}]);
    let server_only = json!({"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]});
    let closed = policy("web", "good-only", json!({"podSelector": server_only, "ingress": [{"from": from}]}));
    world.apply("policy", &[closed])?;
    let applied = Instant::now();
    sleep_ms(500);
    world.delete(&["policy"])?;
    let removed = Instant::now();
    sleep_ms(2000);
    for ((team, node), talk) in teams.zip(talks) {
        let echoes = talk.stop()?;
        let (during, after): (Vec<&Instant>, Vec<&Instant>) =
            echoes.iter().filter(|at| **at > applied).partition(|at| **at < removed);
        let gap = echoes.windows(2).map(|two| two[1] - two[0]).max().context("no echo")?;
        println!("{team} on node {node}: {} echoes while it was cut, longest pause {gap:?}", during.len());
        if team == "good" {
            assert!(gap < CHANGE_MAX, "a connection that is allowed paused for {gap:?}");
        } else {
            let last = during.last().map_or(Duration::ZERO, |at| **at - applied);
            assert!(last < CHANGE_MAX, "cut after {last:?}");
            assert!(!after.is_empty(), "the connection did not go on");
        }
    }
    Ok(())
}
