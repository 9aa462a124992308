//! How clients outside reach the backends of a service that are on other nodes than the one they ask, under external traffic
//! policy `Cluster`. The annotation `fairway.dev/forwarding` says it for one service:
//!
//! - `snat`: as an address of the node that is asked, to which the answer returns;
//! - `dsr` (direct server return): with their own address; the backend's node answers them by itself.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

pub const FORWARDING_ANNOTATION: &str = "fairway.dev/forwarding";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Forwarding {
    #[default]
    Snat,
    Dsr,
}

/// As it is typed; the message says what may be.
pub fn parse(text: &str) -> Result<Forwarding, String> {
    Forwarding::from_str(text, false).map_err(|_| format!("{text:?} is neither snat nor dsr"))
}

/// As it is called where people look.
pub fn name(forwarding: Forwarding) -> &'static str {
    match forwarding {
        Forwarding::Snat => "snat",
        Forwarding::Dsr => "dsr",
    }
}
