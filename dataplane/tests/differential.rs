//! The same random packets through the kernel (routing, nftables, vxlan in a network namespace) and through Fairway (real
//! workers over interfaces of memory): the same must come out. What may differ is listed in `differential/compare.rs`.
//! Needs root. `SEED=7 SEQUENCES=5000` sends others, and more; `SEED=7 FIRST=31 SEQUENCES=1 TRACE=1` shows one.

mod support;

#[path = "differential/compare.rs"]
mod compare;
#[path = "differential/frame.rs"]
mod frame;
#[path = "differential/generate.rs"]
mod generate;
#[path = "differential/kernel.rs"]
mod kernel;
#[path = "differential/random.rs"]
mod random;

use compare::{Out, Ports, SERVICES};
use generate::{Generator, Place, Seen, Step};
use kernel::Kernel;
use random::Random;
use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;
use support::fragments::{Passed, split};
use support::{Node, Shape, UPLINK};

const WAITS_MAX: usize = 200;
const STEPS: usize = 24;
/// Differences that a failure tells in full.
const SHOWN_MAX: usize = 8;
/// Each sequence has ports of its own, since the kernel remembers all of them.
const PORTS: u16 = 64;
const SEQUENCES_OF_KERNEL: u64 = 600;
/// What must have happened often enough that its comparison means something.
const COMPARED_MIN: usize = 20;
const COMPARED: [&str; 14] = [
    "Outside -> Outside [TtlExpired]",
    "Outside -> Pod []",
    "Outside in fragments -> Pod []",
    "Pod -> Outside []",
    "Pod -> Pod [TooBig]",
    "Pod -> Pod [TtlExpired]",
    "Pod -> Pod []",
    "Pod -> Tunnel []",
    "Pod in fragments -> Outside []",
    "Pod in fragments -> Pod []",
    "Pod in fragments -> Tunnel []",
    "Tunnel -> Pod []",
    "Tunnel -> Tunnel [TtlExpired]",
    "Tunnel in fragments -> Pod []",
];

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// The frames of a step, of which one side may bear other ports than the other.
fn frames(step: &Step, frame: &[u8], node: &Node) -> (u32, Vec<Vec<u8>>) {
    let whole = if step.cuts.is_empty() { vec![frame.to_vec()] } else { split(frame, &step.cuts, step.id) };
    let ordered = step.order.iter().map(|&i| whole[i].clone());
    match step.place {
        Place::Pod(interface) => (interface, ordered.collect()),
        Place::Outside => (UPLINK, ordered.collect()),
        Place::Tunnel => (UPLINK, ordered.map(|frame| node.peers_frame(&frame).bytes()).collect()),
    }
}

/// Pods of one worker or of two.
fn shape(underlay: usize, workers: u16) -> Shape {
    let pods = vec![(4, 0), (5, workers - 1)];
    Shape { underlay, workers, uplink_queues: workers, pods, ..Shape::default() }
}

fn fairway(shape: Shape) -> Node {
    let mut node = Node::new(shape);
    node.publish(|rows| {
        for (id, (key, backend)) in (1..).zip(SERVICES) {
            rows.service(id, key, &[backend]);
        }
    });
    node
}

/// What was compared, by what came of it.
type Tally = BTreeMap<String, usize>;

struct Sequence<'a> {
    node: Node,
    kernel: &'a mut Kernel,
    ports: Ports,
    seen: Vec<Seen>,
}

impl Sequence<'_> {
    /// Sends one packet both ways; tells what differed.
    fn pass(&mut self, step: &Step, tally: &mut Tally) -> Result<(), String> {
        let (interface, sent) = frames(step, &step.frame, &self.node);
        let passed = self.node.pass_all(interface, (interface == UPLINK).then_some(step.queue), &sent);
        let (interface, sent) = frames(step, &self.ports.for_kernel(&step.frame), &self.node);
        let (ours, mut theirs) = (compare::read(passed.sent.clone()), self.kernel.pass(interface, &sent));
        // A busy machine lets another thread of the kernel finish it.
        for _ in 0..WAITS_MAX {
            if compare::read(theirs.clone()).len() == ours.len() {
                break;
            }
            sleep(Duration::from_millis(1));
            theirs.extend(self.kernel.sent());
        }
        let theirs = compare::read(theirs);
        if let Some(why) = compare::differ(step, &ours, &theirs, &mut self.ports) {
            return Err(explain(&why, step, &passed, &ours, &theirs));
        }
        if std::env::var("TRACE").is_ok() {
            println!("{}", explain("", step, &passed, &ours, &theirs));
        }
        *tally.entry(kind(step, &passed, &ours)).or_default() += 1;
        if !step.is_wrong {
            self.seen.extend(ours.into_iter().map(|out| (out.place, out.frame)));
        }
        Ok(())
    }
}

fn kind(step: &Step, passed: &Passed, ours: &[Out]) -> String {
    let in_parts = if step.cuts.is_empty() { "" } else { " in fragments" };
    let place = |place: Place| format!("{place:?}").replace(|c: char| "()0123456789".contains(c), "");
    let to: Vec<String> = ours.iter().map(|out| place(out.place)).collect();
    format!("{}{in_parts} -> {} {:?}", place(step.place), to.join(", "), passed.dropped)
}

fn explain(why: &str, step: &Step, passed: &Passed, ours: &[Out], theirs: &[Out]) -> String {
    let show = |frame: &[u8]| {
        let said = std::panic::catch_unwind(|| support::Spec::judge(frame).payload(&[]));
        let said = said.map_or_else(|_| "a wrong checksum".to_owned(), |spec| format!("{spec:?}"));
        format!("{said}\n    {:02x?} ({} bytes)", &frame[..frame.len().min(120)], frame.len())
    };
    let all =
        |outs: &[Out]| outs.iter().map(|out| format!("\n  {:?} {}", out.place, show(&out.frame))).collect::<String>();
    format!(
        "{why}\nsent at {:?}, cut before {:?} in order {:?}:\n  {}\nFairway dropped {:?} and sent{}\nthe kernel sent{}",
        step.place,
        step.cuts,
        step.order,
        show(&step.frame),
        passed.dropped,
        all(ours),
        all(theirs)
    )
}

/// All sequences, whose packets between nodes are of this family.
fn compare(underlay: usize) {
    let (seed, sequences, first) = (setting("SEED", 1), setting("SEQUENCES", 300), setting("FIRST", 0));
    let (mut kernel, mut tally) = (Kernel::new(&shape(underlay, 1), &SERVICES), Tally::new());
    let mut differences = Vec::new();
    for number in first..first + sequences {
        if number > first && number % SEQUENCES_OF_KERNEL == 0 {
            kernel = Kernel::new(&shape(underlay, 1), &SERVICES);
        }
        if let Err(difference) = play(&mut kernel, underlay, (seed, number), &mut tally) {
            differences.push(format!("SEED={seed} FIRST={number}, {difference}"));
        }
    }
    tally.iter().for_each(|(kind, count)| println!("{count:6} {kind}"));
    let rare = COMPARED.iter().filter(|kind| tally.get(**kind).is_none_or(|&count| count < COMPARED_MIN));
    let rare: Vec<_> = rare.filter(|_| sequences >= 300).collect();
    let shown: Vec<&str> = differences.iter().map(String::as_str).take(SHOWN_MAX).collect();
    assert!(differences.is_empty(), "{} of {sequences} sequences:\n{}", differences.len(), shown.join("\n\n"));
    assert!(rare.is_empty(), "hardly compared: {rare:?}");
}

/// One sequence; what differed.
fn play(kernel: &mut Kernel, underlay: usize, (seed, number): (u64, u64), tally: &mut Tally) -> Result<(), String> {
    let shape = shape(underlay, 1 + (number % 2) as u16);
    let mut random = Random(seed << 32 | number);
    let mut generator =
        Generator::new(shape.clone(), &mut random, 1024 + (number % SEQUENCES_OF_KERNEL) as u16 * PORTS);
    let mut sequence = Sequence { node: fairway(shape), kernel, ports: Ports::default(), seen: Vec::new() };
    for at in 0..STEPS {
        let step = generator.step(&sequence.seen);
        sequence.pass(&step, tally).map_err(|difference| format!("step {at}: {difference}"))?;
        if generator.is_over {
            break;
        }
    }
    Ok(())
}

#[test]
fn fairway_and_the_kernel_do_the_same_with_random_packets() {
    compare(0);
}

#[test]
fn they_do_the_same_where_nodes_speak_ipv6() {
    compare(1);
}
