//! What a service of type LoadBalancer asks of whoever gives it addresses:
//!
//! - `spec.loadBalancerClass`: none or [`CLASS`], else it is somebody else's;
//! - `spec.loadBalancerIP` (deprecated), or the annotation `fairway.dev/load-balancer-ips`: addresses, separated by commas;
//! - the annotation `fairway.dev/load-balancer-pool`: the name of a pool.

use super::Named;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tables::Addr;

pub const CLASS: &str = "fairway.dev/load-balancer";
pub const ADDRESSES_ANNOTATION: &str = "fairway.dev/load-balancer-ips";
pub const POOL_ANNOTATION: &str = "fairway.dev/load-balancer-pool";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balancer {
    /// False: another one gives it addresses, or a proxy before the nodes already did.
    pub is_ours: bool,
    pub wished: Vec<Addr>,
    pub pool: Option<String>,
    /// `ipFamilyPolicy: RequireDualStack`
    pub requires_all: bool,
    /// `status.loadBalancer.ingress` as the object itself has it.
    pub status: Vec<Addr>,
}

/// A Service that says nothing but these addresses: the body of a PATCH of the subresource `status`.
pub fn status_body(id: &Named, addrs: &[Addr]) -> Value {
    // No `ipMode`: without it is what we mean, and servers before 1.29 refuse what they do not know.
    let ingress: Vec<_> = addrs.iter().map(|addr| json!({ "ip": addr })).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "namespace": id.namespace, "name": id.name },
        "status": { "loadBalancer": { "ingress": ingress } },
    })
}
