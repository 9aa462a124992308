//! Follows what the kernel says about links, routes, addresses and neighbours of this namespace. A change of a neighbour
//! comes as it is, one of our own routes not at all; for the rest "read again" is enough, and right after lost messages too. It must not act on changes.

use crate::netlink::{Neighbour, ROUTE_PROTOCOL};
use futures_util::StreamExt;
use futures_util::stream::Stream;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use std::io;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelChange {
    Neighbour(Neighbour),
    /// Links, addresses or routes are not as they were.
    Other,
    /// The connection broke; what changed since is not known.
    Lost,
}

const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// Changes from now on. Must be called inside a tokio runtime.
pub fn changes() -> io::Result<impl Stream<Item = KernelChange> + Unpin> {
    let (connection, _, messages) = rtnetlink::new_multicast_connection(&GROUPS)?;
    tokio::spawn(connection);
    Ok(messages.filter_map(|(message, _)| std::future::ready(read(message.payload))))
}

fn read(payload: NetlinkPayload<RouteNetlinkMessage>) -> Option<KernelChange> {
    let NetlinkPayload::InnerMessage(message) = payload else { return Some(KernelChange::Other) };
    match message {
        RouteNetlinkMessage::NewNeighbour(message) => Neighbour::read(&message).map(KernelChange::Neighbour),
        RouteNetlinkMessage::DelNeighbour(message) => {
            let gone = Neighbour::read(&message).map(|neighbour| Neighbour { mac: None, ..neighbour });
            gone.map(KernelChange::Neighbour)
        }
        RouteNetlinkMessage::NewRoute(message) | RouteNetlinkMessage::DelRoute(message)
            if message.header.protocol == ROUTE_PROTOCOL =>
        {
            None
        }
        _ => Some(KernelChange::Other),
    }
}
