//! How many bits a second a pod may send and receive: what a runtime asks for one interface, and the token buckets that
//! keep to it. Pure; `pod/shape.rs` puts them into the kernel.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What is asked for one interface, as the pod sees it: ingress is what it receives. None: as fast as it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Bandwidth {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Rate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<Rate>,
}

impl Bandwidth {
    pub fn is_unlimited(&self) -> bool {
        *self == Bandwidth::default()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Rate {
    pub bits_per_s: u64,
    /// What may go at once after a silence.
    pub burst_bits: u64,
}

/// A token bucket as the kernel's `tbf` has it, of whole frames with their Ethernet headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    pub bytes_per_s: u64,
    pub burst_size: u32,
    /// What may wait; the rest is dropped.
    pub queue_size: u32,
}

/// Nobody says whether headers count. The bucket counts them, and gets 2 % more: so frames are within 5 % of what was
/// asked, and what TCP carries in them (94 to 96 % of a frame at 1450 bytes) is, too.
const RATE_PERCENT: u64 = 102;
/// A thread of the kernel that comes late by as much loses no tokens.
const BURST_MIN: Duration = Duration::from_millis(20);
/// Over three seconds this is less than 2 % of them. Kubernetes' runtimes ask for 4 Gbit or the like, whatever the rate.
const BURST_MAX: Duration = Duration::from_millis(50);
/// How long the last of a full queue waits.
const QUEUE: Duration = Duration::from_millis(50);
/// An Ethernet header with a VLAN tag, and what the kernel rounds a bucket by.
const FRAME_OVERHEAD: u32 = 14 + 4 + 46;
/// What a pod sends waits in its own sockets, too: a sender is slowed down before this is full (tried: TCP over a path
/// without delay loses nothing at 256 KiB, and thousands of segments at 128), and so is a UDP socket with its default buffer.
pub const QUEUE_SIZE_SENT: u32 = 256 << 10;
/// One super-frame.
pub const QUEUE_SIZE_RECEIVED: u32 = 64 << 10;

impl Rate {
    /// For an interface with this MTU; its queue has `queue_size_min` bytes beside the burst.
    pub fn bucket(&self, mtu: u32, queue_size_min: u32) -> Bucket {
        let bytes_per_s = (u128::from(self.bits_per_s) * u128::from(RATE_PERCENT) / 800).max(1);
        let bytes_in = |time: Duration| bytes_per_s * time.as_millis() / 1000;
        // The kernel counts in 32 bits.
        let size = |bytes: u128| bytes.min(u128::from(u32::MAX / 2)) as u32;
        let burst = u128::from(self.burst_bits / 8).clamp(bytes_in(BURST_MIN), bytes_in(BURST_MAX));
        let burst_size = size(burst).max(mtu + FRAME_OVERHEAD);
        let queue_size = size(bytes_in(QUEUE)).max(queue_size_min) + burst_size;
        Bucket { bytes_per_s: bytes_per_s as u64, burst_size, queue_size }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bucket(bits_per_s: u64, burst_bits: u64) -> Bucket {
        Rate { bits_per_s, burst_bits }.bucket(1450, QUEUE_SIZE_RECEIVED)
    }

    #[test]
    fn a_burst_is_what_was_asked_between_20_and_50_ms() {
        let sizes =
            [0, 1_600, 2_500_000, u64::from(u32::MAX), u64::MAX].map(|bits| bucket(80_000_000, bits).burst_size);
        assert_eq!(sizes, [204_000, 204_000, 312_500, 510_000, 510_000]);
        assert_eq!(bucket(8_000, 0), Bucket { bytes_per_s: 1020, burst_size: 1514, queue_size: 1514 + (64 << 10) });
    }

    proptest! {
        #[test]
        fn any_rate_makes_a_bucket_that_a_frame_fits(bits: u64, burst: u64, mtu in 576u32..9001) {
            let bucket = Rate { bits_per_s: bits, burst_bits: burst }.bucket(mtu, QUEUE_SIZE_SENT);
            prop_assert!(bucket.bytes_per_s > 0 && bucket.burst_size > mtu + 18);
            prop_assert!(bucket.queue_size >= bucket.burst_size + QUEUE_SIZE_SENT);
        }
    }
}
