//! The plugin `loopback`, which container runtimes call for each pod before its network: by that name the same program brings
//! the pod's `lo` up. Nodes have it from kubelet's packages or from nobody, and `fairway install-cni` puts it where there is
//! none. It must know nothing of control: pods on other networks are given it, too.
//!
//! Source: containernetworking/plugins, `plugins/main/loopback`, for what a runtime is answered.

use super::configuration::Configuration;
use super::{Environment, Outcome, VERSION_UNKNOWN, answer, variable, versions};
use crate::api::{Failure, code};
use crate::pod::{self, PodError};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// By this name a runtime asks for it.
pub const NAME: &str = "loopback";

/// Runs the plugin once.
pub fn run(environment: &Environment, stdin: &str) -> Outcome {
    let mut version = VERSION_UNKNOWN.to_owned();
    let outcome = execute(environment, stdin, &mut version);
    answer(version, outcome)
}

fn execute(environment: &Environment, stdin: &str, version: &mut String) -> Result<Option<Value>, Failure> {
    let command = variable(environment, "CNI_COMMAND")?;
    if command == "VERSION" {
        return Ok(Some(versions(stdin)));
    }
    let configuration = Configuration::parse(stdin)?;
    version.clone_from(&configuration.cni_version);
    match command {
        "ADD" => {
            let netns = PathBuf::from(variable(environment, "CNI_NETNS")?);
            in_pod(pod::bring_loopback_up(netns.clone()))?;
            Ok(Some(configuration.prev_result.unwrap_or_else(|| result(version, &netns))))
        }
        "CHECK" => in_pod(pod::check_loopback(variable(environment, "CNI_NETNS")?.into())).map(|()| None),
        // The interface goes with its namespace.
        _ => Ok(None),
    }
}

fn in_pod(work: impl Future<Output = Result<(), PodError>>) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(code::FAILED, error);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| failed(&error))?.block_on(work).map_err(|error| failed(&error))
}

fn result(version: &str, netns: &Path) -> Value {
    let ip = |address: &str, family: &str| {
        let mut ip = json!({"address": address, "interface": 0});
        if version.starts_with("0.") {
            ip["version"] = json!(family);
        }
        ip
    };
    let interface = json!({"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": netns});
    json!({"cniVersion": version, "interfaces": [interface], "ips": [ip("127.0.0.1/8", "4"), ip("::1/128", "6")], "dns": {}})
}
