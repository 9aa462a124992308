//! What the sender of a plain packet has read of it: the next pass of its owner goes by that, and the headers are fetched for
//! whoever writes them. Packed, so that each packet is half a cache line, and this the other half. Decides nothing.

use crate::classify::whence::{Whence, WhenceKind};
use crate::flow::Way;
use tables::Addr;
use tables::owner::Worker;

/// Of a packet over IPv4, that came from a node of IPv4 or from none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain {
    local: u32,
    remote: u32,
    /// The last word of the tuple.
    ends: u64,
    peer: u32,
    worker: Worker,
    kind: WhenceKind,
    pub way: Way,
}

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
        (odd == 0 && kind != WhenceKind::Direct).then_some(Plain { local, remote, ends, peer, worker, kind, way })
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
        Whence { peer: Addr::v4_bits(self.peer), worker: self.worker, kind: self.kind }
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
            assert_eq!((plain.words(), plain.whence().origin(), plain.way), (TUPLE.words(), origin, way));
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
