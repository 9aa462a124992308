//! Endpoints come and go at a pace while clients ask their service: no request may fail. An endpoint leaves as in
//! Kubernetes: it terminates first and is gone when its connections had time to end; then nobody listens there.
//!
//! `FAIRWAY_CHURN_S=60` makes it the long form (`make churn`); it tells which rates the machine reached.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lab::agent::load::Request;
use lab::manifests::Condition::{self, Ready, Terminating};
use lab::objects::Objects;
use lab::process::Process;
use lab::shell::Cmd;
use lab::{Families, Lab, Options, manifests, stage, traffic};

/// Of the short form.
const SHORT_S: u64 = 5;
const CHANGES_PER_S: u32 = 200;
const REQUESTS_PER_S: u32 = 5000;
const REQUESTS_PER_CONNECTION: u32 = 10;
const CLIENTS: u32 = 32;
/// So that connections meet the flows of earlier ones: a port comes again after some seconds.
const CLIENT_PORTS: &str = "40000 42999";

const PODS: [(&str, usize); 4] = [("web-1", 0), ("web-2", 1), ("web-3", 0), ("web-4", 1)];
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 150;
/// So many always serve.
const READY_MIN: usize = 75;
/// How long an endpoint terminates, is away, and listens before it is ready.
const DRAIN: Duration = Duration::from_secs(2);
const AWAY: Duration = Duration::from_millis(200);
const WARM: Duration = Duration::from_millis(200);
const SERVICE: u8 = 20;

/// A port of a pod.
#[derive(Clone, Copy, Debug)]
struct Endpoint {
    pod: usize,
    address: IpAddr,
    port: u16,
}

/// Writes objects beside others, so that a slow disk does not set the pace.
struct Writer {
    queue: Sender<(String, Option<String>)>,
    thread: JoinHandle<anyhow::Result<()>>,
}

/// What concerns one endpoint is always written by the same.
const WRITERS: u16 = 8;

impl Writer {
    fn start(objects: &Objects) -> Writer {
        let ((queue, due), objects) = (mpsc::channel::<(String, Option<String>)>(), objects.clone());
        let write = move |(name, text): (String, Option<String>)| match text {
            Some(text) => objects.apply(&name, &text),
            None => objects.delete(&name),
        };
        let thread = std::thread::spawn(move || due.iter().try_for_each(|one| write(one).map(|_| ())));
        Writer { queue, thread }
    }
}

/// All endpoints, in the order in which their turn came.
struct Churn {
    lab: Lab,
    writers: Vec<Writer>,
    doors: Vec<Process>,
    ready: VecDeque<Endpoint>,
    terminating: VecDeque<(Instant, Endpoint)>,
    away: VecDeque<(Instant, Endpoint)>,
    warm: VecDeque<(Instant, Endpoint)>,
    /// How many went.
    gone: u32,
    changes: u32,
}

impl Churn {
    fn start() -> anyhow::Result<Churn> {
        let mut lab = Lab::start(&Options::default())?;
        lab.add_pod("alice", 0, &[])?;
        lab.pod("alice")?.netns().sysctl("net.ipv4.ip_local_port_range", CLIENT_PORTS)?;
        let (mut doors, mut ready) = (Vec::new(), VecDeque::new());
        for (pod, (name, node)) in PODS.into_iter().enumerate() {
            lab.add_pod(name, node, &[])?;
            let arguments = format!("doors --name {name} --first {FIRST_PORT} --count {PORTS}");
            let netns = lab.pod(name)?.netns();
            let command = Cmd::new(lab.binaries().agent()).netns(netns).args(arguments.split_whitespace());
            doors.push(Process::spawn(&format!("doors-{name}"), &command, lab.directory())?);
            let address = lab.pod(name)?.address();
            ready.extend((FIRST_PORT..FIRST_PORT + PORTS).map(|port| Endpoint { pod, address, port }));
        }
        // Neighbours in time are not neighbours in place.
        ready.make_contiguous().sort_by_key(|endpoint| (endpoint.port % 7, endpoint.port, endpoint.pod));
        let service = manifests::one_port("churn", &service(), ("app", "none"), ("TCP", 80, 80));
        lab.objects().apply("service-churn", &service)?;
        let (terminating, away, warm) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        let writers = (0..WRITERS).map(|_| Writer::start(lab.objects())).collect();
        let churn = Churn { lab, writers, doors, ready, terminating, away, warm, gone: 0, changes: 0 };
        churn.ready.iter().try_for_each(|endpoint| churn.say(endpoint, Ready))?;
        Ok(churn)
    }

    fn say(&self, endpoint: &Endpoint, condition: Condition) -> anyhow::Result<()> {
        let name = slice_name(endpoint);
        let ports = [("only", "TCP", endpoint.port)];
        let slice = manifests::slice(&name, "churn", &[(endpoint.address, condition)], &ports);
        self.write(endpoint, Some(slice))
    }

    fn write(&self, endpoint: &Endpoint, slice: Option<String>) -> anyhow::Result<()> {
        let writer = &self.writers[usize::from(endpoint.port % WRITERS)];
        Ok(writer.queue.send((slice_name(endpoint), slice))?)
    }

    /// One endpoint becomes what it is to be next; those that were in a state for long enough go first.
    fn change(&mut self) -> anyhow::Result<()> {
        let is_over =
            |queue: &VecDeque<(Instant, Endpoint)>, time| queue.front().is_some_and(|(at, _)| at.elapsed() > time);
        while is_over(&self.away, AWAY) {
            let Some((_, endpoint)) = self.away.pop_front() else { break };
            self.doors[endpoint.pod].tell(&format!("open {}", endpoint.port))?;
            self.warm.push_back((Instant::now(), endpoint));
        }
        if is_over(&self.terminating, DRAIN)
            && let Some((_, endpoint)) = self.terminating.pop_front()
        {
            self.doors[endpoint.pod].tell(&format!("close {}", endpoint.port))?;
            self.write(&endpoint, None)?;
            self.away.push_back((Instant::now(), endpoint));
            self.gone += 1;
        } else if is_over(&self.warm, WARM)
            && let Some((_, endpoint)) = self.warm.pop_front()
        {
            self.say(&endpoint, Ready)?;
            self.ready.push_back(endpoint);
        } else if self.ready.len() > READY_MIN
            && let Some(endpoint) = self.ready.pop_front()
        {
            self.say(&endpoint, Terminating)?;
            self.terminating.push_back((Instant::now(), endpoint));
        } else {
            return Ok(());
        }
        self.changes += 1;
        Ok(())
    }

    fn run(&mut self, time: Duration) -> anyhow::Result<()> {
        let started = Instant::now();
        for number in 0.. {
            let slot = Duration::from_secs(1) * number / CHANGES_PER_S;
            if slot >= time {
                break;
            }
            std::thread::sleep(slot.saturating_sub(started.elapsed()));
            if started.elapsed() >= time {
                break;
            }
            self.change()?;
        }
        self.finish()
    }

    /// All is written.
    fn finish(&mut self) -> anyhow::Result<()> {
        for Writer { queue, thread } in self.writers.drain(..) {
            drop(queue);
            thread.join().expect("a writer does not panic")?;
        }
        Ok(())
    }
}

fn slice_name(endpoint: &Endpoint) -> String {
    format!("slice-{}-{}", PODS[endpoint.pod].0, endpoint.port)
}

fn service() -> Vec<IpAddr> {
    Families::Ipv4.service(SERVICE)
}

fn percentile(sorted: &[u64], part: f64) -> f64 {
    sorted.get((sorted.len() as f64 * part) as usize).map_or(0.0, |us| *us as f64 / 1000.0)
}

#[test]
fn no_request_fails_while_endpoints_come_and_go() {
    let _one = lab::one_at_a_time();
    let seconds = std::env::var("FAIRWAY_CHURN_S").map_or(SHORT_S, |text| text.parse().expect("a number of seconds"));
    let mut churn = Churn::start().expect("the lab comes up");
    lab::wait::sleep_ms(1000);
    churn.lab.settle().expect("tables in force");
    let alice = churn.lab.pod("alice").expect("a pod").netns();
    let load = format!(
        "load --to {}:80 --parallel {CLIENTS} --pause-ms 0 --limit-ms 10000 --each {REQUESTS_PER_CONNECTION} --rate {REQUESTS_PER_S}",
        service()[0]
    );
    let load = Cmd::new(churn.lab.binaries().agent()).netns(alice).args(load.split_whitespace());
    let load = Process::spawn("load", &load, churn.lab.directory()).expect("the load starts");
    let started = Instant::now();
    churn.run(Duration::from_secs(seconds)).expect("endpoints change");
    let took_s = started.elapsed().as_secs_f64();
    let requests: Vec<Request> = stage::harvest(load).expect("the load's report");
    let (failed, first) = traffic::failures(requests.iter());
    let names: BTreeSet<&String> = requests.iter().filter_map(|request| request.answer.as_ref().ok()).collect();
    let mut times: Vec<u64> = requests.iter().map(|request| request.took_us).collect();
    times.sort_unstable();
    println!(
        "{:.0} s: {} changes ({:.0}/s), {} endpoints went; {} requests ({:.0}/s, {REQUESTS_PER_CONNECTION} a connection) to {} \
         endpoints, {failed} failed; median {:.1} ms, 99 % {:.1} ms, longest {:.0} ms",
        took_s,
        churn.changes,
        f64::from(churn.changes) / took_s,
        churn.gone,
        requests.len(),
        requests.len() as f64 / took_s,
        names.len(),
        percentile(&times, 0.5),
        percentile(&times, 0.99),
        percentile(&times, 0.99999),
    );
    assert_eq!(failed, 0, "the first one: {first:?}");
    assert!(requests.len() > 100 * seconds as usize, "hardly anything was asked");
    assert!(churn.gone > 20 && names.len() > READY_MIN, "hardly any endpoint left: {}", churn.gone);
    // It is still what was written last: endpoints in their conditions.
    churn.lab.settle().expect("tables in force");
}
