//! The CNI plugin, a thin client of the control process: environment and standard input in, JSON out, as the CNI
//! specification 1.1 says ("Section 2: Execution Protocol", "Section 5: Result Types"). It must not touch the network.

use crate::api::{self, ClientError, CniAttached, CniPod, Failure, Request, code};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

/// Versions of the specification whose results this plugin writes.
pub const VERSIONS: [&str; 2] = ["1.0.0", "1.1.0"];

/// The network configuration on standard input; what is not for us is left alone.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Configuration {
    pub cni_version: String,
    #[serde(default)]
    pub name: String,
    #[serde(default = "default_run_dir")]
    pub run_dir: PathBuf,
    /// GC: what the runtime still knows.
    #[serde(default, rename = "cni.dev/valid-attachments")]
    pub valid: Option<Vec<ValidAttachment>>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct ValidAttachment {
    #[serde(rename = "containerID")]
    pub container: String,
    pub ifname: String,
}

fn default_run_dir() -> PathBuf {
    "/run/fairway".into()
}

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
    let mut version = VERSIONS[0].to_owned();
    match execute(environment, stdin, &mut version, ask) {
        Ok(None) => Outcome { stdout: String::new(), code: 0 },
        Ok(Some(result)) => Outcome { stdout: format!("{result:#}\n"), code: 0 },
        Err(Failure { code, message }) => {
            let error = json!(ErrorResult { cni_version: version, code, msg: message });
            Outcome { stdout: format!("{error:#}\n"), code: 1 }
        }
    }
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
        let asked = serde_json::from_str::<Value>(stdin).ok();
        let asked = asked.and_then(|value| Some(value.get("cniVersion")?.as_str()?.to_owned()));
        let spoken = asked.unwrap_or_else(|| VERSIONS[VERSIONS.len() - 1].to_owned());
        return Ok(Some(json!({"cniVersion": spoken, "supportedVersions": VERSIONS})));
    }
    let configuration = configuration(stdin)?;
    version.clone_from(&configuration.cni_version);
    match command {
        "ADD" => {
            let pod = pod(environment, true)?;
            let attached = ask(&configuration, Request::CniAdd(pod.clone()))?;
            let attached = serde_json::from_value(attached).map_err(|error| Failure::new(code::DECODE, error))?;
            Ok(Some(result(&configuration.cni_version, &pod, &attached)))
        }
        "DEL" => ask(&configuration, Request::CniDel(pod(environment, false)?)).map(|_| None),
        "CHECK" => ask(&configuration, Request::CniCheck(pod(environment, true)?)).map(|_| None),
        "STATUS" => ask(&configuration, Request::CniStatus).map(|_| None),
        "GC" => {
            let valid = configuration.valid.clone().ok_or_else(|| {
                Failure::new(code::NETWORK_CONFIG, "GC needs `cni.dev/valid-attachments` in its configuration")
            })?;
            let valid = valid.into_iter().map(|valid| (valid.container, valid.ifname)).collect();
            ask(&configuration, Request::CniGc { valid }).map(|_| None)
        }
        other => Err(Failure::new(
            code::ENVIRONMENT,
            format!("CNI_COMMAND {other:?} is none of ADD, DEL, CHECK, STATUS, GC, VERSION"),
        )),
    }
}

fn configuration(stdin: &str) -> Result<Configuration, Failure> {
    let configuration: Configuration = serde_json::from_str(stdin).map_err(|error| {
        Failure::new(code::DECODE, format!("the network configuration on standard input is not valid: {error}"))
    })?;
    if !VERSIONS.contains(&configuration.cni_version.as_str()) {
        let text =
            format!("cniVersion {} is not supported: use one of {}", configuration.cni_version, VERSIONS.join(", "));
        return Err(Failure::new(code::VERSION, text));
    }
    Ok(configuration)
}

fn variable<'a>(environment: &'a Environment, name: &str) -> Result<&'a str, Failure> {
    let value = environment.get(name).map(String::as_str).filter(|value| !value.is_empty());
    value.ok_or_else(|| Failure::new(code::ENVIRONMENT, format!("{name} is missing from the environment")))
}

fn pod(environment: &Environment, needs_netns: bool) -> Result<CniPod, Failure> {
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
    let missing = |name: &str| Failure::new(code::ENVIRONMENT, format!("CNI_ARGS says no {name}: which pod is this?"));
    let named = |name: &str| match argument(name) {
        Some(value) => Ok(value),
        None if !needs_netns => Ok(String::new()),
        None => Err(missing(name)),
    };
    Ok(CniPod {
        container: container.to_owned(),
        ifname: ifname.to_owned(),
        netns,
        namespace: named("K8S_POD_NAMESPACE")?,
        pod: named("K8S_POD_NAME")?,
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

fn result(version: &str, pod: &CniPod, attached: &CniAttached) -> Value {
    let mut interface = json!({"name": pod.ifname, "mac": attached.mac, "sandbox": pod.netns});
    if version != "1.0.0" {
        interface["mtu"] = json!(attached.mtu);
    }
    let gateway = |v4: bool| attached.gateways.iter().find(|gateway| gateway.is_v4() == v4);
    let ip = |addr: &tables::Addr| {
        let length = if addr.is_v4() { 32 } else { 128 };
        let mut ip = json!({"address": format!("{addr}/{length}"), "interface": 0});
        if let Some(gateway) = gateway(addr.is_v4()) {
            ip["gateway"] = json!(gateway);
        }
        ip
    };
    let route = |gateway: &tables::Addr| match gateway.ip() {
        IpAddr::V4(_) => json!({"dst": "0.0.0.0/0", "gw": gateway}),
        IpAddr::V6(_) => json!({"dst": "::/0", "gw": gateway}),
    };
    json!({
        "cniVersion": version,
        "interfaces": [interface],
        "ips": attached.addrs.iter().map(ip).collect::<Vec<_>>(),
        "routes": attached.gateways.iter().map(route).collect::<Vec<_>>(),
        "dns": {},
    })
}

#[cfg(test)]
#[path = "cni_tests.rs"]
mod tests;
