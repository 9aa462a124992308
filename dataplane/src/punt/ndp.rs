//! Neighbour discovery (RFC 4861) with pods and the host: reads their solicitations, writes advertisements. Whom the node
//! answers for is decided by the worker.
//!
//! There are no router advertisements, and solicitations of routers go unanswered: local ends have static addresses and
//! routes, and an advertisement would make them configure others. So the gateway has no link-local address, either.

use super::{IPV6_BYTES, write_v6};
use crate::packet::Checksum;
use crate::parse::{Kind, Meta};
use crate::rewrite::{fill_l4, set_macs, verify_l4};
use smoltcp::wire::{EthernetAddress, Icmpv6Message, Icmpv6Packet};
use smoltcp::wire::{NdiscNeighborFlags, NdiscOption, NdiscOptionType};
use tables::counters::DropReason;
use tables::{Addr, Mac, Protocol};

/// What neighbours send each other has crossed no router (RFC 4861, 7.1).
const HOP_LIMIT: u8 = 255;
/// ICMPv6 header, flags and target.
const HEADER_BYTES: usize = 24;
const LINK_LAYER_OPTION_BYTES: usize = 8;
const SOURCE_LINK_LAYER: u8 = 1;
const ALL_NODES: Addr = Addr::v6([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
const ALL_NODES_MAC: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);

/// Size of an advertisement: an answer can be larger than its question.
pub const ADVERTISEMENT_BYTES: usize = 14 + IPV6_BYTES + HEADER_BYTES + LINK_LAYER_OPTION_BYTES;

/// A neighbour solicitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solicitation {
    pub target: Addr,
    /// Duplicate address detection: whether somebody else has the address that the sender is about to take.
    pub is_detection: bool,
}

/// Whether a packet is between neighbours alone: multicast listener (RFC 2710, 3810), neighbour and router discovery, mobile
/// prefix, multicast router discovery (RFC 4286). These are never routed.
pub fn is_between_neighbours(bytes: &[u8], meta: &Meta) -> bool {
    meta.protocol == Protocol::ICMPV6
        && meta.kind == Kind::Other
        && matches!(bytes.get(meta.l4 as usize), Some(130..=137 | 143 | 151..=153))
}

/// Reads a solicitation that is as RFC 4861, 7.1.1 wants it. `Err`: what it is instead.
pub fn solicitation(bytes: &[u8], meta: &Meta, checksum: Checksum) -> Result<Solicitation, DropReason> {
    let message = bytes.get(meta.l4 as usize..meta.end as usize).ok_or(DropReason::Truncated)?;
    if message.first() != Some(&u8::from(Icmpv6Message::NeighborSolicit)) {
        return Err(DropReason::LinkLocal);
    }
    if message.len() < HEADER_BYTES {
        return Err(DropReason::Truncated);
    }
    let target = Addr::from(Icmpv6Packet::new_unchecked(message).target_addr());
    let is_detection = meta.src.is_unspecified();
    let has_source = options(&message[HEADER_BYTES..]).ok_or(DropReason::Malformed)?;
    let to_solicited = meta.dst == solicited_node(target);
    let is_odd = meta.ttl != HOP_LIMIT || message[1] != 0 || target.is_multicast() || target.is_v4();
    if is_odd || is_detection && (has_source || !to_solicited) {
        return Err(DropReason::Malformed);
    }
    if checksum == Checksum::Unverified && !verify_l4(bytes, meta) {
        return Err(DropReason::BadChecksum);
    }
    Ok(Solicitation { target, is_detection })
}

/// Walks the options: whether one tells the sender's Ethernet address. None: one has no length, or goes on too far.
fn options(mut options: &[u8]) -> Option<bool> {
    let mut has_source = false;
    while let [kind, units, ..] = *options {
        let size = units as usize * 8;
        if size == 0 {
            return None;
        }
        has_source |= kind == SOURCE_LINK_LAYER;
        options = options.get(size..)?;
    }
    options.is_empty().then_some(has_source)
}

/// Where those who have an address listen for solicitations (RFC 4291, 2.7.1).
fn solicited_node(addr: Addr) -> Addr {
    let low = addr.v6_octets();
    Addr::v6([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, low[13], low[14], low[15]])
}

/// Writes the advertisement over the solicitation: `bytes` hold [`ADVERTISEMENT_BYTES`]. `is_own` says that the address is
/// the node's own, and not another's that it answers for (7.2.8: such an answer overrides nothing).
pub fn advertise(bytes: &mut [u8], meta: &Meta, asked: &Solicitation, own_mac: Mac, is_own: bool) -> Option<usize> {
    let (l3, l4) = (meta.l3 as usize, meta.l3 as usize + IPV6_BYTES);
    let end = l4 + HEADER_BYTES + LINK_LAYER_OPTION_BYTES;
    let message = bytes.get_mut(l4..end)?;
    message.fill(0);
    let mut view = Icmpv6Packet::new_unchecked(&mut *message);
    view.set_msg_type(Icmpv6Message::NeighborAdvert);
    let mut flags = NdiscNeighborFlags::ROUTER;
    flags.set(NdiscNeighborFlags::SOLICITED, !asked.is_detection);
    flags.set(NdiscNeighborFlags::OVERRIDE, is_own);
    view.set_neighbor_flags(flags);
    view.set_target_addr(asked.target.v6_octets().into());
    let mut option = NdiscOption::new_unchecked(&mut message[HEADER_BYTES..]);
    option.set_option_type(NdiscOptionType::TargetLinkLayerAddr);
    option.set_data_len(1);
    option.set_link_layer_addr(EthernetAddress(own_mac.0).into());
    let (dst, dst_mac) = if asked.is_detection { (ALL_NODES, ALL_NODES_MAC) } else { (meta.src, meta.src_mac) };
    let answer = Meta { src: asked.target, dst, l4: l4 as u16, end: end as u32, ..*meta };
    bytes[l3..l3 + 4].fill(0);
    write_v6(bytes, &answer, HOP_LIMIT);
    fill_l4(bytes, &answer);
    set_macs(bytes, own_mac, dst_mac);
    Some(end)
}
