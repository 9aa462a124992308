//! What changed since the last compile, by key. A key may stand for something that is gone.

use super::NameSet;
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
    /// Services whose object or backends changed.
    pub services: NameSet,
    /// Of all kinds.
    pub policies: BTreeSet<ObjectKey>,
    pub attachments: BTreeSet<String>,
    pub neighbours: BTreeSet<Addr>,
    pub kernel_routes: bool,
    /// Facts about this node other than the above.
    pub node: bool,
}
