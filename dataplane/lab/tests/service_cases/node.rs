//! The node of a case: state, compiler and real tables, without any process or device. Every pod that the case names on
//! this node is attached. Must not judge.

use super::format::{Case, Step, key, object};
use anyhow::{Context, Result};
use control::compile::{Compiler, Report};
use control::object::{Named, Node as NodeObject, Object, ObjectChange, Pod};
use control::state::{
    DetectLocal, KernelRoute, Local, LocalEndpoint, NodePortAddresses, ServiceOptions, State, Uplink,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use tables::layout::Table;
use tables::message::{ExplainQuery, Explained};
use tables::publish::Publisher;
use tables::service::{ServiceKey, ServiceRecord};
use tables::{Addr, Mac, Prefix, Protocol};

const UPLINK: u32 = 1;
const HOST: u32 = 2;
const FIRST_POD: u32 = 10;

pub struct Node {
    state: State,
    compiler: Compiler,
    publisher: Publisher,
    pods: BTreeMap<Addr, u32>,
    pub report: Report,
}

fn addr(text: &str) -> Addr {
    text.parse().expect("an address")
}

fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

impl Node {
    pub fn new(case: &Case, steps: &[Step]) -> Result<Node> {
        let mut state = State::new();
        state.set_local(local(case));
        state.set_complete();
        other_nodes().into_iter().for_each(|node| state.apply(ObjectChange::Put(Object::Node(node))));
        let mut pods = BTreeMap::new();
        for addr in pod_addrs(case, steps)? {
            let interface = FIRST_POD + pods.len() as u32;
            attach(&mut state, addr, interface);
            pods.insert(addr, interface);
        }
        let publisher = Publisher::create(1)?;
        Ok(Node { state, compiler: Compiler::new(), publisher, pods, report: Report::default() })
    }

    pub fn reach(&mut self, step: &Step) -> Result<()> {
        for value in &step.apply {
            self.state.apply(ObjectChange::Put(object(value)?));
        }
        for value in &step.delete {
            self.state.apply(ObjectChange::Delete(key(value)?));
        }
        let mut batch = self.publisher.batch([]).context("nobody reads")?;
        self.report = self.compiler.update(&mut self.state, &mut batch);
        batch.publish();
        Ok(())
    }

    pub fn explain(&self, from: Addr, from_kind: &str, to: Addr, port: u16, protocol: Protocol) -> Explained {
        let interface = match from_kind {
            "pod-local" => Some(self.pods[&from]),
            "node" => Some(HOST),
            _ => None,
        };
        let query = ExplainQuery { interface, src: from, dst: to, src_port: 33_000, dst_port: port, protocol };
        dataplane::explain::explain(self.publisher.live(), &query)
    }

    pub fn row(&self, to: Addr, port: u16, protocol: Protocol) -> Option<ServiceRecord> {
        self.publisher.live().find(Table::Service, &ServiceKey::new(to, port, protocol))
    }
}

fn local(case: &Case) -> Local {
    let config = &case.config;
    let is_primary = config.node_port_addresses == ["primary"];
    let ranges = || config.node_port_addresses.iter().map(|text| prefix(text)).collect();
    let last = |last: u16| [addr(&format!("10.1.0.{last}")), addr(&format!("fd00:10:1::{last}"))];
    let loopback = ["127.0.0.1", "::1"].map(addr);
    let route = |to: &str, via: Option<&str>| KernelRoute { prefix: prefix(to), via: via.map(addr) };
    Local {
        node: case.node.name.clone(),
        addrs: case.node.primary_ips.clone(),
        node_addrs: loopback.into_iter().chain(case.node.ips.clone()).collect(),
        services: ServiceOptions {
            node_port_addresses: if is_primary {
                NodePortAddresses::Primary
            } else {
                NodePortAddresses::Ranges(ranges())
            },
            localhost_node_ports: config.localhost_node_ports,
            masquerade_all: config.masquerade_all,
            detect_local: if config.detect_local == "none" { DetectLocal::None } else { DetectLocal::ClusterCidr },
            external_ip_ranges: vec![prefix("192.0.2.0/24"), prefix("2001:db8:bbbb::/48")],
            load_balancing: Default::default(),
            forwarding: Default::default(),
        },
        snat_ports: Some(40_000..=60_999),
        gateway: last(251),
        host: last(252),
        snat: last(253),
        gateway_mac: Mac([2, 0, 0, 0, 1, 1]),
        host_mac: Mac([2, 0, 0, 0, 1, 2]),
        vni: 1,
        tunnel_port: 4789,
        uplink: Uplink { interface: UPLINK, mac: Mac([2, 0, 0, 0, 1, 3]), mtu: 1500 },
        host_interface: HOST,
        workers: 1,
        cluster_cidrs: case.node.cluster_cidrs.clone(),
        service_cidrs: case.node.service_cidrs.clone(),
        kernel_routes: vec![
            route("192.168.0.0/24", None),
            route("0.0.0.0/0", Some("192.168.0.254")),
            route("2001:db8::/64", None),
            route("::/0", Some("2001:db8::fe")),
        ],
        ..Local::default()
    }
}

/// Where the cases say that other nodes are, for those that leave them out.
fn other_nodes() -> Vec<NodeObject> {
    let node = |i: u8, name: &str| NodeObject {
        name: format!("worker-{name}"),
        addrs: vec![addr(&format!("192.168.0.{}", 2 + i)), addr(&format!("2001:db8::{}", 2 + i))],
        pod_cidrs: vec![prefix(&format!("10.1.{i}.0/24")), prefix(&format!("fd00:10:1:{i}::/64"))],
        ..NodeObject::default()
    };
    vec![node(1, "b"), node(2, "c"), node(3, "d")]
}

/// Pods of this node that ask or serve.
fn pod_addrs(case: &Case, steps: &[Step]) -> Result<BTreeSet<Addr>> {
    let asking = steps.iter().flat_map(|step| &step.flows).map(|flow| flow.from);
    let expected = steps.iter().flat_map(|step| &step.flows).flat_map(|flow| &flow.expect.backends);
    let serving = expected.map(|backend: &SocketAddr| Addr::from(backend.ip()));
    let is_here = |addr: &Addr| case.node.pod_cidrs.iter().any(|range| range.contains(*addr));
    let asked = steps.iter().flat_map(|step| &step.flows).map(|flow| flow.to);
    Ok(asking.chain(serving).chain(asked).filter(is_here).collect())
}

fn attach(state: &mut State, addr: Addr, interface: u32) {
    let pod = Named::new("pods", format!("pod-{interface}"));
    let mac = Mac([2, 0, 0, 0, 2, interface as u8]);
    state.apply(ObjectChange::Put(Object::Pod(Pod {
        id: pod.clone().into(),
        addrs: vec![addr],
        ready: true,
        ..Pod::default()
    })));
    state.attach(format!("{interface}/eth0"), LocalEndpoint { interface, owner: 0, mac, addrs: vec![addr], pod });
}
