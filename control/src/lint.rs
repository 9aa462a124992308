//! `fairway policies --lint`: what authors of policies may not have meant, judged by the pods, namespaces and policies that
//! there are in the whole cluster: policies that select nobody, rules that speak of nobody or are never reached because
//! others have said it all, named ports that no pod has. Pure; takes a while with many policies, so it runs beside the loop.

mod cast;
#[cfg(test)]
mod tests;

use crate::compile::cover::Cover;
use crate::listing::LintView;
use crate::object::{NamedPort, PortMatch, PortRange};
use crate::state::State;
use bytemuck::Zeroable;
use cast::{Cast, Item, Party};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tables::policy::{PLACE_LAST, RuleRecord, place};

/// Rules are named by policy, direction and number.
type RuleId = (usize, usize, usize);
/// More are not named as the reason why a rule is never reached.
const OTHERS_NAMED: usize = 3;
const DIRECTIONS: [&str; 2] = ["ingress", "egress"];

pub fn findings(state: &State) -> Vec<LintView> {
    let cast = Cast::of(state);
    let reach = reach(&cast);
    let mut all = Vec::new();
    for (index, item) in cast.items.iter().enumerate() {
        if cast.selected(index).next().is_none() {
            all.push(about(item, None, "selects no pod".to_owned()));
            continue;
        }
        about_policy(&cast, &reach, index, &mut all);
    }
    all
}

fn about(item: &Item, rule: Option<(usize, usize)>, finding: String) -> LintView {
    let key = &item.key;
    LintView {
        kind: key.kind.name().to_owned(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        rule: rule.map(|(direction, number)| format!("{}[{number}]", DIRECTIONS[direction])),
        finding,
    }
}

fn about_policy(cast: &Cast, reach: &Reach, index: usize, all: &mut Vec<LintView>) {
    let item = &cast.items[index];
    let rules: Vec<RuleId> = cast.rules_of(index).collect();
    let mut shadowed = Vec::new();
    for &(_, direction, number) in &rules {
        let id = (index, direction, number);
        let at = Some((direction, number));
        let missing = cast.missing_ports(id);
        if !missing.is_empty() {
            all.push(about(item, at, format!("names a port that no pod has: {}", missing.join(", "))));
        } else if cast.peers_of(id).is_empty() {
            all.push(about(item, at, "speaks of nobody: no pod or address is among its peers".to_owned()));
        } else if !reach.reached.contains(&id) && reach.laid.contains(&id) {
            shadowed.push(id);
        }
    }
    if shadowed.len() == rules.len() && !rules.is_empty() {
        let others = reach.others(cast, &shadowed, index);
        return all.push(about(item, None, format!("says nothing that is not said before it by {others}")));
    }
    for id in shadowed {
        let others = reach.others(cast, &[id], usize::MAX);
        all.push(about(item, Some((id.1, id.2)), format!("is never reached: {others} says it all before")));
    }
}

/// Which rules decide about anything.
#[derive(Default)]
struct Reach {
    /// Those that speak of a peer and a port of some pod that is selected.
    laid: BTreeSet<RuleId>,
    /// Those of them that decide there.
    reached: BTreeSet<RuleId>,
    /// Who decides where a rule does not.
    before: HashMap<RuleId, BTreeSet<usize>>,
}

impl Reach {
    fn others(&self, cast: &Cast, rules: &[RuleId], but: usize) -> String {
        let others: BTreeSet<usize> =
            rules.iter().filter_map(|id| self.before.get(id)).flatten().copied().filter(|item| *item != but).collect();
        let names: Vec<String> =
            others.iter().take(OTHERS_NAMED).map(|item| cast.items[*item].key.to_string()).collect();
        let more = if others.len() > OTHERS_NAMED { " and others" } else { "" };
        if names.is_empty() { "its own rules".to_owned() } else { format!("{}{more}", names.join(", ")) }
    }

    /// Takes in how the rules of some policies, in the order in which they are asked, decide for one peer.
    fn take(&mut self, cast: &Cast, speaking: &[RuleId], own: &Party, peer: &Party) {
        let mut cover = Cover::default();
        let mut level = None;
        let mut deciding: BTreeSet<RuleId> = BTreeSet::new();
        for &id in speaking {
            let item = &cast.items[id.0];
            if level.is_some_and(|level| level != item.level) {
                // What passes on has been reached, too.
                deciding.extend(cover.laid().iter().map(|rule| speaking[rule.policy as usize - 1]));
                cover.next_tier();
            }
            level = Some(item.level);
            let ports = if id.1 == 0 { own.ports } else { peer.ports };
            for (first, last) in places(cast, id, ports) {
                self.laid.insert(id);
                cover.lay(RuleRecord { first, last, ..record(speaking, id, item, cast) });
            }
        }
        let (decided, fits) = cover.into_rules();
        deciding.extend(decided.iter().map(|rule| speaking[rule.policy as usize - 1]));
        for &id in speaking {
            if !fits || deciding.contains(&id) {
                self.reached.insert(id);
            } else {
                self.before.entry(id).or_default().extend(deciding.iter().map(|other| other.0));
            }
        }
    }
}

/// What a rule says; its policy is its place among those that speak.
fn record(speaking: &[RuleId], id: RuleId, item: &Item, cast: &Cast) -> RuleRecord {
    let place = speaking.iter().position(|other| *other == id).unwrap_or(0) as u32 + 1;
    RuleRecord { policy: place, flags: item.flags(cast.rule(id)), ..RuleRecord::zeroed() }
}

/// Where a rule says something to a receiver with these named ports.
fn places(cast: &Cast, id: RuleId, named: &[NamedPort]) -> Vec<(u32, u32)> {
    let rule = cast.rule(id);
    if rule.ports.is_empty() {
        return vec![(0, PLACE_LAST)];
    }
    let of = |port: &PortMatch| match &port.port {
        PortRange::Numbers(first, last) => Some((place(port.protocol, *first), place(port.protocol, *last))),
        PortRange::Name(name) => {
            let found = named.iter().find(|found| found.name == *name && found.protocol == port.protocol)?;
            Some((place(port.protocol, found.port), place(port.protocol, found.port)))
        }
    };
    rule.ports.iter().filter_map(of).collect()
}

/// Every pod that policies select, but of those that the same policies select and that name ports alike only one; towards
/// every peer, but of those of whom the same rules speak and that name ports alike only one.
fn reach(cast: &Cast) -> Reach {
    let mut reach = Reach::default();
    let mut subjects: BTreeMap<(&[usize], &[NamedPort]), usize> = BTreeMap::new();
    for pod in 0..cast.pods {
        let policies = cast.selecting(pod);
        if !policies.is_empty() {
            subjects.entry((policies, cast.parties[pod].ports)).or_insert(pod);
        }
    }
    for ((policies, _), pod) in subjects {
        for direction in 0..DIRECTIONS.len() {
            let rules: Vec<RuleId> = cast.asked(policies, direction);
            let mut seen: BTreeSet<(Vec<RuleId>, &[NamedPort])> = BTreeSet::new();
            for (number, peer) in cast.parties.iter().enumerate() {
                let speaking: Vec<RuleId> =
                    rules.iter().copied().filter(|id| cast.peers_of(*id).contains(&number)).collect();
                if seen.insert((speaking.clone(), peer.ports)) {
                    reach.take(cast, &speaking, &cast.parties[pod], peer);
                }
            }
        }
    }
    reach
}
