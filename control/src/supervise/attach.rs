//! The path of a pod: address and file first, then the interface in the pod's namespace (beside the loop, since it takes
//! a while), then the dataplane, then the tables; the answer when those are in force. And back, also when the caller did not
//! live to hear the answer.

use super::Supervisor;
use super::session::{SessionError, pod_spec};
use super::unknown::Unknown;
use crate::api::{CniAttached, CniPod, Failure, Reply, code};
use crate::attachment::{self, Attachment, Store, StoreError};
use crate::ipam::{IpamError, mac_of};
use crate::object::{Object, ObjectChange};
use crate::pod::{Made, PodError};
use crate::serve::ReplyTo;
use crate::state::{LocalEndpoint, State};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::time::Duration;
use tables::message::InterfaceInfo;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// An ADD answers after this long even if the tables are not in force yet; the pod's traffic starts when they are.
const PUBLISH_LIMIT: Duration = Duration::from_secs(2);

/// Work in pods' namespaces that is under way.
pub struct Attaching {
    busy: BTreeSet<String>,
    pub(super) unknown: Vec<Unknown>,
    sender: mpsc::UnboundedSender<Outcome>,
    receiver: mpsc::UnboundedReceiver<Outcome>,
}

pub enum Outcome {
    Made { key: String, made: Result<Made, PodError>, reply: ReplyTo },
    Removed { key: String, removed: Result<(), PodError>, reply: Option<ReplyTo> },
}

impl Attaching {
    pub fn new() -> Attaching {
        let (sender, receiver) = mpsc::unbounded_channel();
        Attaching { busy: BTreeSet::new(), unknown: Vec::new(), sender, receiver }
    }

    pub fn is_busy(&self, key: &str) -> bool {
        self.busy.contains(key)
    }

    /// May be dropped while it waits.
    pub async fn next(&mut self) -> Outcome {
        // This process holds a sender, so the channel never ends.
        match self.receiver.recv().await {
            Some(outcome) => outcome,
            None => std::future::pending().await,
        }
    }

    fn start(&mut self, key: &str, work: impl Future<Output = Outcome> + Send + 'static) {
        self.busy.insert(key.to_owned());
        let sender = self.sender.clone();
        tokio::spawn(async move {
            let _ = sender.send(work.await);
        });
    }
}

/// An ADD that waits for its tables.
pub struct Waiter {
    key: String,
    reply: ReplyTo,
    attached: CniAttached,
    deadline: Instant,
    published: bool,
}

impl Supervisor {
    pub(super) fn start_add(&mut self, pod: CniPod, reply: ReplyTo) {
        if reply.is_closed() {
            // Its DEL may have been answered before.
            return;
        }
        match self.begin_add(pod) {
            Ok(attachment) => {
                let key = attachment.key();
                let interface = self.interface_of(&attachment);
                self.attaching
                    .start(&key.clone(), async move { Outcome::Made { key, made: interface.create().await, reply } });
            }
            Err(failure) => drop(reply.send(Reply::Failed(failure))),
        }
    }

    fn begin_add(&mut self, pod: CniPod) -> Result<Attachment, Failure> {
        let key = attachment::key(&pod.container, &pod.ifname);
        let asked = self.asked_for(&pod)?;
        let netns = pod.netns.ok_or_else(|| Failure::new(code::ENVIRONMENT, "CNI_NETNS is missing"))?;
        if self.store.get(&key).is_some() || self.attaching.is_busy(&key) {
            let text = format!("{key} is attached already: DEL it first");
            return Err(Failure::new(code::ALREADY_ATTACHED, text));
        }
        let mtu = self.pod_mtu();
        let whose = if pod.pod.is_empty() { key } else { format!("pod {}/{}", pod.namespace, pod.pod) };
        let added = self.store.add(&asked.addrs, asked.pool.as_deref(), |addrs| Attachment {
            container: pod.container,
            ifname: pod.ifname,
            network: pod.network,
            netns,
            namespace: pod.namespace,
            pod: pod.pod,
            mac: pod.wants.mac.unwrap_or_else(|| mac_of(addrs[0])),
            addrs,
            mtu,
            ports: pod.wants.ports,
            bandwidth: pod.wants.bandwidth,
        });
        added.map_err(|error| Failure::new(code_of_store(&error), format!("{whose}: {error}")))
    }

    pub(super) async fn finish_attaching(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Made { key, made, reply } => {
                self.attaching.busy.remove(&key);
                match self.finish_add(&key, made).await {
                    Ok(attached) => {
                        let deadline = Instant::now() + PUBLISH_LIMIT;
                        self.waiters.push(Waiter { key, reply, attached, deadline, published: false });
                    }
                    Err(failure) => drop(reply.send(Reply::Failed(failure))),
                }
            }
            Outcome::Removed { key, removed, reply } => {
                self.attaching.busy.remove(&key);
                let outcome = self.finish_del(&key, removed);
                reply.map(|reply| reply.send(Reply::of(outcome)));
            }
        }
    }

    async fn finish_add(&mut self, key: &str, made: Result<Made, PodError>) -> Result<CniAttached, Failure> {
        let Some(attachment) = self.store.get(key).cloned() else {
            return Err(Failure::new(code::TRY_AGAIN, format!("{key} was taken away while it was attached")));
        };
        let added = match made {
            Ok(made) => {
                self.custody.taps.insert(key.to_owned(), made.tap);
                self.put_stand_in(&attachment);
                self.add_to_dataplane(&attachment).await.map_err(|error| Failure::new(code::FAILED, error))
            }
            Err(error) => Err(Failure::new(code_of(&error), error)),
        };
        if let Err(failure) = added {
            self.take_stand_in(&attachment);
            self.custody.taps.remove(key);
            let _ = self.interface_of(&attachment).remove().await;
            let _ = self.store.remove(key);
            return Err(failure);
        }
        self.clear_problem(key);
        Ok(self.attached(&attachment))
    }

    fn attached(&self, attachment: &Attachment) -> CniAttached {
        let gateways = self.interface_of(attachment).gateways;
        let addrs = attachment.addrs.clone();
        CniAttached { mac: attachment.mac.to_string(), mtu: attachment.mtu, addrs, gateways }
    }

    /// Containers that are no pods have no object that says who they are.
    fn put_stand_in(&mut self, attachment: &Attachment) {
        if let Some(pod) = attachment.stand_in(&self.args.node) {
            self.state.apply(ObjectChange::Put(Object::Pod(pod)));
        }
    }

    fn take_stand_in(&mut self, attachment: &Attachment) {
        if let Some(pod) = attachment.stand_in(&self.args.node) {
            self.state.apply(ObjectChange::Delete(Object::Pod(pod).key()));
        }
    }

    /// While the dataplane is gone the interface is kept for its return.
    async fn add_to_dataplane(&mut self, attachment: &Attachment) -> Result<(), SessionError> {
        let key = attachment.key();
        let (Some(dataplane), Some(tap)) = (&mut self.dataplane, self.custody.taps.get(&key)) else { return Ok(()) };
        match dataplane.add(pod_spec(attachment), &[tap.as_fd()]).await {
            Ok(info) => {
                self.state.attach(key, endpoint(attachment, &info));
                Ok(())
            }
            Err(error @ SessionError::Refused { .. }) => Err(error),
            Err(error) => {
                self.lose_dataplane(error);
                Ok(())
            }
        }
    }

    pub(super) async fn cni_del(&mut self, key: &str, reply: Option<ReplyTo>) {
        self.give_up_unknown(key);
        self.give_up_waiter(key);
        if self.attaching.is_busy(key) {
            let failure = Failure::new(code::TRY_AGAIN, format!("{key} is being attached or detached"));
            reply.map(|reply| reply.send(Reply::Failed(failure)));
            return;
        }
        let Some(attachment) = self.store.get(key).cloned() else {
            reply.map(|reply| reply.send(Reply::of(Ok(()))));
            return;
        };
        self.take_from_dataplane(key).await;
        self.state.detach(key);
        self.take_stand_in(&attachment);
        self.custody.taps.remove(key);
        self.clear_problem(key);
        let (owned, interface) = (key.to_owned(), self.interface_of(&attachment));
        self.attaching.start(key, async move {
            let removed = interface.remove().await;
            Outcome::Removed { key: owned, removed, reply }
        });
    }

    async fn take_from_dataplane(&mut self, key: &str) {
        let Some(dataplane) = &mut self.dataplane else { return };
        let Some(id) = dataplane.interfaces.get(key).map(|info| info.id) else { return };
        match dataplane.remove(id, key).await {
            Ok(()) => {}
            Err(error @ SessionError::Refused { .. }) => crate::log(format_args!("{error}")),
            Err(error) => self.lose_dataplane(error),
        }
    }

    fn finish_del(&mut self, key: &str, removed: Result<(), PodError>) -> Result<(), Failure> {
        if let Err(error) = removed {
            crate::log(format_args!("{key}: {error}"));
        }
        self.store.remove(key).map(drop).map_err(|error| Failure::new(code::IO, error))
    }

    pub(super) fn cni_check(&mut self, pod: CniPod, reply: ReplyTo) {
        let key = attachment::key(&pod.container, &pod.ifname);
        let Some(attachment) = self.store.get(&key) else {
            let failure = Failure::new(code::UNKNOWN_CONTAINER, format!("{key} is not attached"));
            return drop(reply.send(Reply::Failed(failure)));
        };
        let connected = self.dataplane.as_ref().is_none_or(|dataplane| dataplane.interfaces.contains_key(&key));
        let (interface, attached) = (self.interface_of(attachment), self.attached(attachment));
        tokio::spawn(async move {
            let checked = match interface.check().await {
                Ok(()) if connected => Ok(attached),
                Ok(()) => Err(Failure::new(code::NOT_AS_MADE, format!("the dataplane does not serve {key}"))),
                Err(error) => Err(Failure::new(code::NOT_AS_MADE, error)),
            };
            let _ = reply.send(Reply::of(checked));
        });
    }

    /// Detaches everything of a network that the runtime no longer knows.
    pub(super) async fn cni_gc(&mut self, network: &str, valid: Vec<(String, String)>) -> Result<(), Failure> {
        let valid: BTreeSet<String> =
            valid.iter().map(|(container, ifname)| attachment::key(container, ifname)).collect();
        let is_of = |attachment: &&Attachment| attachment.network.is_empty() || attachment.network == network;
        let of_network = self.store.iter().filter(is_of).map(Attachment::key);
        let stale: Vec<String> = of_network.filter(|key| !valid.contains(key)).collect();
        for key in stale {
            self.cni_del(&key, None).await;
        }
        Ok(())
    }

    pub(super) fn cni_status(&self) -> Result<(), Failure> {
        let failed = |code, why| Err(Failure::new(code, why));
        match &self.dataplane {
            None => failed(code::NO_CONNECTION, "fairway-dataplane is not connected: start it"),
            Some(dataplane) if !dataplane.has_tables => failed(code::NO_CONNECTION, "no tables are in force yet"),
            Some(_) if self.store.ipam().ranges().is_empty() => {
                failed(code::NOT_AVAILABLE, "the node has no pod range yet")
            }
            Some(_) => Ok(()),
        }
    }

    pub(super) fn mark_waiters_published(&mut self) {
        self.waiters.iter_mut().for_each(|waiter| waiter.published = true);
    }

    /// What nobody is there to hear of is undone: who is to DEL it may have done so already.
    pub(super) async fn answer_waiters(&mut self) {
        if self.waiters.is_empty() {
            return;
        }
        let (now, in_force) = (Instant::now(), self.is_in_force() && !self.state.has_changes());
        let done = |waiter: &mut Waiter| waiter.published && in_force || waiter.deadline <= now;
        let unheard = |waiter: Waiter| waiter.reply.send(Reply::of(Ok(waiter.attached))).err().map(|_| waiter.key);
        let unheard: Vec<String> = self.waiters.extract_if(.., done).filter_map(unheard).collect();
        for key in unheard {
            crate::log(format_args!("{key}: who asked to attach it is gone, so it is detached"));
            self.cni_del(&key, None).await;
        }
    }

    /// A DEL comes before its ADD has been answered.
    fn give_up_waiter(&mut self, key: &str) {
        for waiter in self.waiters.extract_if(.., |waiter| waiter.key == key) {
            let failure = Failure::new(code::TRY_AGAIN, format!("{key} was taken away while it was attached"));
            let _ = waiter.reply.send(Reply::Failed(failure));
        }
    }

    /// Attachments that the dataplane serves, as the state wants them.
    pub(super) fn local_endpoints(&self) -> BTreeMap<String, LocalEndpoint> {
        let Some(dataplane) = &self.dataplane else { return self.state.local().endpoints.clone() };
        let served = |attachment: &Attachment| {
            let info = dataplane.interfaces.get(&attachment.key())?;
            Some((attachment.key(), endpoint(attachment, info)))
        };
        self.store.iter().filter_map(served).collect()
    }
}

/// The state before any source has spoken: containers of an earlier run that are no pods.
pub(super) fn stand_ins(store: &Store, node: &str) -> State {
    let mut state = State::new();
    let pods = store.iter().filter_map(|attachment| attachment.stand_in(node));
    pods.for_each(|pod| state.apply(ObjectChange::Put(Object::Pod(pod))));
    state
}

fn endpoint(attachment: &Attachment, info: &InterfaceInfo) -> LocalEndpoint {
    LocalEndpoint {
        interface: info.id,
        owner: info.owner,
        mac: attachment.mac,
        addrs: attachment.addrs.clone(),
        pod: attachment.pod_id(),
    }
}

/// What no waiting will change is the configuration's fault.
fn code_of_store(error: &StoreError) -> u32 {
    use IpamError::{NotInPool, NotOurs, PoolElsewhere, UnknownPool};
    match error {
        StoreError::Ipam(NotOurs(_) | NotInPool { .. } | PoolElsewhere { .. } | UnknownPool(_)) => code::NETWORK_CONFIG,
        StoreError::Ipam(_) => code::TRY_AGAIN,
        _ => code::IO,
    }
}

fn code_of(error: &PodError) -> u32 {
    match error {
        PodError::Enter { .. } => code::UNKNOWN_CONTAINER,
        PodError::HostNetwork(_) => code::NETWORK_CONFIG,
        PodError::Exists(_) => code::ALREADY_ATTACHED,
        _ => code::IO,
    }
}
