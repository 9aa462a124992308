//! How this node's own packets to its node ports come to fairway0 although their address is the node's: policy rules that
//! are asked before the table `local`, in which the kernel finds every address of its own. What rules there are is worked
//! out here, and that their order is right at every moment of a change; no packet from outside is touched by them.
//!
//! So do the answers of the node's own sockets that serve clients outside under their own addresses: the kernel would send
//! them to the client as they are, who never asked that address and port. All that these sockets send to others than the
//! node itself takes that way, for the kernel does not tell by which way a client came; Fairway passes on what it knows no
//! flow of.
//!
//! Rules are a list that the kernel walks, so it is kept short for whoever is not concerned: the first rules hold just the
//! blocks of ports in which there are node ports, and jump to what lies behind all other rules; a packet to no such block
//! goes on at once. There, runs of adjacent ports share a rule.

use super::{HOST_DEVICE, Node, NodeError};
use crate::compile::Single;
use crate::netlink::{Own, Ports, Route, Rule, Then};
use crate::sysctl;
use std::collections::BTreeSet;
use tables::{Addr, Prefix};

/// The only route in it leads to fairway0.
pub const STEER_TABLE: u32 = 25_000;
/// Before the rule of the table `local`, wherever somebody may have moved that.
const GATE: u32 = 1;
/// Where the rule of the table `local` is while there are such rules.
const LOCAL: u32 = 2;
/// Behind the table `local`, before the table `main`.
const ANSWERS: u32 = 30_000;
/// Behind the rules of the tables `main` and `default`: only jumps lead here.
const LISTS: u32 = 40_000;
/// Ports that share a gate and a list.
const BLOCK: u16 = 256;

/// What of the node's own packets goes to fairway0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steered {
    /// To these, which are rows of the node's own addresses.
    pub asked: BTreeSet<Single>,
    /// From these, where the node itself serves clients outside that keep their addresses.
    pub answering: BTreeSet<Single>,
}

impl Steered {
    fn is_empty(&self) -> bool {
        self.asked.is_empty() && self.answering.is_empty()
    }
}

/// What leads these packets to fairway0.
pub fn rules(steered: &Steered) -> BTreeSet<Rule> {
    let mut rules = BTreeSet::new();
    for Run { addr, ports } in runs(&steered.answering) {
        let own = Some(Own::From(addr, ports));
        rules.insert(Rule { priority: ANSWERS, is_v4: addr.is_v4(), own, then: Then::Table(STEER_TABLE) });
    }
    for run in runs(&steered.asked) {
        let block = run.ports.first / BLOCK;
        let (list, is_v4) = (LISTS + 2 * u32::from(block), run.addr.is_v4());
        let first = block * BLOCK;
        let all = Ports { protocol: None, first: first.max(1), last: first + (BLOCK - 1) };
        rules.insert(Rule { priority: GATE, is_v4, own: Some(Own::To(run.addr, all)), then: Then::Goto(list) });
        let own = Some(Own::To(run.addr, run.ports));
        rules.insert(Rule { priority: list, is_v4, own, then: Then::Table(STEER_TABLE) });
        rules.insert(Rule::local(is_v4, list + 1));
        rules.insert(Rule::local(is_v4, LOCAL));
    }
    rules
}

/// Adjacent ports of one address and protocol, none beyond its block.
struct Run {
    addr: Addr,
    ports: Ports,
}

fn runs(steered: &BTreeSet<Single>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for single in steered {
        let protocol = Some(single.protocol);
        let goes_on = |run: &&mut Run| {
            (run.addr, run.ports.protocol) == (single.addr, protocol)
                && run.ports.last.checked_add(1) == Some(single.port)
                && !single.port.is_multiple_of(BLOCK)
        };
        match runs.last_mut().filter(goes_on) {
            Some(run) => run.ports.last = single.port,
            None => {
                let ports = Ports { protocol, first: single.port, last: single.port };
                runs.push(Run { addr: single.addr, ports });
            }
        }
    }
    runs
}

impl Node {
    /// Makes the rules those of these rows. What a list needs is there before a gate leads to it, and the table `local` is
    /// asked by somebody at every moment.
    pub(super) async fn set_rules(&mut self, steered: &Steered) -> Result<(), NodeError> {
        let found = match self.rules.take() {
            Some(known) => Ok(known),
            None => Err(self.netlink.own_rules().await?.into_iter().collect()),
        };
        let is_known = found.is_ok();
        let have: BTreeSet<Rule> = found.unwrap_or_else(|found| found);
        let mut wanted = rules(steered);
        for is_v4 in [true, false] {
            self.leave_local(is_v4, &have, &mut wanted).await?;
        }
        if !is_known || have != wanted {
            self.change_rules(steered, &have, &wanted).await?;
        }
        self.rules = Some(wanted);
        Ok(())
    }

    /// Where the kernel's own rule is not the first one, somebody else has moved it, and it stays where it is.
    async fn leave_local(
        &self,
        is_v4: bool,
        have: &BTreeSet<Rule>,
        wanted: &mut BTreeSet<Rule>,
    ) -> Result<(), NodeError> {
        let moved = Rule::local(is_v4, LOCAL);
        if wanted.contains(&moved) && !have.contains(&moved) && !self.netlink.asks_local_first(is_v4).await? {
            wanted.remove(&moved);
        }
        Ok(())
    }

    async fn change_rules(
        &self,
        steered: &Steered,
        have: &BTreeSet<Rule>,
        wanted: &BTreeSet<Rule>,
    ) -> Result<(), NodeError> {
        if !steered.is_empty() {
            self.accept_own(steered).await?;
        }
        // From behind: lists, what stands for the rule of the table local, gates.
        for rule in wanted.difference(have).collect::<Vec<_>>().into_iter().rev() {
            self.netlink.put_rule(rule).await?;
        }
        for moved in [true, false].map(|is_v4| Rule::local(is_v4, LOCAL)) {
            match (wanted.contains(&moved), have.contains(&moved)) {
                (true, _) => self.netlink.delete_local_first(moved.is_v4).await?,
                (false, true) => self.netlink.put_local_first(moved.is_v4).await?,
                (false, false) => {}
            }
        }
        // Gates first.
        for rule in have.difference(wanted) {
            self.netlink.delete_rule(rule).await?;
        }
        Ok(())
    }

    /// Answers come from the node's own addresses, which the kernel else takes for forged. The settings go with the device.
    async fn accept_own(&self, steered: &Steered) -> Result<(), NodeError> {
        let loopback = steered.asked.iter().any(|single| single.addr.ip().is_loopback());
        for (name, on) in [("accept_local", true), ("route_localnet", loopback)] {
            let _ = sysctl::write(&format!("ipv4/conf/{HOST_DEVICE}/{name}"), if on { "1" } else { "0" });
        }
        for range in &self.ranges {
            let (gateway, device, src) = (range.gateway(), self.device.index, range.host());
            self.netlink
                .put_route(&Route::Steer { table: STEER_TABLE, to: all(gateway), gateway, device, src })
                .await?;
        }
        Ok(())
    }
}

/// The prefix that holds every address of this one's family.
fn all(like: Addr) -> Prefix {
    let none = if like.is_v4() { Addr::v4([0; 4]) } else { Addr::v6([0; 16]) };
    Prefix::new(none, 0).expect("no bits are never too many")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tables::Protocol;

    fn single(addr: &str, protocol: Protocol, port: u16) -> Single {
        Single { addr: addr.parse().unwrap(), protocol, port }
    }

    /// What becomes of a packet of the node itself: true if it goes to fairway0. As the kernel walks the rules.
    fn is_steered(rules: &BTreeSet<Rule>, packet: &Single) -> bool {
        is_led_to_fairway(rules, packet, None)
    }

    /// The same for one that comes from an address and port of the node, too; none the table `local` knows.
    fn is_led_to_fairway(rules: &BTreeSet<Rule>, packet: &Single, from: Option<&Single>) -> bool {
        let is_in = |one: &Single, addr: &Addr, ports: &Ports| {
            *addr == one.addr
                && (ports.first..=ports.last).contains(&one.port)
                && ports.protocol.is_none_or(|protocol| protocol == one.protocol)
        };
        let mut at = 0;
        for rule in rules.iter().filter(|rule| rule.is_v4 == packet.addr.is_v4()) {
            let matches = rule.own.as_ref().is_none_or(|own| match own {
                Own::To(addr, ports) => is_in(packet, addr, ports),
                Own::From(addr, ports) => from.is_some_and(|from| is_in(from, addr, ports)),
            });
            if rule.priority < at || !matches {
                continue;
            }
            match rule.then {
                Then::Goto(priority) => at = priority,
                Then::Table(table) if table == STEER_TABLE => return true,
                Then::Table(_) if from.is_none() => return false,
                Then::Table(_) => {}
            }
        }
        assert!(from.is_some(), "the table local is never asked for {packet:?}");
        false
    }

    fn asked(asked: BTreeSet<Single>) -> Steered {
        Steered { asked, ..Steered::default() }
    }

    #[test]
    fn answers_go_by_fairway_from_where_the_node_itself_serves_and_from_nowhere_else() {
        let serving = single("192.168.0.1", Protocol::TCP, 9100);
        let steered = Steered { answering: [serving].into(), ..Steered::default() };
        let rules = rules(&steered);
        let client = single("203.0.113.1", Protocol::TCP, 40000);
        assert!(is_led_to_fairway(&rules, &client, Some(&serving)));
        for other in [
            single("192.168.0.1", Protocol::TCP, 9101),
            single("192.168.0.1", Protocol::UDP, 9100),
            single("192.168.0.2", Protocol::TCP, 9100),
        ] {
            assert!(!is_led_to_fairway(&rules, &client, Some(&other)), "{other:?}");
        }
        assert_eq!(rules.len(), 1, "the table local stays where it is");
    }

    #[test]
    fn exactly_these_ports_are_steered() {
        let mut steered = BTreeSet::new();
        for port in (30000..30300).chain([1, 80, 255, 256, 32767, 65534, 65535]) {
            steered.insert(single("192.168.0.1", Protocol::TCP, port));
        }
        steered.insert(single("192.168.0.1", Protocol::UDP, 30001));
        steered.insert(single("127.0.0.1", Protocol::TCP, 30000));
        steered.insert(single("2001:db8::1", Protocol::TCP, 30000));
        let rules = rules(&asked(steered.clone()));
        for addr in ["192.168.0.1", "127.0.0.1", "2001:db8::1"] {
            for (protocol, port) in
                [Protocol::TCP, Protocol::UDP].iter().flat_map(|p| (1..=65535).map(move |n| (*p, n)))
            {
                let packet = single(addr, protocol, port);
                assert_eq!(is_steered(&rules, &packet), steered.contains(&packet), "{packet:?}");
            }
        }
    }

    #[test]
    fn adjacent_ports_share_a_rule_and_nothing_is_left_without_any() {
        let steered = (30208..30400).map(|port| single("192.168.0.1", Protocol::TCP, port)).collect();
        // A gate, the list, its end, and the rule of the table local.
        assert_eq!(rules(&asked(steered)).len(), 4);
        assert!(rules(&Steered::default()).is_empty());
    }
}
