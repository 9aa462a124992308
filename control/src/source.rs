//! Where objects come from: a directory, or the Kubernetes API. To the rest of control both are a row of updates. It must
//! not know what the objects mean.

use crate::args::Args;
use crate::file::{self, Directory, DirectoryError};
use crate::kube::{Cluster, ConnectError, Lease, Server, Timing, Writer};
use crate::object::ObjectChange;
use crate::state::Status;
use std::io;
use std::time::Instant;

/// What was heard since the last time.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    pub changes: Vec<ObjectChange>,
    /// What stands beside the objects about services' load balancers.
    pub statuses: Vec<Status>,
    /// Everything that is wrong now, not only what is new.
    pub problems: Vec<String>,
    /// With this every object has been read at least once.
    pub is_complete: bool,
    pub reach: Reach,
    /// The term of the lease as of which all services are known; 0 without one.
    pub term: u64,
}

/// Whether changes are heard of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The first read is not complete.
    Reading {
        since: Instant,
    },
    Connected {
        since: Instant,
    },
    /// What was read last stays in force.
    Failing {
        since: Instant,
        why: String,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("cannot start to follow the API server: {0}")]
    Thread(#[from] io::Error),
}

pub enum Source {
    Directory { directory: Directory, name: String, since: Instant },
    Kubernetes(Cluster),
}

impl Source {
    pub async fn open(args: &Args) -> Result<Source, SourceError> {
        if let Some(path) = &args.objects {
            let (directory, name) = (Directory::open(path)?, path.display().to_string());
            return Ok(Source::Directory { directory, name, since: Instant::now() });
        }
        let at = args.api_server.clone();
        let server = match &args.kubeconfig {
            Some(path) => Server::of_kubeconfig(path, at).await?,
            None => Server::of_pod(at)?,
        };
        let candidate = (!args.load_balancer_pools.is_empty()).then(|| args.node.clone());
        Ok(Source::Kubernetes(Cluster::follow(server, Timing::default(), &args.state_dir, candidate)?))
    }

    /// As sentences call it.
    pub fn name(&self) -> &str {
        match self {
            Source::Directory { name, .. } => name,
            Source::Kubernetes(cluster) => cluster.name(),
        }
    }

    /// Where to write back what is said of objects, if that is a server.
    pub fn writer(&self) -> Option<Writer> {
        match self {
            Source::Directory { .. } => None,
            Source::Kubernetes(cluster) => Some(cluster.writer().clone()),
        }
    }

    /// Who has it gives addresses out of pools; None: every node works that out for itself.
    pub fn lease(&self) -> Option<Lease> {
        match self {
            Source::Directory { .. } => None,
            Source::Kubernetes(cluster) => cluster.lease().cloned(),
        }
    }

    /// The next update; waits for ever if there is none. May be cancelled without loss.
    pub async fn next(&mut self) -> Update {
        match self {
            Source::Directory { directory, since, .. } => of_directory(directory.next().await, *since),
            Source::Kubernetes(cluster) => cluster.next().await,
        }
    }
}

/// The first update of a directory is the complete first read.
fn of_directory(update: file::Update, since: Instant) -> Update {
    Update {
        changes: update.changes,
        statuses: update.statuses,
        problems: update.problems.iter().map(ToString::to_string).collect(),
        is_complete: true,
        reach: Reach::Connected { since },
        term: 0,
    }
}
