//! Which records of a flow table are in use: a bit for each, so that whoever goes over the table does not fetch those that
//! are not. Private to the process and made anew from the records; must not be asked whether a flow is there.

use std::ops::Range;

#[derive(Default)]
pub struct InUse {
    words: Vec<u64>,
    count: usize,
}

impl InUse {
    pub fn of(capacity: usize) -> InUse {
        InUse { words: vec![0; capacity.div_ceil(64)], count: 0 }
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// Record `id` is in use from now on, and was not before.
    #[inline(always)]
    pub fn set(&mut self, id: u32) {
        self.words[id as usize / 64] |= 1 << (id % 64);
        self.count += 1;
    }

    /// The other way round.
    #[inline(always)]
    pub fn clear(&mut self, id: u32) {
        self.words[id as usize / 64] &= !(1 << (id % 64));
        self.count -= 1;
    }

    /// Those of these records, which are in one word, that are in use; bit 0 for the first.
    #[inline(always)]
    pub fn bits(&self, records: &Range<usize>) -> u64 {
        let word = self.words.get(records.start / 64).map_or(0, |word| word >> (records.start % 64));
        word & !u64::MAX.checked_shl(records.len() as u32).unwrap_or(0)
    }
}

/// The places of the bits that are set, from the lowest on.
#[inline(always)]
pub fn places(mut bits: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let place = (bits != 0).then(|| bits.trailing_zeros() as usize);
        bits &= bits.wrapping_sub(1);
        place
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bits_are_those_that_were_set_and_not_cleared(ops in prop::collection::vec(0usize..200, 0..300)) {
            let (mut in_use, mut model) = (InUse::of(200), [false; 200]);
            for id in ops {
                model[id] = !model[id];
                if model[id] { in_use.set(id as u32) } else { in_use.clear(id as u32) }
            }
            prop_assert_eq!(in_use.count(), model.iter().filter(|&&is_set| is_set).count());
            for start in 0..200 {
                for end in start..=(start / 64 * 64 + 64).min(200) {
                    let found: Vec<usize> = places(in_use.bits(&(start..end))).map(|place| start + place).collect();
                    let expected: Vec<usize> = (start..end).filter(|&id| model[id]).collect();
                    prop_assert_eq!(found, expected);
                }
            }
        }
    }
}
