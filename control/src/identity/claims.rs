//! Which pod an address belongs to. Several may claim one for a while (a pod that ends, its successor that begins); a
//! pod attached here comes before what another's status says, one that ends comes last.

use super::Traits;
use super::last_of;
use crate::object::{Named, Pod};
use crate::state::State;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tables::{Addr, Prefix};

/// Better claims sort first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    elsewhere: bool,
    terminating: bool,
    pod: Named,
}

#[derive(Debug, Default)]
pub struct Claims {
    by_addr: BTreeMap<Addr, BTreeMap<Rank, Arc<Traits>>>,
    addrs: HashMap<Named, Vec<Addr>>,
}

impl Claims {
    /// Replaces a pod's claims; answers which addresses to look at again.
    pub fn set(&mut self, state: &State, id: &Named) -> Vec<Addr> {
        let mut touched = self.addrs.remove(id).unwrap_or_default();
        for addr in &touched {
            self.withdraw(*addr, id);
        }
        let Some(pod) = state.pod(id).filter(|pod| !pod.host_network) else { return touched };
        let addrs = state.addrs_of(pod);
        let traits = traits(pod);
        let elsewhere = state.attachments_of(id).next().is_none();
        for addr in &addrs {
            let rank = Rank { elsewhere, terminating: pod.terminating, pod: id.clone() };
            self.by_addr.entry(*addr).or_default().insert(rank, traits.clone());
        }
        touched.extend(&addrs);
        if !addrs.is_empty() {
            self.addrs.insert(id.clone(), addrs);
        }
        touched
    }

    fn withdraw(&mut self, addr: Addr, id: &Named) {
        let Some(claims) = self.by_addr.get_mut(&addr) else { return };
        claims.retain(|rank, _| rank.pod != *id);
        if claims.is_empty() {
            self.by_addr.remove(&addr);
        }
    }

    pub fn winner(&self, addr: Addr) -> Option<Arc<Traits>> {
        self.by_addr.get(&addr)?.values().next().cloned()
    }

    /// Claimed addresses that lie in a prefix.
    pub fn within(&self, prefix: &Prefix) -> impl Iterator<Item = Addr> {
        let prefix = *prefix;
        let range = self.by_addr.range(prefix.addr()..=last_of(&prefix));
        range.map(|(&addr, _)| addr).filter(move |&addr| prefix.contains(addr))
    }
}

fn traits(pod: &Pod) -> Arc<Traits> {
    let mut ports = pod.ports.clone();
    ports.sort();
    Arc::new(Traits { namespace: pod.id.namespace.clone(), labels: pod.labels.clone(), ports })
}
