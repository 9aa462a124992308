//! Follows a directory by inotify (through `notify`), on a thread of its own: reading a big directory must not hold up
//! the rest of control.

use super::Update;
use super::scan::Scan;
use super::status;
use notify::event::{AccessKind, AccessMode, Event, EventKind, ModifyKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::Sender;

/// After a file was closed or went away: what belongs together is read together. What was renamed into its place is
/// complete and waits for nothing.
const SETTLE: Duration = Duration::from_millis(5);
/// After a file began to change without being closed: somebody may still be writing.
const SETTLE_WHILE_WRITTEN: Duration = Duration::from_millis(50);
/// How often a directory that went away is looked for.
const RETRY: Duration = Duration::from_secs(1);

/// Ends the following when dropped.
pub struct Watcher(mpsc::Sender<Notice>);

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.0.send(Notice::Stop);
    }
}

enum Notice {
    Event(notify::Result<Event>),
    Stop,
}

/// Starts the thread that reads and then follows `path`.
pub fn follow(path: &Path, updates: Sender<Update>) -> notify::Result<Watcher> {
    let (sender, notices) = mpsc::channel();
    let to_thread = sender.clone();
    let mut watcher = notify::recommended_watcher(move |event| {
        let _ = to_thread.send(Notice::Event(event));
    })?;
    // Before the first read: what changes meanwhile is read again.
    watcher.watch(path, RecursiveMode::NonRecursive)?;
    let beside = status::directory(path);
    let _ = watcher.watch(&beside, RecursiveMode::NonRecursive);
    let follower = Follower {
        directory: path.to_owned(),
        beside,
        scan: Scan::new(path),
        watcher,
        is_watching: true,
        updates,
        pending: Pending::default(),
    };
    std::thread::Builder::new()
        .name("objects".to_owned())
        .spawn(move || follower.run(notices))
        .map_err(notify::Error::io)?;
    Ok(Watcher(sender))
}

/// How far a file is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    BeingWritten,
    Settled,
    Complete,
}

/// What is to be read, and when.
#[derive(Default)]
struct Pending {
    settled: BTreeSet<PathBuf>,
    being_written: BTreeSet<PathBuf>,
    everything: bool,
    due: Option<Instant>,
    written_due: Option<Instant>,
}

struct Follower {
    directory: PathBuf,
    /// Where Fairway's own word stands; comes with the first one.
    beside: PathBuf,
    scan: Scan,
    watcher: RecommendedWatcher,
    is_watching: bool,
    updates: Sender<Update>,
    pending: Pending,
}

impl Follower {
    fn run(mut self, notices: Receiver<Notice>) {
        let mut update = self.scan.read_all();
        let mut sent = None;
        loop {
            // Nothing new is no news, except that the first read is complete.
            let is_news =
                !update.changes.is_empty() || !update.statuses.is_empty() || sent.as_ref() != Some(&update.problems);
            if is_news {
                sent = Some(update.problems.clone());
                if self.updates.blocking_send(update).is_err() {
                    return;
                }
            }
            if !self.wait(&notices) {
                return;
            }
            update = self.read();
        }
    }

    /// Collects notices until something is due. False: it is over.
    fn wait(&mut self, notices: &Receiver<Notice>) -> bool {
        loop {
            let now = Instant::now();
            let wait = self.pending.next_due().map(|due| due.saturating_duration_since(now));
            let wait = if self.is_watching { wait } else { Some(wait.map_or(RETRY, |wait| wait.min(RETRY))) };
            if wait == Some(Duration::ZERO) {
                return self.drain(notices);
            }
            let notice = match wait {
                Some(wait) => notices.recv_timeout(wait),
                None => notices.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match notice {
                Ok(Notice::Event(event)) => self.take(event),
                Ok(Notice::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
                Err(RecvTimeoutError::Timeout) => self.rewatch(),
            }
        }
    }

    /// Takes what has come meanwhile, so that many files that change at once are read at once. False: it is over.
    fn drain(&mut self, notices: &Receiver<Notice>) -> bool {
        loop {
            match notices.try_recv() {
                Ok(Notice::Event(event)) => self.take(event),
                Ok(Notice::Stop) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    fn take(&mut self, event: notify::Result<Event>) {
        let Ok(event) = event else { return self.pending.all(Instant::now()) };
        if event.need_rescan() {
            return self.pending.all(Instant::now());
        }
        let stage = match event.kind {
            // Comes after one for each of the names.
            EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => return,
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Stage::Complete,
            EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Modify(ModifyKind::Name(_)) => {
                Stage::Settled
            }
            EventKind::Remove(_) => Stage::Settled,
            EventKind::Access(_) => return,
            EventKind::Create(_) | EventKind::Modify(_) | EventKind::Any | EventKind::Other => Stage::BeingWritten,
        };
        for path in event.paths {
            if path == self.directory {
                self.is_watching &= !matches!(event.kind, EventKind::Remove(_));
                self.pending.all(Instant::now());
            } else if path == self.beside {
                let _ = self.watcher.watch(&self.beside, RecursiveMode::NonRecursive);
                self.pending.all(Instant::now());
            } else {
                self.pending.path(path, stage, Instant::now());
            }
        }
    }

    fn rewatch(&mut self) {
        if !self.is_watching && self.watcher.watch(&self.directory, RecursiveMode::NonRecursive).is_ok() {
            self.is_watching = true;
            let _ = self.watcher.watch(&self.beside, RecursiveMode::NonRecursive);
            self.pending.all(Instant::now());
        }
    }

    fn read(&mut self) -> Update {
        let pending = std::mem::take(&mut self.pending);
        if pending.everything {
            return self.scan.read_all();
        }
        let now = Instant::now();
        let mut paths = pending.settled;
        if pending.written_due.is_some_and(|due| due <= now) {
            paths.extend(pending.being_written);
        } else {
            self.pending = Pending {
                being_written: pending.being_written,
                written_due: pending.written_due,
                ..Pending::default()
            };
        }
        self.scan.read(&paths)
    }
}

impl Pending {
    fn next_due(&self) -> Option<Instant> {
        [self.due, self.written_due].into_iter().flatten().min()
    }

    fn all(&mut self, now: Instant) {
        self.everything = true;
        self.due.get_or_insert(now + SETTLE);
    }

    fn path(&mut self, path: PathBuf, stage: Stage, now: Instant) {
        // A mounted ConfigMap changes by renaming `..data`, which all its files point through.
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"..")) {
            self.all(now);
        } else if stage != Stage::BeingWritten {
            // An editor moves a file out of the way by a name that does not count, before it writes the new one.
            let is_complete = stage == Stage::Complete && super::scan::syntax(&path).is_some();
            let due = if is_complete { now } else { now + SETTLE };
            self.due = Some(self.due.map_or(due, |before| before.min(due)));
            self.being_written.remove(&path);
            self.settled.insert(path);
        } else if !self.settled.contains(&path) {
            self.being_written.insert(path);
            self.written_due = Some(now + SETTLE_WHILE_WRITTEN);
        }
        if self.being_written.is_empty() {
            self.written_due = None;
        }
    }
}
