//! The real client against the server beside this file, and what it said so far. Truth is read from the server's own
//! objects by the reader of files.

use super::server::Server;
use control::file::parse::{Syntax, parse};
use control::kube::{self, Cluster, Timing};
use control::object::{Kind, Object, ObjectChange, ObjectKey};
use control::source::{Reach, Update};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub const NODES: &str = "/api/v1/nodes";
pub const NAMESPACES: &str = "/api/v1/namespaces";
pub const PODS: &str = "/api/v1/pods";
pub const SERVICES: &str = "/api/v1/services";
pub const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
pub const POLICIES: &str = "/apis/networking.k8s.io/v1/networkpolicies";
pub const CLUSTER_POLICIES: &str = "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies";
pub const BUILT_IN: [&str; 6] = [NODES, NAMESPACES, PODS, SERVICES, SLICES, POLICIES];

const PATIENCE: Duration = Duration::from_secs(20);

/// Short enough for tests; retries as fast as faults come.
pub fn timing() -> Timing {
    Timing {
        page_max: 10,
        answer: Duration::from_millis(500),
        watch: Duration::from_secs(60),
        silence: Duration::from_secs(30),
        retry: Duration::from_millis(10),
        retry_max: Duration::from_millis(100),
        lease: Duration::from_secs(1),
        recall: Duration::from_millis(200),
        look_again: Duration::from_millis(50),
    }
}

/// A directory that goes with it.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("fairway-kube-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub struct World {
    pub server: Server,
    pub cluster: Cluster,
    pub state_dir: Scratch,
    pub objects: BTreeMap<ObjectKey, Object>,
    /// Everything that was ever said to be gone.
    pub deleted: Vec<ObjectKey>,
    pub puts: usize,
    pub problems: Vec<String>,
    pub is_complete: bool,
    pub reach: Option<Reach>,
}

impl World {
    /// A server with some objects of each kind that a server always has, and nothing heard of it yet.
    pub async fn new() -> World {
        let server = Server::start().await;
        BUILT_IN.iter().for_each(|collection| server.store().install(collection));
        World::of(server, timing())
    }

    pub fn of(server: Server, timing: Timing) -> World {
        World::with(server, timing, Scratch::new())
    }

    fn with(server: Server, timing: Timing, state_dir: Scratch) -> World {
        let at = format!("http://{}", server.addr).parse().unwrap();
        let cluster = Cluster::follow(kube::Server::plain(at), timing, &state_dir.0, None).unwrap();
        World::heard_by(server, cluster, state_dir)
    }

    fn heard_by(server: Server, cluster: Cluster, state_dir: Scratch) -> World {
        World {
            server,
            cluster,
            state_dir,
            objects: BTreeMap::new(),
            deleted: Vec::new(),
            puts: 0,
            problems: Vec::new(),
            is_complete: false,
            reach: None,
        }
    }

    /// Another process in place of this one, on the same node.
    pub fn restart(self) -> World {
        let World { server, state_dir, cluster, .. } = self;
        drop(cluster);
        World::with(server, timing(), state_dir)
    }

    /// The same server, followed in another way.
    pub fn by(self, cluster: Cluster) -> World {
        let World { server, state_dir, .. } = self;
        World::heard_by(server, cluster, state_dir)
    }

    /// What is heard within a while.
    pub async fn hear(&mut self, limit: Duration) {
        while let Ok(update) = tokio::time::timeout(limit, self.cluster.next()).await {
            self.take(update);
        }
    }

    fn take(&mut self, update: Update) {
        for change in update.changes {
            match change {
                ObjectChange::Put(object) => {
                    self.puts += 1;
                    self.objects.insert(object.key(), object);
                }
                ObjectChange::Delete(key) => {
                    self.objects.remove(&key);
                    self.deleted.push(key);
                }
            }
        }
        assert!(update.is_complete || !self.is_complete, "complete once is complete for ever");
        self.is_complete = update.is_complete;
        self.problems = update.problems;
        self.reach = Some(update.reach);
    }

    /// Takes updates until this holds.
    pub async fn until(&mut self, what: &str, mut is_so: impl FnMut(&World) -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !is_so(self) {
            let update = tokio::time::timeout_at(deadline, self.cluster.next()).await;
            let Ok(update) = update else { panic!("never: {what}; {:?} {:?}", self.reach, self.problems) };
            self.take(update);
        }
    }

    pub async fn until_complete(&mut self) {
        self.until("complete", |world| world.is_complete).await;
    }

    /// Until what was said is what the server has.
    pub async fn until_same(&mut self) {
        self.until("the same as the server", |world| world.objects == world.truth()).await;
    }

    pub async fn until_failing(&mut self) -> String {
        self.until("failing", |world| matches!(world.reach, Some(Reach::Failing { .. }))).await;
        let Some(Reach::Failing { why, .. }) = &self.reach else { unreachable!() };
        why.clone()
    }

    /// Until everything is the same, and the server would tell of any change.
    pub async fn until_watched(&mut self) {
        self.until_complete().await;
        self.until_same().await;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let collections = self.server.store().collections();
        while !collections.iter().all(|collection| self.server.is_watched(collection)) {
            assert!(tokio::time::Instant::now() < deadline, "not everything is watched");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub async fn until_connected(&mut self) {
        self.until("connected", |world| matches!(world.reach, Some(Reach::Connected { .. }))).await;
    }

    pub fn truth(&self) -> BTreeMap<ObjectKey, Object> {
        let store = self.server.store();
        let items: Vec<Value> = store.all().map(|(_, object)| object.clone()).collect();
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string();
        parse(&list, Syntax::Json).objects.into_iter().map(|object| (object.key(), object)).collect()
    }
}

pub fn key(kind: Kind, name: &str) -> ObjectKey {
    let (namespace, name) = name.split_once('/').unwrap();
    ObjectKey { kind, namespace: namespace.to_owned(), name: name.to_owned() }
}

pub fn node(name: &str, last: u8) -> Value {
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name },
        "spec": { "podCIDRs": [format!("10.1.{last}.0/24")] },
        "status": { "addresses": [{ "type": "InternalIP", "address": format!("192.168.0.{last}") }] } })
}

pub fn namespace(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": { "of": "tests" } } })
}

pub fn pod(name: &str, addr: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "namespace": "demo", "name": name, "labels": { "app": name } },
        "spec": { "nodeName": "a", "containers": [{ "name": "c", "ports": [{ "name": "http", "containerPort": 80 }] }] },
        "status": { "podIPs": [{ "ip": addr }] } })
}

pub fn service(name: &str, port: u16) -> Value {
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "namespace": "demo", "name": name },
        "spec": { "clusterIP": "172.30.0.1", "selector": { "app": name }, "ports": [{ "port": port }] } })
}

pub fn slice(name: &str, addr: &str) -> Value {
    json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "namespace": "demo", "name": name, "labels": { "kubernetes.io/service-name": "web" } },
        "ports": [{ "port": 80 }], "endpoints": [{ "addresses": [addr] }] })
}

pub fn policy(name: &str, cidr: &str) -> Value {
    json!({ "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "namespace": "demo", "name": name },
        "spec": { "podSelector": {}, "ingress": [{ "from": [{ "ipBlock": { "cidr": cidr } }] }] } })
}

pub fn cluster_policy(name: &str) -> Value {
    json!({ "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": { "name": name },
        "spec": { "tier": "Admin", "priority": 1, "subject": { "namespaces": {} },
            "ingress": [{ "action": "Deny", "from": [{ "namespaces": {} }] }] } })
}
