use super::*;
use tables::Protocol;

fn pod(name: &str, app: &str) -> Pod {
    Pod {
        id: Named::new("a", name).into(),
        labels: [("app".to_owned(), app.to_owned()), ("tier".to_owned(), "x".to_owned())].into(),
        addrs: vec!["10.2.0.4".parse().unwrap()],
        ready: true,
        ..Pod::default()
    }
}

fn service(name: &str, app: &str) -> Object {
    let target = TargetPort::Number(80);
    let port = ServicePort { name: String::new(), port: 80, protocol: Protocol::TCP, target, node_port: None };
    Object::Service(Service {
        id: Named::new("a", name).into(),
        ports: vec![port],
        selector: [("app".to_owned(), app.to_owned())].into(),
        ..Service::default()
    })
}

fn state(objects: impl IntoIterator<Item = Object>) -> State {
    let mut state = State::new();
    objects.into_iter().for_each(|object| state.apply(ObjectChange::Put(object)));
    state.take_changes();
    state
}

/// The names of those that changed since the last call.
fn services(state: &mut State) -> Vec<String> {
    let changes = state.take_changes();
    named(state, &changes)
}

fn named(state: &State, changes: &Changes) -> Vec<String> {
    let mut names: Vec<_> = changes.services.iter().map(|number| state.served(*number).name.name.clone()).collect();
    names.sort_unstable();
    names
}

fn has_slices(state: &State, service: &str) -> bool {
    let number = state.services.number(&Named::new("a", service));
    number.is_some_and(|number| !state.served(number).slices.is_empty())
}

#[test]
fn a_pod_concerns_the_services_that_select_it_before_or_after() {
    let mut state =
        state([service("web", "web"), service("api", "api"), service("db", "db"), Object::Pod(pod("p", "web"))]);
    state.apply(ObjectChange::Put(Object::Pod(pod("p", "api"))));
    let changes = state.take_changes();
    assert_eq!(named(&state, &changes), ["api", "web"]);
    assert_eq!(changes.pods.len(), 1);
    state.apply(ObjectChange::Delete(Object::Pod(pod("p", "api")).key()));
    assert_eq!(services(&mut state), ["api"]);
    assert_eq!(state.pods_with("a", &[("app".to_owned(), "api".to_owned())].into()).count(), 0);
}

#[test]
fn a_repetition_is_no_change() {
    let objects = || [service("web", "web"), Object::Pod(pod("p", "web"))];
    let mut state = state(objects());
    objects().into_iter().for_each(|object| state.apply(ObjectChange::Put(object)));
    state.set_local(Local::default());
    assert!(!state.has_changes());
}

#[test]
fn a_slice_that_changes_its_service_concerns_both() {
    let slice = |service: &str| {
        let id = Named::new("a", "e");
        Object::EndpointSlice(EndpointSlice {
            id: id.into(),
            service: Some(service.into()),
            ports: Vec::new(),
            endpoints: Vec::new(),
        })
    };
    let mut state = state([slice("web")]);
    assert!(has_slices(&state, "web"));
    state.apply(ObjectChange::Put(slice("api")));
    assert_eq!(services(&mut state), ["api", "web"]);
    assert!(!has_slices(&state, "web"));
}

#[test]
fn an_attachments_addresses_come_before_the_status() {
    let mut state = state([Object::Pod(pod("p", "web")), service("web", "web")]);
    let own = vec!["10.1.0.4".parse().unwrap()];
    let endpoint =
        LocalEndpoint { interface: 1, owner: 0, mac: Mac([2; 6]), addrs: own.clone(), pod: Named::new("a", "p") };
    state.attach("c/eth0".into(), endpoint);
    assert_eq!(state.addrs_of(&pod("p", "web")), own);
    assert_eq!(services(&mut state), ["web"]);
    state.detach("c/eth0");
    assert_eq!(state.addrs_of(&pod("p", "web")), pod("p", "web").addrs);
    let finished = Pod { finished: true, ..pod("p", "web") };
    assert!(state.addrs_of(&finished).is_empty());
}

#[test]
fn local_facts_are_compared_piece_by_piece() {
    let mut state = state([]);
    let neighbour: Addr = "192.168.0.2".parse().unwrap();
    let neighbours = [(neighbour, Mac([2; 6]))].into();
    state.set_local(Local { neighbours, ..Local::default() });
    let changes = state.take_changes();
    assert!(!changes.node && changes.neighbours.contains(&neighbour) && !changes.kernel_routes);
    state.set_local(Local { vni: 7, ..Local::default() });
    let changes = state.take_changes();
    assert!(changes.node && changes.neighbours.contains(&neighbour));
}
