//! A part of the state for itself, to try something on.

use super::State;
use crate::object::{Object, ObjectChange};

impl State {
    /// All that policies are made of, as if nothing of it had been compiled yet.
    pub fn for_policies(&self) -> State {
        let mut copy = State::new();
        copy.set_local(self.local.clone());
        let nodes = self.nodes.values().cloned().map(Object::Node);
        let namespaces = self.namespaces.values().cloned().map(Object::Namespace);
        let pods = self.pods().map(|(_, pod)| Object::Pod(pod.clone()));
        let policies = self.policies().map(|(_, policy)| Object::NetworkPolicy(policy.clone()));
        let cluster = self.cluster_policies().cloned().map(Object::ClusterPolicy);
        let objects = nodes.chain(namespaces).chain(pods).chain(policies).chain(cluster);
        objects.for_each(|object| copy.apply(ObjectChange::Put(object)));
        copy.set_complete();
        copy
    }
}
