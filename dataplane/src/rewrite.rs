//! The only writer of packet bytes: addresses and ports, time to live, Ethernet addresses, outer headers, checksums.
//! Checksums change by differences (`tables::checksum`), so a wrong one stays wrong; a partial one holds the
//! uncomplemented pseudo-header sum and follows address changes alone. Decides nothing.

mod crc32c;
mod mss;
mod plain;

pub use mss::clamp_mss;
pub use plain::{forward_plain, forward_plain_v6, translate_plain, translate_plain_v6};

use crate::flow::Way;
use crate::fragments::Ends;
use crate::io::frames::Memory;
use crate::packet::{Checksum, Packet};
use crate::parse::{Kind, Meta, Quoted};
use smoltcp::wire::Ipv6Packet;
use tables::checksum::{Difference, Folded, fold};
use tables::flow::{FlowRecord, Tuple};
use tables::{Addr, Mac, Protocol};

/// Bytes of the shortest layer-4 header: ports, identifiers, lengths and checksums of UDP and ICMP are within.
const PORTS_BEHIND: usize = 8;

/// The addresses and ports that a packet shall have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    pub src: Addr,
    pub dst: Addr,
    pub src_port: u16,
    pub dst_port: u16,
}

impl Translation {
    /// Of a packet from a tuple's local end to its remote one.
    #[inline(always)]
    pub fn along(tuple: &Tuple) -> Translation {
        Translation { src: tuple.local, dst: tuple.remote, src_port: tuple.local_port, dst_port: tuple.remote_port }
    }

    pub fn of(meta: &Meta) -> Translation {
        Translation { src: meta.src, dst: meta.dst, src_port: meta.src_port, dst_port: meta.dst_port }
    }
}

/// A translation, and what it does to checksums.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    pub to: Translation,
    /// To one over the addresses.
    addresses: Folded,
    /// To that of layer 4.
    l4: Folded,
}

impl Change {
    /// What a flow does to its packets of this way.
    #[inline(always)]
    pub fn of_flow(record: &FlowRecord, way: Way) -> Change {
        let to = match way {
            Way::Out => Translation::along(&record.outside()),
            Way::Back => Translation::along(&record.inside.reversed()),
        };
        let (addresses, l4) = record.differences(way == Way::Out);
        Change { to, addresses, l4 }
    }

    /// What gives a packet other addresses and ports.
    pub fn of_packet(meta: &Meta, to: &Translation) -> Change {
        let (mut addresses, mut l4) = (Difference::default(), Difference::default());
        addresses.replace_addr(meta.src, to.src);
        addresses.replace_addr(meta.dst, to.dst);
        l4.replace(meta.src_port, to.src_port);
        l4.replace(meta.dst_port, to.dst_port);
        let l4 = if meta.protocol == Protocol::ICMP { l4 } else { l4.and(addresses) };
        Change { to: *to, addresses: addresses.folded(), l4: l4.folded() }
    }
}

/// The sum of bytes as big-endian words; the last odd byte counts as the high half. `odd` says that an odd number of
/// bytes went before.
fn sum_bytes(bytes: &[u8], odd: bool) -> u64 {
    let mut sum = 0u64;
    let mut chunks = bytes.chunks_exact(4);
    for chunk in &mut chunks {
        sum += u32::from_be_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]) as u64;
    }
    let mut last = [0; 4];
    last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    let sum = fold(sum + u32::from_be_bytes(last) as u64);
    (if odd { sum.swap_bytes() } else { sum }) as u64
}

#[inline(always)]
fn get(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[inline(always)]
fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Where the layer-4 checksum stands within its header, for protocols whose sum is a one's complement.
#[inline(always)]
fn checksum_offset(protocol: Protocol) -> Option<usize> {
    match protocol {
        Protocol::TCP => Some(16),
        Protocol::UDP => Some(6),
        Protocol::ICMP | Protocol::ICMPV6 => Some(2),
        _ => None,
    }
}

/// Whether completing a partial checksum writes where a checksum stands: that of layer 4, or one behind its ports (of a
/// packet in a tunnel of the pod's own). A pod that may make raw packets chooses the place, and must not change what was
/// judged before.
#[inline(always)]
pub fn can_complete(checksum: Checksum, meta: &Meta) -> bool {
    match checksum {
        Checksum::Partial { start, offset } if start == meta.l4 => {
            checksum_offset(meta.protocol) == Some(offset as usize)
        }
        Checksum::Partial { start, .. } => start as usize >= meta.l4 as usize + PORTS_BEHIND,
        Checksum::Unverified | Checksum::Valid => true,
    }
}

/// Gives a packet other addresses and ports, and its `Meta` too.
pub fn translate(bytes: &mut [u8], meta: &mut Meta, to: &Translation, checksum: Checksum) {
    let change = Change::of_packet(meta, to);
    forward(bytes, meta, Some(&change), false, checksum);
    meta.follow(Some(to), false);
}

/// All that forwarding does to an IP packet: other addresses and ports if there is a change, and one off the time to live
/// if this is a `hop`; the caller has seen that it is above one. `meta` says how the packet was.
#[inline(always)]
pub fn forward(bytes: &mut [u8], meta: &Meta, change: Option<&Change>, hop: bool, checksum: Checksum) {
    let ends = change.map_or((meta.src, meta.dst), |change| (change.to.src, change.to.dst));
    if meta.is_v4 {
        write_v4(bytes, meta, ends, change.map_or_else(Folded::default, |change| change.addresses), hop);
    } else {
        write_v6(bytes, meta, ends, hop);
    }
    if let Some(change) = change {
        write_ports(bytes, meta, &change.to);
        update_l4(bytes, meta, change, checksum);
    }
}

/// What one off the time to live does to the sum: it is the high byte of its word, so less one is plus its complement's
/// 0xfeff.
#[inline(always)]
fn one_off(hop: bool) -> Folded {
    Folded(if hop { 0xfeff } else { 0 })
}

#[inline(always)]
fn write_v4(bytes: &mut [u8], meta: &Meta, (src, dst): (Addr, Addr), addresses: Folded, hop: bool) {
    let Some(ip) = bytes.get_mut(meta.l3 as usize..).and_then(|ip| ip.first_chunk_mut::<20>()) else { return };
    let difference = addresses.and(one_off(hop));
    let checksum = difference.update(get(ip, 10));
    ip[8] -= hop as u8;
    put(ip, 10, checksum);
    ip[12..16].copy_from_slice(&src.v4_octets());
    ip[16..20].copy_from_slice(&dst.v4_octets());
}

fn write_v6(bytes: &mut [u8], meta: &Meta, (src, dst): (Addr, Addr), hop: bool) {
    let mut view = Ipv6Packet::new_unchecked(&mut bytes[meta.l3 as usize..]);
    view.set_src_addr(src.v6_octets().into());
    view.set_dst_addr(dst.v6_octets().into());
    let limit = view.hop_limit() - hop as u8;
    view.set_hop_limit(limit);
}

#[inline(always)]
fn write_ports(bytes: &mut [u8], meta: &Meta, to: &Translation) {
    let l4 = meta.l4 as usize;
    match meta.kind {
        Kind::Transport => {
            put(bytes, l4, to.src_port);
            put(bytes, l4 + 2, to.dst_port);
        }
        // The identifier is the port of the side that asks; the other side's is 0.
        Kind::Echo => put(bytes, l4 + 4, to.src_port | to.dst_port),
        Kind::IcmpError | Kind::Other | Kind::Piece => {}
    }
}

#[inline(always)]
fn update_l4(bytes: &mut [u8], meta: &Meta, change: &Change, checksum: Checksum) {
    if meta.kind == Kind::Piece {
        return;
    }
    let Some(offset) = checksum_offset(meta.protocol) else {
        if meta.protocol == Protocol::SCTP {
            let (before, after) = ((meta.src_port, meta.dst_port), (change.to.src_port, change.to.dst_port));
            let [before, after] = [before, after].map(|(src, dst)| crc32c::ports(src, dst));
            crc32c::update(bytes, meta.l4 as usize, meta.end as usize, before, after);
        }
        return;
    };
    let at = meta.l4 as usize + offset;
    let field = get(bytes, at);
    // One that starts further in is another packet's, carried by this one.
    if matches!(checksum, Checksum::Partial { start, .. } if start == meta.l4) {
        return put(bytes, at, change.addresses.add_to(field));
    }
    if meta.protocol == Protocol::UDP {
        return put(bytes, at, plain::update_udp(field, change.l4));
    }
    put(bytes, at, change.l4.update(field));
}

/// Gives the packet that an ICMP error quotes its other addresses and ports. The quoted layer-4 checksum is followed as
/// far as it was quoted; the error's own checksum is the caller's to write anew.
pub fn translate_quoted(bytes: &mut [u8], quoted: &Quoted, after: &Tuple) {
    let Quoted { tuple: before, l3, l4 } = *quoted;
    let meta = Meta {
        src: before.local,
        dst: before.remote,
        src_port: before.local_port,
        dst_port: before.remote_port,
        protocol: before.protocol,
        kind: if before.protocol.is_icmp() { Kind::Echo } else { Kind::Transport },
        tcp_flags: 0,
        ttl: 0,
        is_v4: before.local.is_v4(),
        l3: l3 as u16,
        l4: l4 as u16,
        end: quoted_end(bytes, l3, before.local.is_v4()) as u32,
        src_mac: Mac::default(),
    };
    let to = Translation::along(after);
    let change = Change::of_packet(&meta, &to);
    if meta.is_v4 {
        write_v4(bytes, &meta, (to.src, to.dst), change.addresses, false);
    } else {
        write_v6(bytes, &meta, (to.src, to.dst), false);
    }
    write_ports(bytes, &meta, &to);
    let checksum_end = if meta.protocol == Protocol::SCTP {
        Some(12)
    } else {
        checksum_offset(meta.protocol).map(|offset| offset + 2)
    };
    if checksum_end.is_some_and(|end| l4 + end <= bytes.len()) {
        update_l4(bytes, &meta, &change, Checksum::Unverified);
    }
}

/// Where a quoted packet ended before it was cut short.
fn quoted_end(bytes: &[u8], l3: usize, is_v4: bool) -> usize {
    if is_v4 { l3 + get(bytes, l3 + 2) as usize } else { l3 + 40 + get(bytes, l3 + 4) as usize }
}

/// Writes source and destination of the Ethernet header.
#[inline(always)]
pub fn set_macs(bytes: &mut [u8], src: Mac, dst: Mac) {
    let [d, s] = [dst.0, src.0];
    bytes[..12].copy_from_slice(&[d[0], d[1], d[2], d[3], d[4], d[5], s[0], s[1], s[2], s[3], s[4], s[5]]);
}

/// Notes a fragment's ports for the next worker, or that they are to be learned, where its sender's Ethernet address was:
/// nobody asks for that any more, and it is written anew when the packet leaves.
pub fn note_ends(bytes: &mut [u8], ends: Option<&Ends>) {
    bytes[11] = ends.is_some() as u8;
    if let Some(ends) = ends {
        put(bytes, 6, ends.src_port);
        put(bytes, 8, ends.dst_port);
        bytes[10] = ends.protocol.0;
    }
}

/// What was noted of a fragment.
pub fn noted_ends(bytes: &[u8]) -> Option<Ends> {
    let ends = Ends { src_port: get(bytes, 6), dst_port: get(bytes, 8), protocol: Protocol(bytes[10]) };
    (bytes[11] != 0).then_some(ends)
}

/// The traffic class (DSCP and ECN) of the packet.
pub fn traffic_class(bytes: &[u8], meta: &Meta) -> u8 {
    let l3 = meta.l3 as usize;
    if meta.is_v4 { bytes[l3 + 1] } else { (get(bytes, l3) >> 4) as u8 }
}

/// Writes the packet's ECN, the low two bits of its traffic class.
pub fn set_ecn(bytes: &mut [u8], meta: &Meta, ecn: u8) {
    let l3 = meta.l3 as usize;
    let (before, shift) = (get(bytes, l3), if meta.is_v4 { 0 } else { 4 });
    let after = before & !(3 << shift) | (ecn as u16) << shift;
    put(bytes, l3, after);
    if meta.is_v4 {
        let mut difference = Difference::default();
        difference.replace(before, after);
        let checksum = difference.update(get(bytes, l3 + 10));
        put(bytes, l3 + 10, checksum);
    }
}

/// Writes an Ethernet header without addresses in front of an IP packet that had none.
pub fn put_ethernet(bytes: &mut [u8], is_v4: bool) {
    let [high, low] = if is_v4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    bytes[..14].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, high, low]);
}

/// Completes a partial checksum: sums everything from its start, over all frames. A UDP sum of zero is sent as all ones.
pub fn complete_checksum(memory: &Memory, packet: &mut Packet, meta: &Meta) {
    let Checksum::Partial { start, offset } = packet.checksum else { return };
    let (start, at) = (start as usize, start as usize + offset as usize);
    let mut sum = 0u64;
    let mut before = 0usize;
    let end = meta.end as usize;
    for (i, bytes) in memory.chain(packet).enumerate() {
        let from = if i == 0 { start.min(bytes.len()) } else { 0 };
        let to = bytes.len().min(end.saturating_sub(before));
        if from < to {
            sum += sum_bytes(&bytes[from..to], (before + from - start) % 2 == 1);
        }
        before += bytes.len();
    }
    let checksum = !fold(sum);
    let head = memory.head_mut(packet);
    if at + 2 <= head.len() {
        put(head, at, if checksum == 0 && meta.protocol == Protocol::UDP { 0xffff } else { checksum });
    }
    packet.checksum = Checksum::Valid;
}

/// The pseudo-header's sum (RFC 9293, 3.1; RFC 8200, 8.1), uncomplemented.
pub fn pseudo_header_sum(src: Addr, dst: Addr, protocol: Protocol, size: usize) -> u16 {
    let addresses = if src.is_v4() {
        sum_bytes(&src.v4_octets(), false) + sum_bytes(&dst.v4_octets(), false)
    } else {
        sum_bytes(&src.v6_octets(), false) + sum_bytes(&dst.v6_octets(), false)
    };
    fold(addresses + protocol.0 as u64 + (size >> 16) as u64 + (size & 0xffff) as u64)
}

/// Writes the complete layer-4 checksum of a packet that lies in one piece from `l4` to `end`.
pub fn fill_l4(bytes: &mut [u8], meta: &Meta) {
    let Some(offset) = checksum_offset(meta.protocol) else { return };
    let (l4, end) = (meta.l4 as usize, meta.end as usize);
    put(bytes, l4 + offset, 0);
    let pseudo = match meta.protocol {
        Protocol::ICMP => 0,
        protocol => pseudo_header_sum(meta.src, meta.dst, protocol, end - l4),
    };
    let checksum = !fold(pseudo as u64 + sum_bytes(&bytes[l4..end], false));
    put(bytes, l4 + offset, if checksum == 0 && meta.protocol == Protocol::UDP { 0xffff } else { checksum });
}

/// The same of a packet in several frames, whose headers lie in its head.
pub fn fill_l4_chained(memory: &Memory, packet: &mut Packet, meta: &Meta) {
    let Some(offset) = checksum_offset(meta.protocol) else { return };
    let pseudo = match meta.protocol {
        Protocol::ICMP => 0,
        protocol => pseudo_header_sum(meta.src, meta.dst, protocol, (meta.end - meta.l4 as u32) as usize),
    };
    put(memory.head_mut(packet), meta.l4 as usize + offset, pseudo);
    packet.checksum = Checksum::Partial { start: meta.l4, offset: offset as u16 };
    complete_checksum(memory, packet, meta);
}

/// Whether the layer-4 checksum is right; protocols without one, and UDP without a sum, are right.
pub fn verify_l4(bytes: &[u8], meta: &Meta) -> bool {
    let Some(offset) = checksum_offset(meta.protocol) else { return true };
    let (l4, end) = (meta.l4 as usize, meta.end as usize);
    if meta.protocol == Protocol::UDP && get(bytes, l4 + offset) == 0 {
        return true;
    }
    let pseudo = match meta.protocol {
        Protocol::ICMP => 0,
        protocol => pseudo_header_sum(meta.src, meta.dst, protocol, end - l4),
    };
    fold(pseudo as u64 + sum_bytes(&bytes[l4..end], false)) == 0xffff
}

#[cfg(test)]
#[path = "rewrite_tests.rs"]
mod tests;
