//! Ten thousand policies over five thousand identities: all of them at once, then one change after the other, through
//! control's state, compiler and publisher until a reader has the new tables. No packets: how a worker meets new tables
//! does not depend on what is in them.

use super::told;
use super::world::prefix;
use crate::case::{AtMost, Case, Cost, Group, Planned, Seen, Target};
use crate::peers::resident;
use anyhow::{Context, Result, ensure};
use control::compile::Compiler;
use control::object::selector::{Requirement, Test};
use control::object::{
    Action, ClusterPolicy, Kind, Labels, Named, Namespace, NetworkPolicy, Object, ObjectChange, Peer, Pod, PolicyRule,
    PortMatch, PortRange, Selector, Subject, Tier,
};
use control::state::{LocalEndpoint, State};
use hdrhistogram::Histogram;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;
use tables::publish::Reader;
use tables::scope::ScopeCounters;
use tables::status::Status;
use tables::{Addr, Mac, Protocol, Publisher};

const SIZE: &str = "10k policies, 5k identities";
const NAMESPACES: u32 = 100;
const APPS: u32 = 50;
const POLICIES_EACH: u32 = 100;
const TEAMS: u32 = 10;
/// Pods of this node.
const LOCAL: u32 = 250;
const CHANGES: u32 = 600;

fn name(i: u32) -> String {
    format!("ns{i}")
}

fn selector(key: &str, value: String) -> Selector {
    Selector(vec![Requirement { key: key.into(), test: Test::In(vec![value]) }])
}

fn namespace(i: u32, team: u32) -> Object {
    let pair = |key: &str, value: String| (key.to_owned(), value);
    let labels = [pair("kubernetes.io/metadata.name", name(i)), pair("team", format!("t{}", team % TEAMS))];
    Object::Namespace(Namespace { audit: false, pod_pool: None, name: name(i), labels: labels.into() })
}

/// The first ones of each namespace are here.
fn pod(i: u32, app: u32, label: u32) -> Object {
    let number = app * NAMESPACES + i;
    let first = if number < LOCAL { [10, 1, 1, 0] } else { [10, 2, 0, 0] };
    let labels: Labels = [("app".to_owned(), format!("a{app}")), ("x".to_owned(), format!("x{label}"))].into();
    Object::Pod(Pod {
        id: Named::new(name(i), format!("p{app}")).into(),
        labels,
        addrs: vec![Addr::from_bits(Addr::v4(first).bits() + number as u128)],
        ready: true,
        ..Pod::default()
    })
}

/// Every tenth selects all pods of its namespace, the others one application.
fn policy(i: u32, j: u32, port: u16) -> Object {
    let app = |j: u32| selector("app", format!("a{}", j % APPS));
    let ports = vec![PortMatch { protocol: Protocol::TCP, port: PortRange::Numbers(port, port) }];
    let rule = |peers| PolicyRule { peers, ports: ports.clone(), ..PolicyRule::default() };
    let pods = |namespaces, pods| Peer::Pods { namespaces, pods };
    let team = selector("team", format!("t{}", j % TEAMS));
    let ingress = vec![
        rule(vec![pods(Some(team), app(j + 1)), pods(None, app(j + 2))]),
        rule(vec![pods(None, Selector::default())]),
    ];
    let block = Peer::Block { cidr: prefix(&format!("10.{}.0.0/16", 100 + j)), except: Vec::new() };
    let egress = vec![rule(vec![block]), rule(vec![pods(None, app(j + 3))])];
    Object::NetworkPolicy(NetworkPolicy {
        audit: false,
        id: Named::new(name(i), format!("n{j}")),
        pods: if j.is_multiple_of(10) { Selector::default() } else { app(j) },
        rules: [Some(ingress), j.is_multiple_of(2).then_some(egress)],
    })
}

fn cluster_policy(i: u32) -> Object {
    let team = |i: u32| selector("team", format!("t{}", i % TEAMS));
    let peers = vec![Peer::Pods { namespaces: Some(team(i)), pods: Selector::default() }];
    let ports = vec![PortMatch { protocol: Protocol::UDP, port: PortRange::Numbers(9, 9) }];
    let rule = PolicyRule { action: Action::Deny, peers, ports, ..PolicyRule::default() };
    Object::ClusterPolicy(ClusterPolicy {
        audit: false,
        kind: Kind::ClusterNetworkPolicy,
        name: format!("c{i}"),
        tier: Tier::Admin,
        priority: i as u16,
        subject: Subject { namespaces: team(i + 1), pods: Selector::default() },
        rules: [vec![rule.clone()], vec![rule]],
    })
}

fn objects() -> impl Iterator<Item = Object> {
    let of_namespace = |i: u32| {
        let pods = (0..APPS).map(move |app| pod(i, app, 0));
        let policies = (0..POLICIES_EACH).map(move |j| policy(i, j, 80 + j as u16));
        [namespace(i, i)].into_iter().chain(pods).chain(policies)
    };
    (0..NAMESPACES).flat_map(of_namespace).chain((0..TEAMS).map(cluster_policy))
}

/// Control's path of an update, and a reader.
struct Node {
    state: State,
    compiler: Compiler,
    publisher: Publisher,
    status: Status,
    reader: Reader,
    counters: ScopeCounters,
}

impl Node {
    fn new() -> Result<Node> {
        let publisher = Publisher::create(7)?;
        let reader = Reader::from_fd(publisher.region().fd().try_clone_to_owned()?)?;
        let (status, mut state) = (Status::create(1)?, State::new());
        state.set_local(super::world::local());
        for n in 0..LOCAL {
            let addrs = vec![Addr::from_bits(Addr::v4([10, 1, 1, 0]).bits() + n as u128)];
            let pod = Named::new(name(n % NAMESPACES), format!("p{}", n / NAMESPACES));
            let endpoint = LocalEndpoint { interface: 10 + n, owner: 0, mac: Mac([2; 6]), addrs, pod };
            state.attach(format!("c{n}"), endpoint);
        }
        state.set_complete();
        let (compiler, counters) = (Compiler::new(), ScopeCounters::default());
        Ok(Node { state, compiler, publisher, status, reader, counters })
    }

    /// Nanoseconds until the reader has it, and until the other copy has it, too.
    fn update(&mut self) -> Result<(u64, u64)> {
        let start = Instant::now();
        let mut batch = self.publisher.batch(self.status.acks()).context("acknowledged")?;
        let report = self.compiler.update(&mut self.state, &mut batch);
        batch.publish();
        self.reader.pin(self.status.block(0).ack(), &mut self.counters);
        let live = start.elapsed().as_nanos() as u64;
        ensure!(report.problems.is_empty(), "not all could be put in force: {}", report.problems[0]);
        let _ = self.publisher.batch(self.status.acks());
        Ok((live, start.elapsed().as_nanos() as u64))
    }
}

type Shared = Rc<RefCell<Option<Node>>>;
/// The object of the change of this number.
type Change = fn(u32) -> Object;

pub fn groups() -> Vec<Group> {
    let (shared, memory) = (Shared::default(), Seen::default());
    let full = Full { shared: shared.clone(), memory: memory.clone() };
    let mut cases = vec![
        Planned::ours("policies full load", SIZE, move || Ok(AtMost { case: full, rounds: 3 }))
            .unit("ms")
            .target(Target { floor: Some(2000.0), ..Target::default() }),
        told("policies: control and tables, both copies", SIZE, memory, false).unit("bytes"),
    ];
    let kinds: [(&str, Change); 4] = [
        ("one policy change", |i| policy(i % NAMESPACES, i % 10 * 11 % POLICIES_EACH, 1000 + i as u16)),
        ("one cluster-wide policy change", |i| {
            let Object::ClusterPolicy(mut policy) = cluster_policy(i % TEAMS) else { unreachable!("made as one") };
            policy.rules[0][0].ports[0].port = PortRange::Numbers(1000 + i as u16, 1000 + i as u16);
            Object::ClusterPolicy(policy)
        }),
        ("one label change", |i| pod(i % NAMESPACES, i % APPS, 1 + i)),
        ("one namespace change", |i| namespace(i % NAMESPACES, i % NAMESPACES + 1 + i / NAMESPACES)),
    ];
    for (what, change) in kinds {
        let p99 = Seen::default();
        let many = Many { shared: shared.clone(), change, p99: p99.clone() };
        let median = Planned::ours(&format!("{what}: median"), SIZE, move || Ok(AtMost { case: many, rounds: 1 }));
        cases.push(median.unit("us").target(Target { floor: Some(5000.0), ..Target::default() }));
        let target = Target { floor: Some(10_000.0), ..Target::default() };
        cases.push(told(&format!("{what}: p99"), SIZE, p99, true).unit("us").target(target));
    }
    vec![Group { title: super::TITLE, about: super::ABOUT, cases }]
}

/// Everything at once, into tables that hold nothing.
struct Full {
    shared: Shared,
    memory: Seen,
}

impl Case for Full {
    fn run(&mut self) -> Result<Cost> {
        drop(self.shared.borrow_mut().take());
        let mut node = Node::new()?;
        objects().for_each(|object| node.state.apply(ObjectChange::Put(object)));
        let before = resident();
        let (live, _) = node.update()?;
        self.memory.set(resident().saturating_sub(before) as f64);
        *self.shared.borrow_mut() = Some(node);
        Ok(Cost { ticks: f64::NAN, ..Cost::ns(live as f64) })
    }
}

/// Many changes of a kind.
struct Many {
    shared: Shared,
    change: Change,
    p99: Seen,
}

impl Case for Many {
    fn run(&mut self) -> Result<Cost> {
        let mut shared = self.shared.borrow_mut();
        let node = shared.as_mut().context("nothing was loaded")?;
        let mut all: Histogram<u64> = Histogram::new(3)?;
        for i in 0..CHANGES {
            node.state.apply(ObjectChange::Put((self.change)(i)));
            all.record(node.update()?.0)?;
        }
        self.p99.set(all.value_at_quantile(0.99) as f64);
        Ok(Cost { ticks: f64::NAN, ..Cost::ns(all.value_at_quantile(0.5) as f64) })
    }
}
