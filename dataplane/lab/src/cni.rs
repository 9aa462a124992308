//! Runs `fairway-cni` as a runtime of Kubernetes does for its pods: a network of this plugin alone (see [`crate::chain`]).

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::chain::{Chain, Sandbox};
use crate::netns::Netns;

/// Its name as a program.
pub const PLUGIN: &str = "fairway-cni";

/// The name of the interface that the runtime asks for inside a pod.
pub const POD_INTERFACE: &str = "eth0";

/// The plugin on one node.
#[derive(Clone, Debug)]
pub struct Plugin {
    /// Where its program lies.
    pub directory: PathBuf,
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
        let result = self.chain().add(&container.sandbox())?;
        let parsed: AddResult =
            serde_json::from_value(result.clone()).with_context(|| format!("ADD answered: {result}"))?;
        let addresses = parsed.ips.iter().map(|ip| address_of(&ip.address)).collect::<Result<Vec<_>>>()?;
        if addresses.is_empty() {
            bail!("ADD of {} gave no address: {result}", container.name);
        }
        Ok(Attachment { addresses, result })
    }

    pub fn del(&self, container: &Container, previous: Option<&Value>) -> Result<()> {
        self.chain().del(&container.sandbox(), previous)
    }

    pub fn check(&self, container: &Container, previous: &Value) -> Result<()> {
        self.chain().check(&container.sandbox(), previous)
    }

    /// The versions that the plugin says it speaks.
    pub fn versions(&self) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Versions {
            supported_versions: Vec<String>,
        }
        let ran = self.chain().command("VERSION", PLUGIN, None)?.stdin(json!({"cniVersion": "1.0.0"})).ok()?;
        let versions: Versions =
            serde_json::from_str(&ran.stdout).with_context(|| format!("VERSION answered: {}", ran.stdout))?;
        Ok(versions.supported_versions)
    }

    /// A network of this plugin alone.
    fn chain(&self) -> Chain {
        Chain {
            name: "fairway".into(),
            version: "1.0.0".into(),
            plugins: vec![json!({"type": PLUGIN, "runDir": self.run_dir})],
            path: vec![self.directory.clone()],
            netns: self.netns.clone(),
        }
    }
}

impl Container {
    fn sandbox(&self) -> Sandbox {
        Sandbox { arguments: arguments(self), ..Sandbox::plain(&self.netns) }
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
