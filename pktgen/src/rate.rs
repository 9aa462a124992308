//! Open-loop pacing: how many packets are due at an instant. It never looks at what came back, and reads no clock.

use std::{num::NonZeroU64, str::FromStr, time::Duration};

/// Packets per second, written `100k`, `1M`, `2.5M` or `750`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(NonZeroU64);

impl Rate {
    pub fn packets_per_second(self) -> u64 {
        self.0.get()
    }

    /// Packets due in `duration`.
    pub fn packets_in(self, duration: Duration) -> u128 {
        u128::from(self.0.get()) * duration.as_nanos() / 1_000_000_000
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (digits, unit) = match text.strip_suffix("pps").unwrap_or(text) {
            t if t.ends_with(['k', 'K']) => (&t[..t.len() - 1], 1e3),
            t if t.ends_with(['m', 'M']) => (&t[..t.len() - 1], 1e6),
            t => (t, 1.0),
        };
        let value: f64 = digits
            .parse()
            .map_err(|_| format!("`{text}` is no rate; write packets per second like 750, 100k or 1M"))?;
        let packets = (value * unit).round();
        // 1 Gpps is beyond any interface and keeps the arithmetic far from overflow.
        if !(1.0..=1e9).contains(&packets) {
            return Err(format!("`{text}` is outside 1..=1000M packets per second"));
        }
        NonZeroU64::new(packets as u64).map(Rate).ok_or_else(|| "a rate of zero sends nothing".into())
    }
}

/// Parses `3s`, `500ms`, `2m` or `1.5s`; a bare number means seconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is no duration; write it like 3s, 500ms or 2m");
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let seconds_per_unit = match &text[at..] {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(bad()),
    };
    let seconds = text[..at].parse::<f64>().map_err(|_| bad())? * seconds_per_unit;
    if !(0.001..=86_400.0).contains(&seconds) {
        return Err(format!("`{text}` is outside 1ms..=24h"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Releases packets on a fixed schedule from `start_ns` on.
#[derive(Debug)]
pub struct Pacer {
    rate: u64,
    start_ns: u64,
    total: u64,
    debt_max: u64,
    sent: u64,
    forgone: u64,
}

impl Pacer {
    pub fn new(rate: Rate, total: u64, start_ns: u64) -> Self {
        let rate = rate.packets_per_second();
        // A preempted sender makes up for 1 ms; a longer burst would measure our queues, not what lies between.
        let debt_max = (rate / 1000).max(64);
        Pacer { rate, start_ns, total, debt_max, sent: 0, forgone: 0 }
    }

    /// Packets to send now. What is owed beyond the debt limit is forgone for good.
    pub fn due(&mut self, now_ns: u64) -> u64 {
        let elapsed = u128::from(now_ns.saturating_sub(self.start_ns));
        // The first packet is due at once, hence + 1.
        let scheduled = (elapsed * u128::from(self.rate) / 1_000_000_000 + 1).min(u128::from(self.total)) as u64;
        let owed = scheduled - self.released();
        self.forgone += owed.saturating_sub(self.debt_max);
        owed.min(self.debt_max)
    }

    /// Books packets that were handed to the kernel; returns how many that is in all, which is the next number.
    pub fn handed_over(&mut self, packets: u64) -> u64 {
        self.sent += packets;
        self.sent
    }

    /// When the next packet falls due; `None` once all were released.
    pub fn next_ns(&self) -> Option<u64> {
        let next = self.released();
        (next < self.total)
            .then(|| self.start_ns + (u128::from(next) * 1_000_000_000).div_ceil(u128::from(self.rate)) as u64)
    }

    pub fn finished(&self) -> bool {
        self.released() >= self.total
    }

    /// Forgoes all that is left of the schedule.
    pub fn give_up(&mut self) {
        self.forgone = self.total - self.sent;
    }

    /// Packets not sent because the sender fell behind.
    pub fn forgone(&self) -> u64 {
        self.forgone
    }

    pub fn sent_so_far(&self) -> u64 {
        self.sent
    }

    fn released(&self) -> u64 {
        self.sent + self.forgone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    #[test]
    fn reads_rates_and_durations_as_people_write_them() {
        assert_eq!(rate("100k").packets_per_second(), 100_000);
        assert_eq!(rate("2.5M").packets_per_second(), 2_500_000);
        assert_eq!(rate("750pps").packets_per_second(), 750);
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("3"), Ok(Duration::from_secs(3)));
        for bad in ["", "k", "-1", "0", "1G", "inf", "NaN", "2000M"] {
            assert!(bad.parse::<Rate>().is_err(), "rate {bad:?}");
        }
        for bad in ["", "s", "0s", "3x", "-1s", "1.2.3s", "100h"] {
            assert!(parse_duration(bad).is_err(), "duration {bad:?}");
        }
    }

    #[test]
    fn a_prompt_sender_releases_every_packet_and_no_more() {
        let mut pacer = Pacer::new(rate("1000"), 500, 7);
        for now in (7..).step_by(300_000) {
            if pacer.finished() {
                break;
            }
            let due = pacer.due(now);
            assert!(due <= 1, "{due} due within 0.3 ms at 1000/s");
            pacer.handed_over(due);
        }
        assert_eq!((pacer.sent, pacer.forgone()), (500, 0));
        assert_eq!(pacer.next_ns(), None);
    }

    #[test]
    fn next_names_the_first_instant_at_which_something_is_due() {
        let mut pacer = Pacer::new(rate("3"), 10, 1000);
        pacer.handed_over(1);
        let next = pacer.next_ns().unwrap();
        assert_eq!(pacer.due(next - 1), 0);
        assert_eq!(pacer.due(next), 1);
    }

    #[test]
    fn a_long_gap_is_forgone_beyond_one_millisecond_of_debt() {
        let mut pacer = Pacer::new(rate("1M"), 1_000_000, 0);
        let due = pacer.due(20_000_000);
        assert_eq!(due, 1000);
        pacer.handed_over(due);
        assert_eq!(pacer.forgone(), 20_001 - 1000);
        assert_eq!(pacer.due(20_000_000), 0);
    }
}
