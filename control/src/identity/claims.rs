//! Which pod an address belongs to. Several may claim one for a while (a pod that ends, its successor that begins); a
//! pod attached here comes before what another's status says, one that ends comes last.

use super::Traits;
use super::last_of;
use crate::object::{Common, Named, Pod};
use crate::state::{HashMap, Shared, State};
use std::collections::BTreeMap;
use std::sync::Arc;
use tables::{Addr, Prefix};

/// Of an address better claims sort first.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    addr: Addr,
    elsewhere: bool,
    terminating: bool,
    pod: Common<Named>,
}

#[derive(Debug, Default)]
pub struct Claims {
    all: BTreeMap<Claim, Arc<Traits>>,
    of_pod: HashMap<Common<Named>, Box<[Claim]>>,
    /// Of a ReplicaSet's pods they are the same.
    traits: Shared<Traits>,
}

impl Claims {
    /// Replaces a pod's claims; answers which addresses to look at again.
    pub fn set(&mut self, state: &State, id: &Named) -> Vec<Addr> {
        let old = self.of_pod.remove(id).unwrap_or_default();
        old.iter().for_each(|claim| drop(self.all.remove(claim)));
        let mut touched: Vec<Addr> = old.iter().map(|claim| claim.addr).collect();
        let Some(pod) = state.pod(id).filter(|pod| !pod.host_network) else { return touched };
        let traits = self.traits.share(Arc::new(traits(pod)));
        let elsewhere = state.attachments_of(id).next().is_none();
        let claim = |addr| Claim { addr, elsewhere, terminating: pod.terminating, pod: pod.id.clone() };
        let new: Box<[Claim]> = state.addrs_of(pod).into_iter().map(claim).collect();
        touched.extend(new.iter().map(|claim| claim.addr));
        self.all.extend(new.iter().map(|claim| (claim.clone(), traits.clone())));
        if !new.is_empty() {
            self.of_pod.insert(pod.id.clone(), new);
        }
        touched
    }

    pub fn winner(&self, addr: Addr) -> Option<Arc<Traits>> {
        let (claim, traits) = self.all.range(first_of(addr)..).next()?;
        (claim.addr == addr).then(|| traits.clone())
    }

    /// Claimed addresses that lie in a prefix, perhaps more than once.
    pub fn within(&self, prefix: &Prefix) -> impl Iterator<Item = Addr> {
        let (prefix, last) = (*prefix, last_of(prefix));
        let from = self.all.range(first_of(prefix.addr())..);
        from.map(|(claim, _)| claim.addr)
            .take_while(move |&addr| addr <= last)
            .filter(move |&addr| prefix.contains(addr))
    }
}

/// Before every claim of an address.
fn first_of(addr: Addr) -> Claim {
    Claim { addr, ..Claim::default() }
}

fn traits(pod: &Pod) -> Traits {
    let mut ports = pod.ports.to_vec();
    ports.sort();
    Traits { namespace: pod.id.namespace.clone(), labels: pod.labels.clone(), ports }
}
