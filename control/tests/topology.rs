//! Which endpoints a node may use for a service port, against expected behaviour as data, from upstream's rules:
//! `cases/topology/*.jsonl`, one case a line. A case has one `service`, its `endpoints`, a `node`, and the lists that are to
//! come out of them; null means that no policy asks for a list, which is not the same as an empty one.

use anyhow::{Context, Result, ensure};
use control::object::{EndpointSlice, Node, Object, ObjectChange, Service};
use control::slices;
use control::state::{Local, State};
use control::topology::Backend;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;

#[derive(Deserialize)]
struct Case {
    name: String,
    service: core::Service,
    endpoints: Vec<discovery::EndpointSlice>,
    node: CaseNode,
    expect: Expect,
}

#[derive(Deserialize)]
struct CaseNode {
    name: String,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize, Debug, PartialEq, Eq)]
struct Expect {
    cluster: Option<BTreeSet<SocketAddr>>,
    local: Option<BTreeSet<SocketAddr>>,
    all: BTreeSet<SocketAddr>,
    any: bool,
}

fn cases() -> Result<Vec<Case>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/topology");
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let text = std::fs::read_to_string(entry?.path())?;
        cases.extend(text.lines().map(serde_json::from_str).collect::<Result<Vec<Case>, _>>()?);
    }
    Ok(cases)
}

fn addrs(list: &[Backend]) -> BTreeSet<SocketAddr> {
    list.iter().map(|(addr, port)| SocketAddr::new(addr.ip(), *port)).collect()
}

/// What control makes of a case.
fn found(case: &Case) -> Result<Expect> {
    let service = Service::try_from(case.service.clone())?;
    let metadata =
        ObjectMeta { name: Some(case.node.name.clone()), labels: case.node.labels.clone(), ..ObjectMeta::default() };
    let node = Node::try_from(core::Node { metadata, ..core::Node::default() })?;
    let mut state = State::new();
    state.set_local(Local { node: case.node.name.clone(), ..Local::default() });
    let mut objects = vec![Object::Node(node), Object::Service(service.clone())];
    for slice in &case.endpoints {
        objects.push(Object::EndpointSlice(EndpointSlice::try_from(slice.clone())?));
    }
    objects.into_iter().for_each(|object| state.apply(ObjectChange::Put(object)));
    ensure!(service.ports.len() == 1 && service.families.iter().filter(|has| **has).count() == 1, "not one port");
    let source = state.source(&service.id).context("it is not there")?;
    let usable = slices::usable(&state, source, &service.ports[0], service.families[0]);
    let lists = [&usable.cluster, &usable.local];
    Ok(Expect {
        cluster: usable.cluster.as_deref().map(addrs),
        local: usable.local.as_deref().map(addrs),
        all: lists.into_iter().flatten().flat_map(|list| addrs(list)).collect(),
        any: usable.any,
    })
}

#[test]
fn every_case_comes_out_as_it_says() -> Result<()> {
    let cases = cases()?;
    assert_eq!(cases.len(), 41);
    for case in &cases {
        assert_eq!(found(case).with_context(|| case.name.clone())?, case.expect, "{}", case.name);
    }
    Ok(())
}
