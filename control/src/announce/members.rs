//! The nodes of a link as they are heard: each says its name several times a second, by a datagram to all on the link, and
//! is a member until it has been silent for [`SILENCE`]. The word of it, and the list; pure, with the time as an argument.
//!
//! A datagram names the cluster by its VNI against accidents of two clusters on one link, and no more: who can send on
//! the link can forge it, as it could forge the answers to ARP that all this is for. Sockets take what is sent to groups
//! that no router forwards, so that nobody else can.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

/// How often a node is heard.
pub const INTERVAL: Duration = Duration::from_millis(200);
/// A node that was not heard for so long is gone.
pub const SILENCE: Duration = Duration::from_secs(1);
/// RFC 4727 gives these to experiments; routers forward neither.
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 254);
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x114);

const MAGIC: [u8; 4] = *b"fway";
const VERSION: u8 = 1;
const FLAG_SERVING: u8 = 1;
/// Magic, version, flags, two octets for later, VNI.
const HEADER_BYTES: usize = 12;
/// What a DNS name may have.
const NAME_BYTES_MAX: usize = 253;
pub const BEAT_BYTES_MAX: usize = HEADER_BYTES + NAME_BYTES_MAX;
/// More nodes than one link carries.
const MEMBERS_MAX: usize = 4096;

/// One word of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    pub vni: u32,
    /// It competes for addresses.
    pub is_serving: bool,
    pub node: String,
}

impl Beat {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([VERSION, if self.is_serving { FLAG_SERVING } else { 0 }, 0, 0]);
        bytes.extend(self.vni.to_be_bytes());
        bytes.extend(self.node.as_bytes());
        bytes
    }

    /// None: it is none of ours, or of a version to come.
    pub fn decode(bytes: &[u8]) -> Option<Beat> {
        let (header, name) = bytes.split_at_checked(HEADER_BYTES)?;
        let vni = u32::from_be_bytes(header[8..].try_into().ok()?);
        let is_name = (1..=NAME_BYTES_MAX).contains(&name.len()) && name.iter().all(|byte| byte.is_ascii_graphic());
        if header[..4] != MAGIC || header[4] != VERSION || !is_name {
            return None;
        }
        Some(Beat { vni, is_serving: header[5] & FLAG_SERVING != 0, node: String::from_utf8(name.to_vec()).ok()? })
    }
}

#[derive(Debug, Default)]
pub struct Members(BTreeMap<String, Member>);

#[derive(Debug)]
struct Member {
    heard: Instant,
    is_serving: bool,
}

impl Members {
    pub fn hear(&mut self, beat: Beat, now: Instant) {
        if self.0.len() < MEMBERS_MAX || self.0.contains_key(&beat.node) {
            self.0.insert(beat.node, Member { heard: now, is_serving: beat.is_serving });
        }
    }

    pub fn forget_silent(&mut self, now: Instant) {
        self.0.retain(|_, member| now.saturating_duration_since(member.heard) < SILENCE);
    }

    pub fn serving(&self) -> BTreeSet<String> {
        self.0.iter().filter(|(_, member)| member.is_serving).map(|(name, _)| name.clone()).collect()
    }

    pub fn heard(&self) -> BTreeMap<String, bool> {
        self.0.iter().map(|(name, member)| (name.clone(), member.is_serving)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_said_is_heard(vni in any::<u32>(), is_serving in any::<bool>(), node in "[a-z0-9.-]{1,253}") {
            let beat = Beat { vni, is_serving, node };
            let bytes = beat.encode();
            prop_assert!(bytes.len() <= BEAT_BYTES_MAX);
            prop_assert_eq!(Beat::decode(&bytes), Some(beat));
        }

        #[test]
        fn anything_else_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(Beat::decode(&bytes), None);
        }
    }

    #[test]
    fn a_node_is_a_member_until_it_has_been_silent_for_a_second() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let beat = |node: &str, is_serving| Beat { vni: 1, is_serving, node: node.to_owned() };
        let mut members = Members::default();
        members.hear(beat("a", true), at(0));
        members.hear(beat("b", false), at(0));
        assert_eq!((members.serving().len(), members.heard().len()), (1, 2));
        members.hear(beat("b", true), at(900));
        members.forget_silent(at(999));
        assert_eq!(members.serving().len(), 2);
        members.forget_silent(at(1000));
        assert_eq!(members.serving(), ["b".to_owned()].into());
    }
}
