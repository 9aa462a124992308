//! What steps of the path cost alone: parse, policy; and what memory a flow takes. Look-ups that others do too stand beside
//! theirs, elsewhere.

use crate::case::{By, Case, Cost, Group, Planned, Target};
use crate::clock;
use crate::cluster::{SERVICES_USED, Shape};
use crate::node::{Kind, shuffled, traffic};
use anyhow::Result;
use dataplane::parse::{parse, parse_plain};
use std::hint::black_box;
use tables::flow::FlowLayout;
use tables::judge::judge;
use tables::policy::{Direction, IDENTITY_FIRST};
use tables::{Protocol, Publisher};

const TITLE: &str = "steps";
const ABOUT: &str = "Parts of the path alone. Parse: from a frame's bytes, in cache, to what the path knows of it. Policy: may a \
                     pod speak with an identity on a port; the last of eight rules says yes. Memory: index and record.";
pub const PARSE: &str = "parse 64 bytes UDP";
pub const POLICY: &str = "policy look-up";
pub const MEMORY: &str = "memory per flow";

/// Port rules, eight for each identity that a pod may speak with.
pub const RULES_SIZE: (u32, &str) = (10_000, "10,000 rules");
/// Frames that lie in the first-level cache.
pub const FRAMES: (usize, &str) = (128, "128 frames");
/// Operations between two looks at the clock.
const BATCH: usize = 1 << 14;
/// Inputs in random order, more than a predictor learns.
const INPUTS: usize = 1 << 16;

pub fn groups() -> Vec<Group> {
    vec![parsing(), policy(), memory()]
}

/// A case that does `one(i)` for all i below `count`, again and again.
fn repeated(count: usize, mut one: impl FnMut(usize)) -> impl Case {
    let mut next = 0;
    move || -> Result<Cost> {
        Ok(clock::repeat(|| {
            for _ in 0..BATCH {
                one(next);
                next = if next + 1 < count { next + 1 } else { 0 };
            }
            BATCH as u64
        }))
    }
}

/// What walking through the inputs costs.
fn empty_loop<T: 'static>(size: &str, count: usize, input: impl Fn(usize) -> T + 'static) -> Planned {
    let one = move |i| {
        black_box(input(i));
    };
    Planned::ours("empty loop", size, move || Ok(repeated(count, one))).by(By::Reference)
}

fn frames(kind: Kind) -> Vec<Vec<u8>> {
    let (template, patch) = traffic(kind, SERVICES_USED);
    let patched = |i| {
        let mut frame = template.clone();
        patch(&mut frame, i);
        frame
    };
    (0..FRAMES.0 as u32).map(patched).collect()
}

fn parsing() -> Group {
    let (count, size) = FRAMES;
    let all = frames(Kind::Encap);
    let mut cases = vec![empty_loop(size, count, move |i| black_box(&all[i]).len())];
    for (what, kind) in [(PARSE, Kind::Encap), ("parse 64 bytes UDP in VXLAN, outer", Kind::Decap)] {
        let make = move || {
            let frames = frames(kind);
            Ok(repeated(count, move |i| {
                let frame = black_box(&frames[i]);
                // As the path does: the short way, and the long one for what that does not take.
                let meta = parse_plain(frame, frame.len()).or_else(|| parse(frame, frame.len()).ip());
                black_box(meta);
            }))
        };
        cases.push(Planned::ours(what, size, make).subtract().target(Target::at_most(8.0, 4.0)));
    }
    Group { title: TITLE, about: ABOUT, cases }
}

fn numbers(below: u32) -> Vec<u32> {
    shuffled(INPUTS as u32).into_iter().map(|i| i % below).collect()
}

fn policy() -> Group {
    let (rules, size) = RULES_SIZE;
    let policies = rules / 8;
    let all = numbers(policies);
    let reference = empty_loop(size, INPUTS, move |i| all[i]);
    let make = move || {
        let shape = Shape { policies, services_more: 0, ..Shape::default() };
        Ok(judged(shape.publisher(), numbers(policies)))
    };
    let cases = vec![reference, Planned::ours(POLICY, size, make).subtract().target(Target::at_most(100.0, 60.0))];
    Group { title: TITLE, about: ABOUT, cases }
}

fn judged(publisher: Publisher, identities: Vec<u32>) -> impl Case {
    repeated(INPUTS, move |i| {
        let view = publisher.live();
        let identity = IDENTITY_FIRST + identities[i];
        assert!(judge(&view, 1, Direction::Egress, identity, Protocol::UDP, 8080).allowed());
    })
}

fn memory() -> Group {
    let make = || {
        Ok(|| {
            let layout = FlowLayout::for_capacity(1 << 20);
            Ok(Cost::plain((layout.region_words() * 8) as f64 / layout.capacity as f64))
        })
    };
    let case = Planned::ours(MEMORY, "1M flows", make).unit("bytes").target(Target::at_most(256.0, 192.0));
    Group { title: TITLE, about: ABOUT, cases: vec![case] }
}
