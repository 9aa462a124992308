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
        id: Named::new(format!("ns{}", i % 100), format!("s{i}")),
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
        id: Named::new(format!("ns{}", i % 100), format!("s{i}-x")),
        service: Some(format!("s{i}")),
        ports: vec![SlicePort { name: String::new(), protocol: Protocol::TCP, port: 8080 }],
        endpoints: (0..ENDPOINTS).map(endpoint).collect(),
    })
}

fn pod(i: u32, label: &str) -> Object {
    Object::Pod(Pod {
        id: Named::new(format!("ns{}", i % 100), format!("p{i}")),
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

#[test]
fn one_change_among_ten_thousand_services_costs_one_service() {
    let mut rig = Rig::new(local());
    (0..SERVICES).flat_map(|i| [service(i), slice(i, 0)]).for_each(|o| rig.state.apply(ObjectChange::Put(o)));
    let report = timed("compile 10,000 services x 10 endpoints", Duration::from_secs(20), || rig.update());
    assert!(report.problems.is_empty());
    assert_eq!(rig.compiler.services().iter().map(|s| s.backends.len()).sum::<usize>(), 100_000);
    // The second copy catches up here, which is not what is measured.
    rig.state.apply(ObjectChange::Put(slice(1, 3)));
    rig.update();
    rig.state.apply(ObjectChange::Put(slice(2, 3)));
    rig.update();
    rig.state.apply(ObjectChange::Put(slice(5_000, 3)));
    timed("compile and publish one changed slice", Duration::from_millis(20), || rig.update());
}

#[test]
fn one_pod_among_a_hundred_thousand_costs_one_pod() {
    let mut rig = Rig::new(local());
    (0..SERVICES).map(service).for_each(|o| rig.state.apply(ObjectChange::Put(o)));
    (0..10 * SERVICES).map(|i| pod(i, "")).for_each(|o| rig.state.apply(ObjectChange::Put(o)));
    let report = timed("compile 10,000 services from 100,000 pods", Duration::from_secs(60), || rig.update());
    assert!(report.problems.is_empty());
    for i in [1, 2] {
        rig.state.apply(ObjectChange::Put(pod(i, "y")));
        rig.update();
    }
    rig.state.apply(ObjectChange::Put(pod(50_000, "y")));
    timed("compile and publish one changed pod", Duration::from_millis(20), || rig.update());
}
