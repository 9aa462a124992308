//! Section 7: with two workers every path runs between equal and between different owners; the
//! hand-off counter proves which it was. Once more with a single uplink queue.
//!
//! Which queue of an uplink a flow arrives on is a hash that nobody here steers. So a path that
//! crosses an uplink is taken again and again, between pods of all owners, until both cases came.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::agent::serve::HTTP_PORT;
use crate::lab::{self, Lab, Options};
use crate::manifests;
use crate::netns::Netns;
use crate::report::{Measured, Report};
use crate::sections::WORKERS;
use crate::stage::{Stage, answer_in, curl, ping};
use crate::transcript::Transcript;
use crate::wait::sleep_ms;

const WORKERS_PER_NODE: u32 = 2;
/// Pods that a node gets at most until both workers own one.
const PODS_MAX: usize = 6;
/// How often a path is taken at most until both cases came.
const TRIES_MAX: usize = 40;
/// The time of a hand-off until it is counted.
const COUNTERS_LAG_MS: u64 = 50;
/// An idle node may take this much of one core.
const IDLE_MAX_PERCENT: f64 = 3.0;
const IDLE_S: u64 = 3;

/// Plays on two labs of its own, one after the other.
pub fn play(show: &Transcript) -> Report {
    let mut report = Report::new(WORKERS.1);
    show.heading(WORKERS.1);
    for queues in [WORKERS_PER_NODE, 1] {
        if let Err(error) = on_own_lab(show, &mut report, queues) {
            report.stopped_by(&error);
            break;
        }
    }
    show.report(&report);
    report
}

fn on_own_lab(show: &Transcript, report: &mut Report, queues: u32) -> Result<()> {
    show.progress(&format!("a lab with {WORKERS_PER_NODE} workers a node and uplinks of {queues} queue(s) ..."));
    let mut lab = Lab::start(&Options { workers: WORKERS_PER_NODE, uplink_queues: queues, ..Options::default() })?;
    let cast = Cast::gather(&mut lab)?;
    let stage = Stage { lab: &mut lab, show };
    show.ran(&stage.lab.nodes[0].fairway().run("status")?);
    let both_cases = queues > 1;
    for path in cast.paths(stage.lab)? {
        let cases = path.take(&stage, both_cases)?;
        cases.judge(report, &path.what, queues, both_cases);
    }
    if both_cases {
        idles(&stage, report)?;
    }
    Ok(())
}

/// Pods by node, so that on each node every worker owns at least one.
struct Cast {
    pods: Vec<Vec<Member>>,
}

#[derive(Clone)]
struct Member {
    name: String,
    owner: u32,
    netns: Netns,
    url: String,
    /// The service that only this pod is behind.
    service: String,
}

/// One way through Fairway: tries in turn, each with a sender and whom to ask.
struct Path {
    what: String,
    tries: Vec<Try>,
}

struct Try {
    from: Netns,
    url: String,
    answers: String,
    /// What the owners say, where no uplink is on the way.
    handed_off: Option<bool>,
}

/// What happened on a path.
#[derive(Default)]
struct Cases {
    tries: usize,
    equal: usize,
    different: usize,
    failures: Vec<String>,
}

impl Cast {
    fn gather(lab: &mut Lab) -> Result<Self> {
        let mut pods = Vec::new();
        for node in 0..lab.nodes.len() {
            let netns = lab.nodes[node].netns().clone();
            lab.serve(&format!("host-{}", node + 1), &netns)?;
            pods.push(gather_on(lab, node)?);
        }
        let client = lab.client().clone();
        lab.serve("client", &client)?;
        lab.settle()?;
        Ok(Cast { pods })
    }

    fn paths(&self, lab: &Lab) -> Result<Vec<Path>> {
        let (near, far) = (&self.pods[0], &self.pods[1]);
        let host = lab.nodes[0].netns();
        let host_url = format!("http://{}:{HTTP_PORT}/", lab.nodes[0].address());
        let client_url = format!("http://{}:{HTTP_PORT}/", lab::client_address());
        let to_all = |what: &str, from: &Netns, to: &[Member], url: fn(&Member) -> &str| {
            let tries = to.iter().map(|to| Try::new(from, url(to), &to.name)).collect();
            Path { what: what.to_string(), tries }
        };
        let from_all = |what: &str, url: &str, answers: &str| {
            let tries = near.iter().map(|from| Try::new(&from.netns, url, answers)).collect();
            Path { what: what.to_string(), tries }
        };
        Ok(vec![
            between("pod -> pod on one node", near, near, Member::url),
            between("pod -> pod across nodes", near, far, Member::url),
            between("pod -> ClusterIP, backend on one node", near, near, Member::service),
            between("pod -> ClusterIP, backend across nodes", near, far, Member::service),
            to_all("host -> pod", host, near, Member::url),
            to_all("host -> pod across nodes", host, far, Member::url),
            to_all("host -> ClusterIP, backend across nodes", host, far, Member::service),
            from_all("pod -> host", &host_url, "host-1"),
            to_all("client outside -> pod", lab.client(), near, Member::url),
            from_all("pod -> client outside, masqueraded", &client_url, "client"),
        ])
    }
}

/// Every sender with every receiver, but none with itself.
fn between(what: &str, from: &[Member], to: &[Member], url: fn(&Member) -> &str) -> Path {
    let local = from.iter().map(|m| &m.name).eq(to.iter().map(|m| &m.name));
    let pairs = from.iter().flat_map(|from| to.iter().map(move |to| (from, to)));
    let tries = pairs.filter(|(from, to)| from.name != to.name).map(|(from, to)| {
        let handed_off = local.then_some(from.owner != to.owner);
        Try { handed_off, ..Try::new(&from.netns, url(to), &to.name) }
    });
    Path { what: what.to_string(), tries: tries.collect() }
}

/// Adds pods until every worker owns two: a pair with equal owners needs two pods.
fn gather_on(lab: &mut Lab, node: usize) -> Result<Vec<Member>> {
    let mut members: Vec<Member> = Vec::new();
    for number in 1..=PODS_MAX {
        members.push(add_member(lab, node, number)?);
        let owners: BTreeSet<u32> = members.iter().map(|member| member.owner).collect();
        let pairs = members.len() > owners.len();
        if owners.len() == WORKERS_PER_NODE as usize && pairs {
            return Ok(members);
        }
    }
    anyhow::bail!("{PODS_MAX} pods on one node, and not every one of {WORKERS_PER_NODE} workers owns one")
}

fn add_member(lab: &mut Lab, node: usize, number: usize) -> Result<Member> {
    let name = format!("pod-{}-{number}", node + 1);
    lab.add_pod(&name, node, &[])?;
    let service: IpAddr = Ipv4Addr::new(10, 96, node as u8 + 1, number as u8).into();
    lab.objects().apply(&format!("service-{name}"), &manifests::service(&name, &[service], ("name", &name)))?;
    lab.nodes[node].wait_connected()?;
    let pod = lab.pod(&name)?;
    let owner = lab.nodes[node].interface_of_pod(&pod.full_name())?.owner;
    let (netns, url) = (pod.netns().clone(), pod.url());
    Ok(Member { name, owner, netns, url, service: format!("http://{service}/") })
}

impl Member {
    fn url(&self) -> &str {
        &self.url
    }

    fn service(&self) -> &str {
        &self.service
    }
}

impl Try {
    fn new(from: &Netns, url: &str, answers: &str) -> Self {
        Try { from: from.clone(), url: url.to_string(), answers: answers.to_string(), handed_off: None }
    }

    /// One request; how many packets were handed over meanwhile, or why it failed.
    fn take(&self, stage: &Stage, shown: bool) -> Result<std::result::Result<u64, String>> {
        let before = handoffs(stage)?;
        let ran = curl(&self.from, &self.url).run()?;
        if shown {
            stage.show.ran(&ran);
        }
        sleep_ms(COUNTERS_LAG_MS);
        let handed_over = handoffs(stage)? - before;
        Ok(match answer_in(&ran.stdout) {
            Some(answer) if answer.name == self.answers => self.as_owners_say(handed_over),
            Some(answer) => Err(format!("{} answered instead of {}", answer.name, self.answers)),
            None => Err(ran.complaint()),
        })
    }

    fn as_owners_say(&self, handed_over: u64) -> std::result::Result<u64, String> {
        match self.handed_off {
            Some(expected) if expected != (handed_over > 0) => Err(format!(
                "owners are {}, yet {handed_over} packets were handed over",
                if expected { "different" } else { "equal" }
            )),
            _ => Ok(handed_over),
        }
    }
}

impl Path {
    /// Takes the path until both cases came; without such a wish every try once.
    fn take(&self, stage: &Stage, both_cases: bool) -> Result<Cases> {
        let mut cases = Cases::default();
        for one in self.tries.iter().cycle().take(TRIES_MAX) {
            let enough =
                if both_cases { cases.equal > 0 && cases.different > 0 } else { cases.tries >= self.tries.len() };
            if enough || !cases.failures.is_empty() {
                break;
            }
            cases.tries += 1;
            match one.take(stage, cases.tries == 1)? {
                Ok(0) => cases.equal += 1,
                Ok(_) => cases.different += 1,
                Err(why) => cases.failures.push(why),
            }
        }
        Ok(cases)
    }
}

impl Cases {
    fn judge(&self, report: &mut Report, what: &str, queues: u32, both_cases: bool) {
        let Cases { tries, equal, different, failures } = self;
        let measured = format!("{tries} requests, {equal} without and {different} with hand-off");
        let cases = !both_cases || (*equal > 0 && *different > 0);
        let good = failures.is_empty() && cases && *tries > 0;
        let expected = match failures.first() {
            Some(why) => format!("every request to be answered: {why}"),
            None => "both cases".to_string(),
        };
        report.check(format!("{queues} queue(s): {what}"), Measured::Text(measured), good, expected);
    }
}

fn handoffs(stage: &Stage) -> Result<u64> {
    stage.lab.nodes.iter().map(|node| Ok(node.fairway().status()?.handoffs())).sum()
}

/// Nothing happens for a while: the nodes take next to no processor time, and the first packet
/// after that is not lost.
fn idles(stage: &Stage, report: &mut Report) -> Result<()> {
    stage.show.progress(&format!("nothing is sent for {IDLE_S} s ..."));
    sleep_ms(500);
    let ticks = |stage: &Stage| stage.lab.nodes.iter().map(|node| node.cpu_ticks()).collect::<Result<Vec<u64>>>();
    let (before, since) = (ticks(stage)?, Instant::now());
    std::thread::sleep(Duration::from_secs(IDLE_S));
    let (after, hundredths) = (ticks(stage)?, since.elapsed().as_secs_f64() * 100.0);
    for (index, node) in stage.lab.nodes.iter().enumerate() {
        let percent = (after[index] - before[index]) as f64 / hundredths * 100.0;
        let limit = format!("less than {IDLE_MAX_PERCENT} % of a core");
        report.check(
            format!("{} when idle", node.name()),
            Measured::Percent(percent),
            percent < IDLE_MAX_PERCENT,
            limit,
        );
    }
    let (from, to) = (stage.lab.pod("pod-1-1")?, stage.lab.pod("pod-2-1")?);
    let answers = ping(from.netns(), "-c 1 -W 1", to.address()).run()?;
    let text = if answers.succeeded() { "answered" } else { "lost" };
    report.equal("the first packet after that", text, "answered");
    Ok(())
}
