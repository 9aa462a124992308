//! Echo (RFC 792, RFC 4443 4.2): the gateway answers. Decides only whether there is an answer.

use super::{drop_extensions, turn_ip, turned};
use crate::parse::Meta;
use crate::rewrite::{fill_l4, set_macs};
use tables::{Mac, Protocol};

/// Turns an echo request into its reply, and gives its size; the packet lies in one frame.
pub fn answer_echo(bytes: &mut [u8], meta: &Meta, own_mac: Mac) -> Option<usize> {
    let reply = match (meta.protocol, bytes[meta.l4 as usize]) {
        (Protocol::ICMP, 8) => 0,
        (Protocol::ICMPV6, 128) => 129,
        _ => return None,
    };
    if bytes.len() < meta.end as usize {
        return None;
    }
    let meta = drop_extensions(bytes, meta);
    bytes[meta.l4 as usize] = reply;
    fill_l4(bytes, &turned(&meta));
    turn_ip(bytes, &meta);
    set_macs(bytes, own_mac, meta.src_mac);
    Some(meta.end as usize)
}
