//! SCTP's progress in a flow, by RFC 9260: an association is opened by INIT, established by COOKIE-ACK, ended by the
//! shutdown or by ABORT. Which chunk comes first in a packet tells which it is; the verification tag that each side's
//! packets bear tells whether an end is its sender's own (upper half; where TCP keeps its acknowledgments).

use super::Way;
use super::timeouts::FlowState;
use tables::flow::FlowRecord;

/// Bytes that are read of any packet: the common header (verification tag at 4), and the first chunk's (type at 12, flags
/// at 13).
const HEADER_BYTES: usize = 16;

/// Chunk types (RFC 9260, 3.2).
pub mod chunk {
    pub const DATA: u8 = 0;
    pub const INIT: u8 = 1;
    pub const INIT_ACK: u8 = 2;
    pub const SACK: u8 = 3;
    pub const HEARTBEAT_ACK: u8 = 5;
    pub const ABORT: u8 = 6;
    pub const SHUTDOWN: u8 = 7;
    pub const SHUTDOWN_ACK: u8 = 8;
    pub const COOKIE_ACK: u8 = 11;
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

/// Bits of `FlowRecord::state`. Whether a way's tag is known: this is `Way::Out`'s.
const TAG: u8 = 1;
const ESTABLISHED: u8 = 4;
const SHUTDOWN: u8 = 8;
const CLOSED: u8 = 16;
/// The T bit of ABORT and SHUTDOWN-COMPLETE: the tag is the other side's (8.5.1).
const REFLECTED: u8 = 1;

pub fn is_closed(state: u8) -> bool {
    state & CLOSED != 0
}

pub fn state(state: u8) -> FlowState {
    if state & (CLOSED | SHUTDOWN) != 0 {
        FlowState::SctpClosing
    } else if state & ESTABLISHED != 0 {
        FlowState::SctpEstablished
    } else {
        FlowState::SctpOpening
    }
}

/// Notes a packet by its first chunk. False: it changes nothing, and does not count as a sign of life.
#[cold]
#[inline(never)]
pub fn note(record: &mut FlowRecord, way: Way, l4: &[u8]) -> bool {
    let Some(header) = l4.first_chunk::<HEADER_BYTES>() else { return false };
    let tag = u16::from_be_bytes([header[4], header[5]]);
    // INIT and INIT-ACK go on with it.
    let initiate_tag =
        l4.get(HEADER_BYTES..).and_then(|value| value.first_chunk()).map_or(0, |b| u16::from_be_bytes(*b));
    match header[12] {
        // Amid an association it may be anybody's; if it is a restart, COOKIE-ACK follows (5.2).
        chunk::INIT if record.state & ESTABLISHED != 0 => return false,
        chunk::INIT => learn(record, way.other(), initiate_tag),
        chunk::INIT_ACK => {
            learn(record, way.other(), initiate_tag);
            learn(record, way, tag);
        }
        chunk::ABORT | chunk::SHUTDOWN_COMPLETE => {
            let bearer = if header[13] & REFLECTED != 0 { way.other() } else { way };
            let is_known = record.state & TAG << bearer as u8 != 0;
            if is_known && record.acked_high[bearer as usize] != tag {
                return false;
            }
            record.state |= CLOSED;
        }
        chunk::COOKIE_ACK => {
            record.state = record.state & !(TAG << way.other() as u8 | SHUTDOWN | CLOSED) | ESTABLISHED;
            learn(record, way, tag);
        }
        chunk::SHUTDOWN | chunk::SHUTDOWN_ACK => record.state |= SHUTDOWN,
        // Picked up on its way, or alive after all.
        chunk::SACK | chunk::HEARTBEAT_ACK => {
            record.state = record.state & !CLOSED | ESTABLISHED;
            learn_once(record, way, tag);
        }
        _ => learn_once(record, way, tag),
    }
    true
}

/// Notes what a packet whose first chunk is this says of the other side, whose packets pass elsewhere: data are sent once the
/// association is there. False: it says nothing.
pub fn note_unseen(record: &mut FlowRecord, kind: u8) -> bool {
    if matches!(kind, chunk::DATA | chunk::SACK) {
        record.state |= ESTABLISHED;
    }
    !matches!(kind, chunk::INIT | chunk::ABORT)
}

fn learn(record: &mut FlowRecord, way: Way, tag: u16) {
    record.acked_high[way as usize] = tag;
    record.state |= TAG << way as u8;
}

fn learn_once(record: &mut FlowRecord, way: Way, tag: u16) {
    if record.state & TAG << way as u8 == 0 {
        learn(record, way, tag);
    }
}

#[cfg(test)]
#[path = "sctp_tests.rs"]
mod tests;
