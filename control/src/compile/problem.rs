//! What could not be put in force, kept until it is.

use crate::object::{Named, ObjectKey};
use std::collections::BTreeMap;
use std::fmt;
use tables::limits::{RULES_PER_ROW_MAX, SOURCES_PER_SERVICE_MAX};
use tables::publish::TableFull;
use tables::{Addr, Prefix, Protocol};

#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum CompileError {
    #[error("{subject} is not in force: {full}")]
    Full { subject: Subject, full: TableFull },
    #[error(
        "{loser} does not get {addr} port {port}/{protocol}: {winner} has it; give one of them another address or port"
    )]
    ServiceClash { loser: Subject, winner: Subject, addr: Addr, port: u16, protocol: Protocol },
    #[error(
        "Service {service} has more than {SOURCES_PER_SERVICE_MAX} loadBalancerSourceRanges of a family: clients in what is beyond are refused; merge ranges"
    )]
    TooManySources { service: Named },
    #[error(
        "{subject} allows one peer more than {RULES_PER_ROW_MAX} port ranges: what is beyond is denied; merge ranges"
    )]
    TooManyRules { subject: Subject },
}

/// What a problem is about; there is one problem for each at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Service(Named),
    /// One with host ports.
    Pod(Named),
    /// Of any kind.
    Policy(ObjectKey),
    /// The policies that select some pod of a namespace.
    PolicySet(u32),
    Identity(Prefix),
    Route(Prefix),
    Neighbour(Addr),
    Peer(Addr),
    Endpoint(Addr),
    /// By the attachment's key.
    Attachment(String),
    Node,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Service(id) => write!(f, "Service {id}"),
            Subject::Pod(id) => write!(f, "Pod {id}"),
            Subject::Policy(key) => write!(f, "{key}"),
            Subject::PolicySet(id) => write!(f, "policy set {id}"),
            Subject::Identity(prefix) => write!(f, "identity of {prefix}"),
            Subject::Route(prefix) => write!(f, "route {prefix}"),
            Subject::Neighbour(addr) => write!(f, "neighbour {addr}"),
            Subject::Peer(addr) => write!(f, "node address {addr}"),
            Subject::Endpoint(addr) => write!(f, "endpoint {addr}"),
            Subject::Attachment(key) => write!(f, "attachment {key}"),
            Subject::Node => f.write_str("the node's own row"),
        }
    }
}

#[derive(Debug, Default)]
pub struct Problems(BTreeMap<Subject, CompileError>);

impl Problems {
    /// Keeps the outcome of an attempt; true if it succeeded.
    pub fn note(&mut self, subject: Subject, outcome: Result<(), TableFull>) -> bool {
        match outcome {
            Ok(()) => {
                self.0.remove(&subject);
                true
            }
            Err(full) => {
                self.0.insert(subject.clone(), CompileError::Full { subject, full });
                false
            }
        }
    }

    pub fn set(&mut self, subject: Subject, problem: CompileError) {
        self.0.insert(subject, problem);
    }

    pub fn clear(&mut self, subject: &Subject) {
        self.0.remove(subject);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn list(&self) -> Vec<CompileError> {
        self.0.values().cloned().collect()
    }
}
