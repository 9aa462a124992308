//! Flow state as it lies in memory that outlives a process: one region for each worker, written by that worker alone,
//! kept open by control, adopted by a successor of the same layout. The logic is the dataplane's; here are the records
//! and the header, so that `fairway flows` can list them.
//!
//! Layout: header (128 words) | index: buckets of a cache line each | records of two cache lines each | affinities
//! ([`affinity`](crate::affinity)).

use crate::addr::{Addr, Protocol};
use crate::affinity::{self, AffinityRecord};
use crate::checksum::{Difference, Folded};
use crate::layout::{self, LAYOUT_VERSION, LayoutError, MAGIC_FLOWS, WORD_MAGIC, WORD_SIZE, WORD_VERSION};
use crate::region::{Region, RegionError};
use crate::scope::Scopes;
use bytemuck::{Pod, Zeroable};
use std::sync::atomic::Ordering;

/// A flow seen from one local end; both directions share it. Ports are numbers in native order; an ICMP echo's
/// identifier is the port of the side that asks, the other side's is 0.
#[derive(Clone, Copy, Pod, Zeroable, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Tuple {
    pub local: Addr,
    pub remote: Addr,
    pub local_port: u16,
    pub remote_port: u16,
    pub protocol: Protocol,
    pub reserved: u8,
    /// Network id, 0 for the cluster's only one.
    pub network: u16,
}

impl Tuple {
    /// All that it says. Put together from its fields in registers: a processor is slow to read a word of which parts were
    /// just written.
    #[inline(always)]
    pub fn words(&self) -> [u64; 5] {
        let ports = self.local_port as u32 | (self.remote_port as u32) << 16;
        let last =
            ports as u64 | (self.protocol.0 as u64) << 32 | (self.reserved as u64) << 40 | (self.network as u64) << 48;
        let ([local_high, local_low], [remote_high, remote_low]) = (self.local.words(), self.remote.words());
        [local_high, local_low, remote_high, remote_low, last]
    }

    /// The tuple that says so.
    #[inline(always)]
    pub fn of_words([local_high, local_low, remote_high, remote_low, last]: [u64; 5]) -> Tuple {
        Tuple {
            local: Addr::of_words([local_high, local_low]),
            remote: Addr::of_words([remote_high, remote_low]),
            local_port: last as u16,
            remote_port: (last >> 16) as u16,
            protocol: Protocol((last >> 32) as u8),
            reserved: (last >> 40) as u8,
            network: (last >> 48) as u16,
        }
    }

    /// The same flow seen from the other end.
    pub fn reversed(&self) -> Tuple {
        Tuple {
            local: self.remote,
            remote: self.local,
            local_port: self.remote_port,
            remote_port: self.local_port,
            ..*self
        }
    }
}

/// What becomes of the packets of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum HopKind {
    /// Not decided.
    #[default]
    None = 0,
    /// Dropped; `reason` says why, `target` is the policy that forbids it, for its counter.
    Drop = 1,
    /// Encapsulated and sent through the uplink: `target` is the route id.
    Tunnel = 2,
    /// Through the uplink to a next hop: `target` is the neighbour's index.
    Uplink = 3,
    /// Out of a TAP, to a pod or the host: `target` is the interface id.
    Interface = 4,
    /// To another local end, whose own half of the flow is judged next: `target` is its interface id.
    Endpoint = 5,
    /// Refused with a TCP reset or an ICMP error.
    Reject = 6,
    /// Answered by the node itself.
    Punt = 7,
    /// As it came to the node of its backend, which answers the client by itself (direct server return): `target` is the
    /// backend's route id.
    Direct = 8,
}

#[derive(Clone, Copy, Pod, Zeroable, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Hop {
    kind: u8,
    /// `DropReason` of a Drop.
    pub reason: u8,
    /// Worker that owns the target of `Endpoint` and `Interface`.
    pub worker: u16,
    pub target: u32,
}

impl HopKind {
    /// Whether packets go on, and are not dropped, refused or answered. `Direct` has a way of its own.
    #[inline(always)]
    pub fn forwards(self) -> bool {
        matches!(self, HopKind::Tunnel | HopKind::Uplink | HopKind::Interface | HopKind::Endpoint)
    }
}

impl Hop {
    pub fn new(kind: HopKind, target: u32) -> Hop {
        Hop { kind: kind as u8, target, ..Hop::default() }
    }

    pub fn drop(reason: crate::counters::DropReason, policy: u32) -> Hop {
        Hop { kind: HopKind::Drop as u8, reason: reason as u8, target: policy, ..Hop::default() }
    }

    #[inline(always)]
    pub fn is(&self, kind: HopKind) -> bool {
        self.kind == kind as u8
    }

    #[inline(always)]
    pub fn kind(&self) -> HopKind {
        use HopKind::*;
        // In their order, so that it is a comparison and not a jump.
        const KINDS: [HopKind; 9] = [None, Drop, Tunnel, Uplink, Interface, Endpoint, Reject, Punt, Direct];
        KINDS[if self.kind < 9 { self.kind as usize } else { 0 }]
    }
}

/// The local end opened the flow (else the remote one).
pub const FLAG_OPENED_LOCALLY: u8 = 1;
/// Addresses or ports are translated: `outside` differs from `inside`.
pub const FLAG_TRANSLATED: u8 = 2;
/// Both directions have been seen.
pub const FLAG_ANSWERED: u8 = 4;
/// The record is in use.
pub const FLAG_USED: u8 = 8;
/// Who opened it spoke on after an answer, as nobody does who invented its source.
pub const FLAG_CONFIRMED: u8 = 16;
/// One of its ends is a client outside who asked a service. Of the flow that the client opened, the local end is the
/// client; of its other half on this node, the remote end: its answers go to the worker that `out` names.
pub const FLAG_CLIENT: u8 = 32;
/// A client outside asked another node, which sent its packets here as they came (direct server return): towards the network
/// the local end is the service that was asked.
pub const FLAG_DIRECT: u8 = 64;
/// Its backend has been told of it, and will be when it goes: the service spreads flows by how many there are.
pub const FLAG_COUNTED: u8 = 128;

/// One flow: two cache lines. `inside` is what the local end sees, `outside` what the network sees; without translation
/// they are equal. What packets from the local end need first is in the first line, for those towards it in the second.
#[derive(Clone, Copy, Pod, Zeroable, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FlowRecord {
    pub inside: Tuple,
    /// From the local end to the remote one.
    pub out: Hop,
    pub scopes: Scopes,
    /// How far TCP or SCTP is, see the dataplane's flow/tcp.rs and flow/sctp.rs.
    pub state: u8,
    pub flags: u8,
    /// What translating a packet from the local end does to a checksum over its addresses.
    addresses_difference: u16,
    outside_local: Addr,
    outside_remote: Addr,
    outside_local_port: u16,
    outside_remote_port: u16,
    /// Milliseconds of the worker's clock, wrapping.
    pub last_seen_ms: u32,
    /// From the remote end to the local one.
    pub back: Hop,
    /// What it does to the layer-4 checksum.
    l4_difference: u16,
    /// Route of the remote end, and the peer its tunnel packets must come from.
    pub route: u16,
    /// Service that chose the backend, 0 for none; of an unused record the next one.
    pub service: u32,
    /// Both ways.
    pub packets: u32,
    /// From the local end, and from the remote one. TCP: the upper half of the last acknowledgment number; SCTP: of the
    /// verification tag.
    pub acked_high: [u16; 2],
}

const _: () = assert!(size_of::<FlowRecord>() == 2 * 64);

impl FlowRecord {
    /// A record of these two tuples, which are of one protocol and network; nothing else is set.
    #[inline(always)]
    pub fn new(inside: Tuple, outside: &Tuple) -> FlowRecord {
        let mut addresses = Difference::default();
        addresses.replace_addr(inside.local, outside.local);
        addresses.replace_addr(inside.remote, outside.remote);
        let mut l4 = Difference::default();
        l4.replace(inside.local_port, outside.local_port);
        l4.replace(inside.remote_port, outside.remote_port);
        // ICMP's checksum knows no addresses (RFC 792).
        let l4 = if inside.protocol == Protocol::ICMP { l4 } else { l4.and(addresses) };
        FlowRecord {
            inside,
            outside_local: outside.local,
            outside_remote: outside.remote,
            outside_local_port: outside.local_port,
            outside_remote_port: outside.remote_port,
            addresses_difference: addresses.folded().0,
            l4_difference: l4.folded().0,
            ..FlowRecord::zeroed()
        }
    }

    /// What translating a packet that goes `out` from the local end, or comes back, does to checksums over the addresses
    /// and of layer 4.
    #[inline(always)]
    pub fn differences(&self, out: bool) -> (Folded, Folded) {
        let (addresses, l4) = (Folded(self.addresses_difference), Folded(self.l4_difference));
        if out { (addresses, l4) } else { (addresses.undone(), l4.undone()) }
    }

    #[inline(always)]
    pub fn outside(&self) -> Tuple {
        Tuple {
            local: self.outside_local,
            remote: self.outside_remote,
            local_port: self.outside_local_port,
            remote_port: self.outside_remote_port,
            ..self.inside
        }
    }

    /// What becomes of packets from the local end (`out`), or towards it.
    #[inline(always)]
    pub fn hop(&self, out: bool) -> Hop {
        if out { self.out } else { self.back }
    }

    /// Where the half begins that packets `out` of the local end need first, or those towards it: each is a cache line.
    #[inline(always)]
    pub fn half(&self, out: bool) -> &Addr {
        if out { &self.inside.local } else { &self.outside_local }
    }

    /// Whether the network sees other addresses or ports than the local end.
    pub fn is_translated(&self) -> bool {
        differences(&self.words(true), &self.words(false)) != 0
    }

    /// The words of the tuple that packets from the local end bear (`out`), or those towards it.
    #[inline(always)]
    pub fn words(&self, out: bool) -> [u64; 5] {
        if out {
            return self.inside.words();
        }
        let ([local_high, local_low], [remote_high, remote_low]) =
            (self.outside_local.words(), self.outside_remote.words());
        let [_, _, _, _, last] = self.outside().words();
        [local_high, local_low, remote_high, remote_low, last]
    }

    /// Whether packets from the local end (`out`), or those towards it, bear a tuple of these words; an unused record's bear
    /// none.
    #[inline(always)]
    pub fn is_of(&self, words: &[u64; 5], out: bool) -> bool {
        differences(&self.words(out), words) == 0
    }

    /// The same of a tuple of IPv4, whose upper words are zero.
    #[inline(always)]
    pub fn is_of_v4(&self, words: &[u64; 5], out: bool) -> bool {
        let [local_high, local_low, remote_high, remote_low, last] = self.words(out);
        local_low == words[1] && remote_low == words[3] && last == words[4] && local_high | remote_high == 0
    }

    /// The addresses and ports that packets which go `out` of the local end have after it, or those towards it, as they stand
    /// in the headers of IPv4: source before destination, each a word.
    #[inline(always)]
    pub fn ends_v4(&self, out: bool) -> (u64, u32) {
        // Its ports lie in one word, the local one lower.
        let (local, remote, ports) = match out {
            true => {
                let ports = self.outside_local_port as u32 | (self.outside_remote_port as u32) << 16;
                (self.outside_local, self.outside_remote, ports.rotate_left(16))
            }
            false => {
                let ports = self.inside.local_port as u32 | (self.inside.remote_port as u32) << 16;
                (self.inside.remote, self.inside.local, ports)
            }
        };
        let [[_, src], [_, dst]] = [local.words(), remote.words()];
        (src << 32 | dst as u32 as u64, ports)
    }

    /// Where the next unused record is, of one that is unused.
    pub fn next_free(&self) -> u32 {
        self.service
    }

    /// Makes it an unused record that names the next one. No packet bears its tuples: they are all zeroes.
    pub fn free(&mut self, next: u32) {
        *self = FlowRecord { service: next, ..FlowRecord::zeroed() };
    }
}

/// Bits by which some words differ.
#[inline(always)]
fn differences(some: &[u64; 5], others: &[u64; 5]) -> u64 {
    some.iter().zip(others).fold(0, |all, (a, b)| all | (a ^ b))
}

/// Header words of a flow region.
pub const WORD_CAPACITY: usize = 4;
pub const WORD_BUCKETS: usize = 5;
pub const WORD_FLOW_SEED: usize = 6;
pub const WORD_WORKER: usize = 7;
pub const WORD_WORKERS: usize = 9;
/// Wall-clock milliseconds at which the worker's clock was 0, so that a successor goes on with it.
pub const WORD_CLOCK_START: usize = 10;
/// Milliseconds of the worker's clock when its affinities were last used, not wrapping.
pub const WORD_AFFINITY_CLOCK: usize = 11;
pub const INDEX_START: usize = layout::JOURNAL_START;

/// Entries of a bucket.
pub const ENTRIES_PER_BUCKET: usize = 12;
/// Flows of one table at most: an entry has 24 bits for the record's number plus one.
pub const FLOWS_MAX: usize = (1 << 24) - 1;

/// A cache line of the index: where up to twelve tuples have their records.
#[derive(Clone, Copy, Pod, Zeroable, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Bucket {
    /// Eight bits of each tuple's hash; what stands at an empty entry means nothing.
    pub tags: [u8; ENTRIES_PER_BUCKET],
    /// Tuples that this bucket had no room for and that are in their second one: while 0, nobody looks there.
    pub overflown: u32,
    /// Eight other bits of the hash, and in the lower 24 the record's number plus one; 0 is empty.
    pub entries: [u32; ENTRIES_PER_BUCKET],
}

const _: () = assert!(size_of::<Bucket>() == 64);
const BUCKET_WORDS: usize = size_of::<Bucket>() / 8;

/// Where index and records lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowLayout {
    pub capacity: usize,
    pub buckets: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum FlowRegionError {
    #[error(transparent)]
    Region(#[from] RegionError),
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error("flow memory claims {capacity} records and {buckets} buckets, which do not fit its size")]
    Shape { capacity: u64, buckets: u64 },
}

impl FlowLayout {
    /// Room for `capacity` flows, between 64 and [`FLOWS_MAX`]; up to two index entries each, at half load.
    pub fn for_capacity(capacity: usize) -> FlowLayout {
        let capacity = capacity.clamp(64, FLOWS_MAX);
        FlowLayout { capacity, buckets: (capacity * 4).div_ceil(ENTRIES_PER_BUCKET) }
    }

    pub fn records_start(&self) -> usize {
        INDEX_START + self.buckets * BUCKET_WORDS
    }

    /// Words that are used; memory on huge pages has a few more.
    pub fn region_words(&self) -> usize {
        self.affinities_start() + self.affinities() * size_of::<AffinityRecord>() / 8
    }

    pub fn affinities_start(&self) -> usize {
        self.records_start() + self.capacity * size_of::<FlowRecord>() / 8
    }

    /// Clients that are remembered.
    pub fn affinities(&self) -> usize {
        affinity::capacity(self.capacity)
    }

    /// New zeroed flow memory for a worker.
    pub fn create(&self, worker: u16, workers: u16, seed: u64, clock_start: u64) -> Result<Region, RegionError> {
        let region = Region::create_huge(c"fairway-flows", self.region_words())?;
        let size = region.words().len() as u64;
        for (at, value) in [
            (WORD_MAGIC, MAGIC_FLOWS),
            (WORD_VERSION, LAYOUT_VERSION),
            (WORD_SIZE, size),
            (WORD_CAPACITY, self.capacity as u64),
            (WORD_BUCKETS, self.buckets as u64),
            (WORD_FLOW_SEED, seed),
            (WORD_WORKER, worker as u64),
            (WORD_WORKERS, workers as u64),
            (WORD_CLOCK_START, clock_start),
        ] {
            region.words()[at].store(value, Ordering::Relaxed);
        }
        Ok(region)
    }

    /// Reads the header of flow memory that another process made.
    pub fn read(region: &Region) -> Result<FlowLayout, FlowRegionError> {
        let words = region.words();
        let word = |i: usize| words.get(i).map_or(0, |w| w.load(Ordering::Relaxed));
        layout::check_header(word, MAGIC_FLOWS, "flows", words.len())?;
        let (capacity, buckets) = (word(WORD_CAPACITY), word(WORD_BUCKETS));
        let shape = FlowRegionError::Shape { capacity, buckets };
        if capacity == 0 || capacity > FLOWS_MAX as u64 || buckets == 0 || buckets > u32::MAX as u64 {
            return Err(shape);
        }
        let layout = FlowLayout { capacity: capacity as usize, buckets: buckets as usize };
        if layout.region_words() <= words.len() { Ok(layout) } else { Err(shape) }
    }
}

/// All used records of a flow region that another process is writing: a snapshot record by record, for listings.
pub fn list(region: &Region) -> Result<impl Iterator<Item = FlowRecord> + '_, FlowRegionError> {
    let layout = FlowLayout::read(region)?;
    let words = size_of::<FlowRecord>() / 8;
    Ok((0..layout.capacity)
        .map(move |i| crate::view::read_record::<FlowRecord>(region.words(), layout.records_start() + i * words))
        .filter(|record| record.flags & FLAG_USED != 0))
}
