//! Whom NetworkPolicies do not part, and by which address they judge whom no policy selects: pods of the host's network, a
//! pod's own node, a pod and itself by a service, clients outside. By real connections.

use anyhow::{Result, ensure};
use lab::addressing::host_part;
use lab::manifests::Exposed;
use lab::netns::Netns;
use lab::shared::{Entered, Shared};
use lab::shell::Cmd;
use lab::stage::answer_in;
use lab::wait::until;
use lab::{Families, Lab, Options, manifests, marker};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

const POLICY: &str = "policy";
/// Of pods on both nodes, policy `Cluster`; of web-1 alone, policy `Local`.
const BOTH: u16 = 30080;
const NEAR: u16 = 30180;
const HTTP: u16 = 8080;
/// A policy is in force after this at the latest, on a busy machine.
const LIMIT: Duration = Duration::from_secs(5);

static LAB: Shared = Shared::new(start);

fn start() -> Result<Lab> {
    let mut lab = Lab::start(&Options { workers: 2, uplink_queues: 2, ..Options::default() })?;
    for (name, node, label) in [("web-1", 0, "web"), ("alice", 0, "friend"), ("web-2", 1, "web")] {
        lab.add_pod(name, node, &[("app", label)])?;
    }
    let netns = lab.nodes[0].netns().clone();
    lab.serve("host", &netns)?;
    lab.objects().apply("pod-host", &marker::documents(&[host_pod(&lab)]))?;
    let (both, near) = (Families::Ipv4.service(20), Families::Ipv4.service(21));
    let of = |name, addresses, label, node_port, local| Exposed {
        name,
        addresses,
        label,
        node_port,
        local,
        balancer: &[],
        external: &[],
    };
    for exposed in [of("both", &both, ("app", "web"), BOTH, None), of("near", &near, ("name", "web-1"), NEAR, Some(0))]
    {
        lab.objects().apply(&format!("service-{}", exposed.name), &manifests::exposed(&exposed))?;
    }
    lab.settle()?;
    Ok(lab)
}

/// A pod of the first node's network.
fn host_pod(lab: &Lab) -> Value {
    let address = lab.nodes[0].address();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": "demo", "name": "host", "labels": {"role": "host"}},
        "spec": {"nodeName": lab.nodes[0].name(), "hostNetwork": true, "containers": [{"name": "main", "image": "none"}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    })
}

/// For all pods of the namespace: they may be asked by these, and ask nobody.
fn from(peers: Value) -> Value {
    let ingress = if peers == json!([]) { json!([]) } else { json!([{"from": peers}]) };
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": "demo", "name": "exempt"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": ingress},
    })
}

fn block(address: IpAddr) -> Value {
    json!({"ipBlock": {"cidr": format!("{address}/32")}})
}

struct Stage(Entered);

impl Stage {
    /// The lab with this policy in force on both nodes.
    fn enter(policy: Value) -> Result<Stage> {
        let stage = Stage(LAB.enter());
        stage.put(policy)?;
        Ok(stage)
    }

    fn put(&self, policy: Value) -> Result<()> {
        let generations =
            || self.0.nodes.iter().map(|node| Ok(node.fairway().status()?.generation)).collect::<Result<Vec<_>>>();
        let before = generations()?;
        self.0.objects().apply(POLICY, &marker::documents(&[policy]))?;
        let is_in_force = || {
            let all = self.0.nodes.iter().zip(&before);
            all.into_iter().all(|(node, before)| {
                node.fairway().status().is_ok_and(|status| status.generation > *before && status.is_in_force())
            })
        };
        // One that was in force already changes nothing.
        until(Duration::from_secs(1), is_in_force);
        Ok(())
    }

    fn node(&self, number: usize) -> &Netns {
        self.0.nodes[number].netns()
    }

    fn pod(&self, name: &str) -> &Netns {
        self.0.pod(name).expect("a pod").netns()
    }

    fn address(&self, name: &str) -> IpAddr {
        self.0.pod(name).expect("a pod").address()
    }
}

/// Who answers.
fn asked(from: &Netns, to: IpAddr, port: u16) -> Option<String> {
    let url = format!("http://{}:{port}/", host_part(to));
    let ran = Cmd::line("curl -sS --max-time 1").arg(url).netns(from).run().expect("curl runs");
    answer_in(&ran.stdout).map(|answer| answer.name)
}

/// Those who answer within some requests.
fn answering(from: &Netns, to: IpAddr, port: u16) -> BTreeSet<String> {
    (0..10).filter_map(|_| asked(from, to, port)).collect()
}

#[test]
fn a_node_reaches_its_own_pods_and_these_reach_it_whatever_isolates_them() -> Result<()> {
    let stage = Stage::enter(from(json!([])))?;
    let nobody = until(LIMIT, || asked(stage.node(0), stage.address("web-2"), HTTP).is_none());
    ensure!(nobody, "a node reaches another node's isolated pod");
    ensure!(asked(stage.node(1), stage.address("web-1"), HTTP).is_none(), "and the other way");
    for (node, pod) in [(0, "web-1"), (1, "web-2")] {
        assert_eq!(asked(stage.node(node), stage.address(pod), HTTP).as_deref(), Some(pod));
    }
    let node = stage.0.nodes[0].address();
    assert_eq!(asked(stage.pod("web-1"), node, HTTP).as_deref(), Some("host"));
    ensure!(asked(stage.pod("web-2"), node, HTTP).is_none(), "it is not its own node");
    Ok(())
}

#[test]
fn pods_of_the_hosts_network_are_under_no_policy_and_are_no_more_than_their_node_to_others() -> Result<()> {
    let stage = Stage::enter(from(json!([{"podSelector": {"matchLabels": {"role": "host"}}}])))?;
    let node = stage.0.nodes[0].address();
    assert_eq!(
        asked(stage.0.client(), node, HTTP).as_deref(),
        Some("host"),
        "the policy selects it, and isolates it not"
    );
    assert_eq!(asked(stage.node(1), node, HTTP).as_deref(), Some("host"));
    ensure!(asked(stage.node(0), stage.address("web-2"), HTTP).is_none(), "it is let in by its labels");
    let snat = stage.0.nodes[0].reserved_addresses()?;
    stage.put(from(snat.into_iter().map(block).collect()))?;
    let is_let_in = || asked(stage.node(0), stage.address("web-2"), HTTP).as_deref() == Some("web-2");
    ensure!(until(LIMIT, is_let_in), "it is not let in by its node's addresses");
    Ok(())
}

#[test]
fn a_pod_that_may_ask_nobody_and_be_asked_by_nobody_reaches_itself_by_a_service() -> Result<()> {
    let stage = Stage::enter(from(json!([])))?;
    let service = |number| Families::Ipv4.service(number)[0];
    ensure!(until(LIMIT, || asked(stage.pod("alice"), service(21), 80).is_none()), "another pod reaches it");
    assert_eq!(asked(stage.pod("web-1"), service(21), 80).as_deref(), Some("web-1"));
    assert_eq!(answering(stage.pod("web-1"), service(20), 80), BTreeSet::from(["web-1".to_string()]));
    Ok(())
}

#[test]
fn clients_outside_are_judged_by_their_own_address_on_the_node_they_asked_and_by_that_nodes_on_others() -> Result<()> {
    let stage = Stage::enter(from(json!([])))?;
    let (client, node) = (stage.0.client(), stage.0.nodes[0].address());
    let names = |all: &[&str]| all.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    ensure!(until(LIMIT, || asked(client, node, NEAR).is_none()), "nobody is let in");
    assert_eq!(answering(client, node, BOTH), names(&[]));
    stage.put(from(json!([block(Families::Ipv4.client()[0])])))?;
    ensure!(until(LIMIT, || asked(client, node, NEAR).is_some()), "by its own address it is let in");
    assert_eq!(answering(client, node, BOTH), names(&["web-1"]), "also where its answers come by way of the node");
    let snat = stage.0.nodes[0].reserved_addresses()?;
    stage.put(from(snat.into_iter().map(block).collect()))?;
    ensure!(until(LIMIT, || asked(client, node, NEAR).is_none()), "by the node's address it is let in");
    assert_eq!(answering(client, node, BOTH), names(&["web-2"]));
    Ok(())
}
