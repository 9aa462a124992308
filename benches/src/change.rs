//! Tables that change under a running dataplane: how long control needs to load everything and to change one thing, from
//! the object to the first packet that is treated by it; what packets of others pay meanwhile; and how long a worker is
//! held up. Control's own code runs as in production ([`updates`]), a worker beside it ([`rig`]) forwards established
//! flows; the peer for loads and changes is [`crate::nft`].

use crate::case::{AtMost, Derived, Group, Planned, Seen};
use crate::nft::{self, Cluster, Nft, Shape};
use world::Size;

mod eye;
mod load;
mod pauses;
mod policies;
mod rig;
mod steady;
mod updates;
mod waits;
mod world;

const TITLE: &str = "tables under change";
const ABOUT: &str = "From parsed objects to the first packet that a worker treats by them, through control's state, compiler \
                     and publisher, while 10,000 established flows go through the worker. Control has a core of its own; \
                     changes during which others kept it or the worker from running are set apart. nft loads what \
                     kube-proxy would write, from its start to its end.";

const FULL: &str = "full load";
const DELTA: &str = "one endpoint change: median";

/// Sizes, and how often nft loads them.
const SIZES: [(Size, Option<usize>); 4] = [
    (Size { services: 1_000, endpoints: 10, name: "1k services x 10" }, Some(3)),
    (Size { services: 10_000, endpoints: 10, name: "10k services x 10" }, Some(1)),
    (Size { services: 45_000, endpoints: 1, name: "45k services x 1" }, Some(3)),
    (Size { services: 5_000, endpoints: 50, name: "5k services x 50" }, None),
];

pub fn groups(full: bool) -> Vec<Group> {
    let sized = |&(size, loads): &(Size, _)| Group { title: TITLE, about: ABOUT, cases: sized(size, loads) };
    let sizes: Vec<Group> = SIZES.iter().map(sized).collect();
    [sizes, policies::groups(), steady::groups(), pauses::groups(full)].into_iter().flatten().collect()
}

fn sized(size: Size, nft_loads: Option<usize>) -> Vec<Planned> {
    let mut cases = load::cases(size, nft_loads.map_or(1, nft::deltas));
    if let Some(loads) = nft_loads {
        let cluster = Cluster { services: size.services, endpoints_each: size.endpoints, shape: Shape::Maps };
        cases.extend(Nft::new(cluster).planned([FULL, DELTA], size.name, loads));
    }
    cases
}

/// A row of what another case measured.
fn told(what: &str, size: &str, seen: Seen, is_time: bool) -> Planned {
    Planned::ours(what, size, move || Ok(AtMost { case: just(seen, is_time), rounds: 1 }))
}

/// The same of a case that runs in every round.
fn told_each_round(what: &str, size: &str, seen: Seen, is_time: bool) -> Planned {
    Planned::ours(what, size, move || Ok(just(seen, is_time)))
}

fn just(seen: Seen, is_time: bool) -> Derived {
    Derived { of: vec![seen], how: |seen| seen[0], is_time }
}
