//! Fragments on their way to their flow. Those of local ends are all received by one worker, and learn their ports there;
//! those from outside meet at a worker that their packet's id names, which hands them to the flow's owner. A fragment that
//! knows its ports is like any other packet of the flow from then on. Must not put packets together.

use super::forward::Path;
use super::item::Item;
use super::look::Place;
use crate::classify::{Context, Origin};
use crate::flow::Way;
use crate::fragments::{Ends, Judged, Key};
use crate::packet::{BURST_MAX, Burst, Packet};
use crate::parse::{self, Fragment, Kind, Meta, Parsed};
use crate::rewrite;
use tables::Addr;
use tables::counters::{DropReason, WorkerCounter};
use tables::flow::Tuple;
use tables::owner::{Worker, of_fragment};

/// A fragment that waits for the first one of its packet. `Origin::Local` is a sender of this node.
pub struct Waiting {
    packet: Packet,
    origin: Origin,
}

impl Path {
    /// A fragment whose sender may speak.
    #[cold]
    pub(super) fn look_at_fragment(
        &mut self,
        context: &Context<'_>,
        place: Place<'_>,
        meta: Meta,
        fragment: &Fragment,
        origin: Origin,
    ) {
        if let Some(worker) = self.learner(&meta, fragment, origin) {
            self.note_ends(place.packet, None);
            return self.leave(worker, place.at, Way::Back, origin);
        }
        let interface = place.packet.as_ref().map_or(0, |packet| packet.interface);
        let key = key(&meta, fragment, origin, interface);
        let first = fragment.is_first().then(|| said_by_first(context, &meta, origin));
        match self.fragments.judge(&key, fragment, first, self.now_ms) {
            Judged::On(ends) => self.follow(context, place, with_ends(meta, ends), origin),
            Judged::Wait(waiting) => {
                if let Some(packet) = place.packet.take() {
                    self.fragments.wait(waiting, Waiting { packet, origin });
                }
            }
            Judged::Drop(reason) => self.drop_from(place.packet, reason),
        }
    }

    /// The other worker that learns this packet's ports.
    fn learner(&self, meta: &Meta, fragment: &Fragment, origin: Origin) -> Option<Worker> {
        let workers = self.status.workers() as u16;
        let worker = of_fragment(meta.src, meta.dst, meta.protocol, fragment.id, workers);
        (origin != Origin::Local && worker != self.id).then_some(worker)
    }

    /// To the flow's owner, with ports.
    fn follow(&mut self, context: &Context<'_>, place: Place<'_>, meta: Meta, origin: Origin) {
        if meta.kind == Kind::Piece {
            self.status().count(WorkerCounter::FragmentsFollowed, 1);
        }
        if origin == Origin::Local {
            return self.queue(place.at, meta, false, Way::Out, origin);
        }
        let way = self.way_of(context, place.packet, &meta, origin);
        match self.other_owner(context, place.packet, &meta, origin) {
            Some(worker) => {
                self.note_ends(place.packet, Some(&Ends::of(&meta)));
                self.leave(worker, place.at, way, origin);
            }
            None => self.queue(place.at, meta, false, way, origin),
        }
    }

    /// A fragment that another worker handed over: it knows its ports, or has come to the worker that learns them.
    #[cold]
    pub(super) fn look_at_handed_fragment(
        &mut self,
        context: &Context<'_>,
        place: Place<'_>,
        meta: Meta,
        fragment: &Fragment,
        (way, origin): (Way, Origin),
    ) {
        let noted = place.packet.as_ref().and_then(|packet| rewrite::noted_ends(self.pool.memory().head(packet)));
        let meta = match noted {
            _ if fragment.is_first() && origin.is_here() => meta,
            Some(ends) => with_ends(meta, ends),
            None => return self.look_at_fragment(context, place, meta, fragment, origin),
        };
        self.queue(place.at, meta, false, way, origin);
    }

    /// Before a later fragment goes to another local end.
    #[inline(always)]
    pub(super) fn note_ends_of_piece(&mut self, place: &mut Option<Packet>, meta: &Meta) {
        if meta.kind == Kind::Piece {
            self.note_ends(place, Some(&Ends::of(meta)));
        }
    }

    #[cold]
    fn note_ends(&mut self, place: &mut Option<Packet>, ends: Option<&Ends>) {
        if let Some(packet) = place {
            rewrite::note_ends(self.pool.memory().head_mut(packet), ends);
        }
    }

    /// Forwards what waited for a first fragment that has come, and drops what waited in vain. Returns how many went on.
    pub fn release(&mut self) -> usize {
        let mut count = 0;
        while self.fragments.has_leaving() {
            count += self.release_burst();
        }
        count
    }

    #[cold]
    fn release_burst(&mut self) -> usize {
        let mut burst = std::mem::replace(&mut self.spare, Burst::none());
        let mut known = [None; BURST_MAX];
        while !burst.is_full()
            && let Some((Waiting { packet, origin }, ends)) = self.fragments.take_leaving()
        {
            match ends {
                Ok(ends) => {
                    known[burst.len()] = Some((ends, origin));
                    let _ = burst.push(packet).map_err(|packet| self.drop_packet(packet, DropReason::FragmentsFull));
                }
                Err(reason) => self.drop_packet(packet, reason),
            }
        }
        let count = burst.len();
        self.with_tables(|path, context| {
            for (at, (packet, known)) in burst.places_mut().iter_mut().zip(known).enumerate() {
                let (Some((ends, origin)), Some((meta, _))) = (known, path.parse_ip(packet)) else { continue };
                path.follow(context, Place { packet, at: at as u16 }, with_ends(meta, ends), origin);
            }
            path.hand_leaving(context, burst.places_mut());
            path.finish(context, &mut burst);
            burst.clear();
        });
        burst.drain().for_each(|packet| self.drop_packet(packet, DropReason::NoTables));
        self.spare = burst;
        count
    }

    /// Forgets fragmented packets that took too long, looking at some.
    pub fn expire_fragments(&mut self, count: usize) {
        self.fragments.expire(count, self.now_ms);
        self.release();
    }

    /// Whether this is a part of an SCTP packet whose ports change: how that changes its checksum depends on the size of all
    /// of it (RFC 9260, appendix A).
    #[cold]
    pub(super) fn must_be_whole(&self, place: &Option<Packet>, item: &Item) -> bool {
        let Some(id) = self.flows.find(&item.tuple(), item.way) else { return false };
        let (inside, outside) = (self.flows.record(id).inside, self.flows.record(id).outside());
        let ports = |tuple: Tuple| (tuple.local_port, tuple.remote_port);
        ports(inside) != ports(outside) && place.as_ref().is_some_and(|packet| self.is_fragment(packet))
    }

    /// Whether this is a part of a packet: for those who cannot work with one.
    #[cold]
    pub(super) fn is_fragment(&self, packet: &Packet) -> bool {
        let parsed = parse::parse(self.pool.memory().head(packet), packet.total_size());
        matches!(parsed, Parsed::Fragment(..))
    }
}

fn key(meta: &Meta, fragment: &Fragment, origin: Origin, interface: u32) -> Key {
    let (side, peer) = match origin {
        Origin::Uplink => (0, Addr::UNSPECIFIED),
        Origin::Tunnel(peer) | Origin::Direct(peer) => (1, peer),
        Origin::Local | Origin::Client(_) => (2 + interface, Addr::UNSPECIFIED),
    };
    Key::new(meta.src, meta.dst, meta.protocol, fragment.id, side, peer)
}

/// What a first fragment says of its packet: its ports, or why nothing of it may pass. A tunnel packet and what an ICMP
/// error quotes are read as a whole or not at all.
fn said_by_first(context: &Context<'_>, meta: &Meta, origin: Origin) -> Result<Ends, DropReason> {
    let node = context.node;
    let is_udp = [node.tunnel_port, node.direct_port].iter().any(|&port| parse::is_tunnel(meta, &node.node, port));
    let is_tunnel = is_udp || parse::is_ip_in_ip(meta, &node.node);
    if origin == Origin::Uplink && is_tunnel || meta.kind == Kind::IcmpError {
        Err(DropReason::Fragment)
    } else {
        Ok(Ends::of(meta))
    }
}

fn with_ends(meta: Meta, ends: Ends) -> Meta {
    let Ends { src_port, dst_port, protocol } = ends;
    Meta { src_port, dst_port, protocol, ..meta }
}
