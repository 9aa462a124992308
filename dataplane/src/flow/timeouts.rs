//! How long a flow may be silent, by the state that it is in, and how that is typed (`--timeout tcp-established=6h`).
//! Knows records' states, not where they stand.

use super::{sctp, tcp};
use tables::Protocol;
use tables::flow::{FLAG_ANSWERED, FlowRecord};

/// What decides how long a silent flow is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FlowState {
    TcpOpening,
    TcpEstablished,
    TcpHalfClosed,
    TcpClosing,
    TcpReset,
    UdpUnanswered,
    UdpAnswered,
    Icmp,
    SctpOpening,
    SctpEstablished,
    SctpClosing,
    Other,
}

const STATES: usize = 12;
const SECOND_MS: u32 = 1_000;
const MINUTE_MS: u32 = 60 * SECOND_MS;
const HOUR_MS: u32 = 60 * MINUTE_MS;
/// Ages are told by a clock of 32 bits that wraps, and looked at every few seconds: half of its round less some slack.
const LONGEST_MS: u32 = 20 * 24 * HOUR_MS;

/// Each state with its name and default: that of Linux connection tracking, except
/// - tcp-established: 6 hours, as long as Cilium keeps it, and thrice the keepalive time of Linux; not five days;
/// - tcp-half-closed: more than the two hours after which keepalives come (RFC 5382, REQ-5); there it is a minute or two;
/// - tcp-closing: FINs are sent again after a second, two, and so on; a SYN reopens it at once, so that two minutes would
///   only hold memory.
const DEFAULTS: [(FlowState, &str, u32); STATES] = [
    (FlowState::TcpOpening, "tcp-opening", MINUTE_MS),
    (FlowState::TcpEstablished, "tcp-established", 6 * HOUR_MS),
    (FlowState::TcpHalfClosed, "tcp-half-closed", 2 * HOUR_MS + 5 * MINUTE_MS),
    (FlowState::TcpClosing, "tcp-closing", 30 * SECOND_MS),
    (FlowState::TcpReset, "tcp-reset", 10 * SECOND_MS),
    (FlowState::UdpUnanswered, "udp-unanswered", 30 * SECOND_MS),
    (FlowState::UdpAnswered, "udp-answered", 2 * MINUTE_MS),
    (FlowState::Icmp, "icmp", 30 * SECOND_MS),
    (FlowState::SctpOpening, "sctp-opening", 30 * SECOND_MS),
    (FlowState::SctpEstablished, "sctp-established", 210 * SECOND_MS),
    (FlowState::SctpClosing, "sctp-closing", 10 * SECOND_MS),
    (FlowState::Other, "other", 10 * MINUTE_MS),
];

impl FlowState {
    pub fn name(self) -> &'static str {
        DEFAULTS[self as usize].1
    }

    #[inline]
    pub fn of(record: &FlowRecord) -> FlowState {
        let is_answered = record.flags & FLAG_ANSWERED != 0;
        match record.inside.protocol {
            Protocol::TCP => tcp::state(record.state),
            Protocol::UDP if is_answered => FlowState::UdpAnswered,
            Protocol::UDP => FlowState::UdpUnanswered,
            Protocol::ICMP | Protocol::ICMPV6 => FlowState::Icmp,
            Protocol::SCTP => sctp::state(record.state),
            _ => FlowState::Other,
        }
    }
}

/// Milliseconds without a packet after which a flow goes, by its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts([u32; STATES]);

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts(DEFAULTS.map(|(_, _, timeout_ms)| timeout_ms))
    }
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeoutError {
    #[error("--timeout {0:?} is not STATE=DURATION as in tcp-established=6h")]
    Form(String),
    #[error("--timeout {given:?}: there is no such state; there are {states}", states = names())]
    State { given: String },
    #[error("--timeout {0:?}: give the duration as in 30s, 5m, 2h5m or 1d")]
    Duration(String),
    #[error("--timeout {0:?}: between 1s and 20d are possible")]
    Bounds(String),
}

fn names() -> String {
    DEFAULTS.map(|(_, name, _)| name).join(", ")
}

impl Timeouts {
    #[inline]
    pub fn of(&self, state: FlowState) -> u32 {
        self.0[state as usize]
    }

    pub fn shortest_ms(&self) -> u32 {
        self.0.into_iter().min().unwrap_or(0)
    }

    /// Each state by name with its timeout, for a person.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u32)> + '_ {
        DEFAULTS.iter().map(|(state, name, _)| (*name, self.of(*state)))
    }

    /// Takes a `STATE=DURATION`.
    pub fn set(&mut self, typed: &str) -> Result<(), TimeoutError> {
        let (name, duration) = typed.split_once('=').ok_or_else(|| TimeoutError::Form(typed.to_owned()))?;
        let (state, ..) = DEFAULTS
            .iter()
            .find(|(_, known, _)| *known == name)
            .ok_or_else(|| TimeoutError::State { given: typed.to_owned() })?;
        let timeout_ms = duration_ms(duration).ok_or_else(|| TimeoutError::Duration(typed.to_owned()))?;
        if !(SECOND_MS as u64..=LONGEST_MS as u64).contains(&timeout_ms) {
            return Err(TimeoutError::Bounds(typed.to_owned()));
        }
        self.0[*state as usize] = timeout_ms as u32;
        Ok(())
    }
}

/// Numbers with units, as in 2h5m. None: it is no such thing.
pub fn duration_ms(typed: &str) -> Option<u64> {
    let mut rest = typed;
    let mut sum = 0u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = rest.split_at(digits);
        let length = unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len());
        let factor = match &unit[..length] {
            "ms" => 1,
            "s" => SECOND_MS,
            "m" => MINUTE_MS,
            "h" => HOUR_MS,
            "d" => 24 * HOUR_MS,
            _ => return None,
        };
        sum = sum.checked_add(number.parse::<u64>().ok()?.checked_mul(factor as u64)?)?;
        rest = &unit[length..];
    }
    (!typed.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_its_place_and_its_name() {
        for (i, (state, name, _)) in DEFAULTS.iter().enumerate() {
            assert_eq!(*state as usize, i, "{name}");
        }
    }

    #[test]
    fn durations_are_sums_of_numbers_with_units() {
        for (typed, expected) in [
            ("30s", Some(30_000)),
            ("2h5m", Some(7_500_000)),
            ("1d", Some(86_400_000)),
            ("1500ms", Some(1_500)),
            ("1m30s", Some(90_000)),
            ("", None),
            ("30", None),
            ("s", None),
            ("3 s", None),
            ("-3s", None),
            ("3w", None),
            ("99999999999999999999s", None),
            ("9999999999999999999d", None),
        ] {
            assert_eq!(duration_ms(typed), expected, "{typed}");
        }
    }

    #[test]
    fn a_timeout_is_taken_or_the_error_says_what_to_do() {
        let mut timeouts = Timeouts::default();
        timeouts.set("udp-unanswered=5s").unwrap();
        assert_eq!(timeouts.of(FlowState::UdpUnanswered), 5_000);
        assert_eq!(timeouts.named().find(|(name, _)| *name == "udp-unanswered"), Some(("udp-unanswered", 5_000)));
        for (typed, word) in [
            ("tcp", "STATE=DURATION"),
            ("tcp-shut=1s", "tcp-half-closed"),
            ("tcp-opening=x", "30s"),
            ("tcp-opening=0s", "between"),
            ("tcp-opening=999ms", "between"),
            ("tcp-opening=21d", "between"),
        ] {
            let error = timeouts.set(typed).unwrap_err().to_string();
            assert!(error.contains(word), "{typed}: {error}");
        }
    }
}
