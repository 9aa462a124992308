//! Single cases that deserve a name.

use super::world::{addr, local, pod_id, prefix};
use super::*;
use crate::encapsulation::Encapsulation;
use crate::object::*;
use crate::state::{KernelRoute, Local, LocalEndpoint};
use std::collections::BTreeSet;
use tables::limits::RULES_PER_ROW_MAX;
use tables::node::{NodeRecord, PeerRecord};
use tables::route::FLAG_MASQUERADE;

fn rig(objects: impl IntoIterator<Item = Object>) -> Rig {
    let mut rig = Rig::new(local());
    put(&mut rig, objects);
    rig
}

fn put(rig: &mut Rig, objects: impl IntoIterator<Item = Object>) -> Report {
    objects.into_iter().for_each(|object| rig.state.apply(ObjectChange::Put(object)));
    rig.update()
}

#[test]
fn ports_of_the_nodes_own_sockets_are_marked_while_these_have_them() {
    let mut rig = rig([]);
    for ports in [vec![40_000, 40_063, 40_064, 60_999, 65_535], vec![40_064], vec![]] {
        let taken: BTreeSet<u16> = ports.into_iter().collect();
        rig.state.set_local(Local { taken_ports: taken.clone(), ..rig.state.local().clone() });
        rig.update();
        let found = (0..=u16::MAX).filter(|port| tables::taken::is_taken(&rig.view(), *port));
        assert_eq!(found.collect::<BTreeSet<u16>>(), taken);
    }
}

#[test]
fn a_port_that_services_and_pods_have_is_theirs_although_fairway_translates_to_such() {
    let ports = |port: u16| HostPort { addr: None, port, protocol: Protocol::TCP, container_port: 80 };
    let pod = |host_ports| Object::Pod(Pod { id: pod_id(0).into(), ready: true, host_ports, ..Pod::default() });
    let Object::Service(mut service) = service_object("s", "172.30.0.1", 1) else { unreachable!() };
    (service.kind, service.ports[0].node_port) = (ServiceKind::NodePort, Some(40_007));
    let mut rig = Rig::new(Local { snat_ports: Some(40_000..=60_999), ..local() });
    attach(&mut rig, 0, "10.1.0.4");
    put(&mut rig, [pod(vec![ports(40_007), ports(54_323), ports(8080)]), Object::Service(service.clone())]);
    let row = ServiceKey::new(addr("192.168.0.1"), 54_323, Protocol::TCP);
    assert!(rig.view().find::<_, ServiceRecord>(Table::Service, &row).is_some());
    let taken = |rig: &Rig| [8080, 40_007, 54_323].map(|port| tables::taken::is_taken(&rig.view(), port));
    assert_eq!(taken(&rig), [false, true, true]);
    put(&mut rig, [pod(vec![])]);
    assert_eq!(taken(&rig), [false, true, false], "the service has its own still");
    service.ports[0].node_port = None;
    put(&mut rig, [Object::Service(service)]);
    assert_eq!(taken(&rig), [false; 3]);
}

fn service_object(name: &str, ip: &str, ports: u16) -> Object {
    let port = |i| ServicePort {
        name: format!("q{i}"),
        port: 80 + i,
        protocol: Protocol::TCP,
        target: TargetPort::Number(80),
        node_port: None,
    };
    Object::Service(crate::object::Service {
        id: Named::new("a", name).into(),
        cluster_ips: vec![addr(ip)],
        ports: (0..ports).map(port).collect(),
        families: [addr(ip).is_v4(), !addr(ip).is_v4()],
        ..crate::object::Service::default()
    })
}

fn slice_object(service: &str, addrs: &[&str]) -> Object {
    let endpoint = |a: &&str| SliceEndpoint { addr: addr(a), ready: true, serving: true, ..SliceEndpoint::default() };
    Object::EndpointSlice(EndpointSlice {
        id: Named::new("a", format!("{service}-1")).into(),
        service: Some(service.into()),
        ports: vec![SlicePort { name: "q0".into(), protocol: Protocol::TCP, port: 8080 }],
        endpoints: addrs.iter().map(endpoint).collect(),
    })
}

fn pod_object(pod: usize) -> Object {
    Object::Pod(Pod { id: pod_id(pod).into(), ready: true, ..Pod::default() })
}

fn attach(rig: &mut Rig, pod: usize, ip: &str) {
    let endpoint =
        LocalEndpoint { interface: 9, owner: 1, mac: tables::Mac([2; 6]), addrs: vec![addr(ip)], pod: pod_id(pod) };
    rig.state.attach(format!("c{pod}"), endpoint);
}

fn ids(rig: &Rig, key: ServiceKey) -> (u32, BTreeMap<(Addr, u16), u32>) {
    let row: ServiceRecord = rig.view().find(Table::Service, &key).expect("installed");
    let rows = row.inside.first..row.inside.first + row.inside.count;
    let backends = rows.map(|i| rig.view().row::<BackendRecord>(Table::Backend, i as usize));
    (row.id, backends.map(|b| ((b.addr, b.port), b.id)).collect())
}

#[test]
fn a_service_and_its_staying_backends_keep_their_ids() {
    let mut rig = rig([service_object("s", "172.30.0.1", 1), slice_object("s", &["10.2.0.4", "10.2.0.5"])]);
    let key = ServiceKey::new(addr("172.30.0.1"), 80, Protocol::TCP);
    let (id, before) = ids(&rig, key);
    put(&mut rig, [slice_object("s", &["10.2.0.5", "10.2.0.6", "10.2.0.3", "10.2.0.9"])]);
    let (same_id, after) = ids(&rig, key);
    assert_eq!(id, same_id);
    let staying = (addr("10.2.0.5"), 8080);
    assert_eq!(before[&staying], after[&staying]);
    let mut all: Vec<u32> = after.values().copied().collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 4);
}

#[test]
fn a_repeated_object_changes_nothing() {
    let objects = || [service_object("s", "172.30.0.1", 2), slice_object("s", &["10.2.0.4"]), pod_object(0)];
    let mut rig = rig(objects());
    objects().into_iter().for_each(|object| rig.state.apply(ObjectChange::Put(object)));
    rig.state.set_local(local());
    rig.state.mark_all();
    let mut batch = rig.publisher.batch(rig.status.acks()).unwrap();
    rig.compiler.update(&mut rig.state, &mut batch);
    assert!(batch.is_empty(), "nothing is written and no scope is touched");
}

#[test]
fn of_two_services_with_one_address_the_first_by_name_has_it_and_the_other_says_so() {
    let mut rig = rig([service_object("t", "172.30.0.1", 1), slice_object("t", &["10.2.0.4"])]);
    let report = put(&mut rig, [service_object("s", "172.30.0.1", 1)]);
    let text = report.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(text.contains("Service a/t does not get 172.30.0.1") && text.contains("a/s has it"), "{text}");
    rig.state.apply(ObjectChange::Delete(service_object("s", "172.30.0.1", 1).key()));
    assert!(rig.update().problems.is_empty());
    let (_, backends) = ids(&rig, ServiceKey::new(addr("172.30.0.1"), 80, Protocol::TCP));
    assert_eq!(backends.len(), 1);
}

#[test]
fn what_the_node_itself_serves_to_clients_that_keep_their_addresses_has_to_answer_by_fairway() {
    let (own, port) = (addr("192.168.0.1"), 8080);
    let slices = |addrs: &[&str]| {
        let Object::EndpointSlice(mut slice) = slice_object("s", addrs) else { unreachable!() };
        slice.endpoints.iter_mut().for_each(|endpoint| endpoint.node = Some(local().node));
        Object::EndpointSlice(slice)
    };
    let exposed = |external_policy| {
        let Object::Service(mut service) = service_object("s", "172.30.0.1", 1) else { unreachable!() };
        (service.kind, service.external_policy) = (ServiceKind::NodePort, external_policy);
        service.ports[0].node_port = Some(30080);
        Object::Service(service)
    };
    let answering = BTreeSet::from([Single { addr: own, protocol: Protocol::TCP, port }]);
    let mut rig = rig([exposed(TrafficPolicy::Local), slices(&["10.1.0.4", "192.168.0.1"])]);
    assert_eq!(*rig.update().answering, answering);
    assert!(put(&mut rig, [exposed(TrafficPolicy::Cluster)]).answering.is_empty(), "there clients are masqueraded");
    assert_eq!(*put(&mut rig, [exposed(TrafficPolicy::Local)]).answering, answering);
    assert!(put(&mut rig, [slices(&["10.1.0.4"])]).answering.is_empty());
}

#[test]
fn a_pod_may_speak_only_once_its_object_is_known() {
    let mut rig = rig([]);
    attach(&mut rig, 0, "10.1.0.4");
    rig.update();
    let flags = |rig: &Rig| endpoint(&rig.view(), addr("10.1.0.4")).unwrap().flags;
    assert_eq!(flags(&rig), 0);
    put(&mut rig, [pod_object(0)]);
    assert_eq!(flags(&rig), FLAG_POLICY_IN_FORCE);
    rig.state.apply(ObjectChange::Delete(pod_object(0).key()));
    rig.update();
    assert_eq!(flags(&rig), 0);
}

#[test]
fn what_does_not_fit_is_named_and_comes_in_when_there_is_room() {
    use tables::limits::ENDPOINTS_MAX;
    // A hash table takes more than its limit as long as probes stay short: fill it until it refuses.
    let mut rig = rig([]);
    let many = 2 * ENDPOINTS_MAX;
    for i in 0..many {
        let [_, _, high, low] = (i as u32 + 256).to_be_bytes();
        attach_many(&mut rig, i, &format!("10.1.{high}.{low}"));
    }
    let report = rig.update();
    let text = report.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(text.contains("table endpoint is full at its limit of 2048"), "{text}");
    for i in 0..many / 2 {
        rig.state.detach(&format!("c{i}"));
    }
    assert!(rig.update().problems.is_empty());
    assert!((many / 2..many).all(|i| {
        let [_, _, high, low] = (i as u32 + 256).to_be_bytes();
        endpoint(&rig.view(), addr(&format!("10.1.{high}.{low}"))).is_some()
    }));
}

fn attach_many(rig: &mut Rig, i: usize, ip: &str) {
    let pod = Named::new("a", format!("p{i}"));
    let endpoint = LocalEndpoint { interface: 9, owner: 0, mac: tables::Mac([2; 6]), addrs: vec![addr(ip)], pod };
    rig.state.attach(format!("c{i}"), endpoint);
}

#[test]
fn more_port_ranges_than_a_row_holds_are_refused_by_name() {
    let port = |i| PortMatch { protocol: Protocol::TCP, port: PortRange::Numbers(2 * i + 1, 2 * i + 1) };
    let ports = (0..RULES_PER_ROW_MAX as u16 + 1).map(port).collect();
    let mut policy = NetworkPolicy {
        audit: false,
        id: Named::new("a", "wide"),
        pods: Selector::default(),
        rules: [Some(vec![PolicyRule { ports, ..PolicyRule::default() }]), None],
    };
    let mut rig = rig([pod_object(0), Object::NetworkPolicy(policy.clone())]);
    attach(&mut rig, 0, "10.1.0.4");
    let report = rig.update();
    assert_eq!(report.problems.len(), 1, "{report:?}");
    let own = endpoint(&rig.view(), addr("10.1.0.4")).unwrap();
    let allowed = |port| verdict(&rig.view(), &own, Direction::Ingress, addr("8.8.8.8"), Protocol::TCP, port);
    assert!(allowed(1) && !allowed(2 * RULES_PER_ROW_MAX as u16 + 1));
    policy.rules[1] = Some(Vec::new());
    assert_eq!(
        put(&mut rig, [Object::NetworkPolicy(policy)]).problems.len(),
        1,
        "the other direction does not mend it"
    );
}

#[test]
fn a_peer_behind_a_gateway_is_reached_through_it_and_the_gateway_is_asked_for() {
    let mut rig = rig([Object::Node(crate::object::Node {
        name: "n2".into(),
        zone: None,
        addrs: vec![addr("192.168.7.3")],
        pod_cidrs: vec![prefix("10.2.0.0/24")],
        ..crate::object::Node::default()
    })]);
    let via = Some(addr("192.168.0.254"));
    rig.state.set_kernel_routes(vec![
        KernelRoute { prefix: prefix("192.168.0.0/24"), via: None },
        KernelRoute { prefix: prefix("0.0.0.0/0"), via },
    ]);
    assert_eq!(*rig.update().next_hops, [addr("192.168.0.254")]);
    let found = route(&rig.view(), addr("10.2.0.9")).0;
    assert_eq!(found, Route::Tunnel { peer: addr("192.168.7.3"), next_hop: addr("192.168.0.254") });
    let flags = |to: &str| {
        let row: RouteRecord = rig.view().row(Table::Route, route_id(&rig.view(), addr(to)) as usize);
        row.flags
    };
    assert_eq!([flags("10.2.0.9"), flags("8.8.8.8"), flags("192.168.0.7")], [0, FLAG_MASQUERADE, FLAG_MASQUERADE]);
}

/// The rows of the routes to another node's pods, IPv4 and IPv6, and the next hop's address.
fn routes_to(encapsulation: Encapsulation, own: &[&str], other: &[&str]) -> [(RouteRecord, Option<Addr>); 2] {
    let addrs = own.iter().map(|a| addr(a)).collect();
    let mut rig = Rig::new(Local { encapsulation, addrs, ..local() });
    let pod_cidrs = vec![prefix("10.2.0.0/24"), prefix("fd00:2::/64")];
    let node = crate::object::Node {
        name: "n2".into(),
        zone: None,
        addrs: other.iter().map(|a| addr(a)).collect(),
        pod_cidrs,
        ..crate::object::Node::default()
    };
    put(&mut rig, [Object::Node(node)]);
    ["10.2.0.9", "fd00:2::9"].map(|to| {
        let row: RouteRecord = rig.view().row(Table::Route, route_id(&rig.view(), addr(to)) as usize);
        (row, rig.compiler.neighbour_addr(row.next_hop))
    })
}

#[test]
fn both_families_go_by_one_tunnel_and_ipv4_is_preferred_outside() {
    let (v4, v6) = ("192.168.0.2", "fd99::2");
    let both = ["fd99::1", "192.168.0.1"];
    for (own, other, peer) in [(&both[..], &[v6, v4][..], v4), (&both, &[v6], v6), (&both[..1], &[v4, v6], v6)] {
        for (row, next_hop) in routes_to(Encapsulation::Vxlan, own, other) {
            assert_eq!((row.kind(), row.peer), (Some(RouteKind::Tunnel), addr(peer)), "{own:?} {other:?}");
            assert_eq!(next_hop, Some(addr(peer)));
        }
    }
    let [(row, _), _] = routes_to(Encapsulation::Vxlan, &["fd99::1"], &[v4]);
    assert_eq!(row.kind(), Some(RouteKind::Blackhole), "nodes that cannot meet");
}

#[test]
fn a_node_that_says_its_address_inside_has_it_in_its_routes_as_long_as_it_does() {
    let node = |inner_mac| crate::object::Node {
        name: "n2".into(),
        addrs: vec![addr("192.168.0.2")],
        pod_cidrs: vec![prefix("10.2.0.0/24")],
        inner_mac,
        ..crate::object::Node::default()
    };
    let (mut rig, said) = (Rig::new(local()), tables::Mac([0x9e, 1, 2, 3, 4, 5]));
    for inner_mac in [Some(said), None] {
        put(&mut rig, [Object::Node(node(inner_mac))]);
        let row: RouteRecord = rig.view().row(Table::Route, route_id(&rig.view(), addr("10.2.0.9")) as usize);
        assert_eq!(row.inner_mac, inner_mac.unwrap_or_default());
    }
}

#[test]
fn without_encapsulation_the_other_node_is_a_next_hop_and_nothing_is_masqueraded() {
    for (row, next_hop) in routes_to(Encapsulation::None, &["192.168.0.1", "fd99::1"], &["192.168.0.2"]) {
        assert_eq!((row.kind(), row.flags, row.peer), (Some(RouteKind::Via), 0, addr("192.168.0.2")));
        assert_eq!(next_hop, Some(addr("192.168.0.2")));
    }
    let [(row, _), _] = routes_to(Encapsulation::Ipip, &["192.168.0.1"], &["192.168.0.2"]);
    assert_eq!((row.kind(), row.peer), (Some(RouteKind::Ipip), addr("192.168.0.2")));
}

#[test]
fn nothing_leaves_in_a_family_in_which_the_node_has_no_address() {
    let mut rig = Rig::new(Local { addrs: vec![addr("192.168.0.1")], ..local() });
    let default = |to: &str, via: &str| KernelRoute { prefix: prefix(to), via: Some(addr(via)) };
    rig.state.set_kernel_routes(vec![default("0.0.0.0/0", "192.168.0.254"), default("::/0", "fe80::1")]);
    rig.update();
    let known = |rig: &Rig| ["8.8.8.8", "2001:db8::8"].map(|to| route_id(&rig.view(), addr(to)) != 0);
    assert_eq!(known(&rig), [true, false]);
    rig.state.set_local(Local {
        addrs: vec![addr("192.168.0.1"), addr("fd99::1")],
        kernel_routes: rig.state.local().kernel_routes.clone(),
        ..local()
    });
    rig.update();
    assert_eq!(known(&rig), [true, true]);
}

#[test]
fn the_node_is_ready_only_after_the_first_complete_read() {
    let mut rig = Rig::new(local());
    rig.state = State::new();
    rig.state.set_local(local());
    let ready = |rig: &Rig| rig.view().row::<NodeRecord>(Table::Node, 0).ready;
    rig.update();
    assert_eq!(ready(&rig), 0);
    rig.state.set_complete();
    rig.update();
    let row: NodeRecord = rig.view().row(Table::Node, 0);
    assert_eq!((row.ready, row.node, row.vni), (1, [addr("192.168.0.1"), addr("fd99::1")], 1));
}

#[test]
fn listings_name_what_ids_mean() {
    let policy = NetworkPolicy {
        audit: false,
        id: Named::new("a", "deny"),
        pods: Selector::default(),
        rules: [Some(Vec::new()), None],
    };
    let mut rig = rig([service_object("s", "172.30.0.1", 1), pod_object(0), Object::NetworkPolicy(policy)]);
    attach(&mut rig, 0, "10.1.0.4");
    rig.update();
    let own = endpoint(&rig.view(), addr("10.1.0.4")).unwrap();
    let set: PolicySetRecord = rig.view().row(Table::PolicySet, own.policy_set as usize);
    assert_eq!(rig.compiler.policy_name(set.sides[0].deny_policy()).as_deref(), Some("a/deny"));
    assert_eq!(rig.compiler.identity_name(own.identity), "pods a[]");
    assert_eq!(rig.compiler.route_name(own.route).as_deref(), Some("10.1.0.4/32"));
    let (id, _) = ids(&rig, ServiceKey::new(addr("172.30.0.1"), 80, Protocol::TCP));
    assert_eq!(rig.compiler.service_name(id).as_deref(), Some("a/s:q0"));
    let policies = rig.compiler.policies(&rig.state);
    assert_eq!((policies[0].types.as_slice(), policies[0].local_endpoints), (["Ingress"].as_slice(), 1));
}

#[test]
fn a_policy_beyond_the_last_index_keeps_its_pods_silent_until_there_is_one() {
    use tables::limits::POLICIES_MAX;
    let policy = |i: usize| {
        // Only the last one selects anybody.
        let exists = crate::object::selector::Test::Exists;
        let nobody = vec![crate::object::selector::Requirement { key: "none".into(), test: exists }];
        let pods = Selector(if i == POLICIES_MAX { Vec::new() } else { nobody });
        Object::NetworkPolicy(NetworkPolicy {
            audit: false,
            id: Named::new("a", format!("n{i:05}")),
            pods,
            rules: [Some(Vec::new()), None],
        })
    };
    let mut rig = rig((1..POLICIES_MAX).map(policy));
    attach(&mut rig, 0, "10.1.0.4");
    let flags = |rig: &Rig| endpoint(&rig.view(), addr("10.1.0.4")).unwrap().flags;
    let report = put(&mut rig, [pod_object(0), policy(POLICIES_MAX)]);
    let text = report.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(text.contains("NetworkPolicy a/n16384 is not in force: table policy is full at its limit"), "{text}");
    assert_eq!(flags(&rig), 0);
    rig.state.apply(ObjectChange::Delete(policy(1).key()));
    let report = rig.update();
    assert!(report.problems.is_empty(), "{report:?}");
    assert_eq!(flags(&rig), FLAG_POLICY_IN_FORCE);
}

#[test]
fn pods_that_come_to_other_policies_together_keep_their_set_and_one_that_goes_alone_does_not() {
    let policy = |name: &str, pods: Selector| {
        let id = Named::new("a", name);
        Object::NetworkPolicy(NetworkPolicy { audit: false, id, pods, rules: [Some(Vec::new()), None] })
    };
    let mut rig = rig([pod_object(0), pod_object(2), policy("all", Selector::default())]);
    attach(&mut rig, 0, "10.1.0.4");
    attach(&mut rig, 2, "10.1.0.6");
    rig.update();
    let set = |rig: &Rig, ip: &str| endpoint(&rig.view(), addr(ip)).unwrap().policy_set;
    let both = |rig: &Rig| (set(rig, "10.1.0.4"), set(rig, "10.1.0.6"));
    let (first, _) = both(&rig);
    assert_eq!(both(&rig), (first, first));
    put(&mut rig, [policy("more", Selector::default())]);
    assert_eq!(both(&rig), (first, first));
    let exists = crate::object::selector::Test::Exists;
    let labelled = Selector(vec![crate::object::selector::Requirement { key: "app".into(), test: exists }]);
    let labels = [("app".to_owned(), "x".to_owned())].into();
    put(
        &mut rig,
        [policy("one", labelled), Object::Pod(Pod { id: pod_id(2).into(), ready: true, labels, ..Pod::default() })],
    );
    let (stays, goes) = both(&rig);
    assert!(stays == first && goes != first && goes != 0, "{stays} and {goes}, from {first}");
}

#[test]
fn backends_beyond_the_table_leave_the_service_as_it_was_until_there_is_room() {
    use tables::limits::BACKENDS_MAX;
    // Three services of half the table each: the last finds no room until another goes, in whatever order.
    let half = |name: &str, ip: &str, net: u8| {
        let addr_of = |i: usize| Addr::from_bits((0xfd00_u128 + net as u128) << 112 | i as u128);
        let ready = |i| SliceEndpoint { addr: addr_of(i), ready: true, serving: true, ..SliceEndpoint::default() };
        let mut slice = slice_object(name, &[]);
        if let Object::EndpointSlice(slice) = &mut slice {
            slice.endpoints = (0..BACKENDS_MAX / 2).map(ready).collect();
        }
        [service_object(name, ip, 1), slice]
    };
    let mut rig = rig([half("t", "fd30::1", 1), half("u", "fd30::2", 2)].concat());
    let report = put(&mut rig, half("s", "fd30::3", 3));
    let text = report.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(text.contains("Service a/s is not in force: table backend is full at its limit of 1048576"), "{text}");
    let found = |rig: &Rig, ip: &str| service(&rig.view(), addr(ip), 80, Protocol::TCP).0;
    assert_eq!(found(&rig, "fd30::3"), Found::NoPort);
    rig.state.apply(ObjectChange::Delete(half("t", "fd30::1", 1)[0].key()));
    assert!(rig.update().problems.is_empty());
    let Found::Port { inside: naive_services::Answer::To(all), .. } = found(&rig, "fd30::3") else {
        panic!("still missing")
    };
    assert_eq!(all.len(), BACKENDS_MAX / 2);
}

#[test]
fn other_nodes_addresses_are_peers_and_this_nodes_are_not() {
    let mut rig = rig([]);
    let node = |name: &str, addrs: &[&str]| {
        let addrs = addrs.iter().map(|a| addr(a)).collect();
        Object::Node(crate::object::Node { name: name.into(), addrs, ..Default::default() })
    };
    let nodes = |rig: &Rig, of: &str| rig.view().find::<_, PeerRecord>(Table::Peer, &addr(of)).map(|peer| peer.nodes);
    let (own, a, b) = ("192.168.0.1", "192.168.0.2", "fd99::2");
    put(&mut rig, [node("n1", &[own]), node("n2", &[a, b]), node("n3", &[b])]);
    assert_eq!([own, a, b].map(|of| nodes(&rig, of)), [None, Some(1), Some(2)]);
    put(&mut rig, [node("n2", &[])]);
    assert_eq!([own, a, b].map(|of| nodes(&rig, of)), [None, None, Some(1)]);
    rig.state.apply(ObjectChange::Delete(node("n3", &[]).key()));
    rig.update();
    assert_eq!(nodes(&rig, b), None);
}
