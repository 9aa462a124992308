use super::*;
use crate::parse::{Parsed, parse};
use etherparse::{IpFragOffset, Ipv4Header, PacketBuilder};
use proptest::prelude::*;

/// A UDP packet with these options, which may be a fragment itself.
fn packet(options: &[u8], payload: &[u8], offset: u16, more: bool) -> Vec<u8> {
    let mut ip =
        Ipv4Header::new(payload.len() as u16, 64, etherparse::IpNumber::UDP, [10, 1, 0, 4], [10, 1, 1, 4]).unwrap();
    (ip.identification, ip.dont_fragment, ip.more_fragments) = (0x1234, false, more);
    ip.fragment_offset = IpFragOffset::try_new(offset).unwrap();
    ip.options = options.try_into().unwrap();
    ip.total_len = (ip.header_len() + payload.len()) as u16;
    ip.header_checksum = ip.calc_header_checksum();
    let mut bytes = [[2; 6], [4; 6]].concat();
    bytes.extend([8, 0]);
    ip.write(&mut bytes).unwrap();
    bytes.extend(payload);
    bytes
}

/// A datagram's bytes.
fn datagram(size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let payload: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
    PacketBuilder::ipv4([10, 1, 0, 4], [10, 1, 1, 4], 64).udp(1000, 2000).write(&mut bytes, &payload).unwrap();
    bytes.split_off(20)
}

/// The fragments of a packet as an independent parser reads them, with what follows the headers; no frame may be lost.
fn cut_up(bytes: &[u8], ip_size_max: usize, frames: u32) -> Result<Vec<(Ipv4Header, Vec<u8>)>, DropReason> {
    let (memory, all) = Memory::create(frames, 2048).unwrap();
    let mut pool = FramePool::divide(std::sync::Arc::new(memory), all, 1).remove(0);
    let packet = pool.copy_in(bytes).unwrap();
    let (Parsed::Ip(meta) | Parsed::Fragment(meta, _)) = parse(pool.memory().head(&packet), bytes.len()) else {
        panic!("unparsable")
    };
    assert!(may_cut(pool.memory(), &packet, &meta));
    let mut out = Vec::new();
    let failed = cut(&mut pool, packet, &meta, ip_size_max, &mut out);
    let mut fragments = Vec::new();
    for (fragment, meta) in out {
        let bytes = pool.memory().head(&fragment).to_vec();
        assert_eq!((meta.end as usize, &bytes[..14]), (bytes.len(), &[&[2u8; 6][..], &[4; 6], &[8, 0]].concat()[..]));
        let (header, rest) = Ipv4Header::from_slice(&bytes[14..]).unwrap();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        assert_eq!(header.total_len as usize, bytes.len() - 14);
        assert!(header.total_len as usize <= ip_size_max);
        fragments.push((header, rest.to_vec()));
        pool.put_packet(fragment);
    }
    assert_eq!(pool.available(), frames as usize, "a frame was lost");
    match failed {
        Some(reason) => Err(reason),
        None => Ok(fragments),
    }
}

/// The offset and "more fragments" of each, in bytes.
fn marks(fragments: &[(Ipv4Header, Vec<u8>)]) -> Vec<(u16, bool)> {
    fragments.iter().map(|(header, _)| (header.fragment_offset.value() * 8, header.more_fragments)).collect()
}

#[test]
fn fragments_fill_the_way_out_by_eights_and_keep_the_id() {
    let bytes = packet(&[], &datagram(2992), 0, false);
    let fragments = cut_up(&bytes, 1450, 16).unwrap();
    assert_eq!(marks(&fragments), [(0, true), (1424, true), (2848, false)]);
    assert!(fragments.iter().all(|(header, _)| header.identification == 0x1234 && header.time_to_live == 64));
}

#[test]
fn a_fragment_is_cut_further_where_it_stands() {
    let bytes = packet(&[], &datagram(1592), 185, true);
    assert_eq!(marks(&cut_up(&bytes, 1500, 16).unwrap()), [(1480, true), (2960, true)]);
    let bytes = packet(&[], &datagram(1600), 185, false);
    assert_eq!(marks(&cut_up(&bytes, 1500, 16).unwrap()), [(1480, true), (2960, false)]);
}

/// Router alert (copied), record route (not), timestamp (not), security (copied).
#[test]
fn later_fragments_carry_the_options_that_say_so() {
    let (alert, route, security) = ([148, 4, 0, 0], [7, 7, 4, 0, 0, 0, 0], [130, 5, 1, 2, 3]);
    let options = [&alert[..], &[1], &route, &security, &[1, 1, 0]].concat();
    let bytes = packet(&options, &datagram(2000), 0, false);
    let fragments = cut_up(&bytes, 1000, 16).unwrap();
    assert_eq!(fragments[0].0.options.as_slice(), options);
    let copied = [&alert[..], &security, &[0, 0, 0]].concat();
    assert!(fragments.len() > 2 && fragments[1..].iter().all(|(header, _)| header.options.as_slice() == copied));
}

#[test]
fn an_option_that_claims_too_much_ends_the_list() {
    for options in [[148, 200, 0, 0], [148, 0, 0, 0], [1, 1, 1, 148]] {
        let fragments = cut_up(&packet(&options, &datagram(2000), 0, false), 1000, 16).unwrap();
        assert_eq!((fragments[0].0.options.as_slice(), fragments[1].0.options.as_slice()), (&options[..], &[][..]));
    }
}

#[test]
fn what_cannot_be_cut_is_named_and_nothing_is_sent() {
    let bytes = packet(&[], &datagram(3000), 0, false);
    assert_eq!(cut_up(&bytes, 27, 16), Err(DropReason::TooBig), "no room for eight bytes");
    assert_eq!(cut_up(&bytes, 1000, 4), Err(DropReason::NoFrame));
}

#[test]
fn what_says_so_or_is_not_finished_may_not_be_cut() {
    let (memory, all) = Memory::create(4, 2048).unwrap();
    let mut pool = FramePool::divide(std::sync::Arc::new(memory), all, 1).remove(0);
    let mut bytes = packet(&[], &datagram(100), 0, false);
    bytes[20] |= 0x40;
    let packet = pool.copy_in(&bytes).unwrap();
    let meta = parse(&bytes, bytes.len()).ip().unwrap();
    assert!(!may_cut(pool.memory(), &packet, &meta), "don't fragment");
    bytes[20] = 0;
    let mut packet = pool.copy_in(&bytes).unwrap();
    assert!(may_cut(pool.memory(), &packet, &meta));
    packet.checksum = Checksum::Partial { start: 34, offset: 6 };
    assert!(!may_cut(pool.memory(), &packet, &meta), "its checksum is over all of it");
}

proptest! {
    /// Put together by offset, the fragments are the packet, whatever its size and the way out's.
    #[test]
    fn fragments_put_together_are_the_packet(
        size in 1usize..9000, ip_size_max in 68usize..2000, offset in 0u16..100, more: bool, options in 0usize..=10,
    ) {
        let payload = datagram(if more { size.next_multiple_of(8) } else { size });
        let options = [136, 4, 1, 2].repeat(options);
        let bytes = packet(&options, &payload, offset, more);
        let fragments = cut_up(&bytes, ip_size_max.max(20 + options.len() + 8), 2048).unwrap();
        let mut together = Vec::new();
        for (header, part) in &fragments {
            prop_assert_eq!(header.fragment_offset.value() as usize, offset as usize + together.len() / 8);
            together.extend_from_slice(part);
            prop_assert_eq!(header.more_fragments, more || together.len() < payload.len());
        }
        prop_assert_eq!(together, payload);
    }
}
