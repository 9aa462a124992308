//! Pods of another node whose addresses come late: what a cluster-wide policy denies by label is kept away from before it is
//! known whose they are, and what it does not deny passes as soon as that is known. What nodes send themselves always passes.

use super::pulse::{Beat, Echo, Pulse};
use super::world::{Place, World, namespace};
use super::{ALLOWED, CHANGE_MAX, PACE};
use anyhow::{Context, Result, ensure};
use lab::netns::Netns;
use lab::wait::sleep_ms;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Web is for nobody of a bad team, and goes to nobody of one.
fn no_bad_teams() -> Value {
    let of_team = |label: Value| json!({"pods": {"namespaceSelector": label, "podSelector": {}}});
    let bad = of_team(json!({"matchLabels": {"team": "bad"}}));
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "no-bad-teams"},
        "spec": {
            "tier": "Admin",
            "priority": 1,
            "subject": of_team(json!({"matchLabels": {"team": "web"}})),
            "ingress": [{"action": "Deny", "from": [bad]}],
            "egress": [{"action": "Deny", "to": [bad]}],
        },
    })
}

/// Datagrams one way, as far as they have come.
struct Way {
    name: String,
    pulse: Pulse,
}

impl Way {
    fn new(name: &str, netns: &Netns, to: SocketAddr) -> Way {
        Way { name: name.to_owned(), pulse: Pulse::start(netns, to, PACE) }
    }

    /// Whether they passed, which must be so throughout each of these spans.
    fn judge(self, spans: &[(Instant, Instant, bool)]) -> Result<()> {
        let Way { name, pulse } = self;
        let beats = pulse.stop()?;
        for (number, &(from, to, passes)) in spans.iter().enumerate() {
            let sent: Vec<&Beat> = beats.iter().filter(|beat| beat.sent >= from && beat.sent < to).collect();
            let answered = sent.iter().filter(|beat| beat.answered.is_some()).count();
            ensure!(!sent.is_empty(), "{name}: nothing was sent in span {number}");
            // One or another may be late on a busy machine.
            let is_right = if passes { answered * 10 >= sent.len() * 9 } else { answered == 0 };
            ensure!(is_right, "{name}: {answered} of {} were answered in span {number}", sent.len());
        }
        Ok(())
    }
}

/// Some time in which nothing changes, begun when what was changed before must be in force.
fn quiet() -> (Instant, Instant) {
    sleep_ms(CHANGE_MAX.as_millis() as u64);
    let from = Instant::now();
    sleep_ms(200);
    (from, from + Duration::from_millis(150))
}

#[test]
fn a_pod_elsewhere_is_denied_by_label_before_its_address_is_known_and_else_comes_through_as_soon_as_it_is() -> Result<()>
{
    let _one = lab::one_at_a_time();
    let mut world = World::start(2)?;
    world.apply("namespaces", &["web", "good", "bad"].map(|name| namespace(name, name)))?;
    world.apply("policy", &[no_bad_teams()])?;
    let web = SocketAddr::new(world.add("web", "server", 0, &[])?, ALLOWED);
    let _echo = Echo::start(world.netns("web/server"), web)?;
    let askers = ["good", "bad"].map(|namespace| Place { namespace, name: "asker", node: 1, labels: &[] });
    let (mut ways, mut echoes) = (Vec::new(), Vec::new());
    for asker in &askers {
        // Its own node knows its address from the runtime, the other one only from its status.
        world.apply(asker.namespace, &[world.pod_object(asker, None)])?;
        let netns = world.prepare(asker)?;
        let address = SocketAddr::new(world.attach(asker, netns.clone())?, ALLOWED);
        echoes.push(Echo::start(&netns, address)?);
        ways.push([
            Way::new(&format!("{} to web", asker.namespace), &netns, web),
            Way::new(&format!("web to {}", asker.namespace), world.netns("web/server"), address),
        ]);
    }
    let nodes: Vec<Way> =
        world.lab.nodes.iter().map(|node| Way::new(&format!("{} to web", node.name()), node.netns(), web)).collect();
    let put = |asker: &Place, known: bool| -> Result<()> {
        let address = world.address(&asker.full_name())?;
        world.apply(asker.namespace, &[world.pod_object(asker, known.then_some(address))])
    };
    let unknown = quiet();
    let explained =
        world.lab.nodes[0].fairway().explain(&world.address("good/asker")?.to_string(), &format!("{web}/udp"))?;
    askers.iter().try_for_each(|asker| put(asker, true))?;
    let known = quiet();
    askers.iter().try_for_each(|asker| put(asker, false))?;
    let gone = quiet();
    let spans = |passes: [bool; 3]| {
        [unknown, known, gone].into_iter().zip(passes).map(|((from, to), passes)| (from, to, passes))
    };
    for (ways, passes) in ways.into_iter().zip([true, false]) {
        let spans: Vec<_> = spans([false, passes, false]).collect();
        ways.into_iter().try_for_each(|way| way.judge(&spans))?;
    }
    nodes.into_iter().try_for_each(|way| way.judge(&spans([true; 3]).collect::<Vec<_>>()))?;
    ensure!(explained.policy.as_deref() == Some("ClusterNetworkPolicy no-bad-teams"), "{explained:?}");
    let drops = world.lab.nodes[0].fairway().drops()?;
    let named = drops.iter().find(|row| row.policy.as_deref() == Some("ClusterNetworkPolicy no-bad-teams"));
    ensure!(named.context("no drop names the policy")?.count > 0, "{drops:?}");
    Ok(())
}
