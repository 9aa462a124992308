//! Ethernet addresses of next hops on the underlay. Rows have stable indexes, so that a flow keeps an index and a
//! changed Ethernet address takes effect with the next packet. On-link destinations are found by address: an identity
//! of the neighbour table's index stands in the route table as a host route (`Via`) as soon as control has resolved it.

use crate::{Addr, Mac};
use bytemuck::{Pod, Zeroable};

pub const FLAG_RESOLVED: u16 = 1;

#[derive(Clone, Copy, Pod, Zeroable, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct NeighbourRecord {
    pub addr: Addr,
    pub mac: Mac,
    pub flags: u16,
}

impl NeighbourRecord {
    pub fn is_resolved(&self) -> bool {
        self.flags & FLAG_RESOLVED != 0
    }
}
