//! Pods of the cases on two nodes that run Fairway, each with a prober, and the objects of a case as one file. Must not judge.

use super::format::{Homes, PORTS, Step};
use super::prober::Prober;
use anyhow::{Context, Result, ensure};
use control::api::{self, Question, Request};
use control::listing::{DropView, ExplainView, StatusView};
use lab::cni::Container;
use lab::netns::Netns;
use lab::node::Node;
use lab::{Lab, Options, marker};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

/// Where states have their markers.
const SERVICES: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 0);
const LIMIT: Duration = Duration::from_secs(10);
/// On which node, and in this order, as addresses are given out: those of z are the first of node 2.
const PODS: [(&str, usize); 13] = [
    ("z/a", 1),
    ("z/b", 1),
    ("z/c", 1),
    // In no case: it has the last address of the block of z.
    ("spare/spare", 1),
    ("x/b", 1),
    ("y/a", 1),
    ("x/a", 0),
    ("x/c", 0),
    ("y/b", 0),
    ("y/c", 0),
    // Come and go.
    ("x/d", 0),
    ("y-2/a", 1),
    ("y-2/b", 0),
];
/// Blocks of the cases, and what they are here: one around the pods of z and of nobody else, and one inside of it.
const BLOCKS: [(&str, &str); 2] = [("192.168.3.0/24", "10.244.2.0/29"), ("192.168.3.0/28", "10.244.2.4/30")];

pub struct World {
    pub lab: Lab,
    pub homes: Homes,
    pub probers: BTreeMap<String, Prober>,
    /// States so far.
    number: u16,
}

/// The text of a case with the blocks that it has here.
pub fn rename(text: String) -> String {
    BLOCKS.iter().fold(text, |text, (theirs, ours)| text.replace(&format!("\"{theirs}\""), &format!("\"{ours}\"")))
}

impl World {
    pub fn start(workers: u32) -> Result<World> {
        let lab = Lab::start(&Options { workers, uplink_queues: workers, ..Options::default() })?;
        let (homes, probers) = (Homes::new(), BTreeMap::new());
        let mut world = World { lab, homes, probers, number: 0 };
        PODS.iter().try_for_each(|(pod, node)| world.add_pod(pod, *node))?;
        Ok(world)
    }

    fn add_pod(&mut self, full_name: &str, node: usize) -> Result<()> {
        let (namespace, name) = full_name.split_once('/').context("namespace/name")?;
        let netns = Netns::create(&format!("{}{namespace}-{name}", self.lab.guard().prefix()))?;
        self.lab.silence(&netns)?;
        let node = &self.lab.nodes[node];
        let container = Container { namespace: namespace.into(), name: name.into(), netns: netns.clone() };
        let address = node.plugin().add(&container)?.addresses[0];
        let is_of_z = (4..7).any(|last| address.to_string() == format!("10.244.2.{last}"));
        ensure!(is_of_z == (namespace == "z"), "{full_name} has {address}");
        self.homes.insert(full_name.into(), (address.to_string(), node.name().into()));
        self.probers.insert(full_name.into(), Prober::start(netns, address, &PORTS)?);
        Ok(())
    }

    pub fn address(&self, pod: &str) -> Result<IpAddr> {
        Ok(self.homes.get(pod).with_context(|| format!("no pod {pod}"))?.0.parse()?)
    }

    /// Index of a pod's node.
    pub fn node_of(&self, pod: &str) -> Result<usize> {
        let (_, name) = self.homes.get(pod).with_context(|| format!("no pod {pod}"))?;
        self.lab.nodes.iter().position(|node| node.name() == name).context("a node")
    }

    /// Writes a state as one change and waits until every worker of both nodes has it.
    pub fn reach(&mut self, step: &Step) -> Result<()> {
        self.number += 1;
        let address = marker::address(SERVICES, self.number);
        let marker = marker::object(address);
        let objects = step.objects(&self.homes);
        self.lab.objects().apply("case", &marker::documents(objects.iter().chain([&marker])))?;
        let mark = address.to_string();
        let is_in_force = |node: &Node| -> Result<bool> {
            let told: ExplainView =
                ask(node, &Request::Explain(question(&node.address().to_string(), &mark, marker::PORT, "TCP")))?;
            let status: StatusView = ask(node, &Request::Status)?;
            Ok(told.verdict == "reject" && status.acknowledged >= status.generation)
        };
        let since = Instant::now();
        for node in &self.lab.nodes {
            while !is_in_force(node)? {
                ensure!(since.elapsed() < LIMIT, "the objects did not come into force on {}", node.name());
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    /// What a node says of each flow.
    pub fn explain(&self, node: usize, questions: Vec<Question>) -> Result<Vec<ExplainView>> {
        let some = questions.chunks(api::QUESTIONS_MAX);
        let told = some.map(|some| ask(&self.lab.nodes[node], &Request::ExplainAll { questions: some.to_vec() }));
        Ok(told.collect::<Result<Vec<Vec<ExplainView>>>>()?.concat())
    }

    /// Packets so far that a node dropped for each policy.
    pub fn drops(&self, node: usize) -> Result<BTreeMap<String, u64>> {
        let rows: Vec<DropView> = ask(&self.lab.nodes[node], &Request::Drops)?;
        Ok(rows.into_iter().filter_map(|row| Some((row.policy?, row.count))).collect())
    }
}

pub fn question(src: &str, dst: &str, port: u16, protocol: &str) -> Question {
    let (src, dst, protocol) = (src.into(), dst.into(), protocol.to_lowercase());
    Question { src, dst, port, protocol, src_port: 33_000, from: None }
}

/// As the CLI asks.
fn ask<T: DeserializeOwned>(node: &Node, request: &Request) -> Result<T> {
    api::ask(&node.directory().join("run"), request).with_context(|| format!("{request:?} to {}", node.name()))
}
