//! What is written back to the API server: services' addresses and this node's word that its network is there. By server-side
//! apply, so that nobody else's fields are touched; what is the same already is not written. It must not decide what to say.

use super::follow::told;
use super::lease::Lease;
use super::timing::Timing;
use crate::object::Named;
use crate::object::balancer;
use crate::state::Status;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Patch, PatchParams};
use kube::core::Request;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Who owns the fields that we write.
const MANAGER: &str = "fairway";
const CONDITION: &str = "NetworkUnavailable";
const TAINT: &str = "node.kubernetes.io/network-unavailable";

pub type Outcome = Result<(), String>;

#[derive(Debug)]
pub enum Order {
    /// Services' addresses; none: nothing any more.
    Statuses(Vec<Status>),
    /// The network of this node is there: its condition says so, and the taint that keeps pods away goes.
    Networked { node: String },
}

/// Has things written, by the thread that follows the objects.
#[derive(Clone, Debug)]
pub struct Writer(mpsc::Sender<(Order, oneshot::Sender<Outcome>)>);

pub type Orders = mpsc::Receiver<(Order, oneshot::Sender<Outcome>)>;

impl Writer {
    pub fn channel() -> (Writer, Orders) {
        let (sender, orders) = mpsc::channel(4);
        (Writer(sender), orders)
    }

    pub async fn write(&self, order: Order) -> Outcome {
        let (to, outcome) = oneshot::channel();
        let over = || "the thread that writes to the API server is gone".to_owned();
        self.0.send((order, to)).await.map_err(|_| over())?;
        outcome.await.map_err(|_| over())?
    }
}

pub async fn run(desk: Desk, mut orders: Orders) {
    while let Some((order, to)) = orders.recv().await {
        let outcome = match order {
            Order::Statuses(statuses) => desk.statuses(&statuses).await,
            Order::Networked { node } => desk.networked(&node).await,
        };
        let _ = to.send(outcome);
    }
}

#[derive(Clone)]
pub struct Desk {
    client: Client,
    timing: Timing,
    /// Whoever holds it writes what is per cluster; None: whoever is asked to.
    lease: Option<Lease>,
}

impl Desk {
    pub fn new(client: Client, timing: Timing, lease: Option<Lease>) -> Desk {
        Desk { client, timing, lease }
    }

    /// Nothing is under way any more when the lease runs out.
    fn left(&self) -> Option<Duration> {
        self.lease.as_ref().map_or(Some(self.timing.answer), Lease::left)
    }

    /// One that fails does not keep the others from it.
    async fn statuses(&self, statuses: &[Status]) -> Outcome {
        let mut outcome = Ok(());
        for (id, addrs) in statuses {
            let services = Request::new(format!("/api/v1/namespaces/{}/services", id.namespace));
            let body = balancer::status_body(id, addrs);
            let request = services.patch_subresource("status", &id.name, &params(), &Patch::Apply(body));
            let Some(left) = self.left() else { return Err(LOST.to_owned()) };
            let written = timeout(left, self.ask(request)).await.unwrap_or_else(|_| Err(Why::of(LOST)));
            let written = written.map(drop).or_else(|why| gone_is_fine(why, id));
            outcome = outcome.and(written);
        }
        outcome
    }

    async fn networked(&self, name: &str) -> Outcome {
        let nodes = Request::new("/api/v1/nodes");
        let failed = |why: Why| format!("cannot say on the Node that its network is there: {}", why.text);
        let mut node = self.ask(nodes.get(name, &Default::default())).await.map_err(failed)?;
        if !is_networked(&node) {
            let request = nodes.patch_subresource("status", name, &params(), &Patch::Apply(networked(name)));
            // As it is now: the taints are replaced as of this version.
            node = self.ask(request).await.map_err(failed)?;
        }
        if let Some(taints) = without_taint(&node) {
            let request = nodes.patch(name, &PatchParams::default(), &Patch::Merge(taints));
            self.ask(request).await.map_err(failed)?;
        }
        Ok(())
    }

    pub async fn ask(&self, request: Result<http::Request<Vec<u8>>, kube::core::request::Error>) -> Result<Value, Why> {
        let request = request.map_err(Why::of)?;
        match timeout(self.timing.answer, self.client.request::<Value>(request)).await {
            Err(_) => Err(Why::of("the API server does not answer in time")),
            Ok(answer) => answer.map_err(|error| {
                let code = if let kube::Error::Api(status) = &error { Some(status.code) } else { None };
                Why { text: told(&error), code }
            }),
        }
    }
}

/// Why something could not be asked or was refused.
#[derive(Debug)]
pub struct Why {
    pub text: String,
    /// As HTTP has it, if the server answered.
    pub code: Option<u16>,
}

impl Why {
    fn of(text: impl ToString) -> Why {
        Why { text: text.to_string(), code: None }
    }
}

const LOST: &str = "another node gives out addresses now";

/// What a service that is gone was to say is nobody's loss.
fn gone_is_fine(why: Why, id: &Named) -> Outcome {
    if why.code == Some(404) { Ok(()) } else { Err(format!("cannot write the status of Service {id}: {}", why.text)) }
}

/// Every node writes under one name, and what they write is the same.
fn params() -> PatchParams {
    PatchParams::apply(MANAGER).force()
}

fn is_networked(node: &Value) -> bool {
    let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|one| one["type"] == CONDITION && one["status"] == "False")
}

fn networked(name: &str) -> Value {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": name },
        "status": { "conditions": [{
            "type": CONDITION, "status": "False", "reason": "FairwayIsUp", "message": "Fairway's tables are in force on this node",
            "lastTransitionTime": now, "lastHeartbeatTime": now,
        }] },
    })
}

/// The list of taints is one field: it is replaced only as it was read.
fn without_taint(node: &Value) -> Option<Value> {
    let taints = node.pointer("/spec/taints")?.as_array()?;
    let kept: Vec<&Value> = taints.iter().filter(|taint| taint["key"] != TAINT).collect();
    let version = &node["metadata"]["resourceVersion"];
    (kept.len() < taints.len())
        .then(|| json!({ "metadata": { "resourceVersion": version }, "spec": { "taints": kept } }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_taint_goes_and_only_if_it_is_there() {
        let node = |taints: Value| json!({ "metadata": { "resourceVersion": "7" }, "spec": { "taints": taints } });
        let other = json!({ "key": "x", "effect": "NoSchedule" });
        let patch = without_taint(&node(json!([{ "key": TAINT, "effect": "NoSchedule" }, other]))).unwrap();
        assert_eq!(patch, json!({ "metadata": { "resourceVersion": "7" }, "spec": { "taints": [other] } }));
        assert_eq!(without_taint(&node(json!([other]))), None);
        assert_eq!(without_taint(&json!({})), None);
    }

    #[test]
    fn what_the_node_says_already_is_not_said_again() {
        let node = |status: &str| json!({ "status": { "conditions": [{ "type": CONDITION, "status": status }] } });
        assert!(is_networked(&node("False")) && !is_networked(&node("True")) && !is_networked(&json!({})));
        assert!(is_networked(&networked("a")));
    }
}
