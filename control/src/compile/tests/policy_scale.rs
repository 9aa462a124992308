//! Ten thousand policies and five thousand identities: what all of it and one change cost control. In processor time, since
//! machines are shared, and bounds have slack all the same: what is guarded is the order of growth.

use super::world::{local, prefix};
use super::*;
use crate::object::selector::{Requirement, Test};
use crate::object::*;
use crate::state::LocalEndpoint;
use std::time::Duration;

const NAMESPACES: u32 = 100;
const APPS: u32 = 50;
const POLICIES: u32 = 100;
const LOCAL: u32 = 250;

fn name(i: u32) -> String {
    format!("ns{i}")
}

fn selector(key: &str, value: String) -> Selector {
    Selector(vec![Requirement { key: key.into(), test: Test::In(vec![value]) }])
}

fn labels(pairs: &[(&str, String)]) -> Labels {
    pairs.iter().map(|(key, value)| (key, value)).collect()
}

fn namespace(i: u32, team: u32) -> Object {
    let labels = parse::namespace_labels(&name(i), &labels(&[("team", format!("t{team}"))]));
    Object::Namespace(Namespace { audit: false, pod_pool: None, name: name(i), labels })
}

/// The first of each namespace are here.
fn pod(i: u32, app: u32, label: u32) -> Object {
    let addr = if app * NAMESPACES + i < LOCAL { 0x0a01_0010 } else { 0x0a02_0000 } + app * NAMESPACES + i;
    Object::Pod(Pod {
        id: Named::new(name(i), format!("p{app}")).into(),
        labels: labels(&[("app", format!("a{app}")), ("x", format!("x{label}"))]),
        addrs: vec![Addr::v4(addr.to_be_bytes())],
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
    let ingress = vec![
        rule(vec![pods(Some(selector("team", format!("t{}", j % 10))), app(j + 1)), pods(None, app(j + 2))]),
        rule(vec![pods(None, Selector::default())]),
    ];
    let cidr = prefix(&format!("10.{}.0.0/16", 100 + j));
    let egress = vec![rule(vec![Peer::Block { cidr, except: Vec::new() }]), rule(vec![pods(None, app(j + 3))])];
    Object::NetworkPolicy(NetworkPolicy {
        audit: false,
        id: Named::new(name(i), format!("n{j}")),
        pods: if j.is_multiple_of(10) { Selector::default() } else { app(j) },
        rules: [Some(ingress), j.is_multiple_of(2).then_some(egress)],
    })
}

fn cluster_policy(i: u32, port: u16) -> Object {
    let peers = vec![Peer::Pods { namespaces: Some(selector("team", format!("t{i}"))), pods: Selector::default() }];
    let ports = vec![PortMatch { protocol: Protocol::UDP, port: PortRange::Numbers(port, port) }];
    let rule = PolicyRule { action: Action::Deny, peers, ports, ..PolicyRule::default() };
    Object::ClusterPolicy(ClusterPolicy {
        audit: false,
        kind: Kind::ClusterNetworkPolicy,
        name: format!("c{i}"),
        tier: Tier::Admin,
        priority: i as u16,
        subject: Subject { namespaces: selector("team", format!("t{}", (i + 1) % 10)), pods: Selector::default() },
        rules: [vec![rule.clone()], vec![rule]],
    })
}

/// Time that this thread has had a processor.
fn on_processor() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn timed<T>(what: &str, limit: Duration, work: impl FnOnce() -> T) -> T {
    let start = on_processor();
    let result = work();
    let took = on_processor() - start;
    println!("{what}: {took:?}");
    assert!(took < limit, "{what} took {took:?}, more than {limit:?}");
    result
}

fn cluster() -> Vec<Object> {
    let of_namespace = |i: u32| {
        let pods = (0..APPS).map(move |app| pod(i, app, 0));
        let policies = (0..POLICIES).map(move |j| policy(i, j, 80 + j as u16));
        [namespace(i, i % 10)].into_iter().chain(pods).chain(policies)
    };
    (0..NAMESPACES).flat_map(of_namespace).chain((0..10).map(|i| cluster_policy(i, 9))).collect()
}

fn attach(rig: &mut Rig) {
    for n in 0..LOCAL {
        let addrs = vec![Addr::v4((0x0a01_0010 + n).to_be_bytes())];
        let pod = Named::new(name(n % NAMESPACES), format!("p{}", n / NAMESPACES));
        let endpoint = LocalEndpoint { interface: 10 + n, owner: 0, mac: tables::Mac([2; 6]), addrs, pod };
        rig.state.attach(format!("c{n}"), endpoint);
    }
}

#[test]
fn ten_thousand_policies_compile_at_once_and_one_change_costs_little() {
    let mut rig = Rig::new(local());
    attach(&mut rig);
    cluster().into_iter().for_each(|object| rig.state.apply(ObjectChange::Put(object)));
    let report = timed("10,000 policies, 5,000 identities", Duration::from_secs(10), || rig.update());
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    println!("{:?}", rig.compiler.policies.used());
    rig.update();
    let (quick, wide) = (Duration::from_millis(20), Duration::from_millis(200));
    let changes = [
        ("one policy", quick, vec![policy(7, 13, 7), policy(7, 13, 8)]),
        ("a policy of all pods of a namespace", quick, vec![policy(7, 20, 7), policy(7, 20, 8)]),
        ("a policy that selects nobody here", quick, vec![policy(7, 29, 7), policy(7, 29, 8)]),
        ("a policy of a tenth of the cluster", wide, vec![cluster_policy(3, 10), cluster_policy(3, 11)]),
        ("a label of a pod elsewhere", quick, vec![pod(7, 40, 1), pod(7, 40, 2)]),
        ("a label of a pod here", quick, vec![pod(7, 1, 1), pod(7, 1, 2)]),
        ("a namespace's label", quick, vec![namespace(7, 8), namespace(7, 7)]),
    ];
    for (what, limit, objects) in changes {
        for object in objects {
            rig.state.apply(ObjectChange::Put(object));
            let report = timed(what, limit, || rig.update());
            assert!(report.problems.is_empty());
            rig.update();
        }
    }
    let mut fresh = Rig::new(local());
    attach(&mut fresh);
    cluster().into_iter().for_each(|object| fresh.state.apply(ObjectChange::Put(object)));
    let last =
        [policy(7, 13, 8), policy(7, 20, 8), policy(7, 29, 8), cluster_policy(3, 11), pod(7, 40, 2), pod(7, 1, 2)];
    last.into_iter().for_each(|object| fresh.state.apply(ObjectChange::Put(object)));
    fresh.update();
    assert_eq!(used(&rig), used(&fresh));
}
