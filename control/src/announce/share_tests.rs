//! Who owns what, and when a node begins to compete.

use super::*;
use proptest::prelude::*;

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

fn addrs() -> impl Strategy<Value = BTreeSet<Addr>> {
    let addr = prop_oneof![any::<[u8; 4]>().prop_map(Addr::v4), any::<[u8; 16]>().prop_map(Addr::v6)];
    prop::collection::btree_set(addr, 0..40)
}

proptest! {
    #[test]
    fn a_node_that_goes_or_comes_moves_its_own_addresses_alone(addrs in addrs(), nodes in 1..8usize, which in 0..8usize) {
        let all: BTreeSet<String> = (0..nodes).map(|i| format!("node-{i}")).collect();
        let leaver = format!("node-{}", which % nodes);
        let rest: BTreeSet<String> = all.iter().filter(|name| **name != leaver).cloned().collect();
        let wanted: Wanted = addrs.iter().map(|addr| (*addr, None)).collect();
        let (before, after) = (owners(&wanted, &all), owners(&wanted, &rest));
        prop_assert_eq!(before.len(), addrs.len());
        for (addr, owner) in before {
            if owner != leaver {
                prop_assert_eq!(after.get(&addr), Some(&owner));
            }
        }
    }

    #[test]
    fn only_candidates_that_serve_own(addrs in addrs(), candidates in 0..16u8, serving in 0..16u8) {
        let names = |bits: u8| (0..4).filter(|i| bits >> i & 1 == 1).map(|i| format!("node-{i}")).collect::<BTreeSet<_>>();
        let wanted: Wanted = addrs.iter().map(|addr| (*addr, Some(names(candidates)))).collect();
        let owners = owners(&wanted, &names(serving));
        prop_assert_eq!(owners.len(), if candidates & serving == 0 { 0 } else { addrs.len() });
        prop_assert!(owners.values().all(|owner| names(candidates & serving).contains(owner)));
    }
}

#[test]
fn a_node_listens_before_it_competes_and_stops_at_once() {
    let start = Instant::now();
    let at = |ms: u64| start + Duration::from_millis(ms);
    let mut standing = Standing::new(start);
    standing.set_serving(true, start);
    standing.update(true, at(1100));
    assert!(!standing.competes(), "somebody may still be heard");
    standing.update(true, at(1200));
    assert!(standing.competes(), "it is alone");
    standing.set_serving(false, at(1300));
    assert!(!standing.competes());
    standing.set_serving(true, at(2000));
    standing.update(false, at(5900));
    assert!(!standing.competes(), "it went once: the others keep it for four seconds");
    standing.update(true, at(5900));
    assert!(standing.competes(), "the others went");
    standing.update(false, at(6000));
    assert!(standing.competes(), "and one that comes later does not stop it");
}

#[test]
fn who_went_often_waits_longer_until_it_is_forgotten() {
    let start = Instant::now();
    let mut standing = Standing::new(start);
    for i in 0..3 {
        standing.set_serving(true, start + Duration::from_secs(i));
        standing.set_serving(false, start + Duration::from_secs(i));
    }
    assert_eq!(standing.hold(start + Duration::from_secs(10)), HOLD * 8);
    assert_eq!(standing.hold(start + Duration::from_secs(400)), HOLD);
}

#[test]
fn one_node_writes() {
    let all = set(&["a", "b", "c"]);
    assert!(all.contains(writer(&all).unwrap()));
    assert_eq!(writer(&set(&[])), None);
}
