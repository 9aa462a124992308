//! An [`Origin`] that waits in a queue or is handed over: in words, each written and read as a whole, since a processor is slow
//! to read what it has just written in other parts. Must not judge it.

use super::Origin;
use tables::Addr;
use tables::owner::Worker;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whence {
    /// The other node, if there is one.
    pub peer: Addr,
    /// Of a client's half.
    pub worker: Worker,
    pub kind: WhenceKind,
}

/// Which [`Origin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenceKind {
    Tunnel,
    Uplink,
    Direct,
    Local,
    Client,
}

/// Of what comes from no other node: one of IPv4, as most are.
const NO_PEER: Addr = Addr::v4([0; 4]);

impl Whence {
    /// Of what a local end sends.
    pub const LOCAL: Whence = Whence { peer: NO_PEER, worker: 0, kind: WhenceKind::Local };

    /// As [`Origin::is_here`].
    #[inline(always)]
    pub fn is_here(&self) -> bool {
        matches!(self.kind, WhenceKind::Local | WhenceKind::Client)
    }

    #[inline(always)]
    pub fn origin(&self) -> Origin {
        match self.kind {
            WhenceKind::Tunnel => Origin::Tunnel(self.peer),
            WhenceKind::Uplink => Origin::Uplink,
            WhenceKind::Direct => Origin::Direct(self.peer),
            WhenceKind::Local => Origin::Local,
            WhenceKind::Client => Origin::Client(self.worker),
        }
    }
}

impl From<Origin> for Whence {
    #[inline(always)]
    fn from(origin: Origin) -> Whence {
        let (peer, worker, kind) = match origin {
            Origin::Tunnel(peer) => (peer, 0, WhenceKind::Tunnel),
            Origin::Uplink => (NO_PEER, 0, WhenceKind::Uplink),
            Origin::Direct(peer) => (peer, 0, WhenceKind::Direct),
            Origin::Local => (NO_PEER, 0, WhenceKind::Local),
            Origin::Client(worker) => (NO_PEER, worker, WhenceKind::Client),
        };
        Whence { peer, worker, kind }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_comes_out_as_it_went_in() {
        let peers = [Addr::v4([192, 0, 2, 7]), Addr::v6([0xfd; 16])];
        let of_peers = peers.into_iter().flat_map(|peer| [Origin::Tunnel(peer), Origin::Direct(peer)]);
        for origin in of_peers.chain([Origin::Uplink, Origin::Local, Origin::Client(3)]) {
            let whence = Whence::from(origin);
            assert_eq!((whence.origin(), whence.is_here()), (origin, origin.is_here()));
        }
    }
}
