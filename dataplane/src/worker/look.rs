//! The first pass over a burst: parse, decapsulate, see that a sender may speak, find the flow's owner. What this worker
//! owns is queued for the further passes; all else goes at once. Must not look into flows.

use super::forward::{AHEAD, Path};
use crate::classify::{self, Context, Origin};
use crate::flow::Way;
use crate::overlay::{self, OUTER_V4_BYTES};
use crate::packet::{Checksum, Gso, Packet};
use crate::parse::{self, Fragment, Kind, Meta, Parsed};
use crate::rewrite;
use crate::worker::interfaces::Slot;
use crate::worker::owners::{End, NOBODYS};
use tables::Addr;
use tables::counters::DropReason;
use tables::flow::Tuple;
use tables::message::InterfaceKind;
use tables::node::{NodeRecord, family};
use tables::owner::{Worker, of_answered_client, of_node_port, owner};

/// Who may speak on an interface, read once a burst.
pub(super) enum Sender {
    Uplink,
    Host,
    /// Its own Ethernet address as a word, and its addresses: one stands twice.
    Pod(u64, [Addr; 2]),
}

impl Sender {
    fn on(slot: &Slot) -> Sender {
        match slot.kind {
            InterfaceKind::Uplink => Sender::Uplink,
            InterfaceKind::Host => Sender::Host,
            InterfaceKind::Pod => {
                let first = slot.addrs.first().copied().unwrap_or(NOBODY);
                Sender::Pod(slot.mac.word(), [first, slot.addrs.get(1).copied().unwrap_or(first)])
            }
        }
    }
}

/// Ethernet, IPv4, and what is read of TCP or UDP.
pub(super) const HEADERS_BYTES: usize = 14 + 20 + 14;
/// Inner headers are read, too.
const UPLINK_BYTES: usize = OUTER_V4_BYTES + HEADERS_BYTES;

/// An address that nobody has and that no packet may have for its source (RFC 1122, 3.2.1.3); one that does is judged spoofed
/// by the look-up of its sender.
const NOBODY: Addr = Addr::v4([255; 4]);

/// A packet in its place of the burst, for as long as it has not come to its end.
pub(super) struct Place<'p> {
    pub packet: &'p mut Option<Packet>,
    pub at: u16,
}

impl Path {
    /// First pass over what an interface received: parse, decapsulate, find the owner.
    #[inline(always)]
    pub(super) fn look_at_burst(&mut self, context: &Context<'_>, interface: u32, places: &mut [Option<Packet>]) {
        // A loop for each kind of sender, which is compiled for it.
        match self.interfaces.get(interface).map(Sender::on) {
            Some(Sender::Uplink) => self.look_at_all::<UPLINK_BYTES, 0>(places, |path, place| {
                path.look_uplink(context, place);
            }),
            Some(sender @ Sender::Pod(mac, addrs)) => {
                self.look_at_all::<HEADERS_BYTES, OUTER_V4_BYTES>(places, |path, place| {
                    path.look_local(context, place, &sender, |meta| forbidden_to_pod(mac, &addrs, meta));
                })
            }
            Some(sender) => self.look_at_all::<HEADERS_BYTES, OUTER_V4_BYTES>(places, |path, place| {
                path.look_local(context, place, &sender, |_| None);
            }),
            None => places.iter_mut().for_each(|place| self.drop_from(place, DropReason::InterfaceGone)),
        }
        self.hand_leaving(context, places);
    }

    /// Looks at each packet, whose first `BYTES` are read; `FRONT` bytes in front of it are written later.
    #[inline(always)]
    fn look_at_all<const BYTES: usize, const FRONT: usize>(
        &mut self,
        places: &mut [Option<Packet>],
        mut look: impl FnMut(&mut Path, Place<'_>),
    ) {
        let chunks = self.pool.memory().chunks();
        places.iter().take(AHEAD).for_each(|place| chunks.prefetch_head(place, BYTES, FRONT));
        let (mut rest, mut at) = (places, 0);
        while let [packet, behind @ ..] = rest {
            if let Some(ahead) = behind.get(AHEAD - 1) {
                chunks.prefetch_head(ahead, BYTES, FRONT);
            }
            look(self, Place { packet, at });
            (rest, at) = (behind, at + 1);
        }
    }

    #[inline(never)]
    pub(super) fn look_arrived(&mut self, context: &Context<'_>, place: Place<'_>) {
        let interface = place.packet.as_ref().map_or(0, |packet| packet.interface);
        match self.interfaces.get(interface).map(Sender::on) {
            Some(Sender::Uplink) => self.look_uplink(context, place),
            Some(sender) => self.look_local(context, place, &sender, |meta| forbidden(&sender, meta)),
            None => self.drop_from(place.packet, DropReason::InterfaceGone),
        }
    }

    /// From a pod or the host.
    #[inline(always)]
    fn look_local(
        &mut self,
        context: &Context<'_>,
        place: Place<'_>,
        sender: &Sender,
        forbidden: impl Fn(&Meta) -> Option<DropReason>,
    ) {
        match self.parse_plain(place.packet) {
            Some(meta) => match forbidden(&meta) {
                Some(reason) => self.drop_from(place.packet, reason),
                None => self.queue(place.at, meta, true, Way::Out, Origin::Local),
            },
            None => self.look_local_v6(context, place, sender),
        }
    }

    #[inline(never)]
    pub(super) fn look_local_any(&mut self, context: &Context<'_>, place: Place<'_>, sender: &Sender) {
        match self.parse(place.packet) {
            Parsed::Ip(meta) if self.is_between_neighbours(place.packet, &meta) => {
                self.neighbour_discovery(context, place.packet, &meta, sender);
            }
            Parsed::Ip(meta) => self.admit(place, meta, false, sender),
            Parsed::Fragment(meta, fragment) => match forbidden(sender, &meta) {
                Some(reason) => self.drop_from(place.packet, reason),
                None => self.look_at_fragment(context, place, meta, &fragment, Origin::Local),
            },
            Parsed::Arp => self.arp(context, place.packet),
            Parsed::Drop(reason) => self.drop_from(place.packet, reason),
        }
    }

    /// A local end speaks from its own addresses only.
    #[inline(always)]
    pub(super) fn admit(&mut self, place: Place<'_>, meta: Meta, is_plain: bool, sender: &Sender) {
        if let Some(reason) = forbidden(sender, &meta) {
            return self.drop_from(place.packet, reason);
        }
        self.queue(place.at, meta, is_plain, Way::Out, Origin::Local);
    }

    /// From the uplink: out of a tunnel, or as it is.
    #[inline(always)]
    fn look_uplink(&mut self, context: &Context<'_>, place: Place<'_>) {
        if let Some((peer, traffic_class)) = self.take_out_plainly(context, place.packet) {
            return self.look_inside(context, place, Origin::Tunnel(peer), traffic_class);
        }
        match self.parse_plain(place.packet) {
            Some(meta) => self.take_out(context, place, meta, true),
            None => self.look_uplink_v6(context, place),
        }
    }

    #[inline(never)]
    pub(super) fn look_uplink_any(&mut self, context: &Context<'_>, place: Place<'_>) {
        match self.parse_ip(place.packet) {
            Some((meta, None)) if parse::is_ip_in_ip(&meta, &context.node.node) => {
                self.take_out_of_ip(context, place, &meta)
            }
            Some((meta, None)) => self.take_out(context, place, meta, false),
            Some((meta, Some(fragment))) => self.look_at_fragment(context, place, meta, &fragment, Origin::Uplink),
            None => {}
        }
    }

    #[inline(always)]
    pub(super) fn take_out(&mut self, context: &Context<'_>, place: Place<'_>, meta: Meta, is_plain: bool) {
        if parse::is_tunnel(&meta, &context.node.node, context.node.tunnel_port) {
            return self.take_out_any(context, place, meta);
        }
        self.queue_at_owner(context, place, meta, is_plain, Origin::Uplink);
    }

    /// What came out of a tunnel whose outer header had this traffic class. Taken out once: what is a tunnel packet again
    /// is an inner packet like others.
    #[inline(always)]
    pub(super) fn look_inside(&mut self, context: &Context<'_>, place: Place<'_>, origin: Origin, traffic_class: u8) {
        if overlay::may_change(traffic_class) && !self.tell_congestion(place.packet, traffic_class) {
            return;
        }
        match self.parse_plain(place.packet) {
            Some(inner) => self.queue_at_owner(context, place, inner, true, origin),
            None => self.look_inside_v6(context, place, origin),
        }
    }

    #[inline(never)]
    pub(super) fn look_inside_any(&mut self, context: &Context<'_>, place: Place<'_>, origin: Origin) {
        match self.parse_ip(place.packet) {
            Some((inner, None)) => self.queue_at_owner(context, place, inner, false, origin),
            Some((inner, Some(fragment))) => self.look_at_fragment(context, place, inner, &fragment, origin),
            None => {}
        }
    }

    #[inline(never)]
    pub(super) fn look_owned(&mut self, context: &Context<'_>, place: Place<'_>, way: Way, origin: Origin) {
        match self.parse_plain(place.packet) {
            Some(meta) => self.queue(place.at, meta, true, way, origin),
            None => self.look_owned_v6(context, place, way, origin),
        }
    }

    #[inline(never)]
    pub(super) fn look_owned_any(&mut self, context: &Context<'_>, place: Place<'_>, way: Way, origin: Origin) {
        match self.parse_ip(place.packet) {
            Some((meta, None)) => self.queue(place.at, meta, false, way, origin),
            Some((meta, Some(fragment))) => {
                self.look_at_handed_fragment(context, place, meta, &fragment, (way, origin))
            }
            None => {}
        }
    }

    /// Keeps a packet that this worker owns, hands over one that it does not.
    #[inline(always)]
    pub(super) fn queue_at_owner(
        &mut self,
        context: &Context<'_>,
        place: Place<'_>,
        meta: Meta,
        is_plain: bool,
        origin: Origin,
    ) {
        if self.status.workers() == 1 && origin != Origin::Uplink {
            return self.queue(place.at, meta, is_plain, Way::Back, origin);
        }
        match self.only_owner(context, &meta) {
            end if (end.owner as usize) < self.status.workers() => {
                self.queue_for(end, place.at, meta, is_plain, (Way::Back, origin));
            }
            _ => self.queue_asker(context, place, meta, is_plain, origin),
        }
    }

    /// The same of a client outside that asks a service.
    #[inline(always)]
    fn queue_asker(&mut self, context: &Context<'_>, place: Place<'_>, meta: Meta, is_plain: bool, origin: Origin) {
        let may_ask = origin == Origin::Uplink && meta.kind != Kind::IcmpError;
        let asked = (meta.dst, meta.dst_port, meta.protocol);
        let asker = if may_ask { self.owners.asked.find(context, &self.snat, asked) } else { None };
        let Some(asker) = asker else { return self.queue_or_hand(context, place, origin) };
        let workers = self.status.workers() as u16;
        let owner = if workers == 1 { self.id } else { asker.owner(&meta.from_remote(), workers) };
        self.queue_for(End::of(owner), place.at, meta, is_plain, (Way::Out, origin));
    }

    /// The owner of what goes to a pod, the host, or one of the node's SNAT ports; [`NOBODYS`]: the tables must tell, and
    /// whether a service is asked.
    #[inline(always)]
    fn only_owner(&mut self, context: &Context<'_>, meta: &Meta) -> End {
        if meta.kind == Kind::IcmpError {
            NOBODYS
        } else if meta.dst == context.node.node[family(meta.dst)] {
            of_node_port(&context.view, &self.snat, meta.dst_port).map_or(NOBODYS, End::of)
        } else {
            self.owners.find(&context.view, meta.dst)
        }
    }

    /// The same of a packet whose owner the tables must tell. It is parsed again: what is lent to a call lies in memory,
    /// and the usual way would wait for that.
    #[inline(never)]
    fn queue_or_hand(&mut self, context: &Context<'_>, place: Place<'_>, origin: Origin) {
        let plain = self.parse_plain(place.packet).or_else(|| self.parse_plain_v6(place.packet));
        let (meta, is_plain) = match plain {
            Some(meta) => (meta, true),
            None => match self.parse_ip(place.packet) {
                Some((meta, _)) => (meta, false),
                None => return,
            },
        };
        if origin == Origin::Uplink && self.is_direct(context, place.packet, &meta) {
            return self.take_out_of_geneve(context, place, &meta);
        }
        let way = self.way_of(context, place.packet, &meta, origin);
        let owner = self.other_owner(context, place.packet, &meta, origin).unwrap_or(self.id);
        self.queue_for(End::of(owner), place.at, meta, is_plain, (way, origin));
    }

    /// Whether another node sends what a client asked it, where the usual tunnels are not Geneve.
    fn is_direct(&self, context: &Context<'_>, place: &Option<Packet>, meta: &Meta) -> bool {
        let NodeRecord { node, direct_port, .. } = context.node;
        let header = |packet| self.pool.memory().head(packet).get(meta.l4 as usize + 8..);
        *direct_port != 0
            && parse::is_tunnel(meta, node, *direct_port)
            && place.as_ref().and_then(header).is_some_and(overlay::must_be_known)
    }

    /// Which way a packet from outside goes through its flow: who asks a service is the local end of the flow, so to speak.
    pub(super) fn way_of(&self, context: &Context<'_>, place: &Option<Packet>, meta: &Meta, origin: Origin) -> Way {
        let Some(packet) = place.as_ref().filter(|_| origin == Origin::Uplink) else { return Way::Back };
        let (addr, port, protocol) = match meta.kind {
            Kind::IcmpError => match parse::quoted(self.pool.memory().head(packet), meta) {
                Some(quoted) => (quoted.tuple.local, quoted.tuple.local_port, quoted.tuple.protocol),
                None => return Way::Back,
            },
            _ => (meta.dst, meta.dst_port, meta.protocol),
        };
        let asks = classify::outside::is_service(&context.view, addr, port, protocol);
        if asks { Way::Out } else { Way::Back }
    }

    /// The worker that keeps a packet's flow, if that is another than this one.
    pub(super) fn other_owner(
        &self,
        context: &Context<'_>,
        place: &Option<Packet>,
        meta: &Meta,
        origin: Origin,
    ) -> Option<Worker> {
        let packet = place.as_ref()?;
        let owner = match origin {
            Origin::Direct(_) => self.owner_at_backend(context, packet, meta),
            _ => self.owner_of(context, packet, meta, origin),
        }?;
        (owner != self.id && (owner as usize) < self.status.workers()).then_some(owner)
    }

    fn owner_of(&self, context: &Context<'_>, packet: &Packet, meta: &Meta, origin: Origin) -> Option<Worker> {
        let tuple = match meta.kind {
            Kind::IcmpError => parse::quoted(self.pool.memory().head(packet), meta)?.tuple,
            _ => meta.from_remote(),
        };
        let answered = || matches!(origin, Origin::Tunnel(_)).then(|| self.keepers_of_client(&tuple)[0]);
        owner(&context.view, &self.snat, &tuple).or_else(answered)
    }

    /// Of a client outside that a backend elsewhere answers.
    pub(super) fn keepers_of_client(&self, client: &Tuple) -> [Worker; 2] {
        of_answered_client(client, self.status.workers() as u16)
    }

    #[inline(always)]
    fn parse_plain(&mut self, place: &mut Option<Packet>) -> Option<Meta> {
        let packet = place.as_mut().filter(|packet| packet.is_simple())?;
        let meta = parse::parse_plain_amid(self.pool.memory().head(packet), packet.head_size())?;
        packet.truncate(meta.end as usize);
        Some(meta)
    }

    fn parse(&mut self, place: &mut Option<Packet>) -> Parsed {
        let Some(packet) = place else { return Parsed::Drop(DropReason::Truncated) };
        let total = packet.total_size();
        let parsed = parse::parse(self.pool.memory().head(packet), total);
        match &parsed {
            Parsed::Ip(meta) => {
                packet.truncate(meta.end as usize);
                if !rewrite::can_complete(packet.checksum, meta) {
                    return Parsed::Drop(DropReason::BadChecksum);
                }
            }
            Parsed::Fragment(meta, _) => {
                packet.truncate(meta.end as usize);
                // Nothing is left to do to a part: the sum is over all of the packet.
                if packet.gso != Gso::None || matches!(packet.checksum, Checksum::Partial { .. }) {
                    return Parsed::Drop(DropReason::BadChecksum);
                }
            }
            Parsed::Arp | Parsed::Drop(_) => {}
        }
        parsed
    }

    /// Parses where nothing but IP is expected; drops what is not.
    #[inline(never)]
    pub(super) fn parse_ip(&mut self, place: &mut Option<Packet>) -> Option<(Meta, Option<Fragment>)> {
        match self.parse(place) {
            Parsed::Ip(meta) => return Some((meta, None)),
            Parsed::Fragment(meta, fragment) => return Some((meta, Some(fragment))),
            Parsed::Arp => self.drop_from(place, DropReason::EtherType),
            Parsed::Drop(reason) => self.drop_from(place, reason),
        }
        None
    }
}

/// Why a sender may not send this.
#[inline(always)]
fn forbidden(sender: &Sender, meta: &Meta) -> Option<DropReason> {
    let Sender::Pod(mac, addrs) = sender else { return None };
    forbidden_to_pod(*mac, addrs, meta)
}

/// The same of a pod that has these addresses.
#[inline(always)]
fn forbidden_to_pod(mac: u64, addrs: &[Addr; 2], meta: &Meta) -> Option<DropReason> {
    let is_its_mac = meta.src_mac.word() == mac;
    (!is_its_mac || meta.src != addrs[0] && meta.src != addrs[1]).then(|| spoofed(is_its_mac, meta))
}

/// Why a pod may not send from this address.
fn spoofed(is_its_mac: bool, meta: &Meta) -> DropReason {
    let noise = classify::is_link_local(meta.src) || meta.dst.is_multicast();
    match (is_its_mac, noise) {
        (false, _) => DropReason::SpoofedMac,
        (true, true) => DropReason::LinkLocal,
        (true, false) => DropReason::SpoofedAddress,
    }
}
