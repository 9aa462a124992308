//! What changed since the last compile, by key. A key may stand for something that is gone.

use super::NumberSet;
use crate::object::{Named, ObjectKey};
use std::collections::BTreeSet;
use tables::Addr;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub nodes: BTreeSet<String>,
    /// Namespaces whose labels changed.
    pub namespaces: BTreeSet<String>,
    /// Pods whose object or addresses changed.
    pub pods: BTreeSet<Named>,
    /// Services whose object or backends changed, by their numbers.
    pub services: NumberSet,
    /// Of all kinds.
    pub policies: BTreeSet<ObjectKey>,
    pub attachments: BTreeSet<String>,
    pub neighbours: BTreeSet<Addr>,
    pub kernel_routes: bool,
    /// Facts about this node other than the above.
    pub node: bool,
}

impl Changes {
    pub fn are_none(&self) -> bool {
        let Changes { nodes, namespaces, pods, services, policies, attachments, neighbours, kernel_routes, node } =
            self;
        let names = [nodes, namespaces, attachments].into_iter().all(|names| names.is_empty());
        let ids = pods.is_empty() && policies.is_empty() && services.is_empty();
        names && ids && neighbours.is_empty() && !kernel_routes && !node
    }
}
