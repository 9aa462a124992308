//! `fairway explain`: from names to the dataplane's question, and from its answer's ids to names; of a running node and of a
//! bundle alike. Decides nothing: that is the dataplane's.

use crate::api::{Failure, Question, code};
use crate::listing::ExplainView;
use crate::object::Named;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use tables::message::{ExplainQuery, Explained, InterfaceInfo, InterfaceKind};
use tables::{Addr, Protocol};

/// Who knows what names mean.
pub trait Directory {
    /// The addresses of a pod or service.
    fn addrs_of(&self, id: &Named) -> Vec<Addr>;
    fn interfaces(&self) -> Vec<InterfaceInfo>;
    /// `namespace/name` of the pod behind an interface of this name.
    fn pod_at(&self, interface: &str) -> Option<String>;
    /// The node's own addresses.
    fn own_addrs(&self) -> Vec<Addr>;
    fn policy_name(&self, index: u32) -> Option<String>;
    /// The name that a policy gives its rule, which is told apart as in `ingress[0]`.
    fn rule_name(&self, _policy: u32, _rule: &str) -> Option<String> {
        None
    }
    fn service_name(&self, id: u32) -> Option<String>;
    /// The node that has this address.
    fn node_with(&self, addr: Addr) -> Option<String>;
}

/// What a bundle knows of names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Names {
    /// Pods and services by `namespace/name`; a pod goes before a service of its name.
    pub addrs: BTreeMap<String, Vec<Addr>>,
    /// `namespace/name` of the pod behind each interface.
    pub pods: BTreeMap<String, String>,
    pub own_addrs: Vec<Addr>,
    pub policies: BTreeMap<u32, String>,
    pub services: BTreeMap<u32, String>,
    /// Addresses of each node.
    #[serde(default)]
    pub nodes: BTreeMap<String, Vec<Addr>>,
}

fn failed(text: impl ToString) -> Failure {
    Failure::new(code::FAILED, text)
}

/// What the dataplane is asked.
pub fn query(directory: &impl Directory, question: &Question) -> Result<ExplainQuery, Failure> {
    let protocol: Protocol = question.protocol.parse().map_err(|text: String| failed(text))?;
    let (sources, destinations) = (resolve(directory, &question.src)?, resolve(directory, &question.dst)?);
    let pairs = sources.iter().flat_map(|&src| destinations.iter().map(move |&dst| (src, dst)));
    let common = pairs.filter(|(src, dst)| src.is_v4() == dst.is_v4()).min_by_key(|(src, _)| !src.is_v4());
    let (src, dst) = common
        .ok_or_else(|| failed(format!("{} and {} have no address family in common", question.src, question.dst)))?;
    let interface = match &question.from {
        Some(from) => interface_named(directory, from)?,
        None => interface_with(directory, src),
    };
    Ok(ExplainQuery { interface, src, dst, src_port: question.src_port, dst_port: question.port, protocol })
}

/// An address, or those of a pod or service.
fn resolve(directory: &impl Directory, text: &str) -> Result<Vec<Addr>, Failure> {
    if let Ok(addr) = text.parse() {
        return Ok(vec![addr]);
    }
    let found = text.split_once('/').map(|(namespace, name)| directory.addrs_of(&Named::new(namespace, name)));
    found.filter(|addrs| !addrs.is_empty()).ok_or_else(|| {
        failed(format!("{text:?} is not known here: an address, namespace/pod or namespace/service is expected"))
    })
}

fn interface_with(directory: &impl Directory, addr: Addr) -> Option<u32> {
    let is_host = directory.own_addrs().contains(&addr);
    let sends =
        |info: &InterfaceInfo| info.spec.addrs.contains(&addr) || is_host && info.spec.kind == InterfaceKind::Host;
    directory.interfaces().into_iter().find(sends).map(|info| info.id)
}

/// `uplink`, `host`, a pod, or an interface by its name. The uplink is the way in that has no interface.
pub fn interface_named(directory: &impl Directory, name: &str) -> Result<Option<u32>, Failure> {
    let found = interface(directory, name)?;
    Ok((found.spec.kind != InterfaceKind::Uplink).then_some(found.id))
}

/// The interface of this name.
pub fn interface(directory: &impl Directory, name: &str) -> Result<InterfaceInfo, Failure> {
    let is_named = |info: &InterfaceInfo| {
        let spec = &info.spec;
        spec.name == name
            || spec.kind != InterfaceKind::Pod && kind_name(spec.kind) == name
            || directory.pod_at(&spec.name).as_deref() == Some(name)
    };
    let found = directory.interfaces().into_iter().find(is_named);
    found.ok_or_else(|| failed(format!("no interface {name:?}: `fairway interfaces` lists them (uplink, host, ...)")))
}

pub fn kind_name(kind: InterfaceKind) -> &'static str {
    match kind {
        InterfaceKind::Uplink => "uplink",
        InterfaceKind::Host => "host",
        InterfaceKind::Pod => "pod",
    }
}

/// What an interface is called where people look.
pub fn shown(directory: &impl Directory, info: &InterfaceInfo) -> String {
    directory.pod_at(&info.spec.name).unwrap_or_else(|| kind_name(info.spec.kind).to_owned())
}

pub fn view(directory: &impl Directory, explained: Explained) -> ExplainView {
    let rule = explained.rule.map(|rule| {
        let name = explained.policy.and_then(|policy| directory.rule_name(policy, &rule));
        name.map_or(rule.clone(), |name| format!("{rule} {name}"))
    });
    ExplainView {
        verdict: explained.verdict,
        reason: explained.reason,
        policy: explained.policy.and_then(|index| directory.policy_name(index)),
        rule,
        service: explained.service.and_then(|id| directory.service_name(id)),
        backends: explained.backends.iter().map(|(addr, port)| endpoint_text(*addr, *port)).collect(),
        steps: explained.steps,
        inside: explained.inside,
        outside: explained.outside,
        masquerade: explained.masquerade,
        direct: explained.direct.map(|addr| directory.node_with(addr).unwrap_or_else(|| addr.to_string())),
        generation: explained.generation,
    }
}

/// `10.0.0.1:80`, `[fd00::1]:80`
pub fn endpoint_text(addr: Addr, port: u16) -> String {
    SocketAddr::new(addr.ip(), port).to_string()
}
