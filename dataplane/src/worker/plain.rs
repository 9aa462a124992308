//! The short way of most packets: TCP or UDP directly over IP in one frame, amid a flow that is known and goes on as it does,
//! and that goes out of an interface as it is. All that would make it another kind of packet is asked first, here and when it
//! is first looked at, so that what is left is a straight run of stores. Decides nothing that [`forward`](super::forward)
//! would decide otherwise: where it says no, nothing was done to the packet, and that way is taken.

use super::forward::{Path, came_forged};
use super::item::{Headers, Queued, To};
use crate::classify::whence::Whence;
use crate::classify::{Context, Origin};
use crate::flow::{FlowId, Way, note_amid};
use crate::handoff::Stage;
use crate::io::frames::Memory;
use crate::overlay::{OUTER_V4_BYTES, OuterHeaders};
use crate::packet::Packet;
use crate::parse::{ETHERNET_BYTES, PLAIN_L4, PLAIN_L4_V6};
use crate::rewrite::{self, Change};
use tables::flow::{FLAG_CLIENT, FLAG_TRANSLATED, FlowRecord, HopKind};
use tables::layout::Table;
use tables::neighbour::NeighbourRecord;
use tables::{Mac, Protocol};

/// What differs between IPv4 and IPv6. One type for each, so that the compiler makes a run of each.
pub(super) trait Family {
    const HEADERS: Headers;
    const L4: u16;

    /// As `rewrite::forward_plain`.
    fn forward(bytes: &mut [u8], hop: bool) -> u8;

    /// As `rewrite::translate_plain`, as this flow does to packets that go `OUT` of its local end, or towards it.
    fn translate<const OUT: bool>(bytes: &mut [u8], is_udp: bool, record: &FlowRecord, hop: bool) -> u8;

    /// As `FlowRecord::is_of`.
    fn is_of(record: &FlowRecord, words: &[u64; 5], out: bool) -> bool;
}

pub(super) struct V4;

impl Family for V4 {
    const HEADERS: Headers = Headers::PlainV4;
    const L4: u16 = PLAIN_L4;

    #[inline(always)]
    fn forward(bytes: &mut [u8], hop: bool) -> u8 {
        rewrite::forward_plain(bytes, hop)
    }

    #[inline(always)]
    fn translate<const OUT: bool>(bytes: &mut [u8], is_udp: bool, record: &FlowRecord, hop: bool) -> u8 {
        rewrite::translate_plain::<OUT>(bytes, is_udp, record, hop)
    }

    #[inline(always)]
    fn is_of(record: &FlowRecord, words: &[u64; 5], out: bool) -> bool {
        record.is_of_v4(words, out)
    }
}

pub(super) struct V6;

impl Family for V6 {
    const HEADERS: Headers = Headers::PlainV6;
    const L4: u16 = PLAIN_L4_V6;

    #[inline(always)]
    fn forward(bytes: &mut [u8], hop: bool) -> u8 {
        rewrite::forward_plain_v6(bytes, hop)
    }

    #[inline(always)]
    fn translate<const OUT: bool>(bytes: &mut [u8], is_udp: bool, record: &FlowRecord, hop: bool) -> u8 {
        rewrite::translate_plain_v6(bytes, is_udp, &Change::of_flow(record, way(OUT)), hop)
    }

    #[inline(always)]
    fn is_of(record: &FlowRecord, words: &[u64; 5], out: bool) -> bool {
        record.is_of(words, out)
    }
}

/// What stands in front of a packet where it goes. One type for each kind, so that the compiler makes a run of each.
trait Front {
    /// Bytes that the packet grows by.
    fn size(&self) -> usize;

    /// Writes it, of a packet of `total` bytes whose inner headers have this traffic class.
    fn write(&self, bytes: &mut [u8], total: usize, flow_hash: u64, traffic_class: u8);
}

/// VXLAN or Geneve over IPv4.
struct UdpV4<'t>(&'t OuterHeaders);

impl Front for UdpV4<'_> {
    #[inline(always)]
    fn size(&self) -> usize {
        OUTER_V4_BYTES
    }

    #[inline(always)]
    fn write(&self, bytes: &mut [u8], total: usize, flow_hash: u64, traffic_class: u8) {
        self.0.write_udp_v4(bytes, total, flow_hash, traffic_class);
    }
}

/// Any other tunnel.
impl Front for &OuterHeaders {
    fn size(&self) -> usize {
        OuterHeaders::size(self)
    }

    fn write(&self, bytes: &mut [u8], total: usize, flow_hash: u64, traffic_class: u8) {
        OuterHeaders::write(self, bytes, total, flow_hash, traffic_class);
    }
}

/// Source and destination.
struct Ethernet(Mac, Mac);

impl Front for Ethernet {
    #[inline(always)]
    fn size(&self) -> usize {
        0
    }

    #[inline(always)]
    fn write(&self, bytes: &mut [u8], _: usize, _: u64, _: u8) {
        rewrite::set_macs(bytes, self.0, self.1);
    }
}

/// What does already: another half of its flow is next.
struct Same;

impl Front for Same {
    #[inline(always)]
    fn size(&self) -> usize {
        0
    }

    #[inline(always)]
    fn write(&self, _: &mut [u8], _: usize, _: u64, _: u8) {}
}

/// A packet and its flow.
struct Passing<'p> {
    packet: &'p mut Packet,
    record: &'p mut FlowRecord,
    queued: &'p Queued,
    memory: &'p Memory,
    now_ms: u32,
}

impl Passing<'_> {
    /// As `pass`, into a tunnel.
    #[inline(always)]
    fn pass_into<F: Family, const OUT: bool>(self, headers: &OuterHeaders, ip_size_max: usize) -> bool {
        match headers.is_udp_v4() {
            true => self.pass::<F, OUT>(UdpV4(headers), ip_size_max),
            false => self.pass::<F, OUT>(headers, ip_size_max),
        }
    }

    /// Notes the packet in its flow and writes all its headers. False, and nothing done: there is no room in front, or it
    /// would be larger than `ip_size_max`.
    #[inline(always)]
    fn pass<F: Family, const OUT: bool>(self, front: impl Front, ip_size_max: usize) -> bool {
        match self.queued.protocol == Protocol::UDP {
            true => self.pass_of::<F, OUT, true>(front, ip_size_max),
            false => self.pass_of::<F, OUT, false>(front, ip_size_max),
        }
    }

    /// The same of one whose headers were written where it entered this node, but for what its flow changes.
    #[inline(always)]
    fn pass_addressed<F: Family>(self) {
        let Passing { packet, record, queued, memory, now_ms } = self;
        let (bytes, is_udp) = (memory.head_mut(packet), queued.protocol == Protocol::UDP);
        let tcp = if is_udp { None } else { bytes.get(F::L4 as usize..).and_then(|l4| l4.first_chunk()) };
        note_amid(record, Way::Back, tcp, now_ms);
        if record.flags & FLAG_TRANSLATED != 0 {
            F::translate::<false>(bytes, is_udp, record, false);
        }
    }

    /// The same of UDP or of TCP.
    #[inline(always)]
    fn pass_of<F: Family, const OUT: bool, const UDP: bool>(self, front: impl Front, ip_size_max: usize) -> bool {
        let Passing { packet, record, queued, memory, now_ms } = self;
        let (way, size, total) = (way(OUT), front.size(), packet.head_size() + front.size());
        if total > ip_size_max + ETHERNET_BYTES {
            return false;
        }
        let Some(bytes) = memory.grow(packet, size) else { return false };
        let inner = &mut bytes[size..];
        let enters = OUT || queued.enters();
        let tcp = if UDP { None } else { inner.get(F::L4 as usize..).and_then(|l4| l4.first_chunk()) };
        note_amid(record, way, tcp, now_ms);
        let traffic_class = if record.flags & FLAG_TRANSLATED != 0 {
            F::translate::<OUT>(inner, UDP, record, enters)
        } else {
            F::forward(inner, enters)
        };
        front.write(bytes, total, queued.asked.hash, traffic_class);
        true
    }
}

impl Path {
    /// Does all that is to be done to a packet whose headers are plain. False: nothing was done to it, it is not one of these.
    #[inline(always)]
    pub(super) fn pass_plainly<F: Family>(
        &mut self,
        context: &Context<'_>,
        place: &mut Option<Packet>,
        queued: &mut Queued,
    ) -> bool {
        // Once for each, so that the compiler knows which half of a record is meant.
        match queued.way {
            Way::Out => self.pass::<F, true>(context, place, queued),
            Way::Back => self.pass::<F, false>(context, place, queued),
        }
    }

    #[inline(always)]
    fn pass<F: Family, const OUT: bool>(
        &mut self,
        context: &Context<'_>,
        place: &mut Option<Packet>,
        queued: &mut Queued,
    ) -> bool {
        let Some(id) = self.flows.known(queued.asked.likely) else { return false };
        let record = self.flows.record(id);
        if !F::is_of(record, &queued.asked.words, OUT) {
            return false;
        }
        if !self.scopes.is_untouched(&record.scopes, record.last_seen_ms) && !self.scopes.is_current(&record.scopes) {
            return self.goes_on(context, id) && self.pass_renewed::<F, OUT>(context, place, queued, id);
        }
        self.pass_by::<F, OUT>(context, place, queued, id)
    }

    /// By a flow that was stale until now.
    #[inline(never)]
    fn pass_renewed<F: Family, const OUT: bool>(
        &mut self,
        context: &Context<'_>,
        place: &mut Option<Packet>,
        queued: &mut Queued,
        id: FlowId,
    ) -> bool {
        self.pass_by::<F, OUT>(context, place, queued, id)
    }

    /// By the flow that it is of.
    #[inline(always)]
    fn pass_by<F: Family, const OUT: bool>(
        &mut self,
        context: &Context<'_>,
        place: &mut Option<Packet>,
        queued: &mut Queued,
        id: FlowId,
    ) -> bool {
        let Some(packet) = place.as_mut() else { return false };
        let Path { flows, tunnels, interfaces, pool, now_ms, .. } = self;
        let record = flows.record_mut(id);
        if !queued.whence.is_here() && !may_come(context, record, way(OUT), queued.whence.origin()) {
            return false;
        }
        let (node, hop) = (context.node, record.hop(OUT));
        let (mtu, unlimited) = (node.uplink_mtu as usize, u32::MAX as usize);
        let passing = Passing { packet, record, queued, memory: pool.memory(), now_ms: *now_ms };
        let (is_passed, to) = if hop.is(HopKind::Tunnel) {
            let headers = tunnels.kept(context, hop.target);
            (headers.is_some_and(|headers| passing.pass_into::<F, OUT>(headers, mtu)), node.uplink)
        } else if !OUT && hop.is(HopKind::Interface) && queued.is_addressed_to(hop.target) {
            passing.pass_addressed::<F>();
            (true, hop.target)
        } else if hop.is(HopKind::Interface) {
            let front = interfaces.get(hop.target).map(|slot| Ethernet(node.gateway_mac, slot.mac));
            (front.is_some_and(|front| passing.pass::<F, OUT>(front, unlimited)), hop.target)
        } else if hop.is(HopKind::Uplink) {
            let next: NeighbourRecord = context.view.row(Table::Neighbour, hop.target as usize);
            (next.is_resolved() && passing.pass::<F, OUT>(Ethernet(node.uplink_mac, next.mac), mtu), node.uplink)
        } else {
            return self.pass_inside::<F, OUT>(place, queued, id);
        };
        if is_passed {
            queued.to = To::Interface(to);
        }
        is_passed
    }

    /// To another local end, whose half of the flow is next. The only other way on.
    #[inline(never)]
    fn pass_inside<F: Family, const OUT: bool>(
        &mut self,
        place: &mut Option<Packet>,
        queued: &Queued,
        id: FlowId,
    ) -> bool {
        let Some(packet) = place.as_mut() else { return false };
        let (record, memory) = (self.flows.record_mut(id), self.pool.memory());
        let hop = record.hop(OUT);
        let passing = Passing { packet, record, queued, memory, now_ms: self.now_ms };
        if !hop.is(HopKind::Endpoint) || !passing.pass::<F, OUT>(Same, u32::MAX as usize) {
            return false;
        }
        let record = self.flows.record(id);
        let sent = if OUT { record.outside() } else { record.inside.reversed() };
        let whence = Whence::from(self.origin_inside(queued.whence.origin()));
        if hop.worker == self.id {
            self.queue_words(queued.at, sent.reversed().words(), F::HEADERS, Way::Back, whence);
        } else {
            self.hand(hop.worker, place, Stage::of_plain(&sent.reversed().words(), Way::Back, &whence));
        }
        true
    }
}

#[inline(always)]
const fn way(out: bool) -> Way {
    if out { Way::Out } else { Way::Back }
}

/// Whether a packet that enters this node may be its flow's.
#[inline(always)]
fn may_come(context: &Context<'_>, record: &FlowRecord, way: Way, origin: Origin) -> bool {
    match way {
        Way::Out => record.flags & FLAG_CLIENT != 0,
        Way::Back => came_forged(context, record, origin).is_none(),
    }
}
