//! What becomes of the first packet of a new connection to a service, against expected behaviour as data, from upstream's
//! rules: `cases/services/*.jsonl`, one case a line. Control compiles each state into real tables and the dataplane's own
//! `explain` judges each flow on them; nothing is sent.

#[path = "service_cases/format.rs"]
mod format;
#[path = "service_cases/node.rs"]
mod node;

use anyhow::{Context, Result};
use format::{Case, Flow, Health, Step};
use node::Node;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use tables::message::Explained;

/// What Fairway does otherwise, with the reason: (case, how a flow that differs begins, reason). Exact: what is listed
/// must differ, and nothing else may.
const BY_DESIGN: &[(&str, &str, &str)] = &[
    ("node-port-udp", "pod-remote 10.1.1.200", FOREIGN_POD),
    ("rewriting-no-pod-detection-external-local", "node 192.168.0.2 to 172.30.0.42:80", NODE),
    ("rewriting-no-pod-detection-internal-local", "node 192.168.0.2 to 172.30.0.43:80", NODE),
];
const FOREIGN_POD: &str = "a pod's packet to another node leaves its own masqueraded; one with its address is forged";
const NODE: &str =
    "what the node sends into the pod network is always masqueraded, or replies would not come by the tunnel";

/// What is seen of a flow, in the words of the cases.
fn difference(node: &Node, case: &Case, flow: &Flow) -> Option<String> {
    let told = node.explain(flow.from, &flow.from_kind, flow.to, flow.port, flow.protocol());
    let verdict = verdict(&told);
    let expect = &flow.expect;
    let reason = told.reason.as_deref().unwrap_or_default();
    if verdict != expect.verdict {
        let is_ok = expect.also_ok.iter().any(|ok| ok == verdict);
        return (!is_ok).then(|| format!("{} expected, {verdict} {reason}", expect.verdict));
    }
    if verdict != "forward" {
        return None;
    }
    let backends: BTreeSet<_> = told.backends.iter().map(|(addr, port)| SocketAddr::new(addr.ip(), *port)).collect();
    if backends != expect.backends {
        return Some(format!("backends {:?} expected, {backends:?}", expect.backends));
    }
    // What leaves the cluster is masqueraded by another rule.
    let stays = |backend: &SocketAddr| case.node.cluster_cidrs.iter().any(|range| range.contains(backend.ip().into()));
    if told.masquerade != expect.masquerade && backends.iter().all(stays) {
        return Some(format!("masquerade {} expected, {}", expect.masquerade, told.masquerade));
    }
    let affinity_s = node.row(flow.to, flow.port, flow.protocol()).map_or(0, |row| row.affinity_s);
    (affinity_s != expect.sticky_seconds.unwrap_or(0)).then(|| format!("sticky for {affinity_s} s"))
}

/// `pass`: the service layer has nothing to do with it.
fn verdict(told: &Explained) -> &str {
    match (told.verdict.as_str(), told.service) {
        ("forward" | "punt", None) => "pass",
        (verdict, _) => verdict,
    }
}

fn health_difference(node: &Node, health: &Health) -> Option<String> {
    let asked = node.report.health_ports.values().find(|asked| asked.port == health.node_port);
    let found = asked.map(|asked| asked.local_endpoints);
    let status = found.map(|count| if count > 0 { 200 } else { 503 });
    let is_same = (status, found) == (health.status, health.local_endpoints);
    (!is_same).then(|| format!("{:?} {:?} expected, {status:?} {found:?}", health.status, health.local_endpoints))
}

/// Everything that differs in a case, by what was asked.
fn differences(case: &mut Case) -> Result<Vec<String>> {
    let steps = case.steps();
    let mut node = Node::new(case, &steps)?;
    let mut all = Vec::new();
    for (i, step) in steps.iter().enumerate() {
        node.reach(step)?;
        all.extend(node.report.problems.iter().map(|problem| format!("{i}: {problem}")));
        all.extend(step_differences(&node, case, step).into_iter().map(|line| format!("{i}: {line}")));
    }
    Ok(all)
}

fn step_differences(node: &Node, case: &Case, step: &Step) -> Vec<String> {
    let flows = step.flows.iter().filter_map(|flow| {
        let differs = difference(node, case, flow)?;
        Some(format!("{} {} to {}:{} {}: {differs}", flow.from_kind, flow.from, flow.to, flow.port, flow.protocol()))
    });
    let health = step.health.iter().filter_map(|health| {
        let differs = health_difference(node, health)?;
        Some(format!("health port {}: {differs}", health.node_port))
    });
    flows.chain(health).collect()
}

#[test]
fn every_flow_goes_as_its_case_says_but_for_what_is_so_by_design() -> Result<()> {
    let mut cases = format::read()?;
    assert_eq!(cases.len(), 86);
    let mut wrong = Vec::new();
    let mut seen: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for case in &mut cases {
        let name = case.name.clone();
        for line in differences(case).with_context(|| name.clone())? {
            let listed = BY_DESIGN.iter().find(|(case, flow, _)| *case == name && line.contains(flow));
            match listed {
                Some((case, flow, _)) => *seen.entry((case, flow)).or_default() += 1,
                None => wrong.push(format!("{name}: {line}")),
            }
        }
    }
    let stale: Vec<_> = BY_DESIGN.iter().filter(|(case, flow, _)| !seen.contains_key(&(*case, *flow))).collect();
    println!("{} cases, {} flows otherwise by design", cases.len(), seen.values().sum::<usize>());
    assert!(wrong.is_empty() && stale.is_empty(), "wrong:\n{}\nlisted and right: {stale:#?}", wrong.join("\n"));
    Ok(())
}
