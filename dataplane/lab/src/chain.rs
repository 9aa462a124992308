//! Calls a list of CNI plugins as libcni does: one after another, each given what those before it made.
//!
//! Sources: the CNI specification 1.1, "Section 3: Execution of Network Configurations"; CONVENTIONS.md (capabilities). It
//! knows no plugin by name.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::cni::POD_INTERFACE;
use crate::netns::Netns;
use crate::shell::{Cmd, Ran};

/// A network, as a `.conflist` file describes it.
#[derive(Clone, Debug)]
pub struct Chain {
    pub name: String,
    pub version: String,
    pub plugins: Vec<Value>,
    /// Where plugins lie.
    pub path: Vec<PathBuf>,
    /// The network that the runtime itself lives in.
    pub netns: Netns,
}

/// A container as its runtime names it.
#[derive(Clone, Debug, Default)]
pub struct Sandbox {
    pub id: String,
    /// Empty where it is gone.
    pub netns: String,
    pub arguments: String,
    /// `runtimeConfig` by capability.
    pub capabilities: Value,
}

/// Code and sentence of a plugin that failed.
#[derive(Debug, thiserror::Error)]
#[error("{plugin} {verb} failed: {code} {sentence}")]
pub struct PluginError {
    pub plugin: String,
    pub verb: String,
    pub code: u64,
    pub sentence: String,
}

impl Sandbox {
    /// A container that is no pod of Kubernetes.
    pub fn plain(netns: &Netns) -> Sandbox {
        Sandbox { id: netns.name().to_string(), netns: netns.path(), ..Sandbox::default() }
    }

    /// The same without its namespace.
    pub fn gone(&self) -> Sandbox {
        Sandbox { netns: String::new(), ..self.clone() }
    }
}

impl Chain {
    pub fn add(&self, sandbox: &Sandbox) -> Result<Value> {
        let mut result = None;
        for plugin in &self.plugins {
            let ran = self.call("ADD", plugin, Some(sandbox), self.stdin(plugin, sandbox, result.as_ref()))?;
            let made = serde_json::from_str(&ran.stdout).with_context(|| format!("ADD answered: {}", ran.stdout))?;
            result = Some(made);
        }
        result.context("a network has a plugin")
    }

    pub fn check(&self, sandbox: &Sandbox, result: &Value) -> Result<()> {
        let mut plugins = self.plugins.iter();
        plugins.try_for_each(|plugin| {
            self.call("CHECK", plugin, Some(sandbox), self.stdin(plugin, sandbox, Some(result))).map(drop)
        })
    }

    /// The last plugin first; without a result where the runtime has none.
    pub fn del(&self, sandbox: &Sandbox, result: Option<&Value>) -> Result<()> {
        let mut plugins = self.plugins.iter().rev();
        plugins.try_for_each(|plugin| {
            self.call("DEL", plugin, Some(sandbox), self.stdin(plugin, sandbox, result)).map(drop)
        })
    }

    pub fn gc(&self, valid: &[&Sandbox]) -> Result<()> {
        let valid: Vec<Value> =
            valid.iter().map(|sandbox| json!({"containerID": sandbox.id, "ifname": POD_INTERFACE})).collect();
        self.for_all("GC", |stdin| stdin["cni.dev/valid-attachments"] = json!(valid))
    }

    pub fn status(&self) -> Result<()> {
        self.for_all("STATUS", |_| {})
    }

    fn for_all(&self, verb: &str, more: impl Fn(&mut Value)) -> Result<()> {
        self.plugins.iter().try_for_each(|plugin| {
            let mut stdin = self.stdin(plugin, &Sandbox::default(), None);
            more(&mut stdin);
            self.call(verb, plugin, None, stdin).map(drop)
        })
    }

    /// The plugin's own configuration, the network's, what was made before, and what the plugin can do of what is asked.
    pub fn stdin(&self, plugin: &Value, sandbox: &Sandbox, result: Option<&Value>) -> Value {
        let mut stdin = plugin.clone();
        stdin["name"] = json!(self.name);
        stdin["cniVersion"] = json!(self.version);
        let asked = sandbox.capabilities.as_object().into_iter().flatten();
        let able = asked.filter(|(name, _)| plugin["capabilities"][name.as_str()] == true);
        let able: serde_json::Map<String, Value> = able.map(|(name, value)| (name.clone(), value.clone())).collect();
        if !able.is_empty() {
            stdin["runtimeConfig"] = Value::Object(able);
        }
        result.into_iter().for_each(|result| stdin["prevResult"] = result.clone());
        stdin
    }

    fn call(&self, verb: &str, plugin: &Value, sandbox: Option<&Sandbox>, stdin: Value) -> Result<Ran> {
        let name = plugin["type"].as_str().context("a plugin has a type")?;
        let ran = self.command(verb, name, sandbox)?.stdin(stdin).run()?;
        if ran.succeeded() {
            return Ok(ran);
        }
        let error: Value = serde_json::from_str(&ran.stdout).unwrap_or_default();
        let code = error["code"].as_u64().with_context(|| format!("{name} {verb} failed: {}", ran.complaint()))?;
        let sentence = error["msg"].as_str().unwrap_or_default().to_string();
        Err(PluginError { plugin: name.into(), verb: verb.into(), code, sentence }.into())
    }

    /// As it is called for a sandbox.
    pub fn command(&self, verb: &str, plugin: &str, sandbox: Option<&Sandbox>) -> Result<Cmd> {
        let is_there = |path: &&PathBuf| path.join(plugin).is_file();
        let directory = self.path.iter().find(is_there).with_context(|| format!("there is no plugin {plugin}"))?;
        let path: Vec<String> = self.path.iter().map(|path| path.display().to_string()).collect();
        let mut command = Cmd::new(directory.join(plugin))
            .netns(&self.netns)
            .env("CNI_COMMAND", verb)
            .env("CNI_PATH", path.join(":"));
        if let Some(sandbox) = sandbox {
            command = command
                .env("CNI_CONTAINERID", &sandbox.id)
                .env("CNI_IFNAME", POD_INTERFACE)
                .env("CNI_NETNS", &sandbox.netns)
                .env("CNI_ARGS", &sandbox.arguments);
        }
        Ok(command)
    }
}

/// The code that a plugin failed with.
pub fn code_of<T>(outcome: Result<T>) -> Option<u64> {
    outcome.err()?.downcast_ref::<PluginError>().map(|error| error.code)
}

/// Puts a plugin that only passes on what it was given, and notes in a file what it was called for, into a directory.
pub fn write_noop(directory: &Path, agent: &Path) -> Result<PathBuf> {
    let (plugin, calls) = (directory.join("noop"), directory.join("noop.calls"));
    let script = format!("#!/bin/sh\nexec '{}' noop --calls '{}'\n", agent.display(), calls.display());
    std::fs::write(&plugin, script)?;
    std::fs::set_permissions(&plugin, std::fs::Permissions::from_mode(0o755))?;
    Ok(calls)
}
