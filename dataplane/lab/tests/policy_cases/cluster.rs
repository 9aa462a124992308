//! Two nodes of a case: for each a state, a compiler and real tables, without any process or device. Pods have the
//! addresses that they have in the cases. Must not judge.

use super::format::{Homes, Step};
use anyhow::{Context, Result, ensure};
use control::compile::Compiler;
use control::file::parse::{Syntax, parse};
use control::object::{Named, Node as NodeObject, Object, ObjectChange, ObjectKey};
use control::state::{Local, LocalEndpoint, State, Uplink};
use std::collections::{BTreeMap, BTreeSet};
use tables::message::{ExplainQuery, Explained};
use tables::publish::Publisher;
use tables::{Addr, Mac, Prefix, Protocol};

const UPLINK: u32 = 1;
const HOST: u32 = 2;
const FIRST_POD: u32 = 10;
pub const NODES: [&str; 2] = ["node-1", "node-2"];

pub struct Node {
    state: State,
    compiler: Compiler,
    publisher: Publisher,
    interfaces: BTreeMap<Addr, u32>,
    applied: BTreeSet<ObjectKey>,
}

fn addr(text: &str) -> Addr {
    text.parse().expect("an address")
}

impl Node {
    pub fn new(name: &str, homes: &Homes) -> Result<Node> {
        let mut state = State::new();
        state.set_local(local(name));
        state.set_complete();
        for (number, node) in NODES.iter().enumerate() {
            state.apply(ObjectChange::Put(Object::Node(node_object(node, number as u8, homes))));
        }
        let mut interfaces = BTreeMap::new();
        for (pod, (address, _)) in homes.iter().filter(|(_, (_, node))| node == name) {
            let interface = FIRST_POD + interfaces.len() as u32;
            attach(&mut state, pod, addr(address), interface);
            interfaces.insert(addr(address), interface);
        }
        let (compiler, publisher) = (Compiler::new(), Publisher::create(1)?);
        Ok(Node { state, compiler, publisher, interfaces, applied: BTreeSet::new() })
    }

    /// Puts what the state has and takes away what it no longer has.
    pub fn reach(&mut self, step: &Step, homes: &Homes) -> Result<()> {
        let mut applied = BTreeSet::new();
        for value in step.objects(homes) {
            let parsed = parse(&value.to_string(), Syntax::Json);
            ensure!(parsed.problems.is_empty(), "{value}: {:?}", parsed.problems);
            for object in parsed.objects {
                applied.insert(object.key());
                self.state.apply(ObjectChange::Put(object));
            }
        }
        for gone in self.applied.difference(&applied) {
            self.state.apply(ObjectChange::Delete(gone.clone()));
        }
        self.applied = applied;
        let mut batch = self.publisher.batch([]).context("nobody reads")?;
        let report = self.compiler.update(&mut self.state, &mut batch);
        batch.publish();
        ensure!(report.problems.is_empty(), "{}", report.problems[0]);
        Ok(())
    }

    /// By `uplink`: as if it came from the other node.
    pub fn explain(&self, by_uplink: bool, flow: &Flow) -> Explained {
        let interface = if by_uplink { None } else { self.interfaces.get(&flow.from).copied() };
        let Flow { from: src, to: dst, port: dst_port, protocol } = *flow;
        let query = ExplainQuery { interface, src, dst, src_port: 33_000, dst_port, protocol };
        dataplane::explain::explain(self.publisher.live(), &query)
    }

    /// `namespace/name` of a policy by its number in the tables.
    pub fn policy(&self, index: u32) -> Option<String> {
        self.compiler.policy_name(index)
    }
}

pub struct Flow {
    pub from: Addr,
    pub to: Addr,
    pub port: u16,
    pub protocol: Protocol,
}

fn local(name: &str) -> Local {
    let own = |host: u8| [Addr::v4([172, 18, 1, host]), Addr::UNSPECIFIED];
    Local {
        node: name.into(),
        addrs: vec![underlay(NODES.iter().position(|node| *node == name).unwrap_or(0) as u8)],
        gateway: own(1),
        host: own(2),
        snat: own(3),
        gateway_mac: Mac([2, 0, 0, 0, 1, 1]),
        host_mac: Mac([2, 0, 0, 0, 1, 2]),
        vni: 1,
        tunnel_port: 4789,
        uplink: Uplink { interface: UPLINK, mac: Mac([2, 0, 0, 0, 1, 3]), mtu: 1500 },
        host_interface: HOST,
        workers: 1,
        cluster_cidrs: vec!["192.168.0.0/16".parse().expect("a range")],
        ..Local::default()
    }
}

fn underlay(number: u8) -> Addr {
    Addr::v4([172, 18, 0, 11 + number])
}

fn node_object(name: &str, number: u8, homes: &Homes) -> NodeObject {
    let here = homes.values().filter(|(_, node)| node == name);
    let pod_cidrs = here.map(|(address, _)| Prefix::host(addr(address))).collect();
    NodeObject { name: name.into(), addrs: vec![underlay(number)], pod_cidrs, ..NodeObject::default() }
}

fn attach(state: &mut State, pod: &str, addr: Addr, interface: u32) {
    let (namespace, name) = pod.split_once('/').expect("namespace/name");
    let mac = Mac([2, 0, 0, 0, 2, interface as u8]);
    let pod = Named::new(namespace, name);
    state.attach(format!("{interface}/eth0"), LocalEndpoint { interface, owner: 0, mac, addrs: vec![addr], pod });
}
