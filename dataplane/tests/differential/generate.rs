//! What is sent: random packets that ends of a cluster may send, each from its own address, among them answers to what came
//! out before and errors about it. What both sides would not treat alike for a good reason is not made here; that list is
//! beside the excuses.

use super::compare::SERVICES;
use super::frame::Headers;
use super::random::Random;
use crate::support::packets::{self, ACK, FIN, PSH, RST, SYN, echo, icmp, tcp};
use crate::support::*;
use etherparse::Ipv4Header;
use tables::Protocol;

/// Where packets go in and come out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Pod(u32),
    Tunnel,
    Outside,
}

/// A frame that came out somewhere, the inner one of tunnels.
pub type Seen = (Place, Vec<u8>);

/// One packet, maybe in fragments.
#[derive(Clone, Debug)]
pub struct Step {
    pub place: Place,
    pub frame: Vec<u8>,
    pub cuts: Vec<usize>,
    pub id: u32,
    /// In which the fragments are sent.
    pub order: Vec<usize>,
    pub is_wrong: bool,
    /// Of the uplink, at which Fairway receives it.
    pub queue: u16,
}

pub struct Generator<'r> {
    shape: Shape,
    pub random: &'r mut Random,
    /// Of the next new flow.
    pub port: u16,
    /// What was sent by an end of its own accord.
    sent: Vec<(Place, Spec)>,
    /// Ends of connections that answered.
    answered: Vec<[(Addr, u16); 2]>,
    /// Nothing more can be compared.
    pub is_over: bool,
}

impl<'r> Generator<'r> {
    pub fn new(shape: Shape, random: &'r mut Random, port: u16) -> Generator<'r> {
        Generator { shape, random, port, sent: Vec::new(), answered: Vec::new(), is_over: false }
    }

    /// The next packet, given what came out so far.
    pub fn step(&mut self, seen: &[Seen]) -> Step {
        let recent = seen.len().saturating_sub(6);
        let roll = self.random.below(100);
        let made = match roll {
            0..40 if !seen.is_empty() => {
                let seen = &seen[self.random.between(recent, seen.len() - 1)];
                self.answer(seen)
            }
            40..55 if !seen.is_empty() => {
                let seen = &seen[self.random.between(recent, seen.len() - 1)];
                self.error(seen)
            }
            55..70 if !self.sent.is_empty() => Some(self.more(seen)),
            _ => None,
        };
        let (place, spec) = made.unwrap_or_else(|| self.opening());
        self.dress(place, spec)
    }

    fn opening(&mut self) -> (Place, Spec) {
        let ends = self.random.pick(&FAMILIES);
        self.port += 1;
        let (place, src, dst) = self.ends(&ends);
        let (from, to) = ((src, self.port), (dst, self.random.between(1, 60_000) as u16));
        let services: Vec<_> = SERVICES.iter().filter(|((addr, ..), _)| *addr == dst).collect();
        // Maybe a connection that was there before the node.
        let opener = if self.random.percent(15) { ACK } else { SYN };
        let spec = if dst == ends.service {
            let ((addr, port, protocol), _) = *self.random.pick(&services);
            if protocol == Protocol::UDP { udp(from, (addr, port)) } else { tcp(from, (addr, port), opener) }
        } else if dst == ends.gateway {
            echo(src, dst, self.port)
        } else {
            match self.random.below(3) {
                0 => udp(from, to),
                1 => tcp(from, to, opener),
                _ => echo(src, dst, self.port),
            }
        };
        self.sent.push((place, spec.clone()));
        (place, spec)
    }

    /// Who speaks to whom.
    fn ends(&mut self, ends: &Family) -> (Place, Addr, Addr) {
        let Family { client, gateway, a, b, remote, service, .. } = *ends;
        match self.random.below(8) {
            0..3 => (Place::Pod(POD_A), a, self.random.pick(&[b, remote, client, service, service, gateway])),
            3..6 => (Place::Pod(POD_B), b, self.random.pick(&[a, remote, client, service, service, gateway])),
            6 => (Place::Tunnel, remote, self.random.pick(&[a, b])),
            _ => (Place::Outside, client, self.random.pick(&[a, b])),
        }
    }

    /// An end that spoke goes on; with TCP only if it was answered, else it says the same again.
    fn more(&mut self, seen: &[Seen]) -> (Place, Spec) {
        let at = self.random.below(self.sent.len());
        let (place, mut spec) = self.sent[at].clone();
        let answered = |(to, frame): &Seen| *to == place && is_answer(frame, &spec);
        let is_open = seen.iter().any(answered);
        if let L4::Tcp { flags, seq, ack, .. } = &mut spec.l4
            && is_open
        {
            *seq = seq.wrapping_add(u32::from(*flags & SYN != 0));
            (*flags, *ack) = (self.random.pick(&[ACK, ACK | PSH, ACK | PSH, ACK | FIN, ACK | RST]), 9000);
        }
        self.sent[at].1 = spec.clone();
        (place, spec)
    }

    /// What the receiver of a packet answers; None if it would not.
    fn answer(&mut self, (place, frame): &Seen) -> Option<(Place, Spec)> {
        let heard = Spec::judge(frame);
        let size = heard.payload.len() as u32;
        let spec = match heard.l4 {
            L4::Udp { src, dst } => udp((heard.dst, dst), (heard.src, src)),
            L4::Echo { id } => packets::echo_reply(heard.dst, heard.src, id),
            L4::Tcp { src, dst, flags, seq, ack } => {
                let next = match flags {
                    SYN => self.random.pick(&[SYN | ACK, SYN | ACK, SYN | ACK, RST | ACK]),
                    _ if flags & RST != 0 => return None,
                    _ if flags & SYN != 0 => self.random.pick(&[ACK, ACK, ACK | PSH, RST]),
                    _ => self.random.pick(&[ACK, ACK | PSH, ACK | PSH, ACK | FIN, RST | ACK]),
                };
                let ends = [(heard.dst, dst), (heard.src, src)];
                // The kernel forgets a connection to which nobody but a reset answered.
                self.is_over |= next & RST != 0 && !self.answered.contains(&ends);
                self.answered.push(ends);
                let mut spec = tcp(ends[0], ends[1], next);
                if let L4::Tcp { seq: own, ack: acked, .. } = &mut spec.l4 {
                    *own = if flags & ACK != 0 { ack } else { 5000 };
                    let length = size + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
                    *acked = if next & ACK != 0 { seq.wrapping_add(length) } else { 0 };
                }
                spec
            }
            _ => return None,
        };
        Some((*place, spec))
    }

    /// What the receiver of a packet, or a router before it, has to say about it.
    fn error(&mut self, (place, frame): &Seen) -> Option<(Place, Spec)> {
        let about = Headers::of(frame);
        if about.is_error(frame) || [GATEWAY, v6::GATEWAY].contains(&about.src) {
            return None;
        }
        let routers = match (place, about.is_v4) {
            (Place::Tunnel, true) => [about.dst, pod(2, 1)],
            (Place::Tunnel, false) => [about.dst, pod_v6(2, 1)],
            (Place::Outside, true) => [about.dst, ROUTER],
            (Place::Outside, false) => [about.dst, v6::ROUTER],
            (Place::Pod(_), _) => [about.dst; 2],
        };
        let (kind, rest) = if about.is_v4 {
            self.random.pick(&[
                ((3, 0), [0; 4]),
                ((3, 1), [0; 4]),
                ((3, 3), [0; 4]),
                ((3, 4), [0, 0, 5, 0]),
                ((11, 0), [0; 4]),
                ((12, 0), [20, 0, 0, 0]),
            ])
        } else {
            self.random.pick(&[
                ((1, 0), [0; 4]),
                ((1, 4), [0; 4]),
                ((2, 0), [0, 0, 5, 0]),
                ((3, 0), [0; 4]),
                ((4, 1), [0, 0, 0, 6]),
            ])
        };
        let least = about.l4 + 8;
        let quote = self.random.pick(&[least, least + 12, least + 100, 14 + 548]).min(frame.len());
        let spec = icmp(self.random.pick(&routers), about.src, kind, rest).payload(&frame[14..quote]);
        Some((*place, spec))
    }

    /// The bytes of a packet, with what its sender may add to it or leave out.
    fn dress(&mut self, place: Place, spec: Spec) -> Step {
        let (src_mac, dst_mac) = match place {
            Place::Pod(octet) => (pod_mac(1, octet as u8), GATEWAY_MAC),
            Place::Tunnel => (self.shape.inner_mac(2), self.shape.inner_mac(1)),
            Place::Outside => (ROUTER_MAC, uplink_mac(1)),
        };
        let is_error = Headers::of(&spec.bytes()).is_error(&spec.bytes());
        let to_service = SERVICES.iter().any(|((addr, ..), _)| *addr == spec.dst);
        let ttl = match self.random.below(16) {
            0 if !to_service && !is_error => 1,
            1 => 2,
            2 => 255,
            _ => self.random.between(30, 64) as u8,
        };
        let spec = spec.macs(src_mac, dst_mac).ttl(ttl).traffic_class(self.random.pick(&[0, 0, 0, 0xb8, 2, 1]));
        let to_gateway = [GATEWAY, v6::GATEWAY].contains(&spec.dst);
        let is_short = to_gateway || !matches!(place, Place::Pod(_));
        let spec = if is_error { spec } else { spec.payload(&self.payload(is_short)) };
        let mut step = Step {
            place,
            frame: spec.bytes(),
            cuts: Vec::new(),
            id: self.random.next() as u32,
            order: vec![0],
            is_wrong: false,
            queue: self.random.below(self.shape.uplink_queues as usize) as u16,
        };
        self.checksum(&mut step);
        if !is_error && ttl > 1 && !to_gateway && spec.payload.len() > 100 && self.random.percent(30) {
            self.cut(&mut step);
        } else if !to_gateway && self.random.percent(6) {
            self.extend(&mut step, &spec);
        }
        if spec.src.is_v4() {
            let (id, dont_fragment) = (step.id as u16, self.random.percent(50));
            change_v4(&mut step.frame, |ip| (ip.identification, ip.dont_fragment) = (id, dont_fragment));
        }
        step
    }

    fn payload(&mut self, is_short: bool) -> Vec<u8> {
        let size = match self.random.below(if is_short { 7 } else { 10 }) {
            0..5 => self.random.below(64),
            5..7 => self.random.between(100, 900),
            7 => self.random.between(1380, 1480),
            _ => self.random.between(1500, 3500),
        };
        (0..size).map(|_| self.random.next() as u8).collect()
    }

    /// UDP without checksum; wrong ones.
    fn checksum(&mut self, step: &mut Step) {
        let headers = Headers::of(&step.frame);
        let Some(at) = headers.checksum_at(&step.frame) else { return };
        if headers.is_v4 && headers.protocol == 17 && self.random.percent(10) {
            step.frame[at..at + 2].fill(0);
        } else if !headers.is_icmp() && self.random.percent(4) {
            let wrong =
                self.random.between(1, 0xfffe) as u16 ^ u16::from_be_bytes([step.frame[at], step.frame[at + 1]]);
            if wrong != 0 && wrong != 0xffff {
                step.frame[at..at + 2].copy_from_slice(&wrong.to_be_bytes());
                step.is_wrong = true;
            }
        }
    }

    /// Two to four fragments, in any order.
    fn cut(&mut self, step: &mut Step) {
        let headers = Headers::of(&step.frame);
        let size = headers.end - headers.l4;
        let mut cuts: Vec<usize> =
            (0..self.random.between(1, 3)).map(|_| self.random.between(5, (size - 1) / 8) * 8).collect();
        cuts.sort_unstable();
        cuts.dedup();
        let ends = cuts.iter().copied().chain([size]);
        let starts = [0].into_iter().chain(cuts.iter().copied());
        if starts.zip(ends).any(|(start, end)| end - start > 1380) {
            return;
        }
        step.order = (0..=cuts.len()).collect();
        if self.random.percent(50) {
            self.random.shuffle(&mut step.order);
        }
        step.cuts = cuts;
    }

    /// IPv4 options that need no router's hand, or IPv6 extension headers.
    fn extend(&mut self, step: &mut Step, spec: &Spec) {
        if spec.src.is_v4() {
            let options =
                self.random.pick(&[&[1u8, 1, 1, 1][..], &[1, 1, 1, 0], &[0x94, 4, 0, 0], &[0xde, 6, 1, 2, 3, 4, 0, 0]]);
            change_v4(&mut step.frame, |ip| {
                ip.options = options.try_into().unwrap();
                ip.total_len += options.len() as u16;
            });
        } else if !step.is_wrong {
            let kinds = self.random.pick(&[&[60u8][..], &[0], &[0, 60]]);
            step.frame = spec.bytes_with_extensions(kinds);
        }
    }
}

/// Changes the IPv4 header of a frame.
fn change_v4(frame: &mut Vec<u8>, change: impl FnOnce(&mut Ipv4Header)) {
    let (mut ip, _) = Ipv4Header::from_slice(&frame[14..]).unwrap();
    let size = ip.header_len();
    change(&mut ip);
    ip.header_checksum = ip.calc_header_checksum();
    frame.splice(14..14 + size, ip.to_bytes());
}

/// Whether this is the other end's answer to an opening segment.
fn is_answer(frame: &[u8], opening: &Spec) -> bool {
    let heard = Spec::judge(frame);
    match (heard.l4, &opening.l4) {
        (L4::Tcp { dst, flags, .. }, L4::Tcp { src, .. }) => {
            (heard.src, heard.dst) == (opening.dst, opening.src) && dst == *src && flags & RST == 0
        }
        _ => false,
    }
}
