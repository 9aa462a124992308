//! Services, pools and status together: what a node has of an address, and what it would write.

use super::*;
use crate::object::{Node, Object, ObjectChange, ObjectKey, ServiceKind};

fn addr(text: &str) -> Addr {
    text.parse().unwrap()
}

fn pools() -> Vec<Pool> {
    vec!["p=192.0.2.0/29".parse().unwrap()]
}

fn service(name: &str, balancer: Balancer) -> ObjectChange {
    ObjectChange::Put(Object::Service(Service {
        id: Named::new("demo", name).into(),
        kind: ServiceKind::LoadBalancer,
        cluster_ips: vec![addr("10.96.0.1")],
        families: [true, false],
        load_balancer_ips: balancer.status.clone(),
        balancer: Some(Box::new(balancer)),
        ..Service::default()
    }))
}

fn ours() -> Balancer {
    Balancer { is_ours: true, ..Balancer::default() }
}

fn has(state: &State, name: &str) -> Vec<Addr> {
    state.service(&Named::new("demo", name)).unwrap().load_balancer_ips.clone()
}

#[test]
fn rows_follow_what_pools_give_and_status_is_to_say_it() {
    let mut state = State::new();
    state.apply(service("web", ours()));
    assert_eq!(state.assign_addresses(&pools(), true), Some(vec![]));
    let given = has(&state, "web");
    assert!(given.len() == 1 && pools()[0].contains(given[0]));
    assert!(state.take_changes().services.iter().count() > 0);
    let status = (Named::new("demo", "web"), given.clone());
    assert_eq!(state.statuses_to_write(), std::slice::from_ref(&status));
    state.set_status(status);
    assert_eq!((state.assign_addresses(&pools(), true), state.statuses_to_write()), (Some(vec![]), vec![]));
    assert_eq!(state.assign_addresses(&pools(), true), None, "nothing has changed");
    // The object comes again, changed in something else.
    state.apply(service("web", Balancer { pool: Some("p".into()), ..ours() }));
    state.assign_addresses(&pools(), true);
    assert_eq!(has(&state, "web"), given);
    let key = ObjectKey { kind: crate::object::Kind::Service, namespace: "demo".into(), name: "web".into() };
    state.apply(ObjectChange::Delete(key));
    state.assign_addresses(&pools(), true);
    assert_eq!(state.statuses_to_write(), [(Named::new("demo", "web"), vec![])]);
}

#[test]
fn before_status_is_written_a_newcomer_takes_nothing_from_who_has_it() {
    let mut state = State::new();
    let one = vec!["p=192.0.2.1-192.0.2.1".parse().unwrap()];
    state.apply(service("web", ours()));
    state.assign_addresses(&one, true);
    state.apply(service("a", ours()));
    assert_eq!(state.assign_addresses(&one, true).unwrap().len(), 1);
    assert_eq!((has(&state, "web"), has(&state, "a")), (vec![addr("192.0.2.1")], vec![]));
}

#[test]
fn what_others_gave_stays_and_nodes_keep_their_own() {
    let mut state = State::new();
    let elsewhere = vec![addr("203.0.113.1")];
    state.apply(service("fixed", Balancer { status: elsewhere.clone(), ..ours() }));
    let others = vec![addr("192.0.2.2")];
    state.apply(service("others", Balancer { is_ours: false, status: others.clone(), ..Balancer::default() }));
    let node = Node { name: "n".into(), addrs: vec![addr("192.0.2.1")], ..Node::default() };
    state.apply(ObjectChange::Put(Object::Node(node)));
    for wish in ["192.0.2.1", "192.0.2.2"] {
        state.apply(service("wish", Balancer { wished: vec![addr(wish)], ..ours() }));
        let problems = state.assign_addresses(&pools(), true).unwrap();
        assert!(matches!(&problems[..], [Problem::Taken { .. }]), "{problems:?}");
    }
    assert_eq!((has(&state, "fixed"), has(&state, "others")), (elsewhere, others));
    assert_eq!(state.statuses_to_write(), []);
}

#[test]
fn without_pools_status_alone_counts() {
    let mut state = State::new();
    let id = Named::new("demo", "web");
    state.apply(service("web", ours()));
    state.set_status((id.clone(), vec![addr("192.0.2.5")]));
    assert_eq!(state.assign_addresses(&[], true), Some(vec![]));
    assert_eq!(has(&state, "web"), [addr("192.0.2.5")]);
    state.set_status((id, vec![]));
    state.assign_addresses(&[], true);
    assert_eq!(has(&state, "web"), []);
}

/// Two nodes of one cluster: what one writes the other reads.
#[test]
fn who_does_not_give_goes_by_what_status_says() {
    let (mut holder, mut other) = (State::new(), State::new());
    for state in [&mut holder, &mut other] {
        state.apply(service("a", ours()));
    }
    assert_eq!(other.assign_addresses(&pools(), false), Some(vec![]));
    assert_eq!((has(&other, "a"), other.statuses_to_write()), (vec![], vec![]));
    holder.assign_addresses(&pools(), true);
    let given = has(&holder, "a");
    assert_eq!((given.len(), holder.statuses_to_write().len()), (1, 1));
    other.set_status((Named::new("demo", "a"), given.clone()));
    other.assign_addresses(&pools(), false);
    assert_eq!(has(&other, "a"), given);
    // It takes over: the one that has an address keeps it, others are given one now.
    other.apply(service("b", ours()));
    other.assign_addresses(&pools(), false);
    assert_eq!(has(&other, "b"), []);
    assert!(other.assign_addresses(&pools(), true).is_some(), "it gives from now on");
    assert_eq!((has(&other, "a"), has(&other, "b").len()), (given, 1));
}
