//! The numbered payload: what the sender writes behind the UDP header and the sink believes.
//! It knows nothing of headers in front of it, so any rewriting of those on the way is allowed.
//!
//! Layout, big-endian, 22 bytes, so that an IPv4 packet fits a 64-byte frame:
//! `magic u32 | run u32 | number u32 | sent_ns u64 (CLOCK_MONOTONIC) | check u16`, then a constant fill.

use std::hash::{BuildHasher, RandomState};

/// Bytes of a stamp.
pub const STAMP_SIZE: usize = 22;
const MAGIC: [u8; 4] = *b"FWPG";
const CHECK_AT: usize = 20;

/// Tells packets of this run from those of a run before or beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunId(pub u32);

impl RunId {
    pub fn random() -> Self {
        // RandomState is seeded by the kernel: enough to keep runs apart, and needs no crate.
        RunId(RandomState::new().hash_one("run") as u32)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub number: u32,
    pub sent_ns: u64,
}

/// What a UDP payload turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Judged {
    /// Not of this run.
    Foreign,
    /// Of this run by magic and run id, but damaged: its number cannot be believed.
    Corrupted,
    Intact(Stamp),
}

impl Stamp {
    pub fn encode(self, run: RunId) -> [u8; STAMP_SIZE] {
        let mut out = [0; STAMP_SIZE];
        out[..4].copy_from_slice(&MAGIC);
        out[4..8].copy_from_slice(&run.0.to_be_bytes());
        out[8..12].copy_from_slice(&self.number.to_be_bytes());
        out[12..20].copy_from_slice(&self.sent_ns.to_be_bytes());
        let check = check(&out);
        out[CHECK_AT..].copy_from_slice(&check);
        out
    }
}

pub fn judge(run: RunId, payload: &[u8]) -> Judged {
    let Some((stamp, rest)) = payload.split_first_chunk::<STAMP_SIZE>() else {
        return Judged::Foreign;
    };
    if stamp[..4] != MAGIC || stamp[4..8] != run.0.to_be_bytes() {
        return Judged::Foreign;
    }
    if stamp[CHECK_AT..] != check(stamp) || !fill_is_intact(rest) {
        return Judged::Corrupted;
    }
    Judged::Intact(Stamp {
        number: u32::from_be_bytes([stamp[8], stamp[9], stamp[10], stamp[11]]),
        sent_ns: stamp[12..CHECK_AT].iter().fold(0, |ns, byte| ns << 8 | u64::from(*byte)),
    })
}

/// Writes the fill behind a stamp. It is the same in every packet, so a template is filled once.
pub fn fill(rest: &mut [u8]) {
    for (at, byte) in rest.iter_mut().enumerate() {
        *byte = fill_byte(at);
    }
}

fn fill_is_intact(rest: &[u8]) -> bool {
    rest.iter().enumerate().all(|(at, byte)| *byte == fill_byte(at))
}

fn fill_byte(at: usize) -> u8 {
    // 7 is coprime to 256: neighbours differ and a shift by any number of bytes below 256 shows.
    (at as u8).wrapping_mul(7).wrapping_add(13)
}

/// FNV-1a folded to 16 bits. Unlike the UDP checksum it depends on the order of bytes, and no NAT rewrites it.
fn check(stamp: &[u8; STAMP_SIZE]) -> [u8; 2] {
    let hash = stamp[..CHECK_AT]
        .iter()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    ((hash >> 16) as u16 ^ hash as u16).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: RunId = RunId(0xdead_0001);

    fn sample() -> Vec<u8> {
        let mut payload = Stamp { number: 7, sent_ns: 1 << 40 }.encode(RUN).to_vec();
        payload.resize(100, 0);
        fill(&mut payload[STAMP_SIZE..]);
        payload
    }

    #[test]
    fn what_was_written_is_read_back() {
        assert_eq!(judge(RUN, &sample()), Judged::Intact(Stamp { number: 7, sent_ns: 1 << 40 }));
        assert_eq!(judge(RUN, &sample()[..STAMP_SIZE]), Judged::Intact(Stamp { number: 7, sent_ns: 1 << 40 }));
    }

    #[test]
    fn every_single_bit_flip_is_noticed() {
        for bit in 0..sample().len() * 8 {
            let mut payload = sample();
            payload[bit / 8] ^= 1 << (bit % 8);
            let expected = if bit < 64 { Judged::Foreign } else { Judged::Corrupted };
            assert_eq!(judge(RUN, &payload), expected, "bit {bit}");
        }
    }

    #[test]
    fn other_runs_and_short_payloads_are_foreign() {
        assert_eq!(judge(RunId(1), &sample()), Judged::Foreign);
        assert_eq!(judge(RUN, &sample()[..STAMP_SIZE - 1]), Judged::Foreign);
        assert_eq!(judge(RUN, &[]), Judged::Foreign);
    }
}
