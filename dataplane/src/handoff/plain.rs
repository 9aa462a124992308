//! What the sender of a plain packet has read of it: the next pass of its owner goes by that. Packed, so that it and the packet
//! are half a cache line ([`Slip`]). Decides nothing.

use crate::classify::whence::{Whence, WhenceKind};
use crate::flow::Way;
use crate::io::frames::Frame;
use crate::packet::{Burst, Checksum, Packet};
use tables::Addr;
use tables::limits::INTERFACES_MAX;

/// Of a packet over IPv4, that came from a node of IPv4 or from none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain {
    /// The last word of the tuple.
    ends: u64,
    local: u32,
    remote: u32,
    /// The other node; of a client's half its worker.
    peer: u32,
    marks: Marks,
}

/// From the lowest bit: the interface that the packet came in by, the one that it is addressed to plus one, whence it came,
/// which way it goes, and whether its checksum is known to be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Marks(u32);

const INTERFACE_BITS: u32 = INTERFACES_MAX.ilog2();
const ADDRESSED: u32 = INTERFACE_BITS;
const KIND: u32 = ADDRESSED + INTERFACE_BITS + 1;
const BACK: u32 = KIND + 3;
const VALID: u32 = BACK + 1;
const INTERFACE_MASK: u32 = INTERFACES_MAX as u32 - 1;
const ADDRESSED_MASK: u32 = 2 * INTERFACES_MAX as u32 - 1;
const KINDS: [WhenceKind; 8] = {
    use WhenceKind::{Client, Direct, Local, Tunnel, Uplink};
    [Tunnel, Uplink, Direct, Local, Client, Local, Local, Local]
};

const _: () = assert!(INTERFACES_MAX.is_power_of_two() && VALID < u32::BITS && size_of::<Slip>() == 32);

impl Plain {
    /// Of a packet whose tuple has these words. None: there is no room for it.
    #[inline(always)]
    pub fn of(words: &[u64; 5], way: Way, whence: &Whence) -> Option<Plain> {
        let [local_high, local_low, remote_high, remote_low, ends] = *words;
        let Whence { peer, worker, kind } = *whence;
        let addrs = [[local_high, local_low], [remote_high, remote_low], peer.words()];
        // Asked once of all.
        let [v4_high, v4_low] = Addr::v4_bits(0).words();
        let odd = addrs.iter().fold(0, |odd, [high, low]| odd | (high ^ v4_high) | (low ^ v4_low) >> 32);
        let [local, remote, peer] = addrs.map(|[_, low]| low as u32);
        let peer = if kind == WhenceKind::Client { worker as u32 } else { peer };
        let marks = Marks((kind as u32) << KIND | ((way == Way::Back) as u32) << BACK);
        (odd == 0 && kind != WhenceKind::Direct).then_some(Plain { ends, local, remote, peer, marks })
    }

    /// Of a packet whose hop is counted, and whose Ethernet header is written, as if it went out of this interface.
    #[inline(always)]
    pub fn addressed_to(self, interface: u32) -> Plain {
        let addressed = (interface + 1) & ADDRESSED_MASK;
        Plain { marks: Marks(self.marks.0 & !(ADDRESSED_MASK << ADDRESSED) | addressed << ADDRESSED), ..self }
    }

    /// The interface of which that is true.
    #[inline(always)]
    pub fn addressed(&self) -> Option<u32> {
        (self.marks.0 >> ADDRESSED & ADDRESSED_MASK).checked_sub(1)
    }

    #[inline(always)]
    pub fn way(&self) -> Way {
        if self.marks.0 >> BACK & 1 == 0 { Way::Out } else { Way::Back }
    }

    /// Of its tuple.
    #[inline(always)]
    pub fn words(&self) -> [u64; 5] {
        let [[local_high, local_low], [remote_high, remote_low]] =
            [self.local, self.remote].map(|addr| Addr::v4_bits(addr).words());
        [local_high, local_low, remote_high, remote_low, self.ends]
    }

    #[inline(always)]
    pub fn whence(&self) -> Whence {
        let kind = KINDS[(self.marks.0 >> KIND) as usize % KINDS.len()];
        let (peer, worker) = if kind == WhenceKind::Client { (0, self.peer as u16) } else { (self.peer, 0) };
        Whence { peer: Addr::v4_bits(peer), worker, kind }
    }
}

/// A plain packet and what is told of it, or the mark of one that stands elsewhere.
#[derive(Debug)]
#[repr(align(32))]
pub struct Slip {
    plain: Plain,
    /// None: it stands elsewhere.
    head: Option<Frame>,
    start: u16,
    size: u16,
}

impl Slip {
    /// Of a packet that stands elsewhere.
    pub const ELSEWHERE: Slip = {
        let plain = Plain { ends: 0, local: 0, remote: 0, peer: 0, marks: Marks(0) };
        Slip { plain, head: None, start: 0, size: 0 }
    };

    /// Whether there is room for all that a packet is.
    #[inline(always)]
    pub fn has_room(packet: &Packet) -> bool {
        packet.is_simple() && packet.interface <= INTERFACE_MASK
    }

    #[inline(always)]
    pub fn of(packet: Packet, mut plain: Plain) -> Slip {
        let Packet { head, start, size, interface, checksum, .. } = packet;
        plain.marks.0 |= interface | ((checksum == Checksum::Valid) as u32) << VALID;
        Slip { plain, head: Some(head), start, size }
    }

    /// Puts the packet into a burst that has room; what was told of it.
    #[inline(always)]
    pub fn unpack(self, burst: &mut Burst) -> Option<Plain> {
        let Slip { plain, head, start, size } = self;
        let mut packet = Packet::new(head?, start, size);
        packet.interface = plain.marks.0 & INTERFACE_MASK;
        let is_valid = plain.marks.0 >> VALID & 1 == 1;
        packet.checksum = if is_valid { Checksum::Valid } else { Checksum::Unverified };
        let _ = burst.push(packet);
        Some(Plain { marks: Marks(plain.marks.0 & !(INTERFACE_MASK | 1 << VALID)), ..plain })
    }

    /// Where its headers begin, if its owner is to write them.
    #[inline(always)]
    pub fn to_be_written(&self) -> Option<(&Frame, u16)> {
        let is_addressed = self.plain.addressed().is_some();
        self.head.as_ref().filter(|_| !is_addressed).map(|head| (head, self.start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::Origin;
    use tables::Protocol;
    use tables::flow::Tuple;

    const TUPLE: Tuple = Tuple {
        local: Addr::v4([10, 1, 0, 4]),
        remote: Addr::v4([10, 1, 1, 5]),
        local_port: 80,
        remote_port: 40_000,
        protocol: Protocol::UDP,
        reserved: 0,
        network: 7,
    };

    #[test]
    fn what_is_told_of_a_plain_packet_is_what_was_read() {
        let origins = [Origin::Tunnel(Addr::v4([192, 0, 2, 7])), Origin::Uplink, Origin::Local, Origin::Client(9)];
        for (origin, way) in origins.into_iter().zip([Way::Back, Way::Out, Way::Back, Way::Back]) {
            let plain = Plain::of(&TUPLE.words(), way, &origin.into()).unwrap();
            assert_eq!((plain.words(), plain.whence().origin(), plain.way()), (TUPLE.words(), origin, way));
            assert_eq!(plain.addressed(), None);
            for interface in [0, 1, INTERFACE_MASK] {
                let addressed = plain.addressed_to(interface);
                let whence = addressed.whence().origin();
                assert_eq!((addressed.words(), whence, addressed.way()), (TUPLE.words(), origin, way));
                assert_eq!(addressed.addressed(), Some(interface));
            }
        }
    }

    #[test]
    fn what_there_is_no_room_for_is_not_told() {
        let (v4, v6) = (Addr::v4([192, 0, 2, 7]), Addr::v6([0xfd; 16]));
        let of = |tuple: Tuple, origin: Origin| Plain::of(&tuple.words(), Way::Back, &origin.into());
        assert_eq!(of(TUPLE, Origin::Tunnel(v6)), None);
        assert_eq!(of(TUPLE, Origin::Direct(v4)), None);
        assert_eq!(of(Tuple { local: v6, ..TUPLE }, Origin::Local), None);
        assert_eq!(of(Tuple { remote: v6, ..TUPLE }, Origin::Local), None);
    }
}
