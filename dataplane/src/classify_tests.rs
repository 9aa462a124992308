use super::*;
use proptest::prelude::*;
use tables::Protocol;

fn tuple() -> Tuple {
    Tuple {
        local: Addr::v4([10, 1, 0, 4]),
        remote: Addr::v4([172, 30, 0, 10]),
        local_port: 1000,
        remote_port: 80,
        protocol: Protocol::TCP,
        reserved: 0,
        network: 0,
    }
}

#[test]
fn what_is_never_routed_is_told_from_what_is() {
    for addr in ["169.254.169.254", "224.0.0.1", "255.255.255.255", "0.0.0.0", "fe80::1", "febf::1", "ff02::1", "::"] {
        assert!(is_link_local(addr.parse().unwrap()), "{addr}");
    }
    for addr in ["169.253.0.1", "10.1.0.4", "223.255.255.255", "fec0::1", "fd00::1", "2001:db8::1"] {
        assert!(!is_link_local(addr.parse().unwrap()), "{addr}");
    }
}

#[test]
fn outside_bears_the_backend_and_the_masquerade_and_keeps_the_rest() {
    let (backend, snat) = (Addr::v4([10, 1, 1, 9]), Addr::v4([10, 1, 0, 3]));
    let decision = Decision { remote: backend, remote_port: 8080, ..Decision::new(&tuple(), true) };
    let translated = Tuple { remote: backend, remote_port: 8080, ..tuple() };
    assert_eq!(decision.outside(&tuple()), translated);
    let masqueraded = Decision { masquerade: Masquerade::As(snat), ..decision };
    assert_eq!(masqueraded.outside(&tuple()), Tuple { local: snat, ..translated });
}

proptest! {
    /// Everything that a decision looked up is something that its flow is looked at again for.
    #[test]
    fn a_decision_depends_on_all_it_looked_up(service in any::<u32>(), set: Option<u32>, identity: u32, route: Option<u32>) {
        let found = service::Match { id: service, backends: tables::service::Rows { first: 0, count: 1 }, flags: 0, algorithm: Default::default() };
        let new = Decision::new(&tuple(), true);
        let scopes = Decision { service: Some(found), policy_set: set, identity, route, ..new }.scopes();
        let expected = [Some(Scope::Service(service)), set.map(Scope::PolicySet), Some(Scope::Identity(identity)), route.map(Scope::Route)];
        prop_assert_eq!(scopes, expected);
    }
}
