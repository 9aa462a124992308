//! Whether kube-proxy, or what it left, still translates services in this network namespace.

use super::Diagnosis;
use crate::kube_proxy;

const CHECK: &str = "kube-proxy";

pub fn check(diagnosis: &mut Diagnosis) {
    match kube_proxy::found() {
        Ok(steps) if steps.is_empty() => diagnosis.fact(CHECK, "nothing of it is there"),
        Ok(steps) => {
            let names: Vec<&str> = steps.iter().map(|step| step.what.as_str()).collect();
            let advice = "take kube-proxy off this node, then `fairway kube-proxy-cleanup`";
            diagnosis.wrong(CHECK, format!("kube-proxy or what it left is there: {}", names.join(", ")), advice);
        }
        Err(error) => {
            diagnosis.wrong(CHECK, format!("what kube-proxy left cannot be looked for: {error}"), "run it as root")
        }
    }
}
