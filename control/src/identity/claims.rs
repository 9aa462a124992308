//! Which pod an address belongs to. Several may claim one for a while (a pod that ends, its successor that begins); a
//! pod attached here comes before what another's status says, one that ends comes last.

use super::Traits;
use super::last_of;
use crate::object::{Named, Pod};
use crate::state::{HashMap, Shared, State};
use std::collections::BTreeMap;
use std::sync::Arc;
use tables::{Addr, Prefix};

/// Better claims sort first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    elsewhere: bool,
    terminating: bool,
    pod: Arc<Named>,
}

#[derive(Debug)]
struct Claim {
    rank: Rank,
    traits: Arc<Traits>,
}

#[derive(Debug, Default)]
pub struct Claims {
    /// The best one first. Hardly ever is there a second: no room is kept for it.
    by_addr: BTreeMap<Addr, Vec<Claim>>,
    addrs: HashMap<Arc<Named>, Box<[Addr]>>,
    /// Of a ReplicaSet's pods they are the same.
    traits: Shared<Traits>,
}

impl Claims {
    /// Replaces a pod's claims; answers which addresses to look at again.
    pub fn set(&mut self, state: &State, id: &Named) -> Vec<Addr> {
        let mut touched = self.addrs.remove(id).unwrap_or_default().into_vec();
        for addr in &touched {
            self.withdraw(*addr, id);
        }
        let Some(pod) = state.pod(id).filter(|pod| !pod.host_network) else { return touched };
        let addrs = state.addrs_of(pod);
        let traits = self.traits.share(Arc::new(traits(pod)));
        let shared = Arc::new(id.clone());
        let elsewhere = state.attachments_of(id).next().is_none();
        for addr in &addrs {
            let rank = Rank { elsewhere, terminating: pod.terminating, pod: shared.clone() };
            self.enter(*addr, Claim { rank, traits: traits.clone() });
        }
        touched.extend(&addrs);
        if !addrs.is_empty() {
            self.addrs.insert(shared, addrs.into_boxed_slice());
        }
        touched
    }

    /// A pod that has an address twice claims it once.
    fn enter(&mut self, addr: Addr, claim: Claim) {
        let claims = self.by_addr.entry(addr).or_default();
        if let Err(at) = claims.binary_search_by(|other| other.rank.cmp(&claim.rank)) {
            claims.reserve_exact(1);
            claims.insert(at, claim);
        }
    }

    fn withdraw(&mut self, addr: Addr, id: &Named) {
        let Some(claims) = self.by_addr.get_mut(&addr) else { return };
        claims.retain(|claim| *claim.rank.pod != *id);
        if claims.is_empty() {
            self.by_addr.remove(&addr);
        }
    }

    pub fn winner(&self, addr: Addr) -> Option<Arc<Traits>> {
        self.by_addr.get(&addr)?.first().map(|claim| claim.traits.clone())
    }

    /// Claimed addresses that lie in a prefix.
    pub fn within(&self, prefix: &Prefix) -> impl Iterator<Item = Addr> {
        let prefix = *prefix;
        let range = self.by_addr.range(prefix.addr()..=last_of(&prefix));
        range.map(|(&addr, _)| addr).filter(move |&addr| prefix.contains(addr))
    }
}

fn traits(pod: &Pod) -> Traits {
    let mut ports = pod.ports.clone();
    ports.sort();
    Traits { namespace: pod.id.namespace.clone(), labels: pod.labels.clone(), ports }
}
