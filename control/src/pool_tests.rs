//! Pools as they are typed, and who gets what out of them.

use super::assign::{Assigned, Claim, Problem, assign};
use super::*;
use crate::object::Named;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn addr(text: &str) -> Addr {
    text.parse().unwrap()
}

fn pools(texts: &[&str]) -> Vec<Pool> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn claim(name: &str) -> Claim {
    Claim { id: Named::new("demo", name), families: [true, false], ..Claim::default() }
}

fn given(assigned: &Assigned, name: &str) -> Vec<String> {
    assigned.addrs[&Named::new("demo", name)].iter().map(Addr::to_string).collect()
}

#[test]
fn pools_are_cidrs_and_ranges_and_do_not_overlap() {
    for wrong in
        ["", "a", "=10.0.0.0/24", "a=", "a=10.0.0.9-10.0.0.1", "a=10.0.0.1-fd00::1", "a b=10.0.0.0/24", "a=10.0.0.0/33"]
    {
        assert!(wrong.parse::<Pool>().is_err(), "{wrong}");
    }
    let two = pools(&["a=10.0.0.0/24,10.0.1.5-10.0.1.9", "b=10.0.1.0-10.0.1.4,fd00::/64"]);
    assert_eq!(check(&two), Ok(()));
    assert!(two[0].contains(addr("10.0.1.9")) && !two[0].contains(addr("10.0.1.4")));
    assert!(two[1].has_family(false) && !two[0].has_family(false));
    assert!(check(&pools(&["a=10.0.0.0/24", "b=10.0.0.255-10.0.1.3"])).unwrap_err().to_string().contains("overlap"));
    assert!(check(&pools(&["a=10.0.0.0/24", "a=10.1.0.0/24"])).is_err());
}

#[test]
fn the_ends_of_a_cidr_are_given_to_who_asks_for_them_alone() {
    let all = |text: &str| text.parse::<Range>().unwrap().addrs_from(7).collect::<BTreeSet<_>>();
    assert_eq!(all("10.0.0.0/30"), ["10.0.0.1", "10.0.0.2"].map(addr).into());
    assert_eq!(all("10.0.0.0-10.0.0.3").len(), 4);
    assert_eq!((all("10.0.0.4/31").len(), all("10.0.0.4/32").len(), all("fd00::7/128").len()), (2, 1, 1));
    assert_eq!("::/0".parse::<Range>().unwrap().addrs_from(u64::MAX).take(9).count(), 9);
    let wished = Claim { wished: vec![addr("10.0.0.0")], ..claim("web") };
    assert_eq!(given(&assign(&pools(&["a=10.0.0.0/30"]), &[wished], BTreeMap::new()), "web"), ["10.0.0.0"]);
}

#[test]
fn what_status_says_is_kept_by_the_first_by_name_of_those_that_have_it() {
    let held = |name, text: &str| Claim { held: vec![addr(text)], ..claim(name) };
    let claims = [held("b", "10.0.0.2"), held("a", "10.0.0.2"), held("c", "10.9.0.1")];
    let assigned = assign(&pools(&["a=10.0.0.1-10.0.0.3"]), &claims, BTreeMap::new());
    assert_eq!(given(&assigned, "a"), ["10.0.0.2"]);
    let rest: BTreeSet<_> = [given(&assigned, "b"), given(&assigned, "c")].into();
    assert_eq!(
        rest,
        [vec!["10.0.0.1".to_owned()], vec!["10.0.0.3".to_owned()]].into(),
        "outside of pools counts nothing"
    );
    assert_eq!(assigned.problems, []);
}

#[test]
fn wishes_come_before_what_is_given_out_and_are_refused_by_name() {
    let wish = |name, text: &str| Claim { wished: vec![addr(text)], ..claim(name) };
    let claims =
        [claim("a"), wish("b", "10.0.0.1"), wish("c", "10.0.0.1"), wish("d", "10.1.0.1"), wish("e", "10.0.0.2")];
    let taken = BTreeMap::from([(addr("10.0.0.2"), "Node n".to_owned())]);
    let assigned = assign(&pools(&["a=10.0.0.1-10.0.0.3"]), &claims, taken);
    assert_eq!((given(&assigned, "a"), given(&assigned, "b")), (vec!["10.0.0.3".into()], vec!["10.0.0.1".into()]));
    let id = |name| Named::new("demo", name);
    let taken =
        |name, text, holder: &str| Problem::Taken { service: id(name), addr: addr(text), holder: holder.into() };
    let expected = [
        taken("c", "10.0.0.1", "Service demo/b"),
        Problem::Outside { service: id("d"), addr: addr("10.1.0.1") },
        taken("e", "10.0.0.2", "Node n"),
    ];
    assert_eq!(assigned.problems, expected);
}

#[test]
fn a_new_wish_moves_a_service_and_a_named_pool_binds_it() {
    let two = pools(&["a=10.0.0.0/24", "b=10.1.0.0/24"]);
    let moved = Claim { held: vec![addr("10.0.0.9")], wished: vec![addr("10.0.0.5")], ..claim("a") };
    let bound = Claim { held: vec![addr("10.0.0.7")], pool: Some("b".into()), ..claim("b") };
    let lost = Claim { pool: Some("c".into()), ..claim("c") };
    let assigned = assign(&two, &[moved, bound, lost], BTreeMap::new());
    assert_eq!(given(&assigned, "a"), ["10.0.0.5"]);
    assert!(two[1].contains(addr(&given(&assigned, "b")[0])));
    assert_eq!(assigned.problems, [Problem::UnknownPool { service: Named::new("demo", "c"), pool: "c".into() }]);
}

#[test]
fn families_are_given_each_or_all_or_none() {
    let both = |name| Claim { families: [true, true], ..claim(name) };
    let strict = |name| Claim { requires_all: true, ..both(name) };
    let one = pools(&["a=10.0.0.1-10.0.0.1"]);
    let assigned = assign(&one, &[strict("a"), both("b")], BTreeMap::new());
    assert_eq!((given(&assigned, "a").len(), given(&assigned, "b")), (0, vec!["10.0.0.1".to_owned()]));
    assert_eq!(assigned.problems, [Problem::NotAll { service: Named::new("demo", "a"), v4: false }]);
    let dual = pools(&["a=10.0.0.1-10.0.0.1,fd00::1-fd00::1"]);
    assert_eq!(given(&assign(&dual, &[strict("a")], BTreeMap::new()), "a"), ["10.0.0.1", "fd00::1"]);
    let assigned = assign(&dual, &[claim("a"), claim("b")], BTreeMap::new());
    assert_eq!(assigned.problems, [Problem::NoneLeft { service: Named::new("demo", "b"), v4: true }]);
    let assigned = assign(&pools(&["a=fd00::/64"]), &[claim("a")], BTreeMap::new());
    assert_eq!(assigned.problems, [Problem::NoPool { service: Named::new("demo", "a") }]);
}

fn any_claims() -> impl Strategy<Value = Vec<Claim>> {
    let wish = || prop::collection::vec((0..20u8).prop_map(|i| Addr::v4([10, 0, 0, i])), 0..2);
    let families = prop_oneof![Just([true, false]), Just([true, true])];
    let one = (families, any::<bool>(), wish(), wish(), prop::option::of(prop_oneof![Just("a"), Just("b"), Just("z")]));
    prop::collection::vec(one, 0..12).prop_map(|all| {
        let claim = |(i, (families, requires_all, wished, held, pool)): (usize, _)| {
            let pool: Option<&str> = pool;
            let id = Named::new("demo", format!("s{i:02}"));
            Claim { id, families, requires_all, wished, pool: pool.map(str::to_owned), held }
        };
        all.into_iter().enumerate().map(claim).collect()
    })
}

proptest! {
    #[test]
    fn nobody_shares_all_is_in_pools_and_order_does_not_matter(claims in any_claims()) {
        let pools = pools(&["a=10.0.0.0/29,fd00::1-fd00::4", "b=10.0.0.10-10.0.0.14"]);
        let assigned = assign(&pools, &claims, BTreeMap::new());
        let all: Vec<Addr> = assigned.addrs.values().flatten().copied().collect();
        prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        for claim in &claims {
            for addr in &assigned.addrs[&claim.id] {
                let may = |pool: &&Pool| claim.pool.as_ref().is_none_or(|name| *name == pool.name);
                prop_assert!(pools.iter().filter(may).any(|pool| pool.contains(*addr)));
                let mut wished = claim.wished.iter().filter(|wish| wish.is_v4() == addr.is_v4()).peekable();
                prop_assert!(wished.peek().is_none() || wished.any(|wish| wish == addr));
            }
        }
        let reversed: Vec<Claim> = claims.iter().rev().cloned().collect();
        prop_assert_eq!(assign(&pools, &reversed, BTreeMap::new()), assigned);
    }

    #[test]
    fn an_assignment_is_kept_whoever_comes_and_goes(claims in any_claims(), goes in any::<prop::sample::Index>()) {
        let pools = pools(&["a=10.0.0.0/28,fd00::1-fd00::4", "b=10.0.0.16-10.0.0.18"]);
        let assigned = assign(&pools, &claims, BTreeMap::new());
        let keep = |claim: &Claim| Claim { held: assigned.addrs[&claim.id].clone(), ..claim.clone() };
        let mut later: Vec<Claim> = claims.iter().map(keep).collect();
        if !later.is_empty() {
            later.remove(goes.index(later.len()));
        }
        later.push(Claim { id: Named::new("a", "first"), ..claim("x") });
        let again = assign(&pools, &later, BTreeMap::new());
        for claim in later.iter().filter(|claim| !claim.held.is_empty()) {
            for addr in &claim.held {
                prop_assert!(again.addrs[&claim.id].contains(addr), "{:?} kept", claim.id);
            }
        }
    }
}
