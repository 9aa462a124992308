//! Two controls of one cluster and its pools: one gives the addresses, the other follows, and takes over when the first is
//! gone. A control here is the real client with the real state, and does with them what `supervise` does.

use super::world::{SERVICES, Scratch, timing};
use super::{play, server::Server};
use control::kube::{self, Cluster, Order, Timing};
use control::object::Named;
use control::pool::Pool;
use control::state::State;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

const LEASES: &str = "/apis/coordination.k8s.io/v1/leases";
const PATIENCE: Duration = Duration::from_secs(20);

struct Control {
    cluster: Cluster,
    state: State,
    term: u64,
    is_complete: bool,
    _state_dir: Scratch,
}

impl Control {
    fn new(server: &Server, name: &str) -> Control {
        let state_dir = Scratch::new();
        let at = kube::Server::plain(format!("http://{}", server.addr).parse().unwrap());
        let cluster = Cluster::follow(at, timing(), &state_dir.0, Some(name.to_owned())).unwrap();
        Control { cluster, state: State::new(), term: 0, is_complete: false, _state_dir: state_dir }
    }

    fn gives(&self) -> bool {
        self.cluster.lease().unwrap().leads(self.term)
    }

    /// What is heard within a moment, and what follows from it.
    async fn step(&mut self) {
        while let Ok(update) = tokio::time::timeout(Duration::from_millis(5), self.cluster.next()).await {
            (self.term, self.is_complete) = (update.term, update.is_complete);
            update.changes.into_iter().for_each(|change| self.state.apply(change));
        }
        if !self.is_complete {
            return;
        }
        let pools: [Pool; 1] = ["p=192.0.2.0-192.0.2.63".parse().unwrap()];
        let gives = self.gives();
        self.state.assign_addresses(&pools, gives);
        let due = self.state.statuses_to_write();
        if !due.is_empty() {
            assert!(gives, "only the holder has anything to write: {due:?}");
            // It may have lost the lease meanwhile: then it is told so.
            let _ = self.cluster.writer().write(Order::Statuses(due)).await;
        }
    }

    fn given(&self) -> BTreeMap<Named, Vec<tables::Addr>> {
        self.state.services().map(|service| (Named::clone(&service.id), service.load_balancer_ips.clone())).collect()
    }
}

fn service(name: &str) -> Value {
    let mut service = super::world::service(name, 80);
    service["spec"]["type"] = json!("LoadBalancer");
    service
}

/// What the statuses at the server say.
fn said(server: &Server) -> BTreeMap<String, String> {
    let store = server.store();
    let addr = |object: &Value| object["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().map(str::to_owned);
    let services = store.all().filter(|(collection, _)| *collection == SERVICES);
    services.filter_map(|(_, object)| Some((object["metadata"]["name"].as_str()?.to_owned(), addr(object)?))).collect()
}

fn holder(server: &Server) -> String {
    let store = server.store();
    let lease = store.get(LEASES, "kube-system/fairway");
    lease.map_or_else(String::new, |lease| lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned())
}

async fn start() -> Server {
    let server = Server::start().await;
    super::world::BUILT_IN.iter().chain([&LEASES]).for_each(|collection| server.store().install(collection));
    server
}

/// Every service has an address, none has one that another had, and each keeps what it was given.
struct Watched(BTreeMap<String, String>);

impl Watched {
    async fn until_given(&mut self, server: &Server, controls: &mut [&mut Control], count: usize) -> Duration {
        let begun = Instant::now();
        loop {
            for control in controls.iter_mut() {
                control.step().await;
            }
            let said = said(server);
            let distinct: BTreeSet<&String> = said.values().collect();
            assert_eq!(distinct.len(), said.len(), "an address was given twice: {said:?}");
            assert!(self.0.iter().all(|(name, addr)| said.get(name) == Some(addr)), "{:?} became {said:?}", self.0);
            self.0 = said;
            let is_same = controls.iter().all(|control| control.given().values().flatten().count() == count);
            if self.0.len() == count && is_same {
                return begun.elapsed();
            }
            assert!(begun.elapsed() < PATIENCE, "{:?} of {count}", self.0.len());
        }
    }
}

/// One that has given addresses to three services.
async fn first_gives(server: &Server, watched: &mut Watched) -> Control {
    let mut first = Control::new(server, "first");
    add(server, 0..3);
    watched.until_given(server, &mut [&mut first], 3).await;
    first
}

fn add(server: &Server, names: std::ops::Range<u32>) {
    names.for_each(|i| server.store().put(SERVICES, service(&format!("s{i}"))));
}

#[test]
fn one_gives_and_another_takes_over_when_it_is_killed() {
    play(async {
        let server = start().await;
        add(&server, 0..10);
        let mut watched = Watched(BTreeMap::new());
        let (mut first, mut second) = (Control::new(&server, "first"), Control::new(&server, "second"));
        watched.until_given(&server, &mut [&mut first, &mut second], 10).await;
        let (mut killed, mut left, name) = match holder(&server).as_str() {
            "first" => (first, second, "second"),
            "second" => (second, first, "first"),
            other => panic!("{other:?} holds it"),
        };
        assert!(killed.gives() && !left.gives());
        add(&server, 10..20);
        watched.until_given(&server, &mut [&mut killed, &mut left], 20).await;
        // Amid giving more, and without a word.
        add(&server, 20..30);
        killed.step().await;
        drop(killed);
        add(&server, 30..40);
        let took = watched.until_given(&server, &mut [&mut left], 40).await;
        assert_eq!(holder(&server), name);
        let Timing { lease, answer, .. } = timing();
        assert!(took < 2 * lease + answer, "{took:?}");
        let transitions =
            server.store().get(LEASES, "kube-system/fairway").unwrap()["spec"]["leaseTransitions"].clone();
        assert_eq!(transitions, 2);
    });
}

#[test]
fn who_leaves_gives_it_back_at_once() {
    play(async {
        let server = start().await;
        let mut watched = Watched(BTreeMap::new());
        let mut first = first_gives(&server, &mut watched).await;
        let mut second = Control::new(&server, "second");
        watched.until_given(&server, &mut [&mut first, &mut second], 3).await;
        first.cluster.lease().unwrap().release().await;
        assert_eq!((holder(&server).as_str(), first.gives()), ("", false));
        add(&server, 3..6);
        let took = watched.until_given(&server, &mut [&mut second], 6).await;
        assert!(took < timing().lease, "{took:?}");
    });
}

/// The holder cannot reach the server for longer than the lease lasts, and comes back with what it believed.
#[test]
fn a_holder_that_was_cut_off_gives_nothing_by_what_it_read_before() {
    play(async {
        let server = start().await;
        let mut watched = Watched(BTreeMap::new());
        let mut first = first_gives(&server, &mut watched).await;
        let busy = (500, "InternalError", "etcdserver: request timed out".to_owned());
        let path = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/fairway".to_owned();
        server.faults().refuse.insert(path.clone(), vec![busy; 1_000]);
        let begun = Instant::now();
        while first.gives() {
            assert!(begun.elapsed() < timing().lease, "it believes in its lease for ever");
            first.step().await;
        }
        add(&server, 3..6);
        let waited = Instant::now();
        while waited.elapsed() < Duration::from_millis(300) {
            first.step().await;
        }
        assert_eq!(said(&server).len(), 3, "what is given is given by the holder");
        server.faults().refuse.remove(&path);
        watched.until_given(&server, &mut [&mut first], 6).await;
        assert_eq!(first.term, 2);
    });
}
