//! What tables cost: the look-ups of a first packet, and a publish of one change in a cluster of 11,000 services.

use benches::cluster::{self, backend, node_range, service};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dataplane::classify::policy::judge;
use std::hint::black_box;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tables::Protocol;
use tables::lpm::Lpm;
use tables::policy::{Direction, IDENTITY_FIRST};
use tables::publish::Reader;
use tables::scope::{Scope, ScopeCounters};

fn look_ups(criterion: &mut Criterion) {
    let publisher = cluster::publisher();
    let view = publisher.live();
    let mut group = criterion.benchmark_group("look-up");
    group.throughput(Throughput::Elements(1));
    let mut i = 0;
    group.bench_function("longest match, 5000 nodes, random", |b| {
        b.iter(|| {
            i = (i + 2741) % 5000;
            view.longest_match(Lpm::Route, node_range(black_box(i))).expect("a route")
        })
    });
    group.bench_function("policy judge, last of 8 rules", |b| {
        b.iter(|| {
            let judged = judge(&view, 1, Direction::Egress, black_box(IDENTITY_FIRST), Protocol::UDP, 8080);
            assert!(judged.allowed);
        })
    });
}

fn publish(criterion: &mut Criterion) {
    let mut publisher = cluster::publisher();
    let fd = publisher.region().fd().try_clone_to_owned().expect("a descriptor");
    let mut reader = Reader::from_fd(fd).expect("good tables");
    let (ack, mut scopes) = (AtomicU64::new(0), ScopeCounters::default());
    let mut group = criterion.benchmark_group("publish");
    group.throughput(Throughput::Elements(1));
    let mut i = 0;
    group.bench_function("one service of 11000 changes, pinned", |b| {
        b.iter(|| {
            i = (i + 1) % cluster::SERVICES_USED;
            let mut batch = publisher.batch([&ack]).expect("acknowledged");
            cluster::set_service(&mut batch, i, service(i), &[backend(i)]);
            batch.touch(Scope::Service(i));
            batch.publish();
            reader.pin(&ack, &mut scopes);
        })
    });
    group.bench_function("fresh region, 11000 services, 5000 nodes", |b| b.iter(cluster::publisher));
}

fn short() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
}

criterion_group!(name = tables_group; config = short(); targets = look_ups, publish);
criterion_main!(tables_group);
