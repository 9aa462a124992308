//! TCP resets (RFC 9293 3.5.2) for refused segments. Decides only whether there is an answer.

use super::{drop_extensions, turn_ip, turned};
use crate::parse::{Meta, tcp_flag};
use crate::rewrite::fill_l4;
use smoltcp::wire::{TcpPacket, TcpSeqNumber};

const TCP_BYTES: usize = 20;

/// A reset that the sender's stack accepts: from its own ACK, or acknowledging all that its segment takes. A reset is
/// never answered.
pub fn reset(bytes: &mut [u8], meta: &Meta) -> Option<usize> {
    if meta.tcp_flags & tcp_flag::RST != 0 {
        return None;
    }
    let size = meta.end as usize - meta.l4 as usize;
    // Its payload may lie in further frames, and is not needed.
    let meta = drop_extensions(bytes, &Meta { end: meta.l4 as u32 + TCP_BYTES as u32, ..*meta });
    let l4 = meta.l4 as usize;
    let mut tcp = TcpPacket::new_unchecked(&mut bytes[l4..]);
    let taken = size - tcp.header_len() as usize + tcp.syn() as usize + tcp.fin() as usize;
    let (acked, had_ack) = (tcp.ack_number(), tcp.ack());
    let next = tcp.seq_number() + taken;
    tcp.set_src_port(meta.dst_port);
    tcp.set_dst_port(meta.src_port);
    tcp.set_seq_number(if had_ack { acked } else { TcpSeqNumber(0) });
    tcp.set_ack_number(next);
    tcp.clear_flags();
    tcp.set_rst(true);
    tcp.set_ack(!had_ack);
    tcp.set_header_len(TCP_BYTES as u8);
    tcp.set_window_len(0);
    tcp.set_urgent_at(0);
    fill_l4(bytes, &turned(&meta));
    turn_ip(bytes, &meta);
    Some(meta.end as usize)
}
