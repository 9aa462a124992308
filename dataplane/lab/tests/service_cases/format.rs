//! What a line of `cases/services/*.jsonl` holds. Must not judge.

use anyhow::{Context, Result, bail};
use control::object::{EndpointSlice, Kind, Namespace, Node, Object, ObjectKey, Pod, Service};
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use tables::{Addr, Prefix, Protocol};

#[derive(Deserialize)]
pub struct Case {
    pub name: String,
    objects: Vec<Value>,
    pub node: CaseNode,
    pub config: Config,
    flows: Vec<Flow>,
    #[serde(default)]
    health: Vec<Health>,
    #[serde(default)]
    then: Vec<Step>,
}

#[derive(Deserialize)]
pub struct CaseNode {
    pub name: String,
    pub ips: Vec<Addr>,
    pub primary_ips: Vec<Addr>,
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<Prefix>,
    #[serde(rename = "clusterCIDRs")]
    pub cluster_cidrs: Vec<Prefix>,
    #[serde(rename = "serviceCIDRs")]
    pub service_cidrs: Vec<Prefix>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    pub masquerade_all: bool,
    pub node_port_addresses: Vec<String>,
    pub detect_local: String,
    pub localhost_node_ports: bool,
}

/// A state and what is expected in it.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct Step {
    pub apply: Vec<Value>,
    pub delete: Vec<Value>,
    pub flows: Vec<Flow>,
    pub health: Vec<Health>,
}

#[derive(Deserialize)]
pub struct Flow {
    pub from: Addr,
    pub from_kind: String,
    pub to: Addr,
    pub port: u16,
    protocol: String,
    pub expect: Expect,
}

#[derive(Deserialize)]
pub struct Expect {
    pub verdict: String,
    #[serde(default)]
    pub also_ok: Vec<String>,
    pub backends: BTreeSet<SocketAddr>,
    pub masquerade: bool,
    pub sticky_seconds: Option<u32>,
}

#[derive(Deserialize)]
pub struct Health {
    pub node_port: u16,
    pub status: Option<u16>,
    pub local_endpoints: Option<usize>,
}

impl Flow {
    pub fn protocol(&self) -> Protocol {
        self.protocol.parse().expect("a protocol")
    }
}

impl Case {
    /// The first state and those that follow.
    pub fn steps(&mut self) -> Vec<Step> {
        let apply = std::mem::take(&mut self.objects);
        let (flows, health) = (std::mem::take(&mut self.flows), std::mem::take(&mut self.health));
        let first = Step { apply, delete: Vec::new(), flows, health };
        [first].into_iter().chain(std::mem::take(&mut self.then)).collect()
    }
}

pub fn read() -> Result<Vec<Case>> {
    let texts = read_texts()?;
    Ok(texts.iter().map(|text| serde_json::from_str(text)).collect::<Result<_, _>>()?)
}

/// One line a case.
pub fn read_texts() -> Result<Vec<String>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/services");
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        texts.extend(std::fs::read_to_string(entry?.path())?.lines().map(str::to_string));
    }
    Ok(texts)
}

pub fn object(value: &Value) -> Result<Object> {
    Ok(match value["kind"].as_str().unwrap_or_default() {
        "Node" => Object::Node(Node::try_from(core::Node::deserialize(value)?)?),
        "Namespace" => Object::Namespace(Namespace::try_from(core::Namespace::deserialize(value)?)?),
        "Pod" => Object::Pod(Pod::try_from(core::Pod::deserialize(value)?)?),
        "Service" => Object::Service(Service::try_from(core::Service::deserialize(value)?)?),
        "EndpointSlice" => {
            Object::EndpointSlice(EndpointSlice::try_from(discovery::EndpointSlice::deserialize(value)?)?)
        }
        other => bail!("{other:?} is no kind of the cases"),
    })
}

pub fn key(value: &Value) -> Result<ObjectKey> {
    let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
    let kind = Kind::from_name(&text("kind")).context("an unknown kind")?;
    Ok(ObjectKey { kind, namespace: text("namespace"), name: text("name") })
}
