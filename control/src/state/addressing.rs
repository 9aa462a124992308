//! What is asked of whoever gives a pod its addresses, by itself and by its namespace.

use super::State;
use crate::object::Named;
use crate::object::addressing::{Addressing, NoAddress};
use tables::Addr;

/// What is asked for one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    pub addrs: Vec<Addr>,
    pub pool: Option<String>,
}

impl State {
    /// Nothing, where the objects are not known.
    pub fn asked_for(&self, id: &Named) -> Result<Asked, NoAddress> {
        let own = self.pod(id).and_then(|pod| pod.addressing.as_deref());
        let addrs = own.map_or_else(|| Ok(Vec::new()), Addressing::addrs)?;
        let of_namespace = || self.namespaces.get(&id.namespace).and_then(|namespace| namespace.pod_pool.clone());
        let pool = own.and_then(|own| own.pool.clone()).or_else(of_namespace).filter(|pool| !pool.is_empty());
        Ok(Asked { addrs, pool })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{Namespace, Object, ObjectChange, Pod};
    use k8s_openapi::api::core::v1 as core;
    use serde_json::{Value, json};

    fn state(namespace: Value, pod: Value) -> State {
        let mut state = State::new();
        let meta = |name: &str, annotations: Value| json!({"metadata": {"name": name, "namespace": "demo", "annotations": annotations}});
        let namespace: core::Namespace = serde_json::from_value(meta("demo", namespace)).unwrap();
        state.apply(ObjectChange::Put(Object::Namespace(Namespace::try_from(namespace).unwrap())));
        let pod: core::Pod = serde_json::from_value(meta("web", pod)).unwrap();
        state.apply(ObjectChange::Put(Object::Pod(Pod::try_from(pod).unwrap())));
        state
    }

    fn asked(namespace: Value, pod: Value) -> (Vec<String>, Option<String>) {
        let asked = state(namespace, pod).asked_for(&Named::new("demo", "web")).unwrap();
        (asked.addrs.iter().map(Addr::to_string).collect(), asked.pool)
    }

    #[test]
    fn a_pod_goes_before_its_namespace() {
        let (gold, tin) = (json!({"fairway.dev/pod-pool": "gold"}), json!({"fairway.dev/pod-pool": "tin"}));
        assert_eq!(asked(json!({}), json!({})), (vec![], None));
        assert_eq!(asked(gold.clone(), json!({})), (vec![], Some("gold".into())));
        assert_eq!(asked(gold.clone(), tin), (vec![], Some("tin".into())));
        assert_eq!(asked(gold.clone(), json!({"fairway.dev/pod-pool": ""})), (vec![], None));
        let fixed = json!({"fairway.dev/pod-ips": "10.0.0.9, fd00::9"});
        assert_eq!(asked(gold, fixed).0, ["10.0.0.9", "fd00::9"]);
        let wrong = state(json!({}), json!({"fairway.dev/pod-ips": "10.0.0.9,web"}));
        let told = wrong.asked_for(&Named::new("demo", "web")).unwrap_err().to_string();
        assert_eq!(told, "annotation fairway.dev/pod-ips: \"web\" is no address");
        assert_eq!(wrong.asked_for(&Named::new("demo", "other")).unwrap(), Asked::default());
    }
}
