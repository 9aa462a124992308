//! ICMP errors belong to the flow of the packet that they quote: they go where its packets would go, translated inside
//! and out, past policy. Errors about unknown flows are dropped by name.

use super::forward::Path;
use super::item::Item;
use super::renew::Renewed;
use super::uplink::next_hop;
use crate::classify::{self, Context, Origin};
use crate::flow::{FlowId, Way};
use crate::packet::{Checksum, Packet};
use crate::parse::{self, Quoted};
use crate::rewrite::{self, Translation};
use tables::Addr;
use tables::counters::DropReason;
use tables::flow::{FLAG_CLIENT, FLAG_DIRECT, FLAG_TRANSLATED, FlowRecord, HopKind, Tuple};

impl Path {
    pub(super) fn icmp_error(&mut self, context: &Context<'_>, place: &mut Option<Packet>, item: &mut Item) {
        let Some(packet) = place else { return };
        let bytes = self.pool.memory().head(packet);
        let Some(quoted) = parse::quoted(bytes, &item.meta).filter(|_| item.is_whole(packet)) else {
            return self.drop_from(place, DropReason::Malformed);
        };
        if !rewrite::verify_l4(bytes, &item.meta) && packet.checksum != Checksum::Valid {
            return self.drop_from(place, DropReason::BadChecksum);
        }
        if let Some(reason) = self.forged(context, item) {
            return self.drop_from(place, reason);
        }
        // A flow that was cut meanwhile has no errors either.
        let found = self.flow_of(item, &quoted);
        let goes_on = |path: &mut Path, id| path.is_current(id) || path.goes_on(context, id);
        let is_there = |path: &mut Path, id| goes_on(path, id) || path.revalidate(context, id) == Renewed::Current;
        let Some(id) = found.filter(|&id| is_there(self, id)) else {
            return self.drop_from(place, DropReason::IcmpUnrelated);
        };
        if item.way == Way::Out && self.flows.record(id).out.kind() == HopKind::Direct {
            return self.relay_error(context, place, item, id);
        }
        let record = *self.flows.record(id);
        let hop = if item.way == Way::Out { record.out } else { record.back };
        // Before anything is written: what waits is tried again as it arrived.
        let next_hop = match next_hop(&mut self.tunnels, context, &hop) {
            Ok(next_hop) => next_hop,
            Err(addr) => return self.hold(place, addr),
        };
        if !hop.kind().forwards() {
            return self.drop_from(place, DropReason::IcmpUnrelated);
        }
        if item.enters && item.meta.ttl <= 1 {
            return self.drop_from(place, DropReason::TtlExpired);
        }
        if record.flags & FLAG_TRANSLATED != 0 {
            self.translate_error(packet, item, &record, &quoted);
        }
        let meta = item.meta;
        self.pass_on(context, place, item, &meta, (&hop, &next_hop), None);
    }

    /// An error towards a local end quotes what that end sent; one from it quotes what it received. It is for the sender
    /// of what it quotes (RFC 792; RFC 4443, 3): addressed to anybody else, it is about no flow. Nor is one from outside
    /// that quotes what a service sent to a pod: no such packet left this node.
    fn flow_of(&self, item: &Item, quoted: &Quoted) -> Option<FlowId> {
        if item.meta.dst != quoted.tuple.local {
            return None;
        }
        match item.way {
            Way::Back => {
                let found = self.flows.find(&quoted.tuple, Way::Back)?;
                let is_direct = matches!(item.origin, Origin::Direct(_));
                (!is_direct || self.flows.record(found).flags & FLAG_DIRECT != 0).then_some(found)
            }
            Way::Out => {
                let found = self.flows.find(&quoted.tuple.reversed(), Way::Out)?;
                let is_its = item.origin.is_here() || self.flows.record(found).flags & FLAG_CLIENT != 0;
                is_its.then_some(found)
            }
        }
    }

    /// Why an error from outside cannot have come from there. Routers on the way may speak, our own addresses not.
    fn forged(&self, context: &Context<'_>, item: &Item) -> Option<DropReason> {
        let (_, route) = classify::route::find(&context.view, item.meta.src)?;
        (item.way == Way::Back || !item.origin.is_here())
            .then(|| classify::route::forged(item.origin, &route))
            .flatten()
    }

    /// Translates the quoted packet back to what its sender sent, and the error's own addresses along with it.
    fn translate_error(&mut self, packet: &mut Packet, item: &mut Item, record: &FlowRecord, quoted: &Quoted) {
        let (before, after) = match item.way {
            Way::Back => (record.outside(), record.inside),
            Way::Out => (record.inside.reversed(), record.outside().reversed()),
        };
        let map = |addr: Addr| replace(addr, &before, &after);
        // Behind a masquerade nobody outside is known, routers neither.
        let is_hidden = item.way == Way::Out && record.flags & FLAG_CLIENT != 0 && before.remote != after.remote;
        let src = if is_hidden { after.remote } else { map(item.meta.src) };
        let to = Translation { src, dst: map(item.meta.dst), ..Translation::of(&item.meta) };
        let checksum = packet.checksum;
        let bytes = self.pool.memory().head_mut(packet);
        rewrite::translate_quoted(bytes, quoted, &after);
        rewrite::translate(bytes, &mut item.meta, &to, checksum);
        rewrite::fill_l4(bytes, &item.meta);
    }
}

/// The address that stands on the other side of the translation for this one; routers in between keep theirs.
fn replace(addr: Addr, before: &Tuple, after: &Tuple) -> Addr {
    if addr == before.local {
        after.local
    } else if addr == before.remote {
        after.remote
    } else {
        addr
    }
}
