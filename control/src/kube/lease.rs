//! The Lease by which one node at a time does what is per cluster (coordination.k8s.io/v1). A holder that does not renew it
//! is replaced once another has seen nothing new of it for as long as it lasts, each by its own clock: clocks of others are
//! never compared. A holder counts as such for two thirds of that time after its last renewal began, so that it has
//! stopped before anybody takes over. It must not know what is done by the holder.

use super::write::{Desk, Why};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::core::Request;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

const NAME: &str = "fairway";
/// Of how long the lease lasts: how often it is renewed, and how long a renewal counts.
const RENEWALS: u32 = 5;
const COUNTS: f64 = 2.0 / 3.0;
/// For giving it back at exit.
const RELEASE_LIMIT: Duration = Duration::from_secs(2);

/// What those who act for the cluster ask. Copies are of one lease.
#[derive(Clone, Debug)]
pub struct Lease {
    terms: watch::Receiver<u64>,
    until: watch::Receiver<Option<Instant>>,
    release: mpsc::Sender<oneshot::Sender<()>>,
}

impl Lease {
    /// Rises each time that this node becomes the holder; 0 before.
    pub fn terms(&self) -> watch::Receiver<u64> {
        self.terms.clone()
    }

    /// How long this node surely is the holder from now on.
    pub fn left(&self) -> Option<Duration> {
        let left = self.until.borrow().map(|until| until.saturating_duration_since(Instant::now()));
        left.filter(|left| !left.is_zero())
    }

    /// Whether this node may act by what it has read in its term `read`.
    pub fn leads(&self, read: u64) -> bool {
        read == *self.terms.borrow() && self.left().is_some()
    }

    /// Gives it back, so that others need not wait.
    pub async fn release(&self) {
        let (done, released) = oneshot::channel();
        if self.release.send(done).await.is_ok() {
            let _ = timeout(RELEASE_LIMIT, released).await;
        }
    }
}

/// Tries to become the holder and to stay it, for ever.
pub struct Keeper {
    /// This node's name among holders.
    identity: String,
    namespace: String,
    lasts: Duration,
    terms: watch::Sender<u64>,
    until: watch::Sender<Option<Instant>>,
    releases: mpsc::Receiver<oneshot::Sender<()>>,
    /// What another holder last wrote, and when this was first seen.
    seen: Option<(Value, Instant)>,
}

impl Keeper {
    /// `namespace`: where the role of the manifest allows it.
    pub fn new(identity: String, namespace: String, lasts: Duration) -> (Keeper, Lease) {
        let ((terms, of_terms), (until, of_until)) = (watch::channel(0), watch::channel(None));
        let (release, releases) = mpsc::channel(1);
        let lease = Lease { terms: of_terms, until: of_until, release };
        (Keeper { identity, namespace, lasts, terms, until, releases, seen: None }, lease)
    }

    pub(super) async fn run(mut self, desk: Desk) {
        loop {
            let begun = Instant::now();
            // What cannot be asked is no answer: what counted counts for its time.
            if let Ok(Ok(is_ours)) = timeout(self.lasts, self.attempt(&desk)).await {
                self.note(is_ours, begun);
            }
            tokio::select! {
                () = tokio::time::sleep_until(begun + self.lasts / RENEWALS) => {}
                done = self.releases.recv() => {
                    let was_ours = self.until.send_replace(None).is_some();
                    if was_ours {
                        let _ = timeout(RELEASE_LIMIT, self.give_back(&desk)).await;
                    }
                    drop(done);
                    return;
                }
            }
        }
    }

    fn note(&mut self, is_ours: bool, begun: Instant) {
        let holds = self.until.borrow().is_some_and(|until| until > begun);
        let until = is_ours.then(|| begun + self.lasts.mul_f64(COUNTS));
        self.until.send_replace(until);
        // After a gap others may have acted: what was read before it does not count.
        if is_ours && !holds {
            self.terms.send_modify(|term| *term += 1);
        }
    }

    fn leases(&self) -> Request {
        Request::new(format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.namespace))
    }

    /// Whether the lease is ours now.
    async fn attempt(&mut self, desk: &Desk) -> Result<bool, Why> {
        let lease = match desk.ask(self.leases().get(NAME, &Default::default())).await {
            Err(why) if why.code == Some(404) => return self.write(desk, None).await,
            answer => answer?,
        };
        match self.may_take(&lease, Instant::now()) {
            true => self.write(desk, Some(&lease)).await,
            false => Ok(false),
        }
    }

    fn may_take(&mut self, lease: &Value, now: Instant) -> bool {
        let spec = &lease["spec"];
        let holder = spec["holderIdentity"].as_str().unwrap_or_default();
        if holder.is_empty() || holder == self.identity {
            return true;
        }
        match &self.seen {
            Some((before, since)) if before == spec => now >= *since + lasts(spec).max(self.lasts),
            _ => {
                self.seen = Some((spec.clone(), now));
                false
            }
        }
    }

    /// Only over what was read: of two who try one is refused.
    async fn write(&mut self, desk: &Desk, old: Option<&Value>) -> Result<bool, Why> {
        let body = self.body(old).to_string().into_bytes();
        let leases = self.leases();
        let request = match old {
            None => leases.create(&PostParams::default(), body),
            Some(_) => leases.replace(NAME, &PostParams::default(), body),
        };
        match desk.ask(request).await {
            Ok(_) => Ok(true),
            Err(why) if why.code == Some(409) => Ok(false),
            Err(why) => Err(why),
        }
    }

    fn body(&self, old: Option<&Value>) -> Value {
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
        let was = |field: &str| old.map_or(Value::Null, |old| old["spec"][field].clone());
        let is_renewal = was("holderIdentity") == self.identity.as_str();
        let transitions = was("leaseTransitions").as_u64().unwrap_or(0) + !is_renewal as u64;
        let mut body = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": { "name": NAME, "namespace": self.namespace },
            "spec": {
                "holderIdentity": self.identity, "leaseDurationSeconds": self.lasts.as_secs().max(1),
                "renewTime": now, "leaseTransitions": transitions,
                "acquireTime": if is_renewal { was("acquireTime") } else { json!(now) },
            },
        });
        if let Some(old) = old {
            body["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
        }
        body
    }

    async fn give_back(&mut self, desk: &Desk) -> Result<(), Why> {
        let lease = desk.ask(self.leases().get(NAME, &Default::default())).await?;
        if lease["spec"]["holderIdentity"] != self.identity.as_str() {
            return Ok(());
        }
        let mut body = self.body(Some(&lease));
        body["spec"]["holderIdentity"] = json!("");
        let replace = self.leases().replace(NAME, &PostParams::default(), body.to_string().into_bytes());
        desk.ask(replace).await.map(drop)
    }
}

/// As the holder says.
fn lasts(spec: &Value) -> Duration {
    Duration::from_secs(spec["leaseDurationSeconds"].as_u64().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(by: &str, renewed: &str) -> Value {
        json!({ "spec": { "holderIdentity": by, "leaseDurationSeconds": 15, "renewTime": renewed, "leaseTransitions": 3 } })
    }

    #[tokio::test]
    async fn another_is_replaced_after_its_time_without_news_whatever_its_clock_says() {
        let (mut keeper, _lease) = Keeper::new("a".to_owned(), "n".to_owned(), Duration::from_secs(10));
        let (begun, after) = (Instant::now(), |s| Duration::from_secs(s));
        assert!(keeper.may_take(&held("", "x"), begun) && keeper.may_take(&held("a", "x"), begun));
        assert!(!keeper.may_take(&held("b", "1999-01-01T00:00:00Z"), begun), "first seen now");
        assert!(!keeper.may_take(&held("b", "1999-01-01T00:00:00Z"), begun + after(14)));
        assert!(!keeper.may_take(&held("b", "1999-01-01T00:00:01Z"), begun + after(14)), "renewed");
        assert!(!keeper.may_take(&held("b", "1999-01-01T00:00:01Z"), begun + after(28)));
        assert!(keeper.may_take(&held("b", "1999-01-01T00:00:01Z"), begun + after(29)));
    }

    #[tokio::test]
    async fn a_holder_stops_before_others_may_take_over_and_begins_a_new_term_after_a_gap() {
        let (mut keeper, lease) = Keeper::new("a".to_owned(), "n".to_owned(), Duration::from_secs(15));
        assert!(!lease.leads(0) && lease.left().is_none());
        let now = Instant::now();
        keeper.note(true, now);
        assert!(lease.leads(1) && !lease.leads(0) && lease.left().unwrap() <= Duration::from_secs(10));
        keeper.note(true, now);
        assert!(lease.leads(1), "the same term");
        // The last renewal that was answered began too long ago.
        keeper.until.send_replace(Some(now));
        assert!(!lease.leads(1));
        keeper.note(true, now);
        assert!(lease.leads(2) && !lease.leads(1), "what was read in the last term is old");
        keeper.note(false, now);
        assert!(!lease.leads(2));
    }

    #[test]
    fn renewals_keep_when_it_was_taken_and_count_no_transition() {
        let (keeper, _lease) = Keeper::new("a".to_owned(), "n".to_owned(), Duration::from_secs(15));
        let mut own = held("a", "x");
        own["spec"]["acquireTime"] = json!("then");
        let renewed = keeper.body(Some(&own));
        assert_eq!(
            (&renewed["spec"]["acquireTime"], &renewed["spec"]["leaseTransitions"]),
            (&json!("then"), &json!(3))
        );
        let taken = keeper.body(Some(&held("b", "x")));
        assert_eq!(taken["spec"]["leaseTransitions"], 4);
        assert_eq!(keeper.body(None)["metadata"]["resourceVersion"], Value::Null);
    }
}
