//! Whether the API server answers, as whom, with what clock, and whether it allows everything that the manifest grants.

use super::Diagnosis;
use crate::kube::{Asker, Server};
use crate::object::Node;
use k8s_openapi::jiff::{Timestamp, fmt::rfc2822};
use serde::Deserialize;
use serde_json::{Value, json};

/// What is asked of the server is exactly what it is to allow.
const RBAC: &str = include_str!("../../deploy/fairway.yaml");
/// Certificates and leases of others bear more; what is written in one's own log should not be further off.
const CLOCK_SKEW_MAX_S: i64 = 5;

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Role {
    kind: String,
    metadata: Metadata,
    rules: Vec<Rule>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Metadata {
    namespace: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    api_groups: Vec<String>,
    resources: Vec<String>,
    resource_names: Vec<String>,
    verbs: Vec<String>,
}

/// One thing that has to be allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    pub verb: String,
    group: String,
    /// With its subresource.
    pub resource: String,
    name: String,
    namespace: String,
}

impl Permission {
    fn review(&self) -> Value {
        let (resource, subresource) = self.resource.split_once('/').unwrap_or((&self.resource, ""));
        json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": { "resourceAttributes": {
                "verb": self.verb, "group": self.group, "resource": resource, "subresource": subresource,
                "name": self.name, "namespace": self.namespace,
            } },
        })
    }
}

/// All that the manifest has rules for.
pub fn permissions() -> Vec<Permission> {
    let read = |text| serde_saphyr::from_str::<Role>(text).expect("the manifest is tested");
    let roles = RBAC.split("\n---\n").map(read).filter(|role| role.kind.ends_with("Role"));
    roles.flat_map(|role| of_role(&role)).collect()
}

fn of_role(role: &Role) -> Vec<Permission> {
    let namespace = role.metadata.namespace.clone().unwrap_or_default();
    let mut all = Vec::new();
    for rule in &role.rules {
        for (group, resource) in rule.api_groups.iter().flat_map(|group| rule.resources.iter().map(move |r| (group, r)))
        {
            all.extend(rule.verbs.iter().map(|verb| Permission {
                verb: verb.clone(),
                group: group.clone(),
                resource: resource.clone(),
                name: rule.resource_names.first().cloned().unwrap_or_default(),
                namespace: namespace.clone(),
            }));
        }
    }
    all
}

/// The nodes, where they may be read.
pub async fn check(server: &Server, diagnosis: &mut Diagnosis) -> Vec<Node> {
    let name = server.name();
    let asked = match Asker::new(server) {
        Ok(asker) => asker.version().await.map(|version| (asker, version)),
        Err(error) => Err(error.to_string()),
    };
    let (asker, (version, date)) = match asked {
        Ok(asked) => asked,
        Err(why) => {
            let advice = "see that the address is right, that the server runs, and that no firewall lies between; \
                where the address is a service that only Fairway would serve, give --api-server";
            diagnosis.wrong("api", format!("the API server {name} cannot be asked: {why}"), advice);
            return Vec::new();
        }
    };
    diagnosis.fact("api", format!("{name} answers, version {version}"));
    check_clock(date.as_deref(), Timestamp::now(), diagnosis);
    check_permissions(&asker, diagnosis).await;
    match asker.nodes().await {
        Ok(nodes) => nodes,
        Err(why) => {
            diagnosis.wrong("api", format!("Node objects cannot be listed: {why}"), "see the permissions");
            Vec::new()
        }
    }
}

async fn check_permissions(asker: &Asker, diagnosis: &mut Diagnosis) {
    let all = permissions();
    let (mut refused, mut unclear) = (Vec::new(), None);
    for permission in &all {
        match asker.may(permission.review()).await {
            Ok(true) => {}
            Ok(false) => refused.push(format!("{} {}", permission.verb, permission.resource)),
            Err(why) => unclear = Some(why),
        }
    }
    let advice = "kubectl apply -f control/deploy/fairway.yaml, and run as its service account";
    if !refused.is_empty() {
        diagnosis.wrong("permissions", format!("the API server does not allow: {}", refused.join(", ")), advice);
    } else if let Some(why) = unclear {
        diagnosis.wrong("permissions", format!("the API server does not say what is allowed: {why}"), advice);
    } else {
        diagnosis.fact("permissions", format!("all {} that are needed are there", all.len()));
    }
}

/// Its time has no parts of a second.
fn check_clock(date: Option<&str>, now: Timestamp, diagnosis: &mut Diagnosis) {
    let said = date.and_then(|text| rfc2822::DateTimeParser::new().parse_timestamp(text.replace("GMT", "+0000")).ok());
    let Some(said) = said else { return diagnosis.fact("clock", "the API server does not tell its time") };
    let skew = now.as_second() - said.as_second();
    if skew.abs() <= CLOCK_SKEW_MAX_S {
        return diagnosis.fact("clock", format!("within {CLOCK_SKEW_MAX_S} s of the API server's"));
    }
    let way = if skew > 0 { "ahead of" } else { "behind" };
    let what = format!("this node's clock is {} s {way} the API server's", skew.abs());
    diagnosis.wrong("clock", what, "let both follow one time source (chronyd or systemd-timesyncd): see `timedatectl`");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_what_the_manifest_grants() {
        let all = permissions();
        let has = |verb: &str, resource: &str| all.iter().any(|p| p.verb == verb && p.resource == resource);
        for kind in crate::object::KINDS {
            let name = format!("{}s", kind.name().to_ascii_lowercase()).replace("ys", "ies");
            assert!(has("list", &name) && has("watch", &name), "{name}");
        }
        assert!(has("patch", "services/status") && has("patch", "nodes/status") && !has("delete", "nodes"));
        let lease = all.iter().find(|p| p.verb == "update").unwrap();
        assert_eq!((lease.namespace.as_str(), lease.name.as_str()), ("kube-system", "fairway"));
        let review = all.iter().find(|p| p.resource == "services/status").unwrap().review();
        assert_eq!(review["spec"]["resourceAttributes"]["subresource"], "status");
    }

    #[test]
    fn a_clock_that_is_off_is_told_with_the_way_it_is_off() {
        let now: Timestamp = "2026-03-01T12:00:30Z".parse().unwrap();
        let told = |date: &str| {
            let mut diagnosis = Diagnosis::default();
            check_clock(Some(date), now, &mut diagnosis);
            diagnosis.findings.first().map(|finding| finding.what.clone())
        };
        assert_eq!(told("Sun, 01 Mar 2026 12:00:29 GMT"), None);
        assert!(told("Sun, 01 Mar 2026 11:59:30 GMT").unwrap().contains("60 s ahead"));
        assert!(told("Sun, 01 Mar 2026 12:01:30 GMT").unwrap().contains("60 s behind"));
    }
}
