//! Software GSO: a super-frame becomes packets that fit a wire, headers repeated, checksums complete. Decides nothing but
//! where to cut. Sources: RFC 9293 (TCP), kernel net/ipv4/tcp_offload.c (what happens to flags and ids).

use crate::io::frames::{HEADROOM, LINK_BYTES, Memory};
use crate::io::pool::FramePool;
use crate::packet::{Checksum, Packet};
use crate::parse::{Meta, tcp_flag};
use crate::rewrite;
use smoltcp::wire::{Ipv4Packet, Ipv6Packet};
use tables::Protocol;
use tables::counters::DropReason;

const TCP_CWR: u8 = 0x80;
const TCP_PSH: u8 = 0x08;

/// What one cut needs to know.
struct Plan {
    /// Bytes of all headers, Ethernet to layer 4.
    headers: usize,
    /// Payload bytes of a segment.
    step: usize,
    payload: usize,
}

/// Cuts `packet` into segments of at most `ip_size_max` bytes of IP packet each, appended to `out` in order. Takes the
/// packet in any case. None if all went well; else nothing was appended.
pub fn cut(
    pool: &mut FramePool,
    packet: Packet,
    meta: &Meta,
    ip_size_max: usize,
    out: &mut Vec<(Packet, Meta)>,
) -> Option<DropReason> {
    let memory = pool.memory_arc();
    let Some(plan) = plan(&memory, &packet, meta, ip_size_max) else {
        pool.put_packet(packet);
        return Some(DropReason::TooBig);
    };
    let first = out.len();
    let mut source = Cursor::behind(memory.chain(&packet), plan.headers);
    for at in (0..plan.payload.max(1)).step_by(plan.step) {
        let size = plan.step.min(plan.payload - at);
        let headers = &memory.head(&packet)[..plan.headers];
        let Some(mut segment) = place(pool, headers, plan.headers + size, &mut source) else {
            drop(source);
            out.drain(first..).for_each(|(segment, _)| pool.put_packet(segment));
            pool.put_packet(packet);
            return Some(DropReason::NoFrame);
        };
        segment.interface = packet.interface;
        let meta = Meta { end: (plan.headers + size) as u32, ..*meta };
        write_headers(memory.head_mut(&mut segment), &meta, at, plan.step, at + size >= plan.payload);
        complete(&memory, &mut segment, &meta);
        out.push((segment, meta));
    }
    drop(source);
    pool.put_packet(packet);
    None
}

fn plan(memory: &Memory, packet: &Packet, meta: &Meta, ip_size_max: usize) -> Option<Plan> {
    let l4 = match meta.protocol {
        Protocol::TCP => (*memory.head(packet).get(meta.l4 as usize + 12)? >> 4) as usize * 4,
        Protocol::UDP => 8,
        _ => return None,
    };
    let headers = meta.l4 as usize + l4;
    let payload = (meta.end as usize).checked_sub(headers)?;
    let room = (ip_size_max + meta.l3 as usize).checked_sub(headers)?;
    let size = packet.gso.size()? as usize;
    // A stream may be cut anywhere; datagrams end where their sender ended them.
    if meta.protocol == Protocol::UDP && size.min(payload) > room {
        return None;
    }
    let step = size.min(room);
    (headers <= packet.head_size() && step > 0).then_some(Plan { headers, step, payload })
}

/// A packet of `total` bytes: the headers, then what `source` has next. None if there are too few frames.
fn place<'a>(
    pool: &mut FramePool,
    headers: &[u8],
    total: usize,
    source: &mut Cursor<'a, impl Iterator<Item = &'a [u8]>>,
) -> Option<Packet> {
    let count = pool.memory().frames_for(total);
    let (memory, frames) = pool.next_frames(count)?;
    let (mut start, mut headers, mut rest) = (HEADROOM, headers, total);
    for frame in frames.iter_mut().rev() {
        let part = rest.min(memory.frame_size() - start);
        let bytes = memory.bytes_mut(frame, start, part);
        bytes[..headers.len()].copy_from_slice(headers);
        source.copy_to(&mut bytes[headers.len()..]);
        (start, headers, rest) = (LINK_BYTES, &[], rest - part);
    }
    pool.take_packet(total)
}

fn complete(memory: &Memory, segment: &mut Packet, meta: &Meta) {
    if segment.is_chained() {
        rewrite::fill_l4_chained(memory, segment, meta);
    } else {
        rewrite::fill_l4(memory.head_mut(segment), meta);
    }
    segment.checksum = Checksum::Valid;
}

fn write_headers(bytes: &mut [u8], meta: &Meta, at: usize, step: usize, is_last: bool) {
    let (l3, l4, end) = (meta.l3 as usize, meta.l4 as usize, meta.end as usize);
    if meta.src.is_v4() {
        let mut ip = Ipv4Packet::new_unchecked(&mut bytes[l3..]);
        ip.set_total_len((end - l3) as u16);
        let ident = ip.ident().wrapping_add((at / step) as u16);
        ip.set_ident(ident);
        ip.fill_checksum();
    } else {
        Ipv6Packet::new_unchecked(&mut bytes[l3..]).set_payload_len((end - l3 - 40) as u16);
    }
    if meta.protocol == Protocol::UDP {
        bytes[l4 + 4..l4 + 6].copy_from_slice(&((end - l4) as u16).to_be_bytes());
    } else {
        let sequence = u32::from_be_bytes([bytes[l4 + 4], bytes[l4 + 5], bytes[l4 + 6], bytes[l4 + 7]]);
        bytes[l4 + 4..l4 + 8].copy_from_slice(&sequence.wrapping_add(at as u32).to_be_bytes());
        // CWR belongs to the first segment, FIN and PSH to the last.
        let cleared = if is_last { 0 } else { tcp_flag::FIN | TCP_PSH } | if at > 0 { TCP_CWR } else { 0 };
        bytes[l4 + 13] &= !cleared;
    }
}

/// Reads a packet's bytes across its frames.
pub(crate) struct Cursor<'a, I> {
    rest: I,
    current: &'a [u8],
}

impl<'a, I: Iterator<Item = &'a [u8]>> Cursor<'a, I> {
    /// Begins behind the first `skip` bytes of the chain.
    pub(crate) fn behind(mut rest: I, mut skip: usize) -> Cursor<'a, I> {
        let mut current: &[u8] = &[];
        for bytes in rest.by_ref() {
            if skip < bytes.len() {
                current = &bytes[skip..];
                break;
            }
            skip -= bytes.len();
        }
        Cursor { rest, current }
    }

    pub(crate) fn copy_to(&mut self, mut to: &mut [u8]) {
        while !to.is_empty() {
            if self.current.is_empty() {
                let Some(next) = self.rest.next() else { return };
                self.current = next;
            }
            let size = to.len().min(self.current.len());
            let (now, later) = to.split_at_mut(size);
            now.copy_from_slice(&self.current[..size]);
            self.current = &self.current[size..];
            to = later;
        }
    }
}

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
