//! What an API server keeps, by the documentation (kubernetes.io, "Kubernetes API Concepts"): objects with one version
//! counter for all kinds, the changes since some version, and lists that are cut into pages. Written from there, not from
//! our client. No I/O.

use serde_json::{Value, json};
use std::collections::BTreeMap;

/// `/api/v1/pods`: all objects of a kind.
pub type Collection = String;

#[derive(Clone, Debug)]
pub struct Event {
    pub version: u64,
    pub collection: Collection,
    /// ADDED, MODIFIED, DELETED.
    pub what: &'static str,
    pub object: Value,
}

/// A list that was begun: its objects stay as they were then.
struct Snapshot {
    version: u64,
    rest: Vec<Value>,
}

#[derive(Default)]
pub struct Store {
    pub version: u64,
    objects: BTreeMap<Collection, BTreeMap<String, Value>>,
    pub history: Vec<Event>,
    /// Changes up to here are forgotten: a watch cannot begin before it.
    pub compacted: u64,
    snapshots: BTreeMap<String, Snapshot>,
    tokens: u64,
}

/// An answer that is no success: code, reason, message.
pub type Refusal = (u16, &'static str, String);

pub fn status((code, reason, message): &Refusal) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
        "reason": reason, "code": code })
}

pub fn expired(what: &str) -> Refusal {
    (410, "Expired", format!("{what} is too old"))
}

fn name(object: &Value) -> String {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    format!("{}/{}", text("namespace"), text("name"))
}

impl Store {
    /// The server knows this kind from now on.
    pub fn install(&mut self, collection: &str) {
        self.objects.entry(collection.to_owned()).or_default();
    }

    pub fn uninstall(&mut self, collection: &str) {
        self.objects.remove(collection);
    }

    pub fn put(&mut self, collection: &str, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let all = self.objects.get_mut(collection).expect("no such kind");
        let old = all.insert(name(&object), object.clone());
        let what = if old.is_some() { "MODIFIED" } else { "ADDED" };
        self.remember(collection, what, object);
    }

    pub fn delete(&mut self, collection: &str, name: &str) {
        let Some(mut object) = self.objects.get_mut(collection).and_then(|all| all.remove(name)) else { return };
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.remember(collection, "DELETED", object);
    }

    fn remember(&mut self, collection: &str, what: &'static str, object: Value) {
        self.history.push(Event { version: self.version, collection: collection.to_owned(), what, object });
    }

    pub fn get(&self, collection: &str, name: &str) -> Option<&Value> {
        self.objects.get(collection)?.get(name)
    }

    pub fn all(&self) -> impl Iterator<Item = (&Collection, &Value)> {
        self.objects.iter().flat_map(|(collection, all)| all.values().map(move |object| (collection, object)))
    }

    pub fn collections(&self) -> Vec<Collection> {
        self.objects.keys().cloned().collect()
    }

    pub fn names(&self, collection: &str) -> Vec<String> {
        self.objects.get(collection).map(|all| all.keys().cloned().collect()).unwrap_or_default()
    }

    /// Forgets all changes until now, as compaction does, and lists that were begun. Watches that are under way go on.
    pub fn compact(&mut self) {
        self.compacted = self.version;
        self.snapshots.clear();
    }

    pub fn has(&self, collection: &str) -> bool {
        self.objects.contains_key(collection)
    }

    /// A list or the next part of one. The items of a typed list do not say their kind.
    pub fn list(&mut self, collection: &str, limit: usize, token: Option<&str>) -> Result<Value, Refusal> {
        let mut snapshot = match token {
            Some(token) => self.snapshots.remove(token).ok_or_else(|| expired("the provided continue parameter"))?,
            None => {
                let rest = self.objects[collection].values().cloned().collect();
                Snapshot { version: self.version, rest }
            }
        };
        let after = snapshot.rest.split_off(limit.min(snapshot.rest.len()));
        let mut metadata = json!({ "resourceVersion": snapshot.version.to_string() });
        if !after.is_empty() {
            self.tokens += 1;
            let token = format!("token-{}", self.tokens);
            metadata["continue"] = json!(token);
            metadata["remainingItemCount"] = json!(after.len());
            self.snapshots.insert(token, Snapshot { version: snapshot.version, rest: after });
        }
        let items: Vec<Value> = snapshot.rest.into_iter().map(without_kind).collect();
        // Go writes an empty list of a custom resource as such and others sometimes as null.
        let items = if items.is_empty() { Value::Null } else { Value::Array(items) };
        Ok(json!({ "kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items }))
    }

    /// Whether a watch may begin after this version.
    pub fn check_version(&self, version: u64) -> Result<(), Refusal> {
        if version < self.compacted { Err(expired("the resource version")) } else { Ok(()) }
    }

    pub fn changes(&self, collection: &str, after: u64) -> Vec<Event> {
        let of = |event: &&Event| event.collection == collection && event.version > after;
        self.history.iter().filter(of).cloned().collect()
    }
}

fn without_kind(mut object: Value) -> Value {
    if let Value::Object(map) = &mut object {
        map.remove("kind");
        map.remove("apiVersion");
    }
    object
}
