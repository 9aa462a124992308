//! The segment size that a TCP SYN announces among its options. Lowers it, and its checksum follows; what it is lowered to is
//! the caller's to say.

use super::{get, put};
use crate::packet::Checksum;
use crate::parse::Meta;
use tables::checksum::{Difference, Folded};

/// Makes the maximum segment size that a SYN announces (RFC 9293, 3.7.1) at most `max`. Options that are cut short are left
/// as they are.
pub fn clamp_mss(bytes: &mut [u8], meta: &Meta, max: u16, checksum: Checksum) {
    let l4 = meta.l4 as usize;
    let Some(at) = mss_at(bytes, l4).filter(|&at| get(bytes, at) > max) else { return };
    let mut difference = Difference::default();
    difference.replace(get(bytes, at), max);
    // A sum counts bytes in pairs from the header's start.
    let Folded(word) = difference.folded();
    let difference = Folded(if (at - l4).is_multiple_of(2) { word } else { word.swap_bytes() });
    put(bytes, at, max);
    if !matches!(checksum, Checksum::Partial { .. }) {
        put(bytes, l4 + 16, difference.update(get(bytes, l4 + 16)));
    }
}

/// Where the maximum segment size stands among a TCP header's options.
fn mss_at(bytes: &[u8], l4: usize) -> Option<usize> {
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    const MSS: u8 = 2;
    let end = l4 + (*bytes.get(l4 + 12)? >> 4) as usize * 4;
    let mut at = l4 + 20;
    while at < end.min(bytes.len()) {
        match bytes[at] {
            END => return None,
            NOTHING => at += 1,
            kind => {
                let size = *bytes.get(at + 1)? as usize;
                if size < 2 || at + size > end.min(bytes.len()) {
                    return None;
                }
                if kind == MSS && size == 4 {
                    return Some(at + 2);
                }
                at += size;
            }
        }
    }
    None
}
