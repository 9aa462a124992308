//! Captures in the classic pcap format of Ethernet packets, so that tests can write what wireshark reads and replay what
//! tcpdump wrote (draft-ietf-opsawg-pcap). Written with nanoseconds; read in either resolution and byte order.

use std::io::{self, Read, Write};

const MAGIC_MICROS: u32 = 0xa1b2_c3d4;
const MAGIC_NANOS: u32 = 0xa1b2_3c4d;
const LINKTYPE_ETHERNET: u32 = 1;
/// Larger packets are a damaged file. tcpdump's own limit.
const BYTES_MAX: u32 = 262_144;

/// A packet with its time in nanoseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    pub time_ns: u64,
    pub bytes: Vec<u8>,
}

/// Why a capture cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PcapError {
    #[error("the capture ends in the middle, or cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("this is no pcap file (it begins with {0:#010x}): save it as pcap, not pcapng")]
    Magic(u32),
    #[error("the capture's link type is {0}, only Ethernet (1) is understood")]
    LinkType(u32),
    #[error("a packet of {0} bytes: the capture is damaged")]
    PacketSize(u32),
}

/// Writes the file's header.
pub fn write_header(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&MAGIC_NANOS.to_le_bytes())?;
    let version = 2 | 4 << 16;
    for word in [version, 0, 0, BYTES_MAX, LINKTYPE_ETHERNET] {
        out.write_all(&u32::to_le_bytes(word))?;
    }
    Ok(())
}

/// Writes one packet.
pub fn write_packet(out: &mut impl Write, time_ns: u64, bytes: &[u8]) -> io::Result<()> {
    let size = bytes.len() as u32;
    for word in [(time_ns / 1_000_000_000) as u32, (time_ns % 1_000_000_000) as u32, size, size] {
        out.write_all(&word.to_le_bytes())?;
    }
    out.write_all(bytes)
}

/// Reads a whole capture.
pub fn read(mut input: impl Read) -> Result<Vec<Captured>, PcapError> {
    let mut header = [0; 24];
    input.read_exact(&mut header)?;
    let (swapped, nanos_per_unit) = resolution(word(&header, 0, false))?;
    let link_type = word(&header, 20, swapped) & 0x0fff_ffff;
    if link_type != LINKTYPE_ETHERNET {
        return Err(PcapError::LinkType(link_type));
    }
    let mut packets = Vec::new();
    while let Some(packet) = read_packet(&mut input, swapped, nanos_per_unit)? {
        packets.push(packet);
    }
    Ok(packets)
}

/// Whether words are big endian, and the nanoseconds that a fraction counts.
fn resolution(magic: u32) -> Result<(bool, u64), PcapError> {
    match (magic, magic.swap_bytes()) {
        (MAGIC_NANOS, _) => Ok((false, 1)),
        (MAGIC_MICROS, _) => Ok((false, 1000)),
        (_, MAGIC_NANOS) => Ok((true, 1)),
        (_, MAGIC_MICROS) => Ok((true, 1000)),
        _ => Err(PcapError::Magic(magic)),
    }
}

fn read_packet(input: &mut impl Read, swapped: bool, nanos_per_unit: u64) -> Result<Option<Captured>, PcapError> {
    let mut header = [0; 16];
    if input.read(&mut header[..1])? == 0 {
        return Ok(None);
    }
    input.read_exact(&mut header[1..])?;
    let size = word(&header, 8, swapped);
    if size > BYTES_MAX {
        return Err(PcapError::PacketSize(size));
    }
    let mut bytes = vec![0; size as usize];
    input.read_exact(&mut bytes)?;
    let (seconds, fraction) = (word(&header, 0, swapped), word(&header, 4, swapped));
    Ok(Some(Captured { time_ns: u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * nanos_per_unit, bytes }))
}

fn word(header: &[u8], at: usize, swapped: bool) -> u32 {
    let word = u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if swapped { word.swap_bytes() } else { word }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let packets = [
            Captured { time_ns: 1_700_000_000_123_456_789, bytes: vec![1; 60] },
            Captured { time_ns: 0, bytes: vec![] },
        ];
        let mut file = Vec::new();
        write_header(&mut file).unwrap();
        for packet in &packets {
            write_packet(&mut file, packet.time_ns, &packet.bytes).unwrap();
        }
        assert_eq!(read(&file[..]).unwrap(), packets);
        assert!(matches!(read(&file[..file.len() - 1]), Err(PcapError::Io(_))));
    }

    #[test]
    fn a_big_endian_capture_with_microseconds_is_understood() {
        let words = [0xa1b2_c3d4u32, 2 << 16 | 4, 0, 0, 65_535, 1, 3, 5, 2, 1500];
        let file: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).chain([8, 9]).collect();
        assert_eq!(read(&file[..]).unwrap(), [Captured { time_ns: 3_000_005_000, bytes: vec![8, 9] }]);
    }

    #[test]
    fn anything_else_is_refused_with_a_reason() {
        assert!(matches!(read(&[0x0a; 24][..]), Err(PcapError::Magic(0x0a0a_0a0a))));
        let mut file = Vec::new();
        write_header(&mut file).unwrap();
        file.extend([0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0]);
        assert!(matches!(read(&file[..]), Err(PcapError::PacketSize(u32::MAX))));
        file[20] = 101;
        assert!(matches!(read(&file[..]), Err(PcapError::LinkType(101))));
    }
}
