//! One object by its path: GET, and PATCH as the documentation has it: server-side apply names its manager, merges
//! conditions by their type and touches the status alone at `/status`; a merge patch that names another version is refused.

use super::server::Shared;
use super::store::{Refusal, Store, status};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Where an object is: its collection, its name there, and whether its status is meant.
struct Place {
    collection: String,
    name: String,
    is_status: bool,
}

fn place(path: &str) -> Option<Place> {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (parts, is_status) = match parts.as_slice() {
        [rest @ .., "status"] => (rest, true),
        all => (all, false),
    };
    let (collection, name) = match parts {
        ["api", "v1", "namespaces", namespace, kind, name] => {
            (format!("/api/v1/{kind}"), format!("{namespace}/{name}"))
        }
        ["api", "v1", kind, name] => (format!("/api/v1/{kind}"), format!("/{name}")),
        ["apis", group, version, "namespaces", namespace, kind, name] => {
            (format!("/apis/{group}/{version}/{kind}"), format!("{namespace}/{name}"))
        }
        // Where one is made: its name stands in it.
        ["apis", group, version, "namespaces", namespace, kind] => {
            (format!("/apis/{group}/{version}/{kind}"), format!("{namespace}/"))
        }
        _ => return None,
    };
    Some(Place { collection, name, is_status })
}

fn absent() -> Refusal {
    (404, "NotFound", "not found".to_owned())
}

/// None: the path is no object's.
pub fn answer(
    shared: &Shared,
    (method, path, content): (&str, &str, &str),
    query: &BTreeMap<String, String>,
    body: &[u8],
) -> Option<(u16, Value)> {
    match path {
        "/version" => return Some((200, json!({ "major": "1", "minor": "0", "gitVersion": "v1.0.0-tests" }))),
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" => return Some((201, review(shared, body))),
        _ => {}
    }
    let place = place(path)?;
    let mut store = shared.store();
    let outcome = match method {
        "GET" => store.get(&place.collection, &place.name).cloned().ok_or_else(absent),
        "POST" => create(&mut store, &place, body),
        "PUT" => replace(&mut store, &place, body),
        "PATCH" => patch(&mut store, &place, content, query, body),
        _ => Err((405, "MethodNotAllowed", "the server does not allow this method".to_owned())),
    };
    Some(outcome.map_or_else(|error| (error.0, status(&error)), |object| (200, object)))
}

fn review(shared: &Shared, body: &[u8]) -> Value {
    let mut review: Value = serde_json::from_slice(body).expect("a review");
    let asked = &review["spec"]["resourceAttributes"];
    let text = |field: &str| asked[field].as_str().unwrap_or_default();
    let slash = if text("subresource").is_empty() { "" } else { "/" };
    let asked = format!("{} {}{slash}{}", text("verb"), text("resource"), text("subresource"));
    let mut faults = shared.faults.lock().unwrap();
    review["status"] = json!({ "allowed": !faults.denied.contains(&asked) });
    faults.reviews.push(asked);
    review
}

fn create(store: &mut Store, place: &Place, body: &[u8]) -> Result<Value, Refusal> {
    let object: Value = serde_json::from_slice(body).map_err(|error| (400, "BadRequest", error.to_string()))?;
    let name = format!("{}{}", place.name, object["metadata"]["name"].as_str().unwrap_or_default());
    if store.get(&place.collection, &name).is_some() {
        return Err((409, "AlreadyExists", format!("{name} already exists")));
    }
    store.put(&place.collection, object);
    store.get(&place.collection, &name).cloned().ok_or_else(absent)
}

/// Of two who replace the same version one comes too late.
fn replace(store: &mut Store, place: &Place, body: &[u8]) -> Result<Value, Refusal> {
    let object: Value = serde_json::from_slice(body).map_err(|error| (400, "BadRequest", error.to_string()))?;
    let have = store.get(&place.collection, &place.name).ok_or_else(absent)?;
    if have["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
        return Err((409, "Conflict", "the object has been modified".to_owned()));
    }
    store.put(&place.collection, object);
    store.get(&place.collection, &place.name).cloned().ok_or_else(absent)
}

fn patch(
    store: &mut Store,
    place: &Place,
    content: &str,
    query: &BTreeMap<String, String>,
    body: &[u8],
) -> Result<Value, Refusal> {
    let body: Value = serde_json::from_slice(body).map_err(|error| (400, "BadRequest", error.to_string()))?;
    let mut object = store.get(&place.collection, &place.name).cloned().ok_or_else(absent)?;
    let part = if place.is_status { "status" } else { "spec" };
    match content {
        "application/apply-patch+yaml" => {
            if !query.contains_key("fieldManager") {
                return Err((400, "BadRequest", "fieldManager is required for apply patch".to_owned()));
            }
            for (key, value) in body[part].as_object().into_iter().flatten() {
                apply(&mut object[part][key], value);
            }
        }
        "application/merge-patch+json" => {
            let asked = &body["metadata"]["resourceVersion"];
            if !asked.is_null() && *asked != object["metadata"]["resourceVersion"] {
                return Err((409, "Conflict", "the object has been modified".to_owned()));
            }
            for (key, value) in body[part].as_object().into_iter().flatten() {
                object[part][key] = value.clone();
            }
        }
        other => return Err((415, "UnsupportedMediaType", other.to_owned())),
    }
    store.put(&place.collection, object);
    store.get(&place.collection, &place.name).cloned().ok_or_else(absent)
}

/// Lists of things with a type are merged by it, anything else is replaced.
fn apply(have: &mut Value, new: &Value) {
    let is_map = |items: &[Value]| items.iter().all(|item| item["type"].is_string());
    match (have.as_array_mut(), new.as_array()) {
        (Some(have), Some(new)) if is_map(new) => {
            have.retain(|old| new.iter().all(|item| item["type"] != old["type"]));
            have.extend(new.iter().cloned());
        }
        _ => *have = new.clone(),
    }
}
