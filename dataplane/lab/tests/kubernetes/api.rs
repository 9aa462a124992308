//! An API server that both nodes reach on their own loopback, with the objects of the lab's directory in it.

use super::server::{Shared, accept};
use anyhow::{Context, Result};
use lab::Lab;
use lab::netns::Netns;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::oneshot;

pub const ADDRESS: &str = "127.0.0.1:6443";

pub const LEASES: &str = "/apis/coordination.k8s.io/v1/leases";

/// Collections by kind.
const COLLECTIONS: [(&str, &str); 7] = [
    ("Node", "/api/v1/nodes"),
    ("Namespace", "/api/v1/namespaces"),
    ("Pod", "/api/v1/pods"),
    ("Service", "/api/v1/services"),
    ("EndpointSlice", "/apis/discovery.k8s.io/v1/endpointslices"),
    ("NetworkPolicy", "/apis/networking.k8s.io/v1/networkpolicies"),
    ("Lease", LEASES),
];

pub const KUBECONFIG: &str = r#"{"apiVersion": "v1", "kind": "Config", "current-context": "c",
 "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:6443"}}],
 "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}], "users": [{"name": "u", "user": {}}]}"#;

#[derive(Default)]
pub struct Api {
    pub shared: Arc<Shared>,
    /// One a node: it ends when the sender goes.
    threads: Vec<(oneshot::Sender<()>, JoinHandle<Result<()>>)>,
    known: BTreeMap<(String, String), Value>,
}

impl Api {
    pub fn new() -> Api {
        let api = Api::default();
        COLLECTIONS.iter().for_each(|(_, collection)| api.shared.store().install(collection));
        api
    }

    pub fn start(&mut self, lab: &Lab) -> Result<()> {
        for node in &lab.nodes {
            let listener = node.netns().inside(|| std::net::TcpListener::bind(ADDRESS))??;
            listener.set_nonblocking(true)?;
            let (sender, stop) = oneshot::channel::<()>();
            let shared = self.shared.clone();
            let thread = std::thread::spawn(move || serve(listener, shared, stop));
            self.threads.push((sender, thread));
        }
        Ok(())
    }

    pub fn stop(&mut self) {
        for (sender, thread) in self.threads.drain(..) {
            drop(sender);
            thread.join().expect("the server does not panic").expect("the server serves");
        }
    }

    /// The server has what the directory has.
    pub fn mirror(&mut self, lab: &Lab) -> Result<()> {
        let mut now = BTreeMap::new();
        for entry in std::fs::read_dir(lab.objects().directory())? {
            let text = std::fs::read_to_string(entry?.path())?;
            for document in text.split("---\n").filter(|document| !document.trim().is_empty()) {
                let object: Value = serde_saphyr::from_str(document).context("a lab's object")?;
                now.insert(place(&object), object);
            }
        }
        let mut store = self.shared.store();
        for ((collection, name), _) in self.known.iter().filter(|(place, _)| !now.contains_key(*place)) {
            store.delete(collection, name);
        }
        for ((collection, _), object) in now.iter().filter(|(place, object)| self.known.get(*place) != Some(*object)) {
            store.put(collection, object.clone());
        }
        drop(store);
        self.known = now;
        Ok(())
    }
}

fn place(object: &Value) -> (String, String) {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    let kind = object["kind"].as_str().unwrap_or_default();
    let (_, collection) = COLLECTIONS.iter().find(|(name, _)| *name == kind).expect("a kind of the lab's");
    (collection.to_string(), format!("{}/{}", text("namespace"), text("name")))
}

fn serve(listener: std::net::TcpListener, shared: Arc<Shared>, stop: oneshot::Receiver<()>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        tokio::select! {
            _ = stop => {}
            () = accept(listener, shared) => {}
        }
        Ok(())
    })
}

/// Does a request of a node's namespace succeed?
pub fn is_ready(netns: &Netns) -> Result<String> {
    Ok(lab::shell::Cmd::line("curl -s -m 3 http://127.0.0.1:9911/readyz").netns(netns).run()?.stdout)
}
