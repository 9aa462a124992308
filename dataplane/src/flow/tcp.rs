//! TCP's progress in a flow, by RFC 9293: eight bits of state and the upper half of what each side acknowledged last.
//! The ends decide about their connection; this only follows, to know how long the flow is to be kept, and passes every
//! segment on.
//!
//! - A connection is established once both sides have acknowledged: by SYN, SYN-ACK, ACK, or both at once (3.5).
//! - After one FIN it is half closed and carries the other direction on; after both it is closing (TIME-WAIT).
//! - A RST counts if its sequence number is near what its receiver acknowledged last (3.5.3; RFC 5961, 3), or, while the
//!   connection opens, if it acknowledges what is on its way. Any other passes and changes nothing. If the side that is
//!   said to have reset speaks on, the RST was not its own, and the connection is as before.
//! - A SYN amid an established connection changes nothing: the peer answers it (RFC 5961, 4), and if its sender has indeed
//!   forgotten the connection, it resets it, and its next SYN opens anew. Should nobody answer, the connection counts as
//!   forgotten after [`FORGOTTEN_MS`].
//! - Without a flow (after a restart or expiry), any segment opens one, established as soon as both sides have spoken.

use super::Way;
use super::timeouts::FlowState;
use crate::parse::tcp_flag::{ACK, FIN, RST, SYN};
use tables::flow::FlowRecord;

/// Bytes of the header that are read: ports, sequence and acknowledgment number.
pub type Header = [u8; 12];

/// A SYN that comes so long after the last segment opens a new connection: its sender has given several up by then.
pub const FORGOTTEN_MS: u32 = 30_000;
/// Upper halves of sequence numbers ahead of what was acknowledged that a RST may be: 4 MiB are on their way. One behind,
/// too: numbers move while segments travel.
const AHEAD: u16 = 64;

/// Bits of `FlowRecord::state`; each way has its own, this is `Way::Out`'s.
const ACKED: u8 = 1;
const RESET: u8 = 4;
const CLOSED: u8 = 16;
const SYNCED: u8 = 64;

#[inline(always)]
fn of(way: Way, bit: u8) -> u8 {
    bit << way as u8
}

const fn both(bit: u8) -> u8 {
    bit * 3
}

/// Both sides have acknowledged.
pub fn is_established(state: u8) -> bool {
    state & both(ACKED) == both(ACKED)
}

/// Both sides have closed, or one has reset.
pub fn is_closed(state: u8) -> bool {
    state & both(RESET) != 0 || state & both(CLOSED) == both(CLOSED)
}

pub fn state(state: u8) -> FlowState {
    if state & both(RESET) != 0 {
        return FlowState::TcpReset;
    }
    match state & both(CLOSED) {
        closed if closed == both(CLOSED) => FlowState::TcpClosing,
        _ if !is_established(state) => FlowState::TcpOpening,
        0 => FlowState::TcpEstablished,
        _ => FlowState::TcpHalfClosed,
    }
}

/// Notes a segment. False: it changes nothing, and does not count as a sign of life.
#[inline(always)]
pub fn note(record: &mut FlowRecord, way: Way, flags: u8, header: &Header) -> bool {
    if flags & (SYN | FIN | RST | ACK) != ACK {
        return note_control(record, way, flags, header);
    }
    record.acked_high[way as usize] = u16::from_be_bytes([header[8], header[9]]);
    record.state = (record.state | of(way, ACKED)) & !of(way, RESET);
    true
}

/// One that opens or closes, or that has no business in a connection.
#[cold]
#[inline(never)]
fn note_control(record: &mut FlowRecord, way: Way, flags: u8, header: &Header) -> bool {
    let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (seq, ack) = (word(4), word(8));
    if flags & RST != 0 {
        let is_believed = resets(record, way, seq, (flags & ACK != 0).then_some(ack));
        record.state |= if is_believed { of(way, RESET) } else { 0 };
        return is_believed;
    }
    if flags & (SYN | FIN | ACK) == 0 {
        return false;
    }
    if flags & SYN != 0 {
        if is_established(record.state) {
            return false;
        }
        record.state |= of(way, SYNCED);
        if record.state & of(way.other(), ACKED) == 0 {
            // What its receiver will acknowledge.
            record.acked_high[way.other() as usize] = high(seq.wrapping_add(1));
        }
    }
    if flags & ACK != 0 {
        record.acked_high[way as usize] = high(ack);
        record.state |= of(way, ACKED);
    }
    if flags & FIN != 0 {
        record.state |= of(way, CLOSED);
    }
    record.state &= !of(way, RESET);
    true
}

/// Notes what a segment from the local end says of the other one, whose segments pass elsewhere: it acknowledges what it has
/// got, and has had acknowledged about as much as it sends now. Once it has closed, nobody tells when the other side does.
/// False: it says nothing.
pub fn note_unseen(record: &mut FlowRecord, flags: u8, header: &Header) -> bool {
    if flags & (SYN | RST | ACK) != ACK {
        return false;
    }
    let closed = if flags & FIN != 0 { of(Way::Back, CLOSED) } else { 0 };
    record.state |= of(Way::Back, ACKED) | closed;
    record.acked_high[Way::Back as usize] = u16::from_be_bytes([header[4], header[5]]);
    true
}

/// Whether a RST of this way may be its sender's own.
fn resets(record: &FlowRecord, way: Way, seq: u32, ack: Option<u32>) -> bool {
    // What a side acknowledges is known from itself, or from the SYN that it will acknowledge.
    let acked = |side: Way| {
        let is_known = record.state & (of(side, ACKED) | of(side.other(), SYNCED)) != 0;
        is_known.then(|| record.acked_high[side as usize])
    };
    let is_near = |number: u32, acked: u16| high(number).wrapping_sub(acked).wrapping_add(1) <= AHEAD + 1;
    let (by_receiver, by_sender) = (acked(way.other()), acked(way));
    let in_window = by_receiver.is_some_and(|acked| is_near(seq, acked));
    if in_window || is_established(record.state) {
        return in_window;
    }
    // Of one that opens: the answer to what it acknowledges; nothing is known of the first segment that is seen.
    let answers = ack.zip(by_sender).is_some_and(|(ack, acked)| is_near(ack, acked));
    answers || (by_receiver, by_sender) == (None, None)
}

fn high(number: u32) -> u16 {
    (number >> 16) as u16
}

#[cfg(test)]
#[path = "tcp_tests.rs"]
mod tests;
