//! What the followers of all kinds say, put together: changes in batches, everything that is wrong, whether every kind was
//! read once, and how the server answers.

use super::connect::Server;
use super::follow::Follower;
use super::last::{Kept, Last};
use super::lease::{Keeper, Lease};
use super::recalled::Recalled;
use super::timing::Timing;
use super::write::{self, Desk, Orders};
use crate::object::{KINDS, Kind, Object, ObjectChange, ObjectKey};
use crate::source::{Reach, Update};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;
use tokio::sync::mpsc::{self, Sender};

/// What waits between the followers and here.
const SAID_WAITING_MAX: usize = 64;
/// Changes of one update: a long list must not keep control from everything else.
const CHANGES_MAX: usize = 2_000;

/// One follower's word.
#[derive(Debug)]
pub struct Said {
    pub kind: Kind,
    pub heard: Heard,
}

#[derive(Debug)]
pub enum Heard {
    /// Objects that changed, and what is wrong with which object now.
    Objects {
        changes: Vec<ObjectChange>,
        problems: Vec<(ObjectKey, Option<String>)>,
    },
    /// Everything of the kind was read.
    Listed,
    /// Everything of the kind is known as of this term of the lease, or later.
    Term(u64),
    /// The server tells of changes from here on.
    Watching,
    Failed(String),
}

/// Follows all kinds until nobody takes updates any more.
pub async fn run(
    server: Server,
    timing: Timing,
    mut last: Last,
    orders: Orders,
    lease: Option<(Keeper, Lease)>,
    updates: Sender<Update>,
) {
    let client = match server.client(&timing) {
        Ok(client) => client,
        Err(error) => {
            let mut hub = Hub::new();
            hub.fail(KINDS[0], error.to_string());
            let _ = updates.send(hub.update()).await;
            return updates.closed().await;
        }
    };
    let (sender, mut said) = mpsc::channel(SAID_WAITING_MAX);
    let recalled = Recalled::default();
    for kind in KINDS {
        // What the holder gives out is kept by services: it goes by nothing older than its term.
        let terms = lease.as_ref().filter(|_| kind == Kind::Service).map(|(_, lease)| lease.terms());
        tokio::spawn(Follower::new(kind, client.clone(), timing, sender.clone(), recalled.clone(), terms).run());
    }
    let desk = Desk::new(client, timing, lease.as_ref().map(|(_, lease)| lease.clone()));
    if let Some((keeper, _)) = lease {
        tokio::spawn(keeper.run(desk.clone()));
    }
    tokio::spawn(write::run(desk, orders));
    let mut hub = Hub::new();
    let recall_at = tokio::time::Instant::now() + timing.recall;
    let mut may_recall = true;
    loop {
        tokio::select! {
            () = updates.closed() => return,
            Some(first) = said.recv() => hub.take(first),
            () = tokio::time::sleep_until(recall_at), if may_recall => {
                may_recall = false;
                hub.recall(&last, &recalled);
            }
        }
        while hub.changes.len() < CHANGES_MAX
            && let Ok(more) = said.try_recv()
        {
            hub.take(more);
        }
        // What is recalled is on disk already.
        if recalled.has_heard() {
            hub.keep(&mut last);
        }
        if hub.has_news && updates.send(hub.update()).await.is_err() {
            return;
        }
    }
}

struct Hub {
    changes: Vec<ObjectChange>,
    problems: BTreeMap<ObjectKey, String>,
    unlisted: BTreeSet<Kind>,
    /// Of the lease, as of which services are known.
    term: u64,
    failing: BTreeMap<Kind, (Instant, String)>,
    reach: Reach,
    has_news: bool,
    /// What is in force is the last state of an earlier process, at least in part.
    recalled: Option<String>,
    /// Such a state was taken: it was complete.
    is_recalled: bool,
    /// Why the last state is not kept or taken.
    unkept: Option<String>,
}

impl Hub {
    fn new() -> Hub {
        Hub {
            changes: Vec::new(),
            problems: BTreeMap::new(),
            unlisted: KINDS.into_iter().collect(),
            term: 0,
            failing: BTreeMap::new(),
            reach: Reach::Reading { since: Instant::now() },
            has_news: false,
            recalled: None,
            is_recalled: false,
            unkept: None,
        }
    }

    /// Begins with the last state, if there is one and the server has said nothing at all.
    fn recall(&mut self, last: &Last, recalled: &Recalled) {
        let Kept { objects, changed } = match last.read() {
            _ if recalled.has_heard() => return,
            Ok(Some(kept)) => kept,
            Ok(None) => return,
            Err(error) => return self.set_unkept(Some(error.to_string())),
        };
        if !recalled.recall(objects.iter().map(Object::key)) {
            return;
        }
        let age = changed.elapsed().unwrap_or_default().as_secs();
        let path = last.path().display();
        self.recalled = Some(format!("started with the objects of {path}, {age} s old: the API server did not answer"));
        self.changes.extend(objects.into_iter().map(ObjectChange::Put));
        self.is_recalled = true;
        self.has_news = true;
    }

    fn set_unkept(&mut self, why: Option<String>) {
        self.has_news |= self.unkept != why;
        self.unkept = why;
    }

    /// Writes down what changed.
    fn keep(&mut self, last: &mut Last) {
        if self.has_news && self.unkept.is_none() {
            let kept = last.add(&self.changes, self.unlisted.is_empty());
            self.set_unkept(kept.err().map(|error| error.to_string()));
        }
    }

    fn take(&mut self, Said { kind, heard }: Said) {
        match heard {
            Heard::Objects { changes, problems } => {
                self.has_news |= !changes.is_empty() || !problems.is_empty();
                self.changes.extend(changes);
                for (key, problem) in problems {
                    match problem {
                        Some(sentence) => drop(self.problems.insert(key, sentence)),
                        None => drop(self.problems.remove(&key)),
                    }
                }
            }
            Heard::Listed => {
                self.has_news |= self.unlisted.remove(&kind);
                self.recalled = self.recalled.take().filter(|_| !self.unlisted.is_empty());
                self.answers(kind);
            }
            Heard::Term(term) => {
                self.has_news |= term != self.term;
                self.term = term;
            }
            Heard::Watching => self.answers(kind),
            Heard::Failed(why) => self.fail(kind, why),
        }
    }

    fn answers(&mut self, kind: Kind) {
        self.failing.remove(&kind);
        self.follow_reach();
    }

    fn fail(&mut self, kind: Kind, why: String) {
        let why = format!("{}: {why}", kind.name());
        let since = self.failing.get(&kind).map_or_else(Instant::now, |(since, _)| *since);
        self.failing.insert(kind, (since, why));
        self.follow_reach();
    }

    /// One kind that fails is enough; the first that did says why.
    fn follow_reach(&mut self) {
        let now = match (self.failing.values().min_by_key(|(since, _)| *since), &self.reach) {
            (Some((since, why)), _) => Reach::Failing { since: *since, why: why.clone() },
            (None, Reach::Connected { since }) => Reach::Connected { since: *since },
            (None, Reach::Reading { since }) if !self.unlisted.is_empty() => Reach::Reading { since: *since },
            (None, _) if !self.unlisted.is_empty() => Reach::Reading { since: Instant::now() },
            (None, _) => Reach::Connected { since: Instant::now() },
        };
        self.has_news |= now != self.reach;
        self.reach = now;
    }

    fn update(&mut self) -> Update {
        self.has_news = false;
        Update {
            changes: std::mem::take(&mut self.changes),
            statuses: Vec::new(),
            problems: self.problems.values().chain(&self.recalled).chain(&self.unkept).cloned().collect(),
            is_complete: self.unlisted.is_empty() || self.is_recalled,
            reach: self.reach.clone(),
            term: self.term,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(kind: Kind, heard: Heard) -> Said {
        Said { kind, heard }
    }

    #[test]
    fn complete_is_every_kind_and_one_that_fails_says_since_when() {
        let mut hub = Hub::new();
        for kind in KINDS {
            assert!(!hub.update().is_complete, "{kind:?}");
            hub.take(said(kind, Heard::Listed));
        }
        let update = hub.update();
        assert!(update.is_complete && matches!(update.reach, Reach::Connected { .. }), "{:?}", update.reach);
        hub.take(said(Kind::Pod, Heard::Failed("gone".into())));
        let Reach::Failing { since, why } = hub.update().reach else { panic!() };
        assert_eq!(why, "Pod: gone");
        hub.take(said(Kind::Node, Heard::Failed("too".into())));
        hub.take(said(Kind::Pod, Heard::Failed("still gone".into())));
        assert_eq!(hub.update().reach, Reach::Failing { since, why: "Pod: still gone".into() });
        hub.take(said(Kind::Pod, Heard::Watching));
        assert!(matches!(hub.update().reach, Reach::Failing { why, .. } if why == "Node: too"));
        hub.take(said(Kind::Node, Heard::Watching));
        assert!(matches!(hub.update().reach, Reach::Connected { .. }));
        hub.take(said(Kind::Node, Heard::Watching));
        assert!(!hub.has_news);
    }
}
