//! The first pass over a burst: parse, decapsulate, see that a sender may speak, find the flow's owner. What this worker
//! owns is queued for the further passes; all else goes at once. Must not look into flows.

use super::forward::{AHEAD, Item, Path, To};
use crate::classify::{Context, Origin};
use crate::flow::Way;
use crate::handoff::{Handed, Stage};
use crate::overlay;
use crate::packet::{Burst, Packet};
use crate::parse::{self, Kind, Meta, Parsed};
use crate::rewrite;
use crate::worker::interfaces::Slot;
use tables::counters::{DropReason, WorkerCounter};
use tables::message::InterfaceKind;
use tables::owner::{Worker, owner};
use tables::{Addr, Mac};

/// Who may speak on an interface, read once a burst.
#[derive(Clone, Copy)]
enum Sender {
    Uplink,
    Host,
    /// Its own Ethernet address, and its addresses: one stands twice.
    Pod(Mac, [Addr; 2]),
}

impl Sender {
    fn on(slot: &Slot) -> Sender {
        match slot.kind {
            InterfaceKind::Uplink => Sender::Uplink,
            InterfaceKind::Host => Sender::Host,
            InterfaceKind::Pod => {
                let first = slot.addrs.first().copied().unwrap_or(NOBODY);
                Sender::Pod(slot.mac, [first, slot.addrs.get(1).copied().unwrap_or(first)])
            }
        }
    }
}

/// An address that no packet has for its source: a multicast one that was never assigned (RFC 5771, 3).
const NOBODY: Addr = Addr::v4([239, 255, 255, 255]);

impl Path {
    /// First pass over what an interface received: parse, decapsulate, find the owner.
    #[inline(always)]
    pub(super) fn look_at_burst(&mut self, context: &Context<'_>, interface: u32, burst: &mut Burst) {
        let sender = self.interfaces.get(interface).map(Sender::on);
        burst.iter().take(AHEAD).for_each(|packet| self.pool.memory().prefetch_head(packet));
        let mut packets = burst.drain();
        while let Some(packet) = packets.next() {
            if let Some(ahead) = packets.as_slice().get(AHEAD - 1) {
                self.pool.memory().prefetch_head(ahead);
            }
            match sender {
                Some(Sender::Uplink) => self.look_uplink(context, packet),
                Some(sender) => self.look_local(context, packet, sender),
                None => self.drop_packet(packet, DropReason::InterfaceGone),
            }
        }
    }

    /// The same of a packet that was handed over or waited.
    pub(super) fn look(&mut self, context: &Context<'_>, packet: Packet, stage: Stage) {
        match stage {
            Stage::Send { interface } => {
                self.status().count(WorkerCounter::HandoffsIn, 1);
                self.send(interface, packet);
            }
            Stage::Back(origin) => self.look_back(context, packet, origin),
            Stage::Arrived => match self.interfaces.get(packet.interface).map(Sender::on) {
                Some(Sender::Uplink) => self.look_uplink(context, packet),
                Some(sender) => self.look_local(context, packet, sender),
                None => self.drop_packet(packet, DropReason::InterfaceGone),
            },
        }
    }

    /// From a pod or the host.
    #[inline(always)]
    fn look_local(&mut self, context: &Context<'_>, mut packet: Packet, sender: Sender) {
        match self.parse_plain(&mut packet) {
            Some(meta) => self.admit(packet, meta, sender),
            None => self.look_local_any(context, packet, sender),
        }
    }

    #[inline(never)]
    fn look_local_any(&mut self, context: &Context<'_>, mut packet: Packet, sender: Sender) {
        match self.parse(&mut packet) {
            Parsed::Ip(meta) => self.admit(packet, meta, sender),
            Parsed::Arp => self.arp(context, packet),
            Parsed::Drop(reason) => self.drop_packet(packet, reason),
        }
    }

    /// A local end speaks from its own addresses only.
    #[inline(always)]
    fn admit(&mut self, packet: Packet, meta: Meta, sender: Sender) {
        if let Sender::Pod(mac, addrs) = sender {
            let is_its_mac = meta.src_mac == mac;
            if !is_its_mac || meta.src != addrs[0] && meta.src != addrs[1] {
                return self.drop_packet(packet, spoofed(is_its_mac, &meta));
            }
        }
        self.queue(packet, meta, Way::Out, Origin::Local);
    }

    /// From the uplink: out of a tunnel, or as it is.
    #[inline(always)]
    fn look_uplink(&mut self, context: &Context<'_>, mut packet: Packet) {
        match self.parse_plain(&mut packet) {
            Some(meta) => self.take_out(context, packet, meta),
            None => self.look_uplink_any(context, packet),
        }
    }

    #[inline(never)]
    fn look_uplink_any(&mut self, context: &Context<'_>, mut packet: Packet) {
        match self.parse(&mut packet) {
            Parsed::Ip(meta) => self.take_out(context, packet, meta),
            Parsed::Arp => self.drop_packet(packet, DropReason::EtherType),
            Parsed::Drop(reason) => self.drop_packet(packet, reason),
        }
    }

    /// Decapsulates what came through a tunnel.
    #[inline(always)]
    fn take_out(&mut self, context: &Context<'_>, mut packet: Packet, meta: Meta) {
        if !parse::is_tunnel(&meta, &context.node.node, context.node.tunnel_port) {
            return self.queue_at_owner(context, packet, meta, Origin::Uplink);
        }
        let vxlan = meta.l4 as usize + 8;
        match self.pool.memory().head(&packet).get(vxlan..).and_then(overlay::vni) {
            Some(vni) if vni == context.node.vni => {}
            Some(_) => return self.drop_packet(packet, DropReason::TunnelNetwork),
            None => return self.drop_packet(packet, DropReason::Malformed),
        }
        if !packet.pop_front(vxlan + overlay::VXLAN_BYTES) {
            return self.drop_packet(packet, DropReason::Truncated);
        }
        let origin = Origin::Tunnel(meta.src);
        match self.parse_plain(&mut packet) {
            Some(inner) => self.queue_at_owner(context, packet, inner, origin),
            None => self.look_inside_any(context, packet, origin),
        }
    }

    #[inline(never)]
    fn look_inside_any(&mut self, context: &Context<'_>, mut packet: Packet, origin: Origin) {
        match self.parse(&mut packet) {
            Parsed::Ip(inner) => self.queue_at_owner(context, packet, inner, origin),
            Parsed::Arp => self.drop_packet(packet, DropReason::EtherType),
            Parsed::Drop(reason) => self.drop_packet(packet, reason),
        }
    }

    fn look_back(&mut self, _: &Context<'_>, mut packet: Packet, origin: Origin) {
        self.status().count(WorkerCounter::HandoffsIn, 1);
        match self.parse(&mut packet) {
            Parsed::Ip(meta) => self.queue(packet, meta, Way::Back, origin),
            Parsed::Arp => self.drop_packet(packet, DropReason::EtherType),
            Parsed::Drop(reason) => self.drop_packet(packet, reason),
        }
    }

    /// Keeps a packet that this worker owns, hands over one that it does not.
    fn queue_at_owner(&mut self, context: &Context<'_>, packet: Packet, meta: Meta, origin: Origin) {
        let workers = self.status.workers();
        let owned_by = if workers == 1 { None } else { self.owner_of(context, &packet, &meta) };
        match owned_by.filter(|&worker| worker != self.id && (worker as usize) < workers) {
            Some(worker) => {
                let handed = Handed { packet, stage: Stage::Back(origin) };
                let block = self.status.block(self.id as usize);
                self.interfaces.hand(worker, handed, &mut self.pool, block);
            }
            None => self.queue(packet, meta, Way::Back, origin),
        }
    }

    fn owner_of(&self, context: &Context<'_>, packet: &Packet, meta: &Meta) -> Option<Worker> {
        if meta.kind == Kind::IcmpError {
            let quoted = parse::quoted(self.pool.memory().head(packet), meta)?;
            return owner(&context.view, &self.snat, &quoted.tuple);
        }
        owner(&context.view, &self.snat, &meta.from_remote())
    }

    #[inline(always)]
    fn parse_plain(&mut self, packet: &mut Packet) -> Option<Meta> {
        let meta = parse::parse_plain(self.pool.memory().head(packet), packet.total_size())?;
        packet.truncate(meta.end as usize);
        rewrite::can_complete(packet.checksum, &meta).then_some(meta)
    }

    fn parse(&mut self, packet: &mut Packet) -> Parsed {
        let total = packet.total_size();
        let parsed = parse::parse(self.pool.memory().head(packet), total);
        if let Parsed::Ip(meta) = &parsed {
            packet.truncate(meta.end as usize);
            if !rewrite::can_complete(packet.checksum, meta) {
                return Parsed::Drop(DropReason::BadChecksum);
            }
        }
        parsed
    }

    /// Keeps a packet for the next passes.
    #[inline(always)]
    pub(super) fn queue(&mut self, packet: Packet, meta: Meta, way: Way, origin: Origin) {
        let tuple = if way == Way::Out { meta.from_local() } else { meta.from_remote() };
        let hash = self.flows.hash(&tuple);
        self.flows.expect(hash);
        self.batch.packets.push(Some(packet));
        self.batch.items.push(Item { meta, hash, way, origin, likely: None, to: To::Interface(0) });
    }
}

/// Why a pod may not send from this address.
fn spoofed(is_its_mac: bool, meta: &Meta) -> DropReason {
    let noise = meta.src.is_unspecified() || meta.dst.is_multicast();
    match (is_its_mac, noise) {
        (false, _) => DropReason::SpoofedMac,
        (true, true) => DropReason::LinkLocal,
        (true, false) => DropReason::SpoofedAddress,
    }
}
