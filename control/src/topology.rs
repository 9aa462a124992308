//! Which of a service port's endpoints this node may use, as upstream kube-proxy decides it (`CategorizeEndpoints`): by
//! traffic policy, readiness and hints. Pure, and knows no objects.

use tables::Addr;

pub type Backend = (Addr, u16);

/// An endpoint of one service port and what is known about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub backend: Backend,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    pub is_local: bool,
    pub zone: Hint,
    pub node: Hint,
}

/// Whom an endpoint is meant for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hint {
    #[default]
    NotSaid,
    Others,
    This,
}

/// The lists that a service port's policies ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uses {
    pub cluster: bool,
    pub local: bool,
    /// Somebody is served by the local list alone, wherever he is.
    pub local_alone: bool,
}

/// What may be used; each list is sorted and without duplicates. None: nobody asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usable {
    /// For traffic under policy Cluster.
    pub cluster: Option<Vec<Backend>>,
    /// For traffic under policy Local.
    pub local: Option<Vec<Backend>>,
    /// There is a usable endpoint somewhere, even if both lists are empty.
    pub any: bool,
    /// Who exists and is missing in a list: serves no new flows there, and keeps its connections. Sorted, each once.
    pub leaving: Vec<Backend>,
}

/// A service of policy Local with more endpoints than this keeps no connections to those of other nodes: they would fill
/// every node's tables for the sake of connections from before the policy was Local.
const LEAVING_REMOTE_MAX: usize = 256;

/// Each list falls back on its own from ready endpoints to those that serve while they terminate (KEP-1669).
pub fn usable(candidates: &[Candidate], uses: Uses) -> Usable {
    let cluster = uses.cluster.then(|| {
        let preferred = preference(candidates);
        first_of([&|c| c.ready && preferred(c), &drains], candidates)
    });
    let local = uses.local.then(|| first_of([&|c| c.is_local && c.ready, &|c| c.is_local && drains(c)], candidates));
    let somewhere = || candidates.iter().any(|c| c.ready || drains(c));
    let any = cluster.as_ref().map_or_else(somewhere, |list| !list.is_empty());
    let leaving = leaving(candidates, uses, cluster.as_deref(), local.as_deref());
    Usable { cluster, local, any, leaving }
}

/// Not ready, terminating, or left out by hints or by policy Local.
fn leaving(
    candidates: &[Candidate],
    uses: Uses,
    cluster: Option<&[Backend]>,
    local: Option<&[Backend]>,
) -> Vec<Backend> {
    // One that is as long has all of them.
    let partial = |list: &&[Backend]| list.len() < candidates.len();
    let (cluster, local) = (cluster.filter(partial), local.filter(partial));
    if cluster.is_none() && local.is_none() {
        return Vec::new();
    }
    let lacks =
        |list: Option<&[Backend]>, c: &Candidate| list.is_some_and(|list| list.binary_search(&c.backend).is_err());
    let is_small = candidates.len() <= LEAVING_REMOTE_MAX;
    let local = local.filter(|_| uses.local_alone);
    let leaves = |c: &&Candidate| lacks(cluster, c) || (c.is_local || is_small) && lacks(local, c);
    let mut leaving: Vec<Backend> = candidates.iter().filter(leaves).map(|c| c.backend).collect();
    leaving.sort_unstable();
    leaving.dedup();
    leaving
}

fn drains(candidate: &Candidate) -> bool {
    candidate.serving && candidate.terminating
}

/// Hints are followed if every ready endpoint has one and one is for us: those for the node first, then for the zone.
fn preference(candidates: &[Candidate]) -> impl Fn(&Candidate) -> bool {
    let follows = |hint: fn(&Candidate) -> Hint| {
        let mut ready = candidates.iter().filter(|c| c.ready).map(hint);
        ready.clone().any(|hint| hint == Hint::This) && ready.all(|hint| hint != Hint::NotSaid)
    };
    let by_node = follows(|c| c.node);
    let by_zone = !by_node && follows(|c| c.zone);
    move |c| (!by_node || c.node == Hint::This) && (!by_zone || c.zone == Hint::This)
}

type Choice<'a> = &'a dyn Fn(&Candidate) -> bool;

fn first_of(choices: [Choice; 2], candidates: &[Candidate]) -> Vec<Backend> {
    let mut chosen = Vec::with_capacity(candidates.len());
    for choice in choices {
        chosen.extend(candidates.iter().filter(|c| choice(c)).map(|c| c.backend));
        if !chosen.is_empty() {
            break;
        }
    }
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

#[cfg(test)]
#[path = "topology_tests.rs"]
mod tests;
