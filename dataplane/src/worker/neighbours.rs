//! Neighbour discovery on local links: whom the node answers for. Each pod is alone on its link with the gateway, so that
//! the gateway stands for everybody else: a pod that takes its whole range for on-link finds the others behind it. An
//! address that a local end is about to take is defended if another has it, and never its own. All else that neighbours say
//! to each other (advertisements, routers, multicast listeners) ends here.

use super::forward::Path;
use super::look::Sender;
use crate::classify::{self, Context};
use crate::packet::Packet;
use crate::parse::Meta;
use crate::punt::ndp::{self, ADVERTISEMENT_BYTES, Solicitation};
use tables::Addr;
use tables::counters::{DropReason, WorkerCounter};
use tables::endpoint::EndpointRecord;
use tables::layout::Table;
use tables::node::family;
use tables::route::RouteKind;

/// Whose an address is, to an interface that asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Gateway,
    /// Of another local end.
    Another,
    /// Of the range of local ends, and nobody's.
    Nobody,
    /// Its own, or none that is reached through the gateway's link.
    NotOurs,
}

impl Path {
    pub(super) fn is_between_neighbours(&self, place: &Option<Packet>, meta: &Meta) -> bool {
        place.as_ref().is_some_and(|packet| ndp::is_between_neighbours(self.pool.memory().head(packet), meta))
    }

    /// Answers what a local end asks of its neighbours, or drops it.
    #[cold]
    pub(super) fn neighbour_discovery(
        &mut self,
        context: &Context<'_>,
        place: &mut Option<Packet>,
        meta: &Meta,
        sender: &Sender,
    ) {
        match self.solicited(context, place, meta, sender) {
            Ok((asked, is_own)) => self.advertise(context, place, meta, &asked, is_own),
            Err(reason) => self.drop_from(place, reason),
        }
    }

    /// The solicitation that is to be answered, and whether for the gateway itself.
    fn solicited(
        &self,
        context: &Context<'_>,
        place: &Option<Packet>,
        meta: &Meta,
        sender: &Sender,
    ) -> Result<(Solicitation, bool), DropReason> {
        let packet = place.as_ref().ok_or(DropReason::Truncated)?;
        may_ask(sender, meta)?;
        let asked = ndp::solicitation(self.pool.memory().head(packet), meta, packet.checksum)?;
        match whose(context, asked.target, packet.interface) {
            Whose::Gateway => Ok((asked, true)),
            Whose::Another => Ok((asked, false)),
            Whose::Nobody if !asked.is_detection => Ok((asked, false)),
            Whose::Nobody | Whose::NotOurs => Err(DropReason::LinkLocal),
        }
    }

    fn advertise(
        &mut self,
        context: &Context<'_>,
        place: &mut Option<Packet>,
        meta: &Meta,
        asked: &Solicitation,
        is_own: bool,
    ) {
        let Some(mut packet) = place.take() else { return };
        packet.extend(ADVERTISEMENT_BYTES, self.pool.memory().frame_size());
        let bytes = self.pool.memory().head_mut(&mut packet);
        let Some(size) = ndp::advertise(bytes, meta, asked, context.node.gateway_mac, is_own) else {
            return self.drop_packet(packet, DropReason::LinkLocal);
        };
        self.status().count(WorkerCounter::Punted, 1);
        self.answer(packet, size);
    }
}

/// A pod asks by its own Ethernet address, and from its own, a link-local or no address.
fn may_ask(sender: &Sender, meta: &Meta) -> Result<(), DropReason> {
    let Sender::Pod(mac, addrs) = sender else { return Ok(()) };
    let may_be_anybodys = classify::is_link_local(meta.src) && !meta.src.is_multicast();
    match (meta.src_mac.word() == *mac, may_be_anybodys || addrs.contains(&meta.src)) {
        (false, _) => Err(DropReason::SpoofedMac),
        (true, false) => Err(DropReason::SpoofedAddress),
        (true, true) => Ok(()),
    }
}

fn whose(context: &Context<'_>, addr: Addr, interface: u32) -> Whose {
    if addr == context.node.gateway[family(addr)] {
        return Whose::Gateway;
    }
    if let Some(endpoint) = context.view.find::<_, EndpointRecord>(Table::Endpoint, &addr) {
        return if endpoint.interface == interface { Whose::NotOurs } else { Whose::Another };
    }
    match classify::route::find(&context.view, addr).and_then(|(_, route)| route.kind()) {
        Some(RouteKind::Local | RouteKind::Host | RouteKind::Blackhole) => Whose::Nobody,
        _ => Whose::NotOurs,
    }
}
