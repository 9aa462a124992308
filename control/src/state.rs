//! What should be: the cluster's objects and the facts about this node, and what of it changed since it was last
//! compiled. Plain data with indexes, so that each change leads to the few things that depend on it. No I/O, no clock,
//! no rows.

mod addressing;
mod balanced;
pub mod changes;
mod copy;
mod index;
pub mod local;
pub mod options;
mod served;
mod shared;
mod store;
#[cfg(test)]
mod tests;

pub use addressing::Asked;
pub use balanced::Status;
pub use changes::Changes;
pub use local::{KernelRoute, Local, LocalEndpoint, Uplink};
pub use options::{DetectLocal, NodePortAddresses, ServiceOptions};
pub use served::{Number, Served, Source};
pub use shared::Shared;
use shared::SharedParts;
pub use store::{ByName, HashMap, NumberSet};

use crate::object::parse::namespace_labels;
use crate::object::selector::has_all;
use crate::object::*;
use index::LabelIndex;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use tables::{Addr, Mac};

#[derive(Default)]
pub struct State {
    pub(crate) nodes: BTreeMap<String, Node>,
    namespaces: BTreeMap<String, Namespace>,
    pub(crate) pods: ByName<Pod>,
    services: served::Services,
    pub(crate) policies: ByName<NetworkPolicy>,
    pub(crate) cluster_policies: BTreeMap<ObjectKey, ClusterPolicy>,
    local: Local,
    /// This node's.
    zone: Option<String>,
    /// The first complete read of the objects is in.
    complete: bool,
    /// Pod -> keys of its attachments here.
    attachments_of: ByName<BTreeSet<String>>,
    pods_by_label: LabelIndex,
    shared: SharedParts,
    /// Services by one pair of their selector.
    services_by_label: LabelIndex,
    balanced: balanced::Balanced,
    changes: Changes,
    /// Services that are gone, as the last changes that were taken said.
    gone: Vec<Number>,
}

impl State {
    pub fn new() -> State {
        State::default()
    }

    /// Takes in one change of an object. A repetition of what is known changes nothing.
    pub fn apply(&mut self, change: ObjectChange) {
        match change {
            ObjectChange::Put(object) => self.put(object),
            ObjectChange::Delete(key) => self.delete(&key),
        }
    }

    fn put(&mut self, object: Object) {
        match object {
            Object::Node(node) => self.replace_node(&node.name.clone(), Some(node)),
            Object::Namespace(namespace) => self.replace_namespace(&namespace.name.clone(), Some(namespace)),
            Object::Pod(pod) => self.replace_pod(&Named::clone(&pod.id), Some(pod)),
            Object::Service(service) => self.put_service(service),
            Object::EndpointSlice(slice) => self.put_slice(slice),
            Object::NetworkPolicy(policy) => self.replace_policy(&policy.id.clone(), Some(policy)),
            Object::ClusterPolicy(policy) => self.replace_cluster_policy(policy.key(), Some(policy)),
        }
    }

    fn delete(&mut self, key: &ObjectKey) {
        let id = Named::new(&key.namespace, &key.name);
        match key.kind {
            Kind::Node => self.replace_node(&key.name, None),
            Kind::Namespace => self.replace_namespace(&key.name, None),
            Kind::Pod => self.replace_pod(&id, None),
            Kind::Service => self.delete_service(&id),
            Kind::EndpointSlice => self.delete_slice(&id),
            Kind::NetworkPolicy => self.replace_policy(&id, None),
            Kind::ClusterNetworkPolicy | Kind::AdminNetworkPolicy | Kind::BaselineAdminNetworkPolicy => {
                self.replace_cluster_policy(key.clone(), None)
            }
        }
    }

    fn replace_node(&mut self, name: &str, node: Option<Node>) {
        let old = self.nodes.get(name);
        if old == node.as_ref() {
            return;
        }
        let zone = |node: Option<&Node>| node.and_then(|node| node.zone.clone());
        if zone(old) != zone(node.as_ref()) {
            self.mark_services_by_zone();
        }
        self.balanced.mark(true);
        self.changes.nodes.insert(name.to_owned());
        set_entry(&mut self.nodes, name, node);
        self.follow_zone();
    }

    fn follow_zone(&mut self) {
        self.zone = self.nodes.get(&self.local.node).and_then(|node| node.zone.clone());
    }

    /// Services whose derived backends depend on where nodes are.
    fn mark_services_by_zone(&mut self) {
        let derived = |(number, service): &(Number, &Service)| {
            service.distribution != Distribution::Any && self.services.at(*number).slices.is_empty()
        };
        self.changes.services.extend(self.services.iter().filter(derived).map(|(number, _)| number));
    }

    fn replace_namespace(&mut self, name: &str, namespace: Option<Namespace>) {
        let before = self.namespaces.get(name);
        if before.map(|n| n.audit).unwrap_or(false) != namespace.as_ref().map(|n| n.audit).unwrap_or(false) {
            let policies = self.policies.in_namespace(name).into_iter().flat_map(|all| all.values());
            self.changes.policies.extend(policies.map(|policy| policy_key(&policy.id)));
        }
        if before != namespace.as_ref() {
            self.changes.namespaces.insert(name.to_owned());
            set_entry(&mut self.namespaces, name, namespace);
        }
    }

    fn replace_pod(&mut self, id: &Named, mut pod: Option<Pod>) {
        if self.pods.get(id) == pod.as_ref() {
            return;
        }
        if let Some(new) = &mut pod {
            self.shared.enter(new);
        }
        self.mark_services_of(id);
        if let Some(old) = self.pods.get(id) {
            self.pods_by_label.remove(&old.id, &old.labels);
        }
        if let Some(new) = &pod {
            self.pods_by_label.insert(&new.id, &new.labels);
        }
        self.pods.set(id, pod);
        self.mark_services_of(id);
        self.changes.pods.insert(id.clone());
    }

    /// Services whose derived backends may include this pod.
    fn mark_services_of(&mut self, id: &Named) {
        let Some(pod) = self.pods.get(id) else { return };
        for pair in &pod.labels {
            for service in self.services_by_label.with(&id.namespace, pair) {
                let Some(number) = self.services.number(service) else { continue };
                let service = self.services.at(number).service.as_deref();
                if service.is_some_and(|service| has_all(&pod.labels, &service.selector)) {
                    self.changes.services.insert(number);
                }
            }
        }
    }

    fn put_service(&mut self, mut service: Service) {
        self.balanced.enter(&mut service);
        let old = self.services.get(&service.id);
        if old == Some(&service) {
            return;
        }
        self.balanced.mark(old.is_some_and(|old| old.balancer.is_some()) || service.balancer.is_some());
        if old.is_none_or(|old| old.selector != service.selector) {
            if let Some(pair) = old.and_then(anchor) {
                self.services_by_label.remove(&service.id, [pair]);
            }
            if let Some(pair) = anchor(&service) {
                self.services_by_label.insert(&service.id, [pair]);
            }
        }
        let number = self.services.put(service);
        self.changes.services.insert(number);
    }

    fn delete_service(&mut self, id: &Named) {
        self.balanced.leave(id);
        let Some(old) = self.services.get(id) else { return };
        self.balanced.mark(old.balancer.is_some());
        if let Some(pair) = anchor(old) {
            self.services_by_label.remove(id, [pair]);
        }
        self.changes.services.extend(self.services.remove(id));
    }

    fn put_slice(&mut self, slice: EndpointSlice) {
        if self.services.slice(&slice.id) != Some(&slice) {
            let touched = self.services.put_slice(slice);
            self.changes.services.extend(touched.into_iter().flatten());
        }
    }

    fn delete_slice(&mut self, id: &Named) {
        self.changes.services.extend(self.services.remove_slice(id));
    }

    fn replace_policy(&mut self, id: &Named, policy: Option<NetworkPolicy>) {
        if self.policies.get(id) != policy.as_ref() {
            self.policies.set(id, policy);
            self.changes.policies.insert(policy_key(id));
        }
    }

    fn replace_cluster_policy(&mut self, key: ObjectKey, policy: Option<ClusterPolicy>) {
        if self.cluster_policies.get(&key) != policy.as_ref() {
            match policy {
                Some(policy) => self.cluster_policies.insert(key.clone(), policy),
                None => self.cluster_policies.remove(&key),
            };
            self.changes.policies.insert(key);
        }
    }

    /// The first complete read of all objects has been applied: from now on workers may use the tables.
    pub fn set_complete(&mut self) {
        if !self.complete {
            self.complete = true;
            self.changes.node = true;
        }
    }

    pub fn is_complete(&self) -> bool {
        self.complete
    }

    pub fn local(&self) -> &Local {
        &self.local
    }

    /// Replaces all facts about this node; only what differs counts as changed.
    pub fn set_local(&mut self, mut local: Local) {
        let endpoints = std::mem::take(&mut local.endpoints);
        let neighbours = std::mem::take(&mut local.neighbours);
        self.set_kernel_routes(std::mem::take(&mut local.kernel_routes));
        let gone: Vec<_> = self.local.endpoints.keys().filter(|key| !endpoints.contains_key(*key)).cloned().collect();
        gone.iter().for_each(|key| self.detach(key));
        endpoints.into_iter().for_each(|(key, endpoint)| self.attach(key, endpoint));
        let gone: Vec<_> = self.local.neighbours.keys().filter(|a| !neighbours.contains_key(a)).copied().collect();
        gone.iter().for_each(|&addr| self.set_neighbour(addr, None));
        neighbours.into_iter().for_each(|(addr, mac)| self.set_neighbour(addr, Some(mac)));
        self.set_node_facts(local);
    }

    /// Everything but attachments, neighbours and kernel routes, which have calls of their own.
    fn set_node_facts(&mut self, mut facts: Local) {
        std::mem::swap(&mut facts.endpoints, &mut self.local.endpoints);
        std::mem::swap(&mut facts.neighbours, &mut self.local.neighbours);
        std::mem::swap(&mut facts.kernel_routes, &mut self.local.kernel_routes);
        let unchanged = self.local
            == Local {
                endpoints: BTreeMap::new(),
                neighbours: BTreeMap::new(),
                kernel_routes: Vec::new(),
                ..facts.clone()
            };
        self.changes.node |= !unchanged;
        self.local = facts;
        self.follow_zone();
    }

    /// A pod's interface is in place (or is another one now).
    pub fn attach(&mut self, key: String, endpoint: LocalEndpoint) {
        if self.local.endpoints.get(&key) == Some(&endpoint) {
            return;
        }
        self.detach(&key);
        self.attachments_of.entry(&endpoint.pod).insert(key.clone());
        self.mark_attachment(&key, &endpoint.pod);
        self.local.endpoints.insert(key, endpoint);
    }

    pub fn detach(&mut self, key: &str) {
        let Some(old) = self.local.endpoints.remove(key) else { return };
        self.attachments_of.entry(&old.pod).remove(key);
        if self.attachments_of.get(&old.pod).is_some_and(BTreeSet::is_empty) {
            self.attachments_of.set(&old.pod, None);
        }
        self.mark_attachment(key, &old.pod);
    }

    fn mark_attachment(&mut self, key: &str, pod: &Named) {
        self.changes.attachments.insert(key.to_owned());
        self.changes.pods.insert(pod.clone());
        self.mark_services_of(pod);
    }

    /// A next hop's Ethernet address became known, changed, or is no longer known.
    pub fn set_neighbour(&mut self, addr: Addr, mac: Option<Mac>) {
        if self.local.neighbours.get(&addr).copied() != mac {
            self.changes.neighbours.insert(addr);
            match mac {
                Some(mac) => self.local.neighbours.insert(addr, mac),
                None => self.local.neighbours.remove(&addr),
            };
        }
    }

    /// The kernel's routes out of the uplink.
    pub fn set_kernel_routes(&mut self, routes: Vec<KernelRoute>) {
        if self.local.kernel_routes != routes {
            self.local.kernel_routes = routes;
            self.changes.kernel_routes = true;
        }
    }

    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// This node's zone.
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// Whether a pod is on this node.
    pub fn is_here(&self, pod: &Pod) -> bool {
        pod.node.as_deref() == Some(self.local.node.as_str()) || self.attachments_of.get(&pod.id).is_some()
    }

    pub fn pod(&self, id: &Named) -> Option<&Pod> {
        self.pods.get(id)
    }

    pub fn pods(&self) -> impl Iterator<Item = (Named, &Pod)> {
        self.pods.iter()
    }

    pub fn service(&self, id: &Named) -> Option<&Service> {
        self.services.get(id)
    }

    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.iter().map(|(_, service)| service)
    }

    /// A service and its slices.
    pub fn source(&self, id: &Named) -> Option<Source<'_>> {
        self.services.source(id)
    }

    /// By a number that changes named, until the next changes are taken.
    pub fn served(&self, number: Number) -> &Served {
        self.services.at(number)
    }

    pub fn policies(&self) -> impl Iterator<Item = (Named, &NetworkPolicy)> {
        self.policies.iter()
    }

    pub fn cluster_policies(&self) -> impl Iterator<Item = &ClusterPolicy> {
        self.cluster_policies.values()
    }

    /// The rules of a policy in both directions; none if there is no such policy.
    pub fn policy_rules(&self, key: &ObjectKey) -> impl Iterator<Item = &PolicyRule> {
        let namespaced = (key.kind == Kind::NetworkPolicy)
            .then(|| self.policies.get(&Named::new(&key.namespace, &key.name)))
            .flatten()
            .map(|policy| policy.rules.iter().flatten().flatten());
        let cluster = self.cluster_policies.get(key).map(|policy| policy.rules.iter().flatten());
        namespaced.into_iter().flatten().chain(cluster.into_iter().flatten())
    }

    fn count_of(&self, kind: Kind) -> usize {
        self.cluster_policies.keys().filter(|key| key.kind == kind).count()
    }

    /// How many objects of each kind are known, in the order of [`KINDS`].
    pub fn counts(&self) -> [usize; KINDS.len()] {
        [
            self.nodes.len(),
            self.namespaces.len(),
            self.pods.len(),
            self.services.len(),
            self.services.slices_len(),
            self.policies.len(),
            self.count_of(Kind::ClusterNetworkPolicy),
            self.count_of(Kind::AdminNetworkPolicy),
            self.count_of(Kind::BaselineAdminNetworkPolicy),
        ]
    }

    /// A namespace's labels; one without an object still has its name as a label.
    pub fn namespace_labels(&self, name: &str) -> Cow<'_, Labels> {
        match self.namespaces.get(name) {
            Some(namespace) => Cow::Borrowed(&namespace.labels),
            None => Cow::Owned(namespace_labels(name, &Labels::new())),
        }
    }

    /// Whether a selector selects a namespace. While there is no object of that, only its name is known; what else is asked
    /// holds if `unknown`: so that its late arrival opens nothing, rules that allow say false and rules that deny say true.
    pub fn selects_namespace(&self, selector: &Selector, name: &str, unknown: bool) -> bool {
        match self.namespaces.get(name) {
            Some(namespace) => selector.matches(&namespace.labels),
            None => selector.matches_partly(&namespace_labels(name, &Labels::new()), unknown),
        }
    }

    pub fn knows_namespace(&self, name: &str) -> bool {
        self.namespaces.contains_key(name)
    }

    /// Whether the NetworkPolicies of a namespace are only being tried.
    pub fn is_audit_namespace(&self, name: &str) -> bool {
        self.namespaces.get(name).is_some_and(|namespace| namespace.audit)
    }

    /// Keys of the attachments of a pod here.
    pub fn attachments_of(&self, pod: &Named) -> impl Iterator<Item = &String> {
        self.attachments_of.get(pod).into_iter().flatten()
    }

    /// The addresses that are a pod's: those of its attachments here, else what its status says. A finished pod has none.
    pub fn addrs_of(&self, pod: &Pod) -> Vec<Addr> {
        if pod.finished {
            return Vec::new();
        }
        let mut here = self.attachments_of(&pod.id).filter_map(|key| self.local.endpoints.get(key)).peekable();
        if here.peek().is_none() {
            return pod.addrs.clone();
        }
        here.flat_map(|endpoint| endpoint.addrs.iter().copied()).collect()
    }

    /// Pods of a namespace with all these labels (at least one pair must be given).
    pub fn pods_with<'a>(&'a self, namespace: &'a str, labels: &'a Labels) -> impl Iterator<Item = &'a Pod> {
        let rarest = labels.iter().map(|pair| self.pods_by_label.with(namespace, pair)).min_by_key(|names| names.len());
        let pods = self.pods.in_namespace(namespace);
        let names = rarest.into_iter().flatten();
        names.filter_map(move |id| pods?.get(&id.name)).filter(|pod| has_all(&pod.labels, labels))
    }

    pub(crate) fn take_changes(&mut self) -> Changes {
        // Who took the last ones is done with them.
        let gone = std::mem::replace(&mut self.gone, self.services.take_gone());
        self.services.forget(gone);
        std::mem::take(&mut self.changes)
    }

    /// Counts everything as changed: for a new compiler, which has to write all tables.
    pub fn mark_all(&mut self) {
        self.changes = Changes {
            nodes: self.nodes.keys().cloned().collect(),
            namespaces: self.namespaces.keys().cloned().collect(),
            pods: self.pods.iter().map(|(id, _)| id).collect(),
            services: self.services.iter().map(|(number, _)| number).collect(),
            policies: {
                let namespaced = self.policies.iter().map(|(id, _)| policy_key(&id));
                namespaced.chain(self.cluster_policies.keys().cloned()).collect()
            },
            attachments: self.local.endpoints.keys().cloned().collect(),
            neighbours: self.local.neighbours.keys().copied().collect(),
            kernel_routes: true,
            node: true,
        };
    }

    pub fn has_changes(&self) -> bool {
        !self.changes.are_none()
    }
}

/// What a NetworkPolicy is called among all policies.
pub fn policy_key(id: &Named) -> ObjectKey {
    ObjectKey { kind: Kind::NetworkPolicy, namespace: id.namespace.clone(), name: id.name.clone() }
}

/// By this pair of its selector a service is found.
fn anchor(service: &Service) -> Option<(&str, &str)> {
    service.selector.iter().next()
}

fn set_entry<T>(map: &mut BTreeMap<String, T>, key: &str, value: Option<T>) {
    match value {
        Some(value) => map.insert(key.to_owned(), value),
        None => map.remove(key),
    };
}
