//! One object of a known kind, and what is wrong with it.

use super::policies;
use super::reader::{self, Wrong};
use crate::object::{FieldError, Kind, Object};
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery, networking::v1 as networking};
use serde::de::DeserializeOwned;
use serde_json::Value;

pub struct Outcome {
    pub object: Result<Object, Wrong>,
    /// Fields that the API does not have.
    pub unknown: Vec<String>,
    /// Why a policy is not in force as it was written, but closed.
    pub closed: Vec<Wrong>,
}

pub fn object(kind: Kind, value: &Value) -> Outcome {
    match kind {
        Kind::Node => upstream::<core::Node, _>(value, Object::Node),
        Kind::Namespace => upstream::<core::Namespace, _>(value, Object::Namespace),
        Kind::Pod => upstream::<core::Pod, _>(value, Object::Pod),
        Kind::Service => upstream::<core::Service, _>(value, Object::Service),
        Kind::EndpointSlice => upstream::<discovery::EndpointSlice, _>(value, Object::EndpointSlice),
        Kind::NetworkPolicy => network_policy(value),
        Kind::ClusterNetworkPolicy | Kind::AdminNetworkPolicy | Kind::BaselineAdminNetworkPolicy => {
            let (object, closed) = match policies::cluster(kind, value) {
                Ok((policy, closed)) => (Ok(Object::ClusterPolicy(policy)), closed),
                Err(wrong) => (Err(wrong), Vec::new()),
            };
            Outcome { object, unknown: Vec::new(), closed }
        }
    }
}

fn network_policy(value: &Value) -> Outcome {
    let mut outcome = upstream::<networking::NetworkPolicy, _>(value, Object::NetworkPolicy);
    // A mistyped field of a policy may allow what was to be denied (`form:` for `from:`).
    if outcome.object.is_ok()
        && let Some(field) = outcome.unknown.pop()
    {
        let message = "is no field of a NetworkPolicy: what it was meant to restrict is not known".to_owned();
        outcome.object = Err(Wrong { field, message });
    }
    outcome.unknown.clear();
    if let Err(wrong) = outcome.object {
        outcome.object = policies::closed(value).map(Object::NetworkPolicy);
        outcome.closed = vec![wrong];
    }
    outcome
}

fn upstream<U: DeserializeOwned, T: TryFrom<U, Error = FieldError>>(value: &Value, wrap: fn(T) -> Object) -> Outcome {
    let (upstream, unknown) = reader::read::<U>(value);
    let valid = |upstream| T::try_from(upstream).map_err(|FieldError { field, message }| Wrong { field, message });
    Outcome { object: upstream.and_then(valid).map(wrap), unknown, closed: Vec::new() }
}
