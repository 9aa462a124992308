//! ICMP errors belong to the flow of the packet that they quote: they go where its packets would go, translated inside
//! and out, past policy. Errors about unknown flows are dropped by name.

use super::forward::{Item, Path};
use crate::classify::{self, Context};
use crate::flow::Way;
use crate::parse::{self, Quoted};
use crate::rewrite::{self, Translation};
use tables::Addr;
use tables::counters::DropReason;
use tables::flow::{FLAG_TRANSLATED, FlowRecord, HopKind, Tuple};

impl Path {
    pub(super) fn icmp_error(&mut self, context: &Context<'_>, mut item: Item) {
        let bytes = self.pool.memory().head(&item.packet);
        let Some(quoted) = parse::quoted(bytes, &item.meta).filter(|_| item.packet_is_whole()) else {
            return self.drop_packet(item.packet, DropReason::Malformed);
        };
        if !rewrite::verify_l4(bytes, &item.meta) && item.packet.checksum != crate::packet::Checksum::Valid {
            return self.drop_packet(item.packet, DropReason::BadChecksum);
        }
        if let Some(reason) = self.forged(context, &item) {
            return self.drop_packet(item.packet, reason);
        }
        // An error towards a local end quotes what that end sent; one from it quotes what it received.
        let found = match item.way {
            Way::Back => self.flows.find(&quoted.tuple, Way::Back),
            Way::Out => self.flows.find(&quoted.tuple.reversed(), Way::Out),
        };
        // A flow that was cut meanwhile has no errors either.
        let Some(id) = found.filter(|&id| self.is_current(id) || self.revalidate(context, id)) else {
            return self.drop_packet(item.packet, DropReason::IcmpUnrelated);
        };
        let record = *self.flows.record(id);
        let hop = if item.way == Way::Out { record.out } else { record.back };
        // Before anything is written: what waits is tried again as it arrived.
        let next_hop = match self.next_hop(context, &hop) {
            Ok(next_hop) => next_hop,
            Err(addr) => return self.hold(item.packet, addr),
        };
        if record.flags & FLAG_TRANSLATED != 0 {
            self.translate_error(&mut item, &record, &quoted);
        }
        if !self.count_hop(&mut item) {
            return self.drop_packet(item.packet, DropReason::TtlExpired);
        }
        match hop.kind() {
            HopKind::Interface => self.deliver(context, hop.target, item),
            HopKind::Endpoint => self.judge_other_half(context, item, hop.worker),
            HopKind::Tunnel | HopKind::Uplink => self.send_uplink(context, item, &next_hop),
            _ => self.drop_packet(item.packet, DropReason::IcmpUnrelated),
        }
    }

    /// Why an error from outside cannot have come from there. Routers on the way may speak, our own addresses not.
    fn forged(&self, context: &Context<'_>, item: &Item) -> Option<DropReason> {
        let (_, route) = classify::route::find(&context.view, item.meta.src)?;
        (item.way == Way::Back).then(|| classify::route::forged(item.origin, &route)).flatten()
    }

    /// Translates the quoted packet back to what its sender sent, and the error's own addresses along with it.
    fn translate_error(&mut self, item: &mut Item, record: &FlowRecord, quoted: &Quoted) {
        let (before, after) = match item.way {
            Way::Back => (record.outside, record.inside),
            Way::Out => (record.inside.reversed(), record.outside.reversed()),
        };
        let map = |addr: Addr| replace(addr, &before, &after);
        let to = Translation { src: map(item.meta.src), dst: map(item.meta.dst), ..Translation::of(&item.meta) };
        let checksum = item.packet.checksum;
        let bytes = self.pool.memory().head_mut(&mut item.packet);
        rewrite::translate_quoted(bytes, quoted, &after);
        item.meta = rewrite::translate(bytes, &item.meta, &to, checksum);
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
