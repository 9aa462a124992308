//! When two nodes did the same. What may differ stands in one table, each field with its reason; everything else of what
//! comes out is compared byte by byte, fragments after they were put together.
//!
//! What is not sent at all (`generate`), since there each does something else for a reason:
//! - packets that conntrack calls invalid and then forwards untranslated (Fairway drops or translates them): segments
//!   amid a connection that one side never opened, anything after a RST that was the first answer (the kernel forgets
//!   such a connection at once), errors about packets that nobody sent
//! - from addresses that are not the sender's: Fairway drops those, the kernel was told to be loose (rp_filter)
//! - to the node's own addresses other than the gateway's: the host's, not forwarded
//! - echo to the gateway with IP options, in fragments or of more than a frame: Fairway's answer is for `ping`
//! - TTL 1 to a service: the kernel quotes the backend when no packet of the flow passed before
//! - TTL 1 in fragments: the kernel quotes the packet put together
//! - tunnel packets and packets from outside above the MTU: the wire has none

use super::frame::Headers;
use super::generate::{Place, Step};
use super::kernel::Service;
use crate::support::fragments::put_together;
use crate::support::*;
use std::collections::BTreeMap;
use tables::Protocol;

/// Services of one backend each: which one of several is chosen is nobody else's to say.
pub const SERVICES: [Service; 8] = [
    ((SERVICE, 53, Protocol::UDP), (REMOTE, 5353)),
    ((SERVICE, 54, Protocol::UDP), (B, 5353)),
    ((SERVICE, 80, Protocol::TCP), (REMOTE, 8080)),
    ((SERVICE, 81, Protocol::TCP), (B, 8080)),
    ((v6::SERVICE, 53, Protocol::UDP), (v6::REMOTE, 5353)),
    ((v6::SERVICE, 54, Protocol::UDP), (v6::B, 5353)),
    ((v6::SERVICE, 80, Protocol::TCP), (v6::REMOTE, 8080)),
    ((v6::SERVICE, 81, Protocol::TCP), (v6::B, 8080)),
];

/// A field that may differ: what, why, and how both sides are made the same there.
type Excuse = (&'static str, &'static str, fn(&mut Pair<'_>));

const EXCUSES: [Excuse; 6] = [
    (
        "masqueraded port or echo id",
        "each side draws its own; it must be the same one for all of a flow, and another for another",
        same_ports,
    ),
    (
        "source of an error about a packet to a service, or to a pod that reaches itself",
        "the kernel lets every router on the way speak as the address that it stands for; Fairway leaves routers their own",
        same_speaker,
    ),
    (
        "bytes quoted beyond the shorter quote, in the node's own errors",
        "how much is quoted is each one's choice; both must quote eight bytes of layer 4",
        same_quote,
    ),
    ("IPv4 id of what the node itself says, and DF of its echo replies", "any will do: they are short", same_id),
    (
        "traffic class of the node's own errors, but for the precedence",
        "the kernel copies it from what the error is about; RFC 1349 (5.1) asks for the default",
        same_traffic_class,
    ),
    ("0 or 0xffff as a checksum", "the same number in ones' complement", same_zero),
];

/// What came out at one place on each side.
struct Pair<'a> {
    ours: &'a mut Vec<u8>,
    theirs: &'a mut Vec<u8>,
    /// The node itself says this: nobody sent it.
    is_generated: bool,
    ports: &'a mut Ports,
    complaint: Option<String>,
}

/// The kernel's port for each of Fairway's.
#[derive(Default)]
pub struct Ports(BTreeMap<(u8, u16, (Addr, u16)), u16>);

impl Ports {
    /// A packet for Fairway as it must be for the kernel.
    pub fn for_kernel(&self, frame: &[u8]) -> Vec<u8> {
        let mut frame = frame.to_vec();
        let own = Headers::of(&frame).own_port(&frame);
        if let Some(own) = own
            && let Some(&port) = self.0.get(&(own.protocol, own.port, own.remote))
        {
            own.replace(&mut frame, port);
        }
        frame
    }
}

fn same_ports(pair: &mut Pair<'_>) {
    let (ours, theirs) = (Headers::of(pair.ours).own_port(pair.ours), Headers::of(pair.theirs).own_port(pair.theirs));
    let (Some(ours), Some(theirs)) = (ours, theirs) else { return };
    let known = pair.ports.0.insert((ours.protocol, ours.port, ours.remote), theirs.port);
    if known.is_some_and(|port| port != theirs.port) {
        pair.complaint = Some(format!("port {} was {known:?} and is {}", ours.port, theirs.port));
    }
    theirs.replace(pair.theirs, ours.port);
}

fn same_speaker(pair: &mut Pair<'_>) {
    let (ours, theirs) = (Headers::of(pair.ours), Headers::of(pair.theirs));
    let Some(quoted) = theirs.quoted(pair.theirs) else { return };
    let stands_for = SERVICES.iter().map(|((addr, ..), _)| *addr).chain([SNAT, v6::SNAT]);
    if stands_for.into_iter().any(|addr| addr == quoted.dst) && theirs.src == quoted.dst && ours.is_v4 == theirs.is_v4 {
        let at = if ours.is_v4 { 26..30 } else { 22..38 };
        pair.theirs[at.clone()].copy_from_slice(&pair.ours[at]);
        for (frame, headers) in [(&mut *pair.ours, ours), (&mut *pair.theirs, theirs)] {
            forget_checksums(frame, &headers);
        }
    }
}

fn same_quote(pair: &mut Pair<'_>) {
    let (ours, theirs) = (Headers::of(pair.ours), Headers::of(pair.theirs));
    let (Some(our_quote), Some(their_quote)) = (ours.quoted(pair.ours), theirs.quoted(pair.theirs)) else { return };
    if !pair.is_generated || pair.ours.len() == pair.theirs.len() {
        return;
    }
    let size = pair.ours.len().min(pair.theirs.len());
    if size < our_quote.l4.max(their_quote.l4) + 8 {
        pair.complaint = Some("quotes too little".to_owned());
    }
    for (frame, headers) in [(&mut *pair.ours, ours), (&mut *pair.theirs, theirs)] {
        forget_checksums(frame, &headers);
        frame.truncate(size);
        frame[if headers.is_v4 { 16..18 } else { 18..20 }].fill(0);
    }
}

/// Of an ICMP packet; they were judged before.
fn forget_checksums(frame: &mut [u8], headers: &Headers) {
    frame[headers.l4 + 2..headers.l4 + 4].fill(0);
    if headers.is_v4 {
        frame[24..26].fill(0);
    }
}

fn same_id(pair: &mut Pair<'_>) {
    for frame in [&mut *pair.ours, &mut *pair.theirs] {
        if pair.is_generated && Headers::of(frame).is_v4 {
            frame[18..20].fill(0);
            frame[20] &= 0xbf;
            frame[24..26].fill(0);
        }
    }
}

fn same_traffic_class(pair: &mut Pair<'_>) {
    let is_v4_error = |frame: &[u8]| Headers::of(frame).is_v4 && Headers::of(frame).is_error(frame);
    for frame in [&mut *pair.ours, &mut *pair.theirs] {
        if pair.is_generated && is_v4_error(frame) {
            frame[15] &= 0xe0;
            frame[24..26].fill(0);
        }
    }
}

fn same_zero(pair: &mut Pair<'_>) {
    for frame in [&mut *pair.ours, &mut *pair.theirs] {
        let headers = Headers::of(frame);
        if let Some(at) = headers.checksum_at(frame)
            && frame[at..at + 2] == [0xff, 0xff]
        {
            frame[at..at + 2].fill(0);
        }
    }
}

/// A packet that came out, put together if it came in fragments.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Out {
    pub place: Place,
    /// The outer headers of a tunnel packet, without what is excused.
    outer: Vec<u8>,
    pub frame: Vec<u8>,
}

/// What came out of interfaces, read.
pub fn read(sent: Vec<(u32, Vec<u8>)>) -> Vec<Out> {
    let mut outs: Vec<Out> = Vec::new();
    let mut parts: BTreeMap<_, Vec<Vec<u8>>> = BTreeMap::new();
    for (interface, frame) in sent.into_iter().filter(|(_, frame)| frame[0] & 1 == 0) {
        assert!(interface != UPLINK || frame.len() <= 14 + UPLINK_MTU as usize, "{} bytes leave", frame.len());
        let out = unwrap(interface, frame);
        match packet_of_fragment(&out.frame) {
            Some(key) => parts.entry((out.place, out.outer, key)).or_default().push(out.frame),
            None => outs.push(out),
        }
    }
    for ((place, outer, _), parts) in parts {
        match std::panic::catch_unwind(|| put_together(&parts)) {
            Ok(frame) => outs.push(Out { place, outer, frame }),
            Err(_) => outs.extend(parts.into_iter().map(|frame| Out { place, outer: outer.clone(), frame })),
        }
    }
    outs.sort();
    outs
}

/// Takes the tunnel off. Excused of its headers: lengths and checksum (judged here), the UDP source port (each draws its
/// own entropy), the IPv4 id (never a fragment), the IPv6 flow label (entropy again).
fn unwrap(interface: u32, frame: Vec<u8>) -> Out {
    let plain = |place, frame| Out { place, outer: Vec::new(), frame };
    if interface != UPLINK {
        return plain(Place::Pod(interface), frame);
    }
    let headers = Headers::of(&frame);
    let is_whole = packet_of_fragment(&frame).is_none();
    let is_tunnel =
        is_whole && headers.protocol == 17 && frame[headers.l4 + 2..headers.l4 + 4] == TUNNEL_PORT.to_be_bytes();
    if !is_tunnel {
        return plain(Place::Outside, frame);
    }
    let (_, _, inner) = packets::unwrap(&Spec::judge(&frame)).expect("VXLAN");
    let mut outer = frame[..headers.l4 + 16].to_vec();
    let excused = if headers.is_v4 { [16..20, 24..26, 34..36, 38..40] } else { [16..20, 16..20, 54..56, 58..60] };
    excused.into_iter().for_each(|field| outer[field].fill(0));
    if !headers.is_v4 {
        outer[15] &= 0xf0;
    }
    Out { place: Place::Tunnel, outer, frame: inner }
}

/// The outer traffic class is the inner one, and as far excused.
fn same_outer(is_generated: bool, ours: &[u8], theirs: &[u8]) -> bool {
    let is_v4 = ours.get(14).is_some_and(|byte| byte >> 4 == 4);
    let excused = |i: usize| match i {
        14 if !is_v4 => 1,
        15 if is_v4 => 0x1f,
        15 => 0xff,
        _ => 0,
    };
    let same = |i: usize| (ours[i] ^ theirs[i]) & !if is_generated { excused(i) } else { 0 } == 0;
    ours.len() == theirs.len() && (0..ours.len()).all(same)
}

/// What tells the packet that this fragment belongs to from others; None of a whole packet.
fn packet_of_fragment(frame: &[u8]) -> Option<Vec<u8>> {
    match frame[14] >> 4 {
        4 => (frame[20..22] != [0x40, 0] && (frame[20] & 0x3f, frame[21]) != (0, 0))
            .then(|| [&frame[18..20], &frame[26..34], &frame[23..24]].concat()),
        _ => (frame[20] == 44).then(|| [&frame[22..54], &frame[58..62]].concat()),
    }
}

/// Why these are not the same.
pub fn differ(step: &Step, ours: &[Out], theirs: &[Out], ports: &mut Ports) -> Option<String> {
    if ours.len() != theirs.len() {
        return Some(format!("{} against {} packets", ours.len(), theirs.len()));
    }
    let sent_error = Headers::of(&step.frame).is_error(&step.frame);
    ours.iter().zip(theirs).find_map(|(ours, theirs)| {
        if ours.place != theirs.place {
            return Some("another way out".to_owned());
        }
        let (mut our_frame, mut their_frame) = (ours.frame.clone(), theirs.frame.clone());
        if !step.is_wrong {
            [&our_frame, &their_frame].into_iter().for_each(|frame| drop(Spec::judge(frame)));
        }
        let out = Headers::of(&our_frame);
        let is_answer = [GATEWAY, v6::GATEWAY].contains(&out.src) && !out.is_error(&our_frame);
        let is_generated = out.is_error(&our_frame) && !sent_error || is_answer;
        let mut pair = Pair { ours: &mut our_frame, theirs: &mut their_frame, is_generated, ports, complaint: None };
        for (_, _, excuse) in EXCUSES {
            excuse(&mut pair);
        }
        let (complaint, same_outer) = (pair.complaint.take(), same_outer(is_generated, &ours.outer, &theirs.outer));
        if !same_outer {
            return Some(format!("other outer headers: {:02x?} {:02x?}", ours.outer, theirs.outer));
        }
        complaint.or_else(|| (our_frame != their_frame).then(|| "other bytes".to_owned()))
    })
}
