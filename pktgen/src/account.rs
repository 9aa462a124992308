//! The books: which numbers arrived, how often, in what order and how late. Exact, by number; no I/O and no clock.

use hdrhistogram::Histogram;

/// Counts over what arrived. Every frame at the sink is exactly one of received, duplicated, corrupted or other.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Distinct numbers that arrived intact.
    pub received: u64,
    /// Further intact arrivals of a number that was already received.
    pub duplicated: u64,
    /// Of the received, those overtaken by a later packet of their own flow (RFC 4737, section 3.3).
    pub reordered: u64,
    /// Of this run, but with a damaged payload; the number it carried also counts as lost.
    pub corrupted: u64,
    /// Intact payload under a wrong IPv4 header or UDP checksum (received or duplicated as well).
    pub bad_checksum: u64,
    /// Frames that are not of this run.
    pub other: u64,
}

/// Longest latency told apart; anything slower counts as this.
const LATENCY_MAX_NS: u64 = 60_000_000_000;

pub struct Ledger {
    seen: Vec<u64>,
    next_of_flow: Vec<u32>,
    packets_max: u32,
    counts: Counts,
    latency: Histogram<u64>,
}

impl Ledger {
    /// `packets_max` bounds the numbers that can be sent; number n belongs to flow n mod `flows`.
    pub fn new(packets_max: u32, flows: u16) -> Self {
        let latency = Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3).expect("constant bounds are valid");
        Ledger {
            seen: vec![0; packets_max.div_ceil(64) as usize],
            next_of_flow: vec![0; usize::from(flows.max(1))],
            packets_max,
            counts: Counts::default(),
            latency,
        }
    }

    pub fn arrived(&mut self, number: u32, latency_ns: u64) {
        if number >= self.packets_max {
            // Never sent: the payload lies even though its check passes.
            return self.corrupted();
        }
        if self.mark(number) {
            self.counts.duplicated += 1;
            return;
        }
        self.counts.received += 1;
        self.latency.saturating_record(latency_ns.max(1));
        self.note_order(number);
    }

    pub fn corrupted(&mut self) {
        self.counts.corrupted += 1;
    }

    pub fn bad_checksum(&mut self) {
        self.counts.bad_checksum += 1;
    }

    pub fn other(&mut self) {
        self.counts.other += 1;
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    pub fn latency(&self) -> &Histogram<u64> {
        &self.latency
    }

    /// Sets the number's bit; says whether it was set before.
    fn mark(&mut self, number: u32) -> bool {
        let word = &mut self.seen[(number / 64) as usize];
        let bit = 1 << (number % 64);
        let before = *word & bit != 0;
        *word |= bit;
        before
    }

    fn note_order(&mut self, number: u32) {
        // Per flow: a network may reorder between flows, and a dataplane with several workers will.
        let flow = number as usize % self.next_of_flow.len();
        let next = &mut self.next_of_flow[flow];
        if number < *next {
            self.counts.reordered += 1;
        } else {
            *next = number + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PACKETS_MAX: u32 = 200;

    /// The definitions read literally: compares each arrival with all arrivals before it.
    fn naive(arrivals: &[u32], flows: u16) -> Counts {
        let mut counts = Counts::default();
        for (at, number) in arrivals.iter().enumerate() {
            let valid_before = || arrivals[..at].iter().filter(|n| **n < PACKETS_MAX);
            if *number >= PACKETS_MAX {
                counts.corrupted += 1;
            } else if valid_before().any(|n| n == number) {
                counts.duplicated += 1;
            } else {
                counts.received += 1;
                let flow = number % u32::from(flows);
                counts.reordered += u64::from(valid_before().any(|n| n % u32::from(flows) == flow && n > number));
            }
        }
        counts
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_reading(arrivals in prop::collection::vec(0..PACKETS_MAX + 5, 0..400), flows in 1..9_u16) {
            let mut ledger = Ledger::new(PACKETS_MAX, flows);
            for number in &arrivals {
                ledger.arrived(*number, 5);
            }
            prop_assert_eq!(ledger.counts(), naive(&arrivals, flows));
            prop_assert_eq!(ledger.latency().len(), ledger.counts().received);
        }
    }

    #[test]
    fn latency_is_of_first_arrivals_and_saturates() {
        let mut ledger = Ledger::new(3, 1);
        ledger.arrived(0, 1_000);
        ledger.arrived(0, 9_000_000);
        ledger.arrived(1, 0);
        ledger.arrived(2, u64::MAX);
        assert_eq!(ledger.latency().len(), 3);
        assert_eq!(ledger.latency().min(), 1);
        assert!(ledger.latency().max() >= LATENCY_MAX_NS);
    }
}
