//! The cases of which endpoints a node may use (control's `tests/cases/topology/*.jsonl`) as flows: to the cluster address
//! from a pod, and to the node port from a pod and from outside. Must not judge.

use super::format::Case;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::path::Path;

/// What all of them have in common with the service cases.
const POD: [&str; 2] = ["10.1.0.200", "fd00:10:1::200"];
const CLIENT: [&str; 2] = ["203.0.113.2", "2001:db8:ffff::1"];
const NODE: [&str; 2] = ["192.168.0.2", "2001:db8::1"];

/// One line a case, each in the form of the service cases.
pub fn read_texts() -> Result<Vec<String>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../control/tests/cases/topology");
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        for line in std::fs::read_to_string(entry?.path())?.lines() {
            texts.push(as_service_case(&serde_json::from_str(line)?)?.to_string());
        }
    }
    Ok(texts)
}

/// Also how the two kinds are told apart.
pub fn is_one(case: &Case) -> bool {
    case.name.starts_with("topology: ")
}

fn as_service_case(case: &Value) -> Result<Value> {
    let name = case["name"].as_str().context("a name")?;
    let endpoints = case["endpoints"].as_array().context("endpoints")?;
    let node = super::world::node_under_test(&case["node"]["labels"]);
    let objects: Vec<&Value> = endpoints.iter().chain([&case["service"], &node]).collect();
    Ok(json!({
        "name": format!("topology: {name}"),
        "objects": objects,
        "node": {
            "name": "worker-a", "ips": NODE, "primary_ips": NODE, "podCIDRs": [], "clusterCIDRs": [], "serviceCIDRs": [],
        },
        "config": {
            "masqueradeAll": false, "nodePortAddresses": ["primary"], "detectLocal": "clusterCIDR",
            "localhostNodePorts": false,
        },
        "flows": flows(case),
    }))
}

/// Pods use a node port under the policy `Cluster`, whatever the one for clients outside says.
fn flows(case: &Value) -> Vec<Value> {
    let spec = &case["service"]["spec"];
    let is_local = |policy: &str| spec[policy] == "Local";
    let list = |is_local: bool| if is_local { "local" } else { "cluster" };
    let family = usize::from(spec["clusterIP"].as_str().is_some_and(|text| text.contains(':')));
    let port = &spec["ports"][0];
    let outside = is_local("externalTrafficPolicy");
    let flow = |from: &str, kind: &str, to: &Value, port: &Value, list: &str, masquerade: bool| {
        let protocol = &spec["ports"][0]["protocol"];
        let expect = expectation(case, list, masquerade);
        json!({"from": from, "from_kind": kind, "to": to, "port": port, "protocol": protocol, "expect": expect})
    };
    let inside = list(is_local("internalTrafficPolicy"));
    let mut flows = vec![flow(POD[family], "pod-local", &spec["clusterIP"], &port["port"], inside, false)];
    if port["nodePort"].is_number() {
        let (node, number) = (json!(NODE[family]), &port["nodePort"]);
        flows.push(flow(POD[family], "pod-local", &node, number, list(false), !outside));
        flows.push(flow(CLIENT[family], "external", &node, number, list(outside), !outside));
    }
    flows
}

/// A list that is empty: dropped, if there are usable endpoints on other nodes, else rejected.
fn expectation(case: &Value, list: &str, masquerade: bool) -> Value {
    let expect = &case["expect"];
    let backends = expect[list].as_array().cloned().unwrap_or_default();
    let verdict = match (backends.is_empty(), expect["any"] == true) {
        (false, _) => "forward",
        (true, true) => "drop",
        (true, false) => "reject",
    };
    json!({"verdict": verdict, "backends": backends, "masquerade": masquerade && verdict == "forward"})
}
