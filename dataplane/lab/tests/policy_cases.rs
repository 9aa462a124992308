//! What NetworkPolicies say of every flow between nine pods, against upstream's verdicts (`cases/policies`). Control compiles
//! each state into real tables of two nodes and the dataplane's own `explain` judges each flow on them; nothing is sent
//! (`policy_packets.rs` does that).

#[path = "policy_cases/cluster.rs"]
mod cluster;
#[path = "policy_cases/format.rs"]
mod format;

use anyhow::{Context, Result};
use cluster::{Flow, NODES, Node};
use format::{Blocked, Case, Homes, Step, Verdict};
use tables::message::Explained;

/// Which pods are on the first node; the others are on the second.
type Spread = fn(&str) -> bool;

/// In all of them together every pair is once apart.
const SPREADS: [(&str, Spread); 5] = [
    ("on one node", |_| true),
    ("a apart", |pod| pod.ends_with('a')),
    ("b apart", |pod| pod.ends_with('b')),
    ("x apart", |pod| pod.starts_with('x')),
    ("y apart", |pod| pod.starts_with('y')),
];

/// Addresses as the cases have them: 192.168.NAMESPACE.10 and on. Later pods, which upstream's simulator gives one address
/// all together, get others outside of every block.
fn homes(spread: Spread) -> Homes {
    let mut homes = Homes::new();
    let mut add = |pod: String, address: String| {
        let node = NODES[usize::from(!spread(&pod))].to_string();
        homes.insert(pod, (address, node));
    };
    for (third, namespace) in (1..).zip(["x", "y", "z"]) {
        for (last, pod) in (10..).zip(["a", "b", "c"]) {
            add(format!("{namespace}/{pod}"), format!("192.168.{third}.{last}"));
        }
    }
    for (last, pod) in (77..).zip(["x/d", "y-2/a", "y-2/b"]) {
        add(pod.into(), format!("192.168.9.{last}"));
    }
    homes
}

/// The two nodes, and where pods are.
struct World {
    homes: Homes,
    nodes: [Node; 2],
}

impl World {
    fn new(spread: Spread) -> Result<World> {
        let homes = homes(spread);
        let nodes = [Node::new(NODES[0], &homes)?, Node::new(NODES[1], &homes)?];
        Ok(World { homes, nodes })
    }

    fn reach(&mut self, step: &Step) -> Result<()> {
        self.nodes.iter_mut().try_for_each(|node| node.reach(step, &self.homes))
    }

    fn node_of(&self, pod: &str) -> Result<&Node> {
        let (_, node) = self.homes.get(pod).with_context(|| format!("no pod {pod}"))?;
        Ok(&self.nodes[usize::from(node == NODES[1])])
    }

    fn flow(&self, verdict: &Verdict) -> Result<Flow> {
        let Verdict(from, to, protocol, port, ..) = verdict;
        let addr =
            |pod: &str| Ok::<_, anyhow::Error>(self.homes.get(pod).context("a pod")?.0.parse().expect("an address"));
        Ok(Flow { from: addr(from)?, to: addr(to)?, port: *port, protocol: protocol.parse().expect("a protocol") })
    }

    /// What is wrong with what the nodes say of a flow.
    fn difference(&self, step: &Step, verdict: &Verdict) -> Result<Option<String>> {
        let Some(expected) = verdict.blocked() else { return Ok(Some(format!("no such verdict: {verdict:?}"))) };
        let (flow, here, there) = (self.flow(verdict)?, self.node_of(&verdict.0)?, self.node_of(&verdict.1)?);
        let sent = here.explain(false, &flow);
        let received = there.explain(true, &flow);
        let is_local = std::ptr::eq(here, there);
        Ok(wrong(expected, is_local, &sent, &received).or_else(|| {
            let namer = if expected.egress || is_local { (here, &sent) } else { (there, &received) };
            unnamed(step, verdict, expected, namer)
        }))
    }
}

/// What becomes of it at the sender, where the receiver's half is judged too if both are on one node, and else at the
/// receiver.
fn wrong(expected: Blocked, is_local: bool, sent: &Explained, received: &Explained) -> Option<String> {
    let reason = |told: &Explained| told.reason.clone().unwrap_or(told.verdict.clone());
    let both = match expected {
        Blocked { egress: true, .. } => "PolicyEgress",
        Blocked { ingress: true, .. } if is_local => "PolicyIngress",
        _ => "forward",
    };
    let ingress = if expected.ingress { "PolicyIngress" } else { "forward" };
    let told = [reason(sent), reason(received)];
    (told[0] != both || !is_local && told[1] != ingress)
        .then(|| format!("{both} and {ingress} expected, {} and {}", told[0], told[1]))
}

/// A drop names a policy of the namespace of the pod whose half it is.
fn unnamed(step: &Step, verdict: &Verdict, expected: Blocked, (node, told): (&Node, &Explained)) -> Option<String> {
    if told.verdict != "drop" {
        return None;
    }
    let pod = if expected.egress { &verdict.0 } else { &verdict.1 };
    let namespace = pod.split('/').next();
    let all = step.policies.iter().filter(|policy| policy["metadata"]["namespace"].as_str() == namespace);
    let mut names = all.filter_map(|policy| policy["metadata"]["name"].as_str());
    let told = told.policy.and_then(|index| node.policy(index)).unwrap_or_default();
    let is_named = names.any(|name| told == format!("{}/{name}", namespace.unwrap_or_default()));
    (!is_named).then(|| format!("dropped by {told:?}, which is no policy of {pod}"))
}

fn differences(world: &mut World, case: &Case) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for (number, step) in case.steps.iter().enumerate() {
        world.reach(step)?;
        for verdict in &step.verdicts {
            let Verdict(from, to, protocol, port, ..) = verdict;
            let wrong = world.difference(step, verdict)?;
            all.extend(wrong.map(|wrong| format!("{} {number}: {from} to {to}:{port} {protocol}: {wrong}", case.id)));
        }
    }
    Ok(all)
}

#[test]
fn every_flow_between_pods_is_judged_as_its_case_says_by_sender_by_receiver_and_by_both() -> Result<()> {
    let cases = format::read(|text| text)?;
    let verdicts = |case: &Case| case.steps.iter().map(|step| step.verdicts.len()).sum::<usize>();
    assert_eq!((cases.len(), cases.iter().map(verdicts).sum::<usize>()), (115, 54_336));
    for (name, spread) in SPREADS {
        // One after the other in the same tables, as on a node that lives on.
        let mut world = World::new(spread)?;
        let mut wrong = Vec::new();
        for case in &cases {
            wrong.extend(differences(&mut world, case).with_context(|| format!("{}: {}", case.id, case.description))?);
        }
        assert!(wrong.is_empty(), "pods {name}, {} wrong:\n{}", wrong.len(), wrong.join("\n"));
    }
    Ok(())
}
