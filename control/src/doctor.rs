//! `fairway doctor`: looks for what would keep Fairway from working on this node, or make it slow, before or while it runs.
//! Each check says what it saw, and for what is wrong what to do next. It must not change anything: what `nic --apply` does
//! is in [`fix`].

pub mod api;
pub mod bond;
pub mod fix;
pub mod kernel;
pub mod leftovers;
pub mod nic;
pub mod profile;
pub mod ranges;

use crate::encapsulation::Encapsulation;
use crate::kube::Server;
use crate::netlink::Netlink;
use crate::object::Node;
use fix::Fix;
use serde::Serialize;
use std::ops::RangeInclusive;
use tables::Prefix;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something does not work.
    Wrong,
    /// It works, and would work better.
    Slow,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub check: &'static str,
    pub severity: Severity,
    pub what: String,
    pub advice: String,
}

/// What a check saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fact {
    pub check: &'static str,
    pub what: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    pub facts: Vec<Fact>,
    pub findings: Vec<Finding>,
    /// Commands that mend it.
    pub fixes: Vec<Fix>,
}

impl Diagnosis {
    pub fn fact(&mut self, check: &'static str, what: impl ToString) {
        self.facts.push(Fact { check, what: what.to_string() });
    }

    pub fn wrong(&mut self, check: &'static str, what: impl ToString, advice: impl ToString) {
        self.find(check, Severity::Wrong, what, advice);
    }

    pub fn slow(&mut self, check: &'static str, what: impl ToString, advice: impl ToString) {
        self.find(check, Severity::Slow, what, advice);
    }

    fn find(&mut self, check: &'static str, severity: Severity, what: impl ToString, advice: impl ToString) {
        let (what, advice) = (what.to_string(), advice.to_string());
        self.findings.push(Finding { check, severity, what, advice });
    }

    pub fn is_well(&self) -> bool {
        !self.findings.iter().any(|finding| finding.severity == Severity::Wrong)
    }
}

/// What is to be looked at.
#[derive(Default)]
pub struct Patient {
    /// This node's name; its Node object is looked for if it is given.
    pub node: Option<String>,
    pub server: Option<Server>,
    /// As read from files, where there is no server.
    pub nodes: Vec<Node>,
    pub uplink: Option<String>,
    pub cpus: Vec<usize>,
    pub encapsulation: Encapsulation,
    pub tunnel_port: u16,
    pub cluster_cidrs: Vec<Prefix>,
    pub service_cidrs: Vec<Prefix>,
    pub snat_ports: Option<RangeInclusive<u16>>,
}

/// All checks. Must run inside the network namespace that it is about.
pub async fn examine(patient: Patient) -> Diagnosis {
    let mut diagnosis = Diagnosis::default();
    let mut nodes = patient.nodes.clone();
    if let Some(server) = &patient.server {
        nodes.extend(api::check(server, &mut diagnosis).await);
    }
    kernel::check(&mut diagnosis);
    let netlink = match Netlink::connect() {
        Ok(netlink) => netlink,
        Err(error) => {
            diagnosis.wrong("kernel", format!("cannot open a netlink socket: {error}"), "run it as root");
            return diagnosis;
        }
    };
    ranges::check(&patient, &nodes, &netlink, &mut diagnosis).await;
    leftovers::check(&mut diagnosis);
    match &patient.uplink {
        Some(name) => nic::check(&netlink, name, &patient, &mut diagnosis).await,
        None => diagnosis.fact("nic", "not looked at: name one by --uplink"),
    }
    diagnosis
}
