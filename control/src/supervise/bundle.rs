//! `fairway bundle`: everything that the read commands show, the tables and the flows, in one file. What changes is taken at
//! once, between two events; compressing it and writing the file is done beside the loop.

use super::Supervisor;
use crate::api::{Failure, Reply, code};
use crate::explain::{Directory, Names};
use crate::flows;
use crate::listing::{BundleView, FlowView};
use crate::object::Named;
use crate::serve::ReplyTo;
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use tables::bundle::{About, Writer};
use tables::image;
use tables::layout::LAYOUT_VERSION;
use tables::message::InterfaceInfo;
use tables::owner::Worker;

/// All that goes into a bundle but the flows, which are read where there is time.
struct Contents {
    about: About,
    names: Names,
    listings: Vec<(&'static str, Value)>,
    tables: Vec<u8>,
    flow_names: flows::Names,
    flows: Vec<(Worker, OwnedFd)>,
}

impl Supervisor {
    pub(super) fn answer_bundle(&self, path: PathBuf, reply: ReplyTo) {
        let contents = self.contents();
        std::thread::spawn(move || {
            let made = contents.and_then(|contents| write(contents, &path));
            let failed = |error| Failure::new(code::FAILED, format!("cannot write {}: {error}", path.display()));
            let _ = reply.send(Reply::of(made.map_err(failed)));
        });
    }

    fn contents(&self) -> io::Result<Contents> {
        Ok(Contents {
            about: self.about(),
            names: self.names(),
            listings: self.listings()?,
            tables: image::of(self.publisher.region().fd())?,
            flow_names: self.flow_names(),
            flows: self.flow_regions()?,
        })
    }

    fn about(&self) -> About {
        let made = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        About {
            layout_version: LAYOUT_VERSION,
            node: self.args.node.clone(),
            made_ms: made.as_millis() as u64,
            workers: self.dataplane.as_ref().map_or(1, |dataplane| dataplane.status.workers() as u16),
            snat: self.dataplane.as_ref().map(|dataplane| dataplane.snat),
            interfaces: Directory::interfaces(self),
        }
    }

    fn names(&self) -> Names {
        let services = self.state.services().map(|service| (service.id.to_string(), service.cluster_ips.clone()));
        let pods = self.state.pods().map(|(id, pod)| (id.to_string(), pod.addrs.clone()));
        let attached = self.store.iter().map(|a| (a.pod_id().to_string(), a.addrs.clone()));
        let known = services.chain(pods).chain(attached).filter(|(_, addrs)| !addrs.is_empty());
        let policies = self.compiler.policies(&self.state).into_iter();
        Names {
            addrs: known.collect(),
            pods: self.store.iter().map(|a| (a.key(), a.pod_id().to_string())).collect(),
            own_addrs: self.own_addrs(),
            policies: policies.filter_map(|p| Some((p.index?, p.shown()))).collect(),
            services: self.compiler.service_names().collect(),
            nodes: self.state.nodes.values().map(|node| (node.name.clone(), node.addrs.clone())).collect(),
        }
    }

    /// By the names that `cli::source` asks for.
    fn listings(&self) -> io::Result<Vec<(&'static str, Value)>> {
        let mut listings = vec![
            ("status", serde_json::to_value(self.status_view())?),
            ("interfaces", serde_json::to_value(self.interface_views())?),
            ("endpoints", serde_json::to_value(self.endpoint_views())?),
            ("services", serde_json::to_value(self.service_views())?),
            ("addresses", serde_json::to_value(self.address_views())?),
            ("policies", serde_json::to_value(self.policy_views())?),
            ("routes", serde_json::to_value(self.route_views())?),
            ("drops", serde_json::to_value(self.drop_views())?),
        ];
        if self.dataplane.is_some() {
            listings.push(("runtime", serde_json::to_value(self.runtime_view())?));
        }
        Ok(listings)
    }

    pub(super) fn flow_regions(&self) -> io::Result<Vec<(Worker, OwnedFd)>> {
        self.custody.flows.iter().map(|(worker, fd)| Ok((*worker, fd.try_clone()?))).collect()
    }
}

impl Directory for Supervisor {
    fn addrs_of(&self, id: &Named) -> Vec<tables::Addr> {
        let attached = self.store.iter().find(|attachment| attachment.pod_id() == *id);
        let found = attached.map(|attachment| &attachment.addrs);
        let found = found.or_else(|| self.state.pod(id).map(|pod| &pod.addrs).filter(|addrs| !addrs.is_empty()));
        let found = found.or_else(|| self.state.service(id).map(|service| &service.cluster_ips));
        found.cloned().unwrap_or_default()
    }

    fn interfaces(&self) -> Vec<InterfaceInfo> {
        self.dataplane.iter().flat_map(|dataplane| dataplane.interfaces.values().cloned()).collect()
    }

    fn pod_at(&self, interface: &str) -> Option<String> {
        self.store.get(interface).map(|attachment| attachment.pod_id().to_string())
    }

    fn own_addrs(&self) -> Vec<tables::Addr> {
        let local = self.state.local();
        local.host.iter().chain(&local.addrs).copied().collect()
    }

    fn policy_name(&self, index: u32) -> Option<String> {
        self.compiler.policy_name(index)
    }

    fn rule_name(&self, policy: u32, rule: &str) -> Option<String> {
        self.compiler.rule_name(&self.state, policy, rule)
    }

    fn service_name(&self, id: u32) -> Option<String> {
        self.compiler.service_name(id)
    }

    fn node_with(&self, addr: tables::Addr) -> Option<String> {
        self.state.nodes.values().find(|node| node.addrs.contains(&addr)).map(|node| node.name.clone())
    }
}

/// Writes the file beside its name, and gives it that when it is whole.
fn write(contents: Contents, path: &Path) -> io::Result<BundleView> {
    let partial = path.with_extension("partial");
    let written = write_to(contents, &partial).and_then(|()| std::fs::rename(&partial, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    written?;
    Ok(BundleView { file: path.to_owned(), bytes: std::fs::metadata(path)?.len() })
}

fn write_to(contents: Contents, path: &Path) -> io::Result<()> {
    let out: File = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let mut writer = Writer::new(out, &contents.about)?;
    writer.json("names", &contents.names)?;
    for (name, listing) in &contents.listings {
        writer.json(&format!("listings/{name}"), listing)?;
    }
    let copies = contents.flows.iter().map(|(worker, fd)| Ok((*worker, fd.try_clone()?)));
    let listed: Vec<FlowView> =
        flows::list(copies.collect::<io::Result<_>>()?, &contents.flow_names).map_err(io::Error::other)?;
    writer.json("listings/flows", &listed)?;
    writer.image("tables", &contents.tables)?;
    for (worker, fd) in &contents.flows {
        writer.image(&format!("flows/{worker}"), &image::of(fd.as_fd())?)?;
    }
    writer.finish()?.sync_all()
}
