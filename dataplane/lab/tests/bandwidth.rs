//! The rates that a runtime asks for one pod (`runtimeConfig.bandwidth`): kept in both directions, by TCP that is slowed down
//! and UDP that is too much, in both families, over the node and to another one; over restarts; and gone with the pod.

#[path = "bandwidth/stream.rs"]
mod stream;

use std::net::IpAddr;

use anyhow::{Context, Result};
use lab::chain::{Chain, Sandbox, code_of};
use lab::cni::PLUGIN;
use lab::netns::Netns;
use lab::shell::Cmd;
use lab::{Families, Lab, Options};
use serde_json::{Value, json};
use stream::{Kind, Stream};

/// Of the pod, bits per second.
const INGRESS: u64 = 20_000_000;
const EGRESS: u64 = 12_000_000;
const TOLERANCE: f64 = 0.05;
/// A machine that is busy may be too slow now and then; it is never too fast.
const TRIES: usize = 4;

struct World {
    lab: Lab,
    chain: Chain,
    netns: Netns,
    sandbox: Sandbox,
    result: Value,
}

impl World {
    /// A limited container on the first node, a pod beside it, and one on the other node.
    fn start() -> Result<World> {
        World::start_at(INGRESS, EGRESS)
    }

    fn start_at(ingress: u64, egress: u64) -> Result<World> {
        let mut lab = Lab::start(&Options { families: Families::Dual, ..Options::default() })?;
        lab.add_pod("near", 0, &[])?;
        lab.add_pod("far", 1, &[])?;
        let node = &lab.nodes[0];
        let fairway = json!({"type": PLUGIN, "runDir": node.plugin().run_dir, "capabilities": {"bandwidth": true}});
        let chain = Chain {
            name: "fairway".into(),
            version: "1.0.0".into(),
            plugins: vec![fairway],
            path: vec![lab.binaries().directory().into()],
            netns: node.netns().clone(),
        };
        let netns = Netns::create(&format!("{}slow", lab.guard().prefix()))?;
        lab.silence(&netns)?;
        // As containerd asks: a burst without bounds.
        let rates =
            json!({"ingressRate": ingress, "ingressBurst": u32::MAX, "egressRate": egress, "egressBurst": u32::MAX});
        let sandbox = Sandbox { capabilities: json!({"bandwidth": rates}), ..Sandbox::plain(&netns) };
        let result = chain.add(&sandbox)?;
        lab.settle()?;
        Ok(World { lab, chain, netns, sandbox, result })
    }

    fn address(&self, number: usize) -> Result<IpAddr> {
        let text = self.result["ips"][number]["address"].as_str().context("an address")?;
        Ok(text.split('/').next().unwrap_or_default().parse()?)
    }

    /// What the pod receives and what it sends, at once or in turn: TCP's acknowledgements count, too, in the other direction.
    /// `family` is the place of its address.
    fn is_held(&self, pod: &str, family: usize, kind: fn(u64) -> Kind) -> Result<()> {
        let other = self.lab.pod(pod)?;
        let received = Stream { kind: kind(INGRESS), from: other.netns(), to: &self.netns, at: self.address(family)? };
        let sent = Stream { kind: kind(EGRESS), from: &self.netns, to: other.netns(), at: other.addresses()[family] };
        if received.kind == Kind::Tcp {
            held(received, INGRESS)?;
            return held(sent, EGRESS);
        }
        std::thread::scope(|scope| {
            let sending = scope.spawn(|| held(sent, EGRESS));
            held(received, INGRESS)?;
            sending.join().expect("it does not panic")
        })
    }

    fn tc(&self, line: &str) -> Result<String> {
        Ok(Cmd::line(&format!("tc {line}")).netns(&self.netns).ok()?.stdout)
    }
}

fn held(stream: Stream<'_>, rate: u64) -> Result<()> {
    let mut shares = Vec::new();
    for _ in 0..TRIES {
        let share = stream.measure()? / rate as f64;
        println!("{:?} {} -> {}: {:.1} % of {rate}", stream.kind, stream.from.name(), stream.at, share * 100.0);
        assert!(share < 1.0 + TOLERANCE, "{stream:?} is faster than {rate} bit/s by {share}");
        if share > 1.0 - TOLERANCE {
            return Ok(());
        }
        shares.push(share);
    }
    panic!("{stream:?} is slower than {rate} bit/s each time: {shares:?}");
}

fn tcp(_: u64) -> Kind {
    Kind::Tcp
}

fn too_much(rate: u64) -> Kind {
    Kind::Udp(2 * rate)
}

#[test]
fn rates_are_held_in_both_directions() -> Result<()> {
    let _one = lab::one_at_a_time();
    let world = World::start()?;
    for family in [0, 1] {
        world.is_held("far", family, tcp)?;
        world.is_held("near", family, too_much)?;
    }
    world.is_held("near", 0, tcp)?;
    world.chain.check(&world.sandbox, &world.result)
}

/// Rates that nodes' links have, too: a burst is large by then, and a thread of the kernel that comes late costs much. Pods of
/// one node, since across nodes a small machine may be too slow by itself.
#[test]
fn higher_rates_are_held_too() -> Result<()> {
    let _one = lab::one_at_a_time();
    for rate in [100_000_000, 1_000_000_000] {
        let world = World::start_at(rate, rate)?;
        let near = world.lab.pod("near")?;
        held(Stream { kind: Kind::Tcp, from: near.netns(), to: &world.netns, at: world.address(0)? }, rate)?;
        held(Stream { kind: Kind::Tcp, from: &world.netns, to: near.netns(), at: near.address() }, rate)?;
    }
    Ok(())
}

#[test]
fn rates_outlive_both_processes() -> Result<()> {
    let _one = lab::one_at_a_time();
    let mut world = World::start()?;
    let node = &mut world.lab.nodes[0];
    node.kill_control()?;
    node.kill_dataplane()?;
    node.start_dataplane()?;
    node.start_control()?;
    node.wait_connected()?;
    world.chain.check(&world.sandbox, &world.result)?;
    world.is_held("far", 0, tcp)
}

#[test]
fn a_lost_rate_is_found_and_nothing_is_left() -> Result<()> {
    let _one = lab::one_at_a_time();
    let world = World::start()?;
    for (loss, told) in [
        // Each is told before what was lost earlier.
        ("filter del dev eth0 parent ffff:", "what it receives is not limited to 20000000 bit/s"),
        ("qdisc del dev eth0 root", "what it sends is not limited to 12000000 bit/s"),
    ] {
        world.tc(loss)?;
        let lost = world.chain.check(&world.sandbox, &world.result);
        let sentence = lost.as_ref().expect_err(loss).to_string();
        assert!(sentence.contains(told), "{sentence}");
        assert_eq!(code_of(lost), Some(102));
    }
    world.chain.del(&world.sandbox, Some(&world.result))?;
    let left = world.netns.ip("-o link")?.stdout;
    assert_eq!(left.lines().filter(|line| !line.contains(" lo:")).collect::<Vec<_>>(), [""; 0]);
    Ok(())
}
