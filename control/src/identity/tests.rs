use super::*;
use crate::object::{NetworkPolicy, Object, ObjectChange, Pod, PolicyRule, Selector};
use tables::Publisher;

fn pod(name: &str, app: &str, addr: &str) -> Pod {
    Pod {
        id: Named::new("a", name).into(),
        labels: [("app".to_owned(), app.to_owned())].into(),
        addrs: vec![addr.parse().unwrap()],
        ready: true,
        ..Pod::default()
    }
}

fn blocking(name: &str, cidr: &str) -> NetworkPolicy {
    let peers = vec![Peer::Block { cidr: cidr.parse().unwrap(), except: Vec::new() }];
    let rules = [Some(vec![PolicyRule { peers, ..PolicyRule::default() }]), None];
    NetworkPolicy { audit: false, id: Named::new("a", name), pods: Selector::default(), rules }
}

struct Rig {
    publisher: Publisher,
    state: State,
    identities: Identities,
}

impl Rig {
    fn new() -> Rig {
        Rig { publisher: Publisher::create(1).unwrap(), state: State::new(), identities: Identities::new() }
    }

    fn pod(&mut self, pod: Pod) {
        let id = pod.id.clone();
        self.state.apply(ObjectChange::Put(Object::Pod(pod)));
        self.identities.set_pod(&self.state, &id);
    }

    fn policy(&mut self, name: &str, policy: Option<NetworkPolicy>) {
        let key = crate::state::policy_key(&Named::new("a", name));
        self.state.apply(match policy {
            Some(policy) => ObjectChange::Put(Object::NetworkPolicy(policy)),
            None => ObjectChange::Delete(key.clone()),
        });
        self.identities.set_policy(&self.state, &key);
    }

    fn settle(&mut self) {
        self.identities.forget_changes();
        let mut batch = self.publisher.batch([]).unwrap();
        self.identities.settle(&mut batch, &mut Problems::default());
        batch.publish();
    }

    fn of(&self, addr: &str) -> u32 {
        let addr: Addr = addr.parse().unwrap();
        let found = self.publisher.live().longest_match(Lpm::Identity, addr).unwrap_or(IDENTITY_WORLD as u64) as u32;
        assert_eq!(found, self.identities.of(addr), "the record and the table agree");
        found
    }
}

#[test]
fn equal_pods_share_an_identity_until_a_block_tells_them_apart() {
    let mut rig = Rig::new();
    rig.pod(pod("p1", "web", "10.1.0.4"));
    rig.pod(pod("p2", "web", "10.2.0.4"));
    rig.pod(pod("p3", "api", "10.2.0.5"));
    rig.settle();
    assert_eq!(rig.of("10.1.0.4"), rig.of("10.2.0.4"));
    assert_ne!(rig.of("10.2.0.4"), rig.of("10.2.0.5"));
    assert_eq!(rig.of("10.2.0.6"), IDENTITY_WORLD);
    rig.policy("n", Some(blocking("n", "10.2.0.0/16")));
    rig.settle();
    assert_ne!(rig.of("10.1.0.4"), rig.of("10.2.0.4"));
    assert_ne!(rig.of("10.2.0.6"), IDENTITY_WORLD);
    rig.policy("n", None);
    rig.settle();
    assert_eq!(rig.of("10.1.0.4"), rig.of("10.2.0.4"));
    assert_eq!(rig.of("10.2.0.6"), IDENTITY_WORLD);
}

#[test]
fn a_block_named_twice_stays_until_both_are_gone() {
    let mut rig = Rig::new();
    for name in ["n", "m"] {
        rig.policy(name, Some(blocking(name, "8.8.0.0/16")));
    }
    rig.settle();
    let id = rig.of("8.8.8.8");
    rig.policy("n", None);
    rig.settle();
    assert_eq!(rig.of("8.8.8.8"), id);
    rig.policy("m", None);
    rig.settle();
    assert_eq!((rig.of("8.8.8.8"), rig.identities.died().contains(&id)), (IDENTITY_WORLD, true));
}

#[test]
fn the_nodes_own_addresses_are_the_nodes_whoever_claims_them() {
    let mut rig = Rig::new();
    rig.identities.set_own(["192.168.0.1".parse().unwrap()].into_iter());
    rig.pod(pod("p1", "web", "192.168.0.1"));
    rig.settle();
    assert_eq!(rig.of("192.168.0.1"), IDENTITY_NODE);
    rig.identities.set_own(std::iter::empty());
    rig.settle();
    assert!(rig.of("192.168.0.1") >= IDENTITY_FIRST);
}

#[test]
fn a_pod_that_ends_gives_way_to_the_next_with_its_address() {
    let mut rig = Rig::new();
    rig.pod(Pod { terminating: true, ..pod("p1", "web", "10.1.0.4") });
    rig.pod(pod("p2", "api", "10.1.0.4"));
    rig.settle();
    let class = rig.identities.class(rig.of("10.1.0.4")).unwrap();
    assert_eq!(class.traits().unwrap().labels.get("app"), Some("api"));
    assert_eq!(class.to_string(), "pods a[app=api]");
}
