//! `fairway policies diff`: what a change of objects would do to the flows that there are, before anything is applied. The
//! state with the change in it is compiled into tables of their own, and each flow's first packet is judged on these as
//! workers judge it. Must not change anything; takes a while with many policies, so it runs beside the loop.

use crate::compile::Compiler;
use crate::explain::endpoint_text;
use crate::listing::FlowChange;
use crate::state::State;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use tables::counters::DropReason;
use tables::endpoint::{EndpointKind, EndpointRecord};
use tables::flow::{self, FLAG_CLIENT, FLAG_OPENED_LOCALLY, FlowRecord, FlowRegionError, HopKind};
use tables::judge;
use tables::judged::Judged;
use tables::layout::Table;
use tables::owner::Worker;
use tables::policy::Direction;
use tables::publish::Publisher;
use tables::region::{Access, Region, RegionError};
use tables::{Addr, Protocol, View};

#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    #[error("cannot make tables to try it in: {0}")]
    Tables(#[from] RegionError),
    #[error("cannot read the flows: {0}")]
    Flows(#[from] FlowRegionError),
    #[error("with the change: {0}")]
    Problem(String),
}

/// What a pod's policies judge of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Half {
    pod: Addr,
    direction: Direction,
    peer: Addr,
    protocol: Protocol,
    port: u16,
    /// By a service it came back to who asked.
    is_own: bool,
}

/// Flows that would be cut or admitted by `state`, which holds the change.
pub fn flow_changes(mut state: State, regions: Vec<(Worker, OwnedFd)>) -> Result<Vec<FlowChange>, TrialError> {
    let pods = pod_names(&state);
    let (mut compiler, mut publisher) = (Compiler::new(), Publisher::create(1)?);
    // Nobody reads these tables.
    let Some(mut batch) = publisher.batch([]) else { return Ok(Vec::new()) };
    let report = compiler.update(&mut state, &mut batch);
    batch.publish();
    if let Some(problem) = report.problems.first() {
        return Err(TrialError::Problem(problem.to_string()));
    }
    let named = |index: u32| compiler.policy_name(index);
    let mut changes = Vec::new();
    for (_, fd) in regions {
        let region = Region::attach(fd, Access::ReadOnly)?;
        changes.extend(flow::list(&region)?.filter_map(|record| change(&publisher.live(), &record, &pods, &named)));
    }
    changes.sort_by(|a: &FlowChange, b| {
        (&a.change, &a.source, &a.destination).cmp(&(&b.change, &b.source, &b.destination))
    });
    Ok(changes)
}

fn pod_names(state: &State) -> HashMap<Addr, String> {
    let pods = state.pods().flat_map(|(id, pod)| pod.addrs.iter().map(move |addr| (*addr, id.to_string())));
    let here = state.local().endpoints.values();
    let attached = here.flat_map(|endpoint| endpoint.addrs.iter().map(|addr| (*addr, endpoint.pod.to_string())));
    pods.chain(attached).collect()
}

fn change(
    view: &View,
    record: &FlowRecord,
    pods: &HashMap<Addr, String>,
    named: &impl Fn(u32) -> Option<String>,
) -> Option<FlowChange> {
    let judged: Vec<(Half, Judged)> =
        halves(record).into_iter().flatten().filter_map(|half| Some((half, judge_half(view, &half)?))).collect();
    let denied = judged.iter().find(|(_, judged)| !judged.allowed());
    let what = match (is_cut(record), denied) {
        (false, Some(_)) => "cut",
        (true, None) if !judged.is_empty() => "admitted",
        _ => return None,
    };
    let (half, judged) = denied.or(judged.first())?;
    let [source, destination] = ends(record);
    let pod = |(addr, _): (Addr, u16)| pods.get(&addr).cloned();
    Some(FlowChange {
        change: what.to_owned(),
        protocol: record.inside.protocol.to_string(),
        source_pod: pod(source),
        destination_pod: pod(destination),
        source: endpoint_text(source.0, source.1),
        destination: endpoint_text(destination.0, destination.1),
        policy: judged.policy().and_then(named),
        rule: judged.rule().map(|rule| format!("{}[{rule}]", half.direction.name())),
        direction: half.direction.name().to_owned(),
        packets: record.packets,
    })
}

/// Who opened it, and whom the network sees him ask.
fn ends(record: &FlowRecord) -> [(Addr, u16); 2] {
    let (inside, outside) = (record.inside, record.outside());
    let [local, remote] = [(inside.local, inside.local_port), (outside.remote, outside.remote_port)];
    if record.flags & FLAG_OPENED_LOCALLY != 0 { [local, remote] } else { [remote, local] }
}

/// The policy that would keep a flow away and is only being tried, and the flow's ends.
pub fn audited(view: &View, record: &FlowRecord) -> Option<(u32, [(Addr, u16); 2])> {
    let judged = halves(record).into_iter().flatten().filter_map(|half| judge_half(view, &half));
    let policy = judged.into_iter().find(|judged| judged.is_audit())?.policy()?;
    Some((policy, ends(record)))
}

/// A policy keeps it from going on.
fn is_cut(record: &FlowRecord) -> bool {
    let reasons = [DropReason::PolicyIngress, DropReason::PolicyEgress];
    record.out.kind() == HopKind::Drop
        && reasons.contains(&DropReason::from_index(record.out.reason as usize).unwrap_or(DropReason::NoFlow))
}

/// What of a flow is judged where this record is kept: its local end, and behind a masquerade also a backend of this node by
/// who really asks it.
fn halves(record: &FlowRecord) -> [Option<Half>; 2] {
    let (inside, outside) = (record.inside, record.outside());
    let protocol = inside.protocol;
    if record.flags & FLAG_OPENED_LOCALLY == 0 {
        let (pod, peer, port) = (inside.local, inside.remote, inside.local_port);
        return [Some(Half { pod, direction: Direction::Ingress, peer, protocol, port, is_own: false }), None];
    }
    let (peer, port) = (outside.remote, outside.remote_port);
    let is_own = peer == inside.local;
    let own = Half { pod: inside.local, direction: Direction::Egress, peer, protocol, port, is_own };
    let direction = Direction::Ingress;
    let backend = Half { pod: peer, direction, peer: inside.local, protocol, port, is_own };
    let is_masqueraded = outside.local != inside.local;
    [(record.flags & FLAG_CLIENT == 0).then_some(own), is_masqueraded.then_some(backend)]
}

/// None where policies have no say: no pod of this node, or one that speaks to itself.
fn judge_half(view: &View, half: &Half) -> Option<Judged> {
    let endpoint: EndpointRecord = view.find(Table::Endpoint, &half.pod)?;
    if endpoint.kind() != Some(EndpointKind::Pod) || half.pod == half.peer && !half.is_own {
        return None;
    }
    let identity = judge::identity(view, half.peer);
    let judged = judge::judge(view, endpoint.policy_set, half.direction, identity, half.protocol, half.port);
    Some(if half.is_own { judged.of_itself() } else { judged })
}

#[cfg(test)]
#[path = "trial_tests.rs"]
mod tests;
