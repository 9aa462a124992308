//! Policies of all tiers: the tables against the reference, over random clusters and changes.

use super::policies::{cluster_policy, policy};
use super::world::{self, LOCAL_PODS, Step, Truth};
use super::*;
use crate::object::{Object, ObjectChange, ObjectKey, Pod};
use crate::reference::{Question, Reference, Verdict};
use std::sync::atomic::{AtomicU64, Ordering};

static COMPARED: AtomicU64 = AtomicU64::new(0);

/// Every verdict about a pod, and who is named for it.
pub fn check(
    view: &View,
    truth: &Truth,
    compiler: &Compiler,
    pod: &Pod,
    own: &EndpointRecord,
) -> Result<(), TestCaseError> {
    let reference = Reference::of(truth.objects.values());
    for peer in world::addrs() {
        for direction in [Direction::Ingress, Direction::Egress] {
            for (protocol, port) in PORTS {
                let question = Question { pod, direction, other: truth.end(peer), protocol, port };
                let Verdict { allowed, by } = reference.verdict(&question);
                let index = |key: &ObjectKey| compiler.policies.index_of(key).expect("it is in force");
                let by = by.map(|(key, rule)| (index(&key), rule.map(|rule| rule as u16)));
                let found = judged(view, own, direction, peer, (protocol, port));
                prop_assert_eq!(found, (allowed, by), "{} {:?} {} {}/{}", *pod.id, direction, peer, port, protocol);
                COMPARED.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    Ok(())
}

fn check_all(rig: &Rig, truth: &Truth) -> Result<(), TestCaseError> {
    for attached in truth.local.endpoints.values() {
        let Some(pod) = truth.pod(&attached.pod) else { continue };
        let own = endpoint(&rig.view(), attached.addrs[0]).expect("attached");
        check(&rig.view(), truth, &rig.compiler, pod, &own)?;
    }
    Ok(())
}

fn object() -> impl Strategy<Value = Object> {
    prop_oneof![1 => world::namespace(), 3 => world::pod(), 4 => policy(), 4 => cluster_policy(), 2 => world::node()]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => object().prop_map(Step::Put),
        3 => object().prop_map(|object| Step::Delete(object.key())),
        1 => (0..LOCAL_PODS, any::<bool>()).prop_map(|(pod, both)| Step::Attach(pod, both)),
        1 => (0..LOCAL_PODS).prop_map(Step::Detach),
        4 => Just(Step::Update),
    ]
}

fn rows(rig: &Rig) -> Vec<(&'static str, usize)> {
    rig.compiler.fill().into_iter().map(|fill| (fill.table, fill.used)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// After each update every verdict is the reference's, and names the same policy and rule; in the end nothing is left
    /// over compared with compiling the end state alone.
    fn each_verdict_is_the_references(prelude in world::prelude(), steps in prop::collection::vec(step(), 1..60)) {
        let (mut rig, mut truth) = (Rig::new(world::local()), Truth::new());
        for step in prelude.iter().chain(&steps).chain([&Step::Update]) {
            truth.step(step);
            world::apply(&mut rig.state, step);
            if matches!(step, Step::Update) {
                let report = rig.update();
                let of_policies = |problem: &CompileError| !matches!(problem, CompileError::ServiceClash { .. });
                prop_assert!(!report.problems.iter().any(of_policies), "{:?}", report.problems);
                check_all(&rig, &truth)?;
            }
        }
        let mut fresh = Rig::new(truth.local.clone());
        truth.objects.values().for_each(|object| fresh.state.apply(ObjectChange::Put(object.clone())));
        fresh.update();
        prop_assert_eq!(rows(&rig), rows(&fresh));
        check_all(&fresh, &truth)?;
    }
}

#[test]
fn each_verdict_of_random_clusters_is_the_references() {
    each_verdict_is_the_references();
    let compared = COMPARED.load(Ordering::Relaxed);
    println!("{compared} verdicts compared");
    assert!(compared > 1_000_000, "{compared}");
}
