//! What the node itself answers: ARP and echo for the gateway, resets and unreachables for refused packets. Answers are
//! written over the packet they answer, in place; with smoltcp's views. Decides only whether there is an answer.
//!
//! Sources: RFC 826 (ARP), RFC 792 and 1122 3.2.2 (ICMP), RFC 9293 3.5.2 (resets).

use crate::parse::{Meta, tcp_flag};
use crate::rewrite::{fill_l4, set_macs};
use smoltcp::wire::{ArpOperation, ArpPacket, EthernetAddress, Icmpv4DstUnreachable, Icmpv4Message, Icmpv4Packet};
use smoltcp::wire::{IpProtocol, Ipv4Packet, TcpPacket};
use tables::{Addr, Mac, Protocol};

const ANSWER_TTL: u8 = 64;
/// Bytes of the offending packet that an ICMP error quotes beyond its IP header (RFC 792).
const QUOTED_BYTES: usize = 8;

/// Room that [`refuse`] wants in the head frame: headers of the answer, and the quote with all options.
pub const REFUSAL_BYTES_MAX: usize = 14 + 20 + 8 + 60 + QUOTED_BYTES;

/// Turns an ARP request for the gateway into its answer.
pub fn answer_arp(bytes: &mut [u8], gateway: Addr, gateway_mac: Mac) -> bool {
    let Ok(mut arp) = ArpPacket::new_checked(&mut bytes[14..]) else { return false };
    let is_ethernet_v4 = arp.hardware_len() == 6 && arp.protocol_len() == 4;
    if !is_ethernet_v4 || arp.operation() != ArpOperation::Request || arp.target_protocol_addr() != gateway.v4_octets()
    {
        return false;
    }
    let (asker_mac, asker) = (mac_of(arp.source_hardware_addr()), v4_of(arp.source_protocol_addr()));
    arp.set_operation(ArpOperation::Reply);
    arp.set_source_hardware_addr(&gateway_mac.0);
    arp.set_source_protocol_addr(&gateway.v4_octets());
    arp.set_target_hardware_addr(&asker_mac.0);
    arp.set_target_protocol_addr(&asker);
    set_macs(bytes, gateway_mac, asker_mac);
    true
}

fn mac_of(bytes: &[u8]) -> Mac {
    Mac(EthernetAddress::from_bytes(bytes).0)
}

fn v4_of(bytes: &[u8]) -> [u8; 4] {
    bytes.first_chunk().copied().unwrap_or_default()
}

/// Turns an echo request into its reply. IPv4; the packet lies in one frame.
pub fn answer_echo(bytes: &mut [u8], meta: &Meta, own_mac: Mac) -> bool {
    let l4 = meta.l4 as usize;
    if meta.protocol != Protocol::ICMP || bytes[l4] != 8 || bytes.len() < meta.end as usize {
        return false;
    }
    bytes[l4] = 0;
    fill_l4(bytes, &turned(meta));
    turn_ip(bytes, meta);
    set_macs(bytes, own_mac, meta.src_mac);
    true
}

/// What a refused packet is answered with: its new size, or None where there must be no answer (resets, errors,
/// fragments and broadcasts are never answered). `bytes` may go on behind the packet, up to [`REFUSAL_BYTES_MAX`]: an
/// answer can be larger than its question.
pub fn refuse(bytes: &mut [u8], meta: &Meta, own_mac: Mac) -> Option<usize> {
    if !meta.src.is_v4() || meta.src.is_multicast() || meta.src.is_unspecified() {
        return None;
    }
    let end = match meta.protocol {
        Protocol::TCP => reset(bytes, meta)?,
        Protocol::UDP | Protocol::SCTP => unreachable(bytes, meta)?,
        _ => return None,
    };
    set_macs(bytes, own_mac, meta.src_mac);
    Some(end)
}

/// A reset that the sender's stack accepts: from its own ACK, or acknowledging all that its segment takes.
fn reset(bytes: &mut [u8], meta: &Meta) -> Option<usize> {
    if meta.tcp_flags & tcp_flag::RST != 0 {
        return None;
    }
    let (l4, size) = (meta.l4 as usize, meta.end as usize - meta.l4 as usize);
    let mut tcp = TcpPacket::new_unchecked(&mut bytes[l4..]);
    let taken = size - tcp.header_len() as usize + tcp.syn() as usize + tcp.fin() as usize;
    let (acked, had_ack) = (tcp.ack_number(), tcp.ack());
    let next = tcp.seq_number() + taken;
    tcp.set_src_port(meta.dst_port);
    tcp.set_dst_port(meta.src_port);
    tcp.set_seq_number(if had_ack { acked } else { smoltcp::wire::TcpSeqNumber(0) });
    tcp.set_ack_number(next);
    tcp.clear_flags();
    tcp.set_rst(true);
    tcp.set_ack(!had_ack);
    tcp.set_header_len(20);
    tcp.set_window_len(0);
    tcp.set_urgent_at(0);
    let end = l4 + 20;
    let answer = Meta { end: end as u32, ..turned(meta) };
    fill_l4(bytes, &answer);
    turn_ip(bytes, &answer_of(meta, end));
    Some(end)
}

/// Port unreachable, quoting the IP header and eight bytes.
fn unreachable(bytes: &mut [u8], meta: &Meta) -> Option<usize> {
    let (l3, l4) = (meta.l3 as usize, meta.l4 as usize);
    let quoted = l4 - l3 + QUOTED_BYTES;
    let mut quote = [0; 60 + QUOTED_BYTES];
    quote.get_mut(..quoted)?.copy_from_slice(bytes.get(l3..l3 + quoted)?);
    let end = l3 + 20 + 8 + quoted;
    if bytes.len() < end {
        return None;
    }
    bytes[l3] = 0x45;
    let icmp = &mut bytes[l3 + 20..end];
    icmp[8..].copy_from_slice(&quote[..quoted]);
    let mut view = Icmpv4Packet::new_unchecked(&mut *icmp);
    view.set_msg_type(Icmpv4Message::DstUnreachable);
    view.set_msg_code(Icmpv4DstUnreachable::PortUnreachable.into());
    icmp[4..8].fill(0);
    let answer = Meta { l4: (l3 + 20) as u16, end: end as u32, protocol: Protocol::ICMP, ..*meta };
    fill_l4(bytes, &answer);
    turn_ip(bytes, &answer);
    Some(end)
}

fn answer_of(meta: &Meta, end: usize) -> Meta {
    Meta { end: end as u32, ..*meta }
}

fn turned(meta: &Meta) -> Meta {
    Meta { src: meta.dst, dst: meta.src, src_port: meta.dst_port, dst_port: meta.src_port, ..*meta }
}

/// Writes an IPv4 header from the packet's destination back to its source.
fn turn_ip(bytes: &mut [u8], meta: &Meta) {
    let l3 = meta.l3 as usize;
    let mut ip = Ipv4Packet::new_unchecked(&mut bytes[l3..]);
    ip.set_total_len((meta.end as usize - l3) as u16);
    ip.set_src_addr(meta.dst.v4_octets().into());
    ip.set_dst_addr(meta.src.v4_octets().into());
    ip.set_next_header(IpProtocol::from(meta.protocol.0));
    ip.set_hop_limit(ANSWER_TTL);
    ip.fill_checksum();
}

#[cfg(test)]
#[path = "punt_tests.rs"]
mod tests;
