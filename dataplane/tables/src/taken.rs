//! Table `taken_ports`: the ports of the node that its own sockets or services (node ports, host ports) have although they are
//! SNAT ports, a bit each: port `p` is bit `p % 64` of word `p / 64`. No flow gets one of them. What comes to such a port is who
//! asks a service, or of no flow, and so the kernel's.

use crate::layout::Table;
use crate::view::View;
use std::collections::BTreeSet;

const PORTS_A_WORD: u16 = u64::BITS as u16;
pub const WORDS: usize = (u16::MAX / PORTS_A_WORD) as usize + 1;

/// Whether no flow may get this port.
#[inline]
pub fn is_taken(view: &View, port: u16) -> bool {
    let word: u64 = view.row(Table::TakenPorts, (port / PORTS_A_WORD) as usize);
    word >> (port % PORTS_A_WORD) & 1 != 0
}

/// The words in which these ports are, and what they are to say.
pub fn words(ports: &BTreeSet<u16>) -> Vec<(usize, u64)> {
    let mut words: Vec<(usize, u64)> = Vec::new();
    for port in ports {
        let (at, bit) = ((port / PORTS_A_WORD) as usize, 1 << (port % PORTS_A_WORD));
        match words.last_mut() {
            Some((last, word)) if *last == at => *word |= bit,
            _ => words.push((at, bit)),
        }
    }
    words
}
