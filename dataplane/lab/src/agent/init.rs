//! SCTP as far as a prober goes, by raw packets, since this kernel has no SCTP: INIT and INIT-ACK with a right CRC32c
//! (RFC 9260, sections 3 and 5.1), whose cookie may say something. Must not send.

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const STATE_COOKIE: u16 = 7;
const CHECKSUM: std::ops::Range<usize> = 8..12;
/// Where the parameters of an INIT-ACK begin: behind the common header, the chunk's, and what is fixed.
const PARAMETERS: usize = 12 + 4 + 16;

/// What one packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub is_answer: bool,
    pub src_port: u16,
    pub dst_port: u16,
    /// In the common header: 0 of an INIT, its sender's tag of the answer.
    pub verification_tag: u32,
    /// What its own sender wants to see.
    pub initiate_tag: u32,
}

impl Packet {
    pub fn init(src_port: u16, dst_port: u16, initiate_tag: u32) -> Packet {
        Packet { is_answer: false, src_port, dst_port, verification_tag: 0, initiate_tag }
    }

    pub fn answer(&self) -> Packet {
        Packet {
            is_answer: true,
            src_port: self.dst_port,
            dst_port: self.src_port,
            verification_tag: self.initiate_tag,
            initiate_tag: !self.initiate_tag,
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.bytes_with("cook")
    }

    /// With what an answer's cookie says.
    pub fn bytes_with(&self, text: &str) -> Vec<u8> {
        // Receive window, streams out and in, first TSN.
        let initiate = [&self.initiate_tag.to_be_bytes()[..], &[0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]].concat();
        let cookie_size = (4 + text.len() as u16).to_be_bytes();
        let cookie = [&STATE_COOKIE.to_be_bytes()[..], &cookie_size, text.as_bytes()].concat();
        let value = if self.is_answer { [initiate, cookie].concat() } else { initiate };
        let kind = if self.is_answer { INIT_ACK } else { INIT };
        let size = (4 + value.len() as u16).to_be_bytes();
        let ports = [self.src_port, self.dst_port].map(u16::to_be_bytes).concat();
        let tag = self.verification_tag.to_be_bytes();
        let mut bytes = [&ports[..], &tag, &[0; 4], &[kind, 0], &size, &value].concat();
        // Chunks are padded, and do not count that.
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        let checksum = crc32c::crc32c(&bytes).to_le_bytes();
        bytes[CHECKSUM].copy_from_slice(&checksum);
        bytes
    }

    /// What the cookie of an answer says; it is the first parameter.
    pub fn said(bytes: &[u8]) -> Option<String> {
        let short = |at: usize| Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        let size = short(PARAMETERS + 2)? as usize;
        let text = bytes.get(PARAMETERS + 4..PARAMETERS + size).filter(|_| short(PARAMETERS) == Some(STATE_COOKIE))?;
        String::from_utf8(text.to_vec()).ok()
    }

    /// `None`: neither an INIT nor an INIT-ACK, or damaged.
    pub fn read(bytes: &[u8]) -> Option<Packet> {
        let short = |at: usize| Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        let long = |at: usize| Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        let mut summed = bytes.to_vec();
        summed.get_mut(CHECKSUM)?.fill(0);
        let kind = *bytes.get(12)?;
        if crc32c::crc32c(&summed).to_le_bytes() != bytes[CHECKSUM] || ![INIT, INIT_ACK].contains(&kind) {
            return None;
        }
        Some(Packet {
            is_answer: kind == INIT_ACK,
            src_port: short(0)?,
            dst_port: short(2)?,
            verification_tag: long(4)?,
            initiate_tag: long(16)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_read_as_it_was_written_unless_it_is_damaged() {
        for packet in [Packet::init(1, 80, 7), Packet::init(1, 80, 7).answer()] {
            let mut bytes = packet.bytes_with("hello");
            assert_eq!(Packet::read(&bytes), Some(packet));
            assert_eq!(Packet::said(&bytes), packet.is_answer.then(|| "hello".into()));
            bytes[17] ^= 1;
            assert_eq!(Packet::read(&bytes), None);
        }
        assert_eq!(Packet::read(&[0; 5]), None);
    }
}
