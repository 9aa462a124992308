//! What a packet costs, ns each: its steps alone, then the whole path in memory. `harness` and `empty round` are what the
//! bench itself costs; the report subtracts the former from full paths.

use benches::cluster::{self, POD_ADDR, SERVICES_USED};
use benches::device::Traffic;
use benches::node::{Kind, Node, ROUND, pool, shuffled, traffic};
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dataplane::flow::{FlowTable, Way};
use dataplane::io::Interface;
use dataplane::packet::{BURST_MAX, Burst};
use dataplane::parse::parse;
use rustix::time::{ClockId, clock_gettime};
use std::hint::black_box;
use std::time::Duration;
use tables::Protocol;
use tables::counters::WorkerCounter;
use tables::flow::{FlowLayout, FlowRecord, Tuple};

/// Time that this thread ran, so that a machine that does other things too is no slower, only noisier.
struct CpuTime;

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
    }

    fn end(&self, start: Duration) -> Duration {
        self.start() - start
    }

    fn add(&self, one: &Duration, other: &Duration) -> Duration {
        *one + *other
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

const WORKING_SETS: [(u32, &str); 4] = [(1_000, "1k"), (10_000, "10k"), (100_000, "100k"), (1_000_000, "1M")];

fn parsing(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("parse");
    group.throughput(Throughput::Elements(1));
    for (name, kind) in [("64 bytes UDP", Kind::Encap), ("64 bytes UDP in VXLAN, outer", Kind::Decap)] {
        let (frame, _) = traffic(kind);
        group.bench_function(name, |b| b.iter(|| parse(black_box(&frame), frame.len())));
    }
}

fn tuple(i: u32) -> Tuple {
    Tuple {
        local: POD_ADDR,
        remote: cluster::service(i % SERVICES_USED),
        local_port: (1024 + i / SERVICES_USED) as u16,
        remote_port: 80,
        protocol: Protocol::UDP,
        reserved: 0,
        network: 0,
    }
}

fn flow_hits(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("flow hit");
    group.throughput(Throughput::Elements(ROUND));
    for (flows, name) in WORKING_SETS {
        let mut order = shuffled(flows).into_iter().cycle();
        let mut table = None;
        group.bench_function(name, |b| {
            let table = table.get_or_insert_with(|| flow_table(flows));
            b.iter(|| {
                for i in order.by_ref().take(ROUND as usize) {
                    let id = table.find(&tuple(i), Way::Out).expect("a flow");
                    table.note(id, Way::Out, 0, 1);
                }
            })
        });
    }
}

fn flow_table(flows: u32) -> FlowTable {
    let region = FlowLayout::for_capacity(flows as usize * 5 / 4).create(0, 1, 7, 0).expect("memory for flows");
    let mut table = FlowTable::new(region).expect("fresh memory");
    for i in 0..flows {
        let outside = Tuple { remote: cluster::backend(i % SERVICES_USED), ..tuple(i) };
        let record = FlowRecord { inside: tuple(i), outside, ..bytemuck::Zeroable::zeroed() };
        table.insert(record).expect("room");
    }
    table
}

/// What the bench costs itself.
fn harness(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("harness");
    group.throughput(Throughput::Elements(BURST_MAX as u64));
    for (name, kind) in [("encap", Kind::Encap), ("decap", Kind::Decap), ("local", Kind::Local)] {
        let (template, patch) = traffic(kind);
        let mut device = Traffic::new(1, template, patch, shuffled(100_000));
        let (mut pool, mut burst) = (pool(), Burst::default());
        group.bench_function(name, |b| {
            b.iter(|| {
                device.rx(&mut pool, &mut burst);
                device.tx(&mut pool, &mut burst);
            })
        });
        device.close(&mut pool);
    }
    group.throughput(Throughput::Elements(1));
    let mut node = Node::new(1024);
    node.connect(Kind::Encap, Vec::new());
    group.bench_function("empty round", |b| b.iter(|| node.worker.round()));
}

fn full_path(criterion: &mut Criterion<CpuTime>) {
    for (group, kind) in [("encap", Kind::Encap), ("decap", Kind::Decap), ("local", Kind::Local)] {
        let mut group = criterion.benchmark_group(format!("full path {group}"));
        group.throughput(Throughput::Elements(ROUND));
        for (flows, name) in WORKING_SETS {
            // Made when it is known that this bench was asked for.
            let mut node = None;
            group.bench_function(name, |b| {
                let node = node.get_or_insert_with(|| Node::established(kind, flows));
                b.iter(|| assert_eq!(node.worker.round() as u64, ROUND));
                node.assert_all_forwarded();
            });
        }
    }
}

/// Flows that are opened before they are forgotten again; their memory is warm.
const NEW_FLOWS: u32 = 65_536;

fn new_flows(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("new flow");
    group.throughput(Throughput::Elements(ROUND));
    for (name, kind) in [("encap", Kind::Encap), ("local", Kind::Local)] {
        let mut node = Node::new(4 * NEW_FLOWS as usize);
        node.connect(kind, shuffled(NEW_FLOWS));
        node.run(2 * NEW_FLOWS as u64);
        group.bench_function(name, |b| {
            b.iter_custom(|rounds| {
                let (mut spent, mut left) = (Duration::ZERO, rounds);
                while left > 0 {
                    let now = left.min(NEW_FLOWS as u64 / ROUND);
                    forget_all(&mut node);
                    let before = node.count(WorkerCounter::Classified);
                    let start = CpuTime.start();
                    node.run(now * ROUND);
                    spent += CpuTime.end(start);
                    assert!(node.count(WorkerCounter::Classified) - before >= now * ROUND);
                    left -= now;
                }
                spent
            })
        });
        node.assert_all_forwarded();
    }
}

fn forget_all(node: &mut Node) {
    let path = node.worker.path();
    let capacity = path.flows.capacity();
    let later = path.now_ms.wrapping_add(1 << 30);
    path.flows.expire(capacity, later);
    assert_eq!(path.flows.used(), 0);
}

fn short() -> Criterion<CpuTime> {
    Criterion::default()
        .with_measurement(CpuTime)
        .sample_size(30)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
}

criterion_group!(name = packet; config = short(); targets = parsing, flow_hits, harness, full_path, new_flows);
criterion_main!(packet);
