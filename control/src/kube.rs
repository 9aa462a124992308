//! The Kubernetes API as the source of objects: every kind is listed page by page and then watched, each by itself
//! ([`follow`]), and what is heard goes out in batches ([`hub`]). Objects become ours one at a time as they are read
//! ([`decode`]): nothing larger than a page of text is ever held, and of an object that was read only its name.
//!
//! Runs on a thread of its own, as reading a directory does: a long list must not hold up the rest of control. While the
//! server does not answer, nothing changes; a start without it takes the [`last`] state from disk. It must not decide what an object means.

mod ask;
mod backoff;
pub mod connect;
mod decode;
mod follow;
mod hub;
mod known;
mod last;
mod lease;
mod recalled;
pub mod timing;
pub mod write;

pub use ask::Asker;
pub use connect::{ConnectError, Server};
pub use lease::Lease;
pub use timing::Timing;
pub use write::{Order, Writer};

use crate::source::Update;
use last::Last;
use lease::Keeper;
use std::io;
use std::path::Path;
use tokio::sync::mpsc;

/// Updates that may wait; the reader stops reading when so many do.
const UPDATES_WAITING_MAX: usize = 16;

/// The objects of a cluster, followed until this is dropped.
pub struct Cluster {
    updates: mpsc::Receiver<Update>,
    writer: Writer,
    lease: Option<Lease>,
    name: String,
}

impl Cluster {
    /// Begins to follow. Whether the server answers is said by the updates.
    /// In `state_dir` the last state is kept. `candidate`: under this name to share in what one node does for all.
    pub fn follow(server: Server, timing: Timing, state_dir: &Path, candidate: Option<String>) -> io::Result<Cluster> {
        let (sender, updates) = mpsc::channel(UPDATES_WAITING_MAX);
        let name = server.name();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // Ends when nobody takes updates any more.
        let (writer, orders) = Writer::channel();
        let last = Last::new(state_dir, &name);
        let (keeper, lease) = candidate.map(|identity| Keeper::new(identity, server.namespace(), timing.lease)).unzip();
        let of_lease = keeper.zip(lease.clone());
        let run = move || runtime.block_on(hub::run(server, timing, last, orders, of_lease, sender));
        std::thread::Builder::new().name("objects".to_owned()).spawn(run)?;
        Ok(Cluster { updates, writer, lease, name })
    }

    /// What the server is called in sentences.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// The next update; waits for ever if there is none. May be cancelled without loss.
    pub async fn next(&mut self) -> Update {
        match self.updates.recv().await {
            Some(update) => update,
            // Only when the reading thread died, whose panic says why.
            None => std::future::pending().await,
        }
    }
}
