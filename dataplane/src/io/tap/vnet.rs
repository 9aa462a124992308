//! The virtio-net header in front of every packet of a TAP: what is left to do to it (virtio 1.2, 5.1.6; kernel:
//! include/uapi/linux/virtio_net.h, include/linux/virtio_net.h). Native byte order, as TAPs have it unless told
//! otherwise. A header is a claim of whoever wrote it: nothing outside the packet's head frame is accepted.

use crate::io::frames::Memory;
use crate::packet::{Checksum, Gso, Packet};
use bytemuck::{Pod, Zeroable};

/// Bytes with the count of merged buffers, which TAPs leave alone (`virtio_net_hdr_mrg_rxbuf`).
pub const HEADER_BYTES_MAX: usize = 12;
/// Bytes without it.
const HEADER_BYTES: usize = size_of::<VnetHeader>();

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;
/// Bytes of a UDP header, and the least of a TCP one.
const UDP_BYTES: usize = 8;
const TCP_BYTES: usize = 20;

/// `struct virtio_net_hdr`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct VnetHeader {
    pub flags: u8,
    pub gso_type: u8,
    /// Bytes of all headers of a super-frame; a hint.
    pub hdr_len: u16,
    /// Payload bytes of each segment.
    pub gso_size: u16,
    /// Where to sum from, bytes from the Ethernet header's start; and where to store, from there.
    pub csum_start: u16,
    pub csum_offset: u16,
}

/// What a header says is left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    pub checksum: Checksum,
    pub gso: Gso,
    pub gso_ecn: bool,
}

impl VnetHeader {
    #[inline(always)]
    pub fn read(bytes: &[u8]) -> Option<VnetHeader> {
        bytes.get(..HEADER_BYTES).map(bytemuck::pod_read_unaligned)
    }

    #[inline(always)]
    pub fn bytes(self) -> [u8; HEADER_BYTES_MAX] {
        let mut bytes = [0; HEADER_BYTES_MAX];
        bytes[..HEADER_BYTES].copy_from_slice(bytemuck::bytes_of(&self));
        bytes
    }

    /// What is to be done to a packet with `head_size` bytes in its head frame. None if that makes no sense.
    #[inline(always)]
    pub fn work(self, head_size: usize) -> Option<Work> {
        let checksum = self.checksum(head_size)?;
        let gso = match (self.gso_type & !GSO_ECN, self.gso_size) {
            (GSO_NONE, _) => Gso::None,
            (_, 0) => return None,
            (GSO_TCPV4, size) => Gso::Tcp4(size),
            (GSO_TCPV6, size) => Gso::Tcp6(size),
            (GSO_UDP_L4, size) => Gso::Udp(size),
            _ => return None,
        };
        // Segments need checksums of their own, so whoever offers a super-frame leaves them to be computed.
        let complete = !matches!(checksum, Checksum::Partial { .. });
        let gso_ecn = self.gso_type & GSO_ECN != 0;
        (gso == Gso::None || !complete).then_some(Work { checksum, gso, gso_ecn })
    }

    #[inline(always)]
    fn checksum(self, head_size: usize) -> Option<Checksum> {
        let (start, offset) = (self.csum_start, self.csum_offset);
        if self.flags & NEEDS_CSUM != 0 {
            let end = start as usize + offset as usize + 2;
            return (end <= head_size).then_some(Checksum::Partial { start, offset });
        }
        Some(if self.flags & DATA_VALID != 0 { Checksum::Valid } else { Checksum::Unverified })
    }

    /// The header that tells a TAP what is left to do to this packet.
    /// A TAP's kernel looks at NEEDS_CSUM only (tried on Linux 6.18): a complete checksum is verified again whatever
    /// DATA_VALID says, and a UDP super-frame whose checksum is not partial is refused (EINVAL).
    #[inline(always)]
    pub fn of(memory: &Memory, packet: &Packet) -> VnetHeader {
        let mut header = VnetHeader::default();
        match packet.checksum {
            Checksum::Unverified => {}
            Checksum::Valid => header.flags = DATA_VALID,
            Checksum::Partial { start, offset } => {
                (header.flags, header.csum_start, header.csum_offset) = (NEEDS_CSUM, start, offset);
            }
        }
        if packet.gso != Gso::None {
            header.set_gso(memory.head(packet), packet);
        }
        header
    }

    fn set_gso(&mut self, head: &[u8], packet: &Packet) {
        let l4 = self.csum_start as usize;
        let tcp_size = || head.get(l4 + 12).map_or(TCP_BYTES, |b| (usize::from(b >> 4) * 4).max(TCP_BYTES));
        let (gso_type, l4_size) = match packet.gso {
            Gso::None => return,
            Gso::Tcp4(_) => (GSO_TCPV4, tcp_size()),
            Gso::Tcp6(_) => (GSO_TCPV6, tcp_size()),
            Gso::Udp(_) => (GSO_UDP_L4, UDP_BYTES),
        };
        self.gso_type = gso_type | if packet.gso_ecn { GSO_ECN } else { 0 };
        self.gso_size = packet.gso.size().unwrap_or(0);
        self.hdr_len = (l4 + l4_size).min(head.len()) as u16;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn partial(csum_start: u16, csum_offset: u16) -> VnetHeader {
        VnetHeader { flags: NEEDS_CSUM, csum_start, csum_offset, ..VnetHeader::default() }
    }

    #[test]
    fn a_checksum_outside_the_head_is_refused() {
        assert!(partial(34, 16).work(52).is_some());
        assert!(partial(34, 16).work(51).is_none());
        assert!(partial(u16::MAX, u16::MAX).work(4096).is_none());
    }

    #[test]
    fn a_super_frame_needs_a_size_and_a_partial_checksum() {
        let good = VnetHeader { gso_type: GSO_TCPV4 | GSO_ECN, gso_size: 1448, ..partial(34, 16) };
        let work = good.work(100).unwrap();
        assert_eq!((work.gso, work.gso_ecn), (Gso::Tcp4(1448), true));
        assert!(VnetHeader { flags: 0, ..good }.work(100).is_none());
        assert!(VnetHeader { flags: DATA_VALID, ..good }.work(100).is_none());
        assert!(VnetHeader { gso_size: 0, ..good }.work(100).is_none());
        // 3 is UDP fragmentation, which no TAP of ours offers.
        assert!(VnetHeader { gso_type: 3, ..good }.work(100).is_none());
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_lies_inside_the_head_and_reads_back(bytes: [u8; 10], head_size in 0usize..2048) {
            let header = VnetHeader::read(&bytes).unwrap();
            if let Some(work) = header.work(head_size) {
                if let Checksum::Partial { start, offset } = work.checksum {
                    prop_assert!(start as usize + offset as usize + 2 <= head_size);
                }
                let (memory, mut frames) = Memory::create(1, 4096).unwrap();
                let mut packet = Packet::new(frames.pop().unwrap(), 256, head_size as u16);
                (packet.checksum, packet.gso, packet.gso_ecn) = (work.checksum, work.gso, work.gso_ecn);
                prop_assert_eq!(VnetHeader::of(&memory, &packet).work(head_size).map(|w| (w.checksum, w.gso)), Some((work.checksum, work.gso)));
            }
        }
    }
}
