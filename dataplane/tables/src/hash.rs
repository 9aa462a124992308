//! Hash tables in shared memory: open addressing, linear probing, deletion by shifting back, so that there are no
//! tombstones and a change is O(probe length). A slot is `tag | key | value`; tag 0 means empty. The hash is a folded
//! 64x64 -> 128 multiply (as in wyhash), keyed by a seed that the writer draws, so that an outsider cannot aim collisions.

use bytemuck::Pod;

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
/// Odd, with as many ones as zeroes in each byte (as wyhash's secrets).
const SECRET: u64 = 0xa076_1d64_78bd_642f;

/// Multiplies and folds the halves together.
#[inline(always)]
pub fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    (product >> 64) as u64 ^ product as u64
}

/// Hashes a record whose size is a multiple of eight bytes.
#[inline(always)]
pub fn hash<K: Pod>(key: &K, seed: u64) -> u64 {
    const { assert!(size_of::<K>().is_multiple_of(8)) };
    let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().expect("a word"));
    if size_of::<K>() == 8 {
        return fold(word(bytemuck::bytes_of(key)) ^ seed, SECRET);
    }
    let pairs = bytemuck::bytes_of(key).chunks(16).map(|pair| {
        let (one, other) = pair.split_at(8);
        (word(one), if other.is_empty() { 0 } else { word(other) })
    });
    hash_pairs(pairs, seed)
}

/// Hashes five words; the last one goes into the last multiplication.
#[inline(always)]
pub fn hash_words(words: &[u64; 5], seed: u64) -> u64 {
    Masks::new(seed).hash_words(words)
}

/// What [`hash_words`] makes of a seed before it looks at words, for who hashes many by one seed.
#[derive(Clone, Copy)]
pub struct Masks([u64; 5]);

impl Masks {
    #[inline(always)]
    pub fn new(seed: u64) -> Masks {
        let other = seed.rotate_left(32);
        Masks([seed ^ SECRET, other ^ MULTIPLIER, seed ^ MULTIPLIER, other ^ !SECRET, seed])
    }

    #[inline(always)]
    pub fn hash_words(&self, words: &[u64; 5]) -> u64 {
        let [a, b, c, d, e]: [u64; 5] = std::array::from_fn(|i| words[i] ^ self.0[i]);
        fold(fold(a, b) ^ fold(c, d).rotate_left(7) ^ e, SECRET)
    }
}

/// Pairs of words are multiplied with each other, each pair by itself, so that a processor works on all at once.
#[inline(always)]
fn hash_pairs(pairs: impl Iterator<Item = (u64, u64)>, seed: u64) -> u64 {
    let mut state = MULTIPLIER;
    for (i, (one, other)) in pairs.enumerate() {
        let round = SECRET.rotate_left(13 * i as u32);
        state ^= fold(one ^ seed ^ round, other ^ seed.rotate_left(32) ^ !round).rotate_left(7 * i as u32);
    }
    fold(state ^ seed, SECRET)
}

/// The hash with its highest bit free of meaning and never zero, as it stands in a slot.
#[inline(always)]
pub fn tag<K: Pod>(key: &K, seed: u64) -> u64 {
    hash(key, seed) | 1 << 63
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_keys_spread_over_buckets() {
        let mut counts = [0u32; 256];
        for i in 0..256 * 64u64 {
            counts[(hash(&[0u64, i, 7], 3) & 255) as usize] += 1;
        }
        // 64 expected in each; a standard deviation is 8.
        assert!(counts.iter().all(|&c| (24..=112).contains(&c)), "{counts:?}");
    }

    #[test]
    fn words_that_differ_in_either_half_spread_over_buckets() {
        for (low, high) in [(1, 0), (0, 1), (37, 1), (1, 2)] {
            let mut counts = [0u32; 256];
            for i in 0..256 * 64u64 {
                counts[(hash(&((i * low) | ((i / 8 * high) << 32)), 3) & 255) as usize] += 1;
            }
            assert!(counts.iter().all(|&c| (24..=112).contains(&c)), "{low} {high}: {counts:?}");
        }
    }

    #[test]
    fn flows_that_differ_by_one_word_spread_by_high_and_by_low_bits() {
        for place in 0..5 {
            let mut counts = [[0u32; 256]; 2];
            for i in 0..256 * 64u64 {
                let mut words = [0, 0xffff_0a01_0004, 0, 0xffff_ac1e_0001, 0x11_0050_0400];
                words[place] ^= i << if place == 4 { 16 } else { 0 };
                let hash = hash_words(&words, 7);
                counts[0][(hash & 255) as usize] += 1;
                counts[1][(hash >> 56) as usize] += 1;
            }
            assert!(counts.iter().flatten().all(|&c| (24..=112).contains(&c)), "word {place}: {counts:?}");
        }
    }

    #[test]
    fn every_word_and_its_place_matter() {
        let key = [1u64, 2, 3, 4, 5];
        let mut hashes: Vec<u64> =
            (0..5).map(|i| hash(&std::array::from_fn::<u64, 5, _>(|j| key[(i + j) % 5]), 9)).collect();
        hashes.extend((0..5).map(|i| hash(&std::array::from_fn::<u64, 5, _>(|j| key[j] ^ (i == j) as u64), 9)));
        hashes.extend((0..5).map(|i| hash_words(&std::array::from_fn(|j| key[(i + j) % 5]), 9)));
        hashes.extend((0..5).map(|i| hash_words(&std::array::from_fn(|j| key[j] ^ (i == j) as u64), 9)));
        let different: std::collections::HashSet<u64> = hashes.iter().copied().collect();
        assert_eq!(different.len(), hashes.len());
    }

    #[test]
    fn the_seed_matters() {
        assert_ne!(hash(&[1u64, 2], 1), hash(&[1u64, 2], 2));
        assert_ne!(hash(&1u64, 1), hash(&1u64, 2));
    }
}
