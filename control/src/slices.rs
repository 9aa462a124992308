//! Which backends serve a service port: from the EndpointSlices of the service, or, where there are none, from its
//! selector and the pods, as the upstream EndpointSlice controller would derive them. Pure.

use crate::object::{EndpointSlice, Pod, Service, ServicePort, TargetPort};
use crate::state::State;
use tables::Addr;

/// A possible backend and what is known about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    addr: Addr,
    port: u16,
    ready: bool,
    serving: bool,
    terminating: bool,
}

/// The backends of `port` in the family of `v4`, sorted, without duplicates: the ready ones, or, if none is, those that
/// still serve while they terminate (KEP-1669).
pub fn backends(state: &State, service: &Service, port: &ServicePort, v4: bool) -> Vec<(Addr, u16)> {
    let candidates = match state.slices_of(&service.id) {
        Some(slices) => from_slices(slices, port, v4),
        None => from_pods(state, service, port, v4),
    };
    let chosen = |wanted: fn(&Candidate) -> bool| {
        let mut chosen: Vec<_> = candidates.iter().filter(|c| wanted(c)).map(|c| (c.addr, c.port)).collect();
        chosen.sort_unstable();
        chosen.dedup();
        chosen
    };
    let ready = chosen(|c| c.ready);
    if ready.is_empty() { chosen(|c| c.serving && c.terminating) } else { ready }
}

fn from_slices<'a>(slices: impl Iterator<Item = &'a EndpointSlice>, port: &ServicePort, v4: bool) -> Vec<Candidate> {
    let mut all = Vec::new();
    for slice in slices {
        let Some(target) = slice.ports.iter().find(|p| p.name == port.name && p.protocol == port.protocol) else {
            continue;
        };
        all.extend(slice.endpoints.iter().filter(|e| e.addr.is_v4() == v4).map(|e| Candidate {
            addr: e.addr,
            port: target.port,
            ready: e.ready,
            serving: e.serving,
            terminating: e.terminating,
        }));
    }
    all
}

fn from_pods(state: &State, service: &Service, port: &ServicePort, v4: bool) -> Vec<Candidate> {
    if service.selector.is_empty() {
        return Vec::new();
    }
    let pods = state.pods_with(&service.id.namespace, &service.selector);
    pods.filter_map(|pod| {
        let addr = state.addrs_of(pod).into_iter().find(|addr| addr.is_v4() == v4)?;
        let port = target(pod, port)?;
        let serving = pod.ready || service.publish_not_ready;
        let ready = service.publish_not_ready || pod.ready && !pod.terminating;
        Some(Candidate { addr, port, ready, serving, terminating: pod.terminating })
    })
    .collect()
}

/// The number behind a service port's target on this pod.
fn target(pod: &Pod, port: &ServicePort) -> Option<u16> {
    match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => {
            pod.ports.iter().find(|p| p.name == *name && p.protocol == port.protocol).map(|p| p.port)
        }
    }
}
