//! What an interface dropped by itself, until the worker asks. Must not know why each reason exists.

use tables::counters::DropReason;

/// One count a reason.
#[derive(Debug)]
pub struct Drops {
    counts: [u64; DropReason::COUNT],
    any: bool,
}

impl Default for Drops {
    fn default() -> Drops {
        Drops { counts: [0; DropReason::COUNT], any: false }
    }
}

impl Drops {
    #[cold]
    pub fn add(&mut self, reason: DropReason) {
        self.counts[reason as usize] += 1;
        self.any = true;
    }

    /// Tells every reason that occurred and forgets it. Costs one branch if there was none.
    #[inline(always)]
    pub fn take(&mut self, tell: &mut dyn FnMut(DropReason, u64)) {
        if self.any {
            self.tell(tell);
        }
    }

    #[cold]
    fn tell(&mut self, tell: &mut dyn FnMut(DropReason, u64)) {
        for (count, &reason) in self.counts.iter_mut().zip(DropReason::ALL).filter(|(count, _)| **count > 0) {
            tell(reason, std::mem::take(count));
        }
        self.any = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_drop_is_told_once() {
        let mut drops = Drops::default();
        drops.add(DropReason::Oversized);
        drops.add(DropReason::Oversized);
        drops.add(DropReason::Truncated);
        let mut told = Vec::new();
        drops.take(&mut |reason, count| told.push((reason, count)));
        drops.take(&mut |reason, count| told.push((reason, count)));
        assert_eq!(told, [(DropReason::Truncated, 1), (DropReason::Oversized, 2)]);
    }
}
