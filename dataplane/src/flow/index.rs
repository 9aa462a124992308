//! The index of a flow table: from a tuple's hash to the records that may bear it. Buckets of one cache line with twelve
//! entries; a tuple stands in its home bucket, or, where that was full, in a spare one. Tags are compared all at once.
//! Knows hashes and record numbers only: whether a record bears the tuple is the caller's to see.

use super::FlowId;
use tables::cpu::{equal_bytes, equal_words};
use tables::flow::{Bucket, ENTRIES_PER_BUCKET, FLOWS_MAX};

/// Bits of a hash that a bucket keeps beside the record's number.
#[derive(Clone, Copy)]
struct Mark {
    tag: u8,
    check: u32,
}

impl Mark {
    #[inline(always)]
    fn of(hash: u64) -> Mark {
        Mark { tag: hash as u8, check: (hash as u32 & 0xff00) << 16 }
    }

    #[inline(always)]
    fn entry(self, id: FlowId) -> u32 {
        self.check | (id + 1)
    }

    /// The record that an entry names, if its bits are ours and there are as many records.
    #[inline(always)]
    fn id_in(self, entry: u32, records: usize) -> Option<FlowId> {
        // Other bits make it too large, and an empty entry the largest of all.
        let id = (entry ^ self.check).wrapping_sub(1);
        ((id as usize) < records).then_some(id)
    }
}

/// The bucket where a tuple stands if there is room.
#[inline(always)]
pub fn home(buckets: &[Bucket], hash: u64) -> usize {
    (((hash >> 32) * buckets.len() as u64) >> 32) as usize
}

/// Spare buckets of a tuple: at half load a bucket is full once in fifty times, so that five are never all full.
const SPARES: usize = 4;

/// The buckets where a tuple stands if its home is full, in order: neighbours of each other, far from home.
fn spares(buckets: &[Bucket], hash: u64) -> impl Iterator<Item = usize> + use<> {
    let count = buckets.len();
    let first = (((hash & 0xffff_ffff) * count as u64) >> 32) as usize;
    (first..first + SPARES).map(move |spare| spare % count)
}

/// Bits of the entries whose tag is `tag`.
#[inline(always)]
fn matching(bucket: &Bucket, tag: u8) -> u16 {
    const ENTRIES: u16 = (1 << ENTRIES_PER_BUCKET) - 1;
    let line: &[[u8; 16]; 4] = bytemuck::cast_ref(bucket);
    equal_bytes(&line[0], tag) & ENTRIES
}

/// The records in one bucket that may bear a tuple of this hash, of so many that there are, at most [`FLOWS_MAX`].
#[inline(always)]
fn candidates(bucket: &Bucket, hash: u64, records: usize) -> impl Iterator<Item = FlowId> + '_ {
    let mark = Mark::of(hash);
    let mut bits = matching(bucket, mark.tag);
    std::iter::from_fn(move || {
        while bits != 0 {
            let at = bits.trailing_zeros() as usize;
            bits &= bits - 1;
            if let Some(id) = bucket.entries.get(at).and_then(|&entry| mark.id_in(entry, records)) {
                return Some(id);
            }
        }
        None
    })
}

/// The first record that may bear a tuple of this hash, without looking further than its home bucket.
#[inline(always)]
pub fn likely_at(home: &Bucket, hash: u64, records: usize) -> Option<FlowId> {
    candidates(home, hash, records).next()
}

/// The record of this hash that is the right one.
#[inline(always)]
pub fn find(buckets: &[Bucket], hash: u64, mut is_it: impl FnMut(FlowId) -> bool) -> Option<FlowId> {
    let bucket = &buckets[home(buckets, hash)];
    if let Some(id) = candidates(bucket, hash, FLOWS_MAX).find(|&id| is_it(id)) {
        return Some(id);
    }
    if bucket.overflown == 0 {
        return None;
    }
    spares(buckets, hash).find_map(|spare| candidates(&buckets[spare], hash, FLOWS_MAX).find(|&id| is_it(id)))
}

/// Adds a record under a hash. False: all its buckets are full.
#[inline(always)]
pub fn insert(buckets: &mut [Bucket], hash: u64, id: FlowId) -> bool {
    let home = home(buckets, hash);
    put(&mut buckets[home], hash, id) || insert_spare(buckets, home, hash, id)
}

#[cold]
#[inline(never)]
fn insert_spare(buckets: &mut [Bucket], home: usize, hash: u64, id: FlowId) -> bool {
    let inserted = spares(buckets, hash).any(|spare| put(&mut buckets[spare], hash, id));
    buckets[home].overflown += inserted as u32;
    inserted
}

/// Where the first entry of a bucket is that equals `wanted`. Found without a branch on each: nobody guesses it.
#[inline(always)]
fn position(bucket: &Bucket, wanted: u32) -> Option<usize> {
    let equal = equal_words(&bucket.entries, wanted);
    (equal != 0).then_some(equal.trailing_zeros() as usize % ENTRIES_PER_BUCKET)
}

#[inline(always)]
fn put(bucket: &mut Bucket, hash: u64, id: FlowId) -> bool {
    let Some(at) = position(bucket, 0) else { return false };
    let mark = Mark::of(hash);
    bucket.tags[at] = mark.tag;
    bucket.entries[at] = mark.entry(id);
    true
}

/// Takes a record out that was inserted under this hash.
#[inline(always)]
pub fn remove(buckets: &mut [Bucket], hash: u64, id: FlowId) {
    let home = home(buckets, hash);
    if !take(&mut buckets[home], hash, id) {
        remove_spare(buckets, home, hash, id);
    }
}

#[cold]
#[inline(never)]
fn remove_spare(buckets: &mut [Bucket], home: usize, hash: u64, id: FlowId) {
    if spares(buckets, hash).any(|spare| take(&mut buckets[spare], hash, id)) {
        buckets[home].overflown -= 1;
    }
}

#[inline(always)]
fn take(bucket: &mut Bucket, hash: u64, id: FlowId) -> bool {
    let found = position(bucket, Mark::of(hash).entry(id));
    if let Some(at) = found {
        bucket.entries[at] = 0;
    }
    found.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytemuck::Zeroable;

    /// Hashes that all have the same buckets.
    fn crowded(i: u32) -> u64 {
        (i as u64 & 0xff) << 8 | 1 << 63 | 7
    }

    #[test]
    fn a_full_bucket_overflows_into_its_spares_and_back() {
        let mut buckets = [Bucket::zeroed(); 8];
        let ids: Vec<u32> = (0..60).collect();
        // Home is not among the spares.
        assert!(spares(&buckets, crowded(0)).all(|spare| spare != home(&buckets, crowded(0))));
        assert!(ids.iter().all(|&id| insert(&mut buckets, crowded(id), id)));
        assert!(!insert(&mut buckets, crowded(60), 60));
        assert_eq!(buckets[home(&buckets, crowded(0))].overflown, 48);
        assert!(ids.iter().all(|&id| find(&buckets, crowded(id), |found| found == id) == Some(id)));
        ids.iter().for_each(|&id| remove(&mut buckets, crowded(id), id));
        assert!(buckets.iter().all(|b| b.overflown == 0 && b.entries == [0; ENTRIES_PER_BUCKET]));
        assert_eq!(find(&buckets, crowded(1), |_| true), None);
    }

    #[test]
    fn a_tag_that_matches_by_chance_is_told_apart_by_the_other_bits() {
        let mut buckets = [Bucket::zeroed(); 4];
        insert(&mut buckets, 7 | 1 << 8, 3);
        assert_eq!(likely_at(&buckets[home(&buckets, 7 | 1 << 8)], 7 | 1 << 8, 4), Some(3));
        assert_eq!(likely_at(&buckets[home(&buckets, 7 | 2 << 8)], 7 | 2 << 8, 4), None);
        assert_eq!(likely_at(&buckets[home(&buckets, 7 | 1 << 8)], 7 | 1 << 8, 3), None, "there is no such record");
    }
}
