//! What services take outside the service ranges, told to what stands around the dataplane: the XDP program claims it from
//! the NIC, the kernel routes the node's own packets to it into fairway0. It must not decide what rows there are.

use super::Supervisor;
use crate::compile::Single;
use crate::node::Steered;
use std::collections::BTreeSet;
use std::sync::Arc;
use tables::Addr;

/// Of which problems `status` tells here.
const CLAIMS: &str = "service-claims";
const HEALTH: &str = "service-health";
const ROUTES: &str = "service-routes";

impl Supervisor {
    pub(super) async fn take_singles(&mut self, singles: Arc<BTreeSet<Single>>, answering: Arc<BTreeSet<Single>>) {
        let is_same = |have: &Arc<_>, new: &Arc<_>| Arc::ptr_eq(have, new) || have == new;
        if self.has_taken_singles && is_same(&self.singles, &singles) && is_same(&self.answering, &answering) {
            return;
        }
        self.has_taken_singles = true;
        (self.singles, self.answering) = (singles, answering);
        self.serve_singles().await;
    }

    /// Again, after a change of what the node's own addresses are.
    pub(super) async fn serve_singles(&mut self) {
        if !self.has_taken_singles {
            return;
        }
        let parts = parts(&self.singles, &self.own_addrs());
        let steered = Steered { asked: parts.steered, answering: (*self.answering).clone() };
        let claimed = self.claim.set_singles(parts.claimed);
        self.note(CLAIMS, claimed);
        let served = self.node.serve(&parts.hosts, &steered).await;
        self.note(ROUTES, served);
    }

    /// What the kernel refused once it may accept later.
    pub(super) async fn retry_singles(&mut self) {
        if [CLAIMS, ROUTES].iter().any(|about| self.problems.contains_key(*about)) {
            self.serve_singles().await;
        }
    }

    /// Opens and closes ports as services and addresses come and go, and tries again what could not be opened.
    pub(super) fn serve_health(&mut self) {
        let addrs = self.state.local().node_port_addrs();
        let served = self.health.serve(&self.health_wanted, &addrs);
        self.note(HEALTH, served);
    }

    fn own_addrs(&self) -> BTreeSet<Addr> {
        self.node_addrs.iter().chain(&self.state.local().addrs).copied().collect()
    }
}

/// Rows by who is to be told of them.
#[derive(Debug, PartialEq, Eq)]
struct Parts {
    claimed: BTreeSet<Single>,
    steered: BTreeSet<Single>,
    hosts: BTreeSet<Addr>,
}

/// No link carries packets to a loopback address but forged ones.
fn parts(singles: &BTreeSet<Single>, own: &BTreeSet<Addr>) -> Parts {
    let is_loopback = |single: &&Single| single.addr.ip().is_loopback();
    let is_own = |single: &&Single| own.contains(&single.addr) || is_loopback(single);
    Parts {
        claimed: singles.iter().filter(|single| !is_loopback(single)).copied().collect(),
        steered: singles.iter().filter(is_own).copied().collect(),
        hosts: singles.iter().filter(|single| !is_own(single)).map(|single| single.addr).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tables::Protocol;

    #[test]
    fn own_addresses_are_steered_others_routed_and_loopbacks_claimed_from_no_link() {
        let single = |addr: &str| Single { addr: addr.parse().unwrap(), protocol: Protocol::TCP, port: 30000 };
        let all = ["127.0.0.1", "192.168.0.1", "198.51.100.1", "2001:db8::1"].map(single);
        let own = ["192.168.0.1", "127.0.0.1", "2001:db8::1"].map(|addr| addr.parse().unwrap()).into();
        let parts = parts(&all.into(), &own);
        assert_eq!(parts.claimed, all[1..].iter().copied().collect());
        assert_eq!(parts.steered, [all[0], all[1], all[3]].into());
        assert_eq!(parts.hosts, [all[2].addr].into());
    }
}
