//! What a pod asks of whoever gives it its addresses:
//!
//! - the annotation `fairway.dev/pod-ips`: addresses, separated by commas, at most one of each family;
//! - the annotation `fairway.dev/pod-pool`: the name of a pool; on its namespace for all pods that do not say it themselves.

use super::parse::annotation;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use tables::Addr;

pub const ADDRESSES_ANNOTATION: &str = "fairway.dev/pod-ips";
pub const POOL_ANNOTATION: &str = "fairway.dev/pod-pool";

/// As it is written: a mistake is told to who attaches the pod, and takes nothing else of it away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addressing {
    pub addrs: Option<String>,
    /// Empty: none, whatever the namespace says.
    pub pool: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("annotation {ADDRESSES_ANNOTATION}: {0:?} is no address")]
pub struct NoAddress(String);

fn trimmed(meta: &ObjectMeta, name: &str) -> Option<String> {
    annotation(meta, name).map(|text| text.trim().to_owned())
}

/// The pool of a namespace's pods.
pub fn pool(meta: &ObjectMeta) -> Option<String> {
    trimmed(meta, POOL_ANNOTATION).filter(|pool| !pool.is_empty())
}

impl Addressing {
    /// None for pods that ask for nothing, as nearly all do.
    pub fn of(meta: &ObjectMeta) -> Option<Box<Addressing>> {
        let asked = Addressing {
            addrs: trimmed(meta, ADDRESSES_ANNOTATION).filter(|addrs| !addrs.is_empty()),
            pool: trimmed(meta, POOL_ANNOTATION),
        };
        (asked != Addressing::default()).then(|| Box::new(asked))
    }

    pub fn addrs(&self) -> Result<Vec<Addr>, NoAddress> {
        let addr = |text: &str| text.trim().parse().map_err(|_| NoAddress(text.trim().to_owned()));
        self.addrs.iter().flat_map(|all| all.split(',')).map(addr).collect()
    }
}
