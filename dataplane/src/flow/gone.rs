//! Local ends that are gone, as of a pod that was deleted: their flows go, too, so that who gets the address next inherits
//! none: not the answers that those wait for, which no policy of its own would let in. The table is looked through a
//! part at a time; at once where an address comes again before that is done.

use super::in_use::places;
use super::{FlowId, FlowTable};
use tables::Addr;

#[derive(Default)]
pub struct Gone {
    /// In order; with how many records are still to be looked at for each.
    ends: Vec<(Addr, usize)>,
    /// The next record.
    hand: usize,
}

impl Gone {
    #[inline(always)]
    fn has(&self, addr: &Addr) -> bool {
        self.ends.binary_search_by_key(addr, |end| end.0).is_ok()
    }
}

impl FlowTable {
    /// Nobody has these addresses any more.
    pub fn end_goes(&mut self, addrs: &[Addr]) {
        // Twice round: for a moment packets may still come that open flows towards them.
        let looks = 2 * self.capacity();
        for addr in addrs {
            match self.gone.ends.binary_search_by_key(addr, |end| end.0) {
                Ok(at) => self.gone.ends[at].1 = looks,
                Err(at) => self.gone.ends.insert(at, (*addr, looks)),
            }
        }
    }

    /// Somebody has these addresses from now on. Returns how many flows of others had to go for that.
    pub fn end_comes(&mut self, addrs: &[Addr]) -> usize {
        if !addrs.iter().any(|addr| self.gone.has(addr)) {
            return 0;
        }
        let removed = self.forget_gone(self.capacity());
        self.gone.ends.retain(|(addr, _)| !addrs.contains(addr));
        removed
    }

    /// Looks at the next `count` records and removes those whose local end is gone. Returns how many.
    #[inline(always)]
    pub fn forget_gone(&mut self, count: usize) -> usize {
        if self.gone.ends.is_empty() { 0 } else { self.look_for_gone(count.min(self.capacity())) }
    }

    #[cold]
    #[inline(never)]
    fn look_for_gone(&mut self, count: usize) -> usize {
        let (mut left, mut removed) = (count, 0);
        while left > 0 {
            let lot = self.lot(self.gone.hand, left);
            left -= lot.len();
            self.gone.hand = self.wrapped(lot.end);
            for place in places(self.in_use.bits(&lot)) {
                let id = (lot.start + place) as FlowId;
                if self.gone.has(&self.record(id).inside.local) {
                    self.remove(id);
                    removed += 1;
                }
            }
        }
        self.gone.ends.iter_mut().for_each(|(_, left)| *left = left.saturating_sub(count));
        self.gone.ends.retain(|(_, left)| *left > 0);
        removed
    }
}

#[cfg(test)]
#[path = "gone_tests.rs"]
mod tests;
