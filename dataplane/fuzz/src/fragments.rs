//! Fragments against a naive model of what passes: first the memory of fragments alone, with little room and a clock that
//! the input turns; then whole nodes, where what passes must be, byte for byte, what the whole packet became.

use super::cluster::{self, GATEWAY_MAC, OUTSIDE, OVERLAYS, PODS, REMOTE_POD, SERVICE, UPLINK, UPLINK_MAC};
use super::frames::{L4, encapsulated, frame};
use super::input::Input;
use super::path::Node;
use dataplane::fragments::{Ends, Fragments, Judged, Key, LIFE_MS, PATIENCE_MS};
use dataplane::parse::{Fragment, Parsed, parse};
use std::collections::{BTreeMap, BTreeSet};
use tables::counters::DropReason;
use tables::{Addr, Protocol};

const ENDS: Ends = Ends { src_port: 1, dst_port: 2, protocol: Protocol::UDP };
const NO_LIMIT: Limits = Limits { packets: usize::MAX, waiting: usize::MAX, of_one: usize::MAX };
const TINY: Limits = Limits { packets: 4, waiting: 6, of_one: 3 };
/// Behind Ethernet, the outer IPv4, UDP and VXLAN.
const INNER: usize = 50;

pub fn run(input: &[u8]) {
    let mut input = Input(input);
    if input.byte().is_multiple_of(2) { memory(&mut input) } else { node(&mut input) }
}

/// A fragment: first unit, end, whether more follow.
type Part = (u16, u16, bool);

#[derive(Clone, Copy)]
struct Limits {
    packets: usize,
    waiting: usize,
    of_one: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum Fate {
    On,
    Waits,
    Drop(DropReason),
}

/// What has come of one packet.
#[derive(Default)]
struct Known {
    units: BTreeSet<u16>,
    end: Option<u16>,
    has_first: bool,
    refused: bool,
    waits: Vec<u32>,
    since_ms: u32,
}

/// The specification, with sets.
struct Model {
    limits: Limits,
    packets: BTreeMap<u32, Known>,
    /// What waited, and whether it goes on.
    left: Vec<(u32, bool)>,
}

impl Model {
    fn new(limits: Limits) -> Model {
        Model { limits, packets: BTreeMap::new(), left: Vec::new() }
    }

    fn waiting(&self) -> usize {
        self.packets.values().map(|known| known.waits.len()).sum::<usize>() + self.left.len()
    }

    fn leave(&mut self, id: u32, goes_on: bool) {
        let waits = self.packets.get_mut(&id).map_or(Vec::new(), |known| std::mem::take(&mut known.waits));
        self.left.extend(waits.into_iter().map(|number| (number, goes_on)));
    }

    fn is_expired(&self, id: u32, now_ms: u32) -> bool {
        self.packets.get(&id).is_some_and(|known| {
            let may_ms = if known.has_first || known.refused { LIFE_MS } else { PATIENCE_MS };
            now_ms - known.since_ms > may_ms
        })
    }

    fn expire(&mut self, now_ms: u32) {
        for id in self.packets.keys().copied().collect::<Vec<_>>() {
            if self.is_expired(id, now_ms) {
                self.leave(id, false);
                self.packets.remove(&id);
            }
        }
    }

    fn pass(&mut self, id: u32, (first, end, more): Part, number: u32, now_ms: u32) -> Fate {
        if self.is_expired(id, now_ms) {
            self.leave(id, false);
            self.packets.remove(&id);
        }
        let (waiting, count, limits) = (self.waiting(), self.packets.len(), self.limits);
        let known = self.packets.entry(id).or_insert_with(|| Known { since_ms: now_ms, ..Known::default() });
        if known.refused {
            return Fate::Drop(DropReason::FragmentOverlap);
        }
        let is_new = known.units.is_empty();
        let waits = !known.has_first && first != 0;
        let no_room = waits && (known.waits.len() >= limits.of_one || waiting >= limits.waiting);
        if no_room || is_new && count >= limits.packets {
            if is_new {
                self.packets.remove(&id);
            }
            return Fate::Drop(DropReason::FragmentsFull);
        }
        let here: BTreeSet<u16> = (first..end).collect();
        let behind = known.end.is_some_and(|total| end > total) || !more && known.units.iter().any(|&unit| unit >= end);
        if behind || !here.is_disjoint(&known.units) {
            known.refused = behind || !here.is_subset(&known.units);
            if known.refused {
                self.leave(id, false);
            }
            return Fate::Drop(DropReason::FragmentOverlap);
        }
        known.units.extend(here);
        known.end = if more { known.end } else { Some(end) };
        known.has_first |= first == 0;
        if waits {
            known.waits.push(number);
            return Fate::Waits;
        }
        let is_complete = known.end.is_some_and(|end| known.units.len() == end as usize);
        self.leave(id, true);
        if is_complete {
            self.packets.remove(&id);
        }
        Fate::On
    }
}

/// The memory of fragments, step by step beside the model.
fn memory(input: &mut Input) {
    let Limits { packets, waiting, of_one } = TINY;
    let (mut fragments, mut model) = (Fragments::new(packets, waiting, of_one), Model::new(TINY));
    let (mut now_ms, mut number) = (0u32, 0);
    while !input.is_empty() {
        let (id, size) = (input.byte() as u32 % 8, input.byte());
        let first = (input.byte() / 2) as u16;
        let (more, end) = (!size.is_multiple_of(4), first + 1 + (size / 8) as u16);
        now_ms += if size.is_multiple_of(16) { input.word() as u32 } else { 0 };
        if size.is_multiple_of(32) {
            fragments.expire(packets, now_ms);
            model.expire(now_ms);
        }
        number += 1;
        let key = Key::new(OUTSIDE[0], cluster::NODE[0], Protocol::UDP, id, 0, Addr::UNSPECIFIED);
        let fragment = Fragment { id, offset: first, size: (end - first) * 8, more };
        let expected = model.pass(id, (first, end, more), number, now_ms);
        let fate = match fragments.judge(&key, &fragment, (first == 0).then_some(Ok(ENDS)), now_ms) {
            Judged::On(_) => Fate::On,
            Judged::Wait(place) => {
                fragments.wait(place, number);
                Fate::Waits
            }
            Judged::Drop(reason) => Fate::Drop(reason),
        };
        assert_eq!(fate, expected, "{fragment:?} of {id}");
        let mut left: Vec<_> =
            std::iter::from_fn(|| fragments.take_leaving()).map(|(n, how)| (n, how.is_ok())).collect();
        left.sort();
        model.left.sort();
        assert_eq!(left, std::mem::take(&mut model.left));
        assert_eq!((fragments.len(), fragments.waiting()), (model.packets.len(), model.waiting()));
    }
}

/// A packet that the node is sent whole and in parts.
struct Sample {
    interface: u32,
    frame: Vec<u8>,
    in_tunnel: bool,
}

/// The sample that the input asks for.
fn sample(input: &mut Input) -> Sample {
    let (family, what, to) = (input.byte() as usize % 2, input.byte() % 3, input.byte() % 6);
    let l4 = [L4::Udp(1000, 53), L4::Tcp(1000, 80), L4::Echo(7)][what as usize];
    let pod = cluster::pod_addr(0, family);
    let (src, dst) = match to {
        0 => (pod, cluster::pod_addr(1, family)),
        1 => (pod, REMOTE_POD[family]),
        2 => (pod, OUTSIDE[family]),
        3 => (pod, SERVICE[family]),
        4 => (OUTSIDE[family], pod),
        _ => (REMOTE_POD[family], cluster::pod_addr(1, family)),
    };
    let payload: Vec<u8> = (0..200).collect();
    let is_local = to < 4;
    let macs = if is_local { (cluster::pod_mac(0), GATEWAY_MAC) } else { (GATEWAY_MAC, UPLINK_MAC) };
    let interface = if is_local { PODS[0] } else { UPLINK };
    Sample { interface, frame: frame(macs, src, dst, l4, &payload), in_tunnel: to == 5 }
}

impl Sample {
    fn inject(&self, node: &mut Node, frame: &[u8]) {
        let frame = if self.in_tunnel { encapsulated(frame, OVERLAYS[0]) } else { frame.to_vec() };
        node.inject(self.interface, frame.into());
    }

    /// Bytes in front of what fragments carry, of the whole packet.
    fn headers(&self) -> usize {
        if self.frame[12] == 8 { 34 } else { 54 }
    }

    /// What the parser wants of a fragment before anybody else looks at it.
    fn is_tiny(&self, (first, end, _): Part) -> bool {
        let is_tcp = self.frame[if self.frame[12] == 8 { 23 } else { 20 }] == 6;
        is_tcp && (first == 0 && end < 3 || first == 1)
    }

    /// A fragment with these units of the packet.
    fn part(&self, (first, end, more): Part, id: u8) -> Vec<u8> {
        let (headers, word) = (self.headers(), first << 3 | more as u16);
        let to = (headers + end as usize * 8).min(self.frame.len());
        let bytes = &self.frame[headers + first as usize * 8..to];
        let mut out = self.frame[..headers].to_vec();
        if headers == 34 {
            let word = first | (more as u16) << 13;
            out[16..18].copy_from_slice(&(20 + bytes.len() as u16).to_be_bytes());
            out[18..22].copy_from_slice(&[&[0, id][..], &word.to_be_bytes()].concat());
            out[24..26].fill(0);
            let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&out[14..34]).ones_complement();
            out[24..26].copy_from_slice(&sum.to_ne_bytes());
        } else {
            let next = std::mem::replace(&mut out[20], 44);
            out[18..20].copy_from_slice(&(8 + bytes.len() as u16).to_be_bytes());
            out.extend([&[next, 0][..], &word.to_be_bytes(), &[0, 0, 0, id]].concat());
        }
        [&out[..], bytes].concat()
    }
}

/// What left by an interface, without a tunnel's headers: by which one, and the bytes.
fn sent(node: &mut Node) -> Vec<(u32, Vec<u8>)> {
    let unwrap = |(interface, bytes): (u32, Vec<u8>)| match parse(&bytes, bytes.len()) {
        Parsed::Ip(meta) if interface == UPLINK && meta.dst_port == cluster::TUNNEL_PORT => {
            (interface, bytes[INNER..].to_vec())
        }
        _ => (interface, bytes),
    };
    std::mem::take(&mut node.sent).into_iter().map(|(interface, packet)| unwrap((interface, packet.bytes))).collect()
}

/// The node itself answered, which it does to whole packets only.
fn is_answer(bytes: &[u8], asked: &[u8]) -> bool {
    let [answer, asked] = [bytes, asked].map(|bytes| parse(bytes, bytes.len()).ip());
    answer.zip(asked).is_some_and(|(answer, asked)| answer.src == asked.dst)
}

/// Passes a packet whole, then in parts.
fn node(input: &mut Input) {
    let mut node = Node::new(&mut Input(&[]));
    let sample = sample(input);
    sample.inject(&mut node, &sample.frame);
    node.settle();
    let whole = sent(&mut node).pop().filter(|(_, bytes)| !is_answer(bytes, &sample.frame));
    let units = (sample.frame.len() - sample.headers()).div_ceil(8) as u16;
    let mut model = Model::new(NO_LIMIT);
    let (mut parts, mut expected) = (Vec::new(), Vec::new());
    for number in 0..40 {
        if input.is_empty() {
            break;
        }
        let (id, size, first) = (input.byte() % 3, input.byte(), input.byte() as u16 % units);
        let is_first = first == 0;
        let end = (first + 1 + size as u16 % 16).min(units - is_first as u16);
        // An end that is none now and then.
        let part = (first, end, is_first || end < units && size <= 250);
        parts.push((id, part));
        if !sample.is_tiny(part) && model.pass(id as u32, part, number, 0) == Fate::On {
            expected.push((id, part));
        }
        expected.extend(model.left.drain(..).filter(|left| left.1).map(|(number, _)| parts[number as usize]));
        sample.inject(&mut node, &sample.part(part, id));
        if input.byte().is_multiple_of(2) {
            node.round();
        }
    }
    node.settle();
    let mut passed: Vec<_> = sent(&mut node).iter().map(|frame| read(frame, whole.as_ref())).collect();
    passed.sort();
    expected.retain(|_| whole.is_some());
    expected.sort();
    assert_eq!(passed, expected, "{parts:?}");
    node.check_frames();
}

/// Which part of the packet a frame is; its bytes must be those of the whole packet, which left before.
fn read((interface, bytes): &(u32, Vec<u8>), whole: Option<&(u32, Vec<u8>)>) -> (u8, Part) {
    let Some((by, whole)) = whole else { panic!("a part passes of what did not pass whole: {bytes:02x?}") };
    let Parsed::Fragment(_, fragment) = parse(bytes, bytes.len()) else { panic!("no fragment: {bytes:02x?}") };
    let start = fragment.offset as usize * 8 + if whole[12] == 8 { 34 } else { 54 };
    let size = fragment.size as usize;
    assert_eq!((interface, &bytes[bytes.len() - size..]), (by, &whole[start..start + size]));
    (fragment.id as u8, (fragment.offset, fragment.offset + fragment.size.div_ceil(8), fragment.more))
}
