//! The client of the API server against a real kube-apiserver and etcd: `make test-cluster`, where both are on PATH. What
//! tests/kube.rs asks of a server that is written from the API's documentation is asked of the real one, as the account and
//! with the permissions that control/deploy/fairway.yaml makes.

#[path = "cluster/server.rs"]
mod server;

use control::doctor::{Diagnosis, api};
use control::kube::{Cluster, Order, Timing};
use control::object::{Kind, Named, Object, ObjectChange, ObjectKey};
use control::pool::Pool;
use control::source::Reach;
use control::state::State;
use serde_json::{Value, json};
use server::{Server, delete, get, put};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// Only where it was asked for: both programs have to be there.
fn play(test: impl Future<Output = ()>) {
    if std::env::var_os("FAIRWAY_TEST_CLUSTER").is_none() {
        return println!("make test-cluster runs this");
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

fn timing() -> Timing {
    let short = Duration::from_millis(50);
    Timing {
        page_max: 10,
        answer: Duration::from_secs(5),
        retry: short,
        retry_max: Duration::from_millis(500),
        lease: Duration::from_secs(2),
        look_again: Duration::from_millis(500),
        ..Timing::default()
    }
}

/// One control, as far as objects go.
struct Control {
    cluster: Cluster,
    state: State,
    objects: BTreeMap<ObjectKey, Object>,
    deleted: Vec<ObjectKey>,
    problems: Vec<String>,
    reach: Option<Reach>,
    is_complete: bool,
    term: u64,
    /// How the last statuses were written.
    written: Result<(), String>,
    directory: PathBuf,
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl Control {
    async fn new(server: &Server, name: &str, candidate: bool) -> Control {
        let directory =
            std::env::temp_dir().join(format!("fairway-cluster-{name}-{}-{}", std::process::id(), server.port));
        std::fs::create_dir_all(&directory).unwrap();
        let at = server.as_user("fairway").await;
        let cluster = Cluster::follow(at, timing(), &directory, candidate.then(|| name.to_owned())).unwrap();
        Control {
            cluster,
            state: State::new(),
            objects: BTreeMap::new(),
            deleted: Vec::new(),
            problems: Vec::new(),
            reach: None,
            is_complete: false,
            term: 0,
            written: Ok(()),
            directory,
        }
    }

    /// What is heard within a while.
    async fn hear(&mut self, limit: Duration) {
        while let Ok(update) = tokio::time::timeout(limit, self.cluster.next()).await {
            for change in update.changes {
                match &change {
                    ObjectChange::Put(object) => drop(self.objects.insert(object.key(), object.clone())),
                    ObjectChange::Delete(key) => {
                        self.objects.remove(key);
                        self.deleted.push(key.clone());
                    }
                }
                self.state.apply(change);
            }
            (self.is_complete, self.term) = (update.is_complete, update.term);
            (self.problems, self.reach) = (update.problems, Some(update.reach));
        }
    }

    async fn until(&mut self, what: &str, is_so: impl Fn(&Control) -> bool) {
        let begun = Instant::now();
        while !is_so(self) {
            assert!(begun.elapsed() < PATIENCE, "never: {what}; {:?} {:?}", self.reach, self.problems);
            self.hear(Duration::from_millis(20)).await;
        }
    }

    async fn until_connected(&mut self) {
        self.until("connected", |c| c.is_complete && matches!(c.reach, Some(Reach::Connected { .. }))).await;
    }

    fn has(&self, kind: Kind, namespace: &str, name: &str) -> bool {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        self.objects.contains_key(&ObjectKey { kind, namespace, name })
    }

    fn gives(&self) -> bool {
        self.cluster.lease().unwrap().leads(self.term)
    }

    /// What `supervise` does with pools.
    async fn give(&mut self) {
        self.hear(Duration::from_millis(10)).await;
        let (pools, gives): ([Pool; 1], bool) = (["p=192.0.2.0-192.0.2.63".parse().unwrap()], self.gives());
        self.state.assign_addresses(&pools, gives);
        let due = self.state.statuses_to_write();
        if !due.is_empty() {
            assert!(gives, "only the holder has anything to write: {due:?}");
            self.written = self.cluster.writer().write(Order::Statuses(due)).await;
        }
    }
}

fn meta(name: &str) -> Value {
    json!({ "namespace": "demo", "name": name })
}

fn node(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name }, "spec": { "podCIDRs": ["10.1.1.0/24"], "podCIDR": "10.1.1.0/24" },
        "status": { "addresses": [{ "type": "InternalIP", "address": "192.168.0.1" }] } })
}

fn namespace() -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "demo", "labels": { "of": "tests" } } })
}

fn pod(name: &str, addr: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": meta(name),
        "spec": { "nodeName": "a", "containers": [{ "name": "c", "image": "i", "ports": [{ "name": "http", "containerPort": 80, "protocol": "TCP" }] }] },
        "status": { "podIPs": [{ "ip": addr }], "podIP": addr } })
}

fn service(name: &str, port: u16, kind: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": meta(name),
        "spec": { "type": kind, "selector": { "app": name }, "ports": [{ "port": port, "name": "http", "protocol": "TCP" }] } })
}

fn slice(name: &str, addr: &str) -> Value {
    json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "namespace": "demo", "name": name, "labels": { "kubernetes.io/service-name": "web" } },
        "ports": [{ "port": 80 }], "endpoints": [{ "addresses": [addr] }] })
}

fn policy(cidr: &str) -> Value {
    json!({ "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta("all"),
        "spec": { "podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{ "from": [{ "ipBlock": { "cidr": cidr } }] }] } })
}

/// A server with one object of each kind, and its account's permissions.
async fn start(name: &str) -> Server {
    let server = Server::start(name).await;
    server.install_rbac().await;
    let has_slices = server.has_slices().await;
    if !has_slices {
        println!("this server has no EndpointSlice of discovery.k8s.io/v1, as none before 1.21: they are left out");
    }
    let all = [
        node("a"),
        namespace(),
        pod("web", "10.1.1.5"),
        service("web", 80, "ClusterIP"),
        slice("web-1", "10.1.1.5"),
        policy("10.0.0.0/8"),
    ];
    for object in all.iter().filter(|object| has_slices || object["kind"] != "EndpointSlice") {
        put(server.admin(), object).await;
    }
    server
}

#[test]
fn every_kind_is_read_in_pages_and_followed() {
    play(async {
        let server = start("follow").await;
        for i in 0..45 {
            put(server.admin(), &service(&format!("s{i}"), 80, "ClusterIP")).await;
        }
        let mut control = Control::new(&server, "one", false).await;
        control.until_connected().await;
        for (kind, name) in [(Kind::Pod, "web"), (Kind::Service, "s44"), (Kind::NetworkPolicy, "all")] {
            assert!(control.has(kind, "demo", name), "{kind:?}");
        }
        assert_eq!(control.has(Kind::EndpointSlice, "demo", "web-1"), server.has_slices().await);
        assert!(control.has(Kind::Node, "", "a") && control.has(Kind::Namespace, "", "demo"));
        assert_eq!(control.problems, [""; 0]);
        put(server.admin(), &service("web", 81, "ClusterIP")).await;
        delete(server.admin(), &policy("10.0.0.0/8")).await;
        put(server.admin(), &pod("other", "10.1.1.6")).await;
        delete(server.admin(), &service("s3", 80, "ClusterIP")).await;
        let web = Named::new("demo", "web");
        control
            .until("the changes", |c| {
                let port = c.state.service(&web).is_some_and(|service| service.ports[0].port == 81);
                let addr = c.state.pod(&Named::new("demo", "other")).is_some_and(|pod| !pod.addrs.is_empty());
                port && addr && !c.has(Kind::NetworkPolicy, "demo", "all") && !c.has(Kind::Service, "demo", "s3")
            })
            .await;
        assert_eq!(control.deleted.len(), 2, "{:?}", control.deleted);
    });
}

#[test]
fn a_server_that_is_gone_comes_back_and_what_it_forgot_is_listed_anew() {
    play(async {
        let mut server = start("gone").await;
        let mut control = Control::new(&server, "one", false).await;
        control.until_connected().await;
        let before = control.objects.clone();
        server.stop();
        control.until("failing", |c| matches!(c.reach, Some(Reach::Failing { .. }))).await;
        assert_eq!((&control.objects, control.deleted.len()), (&before, 0));
        let other = server.meanwhile().await;
        delete(&other, &service("web", 80, "ClusterIP")).await;
        for i in 0..30 {
            put(&other, &service("new", 80 + i, "ClusterIP")).await;
        }
        server.end_meanwhile();
        // A server that has just started does not know how it came to that.
        server.start_again().await;
        control
            .until("what changed", |c| c.has(Kind::Service, "demo", "new") && !c.has(Kind::Service, "demo", "web"))
            .await;
        control.until_connected().await;
        assert_eq!(control.deleted.len(), 1, "{:?}", control.deleted);
    });
}

#[test]
fn what_is_written_back_stands_there_and_one_holder_gives_addresses() {
    play(async {
        let server = start("write").await;
        for i in 0..6 {
            put(server.admin(), &service(&format!("b{i}"), 80, "LoadBalancer")).await;
        }
        let (mut first, mut second) =
            (Control::new(&server, "first", true).await, Control::new(&server, "second", true).await);
        first.until_connected().await;
        let said = async |count: usize, controls: &mut [&mut Control]| {
            let begun = Instant::now();
            loop {
                for control in controls.iter_mut() {
                    control.give().await;
                }
                let list = get(server.admin(), "/api/v1/namespaces/demo/services").await.unwrap();
                let ip = |service: &Value| service.pointer("/status/loadBalancer/ingress/0/ip").map(Value::to_string);
                let all: Vec<String> = list["items"].as_array().unwrap().iter().filter_map(ip).collect();
                assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "given twice: {all:?}");
                if all.len() == count {
                    return;
                }
                let written: Vec<_> = controls.iter().map(|control| &control.written).collect();
                assert!(begun.elapsed() < PATIENCE, "{} of {count} have one: {written:?}", all.len());
            }
        };
        said(6, &mut [&mut first, &mut second]).await;
        assert!(first.gives() != second.gives());
        let (killed, mut left) = if first.gives() { (first, second) } else { (second, first) };
        for i in 6..12 {
            put(server.admin(), &service(&format!("b{i}"), 80, "LoadBalancer")).await;
        }
        drop(killed);
        said(12, &mut [&mut left]).await;
        assert!(left.gives());
        let told = left.cluster.writer().write(Order::Networked { node: "a".to_owned() }).await;
        assert_eq!(told, Ok(()));
        let node = get(server.admin(), "/api/v1/nodes/a").await.unwrap();
        let conditions = node["status"]["conditions"].as_array().unwrap();
        assert!(
            conditions.iter().any(|c| c["type"] == "NetworkUnavailable" && c["status"] == "False"),
            "{conditions:?}"
        );
        assert!(!node["spec"]["taints"].to_string().contains("network-unavailable"), "{node}");
        left.cluster.lease().unwrap().release().await;
        let lease =
            get(server.admin(), "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/fairway").await.unwrap();
        assert_eq!(lease["spec"]["holderIdentity"].as_str().unwrap_or_default(), "");
    });
}

#[test]
fn doctor_finds_the_permissions_of_the_manifest_and_misses_those_of_nobody() {
    play(async {
        let server = start("doctor").await;
        let mut well = Diagnosis::default();
        let nodes = api::check(&server.as_user("fairway").await, &mut well).await;
        assert_eq!((well.findings.as_slice(), nodes.len()), (&[][..], 1));
        let mut unwell = Diagnosis::default();
        api::check(&server.as_user("nobody").await, &mut unwell).await;
        assert!(unwell.findings[0].what.contains("list nodes"), "{:?}", unwell.findings);
    });
}
