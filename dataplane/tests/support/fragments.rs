//! IP packets cut into fragments, and put together again as their receiver does. Headers by etherparse.

use super::node::Sent;
use super::packets::Outer;
use super::*;
use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header};
use tables::counters::DropReason;

const ETHERNET_BYTES: usize = 14;

/// An IP header, and a fragment header behind it.
enum Headers {
    V4(Ipv4Header),
    V6(Ipv6Header, Ipv6FragmentHeader),
}

/// A fragment taken apart: where it belongs, whether more follow, its bytes.
struct Part {
    headers: Headers,
    offset: usize,
    more: bool,
    bytes: Vec<u8>,
}

/// The fragments of a frame, cut before these bytes of what follows its IP header.
pub fn split(frame: &[u8], cuts: &[usize], id: u32) -> Vec<Vec<u8>> {
    let whole = Part::of(frame);
    let ends = cuts.iter().copied().chain([whole.bytes.len()]);
    let starts = [0].into_iter().chain(cuts.iter().copied());
    starts.zip(ends).map(|(start, end)| part(frame, (start, end), end < whole.bytes.len(), id)).collect()
}

/// The fragment with these bytes of what follows a frame's IP header.
pub fn part(frame: &[u8], (start, end): (usize, usize), more: bool, id: u32) -> Vec<u8> {
    let whole = Part::of(frame);
    let offset = IpFragOffset::try_new((start / 8) as u16).unwrap();
    let mut out = frame[..ETHERNET_BYTES].to_vec();
    match whole.headers {
        Headers::V4(mut ip) => {
            (ip.identification, ip.fragment_offset, ip.more_fragments) = (id as u16, offset, more);
            ip.dont_fragment = false;
            ip.total_len = (ip.header_len() + end - start) as u16;
            ip.header_checksum = ip.calc_header_checksum();
            out.extend(ip.to_bytes());
        }
        Headers::V6(mut ip, fragment) => {
            ip.payload_length = (end - start + Ipv6FragmentHeader::LEN) as u16;
            ip.next_header = IpNumber::IPV6_FRAGMENTATION_HEADER;
            out.extend(ip.to_bytes());
            out.extend(Ipv6FragmentHeader::new(fragment.next_header, offset, more, id).to_bytes());
        }
    }
    out.extend(&whole.bytes[start..end]);
    out
}

/// The frame whose fragments these are, in whatever order. Panics if anything is missing, there twice, or not the same in
/// all of them.
pub fn put_together(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut parts: Vec<Part> = frames.iter().map(|frame| Part::of(frame)).collect();
    parts.sort_by_key(|part| part.offset);
    assert!(
        frames.iter().all(|frame| frame[..ETHERNET_BYTES] == frames[0][..ETHERNET_BYTES]),
        "Ethernet headers differ"
    );
    let mut bytes: Vec<u8> = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        assert_eq!((part.offset, part.more), (bytes.len(), i + 1 < parts.len()));
        assert_eq!(part.common(), parts[0].common(), "headers differ");
        bytes.extend(&part.bytes);
    }
    let mut out = frames[0][..ETHERNET_BYTES].to_vec();
    match &parts[0].headers {
        Headers::V4(ip) => {
            let mut ip = ip.clone();
            (ip.fragment_offset, ip.more_fragments) = (IpFragOffset::ZERO, false);
            ip.total_len = (ip.header_len() + bytes.len()) as u16;
            ip.header_checksum = ip.calc_header_checksum();
            out.extend(ip.to_bytes());
        }
        Headers::V6(ip, fragment) => {
            let (payload_length, next_header) = (bytes.len() as u16, fragment.next_header);
            out.extend(Ipv6Header { payload_length, next_header, ..ip.clone() }.to_bytes());
        }
    }
    [out, bytes].concat()
}

impl Part {
    fn of(frame: &[u8]) -> Part {
        if frame[12..14] == [8, 0] {
            let (ip, _) = Ipv4Header::from_slice(&frame[ETHERNET_BYTES..]).unwrap();
            assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "IPv4 checksum");
            let bytes = frame[ETHERNET_BYTES + ip.header_len()..ETHERNET_BYTES + ip.total_len as usize].to_vec();
            let (offset, more) = (ip.fragment_offset.value() as usize * 8, ip.more_fragments);
            return Part { headers: Headers::V4(ip), offset, more, bytes };
        }
        let (ip, rest) = Ipv6Header::from_slice(&frame[ETHERNET_BYTES..]).unwrap();
        let rest = &rest[..ip.payload_length as usize];
        let (fragment, bytes) = match ip.next_header {
            IpNumber::IPV6_FRAGMENTATION_HEADER => Ipv6FragmentHeader::from_slice(rest).unwrap(),
            next => (Ipv6FragmentHeader::new(next, IpFragOffset::ZERO, false, 0), rest),
        };
        let (offset, more) = (fragment.fragment_offset.value() as usize * 8, fragment.more_fragments);
        Part { headers: Headers::V6(ip, fragment), offset, more, bytes: bytes.to_vec() }
    }

    /// What all fragments of a packet share.
    fn common(&self) -> (Vec<u8>, u32, u8) {
        match &self.headers {
            Headers::V4(ip) => ([ip.source, ip.destination].concat(), ip.identification as u32, ip.time_to_live),
            Headers::V6(ip, fragment) => ([ip.source, ip.destination].concat(), fragment.identification, ip.hop_limit),
        }
    }
}

/// What became of several frames, bytes as they are.
#[derive(Default)]
pub struct Passed {
    pub sent: Vec<(u32, Vec<u8>)>,
    pub dropped: Vec<DropReason>,
}

impl Node {
    /// Puts frames in at an interface, one after the other. No frame may be lost on the way.
    pub fn pass_all<'f>(
        &mut self,
        interface: u32,
        worker: Option<u16>,
        frames: impl IntoIterator<Item = &'f Vec<u8>>,
    ) -> Passed {
        let before: Vec<u64> = DropReason::ALL.iter().map(|&reason| self.drops(reason)).collect();
        for frame in frames {
            let peer = worker.map_or_else(|| self.peer(interface), |worker| &self.peers[&(interface, worker)]);
            assert!(peer.inject(frame.clone()));
            self.run();
        }
        let mut passed = Passed::default();
        for (&reason, before) in DropReason::ALL.iter().zip(before) {
            passed.dropped.extend(std::iter::repeat_n(reason, (self.drops(reason) - before) as usize));
        }
        for ((id, _), peer) in &self.peers {
            passed.sent.extend(peer.take_all().into_iter().map(|packet| (*id, packet.bytes)));
        }
        let waiting: usize = self.workers.iter_mut().map(|worker| worker.path().fragments.waiting()).sum();
        assert_eq!(self.frames_free(), self.frames() - waiting, "a frame was lost");
        passed
    }

    /// Time goes by, as far as fragments are concerned.
    pub fn let_fragments_expire(&mut self, after_ms: u32) {
        for worker in &mut self.workers {
            let path = worker.path();
            path.now_ms = path.now_ms.wrapping_add(after_ms);
            path.expire_fragments(path.fragments.capacity());
        }
    }
}

impl Passed {
    pub fn add(&mut self, more: Passed) {
        self.sent.extend(more.sent);
        self.dropped.extend(more.dropped);
    }

    /// The packet that its receiver makes of what was sent, read by an independent parser.
    pub fn together(&self) -> Outcome {
        let dropped = self.dropped.clone();
        let Some(&(interface, _)) = self.sent.first() else { return Outcome { sent: Vec::new(), dropped } };
        assert!(self.sent.iter().all(|(other, _)| *other == interface), "by several interfaces");
        let unpacked = self.sent.iter().map(|(_, frame)| unpack(interface, frame));
        let (outers, frames): (Vec<_>, Vec<_>) = unpacked.unzip();
        assert!(outers.iter().all(|outer| *outer == outers[0]), "outer headers differ: {outers:?}");
        let packet = Spec::judge(&put_together(&frames));
        let sent = match outers[0].clone() {
            Some((outer, _)) => Sent::Tunnel(outer, packet),
            None => Sent::Plain(interface, packet),
        };
        Outcome { sent: vec![sent], dropped }
    }
}

/// Outer headers and source port of a tunnel packet, if it is one, and the frame itself.
fn unpack(interface: u32, frame: &[u8]) -> (Option<(Outer, u16)>, Vec<u8>) {
    let Part { offset, more, .. } = Part::of(frame);
    let is_whole = offset == 0 && !more;
    let unwrapped = if interface == UPLINK && is_whole { packets::unwrap(&Spec::judge(frame)) } else { None };
    match unwrapped {
        Some((outer, port, inner)) => (Some((outer, port)), inner),
        None => (None, frame.to_vec()),
    }
}
