//! One pod: a namespace that `fairway-cni` attached, with a small server inside.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::addressing::host_part;
use crate::agent::serve::{ECHO_PORT, HTTP_PORT};
use crate::binaries::Binaries;
use crate::cni::{Attachment, Container, POD_INTERFACE};
use crate::manifests::{self, NAMESPACE, PodSpec};
use crate::netns::Netns;
use crate::process::Process;
use crate::shell::Cmd;
use crate::wait;

/// An attached pod.
#[derive(Debug)]
pub struct Pod {
    name: String,
    /// Index of its node.
    pub node: usize,
    labels: Vec<(String, String)>,
    container: Container,
    attachment: Attachment,
    server: Option<Process>,
}

/// What a pod keeps while Fairway's processes come and go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// What `ip` says of the interface: index, MAC, MTU and addresses.
    pub interface: String,
}

impl Pod {
    pub fn new(name: &str, node: usize, labels: &[(&str, &str)], netns: Netns, attachment: Attachment) -> Self {
        let labels = labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        let container = container(name, netns);
        Pod { name: name.to_string(), node, labels, container, attachment, server: None }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// `namespace/name`
    pub fn full_name(&self) -> String {
        format!("{NAMESPACE}/{}", self.name)
    }

    pub fn netns(&self) -> &Netns {
        &self.container.netns
    }

    pub fn container(&self) -> &Container {
        &self.container
    }

    pub fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// Its first address.
    pub fn address(&self) -> IpAddr {
        self.attachment.addresses[0]
    }

    pub fn addresses(&self) -> &[IpAddr] {
        &self.attachment.addresses
    }

    pub fn url(&self) -> String {
        format!("http://{}:{HTTP_PORT}/", host_part(self.address()))
    }

    pub fn echo(&self) -> String {
        format!("{}:{ECHO_PORT}", host_part(self.address()))
    }

    pub fn manifest(&self, node: &str) -> String {
        let addresses = &self.attachment.addresses;
        manifests::pod(&PodSpec { name: &self.name, node, labels: &self.labels, addresses })
    }

    pub fn start_server(&mut self, binaries: &Binaries, lab: &Path) -> Result<()> {
        self.server = Some(serve(&self.name, self.netns(), binaries, lab)?);
        Ok(())
    }

    pub fn kill_server(&mut self) -> Result<()> {
        self.server.take().context("the pod's server does not run")?.kill()
    }

    pub fn identity(&self) -> Result<Identity> {
        let interface = self.netns().ip(&format!("-o address show dev {POD_INTERFACE}"))?.stdout;
        let link = self.netns().ip(&format!("-o link show dev {POD_INTERFACE}"))?.stdout;
        // Only what the pod is known by: flags and queue state may change.
        let mac = link.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap_or_default();
        Ok(Identity { interface: format!("{mac} {}", interface.trim()) })
    }
}

pub fn container(name: &str, netns: Netns) -> Container {
    Container { namespace: NAMESPACE.to_string(), name: name.to_string(), netns }
}

/// Starts the small server in a namespace and waits until it listens.
pub fn serve(name: &str, netns: &Netns, binaries: &Binaries, lab: &Path) -> Result<Process> {
    let command = Cmd::new(binaries.agent()).netns(netns).args(["serve", "--name", name]);
    let mut server = Process::spawn(&format!("server-{name}"), &command, lab)?;
    let listening = wait::until(Duration::from_secs(5), || {
        let sockets = Cmd::line("ss -Hltn").netns(netns).ok();
        sockets.is_ok_and(|ran| ran.stdout.contains(&format!(":{HTTP_PORT} ")))
    });
    server.still_running()?;
    anyhow::ensure!(listening, "the server of {name} does not listen: {}", server.log_end());
    Ok(server)
}
