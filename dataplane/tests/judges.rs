//! What comes out of a node, judged by programs that others wrote: scapy builds odd but legal packets and says byte by byte
//! what must become of them (`judges/judge.py`), tshark reads everything that came out and verifies every checksum. `make
//! judges` installs both; without them this fails.

mod support;

#[path = "judges/kinds.rs"]
mod kinds;
#[path = "judges/scapy.rs"]
mod scapy;
#[path = "judges/tshark.rs"]
mod tshark;

use scapy::{Exchange, write_capture};
use std::path::{Path, PathBuf};
use tshark::Verdict;

/// A folder of a test's own.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn judged(name: &str, packets: &[Vec<u8>]) -> Vec<Verdict> {
    let capture = folder(name).join("sent.pcap");
    write_capture(&capture, packets);
    let verdicts = tshark::judge(&capture);
    assert_eq!(verdicts.len(), packets.len(), "{}", capture.display());
    verdicts
}

#[test]
fn scapy_gets_what_it_expects_and_tshark_has_nothing_against_it() {
    let (sent, said) = Exchange::start(&folder("scapy")).run();
    let said = said.unwrap_or_else(|said| panic!("{said}"));
    println!("{} packets: {said}", sent.len());
    for (i, verdict) in judged("scapy", &sent).iter().enumerate() {
        assert!(verdict.complaints.is_empty(), "packet {} of scapy/sent.pcap: {verdict:?}", i + 1);
    }
}

#[test]
fn tshark_takes_every_kind_of_packet_for_what_it_is() {
    let sent = kinds::all();
    let packets: Vec<Vec<u8>> = sent.iter().map(|(_, packet)| packet.clone()).collect();
    for (i, (verdict, (stack, _))) in judged("kinds", &packets).iter().zip(&sent).enumerate() {
        assert!(verdict.complaints.is_empty(), "packet {} of kinds/sent.pcap: {verdict:?}", i + 1);
        assert_eq!(verdict.stack, *stack, "packet {} of kinds/sent.pcap", i + 1);
    }
}

#[test]
fn tshark_would_say_so() {
    let broken = |at: usize| {
        let mut packet = support::udp((support::A, 1000), (support::REMOTE, 2000)).bytes();
        packet[at] ^= 1;
        packet
    };
    let whole = support::udp((support::A, 1000), (support::REMOTE, 2000)).bytes();
    let cut = whole[..40].to_vec();
    let verdicts = judged("broken", &[whole, broken(24), broken(40), cut]);
    let complaints: Vec<&[String]> = verdicts.iter().map(|verdict| &verdict.complaints[..]).collect();
    assert_eq!(complaints[0], [] as [String; 0]);
    assert_eq!(complaints[1], ["an error", "ip checksum"]);
    assert_eq!(complaints[2], ["an error", "udp checksum"]);
    assert!(complaints[3].contains(&"malformed".to_owned()), "{:?}", complaints[3]);
}
