//! State -> compiler -> tables, as often as workers acknowledge; and the first time the step from "filled" to "in force":
//! tables to the dataplane, sockets into the XDP program, the program onto the uplink.

use super::Supervisor;
use super::session::{Dataplane, SessionError};
use crate::claim::ClaimError;
use crate::compile::Report;
use crate::log;
use std::os::fd::AsFd;
use std::time::Duration;
use tables::publish::Publisher;
use tables::status::Status;
use tokio::time::Instant;

/// How publishing goes, for metrics.
#[derive(Default)]
pub struct Published {
    pub batches: u64,
    /// Time that the last compile and publish took.
    pub took: Duration,
    /// The last publish that is not acknowledged yet.
    pub awaited_since: Option<Instant>,
    /// Time from publish to acknowledgement, last and longest.
    pub lag: Duration,
    pub lag_max: Duration,
    /// Changes wait for workers to leave the idle copy.
    pub behind: bool,
}

impl Supervisor {
    /// Something waits for workers to acknowledge.
    pub(super) fn awaits_acknowledgement(&self) -> bool {
        self.dataplane.is_some()
            && (self.published.behind || self.published.awaited_since.is_some() || !self.waiters.is_empty())
    }

    fn is_acknowledged(&self) -> bool {
        self.dataplane.as_ref().is_some_and(|dataplane| self.publisher.is_acknowledged(dataplane.status.acks()))
    }

    /// Every worker judges by what was published last.
    pub(super) fn is_in_force(&self) -> bool {
        self.dataplane.as_ref().is_some_and(|dataplane| self.publisher.is_in_force(dataplane.status.worker_acks()))
    }

    /// Publishes what changed, if there is a dataplane to acknowledge it and all objects have been read once.
    pub(super) async fn publish(&mut self) {
        if !self.state.is_complete() || self.dataplane.is_none() {
            return;
        }
        self.note_acknowledgement();
        if self.state.has_changes() {
            self.publish_batch().await;
        }
        if self.dataplane.as_ref().is_some_and(|dataplane| !dataplane.has_tables) && !self.published.behind {
            self.put_in_force().await;
        }
    }

    fn note_acknowledgement(&mut self) {
        if let Some(since) = self.published.awaited_since.filter(|_| self.is_acknowledged()) {
            self.published.lag = since.elapsed();
            self.published.lag_max = self.published.lag_max.max(self.published.lag);
            self.published.awaited_since = None;
            self.catch_up();
        }
    }

    /// Opening a batch brings the copy that nobody reads any more up to date: now, so that the next change need not wait.
    fn catch_up(&mut self) {
        if let Some(dataplane) = &self.dataplane {
            let _ = self.publisher.batch(dataplane.status.acks());
        }
    }

    async fn publish_batch(&mut self) {
        let Some(dataplane) = &self.dataplane else { return };
        let begun = Instant::now();
        let Some(mut batch) = self.publisher.batch(dataplane.status.acks()) else {
            self.published.behind = true;
            return;
        };
        let report = self.compiler.update(&mut self.state, &mut batch);
        self.published.behind = false;
        if !batch.is_empty() {
            batch.publish();
            self.published.batches += 1;
            self.published.took = begun.elapsed();
            self.published.awaited_since = Some(begun);
        }
        self.mark_waiters_published();
        self.take_report(report).await;
    }

    async fn take_report(&mut self, report: Report) {
        let sentences: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
        for sentence in sentences.iter().filter(|sentence| !self.object_problems.contains(sentence)) {
            log(format_args!("{sentence}"));
        }
        self.object_problems = sentences;
        if self.next_hops != report.next_hops {
            self.next_hops = report.next_hops;
            self.keep_neighbours().await;
        }
        self.take_singles(report.singles, report.answering).await;
        self.take_announced(report.announced);
        self.health_wanted = report.health_ports;
        self.serve_health();
    }

    async fn put_in_force(&mut self) {
        let Some(mut dataplane) = self.dataplane.take() else { return };
        match hand_over(&mut dataplane, &self.publisher).await {
            Ok(()) => {
                self.dataplane = Some(dataplane);
                self.clear_problem("tables");
                match self.redirect() {
                    Ok(()) => self.clear_problem("claim"),
                    Err(error) => self.set_problem("claim", error),
                }
            }
            Err(error @ SessionError::Refused { .. }) => {
                // Its old tables stay in force; asking again would not help.
                dataplane.has_tables = true;
                self.dataplane = Some(dataplane);
                self.set_problem("tables", error);
            }
            Err(error) => {
                self.dataplane = Some(dataplane);
                self.lose_dataplane(error);
            }
        }
    }

    /// From here on the uplink's packets go to the dataplane.
    fn redirect(&mut self) -> Result<(), ClaimError> {
        let Some(dataplane) = &mut self.dataplane else { return Ok(()) };
        for (queue, socket) in dataplane.sockets.drain(..).enumerate() {
            self.claim.set_socket(queue as u32, socket.as_fd())?;
        }
        // What a bond itself runs keeps its members from running another.
        self.claim.refuse_foreign(&self.uplink.device, self.uplink.device_index)?;
        for member in &self.uplink.members {
            if !self.claim.is_attached(member.index) {
                let mode = self.claim.attach(&member.name, member.index)?;
                log(format_args!("the XDP program runs on {} in {} mode", member.name, mode.name()));
            }
        }
        Ok(())
    }
}

async fn hand_over(dataplane: &mut Dataplane, publisher: &Publisher) -> Result<(), SessionError> {
    dataplane.give_tables(publisher.region().fd()).await
}

/// The newest generation that every worker judges by.
pub fn acknowledged(publisher: &Publisher, status: &Status) -> u64 {
    if publisher.is_in_force(status.worker_acks()) {
        publisher.generation()
    } else {
        publisher.generation().saturating_sub(1)
    }
}
