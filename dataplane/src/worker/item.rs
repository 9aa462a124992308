//! What is known of a packet while it is on its way through a worker, or from one to another. Must not touch packet bytes.

use crate::classify::{Expected, Origin};
use crate::flow::{FlowId, Way};
use crate::packet::Packet;
use crate::parse::Meta;
use tables::flow::{Hop, Tuple};
use tables::owner::Worker;

/// What is known of a packet on its way; the packet itself stands beside it.
#[derive(Clone, Copy, Debug)]
pub struct Item {
    pub meta: Meta,
    /// Of the flow's tuple.
    pub hash: u64,
    pub way: Way,
    pub origin: Origin,
    /// The packet enters this node here: one hop is counted for each node that it passes.
    pub enters: bool,
    /// Its headers are as [`parse_plain`](crate::parse::parse_plain) wants them.
    pub is_plain: bool,
    /// Where in the burst its packet stands.
    pub at: u16,
    /// The worker that keeps its flow.
    pub owner: Worker,
    /// The flow that it most likely belongs to.
    pub likely: Option<FlowId>,
    /// Where it goes at the end.
    pub to: To,
}

impl Expected for Item {
    fn opens(&self) -> Option<(Tuple, u64, bool)> {
        let is_outside = !self.origin.is_here();
        (self.likely.is_none() && self.way == Way::Out).then(|| (self.tuple(), self.hash, is_outside))
    }
}

/// Where a packet goes once nothing else is to be done to its headers.
#[derive(Clone, Copy, Debug)]
pub enum To {
    /// It has come to its end, or is yet to be judged by another half of its flow.
    Nowhere,
    /// Out of this interface.
    Interface(u32),
    /// Out of the uplink by this hop, once it fits a wire.
    Wire(Hop),
}

impl Item {
    /// The flow's tuple by its local end.
    #[inline(always)]
    pub fn tuple(&self) -> Tuple {
        tuple(&self.meta, self.way)
    }

    /// Of a packet that stands `at` this place and belongs to a flow that `owner` keeps under this hash.
    #[inline(always)]
    pub(super) fn new(
        (owner, hash): (Worker, u64),
        at: u16,
        meta: Meta,
        is_plain: bool,
        way: Way,
        origin: Origin,
    ) -> Item {
        let enters = way == Way::Out || !origin.is_here();
        Item { meta, hash, way, origin, enters, is_plain, at, owner, likely: None, to: To::Nowhere }
    }

    /// Of a packet that is not in a burst.
    pub(super) fn of(meta: Meta, way: Way, origin: Origin) -> Item {
        Item { enters: true, ..Item::new((0, 0), 0, meta, false, way, origin) }
    }

    /// Whether all of the packet's bytes lie in its head frame.
    pub fn is_whole(&self, packet: &Packet) -> bool {
        !packet.is_chained() && self.meta.end as usize <= packet.head_size()
    }
}

/// The tuple of a packet's flow, by its local end.
#[inline(always)]
pub(super) fn tuple(meta: &Meta, way: Way) -> Tuple {
    if way == Way::Out { meta.from_local() } else { meta.from_remote() }
}
