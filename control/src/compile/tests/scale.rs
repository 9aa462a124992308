//! How long it takes at the size the tables are made for. Bounds have much slack: machines are shared, and what is
//! guarded is the order of growth.

use super::world::local;
use super::*;
use crate::object::*;
use std::time::{Duration, Instant};

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 10;

fn service(i: u32) -> Object {
    Object::Service(crate::object::Service {
        id: Named::new(format!("ns{}", i % 100), format!("s{i}")).into(),
        cluster_ips: vec![Addr::v4((0xac1e_0000 + i).to_be_bytes())],
        ports: vec![ServicePort {
            name: String::new(),
            port: 80,
            protocol: Protocol::TCP,
            target: TargetPort::Number(8080),
            node_port: None,
        }],
        families: [true, false],
        selector: [("app".to_owned(), format!("s{i}"))].into(),
        ..crate::object::Service::default()
    })
}

fn slice(i: u32, shift: u32) -> Object {
    let addr = |e: u32| Addr::v4((0x0a02_0000 + i * 16 + e + shift).to_be_bytes());
    let endpoint = |e| SliceEndpoint { addr: addr(e), ready: true, serving: true, ..SliceEndpoint::default() };
    Object::EndpointSlice(EndpointSlice {
        id: Named::new(format!("ns{}", i % 100), format!("s{i}-x")).into(),
        service: Some(format!("s{i}")),
        ports: vec![SlicePort { name: String::new(), protocol: Protocol::TCP, port: 8080 }],
        endpoints: (0..ENDPOINTS).map(endpoint).collect(),
    })
}

fn pod(i: u32, label: &str) -> Object {
    Object::Pod(Pod {
        id: Named::new(format!("ns{}", i % 100), format!("p{i}")).into(),
        labels: [("app".to_owned(), format!("s{}", i % SERVICES)), ("x".to_owned(), label.to_owned())].into(),
        addrs: vec![Addr::v4((0x0a02_0000 + i).to_be_bytes())],
        ready: true,
        ..Pod::default()
    })
}

fn timed<T>(what: &str, limit: Duration, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    let took = start.elapsed();
    println!("{what}: {took:?}");
    assert!(took < limit, "{what} took {took:?}, more than {limit:?}");
    result
}

/// The best of some changes: others may use the machine.
fn timed_change(what: &str, rig: &mut Rig, change: impl Fn(u32) -> Object) {
    let once = |i: u32| {
        rig.state.apply(ObjectChange::Put(change(i)));
        let start = Instant::now();
        rig.update();
        start.elapsed()
    };
    let best = (0..10).map(once).min().expect("ten of them");
    println!("{what}: {best:?}");
    assert!(best < Duration::from_millis(20), "{what} took {best:?} at best");
}

#[test]
fn one_change_among_ten_thousand_services_costs_one_service() {
    let mut rig = Rig::new(local());
    (0..SERVICES).flat_map(|i| [service(i), slice(i, 0)]).for_each(|o| rig.state.apply(ObjectChange::Put(o)));
    let report = timed("compile 10,000 services x 10 endpoints", Duration::from_secs(20), || rig.update());
    assert!(report.problems.is_empty());
    assert_eq!(rig.compiler.services().iter().map(|s| s.backends.len()).sum::<usize>(), 100_000);
    timed_change("compile and publish one changed slice", &mut rig, |i| slice(5_000 + i, 3));
}

#[test]
fn one_pod_among_a_hundred_thousand_costs_one_pod() {
    let mut rig = Rig::new(local());
    (0..SERVICES).map(service).for_each(|o| rig.state.apply(ObjectChange::Put(o)));
    (0..10 * SERVICES).map(|i| pod(i, "")).for_each(|o| rig.state.apply(ObjectChange::Put(o)));
    let report = timed("compile 10,000 services from 100,000 pods", Duration::from_secs(60), || rig.update());
    assert!(report.problems.is_empty());
    timed_change("compile and publish one changed pod", &mut rig, |i| pod(50_000 + i, "y"));
}
