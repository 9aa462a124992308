//! An API server on loopback, in plain HTTP: list with pages, watch with bookmarks, 410 Gone, and everything that can go
//! wrong with these on demand. Written from the API's documentation, not from our client.

use super::single;
use super::store::{Refusal, Store, status};
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

type Body = UnsyncBoxBody<Bytes, Infallible>;
type AfterPage = Box<dyn FnOnce(&mut Store) + Send>;

/// What is to go wrong, and what was asked.
#[derive(Default)]
pub struct Faults {
    /// The next requests for a collection are answered so, as often as it stands here.
    pub refuse: BTreeMap<String, Vec<Refusal>>,
    /// Every answer waits for so long.
    pub delay: Duration,
    /// Done after the next page of this collection that is not the last one.
    pub after_page: BTreeMap<String, AfterPage>,
    /// Watches of these say nothing for now.
    pub held: BTreeSet<String>,
    /// A watch that cannot go on says so by an event, with 200 before it; else by its code.
    pub expires_by_event: bool,
    /// What is not allowed: a verb and a resource.
    pub denied: BTreeSet<String>,
    /// Whether something is allowed was asked of these.
    pub reviews: Vec<String>,
    /// What every answer says the time is; None: what it is.
    pub date: Option<String>,
    /// Rises: all watches end. Whether without a word, amid what they were saying.
    cut: u64,
    cut_amid: bool,
    /// Rises: all watches are told that they cannot go on.
    expired: u64,
    /// Rises: watches that may have one get a bookmark.
    bookmarks: u64,
    pub requests: Vec<String>,
    /// The same as roles speak of it: (verb, resource).
    pub asked: BTreeSet<(String, String)>,
    /// Watches that are under way.
    watching: Vec<String>,
}

#[derive(Default)]
pub struct Shared {
    pub store: Mutex<Store>,
    pub faults: Mutex<Faults>,
    changed: Notify,
}

impl Shared {
    pub fn store(&self) -> Change<'_> {
        Change { store: self.store.lock().unwrap(), changed: &self.changed }
    }
}

pub struct Server {
    pub shared: Arc<Shared>,
    pub addr: SocketAddr,
    task: Option<JoinHandle<()>>,
}

impl Server {
    pub async fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let task = Some(tokio::spawn(accept(listener, shared.clone())));
        Server { shared, addr, task }
    }

    pub fn store(&self) -> Change<'_> {
        self.shared.store()
    }

    pub fn faults(&self) -> MutexGuard<'_, Faults> {
        self.shared.faults.lock().unwrap()
    }

    /// Connections break, and new ones are refused.
    pub async fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
    }

    pub async fn start_again(&mut self) {
        let listener = TcpListener::bind(self.addr).await.unwrap();
        self.task = Some(tokio::spawn(accept(listener, self.shared.clone())));
    }

    /// Ends all watches, amid an event or in good order.
    pub fn cut_watches(&self, amid: bool) {
        let mut faults = self.faults();
        (faults.cut, faults.cut_amid) = (faults.cut + 1, amid);
        drop(faults);
        self.shared.changed.notify_waiters();
    }

    /// What all watches were to go on from is forgotten.
    pub fn expire_watches(&self) {
        self.store().compact();
        self.faults().expired += 1;
        self.shared.changed.notify_waiters();
    }

    pub fn bookmark(&self) {
        self.faults().bookmarks += 1;
        self.shared.changed.notify_waiters();
    }

    pub fn release(&self) {
        self.faults().held.clear();
        self.shared.changed.notify_waiters();
    }

    pub fn is_watched(&self, collection: &str) -> bool {
        self.faults().watching.iter().any(|path| path == collection)
    }

    /// How many lists of a collection were begun.
    pub fn lists_begun(&self, collection: &str) -> usize {
        let begun = |request: &&String| {
            let (path, query) = request.split_once('?').unwrap_or((request, ""));
            path == collection && !query.contains("watch=true") && !query.contains("continue=")
        };
        self.faults().requests.iter().filter(begun).count()
    }
}

/// Watches hear of what was changed when this goes.
pub struct Change<'a> {
    store: MutexGuard<'a, Store>,
    changed: &'a Notify,
}

impl std::ops::Deref for Change<'_> {
    type Target = Store;
    fn deref(&self) -> &Store {
        &self.store
    }
}

impl std::ops::DerefMut for Change<'_> {
    fn deref_mut(&mut self) -> &mut Store {
        &mut self.store
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.changed.notify_waiters();
    }
}

/// Answers until this is dropped; connections end with it.
pub async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let shared = shared.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| dated(request, shared.clone()));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn whole(code: u16, content: &'static str, text: String) -> Response<Body> {
    let body = Full::new(Bytes::from(text)).boxed_unsync();
    Response::builder().status(code).header("content-type", content).body(body).unwrap()
}

pub fn refusal(refusal: &Refusal) -> Response<Body> {
    whole(refusal.0, "application/json", status(refusal).to_string())
}

async fn dated(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Body>, Infallible> {
    let date = shared.faults.lock().unwrap().date.clone();
    let mut response = answer(request, shared).await?;
    if let Some(date) = date {
        response.headers_mut().insert("date", date.parse().unwrap());
    }
    Ok(response)
}

pub async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let query = query(request.uri().query().unwrap_or_default());
    let (delay, refused) = {
        let mut faults = shared.faults.lock().unwrap();
        faults.requests.push(format!("{path}?{}", request.uri().query().unwrap_or_default()));
        faults.asked.insert(as_roles_say(request.method().as_str(), &path, &query));
        (faults.delay, faults.refuse.get_mut(&path).and_then(Vec::pop))
    };
    tokio::time::sleep(delay).await;
    if let Some(refused) = refused {
        return Ok(refusal(&refused));
    }
    let method = request.method().as_str().to_owned();
    let content = request.headers().get("content-type").map_or("", |value| value.to_str().unwrap()).to_owned();
    if let Ok(body) = request.into_body().collect().await
        && let Some((code, object)) = single::answer(&shared, (&method, &path, &content), &query, &body.to_bytes())
    {
        return Ok(whole(code, "application/json", object.to_string()));
    }
    if !shared.store.lock().unwrap().has(&path) {
        return Ok(whole(404, "text/plain", "404 page not found\n".to_owned()));
    }
    let is_watch = query.get("watch").is_some_and(|text| text == "true" || text == "1");
    Ok(if is_watch { watch(&path, &query, shared) } else { list(&path, &query, &shared) })
}

/// As in the documentation, "Determine the Request Verb": `GROUP/RESOURCE`, or with its subresource.
fn as_roles_say(method: &str, path: &str, query: &BTreeMap<String, String>) -> (String, String) {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (group, rest) = match parts.as_slice() {
        ["api", _, rest @ ..] => ("", rest),
        ["apis", group, _, rest @ ..] => (*group, rest),
        _ => ("", [].as_slice()),
    };
    let rest = match rest {
        ["namespaces", _, rest @ ..] if !rest.is_empty() => rest,
        all => all,
    };
    let is_watch = query.get("watch").is_some_and(|text| text == "true" || text == "1");
    let verb = match (method, rest.len()) {
        ("GET", 1) if is_watch => "watch",
        ("GET", 1) => "list",
        _ => &method.to_lowercase(),
    };
    let kind = rest.iter().step_by(2).copied().collect::<Vec<_>>().join("/");
    (verb.to_owned(), format!("{group}/{kind}"))
}

fn query(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn list(path: &str, query: &BTreeMap<String, String>, shared: &Shared) -> Response<Body> {
    let limit = query.get("limit").map_or(usize::MAX, |text| text.parse().unwrap());
    let token = query.get("continue").map(String::as_str);
    let mut store = shared.store.lock().unwrap();
    match store.list(path, limit, token) {
        Err(error) => refusal(&error),
        Ok(page) => {
            if page["metadata"]["continue"].is_string()
                && let Some(act) = shared.faults.lock().unwrap().after_page.remove(path)
            {
                act(&mut store);
            }
            whole(200, "application/json", page.to_string())
        }
    }
}

/// A watch on its way.
struct Watching {
    shared: Arc<Shared>,
    path: String,
    after: u64,
    cut: u64,
    expired: u64,
    bookmarks: u64,
    wants_bookmarks: bool,
    ends: Instant,
    waiting: VecDeque<Bytes>,
    is_over: bool,
}

fn watch(path: &str, query: &BTreeMap<String, String>, shared: Arc<Shared>) -> Response<Body> {
    if query.contains_key("sendInitialEvents") {
        let message = "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
        return refusal(&(422, "Invalid", message.to_owned()));
    }
    let after: u64 = query.get("resourceVersion").map_or(0, |text| text.parse().unwrap());
    let seconds = query.get("timeoutSeconds").map_or(1800, |text| text.parse().unwrap());
    let checked = shared.store.lock().unwrap().check_version(after);
    let mut faults = shared.faults.lock().unwrap();
    faults.watching.push(path.to_owned());
    let mut watching = Watching {
        path: path.to_owned(),
        after,
        cut: faults.cut,
        expired: faults.expired,
        bookmarks: faults.bookmarks,
        wants_bookmarks: query.get("allowWatchBookmarks").is_some_and(|text| text == "true"),
        ends: Instant::now() + Duration::from_secs(seconds),
        waiting: VecDeque::new(),
        is_over: false,
        shared: shared.clone(),
    };
    if let Err(error) = checked {
        if !faults.expires_by_event {
            drop(faults);
            return refusal(&error);
        }
        watching.say("ERROR", status(&error));
        watching.is_over = true;
    }
    drop(faults);
    let lines = stream::unfold(watching, async |mut watching| {
        let line = watching.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(line)), watching))
    });
    let body = StreamBody::new(lines).boxed_unsync();
    Response::builder().status(200).header("content-type", "application/json").body(body).unwrap()
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut faults = self.shared.faults.lock().unwrap();
        let at = faults.watching.iter().position(|path| *path == self.path).expect("it was begun");
        faults.watching.swap_remove(at);
    }
}

impl Watching {
    fn say(&mut self, what: &str, object: Value) {
        self.waiting.push_back(Bytes::from(format!("{}\n", json!({ "type": what, "object": object }))));
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.waiting.pop_front() {
                return Some(line);
            }
            if self.is_over || Instant::now() >= self.ends {
                return None;
            }
            let shared = self.shared.clone();
            let changed = shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            self.look();
            if self.waiting.is_empty() && !self.is_over {
                let _ = tokio::time::timeout_at(self.ends, changed).await;
            }
        }
    }

    fn look(&mut self) {
        let shared = self.shared.clone();
        let (store, faults) = (shared.store.lock().unwrap(), shared.faults.lock().unwrap());
        if faults.cut != self.cut {
            self.is_over = true;
            if faults.cut_amid {
                self.waiting.push_back(Bytes::from_static(b"{\"type\": \"MODIF"));
            }
            return;
        }
        if faults.held.contains(&self.path) {
            return;
        }
        if faults.expired != self.expired {
            self.say("ERROR", status(&super::store::expired("the resource version")));
            self.is_over = true;
            return;
        }
        for event in store.changes(&self.path, self.after) {
            self.after = event.version;
            self.say(event.what, event.object);
        }
        if faults.bookmarks != self.bookmarks && self.wants_bookmarks {
            (self.bookmarks, self.after) = (faults.bookmarks, store.version);
            let object = json!({ "kind": "Object", "apiVersion": "v1",
                "metadata": { "resourceVersion": store.version.to_string(), "creationTimestamp": null } });
            self.say("BOOKMARK", object);
        }
    }
}
