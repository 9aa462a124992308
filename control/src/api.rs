//! What the CLI and the CNI plugin say to the control process over RUN/control.sock: one JSON request a line, one JSON
//! reply a line. And the shapes of the listings, which `-o json` prints as they are.

use crate::bandwidth::Bandwidth;
use crate::object::HostPort;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tables::{Addr, Mac};

/// The largest request line, bytes.
pub const REQUEST_BYTES_MAX: usize = 1 << 20;
/// Questions in one request: the loop does nothing else meanwhile, about 50 us for each.
pub const QUESTIONS_MAX: usize = 1000;
/// The slowest answer is an ADD that waits for its tables.
const REPLY_LIMIT: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "ask", rename_all = "kebab-case")]
pub enum Request {
    Status,
    Runtime,
    Interfaces,
    Endpoints,
    Services,
    /// With what goes to each backend.
    ServicesWide,
    Addresses,
    Policies,
    /// What these files' objects would do to flows, applied and deleted. Paths are absolute.
    PoliciesDiff {
        file: Option<PathBuf>,
        delete: Option<PathBuf>,
    },
    /// What is odd about policies.
    PoliciesLint,
    Routes,
    Flows,
    Drops,
    Explain(Question),
    /// At most [`QUESTIONS_MAX`]; the answers in their order.
    ExplainAll {
        questions: Vec<Question>,
    },
    /// Writes all of it to this file, whose path is absolute.
    Bundle {
        file: PathBuf,
    },
    /// The text of /metrics.
    Metrics,
    /// Whether tables are in force.
    Ready,
    CniAdd(CniPod),
    CniDel(CniPod),
    CniCheck(CniPod),
    /// Whether an ADD would succeed.
    CniStatus,
    /// Detaches all of a network but these (container, interface).
    CniGc {
        network: String,
        valid: Vec<(String, String)>,
    },
}

/// `fairway explain SRC DST:PORT/PROTOCOL [--from ENDPOINT]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// `namespace/pod` or an address.
    pub src: String,
    /// `namespace/pod`, `namespace/service` or an address.
    pub dst: String,
    pub port: u16,
    pub protocol: String,
    pub src_port: u16,
    /// The interface the packet comes in by: a pod, `host`, or `uplink`. None: the source's own, else the uplink.
    pub from: Option<String>,
}

/// One pod interface as the runtime names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CniPod {
    pub container: String,
    pub ifname: String,
    /// Name of the network, as the configuration says it.
    pub network: String,
    /// Absent in a DEL after the namespace is gone.
    pub netns: Option<PathBuf>,
    /// Both empty for a container that is no pod of Kubernetes.
    pub namespace: String,
    pub pod: String,
    pub wants: CniWants,
}

/// What the runtime asks for one interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniWants {
    /// At most one of each family; others are chosen.
    pub addrs: Vec<Addr>,
    pub mac: Option<Mac>,
    pub ports: Vec<HostPort>,
    #[serde(default)]
    pub bandwidth: Bandwidth,
}

/// What an ADD made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniAttached {
    pub mac: String,
    pub mtu: u32,
    pub addrs: Vec<Addr>,
    pub gateways: Vec<Addr>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    Done(Value),
    Failed(Failure),
}

/// A refusal. `code` is one of the CNI specification's, for the plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub code: u32,
    pub message: String,
}

/// Error codes of the CNI specification ("Error", reserved codes), and our own from 100 on.
pub mod code {
    pub const VERSION: u32 = 1;
    pub const UNKNOWN_CONTAINER: u32 = 3;
    pub const ENVIRONMENT: u32 = 4;
    pub const IO: u32 = 5;
    pub const DECODE: u32 = 6;
    pub const NETWORK_CONFIG: u32 = 7;
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: ADD would fail now.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: ADD would fail now, and containers that are attached may have no connection.
    pub const NO_CONNECTION: u32 = 51;
    pub const FAILED: u32 = 100;
    pub const ALREADY_ATTACHED: u32 = 101;
    pub const NOT_AS_MADE: u32 = 102;
}

impl Failure {
    pub fn new(code: u32, message: impl ToString) -> Failure {
        Failure { code, message: message.to_string() }
    }
}

impl Reply {
    pub fn of<T: Serialize>(outcome: Result<T, Failure>) -> Reply {
        match outcome.map(|value| serde_json::to_value(value)) {
            Ok(Ok(value)) => Reply::Done(value),
            Ok(Err(error)) => Reply::Failed(Failure::new(code::FAILED, error)),
            Err(failure) => Reply::Failed(failure),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(
        "no fairway-control answers at {path} ({source}): start it on this node, or name its directory with --run-dir or FAIRWAY_RUN_DIR"
    )]
    Connect { path: PathBuf, source: io::Error },
    #[error("the connection to fairway-control broke: {0}")]
    Io(#[from] io::Error),
    #[error("fairway-control answered what this program cannot read ({0}): the two are of different builds")]
    Json(#[from] serde_json::Error),
    #[error("{0}")]
    Refused(#[from] Failure),
}

pub fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("control.sock")
}

/// Asks the control process, and waits.
pub fn ask<T: DeserializeOwned>(run_dir: &Path, request: &Request) -> Result<T, ClientError> {
    let path = socket_path(run_dir);
    let mut stream = UnixStream::connect(&path).map_err(|source| ClientError::Connect { path, source })?;
    stream.set_read_timeout(Some(REPLY_LIMIT))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut reply = String::new();
    BufReader::new(stream).read_line(&mut reply)?;
    if reply.is_empty() {
        return Err(ClientError::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    match serde_json::from_str(&reply)? {
        Reply::Done(value) => Ok(serde_json::from_value(value)?),
        Reply::Failed(failure) => Err(ClientError::Refused(failure)),
    }
}
