use super::*;
use crate::file::parse::{Syntax, parse};
use crate::object::{Named, ObjectChange};
use crate::state::{Local, LocalEndpoint};
use tables::Mac;
use tables::flow::{Hop, Tuple};

const SERVER: &str = "10.0.0.1";
const FRIEND: &str = "10.0.1.2";
const OTHER: &str = "10.0.1.3";

fn addr(text: &str) -> Addr {
    text.parse().unwrap()
}

/// A pod here, two elsewhere, and a policy that lets in the friend alone.
fn state() -> State {
    let pod = |name: &str, address: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{namespace: demo, name: {name}, labels: {{name: {name}}}}}, \
             spec: {{containers: []}}, status: {{podIP: {address}, podIPs: [{{ip: {address}}}]}}}}\n---\n"
        )
    };
    let policy = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: demo, name: friends}, spec: \
                  {podSelector: {matchLabels: {name: server}}, ingress: \
                  [{from: [{podSelector: {matchLabels: {name: friend}}}]}]}}";
    let text = [pod("server", SERVER), pod("friend", FRIEND), pod("other", OTHER), policy.to_owned()].concat();
    let parsed = parse(&text, Syntax::Yaml);
    assert_eq!(parsed.problems, []);
    let mut state = State::new();
    state.set_local(Local { node: "here".into(), workers: 1, ..Local::default() });
    parsed.objects.into_iter().for_each(|object| state.apply(ObjectChange::Put(object)));
    let (pod, addrs) = (Named::new("demo", "server"), vec![addr(SERVER)]);
    state.attach("c/eth0".into(), LocalEndpoint { interface: 10, owner: 0, mac: Mac([2; 6]), addrs, pod });
    state.set_complete();
    state
}

/// A flow that the server did not open.
fn flow(from: &str, hop: Hop) -> FlowRecord {
    let inside = Tuple {
        local: addr(SERVER),
        remote: addr(from),
        local_port: 80,
        remote_port: 1000,
        protocol: Protocol::TCP,
        reserved: 0,
        network: 0,
    };
    let mut record = FlowRecord::new(inside, &inside);
    (record.out, record.back, record.packets) = (hop, hop, 7);
    record
}

/// What changes about a flow by this state.
fn changed(mut state: State, record: &FlowRecord) -> Option<FlowChange> {
    let pods = pod_names(&state);
    let (mut compiler, mut publisher) = (Compiler::new(), Publisher::create(1).unwrap());
    let mut batch = publisher.batch([]).unwrap();
    assert!(compiler.update(&mut state, &mut batch).problems.is_empty());
    batch.publish();
    change(&publisher.live(), record, &pods, &|index| compiler.policy_name(index))
}

#[test]
fn a_flow_that_the_change_forbids_is_cut_by_name_and_one_that_it_allows_is_not_told() {
    let live = Hop::new(HopKind::Tunnel, 1);
    let cut = changed(state(), &flow(OTHER, live)).unwrap();
    assert_eq!((cut.change.as_str(), cut.direction.as_str(), cut.packets), ("cut", "ingress", 7));
    assert_eq!((cut.source.as_str(), cut.destination.as_str()), ("10.0.1.3:1000", "10.0.0.1:80"));
    assert_eq!((cut.source_pod.as_deref(), cut.destination_pod.as_deref()), (Some("demo/other"), Some("demo/server")));
    assert_eq!((cut.policy.as_deref(), cut.rule), (Some("demo/friends"), None));
    assert_eq!(changed(state(), &flow(FRIEND, live)), None);
}

#[test]
fn a_flow_that_was_cut_is_admitted_by_the_rule_that_allows_it() {
    let cut = Hop::drop(DropReason::PolicyIngress, 1);
    let admitted = changed(state(), &flow(FRIEND, cut)).unwrap();
    assert_eq!((admitted.change.as_str(), admitted.rule.as_deref()), ("admitted", Some("ingress[0]")));
    assert_eq!(changed(state(), &flow(OTHER, cut)), None, "it stays cut");
    let elsewhere = Hop::drop(DropReason::NoRoute, 0);
    assert_eq!(changed(state(), &flow(FRIEND, elsewhere)), None, "no policy keeps it away");
}

#[test]
fn what_a_pod_opens_is_judged_by_whom_the_network_sees() {
    let inside = flow(OTHER, Hop::default()).inside;
    let service = Tuple { remote: addr("172.30.0.1"), ..inside };
    let mut record = FlowRecord::new(service, &inside);
    record.flags = FLAG_OPENED_LOCALLY;
    let [own, behind] = halves(&record);
    let own = own.unwrap();
    assert_eq!((own.pod, own.direction, own.peer, own.port), (addr(SERVER), Direction::Egress, addr(OTHER), 1000));
    assert_eq!(behind, None);
    let masqueraded = Tuple { local: addr("10.0.0.254"), ..inside };
    let mut client = FlowRecord::new(service, &masqueraded);
    client.flags = FLAG_OPENED_LOCALLY | FLAG_CLIENT;
    let [own, behind] = halves(&client);
    assert_eq!(own, None, "a client outside has no policies");
    let behind = behind.unwrap();
    assert_eq!((behind.pod, behind.direction, behind.peer), (addr(OTHER), Direction::Ingress, addr(SERVER)));
}
