//! Policies, piece by piece, so that a mistake in one closes and never opens: what a policy would restrict is not known
//! where a piece of it cannot be read. A NetworkPolicy with a mistake isolates the pods that it selects, in the
//! directions that it names, and accepts nothing; a cluster-wide rule with one matches nothing if it accepts, and denies
//! all else (so says the API of fields that are not known); where a cluster-wide policy itself cannot be read it denies
//! its subject, or all pods, everything in the directions that it has rules for.

use super::reader::{self, Wrong};
use crate::object::parse::{self, Dialect, Rule, SubjectUpstream};
use crate::object::*;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tables::policy::Direction;

const PRIORITY_MAX: i64 = 1000;
/// A BaselineAdminNetworkPolicy has none: it comes last.
const PRIORITY_NONE: u16 = PRIORITY_MAX as u16 + 1;

/// A piece, which must have no field that its type has not.
fn piece<U: DeserializeOwned, T>(
    value: &Value,
    at: &str,
    read: impl Fn(&str, &U) -> Result<T, FieldError>,
) -> Result<T, Wrong> {
    let (upstream, unknown) = reader::read::<U>(value);
    let below = |field: &str| match field {
        "" => at.to_owned(),
        field => format!("{at}.{field}"),
    };
    if let Some(field) = unknown.first() {
        let message = "is no field that the API has: what it was meant to restrict is not known".to_owned();
        return Err(Wrong { field: below(field), message });
    }
    let upstream = upstream.map_err(|wrong| Wrong { field: below(&wrong.field), message: wrong.message })?;
    read(at, &upstream).map_err(|FieldError { field, message }| Wrong { field, message })
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key)?.as_str().filter(|text| !text.is_empty())
}

fn name(value: &Value) -> Result<&str, Wrong> {
    let found = value.get("metadata").and_then(|meta| text(meta, "name"));
    found.ok_or_else(|| Wrong { field: "metadata.name".to_owned(), message: "is missing".to_owned() })
}

/// What is left of a NetworkPolicy that was refused.
pub fn closed(value: &Value) -> Result<NetworkPolicy, Wrong> {
    let namespace = value.get("metadata").and_then(|meta| text(meta, "namespace")).unwrap_or("default");
    let id = Named::new(namespace, name(value)?);
    let none = Map::new();
    let spec = value.get("spec").and_then(Value::as_object).unwrap_or(&none);
    let is_known = |key: &String| ["podSelector", "ingress", "egress", "policyTypes"].contains(&key.as_str());
    let types: Option<Vec<&str>> = match spec.get("policyTypes") {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(types) => types.as_array().and_then(|all| all.iter().map(Value::as_str).collect()),
    };
    let types = types.filter(|all| all.iter().all(|kind| ["Ingress", "Egress"].contains(kind)));
    let selector = match spec.get("podSelector") {
        None | Some(Value::Null) => Some(Selector::default()),
        Some(selector) => piece::<LabelSelector, _>(selector, "", parse::selector).ok(),
    };
    let (true, Some(types), Some(pods)) = (!spec.is_empty() && spec.keys().all(is_known), types, selector) else {
        let rules = [Some(Vec::new()), Some(Vec::new())];
        return Ok(NetworkPolicy { audit: false, id, pods: Selector::default(), rules });
    };
    let isolates = [types.is_empty() || types.contains(&"Ingress"), types.contains(&"Egress")];
    let has_egress = types.is_empty() && spec.get("egress").is_some_and(|egress| !egress.is_null());
    let rules = [isolates[0], isolates[1] || has_egress].map(|isolates| isolates.then(Vec::new));
    Ok(NetworkPolicy { audit: false, id, pods, rules })
}

/// A cluster-wide policy, closed where it cannot be read, and what cannot.
pub fn cluster(kind: Kind, value: &Value) -> Result<(ClusterPolicy, Vec<Wrong>), Wrong> {
    let mut wrong = Vec::new();
    let mut policy = ClusterPolicy {
        audit: false,
        kind,
        name: name(value)?.to_owned(),
        tier: Tier::Admin,
        priority: 0,
        subject: Subject::default(),
        rules: [Vec::new(), Vec::new()],
    };
    let none = Value::Object(Map::new());
    let spec = value.get("spec").filter(|spec| spec.is_object()).unwrap_or(&none);
    let keep = |found: Result<(), Wrong>, wrong: &mut Vec<Wrong>| found.unwrap_or_else(|error| wrong.push(error));
    keep(known_fields(kind, spec), &mut wrong);
    keep(tier(kind, spec).map(|tier| policy.tier = tier), &mut wrong);
    keep(priority(kind, spec, &policy.name).map(|priority| policy.priority = priority), &mut wrong);
    let subject = spec.get("subject").unwrap_or(&Value::Null);
    let subject = piece::<SubjectUpstream, _>(subject, "spec.subject", parse::subject);
    keep(subject.map(|subject| policy.subject = subject), &mut wrong);
    let is_whole = wrong.is_empty();
    for direction in [Direction::Ingress, Direction::Egress] {
        let rules = rules(Dialect { kind, direction }, spec, &mut wrong);
        let is_named = !rules.is_empty() || known_fields(kind, spec).is_err();
        policy.rules[direction as usize] = if !is_whole && is_named { vec![denying_all(String::new())] } else { rules };
    }
    // What cannot be read is closed, and not just tried.
    let annotation = value.pointer("/metadata/annotations").and_then(|all| all.get(parse::AUDIT_ANNOTATION));
    policy.audit = wrong.is_empty() && annotation.is_some_and(|text| text == "true");
    Ok((policy, wrong))
}

fn known_fields(kind: Kind, spec: &Value) -> Result<(), Wrong> {
    let is_known = |key: &str| match key {
        "subject" | "ingress" | "egress" => true,
        "tier" => kind == Kind::ClusterNetworkPolicy,
        "priority" => kind != Kind::BaselineAdminNetworkPolicy,
        _ => false,
    };
    let mut keys = spec.as_object().into_iter().flat_map(Map::keys);
    match keys.find(|key| !is_known(key)) {
        None => Ok(()),
        Some(key) => Err(Wrong {
            field: format!("spec.{key}"),
            message: format!("is no field of a {}: what it was meant to restrict is not known", kind.name()),
        }),
    }
}

fn tier(kind: Kind, spec: &Value) -> Result<Tier, Wrong> {
    match (kind, text(spec, "tier")) {
        (Kind::AdminNetworkPolicy, _) | (Kind::ClusterNetworkPolicy, Some("Admin")) => Ok(Tier::Admin),
        (Kind::BaselineAdminNetworkPolicy, _) | (_, Some("Baseline")) => Ok(Tier::Baseline),
        _ => Err(Wrong { field: "spec.tier".to_owned(), message: "is neither Admin nor Baseline".to_owned() }),
    }
}

fn priority(kind: Kind, spec: &Value, name: &str) -> Result<u16, Wrong> {
    if kind == Kind::BaselineAdminNetworkPolicy {
        let message = "must be \"default\": there is one BaselineAdminNetworkPolicy".to_owned();
        let only = (name == "default").then_some(PRIORITY_NONE);
        return only.ok_or(Wrong { field: "metadata.name".to_owned(), message });
    }
    let found = spec.get("priority").and_then(Value::as_i64).filter(|p| (0..=PRIORITY_MAX).contains(p));
    let message = format!("is no number from 0 to {PRIORITY_MAX}");
    found.map(|priority| priority as u16).ok_or(Wrong { field: "spec.priority".to_owned(), message })
}

fn rules(dialect: Dialect, spec: &Value, wrong: &mut Vec<Wrong>) -> Vec<PolicyRule> {
    let key = dialect.direction.name();
    let field = format!("spec.{key}");
    let all = match spec.get(key) {
        None | Some(Value::Null) => return Vec::new(),
        Some(Value::Array(all)) if all.len() <= dialect.items_max() => all,
        Some(_) => {
            wrong.push(Wrong { field, message: format!("is no list of at most {} rules", dialect.items_max()) });
            return vec![denying_all(String::new())];
        }
    };
    let read = |(i, value): (usize, &Value)| {
        let at = format!("{field}[{i}]");
        piece::<Rule, _>(value, &at, |field, rule| rule.read(field, dialect)).unwrap_or_else(|error| {
            wrong.push(error);
            closed_rule(value)
        })
    };
    all.iter().enumerate().map(read).collect()
}

fn closed_rule(value: &Value) -> PolicyRule {
    let name = text(value, "name").unwrap_or_default().to_owned();
    match text(value, "action") {
        Some("Accept" | "Allow") => PolicyRule { name, peers: vec![Peer::Nobody], ..PolicyRule::default() },
        _ => denying_all(name),
    }
}

fn denying_all(name: String) -> PolicyRule {
    PolicyRule { name, action: Action::Deny, ..PolicyRule::default() }
}

#[cfg(test)]
#[path = "policies_tests.rs"]
mod tests;
