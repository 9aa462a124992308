//! Addresses of services of type LoadBalancer: what pools give them takes the place of what their objects say.

use super::State;
use crate::object::balancer::Balancer;
use crate::object::{Named, Service};
use crate::pool::Pool;
use crate::pool::assign::{self, Claim, Problem};
use std::collections::{BTreeMap, BTreeSet};
use tables::Addr;

/// What a service's status is to say; no address: nothing.
pub type Status = (Named, Vec<Addr>);

#[derive(Debug, Default)]
pub struct Balanced {
    services: BTreeSet<Named>,
    /// What was written beside the objects, and read back.
    statuses: BTreeMap<Named, Vec<Addr>>,
    /// Of those that are ours.
    assigned: BTreeMap<Named, Vec<Addr>>,
    has_changed: bool,
    /// Another node gives addresses.
    follows: bool,
}

impl Balanced {
    /// A service is about to be known as this.
    pub fn enter(&mut self, service: &mut Service) {
        let Some(balancer) = service.balancer.as_deref() else { return self.leave(&service.id) };
        self.has_changed |= self.services.insert(Named::clone(&service.id));
        if let Some(addrs) = self.assigned.get(&service.id).filter(|_| balancer.is_ours) {
            service.load_balancer_ips.clone_from(addrs);
        }
    }

    /// It has none, or goes.
    pub fn leave(&mut self, id: &Named) {
        self.has_changed |= self.services.remove(id);
    }

    pub fn mark(&mut self, is_balanced: bool) {
        self.has_changed |= is_balanced;
    }

    pub fn set_status(&mut self, (id, addrs): Status) {
        let old = if addrs.is_empty() { self.statuses.remove(&id) } else { self.statuses.insert(id.clone(), addrs) };
        self.has_changed |= old.as_ref() != self.statuses.get(&id);
    }

    /// The object's own word counts before what stands beside it.
    fn said(&self, id: &Named, balancer: &Balancer) -> Option<Vec<Addr>> {
        let own = Some(&balancer.status).filter(|status| !status.is_empty());
        own.or_else(|| self.statuses.get(id)).cloned()
    }

    /// Before it is said, or where that cannot be written, what this node gave stays.
    fn held(&self, id: &Named, balancer: &Balancer) -> Vec<Addr> {
        let given = || self.assigned.get(id).cloned();
        self.said(id, balancer).or_else(given).unwrap_or_default()
    }
}

impl State {
    pub fn set_status(&mut self, status: Status) {
        self.balanced.set_status(status);
    }

    /// Gives addresses to those that lack them; None if nothing has changed since the last time. Who does not give follows
    /// what status says.
    pub fn assign_addresses(&mut self, pools: &[Pool], gives: bool) -> Option<Vec<Problem>> {
        let turned = std::mem::replace(&mut self.balanced.follows, !gives) == gives;
        if !std::mem::take(&mut self.balanced.has_changed) && !turned {
            return None;
        }
        let Asked { claims, mut fixed, taken } = self.asked(pools, gives);
        let assigned = if gives { assign::assign(pools, &claims, taken) } else { assign::keep(pools, &claims, taken) };
        fixed.extend(assigned.addrs);
        let before = std::mem::replace(&mut self.balanced.assigned, fixed);
        let names: BTreeSet<Named> = before.into_keys().chain(self.balanced.assigned.keys().cloned()).collect();
        names.into_iter().for_each(|id| self.follow(&id));
        Some(assigned.problems)
    }

    /// Without pools, and where an object has an address of elsewhere, what status says stays as it is.
    fn asked(&self, pools: &[Pool], gives: bool) -> Asked {
        let mut asked = Asked::default();
        for node in self.nodes.values() {
            asked.taken.extend(node.addrs.iter().map(|addr| (*addr, format!("Node {}", node.name))));
        }
        let is_elsewhere = |addr: &Addr| !pools.iter().any(|pool| pool.contains(*addr));
        for id in &self.balanced.services {
            let Some((service, balancer)) = self.balanced_service(id) else { continue };
            if !balancer.is_ours || balancer.status.iter().any(is_elsewhere) {
                asked.fix(id, balancer.status.clone(), balancer.is_ours);
            } else if pools.is_empty() {
                asked.fix(id, self.balanced.said(id, balancer).unwrap_or_default(), true);
            } else {
                let said = || self.balanced.said(id, balancer).unwrap_or_default();
                let held = if gives { self.balanced.held(id, balancer) } else { said() };
                asked.claims.push(claim(service, balancer, held));
            }
        }
        asked
    }

    fn balanced_service(&self, id: &Named) -> Option<(&Service, &Balancer)> {
        let service = self.services.get(id)?;
        Some((service, service.balancer.as_deref()?))
    }

    fn follow(&mut self, id: &Named) {
        let Some((service, balancer)) = self.balanced_service(id).filter(|(_, balancer)| balancer.is_ours) else {
            return;
        };
        let addrs = self.balanced.assigned.get(id).unwrap_or(&balancer.status);
        if service.load_balancer_ips != *addrs {
            let service = Service { load_balancer_ips: addrs.clone(), ..service.clone() };
            let number = self.services.put(service);
            self.changes.services.insert(number);
        }
    }

    /// What differs from what was assigned: to be written beside the objects.
    pub fn statuses_to_write(&self) -> Vec<Status> {
        let Balanced { statuses, assigned, .. } = &self.balanced;
        let own = |id| self.balanced_service(id).map(|(_, balancer)| &balancer.status);
        let is_said = |id, addrs| statuses.get(id) == Some(addrs) || own(id) == Some(addrs);
        let lacking = assigned.iter().filter(|(id, addrs)| !addrs.is_empty() && !is_said(id, addrs));
        let gone = statuses.keys().filter(|id| assigned.get(*id).is_none_or(Vec::is_empty));
        let lacking = lacking.map(|(id, addrs)| (id.clone(), addrs.clone()));
        lacking.chain(gone.map(|id| (id.clone(), Vec::new()))).collect()
    }
}

#[derive(Default)]
struct Asked {
    claims: Vec<Claim>,
    fixed: BTreeMap<Named, Vec<Addr>>,
    taken: BTreeMap<Addr, String>,
}

impl Asked {
    fn fix(&mut self, id: &Named, addrs: Vec<Addr>, is_ours: bool) {
        self.taken.extend(addrs.iter().map(|addr| (*addr, format!("Service {id}"))));
        if is_ours {
            self.fixed.insert(id.clone(), addrs);
        }
    }
}

fn claim(service: &Service, balancer: &Balancer, held: Vec<Addr>) -> Claim {
    Claim {
        id: Named::clone(&service.id),
        families: service.families,
        requires_all: balancer.requires_all,
        wished: balancer.wished.clone(),
        pool: balancer.pool.clone(),
        held,
    }
}

#[cfg(test)]
#[path = "balanced_tests.rs"]
mod tests;
