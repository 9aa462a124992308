//! Policies that are only being tried: nothing is denied by them, and what they would deny is marked with their names.

use crate::compile::Compiler;
use crate::file::parse::{Syntax, parse};
use crate::object::{Named, ObjectChange};
use crate::state::{Local, LocalEndpoint, State};
use tables::endpoint::EndpointRecord;
use tables::judge;
use tables::layout::Table;
use tables::policy::Direction;
use tables::publish::Publisher;
use tables::{Addr, Mac, Protocol};

const PODS: [(&str, &str); 3] = [("web", "10.0.0.1"), ("friend", "10.0.1.2"), ("other", "10.0.1.3")];
const AUDIT: &str = "annotations: {fairway.dev/policy-audit: 'true'}";

struct Rig {
    state: State,
    compiler: Compiler,
    publisher: Publisher,
}

fn addr(name: &str) -> Addr {
    PODS.iter().find(|(pod, _)| *pod == name).unwrap().1.parse().unwrap()
}

fn namespace(more: &str) -> String {
    format!("---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: demo, {more}}}}}\n")
}

/// For web: lets in the friend alone.
fn friends(more: &str) -> String {
    format!(
        "---\n{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{namespace: demo, name: friends, {more}}}, \
         spec: {{podSelector: {{matchLabels: {{name: web}}}}, ingress: \
         [{{from: [{{podSelector: {{matchLabels: {{name: friend}}}}}}]}}]}}}}\n"
    )
}

/// For web: nobody by TCP on port 80.
fn closed(more: &str) -> String {
    format!(
        "---\n{{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {{name: closed, {more}}}, \
         spec: {{tier: Admin, priority: 1, subject: {{pods: {{namespaceSelector: {{}}, podSelector: {{matchLabels: \
         {{name: web}}}}}}}}, ingress: [{{action: Deny, from: [{{namespaces: {{}}}}], protocols: [{{tcp: {{destinationPort: \
         {{number: 80}}}}}}]}}]}}}}\n"
    )
}

impl Rig {
    fn new() -> Rig {
        let mut state = State::new();
        state.set_local(Local { node: "here".into(), workers: 1, ..Local::default() });
        state.set_complete();
        let (pod, addrs) = (Named::new("demo", "web"), vec![addr("web")]);
        state.attach("c/eth0".into(), LocalEndpoint { interface: 10, owner: 0, mac: Mac([2; 6]), addrs, pod });
        let mut rig = Rig { state, compiler: Compiler::new(), publisher: Publisher::create(1).unwrap() };
        let pod = |(name, address): &(&str, &str)| {
            format!(
                "---\n{{apiVersion: v1, kind: Pod, metadata: {{namespace: demo, name: {name}, labels: {{name: {name}}}}}, \
                 spec: {{containers: []}}, status: {{podIP: {address}, podIPs: [{{ip: {address}}}]}}}}\n"
            )
        };
        rig.put(&[namespace(""), PODS.iter().map(pod).collect()]);
        rig
    }

    fn put(&mut self, texts: &[String]) {
        let parsed = parse(&texts.concat(), Syntax::Yaml);
        assert_eq!(parsed.problems, []);
        parsed.objects.into_iter().for_each(|object| self.state.apply(ObjectChange::Put(object)));
        let mut batch = self.publisher.batch([]).unwrap();
        let report = self.compiler.update(&mut self.state, &mut batch);
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        batch.publish();
    }

    /// What becomes of TCP to web's port, and by whom.
    fn asked(&self, from: &str, port: u16) -> (&'static str, String) {
        let view = self.publisher.live();
        let web: EndpointRecord = view.find(Table::Endpoint, &addr("web")).unwrap();
        let identity = judge::identity(&view, addr(from));
        let judged = judge::judge(&view, web.policy_set, Direction::Ingress, identity, Protocol::TCP, port);
        let name = judged.policy().and_then(|index| self.compiler.policy_name(index)).unwrap_or_default();
        let what = match (judged.allowed(), judged.is_audit()) {
            (true, false) => "allowed",
            (true, true) => "tried",
            (false, _) => "denied",
        };
        (what, name)
    }
}

fn by(what: &'static str, name: &str) -> (&'static str, String) {
    (what, name.to_owned())
}

#[test]
fn a_policy_on_trial_denies_nothing_and_is_named_where_it_would_until_it_is_in_force() {
    let mut rig = Rig::new();
    rig.put(&[friends(AUDIT)]);
    assert_eq!(rig.asked("friend", 80), by("allowed", "demo/friends"));
    assert_eq!(rig.asked("other", 80), by("tried", "demo/friends"));
    rig.put(&[friends("")]);
    assert_eq!(rig.asked("other", 80), by("denied", "demo/friends"));
    rig.put(&[friends("annotations: {fairway.dev/policy-audit: 'yes'}")]);
    assert_eq!(rig.asked("other", 80), by("denied", "demo/friends"), "only `true` is a trial");
}

#[test]
fn a_namespace_on_trial_has_all_of_its_policies_on_trial() {
    let mut rig = Rig::new();
    rig.put(&[friends("")]);
    rig.put(&[namespace(AUDIT)]);
    assert_eq!(rig.asked("other", 80), by("tried", "demo/friends"));
    rig.put(&[namespace("")]);
    assert_eq!(rig.asked("other", 80), by("denied", "demo/friends"));
}

#[test]
fn what_is_in_force_denies_beside_a_policy_on_trial() {
    let mut rig = Rig::new();
    rig.put(&[friends(""), closed(AUDIT)]);
    assert_eq!(rig.asked("friend", 80), by("tried", "ClusterNetworkPolicy closed"));
    assert_eq!(rig.asked("friend", 81), by("allowed", "demo/friends"));
    assert_eq!(rig.asked("other", 80), by("denied", "demo/friends"));
    rig.put(&[friends(AUDIT), closed("")]);
    assert_eq!(rig.asked("friend", 80), by("denied", "ClusterNetworkPolicy closed"));
    assert_eq!(rig.asked("other", 81), by("tried", "demo/friends"));
    assert_eq!(rig.asked("friend", 81), by("allowed", "demo/friends"));
}
