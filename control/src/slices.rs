//! Which endpoints a service port has: from the EndpointSlices of the service, or, where there are none, from its
//! selector and the pods, as the upstream EndpointSlice controller would derive them; and which of them this node may
//! use. Pure.

use crate::object::{Distribution, EndpointSlice, Pod, Service, ServicePort, SliceEndpoint, TargetPort, TrafficPolicy};
use crate::state::{Local, Source, State};
use crate::topology::{self, Candidate, Hint, Usable, Uses};
use std::collections::BTreeSet;
use std::sync::Arc;
use tables::Addr;

/// What this node may use for `port` in the family of `v4`.
pub fn usable(state: &State, source: Source, port: &ServicePort, v4: bool) -> Usable {
    topology::usable(&candidates(state, source, port, v4), uses(state.local(), source.service, port, v4))
}

/// Clients outside need the cluster's list, too: this node's pods and the node itself are served by it.
fn uses(local: &Local, service: &Service, port: &ServicePort, v4: bool) -> Uses {
    let is_own = |addr: &Addr| addr.is_v4() == v4;
    let is_external = port.node_port.is_some()
        || service.load_balancer_ips.iter().any(is_own)
        || external_ips(local, service).any(|addr| is_own(&addr));
    let internal_local = service.internal_policy == TrafficPolicy::Local;
    Uses {
        cluster: !internal_local || is_external,
        local: internal_local || service.external_policy == TrafficPolicy::Local && is_external,
        local_alone: internal_local,
    }
}

/// The external addresses that this node was told to allow.
pub fn external_ips(local: &Local, service: &Service) -> impl Iterator<Item = Addr> {
    let allowed = |addr: &Addr| local.services.external_ip_ranges.iter().any(|range| range.contains(*addr));
    service.external_ips.iter().copied().filter(allowed)
}

/// Ready endpoints of any port on this node, counted once, as health checks tell them.
pub fn local_ready(state: &State, source: Source) -> usize {
    let mut addrs = [BTreeSet::new(), BTreeSet::new()];
    for port in &source.service.ports {
        for v4 in [true, false] {
            let here = candidates(state, source, port, v4).into_iter().filter(|c| c.ready && c.is_local);
            addrs[!v4 as usize].extend(here.map(|c| c.backend.0));
        }
    }
    // A pod of two families is one endpoint.
    addrs.iter().map(BTreeSet::len).max().unwrap_or(0)
}

/// The nodes that have endpoints for clients outside under policy Local, of any port: as each of them decides it for
/// itself, ready ones before those that serve while they terminate.
pub fn serving_nodes(state: &State, Source { service, slices }: Source) -> BTreeSet<String> {
    let mut ready = BTreeSet::new();
    let mut draining = BTreeSet::new();
    match slices {
        [] if service.selector.is_empty() => {}
        [_, ..] => slices.iter().flat_map(|slice| &slice.endpoints).for_each(|e| {
            let to = if e.ready { Some(&mut ready) } else { (e.serving && e.terminating).then_some(&mut draining) };
            to.into_iter().for_each(|to| to.extend(e.node.clone()));
        }),
        [] => state.pods_with(&service.id.namespace, &service.selector).filter(|pod| !pod.finished).for_each(|pod| {
            let is_ready = service.publish_not_ready || pod.ready && !pod.terminating;
            let drains = pod.terminating && pod.ready;
            let to = if is_ready { Some(&mut ready) } else { drains.then_some(&mut draining) };
            let here = || state.is_here(pod).then_some(state.local().node.as_str());
            let node = pod.node.as_deref().or_else(here);
            to.into_iter().for_each(|to| to.extend(node.map(str::to_owned)));
        }),
    }
    ready.extend(draining);
    ready
}

fn candidates(state: &State, Source { service, slices }: Source, port: &ServicePort, v4: bool) -> Vec<Candidate> {
    match slices {
        [] => from_pods(state, service, port, v4),
        slices => from_slices(state, slices, port, v4),
    }
}

fn from_slices(state: &State, slices: &[Arc<EndpointSlice>], port: &ServicePort, v4: bool) -> Vec<Candidate> {
    let (node, zone) = (state.local().node.as_str(), state.zone());
    let mut all = Vec::with_capacity(slices.iter().map(|slice| slice.endpoints.len()).sum());
    for slice in slices {
        let Some(target) = slice.ports.iter().find(|p| p.name == port.name && p.protocol == port.protocol) else {
            continue;
        };
        let own = slice.endpoints.iter().filter(|e| e.addr.is_v4() == v4);
        all.extend(own.map(|e| candidate(e, target.port, node, zone)));
    }
    all
}

fn candidate(endpoint: &SliceEndpoint, port: u16, node: &str, zone: Option<&str>) -> Candidate {
    Candidate {
        backend: (endpoint.addr, port),
        ready: endpoint.ready,
        serving: endpoint.serving,
        terminating: endpoint.terminating,
        is_local: endpoint.node.as_deref() == Some(node),
        zone: hint(&endpoint.for_zones, zone),
        node: hint(&endpoint.for_nodes, Some(node)),
    }
}

fn hint(names: &[String], own: Option<&str>) -> Hint {
    match names {
        [] => Hint::NotSaid,
        names if names.iter().any(|name| Some(name.as_str()) == own) => Hint::This,
        _ => Hint::Others,
    }
}

fn from_pods(state: &State, service: &Service, port: &ServicePort, v4: bool) -> Vec<Candidate> {
    if service.selector.is_empty() {
        return Vec::new();
    }
    let pods = state.pods_with(&service.id.namespace, &service.selector);
    pods.filter_map(|pod| {
        let addr = state.addrs_of(pod).into_iter().find(|addr| addr.is_v4() == v4)?;
        let port = target(pod, port)?;
        let (zone, node) = hints_of(state, service, pod);
        Some(Candidate {
            backend: (addr, port),
            ready: service.publish_not_ready || pod.ready && !pod.terminating,
            serving: pod.ready || service.publish_not_ready,
            terminating: pod.terminating,
            is_local: state.is_here(pod),
            zone,
            node,
        })
    })
    .collect()
}

/// For its zone and its node: the hints that the controller would give a pod's endpoint.
fn hints_of(state: &State, service: &Service, pod: &Pod) -> (Hint, Hint) {
    if service.distribution == Distribution::Any {
        return (Hint::NotSaid, Hint::NotSaid);
    }
    let for_us = |is_ours| if is_ours { Hint::This } else { Hint::Others };
    let node = pod.node.as_deref();
    let zone = node.and_then(|name| state.node(name)?.zone.as_deref());
    let by_zone = zone.map_or(Hint::NotSaid, |zone| for_us(Some(zone) == state.zone()));
    let by_node = match (service.distribution, node) {
        (Distribution::SameNode, Some(_)) => for_us(state.is_here(pod)),
        _ => Hint::NotSaid,
    };
    (by_zone, by_node)
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
