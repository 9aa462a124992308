//! Two nodes whose pods come and go one by one, in namespaces of any name, and the objects about them. Must not judge.

use super::pulse::Echo;
use anyhow::{Context, Result};
use control::api::{self, Request};
use lab::cni::Container;
use lab::netns::Netns;
use lab::{Lab, Options, marker};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// A pod and where it is to be.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    pub node: usize,
    pub labels: &'a [(&'a str, &'a str)],
}

impl Place<'_> {
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

struct Attached {
    netns: Netns,
    address: IpAddr,
    container: Container,
}

pub struct World {
    pub lab: Lab,
    pods: BTreeMap<String, Attached>,
    echoes: Vec<Echo>,
    /// By node, the address given out last.
    last: [u8; 2],
}

impl World {
    pub fn start(workers: u32) -> Result<World> {
        let lab = Lab::start(&Options { workers, uplink_queues: workers, ..Options::default() })?;
        Ok(World { lab, pods: BTreeMap::new(), echoes: Vec::new(), last: [3; 2] })
    }

    /// A pod with everything: namespace aside.
    pub fn add(&mut self, namespace: &str, name: &str, node: usize, labels: &[(&str, &str)]) -> Result<IpAddr> {
        let place = Place { namespace, name, node, labels };
        let netns = self.prepare(&place)?;
        let address = self.attach(&place, netns)?;
        let object = self.pod_object(&place, Some(address));
        self.apply(&format!("pod-{namespace}-{name}"), &[object])?;
        Ok(address)
    }

    /// Its network namespace, without an interface yet.
    pub fn prepare(&self, place: &Place) -> Result<Netns> {
        let netns = Netns::create(&format!("{}{}-{}", self.lab.guard().prefix(), place.namespace, place.name))?;
        self.lab.silence(&netns)?;
        Ok(netns)
    }

    /// CNI ADD.
    pub fn attach(&mut self, place: &Place, netns: Netns) -> Result<IpAddr> {
        let container = Container { namespace: place.namespace.into(), name: place.name.into(), netns: netns.clone() };
        let address = self.lab.nodes[place.node].plugin().add(&container)?.addresses[0];
        if let IpAddr::V4(address) = address {
            self.last[place.node] = address.octets()[3];
        }
        self.pods.insert(place.full_name(), Attached { netns, address, container });
        Ok(address)
    }

    /// CNI DEL, and the namespace goes.
    pub fn remove(&mut self, place: &Place) -> Result<()> {
        let pod = self.pods.remove(&place.full_name()).context("no such pod")?;
        self.echoes.clear();
        self.lab.nodes[place.node].plugin().del(&pod.container, None)?;
        pod.netns.remove()
    }

    /// What the next pod of a node will have: addresses are given out one after the other.
    pub fn next_address(&self, node: usize) -> Result<IpAddr> {
        Ok(format!("10.244.{}.{}", node + 1, self.last[node] + 1).parse()?)
    }

    /// Somebody who answers there until a pod is removed.
    pub fn echo(&mut self, netns: &Netns, at: IpAddr, ports: &[u16]) -> Result<()> {
        for port in ports {
            self.echoes.push(Echo::start(netns, SocketAddr::new(at, *port))?);
        }
        Ok(())
    }

    pub fn netns(&self, pod: &str) -> &Netns {
        &self.pods[pod].netns
    }

    pub fn address(&self, pod: &str) -> Result<IpAddr> {
        Ok(self.pods.get(pod).context("no such pod")?.address)
    }

    /// These objects as one file.
    pub fn apply(&self, file: &str, objects: &[Value]) -> Result<()> {
        self.lab.objects().apply(file, &marker::documents(objects)).map(drop)
    }

    pub fn delete(&self, files: &[&str]) -> Result<()> {
        files.iter().try_for_each(|file| self.lab.objects().delete(file).map(drop))
    }

    pub fn pod_object(&self, place: &Place, address: Option<IpAddr>) -> Value {
        let labels: BTreeMap<_, _> = place.labels.iter().copied().collect();
        let mut pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": place.namespace, "name": place.name, "labels": labels},
            "spec": {"nodeName": self.lab.nodes[place.node].name(), "containers": [{"name": "main", "image": "none"}]},
            "status": {"phase": "Running"},
        });
        if let Some(address) = address {
            pod["status"]["podIP"] = json!(address);
            pod["status"]["podIPs"] = json!([{"ip": address}]);
        }
        pod
    }

    /// How many policies a node knows.
    pub fn policies(&self, node: usize) -> Result<usize> {
        let run_dir = self.lab.nodes[node].directory().join("run");
        let status: control::listing::StatusView = api::ask(&run_dir, &Request::Status)?;
        Ok(status.objects.get("NetworkPolicy").copied().unwrap_or(0))
    }

    /// How long the last change took on a node from when it was read until every worker had it.
    pub fn lag(&self, node: usize) -> Result<Duration> {
        let run_dir = self.lab.nodes[node].directory().join("run");
        let since = Instant::now();
        loop {
            let text: String = api::ask(&run_dir, &Request::Metrics)?;
            let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
            let lag = value("fairway_acknowledge_lag_seconds ").context("no such metric")?;
            let status: control::listing::StatusView = api::ask(&run_dir, &Request::Status)?;
            if status.acknowledged >= status.generation || since.elapsed() > Duration::from_secs(1) {
                return Ok(Duration::from_secs_f64(lag));
            }
        }
    }
}

pub fn namespace(name: &str, team: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"team": team}}})
}

pub fn policy(namespace: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name},
        "spec": spec,
    })
}

/// The value that this share of all does not exceed.
pub fn quantile(all: &[Duration], share: f64) -> Duration {
    let mut sorted = all.to_vec();
    sorted.sort();
    let place = (sorted.len() as f64 * share).ceil() as usize;
    sorted[place.clamp(1, sorted.len()) - 1]
}
