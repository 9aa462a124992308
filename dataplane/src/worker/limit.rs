//! How many ICMP errors a worker sends: so many a second to one address, and so many in all. Must not know what they say.

use tables::Addr;

/// Errors a second, and at once after a pause: to one address, and in all (the kernel: net.ipv4.icmp_msgs_per_sec).
const PER_ADDR: Rate = Rate { a_second: 20, at_once: 20 };
const IN_ALL: Rate = Rate { a_second: 1000, at_once: 100 };
/// Addresses that are told apart: others share.
const ADDRS: usize = 256;

struct Rate {
    a_second: u32,
    at_once: u32,
}

/// What is left of a rate, in thousandths of an error.
#[derive(Clone, Copy, Default)]
struct Bucket {
    spent: u32,
    at_ms: u32,
}

impl Bucket {
    fn may_spend(&mut self, rate: &Rate, now_ms: u32) -> bool {
        let refilled = now_ms.wrapping_sub(self.at_ms).saturating_mul(rate.a_second);
        self.spent = self.spent.saturating_sub(refilled);
        self.at_ms = now_ms;
        let may = self.spent + 1000 <= rate.at_once * 1000;
        self.spent += 1000 * may as u32;
        may
    }
}

/// How many errors this worker may still send.
pub struct Limit {
    in_all: Bucket,
    by_addr: [Bucket; ADDRS],
}

impl Default for Limit {
    fn default() -> Limit {
        Limit { in_all: Bucket::default(), by_addr: [Bucket::default(); ADDRS] }
    }
}

impl Limit {
    /// Whether one more may go to this address, which is counted then.
    pub(super) fn allows(&mut self, to: Addr, now_ms: u32) -> bool {
        let [high, low] = to.words();
        let place = tables::hash::fold(high ^ low, 0x9e37_79b9_7f4a_7c15) as usize % ADDRS;
        self.by_addr[place].may_spend(&PER_ADDR, now_ms) && self.in_all.may_spend(&IN_ALL, now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_is_told_a_few_times_at_once_and_then_at_a_rate() {
        let (mut limit, one, other) = (Limit::default(), Addr::v4([10, 1, 0, 4]), Addr::v4([10, 1, 0, 5]));
        let allowed = |limit: &mut Limit, to, now_ms| (0..1000).filter(|_| limit.allows(to, now_ms)).count();
        let start = u32::MAX - 10_000;
        assert_eq!(allowed(&mut limit, one, start), 20);
        assert_eq!(allowed(&mut limit, other, start), 20, "another has its own");
        assert_eq!(allowed(&mut limit, one, start + 100), 2);
        assert_eq!(allowed(&mut limit, one, start.wrapping_add(60_000)), 20, "also when the clock wraps");
    }

    #[test]
    fn all_together_are_limited_too() {
        let mut limit = Limit::default();
        let told = (0..10_000u32).filter(|i| limit.allows(Addr::v4(i.to_be_bytes()), 5_000)).count();
        assert_eq!(told, 100);
    }
}
