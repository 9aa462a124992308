//! Whom `fairway` asks: the control process of this node, or a bundle. What a bundle cannot tell by itself (what would become
//! of a packet) is asked of the dataplane's own code, by running `fairway-dataplane` on it.

use crate::api::{self, ClientError, Failure, Question, Request};
use crate::explain::{self, Directory, Names};
use crate::listing::{ExplainView, ReplayView};
use crate::object::Named;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tables::Addr;
use tables::bundle::{Bundle, BundleError};
use tables::counters::DropReason;
use tables::message::{ExplainQuery, Explained, InterfaceInfo, ReplayEnd, Replayed};

const PROGRAM: &str = "fairway-dataplane";

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Refused(#[from] Failure),
    #[error("a bundle does not tell that: it is of one moment, and of what this node's read commands show")]
    NotKept,
    #[error("a bundle is needed, as in `fairway replay CAPTURE --from BUNDLE`: `fairway bundle FILE` makes one")]
    NoBundle,
    #[error("--from {0}: there is no such file")]
    NoFile(String),
    #[error("cannot run {program}: {source}; it belongs beside this program, or in PATH")]
    Run { program: PathBuf, source: io::Error },
    #[error("{0}")]
    Ended(String),
    #[error("{PROGRAM} answered what this program cannot read ({0}): the two are of different builds")]
    Json(#[from] serde_json::Error),
}

/// Where answers come from.
pub enum Source {
    Node(PathBuf),
    Bundle(Box<Known>),
}

/// A bundle and its names.
pub struct Known {
    bundle: Bundle,
    names: Names,
}

impl Known {
    fn open(path: &Path) -> Result<Known, BundleError> {
        let bundle = Bundle::open(path)?;
        Ok(Known { names: bundle.json("names")?, bundle })
    }
}

impl Source {
    /// `from` are the files and, for `explain`, the endpoint that were given so: a file is whatever is one.
    pub fn of(
        run_dir: &Path,
        from: &[String],
        may_name_endpoint: bool,
    ) -> Result<(Source, Option<String>), SourceError> {
        let (files, endpoints): (Vec<_>, Vec<_>) = from.iter().partition(|name| Path::new(name).is_file());
        let endpoint = endpoints.last().map(|name| name.to_string());
        if let Some(missing) = endpoint.as_ref().filter(|_| !may_name_endpoint) {
            return Err(SourceError::NoFile(missing.clone()));
        }
        let source = match files.last() {
            Some(file) => Source::Bundle(Box::new(Known::open(Path::new(file))?)),
            None => Source::Node(run_dir.to_owned()),
        };
        Ok((source, endpoint))
    }

    pub fn is_bundle(&self) -> bool {
        matches!(self, Source::Bundle(_))
    }

    pub fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T, SourceError> {
        match self {
            Source::Node(run_dir) => Ok(api::ask(run_dir, request)?),
            Source::Bundle(known) => {
                let listing = listing(request).ok_or(SourceError::NotKept)?;
                Ok(known.bundle.json(&format!("listings/{listing}"))?)
            }
        }
    }

    pub fn explain(&self, question: &Question) -> Result<ExplainView, SourceError> {
        match self {
            Source::Node(_) => self.ask(&Request::Explain(question.clone())),
            Source::Bundle(known) => {
                let query = explain::query(&**known, question)?;
                Ok(explain::view(&**known, known.explained(&query)?))
            }
        }
    }

    /// What becomes of a capture's packets. `at`: the endpoint whose packets all of them are.
    pub fn replay(&self, capture: &Path, at: Option<&str>) -> Result<Vec<ReplayView>, SourceError> {
        let Source::Bundle(known) = self else { return Err(SourceError::NoBundle) };
        let interface = at.map(|at| explain::interface(&**known, at)).transpose()?;
        let mut command = Command::new(program());
        command.arg("replay").arg(known.bundle.path()).arg(capture);
        command.args(interface.map(|info| format!("--interface={}", info.id)));
        let lines = output(command, &[])?;
        let replayed = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let replayed = replayed.map(serde_json::from_slice).collect::<Result<Vec<Replayed>, _>>()?;
        Ok(known.shown(replayed))
    }
}

/// What a bundle calls the answer to a request.
fn listing(request: &Request) -> Option<&'static str> {
    match request {
        Request::Status => Some("status"),
        Request::Runtime => Some("runtime"),
        Request::Interfaces => Some("interfaces"),
        Request::Endpoints => Some("endpoints"),
        Request::Services | Request::ServicesWide => Some("services"),
        Request::Addresses => Some("addresses"),
        Request::Policies => Some("policies"),
        Request::Routes => Some("routes"),
        Request::Flows => Some("flows"),
        Request::Drops => Some("drops"),
        _ => None,
    }
}

impl Known {
    fn explained(&self, query: &ExplainQuery) -> Result<Explained, SourceError> {
        let mut command = Command::new(program());
        command.arg("explain").arg(self.bundle.path());
        Ok(serde_json::from_slice(&output(command, &serde_json::to_vec(query)?)?)?)
    }

    fn shown(&self, replayed: Vec<Replayed>) -> Vec<ReplayView> {
        let first_ns = replayed.first().map_or(0, |packet| packet.time_ns);
        let names: HashMap<u32, String> =
            self.interfaces().iter().map(|info| (info.id, explain::shown(self, info))).collect();
        let named = |id: u32| names.get(&id).cloned().unwrap_or_else(|| format!("interface {id}"));
        let view = |packet: Replayed| ReplayView {
            number: packet.number,
            time_s: packet.time_ns.saturating_sub(first_ns) as f64 / 1e9,
            interface: named(packet.interface),
            packet: packet.packet,
            ways: packet.ends.iter().map(|end| way(end, &named)).collect(),
        };
        replayed.into_iter().map(view).collect()
    }
}

fn way(end: &ReplayEnd, named: &impl Fn(u32) -> String) -> String {
    match end {
        ReplayEnd::Sent { interface, tunnel: None, packet } => format!("{}: {packet}", named(*interface)),
        ReplayEnd::Sent { tunnel: Some(peer), packet, .. } => format!("tunnel to {peer}: {packet}"),
        ReplayEnd::Dropped { reason } => {
            let known = DropReason::ALL.iter().find(|known| known.name() == reason);
            format!("dropped: {reason} ({})", known.map_or("unknown to this build", |known| known.sentence()))
        }
        ReplayEnd::Own => "sent by the node itself".to_owned(),
        ReplayEnd::Waits => "waits for its neighbour, or its first fragment".to_owned(),
    }
}

impl Directory for Known {
    fn addrs_of(&self, id: &Named) -> Vec<Addr> {
        self.names.addrs.get(&id.to_string()).cloned().unwrap_or_default()
    }

    fn interfaces(&self) -> Vec<InterfaceInfo> {
        self.bundle.about.interfaces.clone()
    }

    fn pod_at(&self, interface: &str) -> Option<String> {
        self.names.pods.get(interface).cloned()
    }

    fn own_addrs(&self) -> Vec<Addr> {
        self.names.own_addrs.clone()
    }

    fn policy_name(&self, index: u32) -> Option<String> {
        self.names.policies.get(&index).cloned()
    }

    fn node_with(&self, addr: Addr) -> Option<String> {
        let mut nodes = self.names.nodes.iter();
        nodes.find(|(_, addrs)| addrs.contains(&addr)).map(|(name, _)| name.clone())
    }

    fn service_name(&self, id: u32) -> Option<String> {
        self.names.services.get(&id).cloned()
    }
}

/// The dataplane's program: beside this one, else wherever PATH has it.
fn program() -> PathBuf {
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name(PROGRAM)).filter(|path| path.is_file());
    beside.unwrap_or_else(|| PROGRAM.into())
}

/// Runs a program with this input, and gives its output, or what it complained of.
fn output(mut command: Command, input: &[u8]) -> Result<Vec<u8>, SourceError> {
    let fail = |source| SourceError::Run { program: program(), source };
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(fail)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read its question says why by itself.
        let _ = stdin.write_all(input);
    }
    let ended = child.wait_with_output().map_err(fail)?;
    if ended.status.success() {
        return Ok(ended.stdout);
    }
    Err(SourceError::Ended(String::from_utf8_lossy(&ended.stderr).trim().to_owned()))
}
