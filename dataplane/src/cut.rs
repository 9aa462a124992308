//! Cuts IPv4 packets that may be fragmented into fragments that fit a way out (RFC 791, 3.2). Decides nothing but where to
//! cut. A packet that is a fragment itself is cut further in the same way.

use crate::io::frames::{HEADROOM, Memory};
use crate::io::pool::FramePool;
use crate::packet::{Checksum, Gso, Packet};
use crate::parse::{Meta, UNIT_BYTES};
use crate::segment::Cursor;
use smoltcp::wire::Ipv4Packet;
use tables::counters::DropReason;

/// Bytes of the largest IPv4 header.
const HEADER_BYTES_MAX: usize = 60;
const HEADER_BYTES: usize = 20;
/// Options of one octet: the end of the list, and none.
const OPTION_END: u8 = 0;
const OPTION_NONE: u8 = 1;
/// Set in the type of an option that every fragment carries.
const OPTION_COPIED: u8 = 0x80;

/// An IPv4 header with its options.
struct Header {
    bytes: [u8; HEADER_BYTES_MAX],
    size: usize,
}

/// The headers that the first fragment and the later ones get, and what there is to cut.
struct Plan {
    first: Header,
    later: Header,
    /// Where the packet's own offset and its "more fragments" stand.
    offset: usize,
    more: bool,
    payload: usize,
}

/// Whether the packet's sender lets it be cut: IPv4 without "don't fragment" (RFC 791, 3.1).
pub fn is_allowed(head: &[u8], meta: &Meta) -> bool {
    meta.is_v4 && head.get(meta.l3 as usize + 6).is_some_and(|flags| flags & 0x40 == 0)
}

/// Whether it may be cut as it is: nothing else is to be done to it.
pub fn may_cut(memory: &Memory, packet: &Packet, meta: &Meta) -> bool {
    let complete = packet.gso == Gso::None && !matches!(packet.checksum, Checksum::Partial { .. });
    complete && is_allowed(memory.head(packet), meta)
}

/// Cuts `packet`, whose checksum is complete, into fragments of at most `ip_size_max` bytes each, appended to `out` in
/// order. Takes the packet in any case. None if all went well; else nothing was appended.
pub fn cut(
    pool: &mut FramePool,
    packet: Packet,
    meta: &Meta,
    ip_size_max: usize,
    out: &mut Vec<(Packet, Meta)>,
) -> Option<DropReason> {
    let memory = pool.memory_arc();
    let first = out.len();
    let failed = match plan(memory.head(&packet), meta) {
        Some(plan) => fill(pool, &memory, &packet, meta, &plan, ip_size_max, out),
        None => Some(DropReason::TooBig),
    };
    if failed.is_some() {
        out.drain(first..).for_each(|(fragment, _)| pool.put_packet(fragment));
    }
    pool.put_packet(packet);
    failed
}

fn plan(head: &[u8], meta: &Meta) -> Option<Plan> {
    let ip = head.get(meta.l3 as usize..)?;
    let view = Ipv4Packet::new_unchecked(ip.get(..HEADER_BYTES).map(|_| ip)?);
    let size = view.header_len() as usize;
    let mut first = Header { bytes: [0; HEADER_BYTES_MAX], size };
    first.bytes.get_mut(..size)?.copy_from_slice(ip.get(..size)?);
    let later = first.copied();
    let payload = meta.ip_size().checked_sub(size)?;
    Some(Plan { first, later, offset: view.frag_offset() as usize, more: view.more_frags(), payload })
}

impl Header {
    /// The header of a later fragment: with the options that say so, filled up to a whole number of words.
    fn copied(&self) -> Header {
        let mut copied = Header { bytes: self.bytes, size: HEADER_BYTES };
        copied.bytes[HEADER_BYTES..].fill(OPTION_END);
        let mut at = HEADER_BYTES;
        while at < self.size && self.bytes[at] != OPTION_END {
            let size = match self.bytes[at] {
                OPTION_NONE => 1,
                _ => self.bytes[..self.size].get(at + 1).map_or(0, |&size| size as usize),
            };
            // One that claims what cannot be ends the list.
            let Some(option) = self.bytes[..self.size].get(at..at + size).filter(|_| size > 0) else { break };
            if option[0] & OPTION_COPIED != 0 {
                copied.bytes[copied.size..copied.size + size].copy_from_slice(option);
                copied.size += size;
            }
            at += size;
        }
        copied.size = copied.size.next_multiple_of(4);
        copied.bytes[0] = 0x40 | (copied.size / 4) as u8;
        copied
    }
}

fn fill(
    pool: &mut FramePool,
    memory: &Memory,
    packet: &Packet,
    meta: &Meta,
    plan: &Plan,
    ip_size_max: usize,
    out: &mut Vec<(Packet, Meta)>,
) -> Option<DropReason> {
    let ip_size_max = ip_size_max.min(memory.frame_size() - HEADROOM - meta.l3 as usize);
    let mut source = Cursor::behind(memory.chain(packet), meta.l3 as usize + plan.first.size);
    let mut at = 0;
    while at < plan.payload {
        let header = if at == 0 { &plan.first } else { &plan.later };
        let (room, rest) = (ip_size_max.saturating_sub(header.size), plan.payload - at);
        let size = if rest <= room { rest } else { room / UNIT_BYTES * UNIT_BYTES };
        if size == 0 {
            return Some(DropReason::TooBig);
        }
        let Some(frame) = pool.take() else { return Some(DropReason::NoFrame) };
        let (l3, l4) = (meta.l3 as usize, meta.l3 as usize + header.size);
        let mut fragment = Packet::new(frame, HEADROOM as u16, (l4 + size) as u16);
        (fragment.checksum, fragment.interface) = (Checksum::Valid, packet.interface);
        let bytes = memory.head_mut(&mut fragment);
        bytes[..l3].copy_from_slice(&memory.head(packet)[..l3]);
        bytes[l3..l4].copy_from_slice(&header.bytes[..header.size]);
        source.copy_to(&mut bytes[l4..]);
        let more = plan.more || size < rest;
        write_header(&mut bytes[l3..], plan.offset + at, more);
        out.push((fragment, Meta { l4: l4 as u16, end: (l4 + size) as u32, ..*meta }));
        at += size;
    }
    None
}

/// Says which part of its packet this is: all of `ip`, from byte `offset` on.
fn write_header(ip: &mut [u8], offset: usize, more: bool) {
    let size = ip.len() as u16;
    let mut view = Ipv4Packet::new_unchecked(ip);
    view.set_total_len(size);
    view.set_frag_offset(offset as u16);
    view.set_more_frags(more);
    view.fill_checksum();
}

#[cfg(test)]
#[path = "cut_tests.rs"]
mod tests;
