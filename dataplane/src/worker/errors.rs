//! ICMP errors about packets that go no further: whose address they come from, how many there may be, and the way back
//! to the sender. The packet itself becomes the error. What an error looks like is `punt::error`'s to say.

use super::forward::{Item, Path};
use super::uplink::next_hop;
use crate::classify::{self, Context, Origin};
use crate::flow::Way;
use crate::packet::{Checksum, Gso, Packet};
use crate::parse::{self, Meta};
use crate::punt::error::{self, Cause};
use crate::rewrite;
use tables::Addr;
use tables::counters::{DropReason, WorkerCounter};
use tables::message::InterfaceKind;
use tables::node::family;

/// Errors a second, and at once after a pause: to one address, and in all (the kernel: net.ipv4.icmp_msgs_per_sec).
const PER_ADDR: Rate = Rate { a_second: 20, at_once: 20 };
const IN_ALL: Rate = Rate { a_second: 1000, at_once: 100 };
/// Addresses that are told apart: others share.
const ADDRS: usize = 256;

struct Rate {
    a_second: u32,
    at_once: u32,
}

/// What is left of a rate, in thousandths of an error.
#[derive(Clone, Copy, Default)]
struct Bucket {
    spent: u32,
    at_ms: u32,
}

impl Bucket {
    fn may_spend(&mut self, rate: &Rate, now_ms: u32) -> bool {
        let refilled = now_ms.wrapping_sub(self.at_ms).saturating_mul(rate.a_second);
        self.spent = self.spent.saturating_sub(refilled);
        self.at_ms = now_ms;
        let may = self.spent + 1000 <= rate.at_once * 1000;
        self.spent += 1000 * may as u32;
        may
    }
}

/// How many errors this worker may still send.
pub struct Limit {
    in_all: Bucket,
    by_addr: [Bucket; ADDRS],
}

impl Default for Limit {
    fn default() -> Limit {
        Limit { in_all: Bucket::default(), by_addr: [Bucket::default(); ADDRS] }
    }
}

impl Limit {
    /// Whether one more may go to this address, which is counted then.
    fn allows(&mut self, to: Addr, now_ms: u32) -> bool {
        let [high, low] = to.words();
        let place = tables::hash::fold(high ^ low, 0x9e37_79b9_7f4a_7c15) as usize % ADDRS;
        self.by_addr[place].may_spend(&PER_ADDR, now_ms) && self.in_all.may_spend(&IN_ALL, now_ms)
    }
}

impl Path {
    /// Drops a packet for a reason, and tells its sender if that may be.
    #[cold]
    pub(super) fn drop_and_tell(
        &mut self,
        context: &Context<'_>,
        place: &mut Option<Packet>,
        item: &Item,
        (reason, cause): (DropReason, Cause),
    ) {
        let Some(packet) = place.take() else { return };
        self.status().count_drop(reason, 1);
        self.tell(context, packet, item, cause);
    }

    /// Makes a packet an ICMP error to its sender; takes the packet in any case.
    pub(super) fn tell(&mut self, context: &Context<'_>, mut packet: Packet, item: &Item, cause: Cause) {
        let Some(from) = self.speaker(context, &packet, item, cause) else { return self.pool.put_packet(packet) };
        if !self.error_limit.allows(item.meta.src, self.now_ms) {
            self.status().count(WorkerCounter::ErrorsWithheld, 1);
            return self.pool.put_packet(packet);
        }
        self.pool.cut_off_rest(&mut packet);
        let (l3, front) = (item.meta.l3 as usize, error::front_bytes(&item.meta));
        let quote = error::quote_bytes(&item.meta, packet.head_size().saturating_sub(l3));
        packet.truncate(l3 + quote);
        (packet.checksum, packet.gso) = (Checksum::Valid, Gso::None);
        if !packet.push_front(front) {
            return self.pool.put_packet(packet);
        }
        let told = error::write(self.pool.memory().head_mut(&mut packet), &item.meta, cause, from);
        self.status().count(WorkerCounter::ErrorsSent, 1);
        self.send_back(context, packet, item, &told);
    }

    /// From which address the sender of a packet is told; None: not at all.
    fn speaker(&self, context: &Context<'_>, packet: &Packet, item: &Item, cause: Cause) -> Option<Addr> {
        let dst_mac = *self.pool.memory().head(packet).first_chunk()?;
        if !error::may_tell(&item.meta, dst_mac, cause) {
            return None;
        }
        let family = family(item.meta.src);
        // The gateway's address lies in this node's pod range: other nodes take it from our tunnel.
        let from = match (item.way, item.origin) {
            // What refuses is the service itself.
            (Way::Out, _) if cause == Cause::PortUnreachable => item.meta.dst,
            (Way::Out, _) | (Way::Back, Origin::Tunnel(_)) => context.node.gateway[family],
            (Way::Back, Origin::Uplink) => context.node.node[family],
            (Way::Back, Origin::Local) => return None,
        };
        (!from.is_unspecified()).then_some(from)
    }

    /// Sends an error to where its packet came from: out of the same interface to a local end, else by the sender's route.
    fn send_back(&mut self, context: &Context<'_>, mut packet: Packet, item: &Item, told: &Meta) {
        if item.way == Way::Out {
            rewrite::set_macs(self.pool.memory().head_mut(&mut packet), context.node.gateway_mac, item.meta.src_mac);
            return self.send(packet.interface, packet);
        }
        let way = classify::route::find(&context.view, told.dst)
            .and_then(|(id, route)| classify::route::hop(context, told.dst, id, &route).ok())
            .and_then(|hop| next_hop(&mut self.tunnels, context, &hop).ok());
        match way {
            Some(way) => self.send_one(context, packet, told, item.hash, &way),
            None => self.pool.put_packet(packet),
        }
    }

    /// Drops a packet that waited in vain for a neighbour; a local end is told that nobody is there.
    pub(super) fn give_up(&mut self, context: &Context<'_>, packet: Packet) {
        let is_local = self.interfaces.get(packet.interface).is_some_and(|slot| slot.kind != InterfaceKind::Uplink);
        let parsed = parse::parse(self.pool.memory().head(&packet), packet.total_size()).ip();
        match parsed.filter(|_| is_local) {
            Some(meta) => {
                let item = Item::of(meta, Way::Out, Origin::Local);
                let why = (DropReason::NeighbourUnknown, Cause::AddressUnreachable);
                self.drop_and_tell(context, &mut Some(packet), &item, why);
            }
            None => self.drop_packet(packet, DropReason::NeighbourUnknown),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_is_told_a_few_times_at_once_and_then_at_a_rate() {
        let (mut limit, one, other) = (Limit::default(), Addr::v4([10, 1, 0, 4]), Addr::v4([10, 1, 0, 5]));
        let allowed = |limit: &mut Limit, to, now_ms| (0..1000).filter(|_| limit.allows(to, now_ms)).count();
        let start = u32::MAX - 10_000;
        assert_eq!(allowed(&mut limit, one, start), 20);
        assert_eq!(allowed(&mut limit, other, start), 20, "another has its own");
        assert_eq!(allowed(&mut limit, one, start + 100), 2);
        assert_eq!(allowed(&mut limit, one, start.wrapping_add(60_000)), 20, "also when the clock wraps");
    }

    #[test]
    fn all_together_are_limited_too() {
        let mut limit = Limit::default();
        let told = (0..10_000u32).filter(|i| limit.allows(Addr::v4(i.to_be_bytes()), 5_000)).count();
        assert_eq!(told, 100);
    }
}
