//! How a service spreads new flows over its backends, as its annotations say it:
//!
//! - `fairway.dev/load-balancing`: `random`, `round-robin`, `source-hash`, `least-connections` or `maglev`; the names of
//!   IPVS's schedulers that do the same are known, too. Without it the node's own choice counts.
//! - `fairway.dev/weights`: `ADDRESS=WEIGHT` or `PREFIX=WEIGHT`, separated by commas: the weights of backends under
//!   round-robin and least-connections, by the longest prefix that they lie in; others weigh 1.

use serde::{Deserialize, Serialize};
use std::str::FromStr;
use tables::service::Algorithm;
use tables::{Addr, Prefix};

pub const ALGORITHM_ANNOTATION: &str = "fairway.dev/load-balancing";
pub const WEIGHTS_ANNOTATION: &str = "fairway.dev/weights";

const NAMES: [(&str, Algorithm); 5] = [
    ("random", Algorithm::Random),
    ("round-robin", Algorithm::RoundRobin),
    ("source-hash", Algorithm::SourceHash),
    ("least-connections", Algorithm::LeastConnections),
    ("maglev", Algorithm::Maglev),
];

/// IPVS's schedulers. Least connections weighs a backend with the flow that it would get, as `sed` does.
const SCHEDULERS: [(&str, Algorithm); 7] = [
    ("rr", Algorithm::RoundRobin),
    ("wrr", Algorithm::RoundRobin),
    ("lc", Algorithm::LeastConnections),
    ("wlc", Algorithm::LeastConnections),
    ("sed", Algorithm::LeastConnections),
    ("sh", Algorithm::SourceHash),
    ("mh", Algorithm::Maglev),
];

/// Those without an equal, and what comes closest.
const REFUSED: [(&str, &str); 7] = [
    ("nq", "least-connections"),
    ("dh", "source-hash"),
    ("lblc", "source-hash"),
    ("lblcr", "source-hash"),
    ("fo", "round-robin with fairway.dev/weights"),
    ("ovf", "least-connections with fairway.dev/weights"),
    ("twos", "least-connections"),
];

/// An algorithm as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named(pub Algorithm);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownAlgorithm {
    #[error("{name:?} is an IPVS scheduler that Fairway does not have: use {instead}")]
    Scheduler { name: String, instead: &'static str },
    #[error("{0:?} is none of random, round-robin, source-hash, least-connections and maglev")]
    Name(String),
}

impl FromStr for Named {
    type Err = UnknownAlgorithm;
    fn from_str(text: &str) -> Result<Named, UnknownAlgorithm> {
        if let Some((_, algorithm)) = NAMES.iter().chain(&SCHEDULERS).find(|(name, _)| *name == text) {
            return Ok(Named(*algorithm));
        }
        Err(match REFUSED.iter().find(|(name, _)| *name == text) {
            Some((name, instead)) => UnknownAlgorithm::Scheduler { name: name.to_string(), instead },
            None => UnknownAlgorithm::Name(text.to_owned()),
        })
    }
}

/// As it is called where people look.
pub fn name(algorithm: Algorithm) -> &'static str {
    NAMES.iter().find(|(_, known)| *known == algorithm).map_or("random", |(name, _)| name)
}

/// What a service says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balancing {
    /// None: as the node does it.
    pub algorithm: Option<Algorithm>,
    pub weights: Vec<(Prefix, u16)>,
}

/// The weight of a backend by these.
pub fn weight(weights: &[(Prefix, u16)], addr: Addr) -> u16 {
    let fitting = weights.iter().filter(|(prefix, _)| prefix.contains(addr));
    fitting.max_by_key(|(prefix, _)| prefix.length()).map_or(1, |(_, weight)| *weight)
}

/// As the annotation lists them; the message says which one is wrong.
pub fn weights(text: &str) -> Result<Vec<(Prefix, u16)>, String> {
    text.split(',').map(str::trim).filter(|one| !one.is_empty()).map(one_weight).collect()
}

fn one_weight(text: &str) -> Result<(Prefix, u16), String> {
    let wrong = || format!("{text:?} is not ADDRESS=WEIGHT or PREFIX=WEIGHT with a weight from 0 to 65535");
    let (to, weight) = text.split_once('=').ok_or_else(wrong)?;
    let prefix = match to.contains('/') {
        true => to.parse().map_err(|_| wrong())?,
        false => Prefix::host(to.parse().map_err(|_| wrong())?),
    };
    Ok((prefix, weight.parse().map_err(|_| wrong())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn algorithms_are_known_by_their_names_and_by_those_of_ipvs() {
        for (text, algorithm) in NAMES.iter().chain(&SCHEDULERS) {
            assert_eq!(text.parse::<Named>(), Ok(Named(*algorithm)));
        }
        for (text, instead) in REFUSED {
            let refused = text.parse::<Named>().unwrap_err().to_string();
            assert!(refused.contains(text) && refused.ends_with(instead), "{refused}");
        }
        assert!("Maglev".parse::<Named>().unwrap_err().to_string().contains("\"Maglev\" is none of random"));
    }

    #[test]
    fn the_longest_prefix_gives_the_weight() {
        let weights = weights("10.2.0.0/16=3, 10.2.0.7=0,fd00::/8=65535").unwrap();
        let of = |addr: &str| weight(&weights, addr.parse().unwrap());
        assert_eq!(["10.2.0.1", "10.2.0.7", "10.3.0.1", "fd00::1"].map(of), [3, 0, 1, 65535]);
        for wrong in ["10.2.0.1", "x=1", "10.2.0.1=65536", "10.2.0.1=-1", "10.2.0.0/33=1"] {
            assert!(super::weights(wrong).unwrap_err().contains(wrong), "{wrong}");
        }
    }
}
