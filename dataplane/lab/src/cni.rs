//! Runs `fairway-cni` as a container runtime does: CNI 1.1 environment, JSON on standard input.
//!
//! Source: the CNI specification, "Section 2: Execution Protocol" and "Section 5: Result Types".

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::netns::Netns;
use crate::shell::{Cmd, Ran};

/// The name of the interface that the runtime asks for inside a pod.
pub const POD_INTERFACE: &str = "eth0";

/// The plugin on one node.
#[derive(Clone, Debug)]
pub struct Plugin {
    pub program: PathBuf,
    /// The network that the runtime itself lives in.
    pub netns: Netns,
    pub run_dir: PathBuf,
}

/// The container that the runtime attaches.
#[derive(Clone, Debug)]
pub struct Container {
    pub namespace: String,
    pub name: String,
    pub netns: Netns,
}

/// What ADD answered.
#[derive(Clone, Debug)]
pub struct Attachment {
    pub addresses: Vec<IpAddr>,
    /// The result as it came; the runtime gives it back to CHECK and DEL.
    pub result: Value,
}

#[derive(Deserialize)]
struct AddResult {
    ips: Vec<AssignedIp>,
}

#[derive(Deserialize)]
struct AssignedIp {
    address: String,
}

impl Plugin {
    pub fn add(&self, container: &Container) -> Result<Attachment> {
        let ran = self.call("ADD", container, None)?;
        let result: Value =
            serde_json::from_str(&ran.stdout).with_context(|| format!("ADD answered: {}", ran.stdout))?;
        let parsed: AddResult =
            serde_json::from_value(result.clone()).with_context(|| format!("ADD answered: {result}"))?;
        let addresses = parsed.ips.iter().map(|ip| address_of(&ip.address)).collect::<Result<Vec<_>>>()?;
        if addresses.is_empty() {
            bail!("ADD of {} gave no address: {result}", container.name);
        }
        Ok(Attachment { addresses, result })
    }

    pub fn del(&self, container: &Container, previous: Option<&Value>) -> Result<()> {
        self.call("DEL", container, previous).map(|_| ())
    }

    pub fn check(&self, container: &Container, previous: &Value) -> Result<()> {
        self.call("CHECK", container, Some(previous)).map(|_| ())
    }

    /// The versions that the plugin says it speaks.
    pub fn versions(&self) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Versions {
            supported_versions: Vec<String>,
        }
        let ran = self.command("VERSION").stdin(json!({"cniVersion": "1.0.0"})).ok()?;
        let versions: Versions =
            serde_json::from_str(&ran.stdout).with_context(|| format!("VERSION answered: {}", ran.stdout))?;
        Ok(versions.supported_versions)
    }

    fn call(&self, verb: &str, container: &Container, previous: Option<&Value>) -> Result<Ran> {
        let ran = self
            .command(verb)
            .env("CNI_CONTAINERID", container.netns.name())
            .env("CNI_NETNS", container.netns.path())
            .env("CNI_ARGS", arguments(container))
            .stdin(self.configuration(previous))
            .run()?;
        if !ran.succeeded() {
            bail!("fairway-cni {verb} for {} failed: {} {}", container.name, ran.stdout.trim(), ran.stderr.trim());
        }
        Ok(ran)
    }

    fn command(&self, verb: &str) -> Cmd {
        let path = self.program.parent().map(|path| path.display().to_string()).unwrap_or_default();
        Cmd::new(&self.program)
            .netns(&self.netns)
            .env("CNI_COMMAND", verb)
            .env("CNI_IFNAME", POD_INTERFACE)
            .env("CNI_PATH", path)
    }

    fn configuration(&self, previous: Option<&Value>) -> Value {
        let mut configuration =
            json!({"cniVersion": "1.0.0", "name": "fairway", "type": "fairway-cni", "runDir": self.run_dir});
        if let Some(previous) = previous {
            configuration["prevResult"] = previous.clone();
        }
        configuration
    }
}

fn arguments(container: &Container) -> String {
    let Container { namespace, name, netns } = container;
    let sandbox = netns.name();
    format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID={sandbox}")
}

fn address_of(cidr: &str) -> Result<IpAddr> {
    let address = cidr.split('/').next().unwrap_or(cidr);
    address.parse().with_context(|| format!("ADD gave `{cidr}`, which is no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_with_its_prefix() {
        assert_eq!(address_of("10.244.1.4/24").unwrap(), "10.244.1.4".parse::<IpAddr>().unwrap());
        assert_eq!(address_of("fd00::4/64").unwrap(), "fd00::4".parse::<IpAddr>().unwrap());
        assert!(address_of("eth0").is_err());
    }
}
