//! Where things lie in a tables region, and the checks that let a reader trust it. The region is
//! `header | journal | copy 0 | copy 1`; every offset is in 8-byte words from the start of the mapping.
//!
//! | words | what |
//! |---|---|
//! | 0 | magic, also says which kind of region |
//! | 1 | layout version |
//! | 2 | size of the whole region in words |
//! | 3 | words of one copy |
//! | 4 | offset of copy 0 (copy 1 follows it) |
//! | 5 | seed of the hash tables |
//! | 8 | generation: the one word that a publish flips; its lowest bit names the live copy |
//! | 16.. | directory: for each table record size (words), capacity (records; a hash table: a power of two), offset in a copy |
//!
//! This file must not read or write rows.

use crate::limits::*;

/// Changes whenever the meaning of any shared byte changes.
pub const LAYOUT_VERSION: u64 = 11;
pub const MAGIC_TABLES: u64 = u64::from_le_bytes(*b"FWtables");
pub const MAGIC_STATUS: u64 = u64::from_le_bytes(*b"FWstatus");
pub const MAGIC_FLOWS: u64 = u64::from_le_bytes(*b"FWflows\0");

pub const WORD_MAGIC: usize = 0;
pub const WORD_VERSION: usize = 1;
pub const WORD_SIZE: usize = 2;
pub const WORD_COPY_SIZE: usize = 3;
pub const WORD_COPY_START: usize = 4;
pub const WORD_SEED: usize = 5;
pub const WORD_GENERATION: usize = 8;
const DIRECTORY_START: usize = 16;
const DIRECTORY_ENTRY_WORDS: usize = 3;
/// A slot of the policy table: tag, key, value, and a word of padding, so that none reaches over two cache lines.
pub(crate) const POLICY_SLOT_WORDS: usize = 4;
/// For each of the last publishes a bitmap of touched scopes, and behind it the services among them by their ids, two a word,
/// the lower half first, if they are few; 0: none, or too many.
pub const JOURNAL_START: usize = 128;
pub const SCOPE_BITMAP_WORDS: usize = SCOPE_SLOTS / 64;
pub const SERVICES_NAMED_MAX: usize = 16;
pub const JOURNAL_ENTRY_WORDS: usize = SCOPE_BITMAP_WORDS + SERVICES_NAMED_MAX / 2;
const COPY_START: usize = JOURNAL_START + JOURNAL_PUBLISHES * JOURNAL_ENTRY_WORDS;

/// The tables of a copy, in the order they lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Table {
    /// Of each hash table, how many of its slots are in use, less one: one less than a power of two.
    Masks,
    Node,
    Endpoint,
    RouteLengths,
    RoutePrefix,
    Route,
    IdentityLengths,
    IdentityPrefix,
    Neighbour,
    Peer,
    Service,
    Backend,
    Source,
    PolicySet,
    Policy,
    Rule,
    Revision,
    Ring,
    TakenPorts,
    // Big and mostly untouched: last, so that the others lie close together.
    RouteTrie,
    IdentityTrie,
}

pub const TABLES: [Table; 21] = [
    Table::Masks,
    Table::Node,
    Table::Endpoint,
    Table::RouteLengths,
    Table::RoutePrefix,
    Table::Route,
    Table::IdentityLengths,
    Table::IdentityPrefix,
    Table::Neighbour,
    Table::Peer,
    Table::Service,
    Table::Backend,
    Table::Source,
    Table::PolicySet,
    Table::Policy,
    Table::Rule,
    Table::Revision,
    Table::Ring,
    Table::TakenPorts,
    Table::RouteTrie,
    Table::IdentityTrie,
];

impl Table {
    /// As it is called in messages and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Table::Masks => "masks",
            Table::Node => "node",
            Table::Endpoint => "endpoint",
            Table::RouteLengths => "route_lengths",
            Table::RoutePrefix => "route_prefix",
            Table::Route => "route",
            Table::IdentityLengths => "identity_lengths",
            Table::IdentityPrefix => "identity",
            Table::Neighbour => "neighbour",
            Table::Peer => "peer",
            Table::Service => "service",
            Table::Backend => "backend",
            Table::Source => "source",
            Table::PolicySet => "policy_set",
            Table::Policy => "policy",
            Table::Rule => "rule",
            Table::Revision => "revision",
            Table::Ring => "ring",
            Table::TakenPorts => "taken_ports",
            Table::RouteTrie => "route_trie",
            Table::IdentityTrie => "identity_trie",
        }
    }

    /// (words of a record, records). Hash tables get twice their limit, so that probes stay short; of these slots as many
    /// are in use as the rows need (keyed.rs).
    fn shape(self) -> (usize, usize) {
        let words = |bytes: usize| bytes / 8;
        let hash = |key: usize, value: usize| 1 + words(key + value);
        match self {
            Table::Masks => (1, TABLES.len()),
            Table::Node => (words(size_of::<crate::node::NodeRecord>()), 1),
            Table::Endpoint => (hash(16, size_of::<crate::endpoint::EndpointRecord>()), 2 * ENDPOINTS_MAX),
            Table::RouteLengths | Table::IdentityLengths => (words(size_of::<crate::lpm::Lengths>()), 1),
            Table::RoutePrefix => (hash(24, 8), 2 * ROUTES_MAX),
            Table::Route => (words(size_of::<crate::route::RouteRecord>()), ROUTES_MAX),
            Table::IdentityPrefix => (hash(24, 8), 2 * IDENTITIES_MAX),
            Table::Neighbour => (words(size_of::<crate::neighbour::NeighbourRecord>()), NEIGHBOURS_MAX),
            Table::Peer => (hash(16, size_of::<crate::node::PeerRecord>()), 2 * PEERS_MAX),
            Table::Service => (
                hash(size_of::<crate::service::ServiceKey>(), size_of::<crate::service::ServiceRecord>()),
                2 * SERVICES_MAX,
            ),
            Table::Backend => (words(size_of::<crate::service::BackendRecord>()), BACKENDS_MAX),
            Table::Source => (words(size_of::<crate::service::SourceRecord>()), SOURCES_MAX),
            Table::PolicySet => (words(size_of::<crate::policy::PolicySetRecord>()), POLICY_SETS_MAX),
            Table::Policy => (POLICY_SLOT_WORDS, 2 * POLICY_ROWS_MAX),
            Table::Rule => (words(size_of::<crate::rules::RuleBlock>()), RULE_BLOCKS_MAX),
            Table::Revision => (1, 1),
            Table::Ring => (1, RING_WORDS_MAX),
            Table::TakenPorts => (1, crate::taken::WORDS),
            Table::RouteTrie => (crate::lpm::GROUP_WORDS, trie_groups(ROUTES_MAX)),
            Table::IdentityTrie => (crate::lpm::GROUP_WORDS, trie_groups(IDENTITIES_MAX)),
        }
    }
}

/// One table's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Place {
    pub record_words: usize,
    pub capacity: usize,
    /// Words from the start of a copy.
    pub offset: usize,
}

/// All places; computed by the writer, read and checked by the reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    pub places: [Place; TABLES.len()],
    pub copy_start: usize,
    pub copy_words: usize,
}

/// Why a region was refused. Each says what to do.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LayoutError {
    #[error(
        "shared memory does not begin with Fairway's mark for {0}: it is not ours, or was damaged; restart the other process"
    )]
    Magic(&'static str),
    #[error(
        "shared memory has layout version {theirs}, this process speaks {ours}: restart the older process so that both are of one build"
    )]
    Version { theirs: u64, ours: u64 },
    #[error(
        "shared memory says it has {claimed} words but {mapped} are mapped: it was damaged; restart the other process"
    )]
    Size { claimed: u64, mapped: usize },
    #[error(
        "table {0} lies outside the shared memory or has another shape than this build expects: restart both processes"
    )]
    Place(&'static str),
}

impl Layout {
    /// The layout of this build, with room for every limit.
    pub fn full() -> Layout {
        let mut places = [Place::default(); TABLES.len()];
        let mut offset = 0;
        for table in TABLES {
            let (record_words, capacity) = table.shape();
            places[table as usize] = Place { record_words, capacity, offset };
            // Tables start on cache lines.
            offset += (record_words * capacity).next_multiple_of(8);
        }
        Layout { places, copy_start: COPY_START, copy_words: offset }
    }

    pub fn region_words(&self) -> usize {
        self.copy_start + 2 * self.copy_words
    }

    pub fn place(&self, table: Table) -> Place {
        self.places[table as usize]
    }

    /// The header as (word, value) pairs.
    pub fn header(&self, seed: u64) -> Vec<(usize, u64)> {
        let mut header = vec![
            (WORD_MAGIC, MAGIC_TABLES),
            (WORD_VERSION, LAYOUT_VERSION),
            (WORD_SIZE, self.region_words() as u64),
            (WORD_COPY_SIZE, self.copy_words as u64),
            (WORD_COPY_START, self.copy_start as u64),
            (WORD_SEED, seed),
        ];
        for (i, place) in self.places.iter().enumerate() {
            let at = DIRECTORY_START + i * DIRECTORY_ENTRY_WORDS;
            header.push((at, place.record_words as u64));
            header.push((at + 1, place.capacity as u64));
            header.push((at + 2, place.offset as u64));
        }
        header
    }

    /// Reads a header that somebody else wrote. `word` answers 0 beyond the end of the mapping.
    pub fn read(word: impl Fn(usize) -> u64, mapped_words: usize) -> Result<Layout, LayoutError> {
        check_header(&word, MAGIC_TABLES, "tables", mapped_words)?;
        let mut layout = Layout {
            places: [Place::default(); TABLES.len()],
            copy_start: word(WORD_COPY_START) as usize,
            copy_words: word(WORD_COPY_SIZE) as usize,
        };
        let end = layout.copy_words.checked_mul(2).and_then(|w| w.checked_add(layout.copy_start));
        if layout.copy_start < COPY_START || end.is_none_or(|end| end > mapped_words) {
            return Err(LayoutError::Place("(copies)"));
        }
        for table in TABLES {
            let at = DIRECTORY_START + table as usize * DIRECTORY_ENTRY_WORDS;
            let [record_words, capacity, offset] = [word(at), word(at + 1), word(at + 2)].map(|v| v as usize);
            layout.places[table as usize] = Place { record_words, capacity, offset };
            layout.check_place(table)?;
        }
        Ok(layout)
    }

    fn check_place(&self, table: Table) -> Result<(), LayoutError> {
        let Place { record_words, capacity, offset } = self.place(table);
        let end = record_words.checked_mul(capacity).and_then(|w| w.checked_add(offset));
        let fits = offset % 8 == 0 && end.is_some_and(|end| end <= self.copy_words);
        if fits && (record_words, capacity) == table.shape() {
            return Ok(());
        }
        Err(LayoutError::Place(table.name()))
    }
}

/// Magic, version and size, which every kind of region begins with.
pub fn check_header(
    word: impl Fn(usize) -> u64,
    magic: u64,
    kind: &'static str,
    mapped_words: usize,
) -> Result<(), LayoutError> {
    if mapped_words < JOURNAL_START || word(WORD_MAGIC) != magic {
        return Err(LayoutError::Magic(kind));
    }
    if word(WORD_VERSION) != LAYOUT_VERSION {
        return Err(LayoutError::Version { theirs: word(WORD_VERSION), ours: LAYOUT_VERSION });
    }
    if word(WORD_SIZE) != mapped_words as u64 {
        return Err(LayoutError::Size { claimed: word(WORD_SIZE), mapped: mapped_words });
    }
    Ok(())
}

const _: () = assert!(DIRECTORY_START + TABLES.len() * DIRECTORY_ENTRY_WORDS <= JOURNAL_START);

#[cfg(test)]
mod tests {
    use super::*;

    fn written(layout: &Layout) -> Vec<u64> {
        let mut words = vec![0; JOURNAL_START];
        for (at, value) in layout.header(7) {
            words[at] = value;
        }
        words
    }

    #[test]
    fn a_header_reads_back() {
        let layout = Layout::full();
        let words = written(&layout);
        let read = Layout::read(|i| words.get(i).copied().unwrap_or(0), layout.region_words());
        assert_eq!(read, Ok(layout));
    }

    #[test]
    fn every_damaged_header_word_is_refused() {
        let layout = Layout::full();
        let good = written(&layout);
        for (at, _) in layout.header(7).into_iter().filter(|(at, _)| *at != WORD_SEED) {
            for value in [u64::MAX, u64::MAX / 2, good[at].wrapping_mul(3).wrapping_add(1)] {
                let mut words = good.clone();
                words[at] = value;
                let read = Layout::read(|i| words.get(i).copied().unwrap_or(0), layout.region_words());
                assert!(read.is_err(), "word {at} = {value:#x} was taken for good");
            }
        }
    }
}
