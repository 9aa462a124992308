//! One kind of objects: listed page by page, then watched from where the list stood, for ever. A watch that ends goes on
//! from the last version that was heard of; only where the server no longer knows that one (410 Gone) is everything listed
//! again, over what is known: nothing is taken away before the new list is whole.

use super::backoff::{Backoff, spread};
use super::decode::{self, Item};
use super::hub::{Heard, Said};
use super::known::Known;
use super::recalled::Recalled;
use super::timing::Timing;
use crate::object::{Kind, ObjectChange};
use futures_util::StreamExt;
use kube::Client;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::Request;
use serde_json::Value;
use std::pin::pin;
use tokio::sync::mpsc::Sender;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// A kind that had objects is taken for gone after so many looks: a server that has just started may not have it yet.
const ABSENT_LOOKS: u32 = 3;
/// After so many refusals of a watch in a row its place is given up, and everything is listed again.
const REFUSED_MAX: u32 = 4;

/// Why a list or watch did not go on.
#[derive(Debug)]
pub enum Failure {
    /// What was to be gone on from is no longer known to the server.
    Expired,
    /// The server has no such kind.
    Absent,
    /// It answered, and with something else.
    Refused(String),
    Unreachable(String),
    /// Nobody listens any more.
    Over,
}

pub struct Follower {
    kind: Kind,
    client: Client,
    timing: Timing,
    known: Known,
    said: Sender<Said>,
    recalled: Recalled,
    /// The version up to which everything was heard; None: list.
    version: Option<String>,
    backoff: Backoff,
    /// Terms of the lease: with each one everything is listed anew.
    terms: Option<watch::Receiver<u64>>,
    /// How often in a row the kind was not there.
    absent: u32,
}

impl Follower {
    pub fn new(
        kind: Kind,
        client: Client,
        timing: Timing,
        said: Sender<Said>,
        recalled: Recalled,
        terms: Option<watch::Receiver<u64>>,
    ) -> Follower {
        let (backoff, known) = (Backoff::new(timing.retry, timing.retry_max), Known::new(kind));
        Follower { kind, client, timing, known, said, recalled, version: None, backoff, terms, absent: 0 }
    }

    pub async fn run(mut self) {
        loop {
            let failure = match self.step().await {
                Ok(()) => continue,
                Err(failure) => failure,
            };
            let wait = match failure {
                Failure::Over => return,
                Failure::Expired => {
                    self.version = None;
                    self.backoff.failed()
                }
                Failure::Absent => match self.take_absent().await {
                    Ok(wait) => wait,
                    Err(_) => return,
                },
                Failure::Refused(why) => {
                    if self.backoff.failures() >= REFUSED_MAX {
                        self.version = None;
                    }
                    if self.say(Heard::Failed(why)).await.is_err() {
                        return;
                    }
                    self.backoff.failed()
                }
                Failure::Unreachable(why) => {
                    if self.say(Heard::Failed(why)).await.is_err() {
                        return;
                    }
                    self.backoff.failed()
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn step(&mut self) -> Result<(), Failure> {
        match self.version.clone() {
            None => self.list().await,
            Some(version) => self.watch(&version).await,
        }
    }

    async fn list(&mut self) -> Result<(), Failure> {
        self.known.begin_list();
        let term = self.terms.as_mut().map(|terms| *terms.borrow_and_update());
        let mut params = ListParams::default().limit(self.timing.page_max);
        loop {
            let page = self.page(&params).await?;
            self.recalled.heard();
            self.absent = 0;
            self.take_items(page.items).await?;
            if page.next.is_empty() {
                self.version = Some(page.resource_version);
                break;
            }
            params.continue_token = Some(page.next);
        }
        self.end_list().await?;
        match term {
            Some(term) => self.say(Heard::Term(term)).await,
            None => Ok(()),
        }
    }

    /// What the list did not hold is gone, also of what an earlier process knew.
    async fn end_list(&mut self) -> Result<(), Failure> {
        self.recalled.take(self.kind).iter().for_each(|key| self.known.recall(key));
        let gone = self.known.end_list();
        let problems = gone.iter().map(|key| (key.clone(), None)).collect();
        let changes = gone.into_iter().map(ObjectChange::Delete).collect();
        self.say(Heard::Objects { changes, problems }).await?;
        self.say(Heard::Listed).await
    }

    async fn page(&self, params: &ListParams) -> Result<decode::Page, Failure> {
        let request = Request::new(path(self.kind)).list(params).map_err(refused)?;
        let text = timeout(self.timing.answer, self.client.request_text(request)).await;
        let text = text.map_err(|_| silent())?.map_err(failure)?;
        decode::page(self.kind, &text).map_err(refused)
    }

    async fn watch(&mut self, version: &str) -> Result<(), Failure> {
        let seconds = spread(self.timing.watch).as_secs().max(1) as u32;
        let params = WatchParams::default().timeout(seconds);
        let request = Request::new(path(self.kind)).watch(&params, version).map_err(refused)?;
        let events = timeout(self.timing.answer, self.client.request_events::<Value>(request)).await;
        let events = events.map_err(|_| silent())?.map_err(failure)?;
        let mut events = pin!(events);
        self.say(Heard::Watching).await?;
        let begun = Instant::now();
        let mut is_first = true;
        loop {
            // Silence is no failure by itself; whether the server is there shows when the watch is begun anew.
            let event = tokio::select! {
                event = timeout(self.timing.silence, events.next()) => event,
                () = next_term(&mut self.terms) => {
                    self.version = None;
                    return Ok(());
                }
            };
            let Ok(event) = event else { return Ok(()) };
            match event {
                None if is_first && begun.elapsed() < self.timing.retry => {
                    return Err(Failure::Refused("the server ends watches at once".to_owned()));
                }
                None => return Ok(()),
                Some(event) => self.take_event(event.map_err(failure)?).await?,
            }
            if std::mem::take(&mut is_first) {
                self.backoff.succeeded();
            }
        }
    }

    async fn take_event(&mut self, event: WatchEvent<Value>) -> Result<(), Failure> {
        match event {
            WatchEvent::Added(value) | WatchEvent::Modified(value) => {
                self.take_items(decode::item(self.kind, &value).into_iter().collect()).await?;
                self.advance(&value);
            }
            WatchEvent::Deleted(value) => {
                if let Some(key) = decode::key(self.kind, &value).filter(|key| self.known.forget(key)) {
                    let (problems, changes) = (vec![(key.clone(), None)], vec![ObjectChange::Delete(key)]);
                    self.say(Heard::Objects { changes, problems }).await?;
                }
                self.advance(&value);
            }
            WatchEvent::Bookmark(bookmark) => self.version = Some(bookmark.metadata.resource_version),
            WatchEvent::Error(status) => return Err(failure(kube::Error::Api(status))),
        }
        Ok(())
    }

    fn advance(&mut self, value: &Value) {
        let version = value.pointer("/metadata/resourceVersion").and_then(Value::as_str);
        self.version = version.map(str::to_owned).or(self.version.take());
    }

    async fn take_items(&mut self, items: Vec<Item>) -> Result<(), Failure> {
        let (mut changes, mut problems) = (Vec::with_capacity(items.len()), Vec::new());
        for Item { key, object, problem } in items {
            self.known.see(&key);
            if self.known.set_wrong(&key, problem.is_some()) {
                problems.push((key, problem));
            }
            changes.extend(object.map(ObjectChange::Put));
        }
        self.say(Heard::Objects { changes, problems }).await
    }

    /// No such kind is a kind without objects, once that is certain. Says when to look again.
    async fn take_absent(&mut self) -> Result<std::time::Duration, Failure> {
        self.version = None;
        self.absent += 1;
        self.recalled.take(self.kind).iter().for_each(|key| self.known.recall(key));
        if !self.known.is_empty() && self.absent < ABSENT_LOOKS {
            let why = format!("the server has no {} any more; what was known of them stays", self.kind.name());
            self.say(Heard::Failed(why)).await?;
            return Ok(self.backoff.failed());
        }
        self.known.begin_list();
        self.end_list().await?;
        Ok(spread(self.timing.look_again))
    }

    async fn say(&self, heard: Heard) -> Result<(), Failure> {
        self.said.send(Said { kind: self.kind, heard }).await.map_err(|_| Failure::Over)
    }
}

/// Waits for ever if there are none.
async fn next_term(terms: &mut Option<watch::Receiver<u64>>) {
    let changed = match terms {
        Some(terms) => terms.changed().await.is_ok(),
        None => false,
    };
    if !changed {
        std::future::pending().await
    }
}

/// Where the objects of a kind are listed.
fn path(kind: Kind) -> String {
    let group = match kind.api_version() {
        "v1" => "/api/v1".to_owned(),
        other => format!("/apis/{other}"),
    };
    let name = kind.name().to_ascii_lowercase();
    match name.strip_suffix('y') {
        Some(stem) => format!("{group}/{stem}ies"),
        None => format!("{group}/{name}s"),
    }
}

fn silent() -> Failure {
    Failure::Unreachable("it does not answer in time".to_owned())
}

fn refused(error: impl std::fmt::Display) -> Failure {
    Failure::Refused(error.to_string())
}

fn failure(error: kube::Error) -> Failure {
    match &error {
        kube::Error::Api(status) if status.code == 410 => Failure::Expired,
        kube::Error::Api(status) if status.code == 404 => Failure::Absent,
        kube::Error::Api(_) => Failure::Refused(told(&error)),
        other => Failure::Unreachable(told(other)),
    }
}

pub fn told(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
        other => innermost(other),
    }
}

/// What happened, without what each layer adds around it.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_where_the_api_has_them() {
        let paths: Vec<String> = crate::object::KINDS.into_iter().map(path).collect();
        assert_eq!(paths[..2], ["/api/v1/nodes", "/api/v1/namespaces"]);
        assert!(paths.contains(&"/apis/discovery.k8s.io/v1/endpointslices".to_owned()));
        assert!(paths.contains(&"/apis/networking.k8s.io/v1/networkpolicies".to_owned()));
        let cluster = "/apis/policy.networking.k8s.io/v1alpha1/baselineadminnetworkpolicies";
        assert!(paths.contains(&cluster.to_owned()));
    }
}
