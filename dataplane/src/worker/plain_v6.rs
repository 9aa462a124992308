//! Where IPv6 leaves the way of IPv4, which is asked first: packets with plain headers go the [short way](super::plain), too,
//! all others the general one. Each is a call of its own, so that the way of IPv4 is compiled as if there were no other.

use super::forward::Path;
use super::item::Queued;
use super::look::{Place, Sender};
use super::plain::V6;
use crate::classify::{Context, Origin};
use crate::flow::Way;
use crate::packet::Packet;
use crate::parse::{self, Meta};

impl Path {
    #[inline(never)]
    pub(super) fn look_local_v6(&mut self, context: &Context<'_>, place: Place<'_>, sender: &Sender) {
        match self.parse_plain_v6(place.packet) {
            Some(meta) => self.admit(place, meta, true, sender),
            None => self.look_local_any(context, place, sender),
        }
    }

    #[inline(never)]
    pub(super) fn look_uplink_v6(&mut self, context: &Context<'_>, place: Place<'_>) {
        match self.parse_plain_v6(place.packet) {
            Some(meta) => self.take_out(context, place, meta, true),
            None => self.look_uplink_any(context, place),
        }
    }

    #[inline(never)]
    pub(super) fn look_inside_v6(&mut self, context: &Context<'_>, place: Place<'_>, origin: Origin) {
        match self.parse_plain_v6(place.packet) {
            Some(inner) => self.queue_at_owner(context, place, inner, true, origin),
            None => self.look_inside_any(context, place, origin),
        }
    }

    #[inline(never)]
    pub(super) fn look_owned_v6(&mut self, context: &Context<'_>, place: Place<'_>, way: Way, origin: Origin) {
        match self.parse_plain_v6(place.packet) {
            Some(meta) => self.queue(place.at, meta, true, way, origin),
            None => self.look_owned_any(context, place, way, origin),
        }
    }

    #[inline(never)]
    pub(super) fn pass_plainly_v6(
        &mut self,
        context: &Context<'_>,
        place: &mut Option<Packet>,
        queued: &mut Queued,
    ) -> bool {
        self.pass_plainly::<V6>(context, place, queued)
    }

    #[inline(always)]
    pub(super) fn parse_plain_v6(&mut self, place: &mut Option<Packet>) -> Option<Meta> {
        let packet = place.as_mut().filter(|packet| packet.is_simple())?;
        let meta = parse::parse_plain_amid_v6(self.pool.memory().head(packet), packet.head_size())?;
        packet.truncate(meta.end as usize);
        Some(meta)
    }
}
