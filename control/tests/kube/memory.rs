//! What 10,000 pods of other nodes take control: a process follows the tests' API server until all is compiled and says
//! what memory it has then, once with the pods and once without. It must not share that process with the server.

use super::server;
use super::world::{BUILT_IN, NAMESPACES as OF_NAMESPACES, NODES as OF_NODES, PODS as OF_PODS};
use control::compile::Compiler;
use control::kube::{Cluster, Server, Timing};
use control::state::{Local, State};
use serde_json::{Value, json};
use std::process::Command;
use tables::publish::Publisher;
use tables::status::Status;

const PODS: u32 = 10_000;
const NAMESPACES: u32 = 100;
const NODES: u32 = 100;
/// Pods of one ReplicaSet: equal labels.
const REPLICAS: u32 = 10;
/// In bytes: the real process has 20 MB, and more than this in it.
const LIMIT: u64 = 18_000_000;
const SERVER: &str = "FAIRWAY_MEMORY_OF";

fn node(n: u32) -> Value {
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": format!("worker-{n}.example.internal") },
        "spec": { "podCIDRs": [format!("10.{}.{}.0/24", 16 + n / 256, n % 256)] },
        "status": { "addresses": [{ "type": "InternalIP", "address": format!("192.168.{}.{}", n / 200, n % 200 + 1) }] } })
}

fn namespace(n: u32) -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": format!("team-{n}") } })
}

/// As a ReplicaSet and a kubelet leave it: most of it is of no interest here.
fn pod(n: u32) -> Value {
    let (set, replica) = (n / REPLICAS, n % REPLICAS);
    let app = format!("service-{}", set / NAMESPACES);
    let hash = format!("{:08x}", set.wrapping_mul(0x9e37_79b9));
    let (host, last) = (n % NODES, 4 + n / NODES);
    let addr = format!("10.{}.{}.{last}", 16 + host / 256, host % 256);
    json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "namespace": format!("team-{}", set % NAMESPACES), "name": format!("{app}-{hash}-{replica:05x}"),
            "uid": format!("0d4c7a3e-7d3c-4b4e-9a7f-{n:012}"),
            "labels": { "app.kubernetes.io/name": app, "app.kubernetes.io/component": "server",
                "app.kubernetes.io/part-of": "shop", "tier": format!("tier-{}", set % 3), "pod-template-hash": hash },
            "managedFields": [{ "manager": "kubelet", "fieldsV1": { "text": "f:".repeat(800) } }] },
        "spec": { "nodeName": format!("worker-{host}.example.internal"), "containers": [
            { "name": "server", "image": "registry.example/server:1",
                "env": [{ "name": "A", "value": "x".repeat(500) }],
                "ports": [{ "name": "http", "containerPort": 8080 }, { "name": "metrics", "containerPort": 9090 }] }] },
        "status": { "phase": "Running", "podIP": addr, "podIPs": [{ "ip": addr }],
            "conditions": [{ "type": "Ready", "status": "True" }] } })
}

/// Tables of a region of their own, as the dataplane has them mapped: told apart from what is control's alone.
#[derive(Debug, Clone, Copy)]
struct Memory {
    own: u64,
    tables: u64,
}

fn field(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// In a process of its own: what control does with objects, until all are in the tables.
#[test]
fn follow() {
    let Ok(addr) = std::env::var(SERVER) else { return };
    let directory = std::env::temp_dir().join(format!("fairway-memory-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let play = async {
        let server = Server::plain(format!("http://{addr}").parse().unwrap());
        let mut cluster = Cluster::follow(server, Timing::default(), &directory, None).unwrap();
        let mut publisher = Publisher::create(1).unwrap();
        let status = Status::create(1).unwrap();
        let (mut state, mut compiler) = (State::new(), Compiler::new());
        state.set_local(Local { node: "worker-0.example.internal".to_owned(), ..Local::default() });
        loop {
            let update = cluster.next().await;
            update.changes.into_iter().for_each(|change| state.apply(change));
            if update.is_complete {
                state.set_complete();
                break;
            }
        }
        for _ in 0..2 {
            let mut batch = publisher.batch(status.acks()).unwrap();
            let report = compiler.update(&mut state, &mut batch);
            batch.publish();
            assert!(report.problems.is_empty(), "{:?}", report.problems[0].to_string());
        }
        println!("{} pods, own {}, tables {}.", state.pods().count(), field("RssAnon"), field("RssShmem"));
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(play);
    std::fs::remove_dir_all(&directory).unwrap();
}

/// The server answers meanwhile.
async fn measure(server: &server::Server, pods: u32) -> Memory {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "memory::follow", "--nocapture"]).env(SERVER, server.addr.to_string());
    let output = tokio::task::spawn_blocking(move || child.output()).await.unwrap().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.split_once(&format!("{pods} pods, own ")).unwrap_or_else(|| panic!("{text}")).1;
    let (own, rest) = line.split_once(", tables ").unwrap();
    Memory { own: own.parse().unwrap(), tables: rest.split_once('.').unwrap().0.parse().unwrap() }
}

async fn compare() {
    let server = server::Server::start().await;
    {
        let mut store = server.store();
        BUILT_IN.iter().for_each(|collection| store.install(collection));
        (0..NODES).for_each(|n| store.put(OF_NODES, node(n)));
        (0..NAMESPACES).for_each(|n| store.put(OF_NAMESPACES, namespace(n)));
    }
    let before = measure(&server, 0).await;
    (0..PODS).for_each(|n| server.store().put(OF_PODS, pod(n)));
    let mut least = u64::MAX;
    // What the allocator keeps besides depends on what else the machine does.
    for _ in 0..3 {
        let after = measure(&server, PODS).await;
        let took = Memory { own: after.own - before.own, tables: after.tables - before.tables };
        println!("without pods {before:?}, with {PODS} {after:?}: {took:?}");
        least = least.min(took.own);
    }
    assert!(least <= LIMIT, "{least}");
}

#[test]
fn ten_thousand_pods_of_other_nodes() {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(compare());
}
