//! What a node sends to the node of a backend where that is to answer the client by itself (direct server return): the
//! client's packet as it came, in Geneve (RFC 8926) with one option that names the backend. The option is critical: who does
//! not know it drops the packet, and does not deliver it to the service's address. Must not decide who is served so.
//!
//! The packet inside stays as the client sent it, so that ICMP errors, about it or about what answers it, quote what their
//! receiver knows, and the flow at the backend's node is translated as any other.

use super::{FLAG_CRITICAL, OuterHeaders, TUNNEL_BYTES};
use tables::Addr;

/// Of the range for experiments (RFC 8926, 7).
const CLASS: [u8; 2] = [0xff, 0x46];
/// The highest bit: critical.
const TYPE: u8 = 0x81;
const HEADER_BYTES: usize = 4;
/// An address, a port, and two bytes that are zero.
const DATA_V4_BYTES: usize = 4 + 4;
const DATA_V6_BYTES: usize = 16 + 4;
pub const OPTION_V4_BYTES: usize = HEADER_BYTES + DATA_V4_BYTES;
pub const OPTION_V6_BYTES: usize = HEADER_BYTES + DATA_V6_BYTES;
const MACS_BYTES: usize = 12;

/// Bytes of the option of a packet of this family.
pub const fn option_bytes(is_v4: bool) -> usize {
    if is_v4 { OPTION_V4_BYTES } else { OPTION_V6_BYTES }
}

/// Bytes that an IP packet grows by: nodes tunnel over IPv4 if they can.
pub const fn overhead(over_v4: bool, is_v4: bool) -> usize {
    option_bytes(is_v4) + if over_v4 { super::OUTER_V4_BYTES } else { super::OUTER_V6_BYTES }
}

/// Whether these options of a Geneve header are ours alone.
pub(super) fn is_option(options: &[u8]) -> bool {
    let data = match options.len() {
        OPTION_V4_BYTES => DATA_V4_BYTES,
        OPTION_V6_BYTES => DATA_V6_BYTES,
        _ => return false,
    };
    options[..2] == CLASS && options[2] == TYPE && options[3] == (data / 4) as u8
}

/// The backend that an option names, if it is one of this family.
pub fn backend(option: &[u8], is_v4: bool) -> Option<(Addr, u16)> {
    let data = option.get(HEADER_BYTES..).filter(|_| option.len() == option_bytes(is_v4) && is_option(option))?;
    let (addr, port) = data.split_at(data.len() - 4);
    let addr = match addr.len() {
        4 => Addr::v4(addr.try_into().ok()?),
        _ => Addr::v6(addr.try_into().ok()?),
    };
    Some((addr, u16::from_be_bytes([port[0], port[1]])))
}

impl OuterHeaders {
    /// As [`write`](Self::write) of Geneve headers, and the option behind them, for which there is room, too.
    pub fn write_with_backend(
        &self,
        frame: &mut [u8],
        total: usize,
        (flow_hash, traffic_class): (u64, u8),
        (addr, port): (Addr, u16),
    ) {
        self.write(frame, total, flow_hash, traffic_class);
        let (header, size) = (self.size() - TUNNEL_BYTES, option_bytes(addr.is_v4()));
        let Some(bytes) = frame.get_mut(header..).filter(|bytes| bytes.len() >= TUNNEL_BYTES + size + MACS_BYTES)
        else {
            return;
        };
        bytes[0] |= (size / 4) as u8;
        bytes[1] |= FLAG_CRITICAL;
        // They were written where they stand without an option.
        bytes.copy_within(TUNNEL_BYTES..TUNNEL_BYTES + MACS_BYTES, TUNNEL_BYTES + size);
        let option = &mut bytes[TUNNEL_BYTES..TUNNEL_BYTES + size];
        option[..2].copy_from_slice(&CLASS);
        option[2..HEADER_BYTES].copy_from_slice(&[TYPE, ((size - HEADER_BYTES) / 4) as u8]);
        match addr.is_v4() {
            true => option[HEADER_BYTES..size - 4].copy_from_slice(&addr.v4_octets()),
            false => option[HEADER_BYTES..size - 4].copy_from_slice(&addr.v6_octets()),
        }
        let [high, low] = port.to_be_bytes();
        option[size - 4..].copy_from_slice(&[high, low, 0, 0]);
    }
}
