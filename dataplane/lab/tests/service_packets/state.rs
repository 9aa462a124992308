//! The objects of a case as one file of the directory that control follows, and when they are in force.

use super::format::Step;
use super::world::{NODE, World};
use anyhow::{Context, Result, ensure};
use lab::{marker, wait};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

/// Where states have their markers.
const SERVICES: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 0);
const LIMIT: Duration = Duration::from_secs(10);

#[derive(Default)]
pub struct State {
    objects: BTreeMap<[String; 3], Value>,
    nodes: BTreeMap<String, Value>,
    /// States so far.
    number: u16,
}

fn key(object: &Value) -> [String; 3] {
    let metadata = if object["metadata"].is_object() { &object["metadata"] } else { object };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    [text(&object["kind"]), text(&metadata["namespace"]), text(&metadata["name"])]
}

impl State {
    fn set_node(&mut self, world: &World, name: &str, object: &Value) -> Result<()> {
        if self.nodes.get(name) != Some(object) {
            world.objects.apply(name, &object.to_string())?;
            self.nodes.insert(name.into(), object.clone());
        }
        Ok(())
    }

    /// Forgets all but the nodes; the next state begins from nothing.
    pub fn clear(&mut self) {
        self.objects.clear();
    }

    /// Writes what a step changes, as one change, and waits until every worker has it.
    pub fn reach(&mut self, world: &World, step: &Step) -> Result<()> {
        for object in &step.apply {
            match object["metadata"]["name"].as_str().filter(|_| object["kind"] == "Node") {
                // Nodes stay, and only change what is said of them.
                Some(name) => self.set_node(world, name, object)?,
                None => drop(self.objects.insert(key(object), object.clone())),
            }
        }
        for deleted in &step.delete {
            self.objects.remove(&key(deleted)).with_context(|| format!("{deleted} was not there"))?;
        }
        self.number += 1;
        let address = marker::address(SERVICES, self.number);
        let marker = marker::object(address);
        world.objects.apply("case", &marker::documents(self.objects.values().chain([&marker])))?;
        let mark = format!("{address}:{}/TCP", marker::PORT);
        let is_there = || {
            let told = world.node.fairway().explain(super::NODE_ADDRESSES[0], &mark);
            told.is_ok_and(|told| told.verdict == "reject")
                && world.node.fairway().status().is_ok_and(|s| s.is_in_force())
        };
        ensure!(wait::until(LIMIT, is_there), "the objects did not come into force on {NODE}");
        Ok(())
    }
}
