//! The CNI plugin, a thin client of the control process: environment and standard input in, JSON out, as the CNI
//! specification 1.1 says ("Section 2: Execution Protocol", "Section 5: Result Types"). It must not touch the network
//! (`loopback`, another plugin, does).

pub mod configuration;
pub mod loopback;
mod result;

use crate::api::{self, ClientError, CniAttached, CniPod, CniWants, Failure, Request, code};
use configuration::Configuration;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Versions of the specification whose results this plugin writes.
pub const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// What an error is written in that has no version to go by: every runtime reads it.
const VERSION_UNKNOWN: &str = "1.0.0";

/// An error as the specification wants it on standard output.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ErrorResult {
    cni_version: String,
    code: u32,
    msg: String,
}

/// What to print and how to exit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub stdout: String,
    pub code: u8,
}

/// The `CNI_*` variables.
pub type Environment = BTreeMap<String, String>;

/// Runs the plugin once. `ask` reaches the control process.
pub fn run(
    environment: &Environment,
    stdin: &str,
    ask: impl Fn(&Configuration, Request) -> Result<Value, Failure>,
) -> Outcome {
    let mut version = VERSION_UNKNOWN.to_owned();
    let outcome = execute(environment, stdin, &mut version, ask);
    answer(version, outcome)
}

fn answer(version: String, outcome: Result<Option<Value>, Failure>) -> Outcome {
    match outcome {
        Ok(None) => Outcome { stdout: String::new(), code: 0 },
        Ok(Some(result)) => Outcome { stdout: format!("{result:#}\n"), code: 0 },
        Err(failure) => failed(version, failure),
    }
}

fn failed(cni_version: String, Failure { code, message }: Failure) -> Outcome {
    let error = json!(ErrorResult { cni_version, code, msg: message });
    Outcome { stdout: format!("{error:#}\n"), code: 1 }
}

/// There is no configuration to be read.
pub fn unreadable(error: &std::io::Error) -> Outcome {
    let message = format!("cannot read the configuration from standard input: {error}");
    failed(VERSION_UNKNOWN.to_owned(), Failure::new(code::IO, message))
}

/// Asks over the socket of the configured run directory.
pub fn ask(configuration: &Configuration, request: Request) -> Result<Value, Failure> {
    api::ask(&configuration.run_dir, &request).map_err(|error| match error {
        ClientError::Refused(failure) => failure,
        // The runtime tries again: control may be about to start.
        ClientError::Connect { .. } => Failure::new(code::TRY_AGAIN, error),
        ClientError::Io(_) => Failure::new(code::IO, error),
        ClientError::Json(_) => Failure::new(code::DECODE, error),
    })
}

fn execute(
    environment: &Environment,
    stdin: &str,
    version: &mut String,
    ask: impl Fn(&Configuration, Request) -> Result<Value, Failure>,
) -> Result<Option<Value>, Failure> {
    let command = variable(environment, "CNI_COMMAND")?;
    if command == "VERSION" {
        return Ok(Some(versions(stdin)));
    }
    let configuration = Configuration::parse(stdin)?;
    version.clone_from(&configuration.cni_version);
    let network = configuration.name.clone();
    match command {
        "ADD" => {
            let pod = CniPod { wants: configuration.wants()?, ..pod(environment, network, true)? };
            let attached = read(ask(&configuration, Request::CniAdd(pod.clone()))?)?;
            Ok(Some(result::of(&configuration.cni_version, &pod, &attached, configuration.prev_result.as_ref())))
        }
        "DEL" => ask(&configuration, Request::CniDel(pod(environment, network, false)?)).map(|_| None),
        "CHECK" => {
            configuration.allows("CHECK", "0.4.0")?;
            let pod = pod(environment, network, true)?;
            let attached = read(ask(&configuration, Request::CniCheck(pod.clone()))?)?;
            result::check(configuration.prev_result.as_ref(), &pod, &attached).map(|()| None)
        }
        "STATUS" => {
            configuration.allows("STATUS", "1.1.0")?;
            // Who cannot be asked cannot attach anybody; whom it attached goes on.
            let unavailable = |failure: Failure| match failure.code {
                code::TRY_AGAIN => Failure { code: code::NOT_AVAILABLE, ..failure },
                _ => failure,
            };
            ask(&configuration, Request::CniStatus).map_err(unavailable).map(|_| None)
        }
        "GC" => {
            configuration.allows("GC", "1.1.0")?;
            let valid = configuration.valid.clone().ok_or_else(|| {
                Failure::new(code::NETWORK_CONFIG, "GC needs `cni.dev/valid-attachments` in its configuration")
            })?;
            let valid = valid.into_iter().map(|valid| (valid.container, valid.ifname)).collect();
            ask(&configuration, Request::CniGc { network, valid }).map(|_| None)
        }
        other => Err(Failure::new(
            code::ENVIRONMENT,
            format!("CNI_COMMAND {other:?} is none of ADD, DEL, CHECK, STATUS, GC, VERSION"),
        )),
    }
}

/// What VERSION prints.
fn versions(stdin: &str) -> Value {
    let asked = serde_json::from_str::<Value>(stdin).ok();
    let asked = asked.and_then(|value| Some(value.get("cniVersion")?.as_str()?.to_owned()));
    let spoken = asked.unwrap_or_else(|| VERSIONS[VERSIONS.len() - 1].to_owned());
    json!({"cniVersion": spoken, "supportedVersions": VERSIONS})
}

fn read(attached: Value) -> Result<CniAttached, Failure> {
    serde_json::from_value(attached).map_err(|error| Failure::new(code::DECODE, error))
}

fn variable<'a>(environment: &'a Environment, name: &str) -> Result<&'a str, Failure> {
    let value = environment.get(name).map(String::as_str).filter(|value| !value.is_empty());
    value.ok_or_else(|| Failure::new(code::ENVIRONMENT, format!("{name} is missing from the environment")))
}

/// `CNI_ARGS` names the pod where a Kubernetes runtime asks; without it the container is nobody's pod.
fn pod(environment: &Environment, network: String, needs_netns: bool) -> Result<CniPod, Failure> {
    let container = variable(environment, "CNI_CONTAINERID")?;
    let ifname = variable(environment, "CNI_IFNAME")?;
    check_name("CNI_CONTAINERID", container, 255)?;
    check_name("CNI_IFNAME", ifname, 15)?;
    let netns = match variable(environment, "CNI_NETNS") {
        Ok(path) => Some(PathBuf::from(path)),
        Err(_) if !needs_netns => None,
        Err(missing) => return Err(missing),
    };
    let arguments = environment.get("CNI_ARGS").map(String::as_str).unwrap_or_default();
    let argument = |name: &str| {
        let pairs = arguments.split(';').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).next()
    };
    let [namespace, pod] = ["K8S_POD_NAMESPACE", "K8S_POD_NAME"].map(|name| argument(name).unwrap_or_default());
    if needs_netns && namespace.is_empty() != pod.is_empty() {
        let text = "CNI_ARGS says only one of K8S_POD_NAMESPACE and K8S_POD_NAME: which pod is this?";
        return Err(Failure::new(code::ENVIRONMENT, text));
    }
    Ok(CniPod {
        container: container.to_owned(),
        ifname: ifname.to_owned(),
        network,
        netns,
        namespace,
        pod,
        wants: CniWants::default(),
    })
}

/// Both become part of a file name, so what the specification demands is checked: alphanumeric first, then also `_.-`.
fn check_name(what: &str, name: &str, bytes_max: usize) -> Result<(), Failure> {
    let first = name.starts_with(|letter: char| letter.is_ascii_alphanumeric());
    let rest = name.chars().all(|letter| letter.is_ascii_alphanumeric() || "_.-".contains(letter));
    if first && rest && name.len() <= bytes_max {
        return Ok(());
    }
    let rule = "letters, digits, `_`, `.` and `-` are allowed, a letter or digit first";
    Err(Failure::new(code::ENVIRONMENT, format!("{what} {name:?} is not valid: {rule}, {bytes_max} at most")))
}

#[cfg(test)]
#[path = "cni_tests.rs"]
mod tests;
