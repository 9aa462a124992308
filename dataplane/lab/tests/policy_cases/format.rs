//! What a line of `cases/policies/connectivity.jsonl.gz` holds: what upstream's own generator and simulator of cases say
//! (mattfenwick/cyclonus, MIT), one case a line, each step with its whole state and the verdicts that must hold then.
//! Must not judge.

use anyhow::{Context, Result};
use flate2::read::GzDecoder;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

type Labels = BTreeMap<String, String>;

/// Ports that every pod listens on, with each protocol.
pub const PORTS: [u16; 2] = [80, 81];
pub const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];

#[derive(Deserialize)]
pub struct Case {
    pub id: u32,
    pub description: String,
    pub steps: Vec<Step>,
}

/// A state and what is expected in it. What was done to reach it is left out: the state is whole.
#[derive(Deserialize)]
pub struct Step {
    pub namespaces: BTreeMap<String, Labels>,
    pub pods: Vec<CasePod>,
    pub policies: Vec<Value>,
    pub verdicts: Vec<Verdict>,
}

#[derive(Deserialize)]
pub struct CasePod {
    pub namespace: String,
    pub name: String,
    pub labels: Labels,
    /// Given to it by upstream's simulator, as to others: not always one of its own.
    #[serde(rename = "ip")]
    _addr: String,
}

/// From, to, protocol, port, and what becomes of it at the receiver, at the sender, and of both together.
#[derive(Clone, Debug, Deserialize)]
pub struct Verdict(pub String, pub String, pub String, pub u16, pub Word, pub Word, pub Word);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    Allowed,
    Blocked,
    /// Upstream's simulator says more, as of a port that a named port does not lead to; no case has that.
    #[serde(other)]
    Other,
}

impl Verdict {
    /// Who blocks it, in the order of the path. `None`: the verdict is none that a packet can have.
    pub fn blocked(&self) -> Option<Blocked> {
        let Verdict(_, _, _, _, ingress, egress, combined) = *self;
        let blocked = Blocked { egress: egress == Word::Blocked, ingress: ingress == Word::Blocked };
        let is_told = ![ingress, egress, combined].contains(&Word::Other);
        let is_sum = (blocked.egress || blocked.ingress) == (combined == Word::Blocked);
        (is_told && is_sum).then_some(blocked)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Blocked {
    pub egress: bool,
    pub ingress: bool,
}

/// `rename` is given each case's text, to change what it needs otherwise.
pub fn read(rename: impl Fn(String) -> String) -> Result<Vec<Case>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/policies/connectivity.jsonl.gz");
    let text = File::open(&file).with_context(|| format!("cannot read {}", file.display()))?;
    BufReader::new(GzDecoder::new(text)).lines().map(|line| Ok(serde_json::from_str(&rename(line?))?)).collect()
}

/// What each `namespace/name` has for an address and a node.
pub type Homes = BTreeMap<String, (String, String)>;

impl Step {
    /// Namespaces, pods and policies of the state as a user would write them.
    pub fn objects(&self, homes: &Homes) -> Vec<Value> {
        let namespaces = self.namespaces.iter().map(|(name, labels)| namespace(name, labels));
        let pods = self.pods.iter().filter_map(|case| Some(pod(case, homes.get(&case.full_name())?)));
        let policies = self.policies.iter().map(policy);
        namespaces.chain(pods).chain(policies).collect()
    }
}

impl CasePod {
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

fn namespace(name: &str, labels: &Labels) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

fn pod(pod: &CasePod, (address, node): &(String, String)) -> Value {
    let kinds = PORTS.iter().flat_map(|port| PROTOCOLS.map(|protocol| (port, protocol)));
    let container = |(port, protocol): (&u16, &str)| {
        let name = format!("serve-{port}-{}", protocol.to_lowercase());
        let ports = json!([{"name": name, "containerPort": port, "protocol": protocol}]);
        json!({"name": format!("cont-{port}-{}", protocol.to_lowercase()), "image": "none", "ports": ports})
    };
    let containers: Vec<Value> = kinds.map(container).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": pod.namespace, "name": pod.name, "labels": pod.labels},
        "spec": {"nodeName": node, "containers": containers},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    })
}

/// Cases that change a policy leave out what it is.
fn policy(policy: &Value) -> Value {
    let mut policy = policy.clone();
    policy["apiVersion"] = "networking.k8s.io/v1".into();
    policy["kind"] = "NetworkPolicy".into();
    policy
}
