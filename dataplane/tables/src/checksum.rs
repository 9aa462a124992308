//! The arithmetic of Internet checksums (RFC 1071), and how one changes when words under it do (RFC 1624, eqn. 3): a flow
//! keeps the difference that its translation makes. Knows no packets.

use crate::Addr;

/// A one's-complement difference: what taking away some 16-bit words and adding others does to a sum.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Difference(u64);

impl Difference {
    /// The same difference in one word.
    #[inline(always)]
    pub fn folded(self) -> Folded {
        Folded(fold(self.0))
    }

    #[inline(always)]
    pub fn replace(&mut self, old: u16, new: u16) {
        self.0 += !old as u64 + new as u64;
    }

    /// Sums of 32-bit words are as good as sums of their halves: 2^16 is 1 modulo 0xffff (RFC 1071, 2(A)).
    #[inline(always)]
    pub fn replace_addr(&mut self, old: Addr, new: Addr) {
        for (old, new) in old.words().into_iter().zip(new.words()) {
            self.0 += !old as u32 as u64 + (!old >> 32) + new as u32 as u64 + (new >> 32);
        }
    }

    #[inline(always)]
    pub fn and(self, other: Difference) -> Difference {
        Difference(self.0 + other.0)
    }

    /// Applies it to a checksum field (complemented).
    #[inline(always)]
    pub fn update(self, checksum: u16) -> u16 {
        self.folded().update(checksum)
    }
}

/// A difference in one word, as flows keep it: adding one takes an addition and its carry.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Folded(pub u16);

impl Folded {
    /// What undoes it.
    #[inline(always)]
    pub fn undone(self) -> Folded {
        Folded(!self.0)
    }

    #[inline(always)]
    pub fn and(self, other: Folded) -> Folded {
        Folded(other.add_to(self.0))
    }

    /// Applies it to a sum (uncomplemented). Of what overflows, the carry fits again.
    #[inline(always)]
    pub fn add_to(self, sum: u16) -> u16 {
        let (sum, carry) = sum.overflowing_add(self.0);
        sum + carry as u16
    }

    /// Applies it to a checksum field (complemented).
    #[inline(always)]
    pub fn update(self, checksum: u16) -> u16 {
        !self.add_to(!checksum)
    }
}

/// Adds the carries to a sum of at most 2^48, which all sums here are far below.
#[inline(always)]
pub fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The checksum of some words, as RFC 1071 writes it.
    fn checksum(words: &[u16]) -> u16 {
        let mut sum: u32 = words.iter().map(|&word| word as u32).sum();
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !sum as u16
    }

    fn words(addr: Addr) -> Vec<u16> {
        addr.v6_octets().chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect()
    }

    proptest! {
        #[test]
        fn an_updated_checksum_is_that_of_the_new_words(old: u128, new: u128, ports: (u16, u16), other in 1u16..) {
            let (old, new) = (Addr::from_bits(old), Addr::from_bits(new));
            let mut difference = Difference::default();
            difference.replace_addr(old, new);
            difference.replace(ports.0, ports.1);
            let before = checksum(&[&words(old)[..], &[ports.0, other]].concat());
            let after = checksum(&[&words(new)[..], &[ports.1, other]].concat());
            prop_assert_eq!(difference.update(before) % 0xffff, after % 0xffff);
            let kept = difference.folded();
            prop_assert_eq!(kept.update(before), difference.update(before));
            prop_assert_eq!(kept.undone().update(after) % 0xffff, before % 0xffff);
            let ports_alone = Folded(!ports.0).and(Folded(ports.1));
            let addresses_alone = ports_alone.undone().and(kept);
            prop_assert_eq!(addresses_alone.and(ports_alone).update(before) % 0xffff, after % 0xffff);
        }
    }
}
