//! Session affinity as it lies in memory that outlives a process: behind the flows of a worker, whose clients come to it
//! and to no other. Keyed by what a client asked for, not by service ids: those are control's and begin anew with it.
//!
//! Layout: sets of [`WAYS`] records, one set for each hash; a set that is full gives up the record that was not used for
//! the longest time. The logic is the dataplane's.

use crate::{Addr, Protocol};
use bytemuck::{Pod, Zeroable};

/// Records of a set.
pub const WAYS: usize = 8;
/// Longest affinity of the Kubernetes API.
pub const AFFINITY_MAX_S: u32 = 86_400;

/// Which backend serves a client: a cache line.
#[derive(Clone, Copy, Pod, Zeroable, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct AffinityRecord {
    pub service: Addr,
    pub client: Addr,
    pub backend: Addr,
    /// Milliseconds of the worker's clock, which goes on over restarts and here does not wrap.
    pub last_used_ms: u64,
    pub service_port: u16,
    pub backend_port: u16,
    pub protocol: Protocol,
    /// 1: the record is in use.
    pub used: u8,
    pub reserved: u16,
}

const _: () = assert!(size_of::<AffinityRecord>() == 64);

/// Clients that a worker with room for so many flows remembers: a whole number of sets.
pub fn capacity(flows_max: usize) -> usize {
    (flows_max / 8).next_multiple_of(WAYS).max(64)
}
