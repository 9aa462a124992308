//! SCTP: opened by INIT, ports translated with CRC32c under them, ended by the shutdown or ABORT. etherparse knows no SCTP:
//! packets are put together here, with a checksum computed bit by bit.

use crate::direct::Pair;
use crate::node;
use crate::support::packets::{error, raw};
use crate::support::*;
use tables::Protocol;
use tables::counters::DropReason;

const SERVED: (Addr, u16, Protocol) = (SERVICE, 3868, Protocol::SCTP);
const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const SACK: u8 = 3;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;
/// Tags that the server and the client want to see.
const TO_SERVER: u32 = 0x5e4e_0001;
const TO_CLIENT: u32 = 0xc11e_0002;

/// CRC32c (RFC 9260, appendix A), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 != 0 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ byte as u32, |crc, _| step(crc)))
}

/// A chunk; the initiate tag comes first in the value of INIT and INIT-ACK.
fn chunk(kind: u8, value: &[u8]) -> Vec<u8> {
    let size = (4 + value.len() as u16).to_be_bytes();
    let mut bytes = [&[kind, 0, size[0], size[1]], value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn sctp(src: (Addr, u16), dst: (Addr, u16), tag: u32, chunks: &[Vec<u8>]) -> Spec {
    let [a, b] = [src.1, dst.1].map(u16::to_be_bytes);
    let mut bytes = [&[a, b].concat()[..], &tag.to_be_bytes(), &[0; 4], &chunks.concat()].concat();
    let checksum = crc32c(&bytes);
    bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
    raw(src.0, dst.0, 132, &bytes)
}

/// The packets of an association and who sends them (is it the client?), with the tags that they bear.
fn association() -> Vec<(bool, u32, Vec<Vec<u8>>)> {
    let initiate = |tag: u32| [&tag.to_be_bytes()[..], &[0, 1, 0, 0, 0, 10, 0, 10, 0, 0, 0, 1]].concat();
    vec![
        (true, 0, vec![chunk(INIT, &initiate(TO_CLIENT))]),
        (false, TO_CLIENT, vec![chunk(INIT_ACK, &initiate(TO_SERVER))]),
        (true, TO_SERVER, vec![chunk(COOKIE_ECHO, &[7; 99]), chunk(DATA, &[1; 500])]),
        (false, TO_CLIENT, vec![chunk(COOKIE_ACK, &[]), chunk(SACK, &[0; 12])]),
        (true, TO_SERVER, vec![chunk(DATA, &[2; 1201])]),
        (false, TO_CLIENT, vec![chunk(SACK, &[0; 12]), chunk(DATA, &[3; 33])]),
        (true, TO_SERVER, vec![chunk(SHUTDOWN, &[0; 4])]),
        (false, TO_CLIENT, vec![chunk(SHUTDOWN_ACK, &[])]),
        (true, TO_SERVER, vec![chunk(SHUTDOWN_COMPLETE, &[])]),
    ]
}

fn init(src: (Addr, u16), dst: (Addr, u16)) -> Spec {
    sctp(src, dst, 0, &association()[0].2)
}

fn data(src: (Addr, u16), dst: (Addr, u16)) -> Spec {
    sctp(src, dst, TO_SERVER, &[chunk(DATA, &[9; 40])])
}

fn with_service() -> Node {
    let mut node = node();
    node.publish(|rows| rows.service(1, SERVED, &[(REMOTE, 5000)]));
    node
}

#[test]
fn the_checksum_here_is_the_standards() {
    // RFC 3720, appendix B.4: 32 bytes of zeroes.
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
}

#[test]
fn an_association_goes_through_a_service_and_back() {
    let mut node = with_service();
    for (by_client, tag, chunks) in association() {
        if by_client {
            let sent = sctp((A, 1000), (SERVICE, 3868), tag, &chunks);
            let arrives = sctp((A, 1000), (REMOTE, 5000), tag, &chunks);
            assert_eq!(node.pass(POD_A, &sent), node.tunnelled(arrives.hop()));
        } else {
            let sent = sctp((REMOTE, 5000), (A, 1000), tag, &chunks);
            let arrives = sctp((SERVICE, 3868), (A, 1000), tag, &chunks);
            assert_eq!(node.pass_tunnel(&sent), node.delivered(POD_A, arrives.hop()));
        }
    }
    assert_eq!(node.flows(), 1);
}

#[test]
fn an_association_is_masqueraded_with_a_port_of_its_own() {
    let mut node = node();
    let first = node.pass(POD_A, &init((A, 1000), (CLIENT, 3868)));
    let payload = &first.packet().payload;
    let port = u16::from_be_bytes([payload[0], payload[1]]);
    assert!((SNAT_FIRST..=SNAT_LAST).contains(&port), "{port}");
    for (by_client, tag, chunks) in association() {
        if by_client {
            let arrives = sctp((NODE, port), (CLIENT, 3868), tag, &chunks);
            let outcome = node.pass(POD_A, &sctp((A, 1000), (CLIENT, 3868), tag, &chunks));
            assert_eq!(outcome, node.routed(ROUTER_MAC, arrives.hop()));
        } else {
            let arrives = sctp((CLIENT, 3868), (A, 1000), tag, &chunks);
            let outcome = node.pass(UPLINK, &sctp((CLIENT, 3868), (NODE, port), tag, &chunks));
            assert_eq!(outcome, node.delivered(POD_A, arrives.hop()));
        }
    }
}

#[test]
fn an_association_goes_through_a_service_by_ipv6_too() {
    let mut node = node();
    let (client, service, backend) = ((v6::A, 1000), (v6::SERVICE, 3868), (v6::REMOTE, 5000));
    node.publish(|rows| rows.service(1, (v6::SERVICE, 3868, Protocol::SCTP), &[backend]));
    for (by_client, tag, chunks) in association() {
        if by_client {
            let outcome = node.pass(POD_A, &sctp(client, service, tag, &chunks));
            assert_eq!(outcome, node.tunnelled(sctp(client, backend, tag, &chunks).hop()));
        } else {
            let outcome = node.pass_tunnel(&sctp(backend, client, tag, &chunks));
            assert_eq!(outcome, node.delivered(POD_A, sctp(service, client, tag, &chunks).hop()));
        }
    }
}

#[test]
fn a_wrong_checksum_stays_wrong_and_by_as_much() {
    let mut node = with_service();
    let mut sent = init((A, 1000), (SERVICE, 3868));
    let mut arrives = init((A, 1000), (REMOTE, 5000));
    (sent.payload[9], arrives.payload[9]) = (sent.payload[9] ^ 0x55, arrives.payload[9] ^ 0x55);
    assert_eq!(node.pass(POD_A, &sent), node.tunnelled(arrives.hop()));
}

#[test]
fn a_packet_of_several_frames_is_translated_by_its_first() {
    let mut node = node();
    node.publish(|rows| rows.service(1, SERVED, &[(B, 5000)]));
    let large = |to| sctp((A, 1000), to, TO_SERVER, &[chunk(DATA, &[4; 7001])]);
    node.pass(POD_A, &init((A, 1000), (SERVICE, 3868))).packet();
    assert_eq!(node.pass(POD_A, &large((SERVICE, 3868))), node.delivered(POD_B, large((B, 5000)).hop()));
}

#[test]
fn out_of_the_blue_only_what_needs_no_translation_passes() {
    let mut node = with_service();
    let out_of_blue = Outcome::dropped(DropReason::SctpOutOfBlue);
    assert_eq!(node.pass(POD_A, &data((A, 1000), (SERVICE, 3868))), out_of_blue);
    assert_eq!(node.pass(POD_A, &data((A, 1000), (CLIENT, 3868))), out_of_blue);
    assert_eq!(node.flows(), 0);
    let plain = data((A, 1000), (REMOTE, 5000));
    assert_eq!(node.pass(POD_A, &plain), node.tunnelled(plain.clone().hop()));
}

#[test]
fn an_init_with_a_tag_or_with_company_and_a_packet_without_tag_are_malformed() {
    let mut node = with_service();
    let (from, to) = ((A, 1000), (SERVICE, 3868));
    let chunks = association()[0].2.clone();
    let company = [chunks.clone(), vec![chunk(DATA, &[1; 8])]].concat();
    for packet in [sctp(from, to, 7, &chunks), sctp(from, to, 0, &company), sctp(from, to, 0, &[chunk(DATA, &[1; 8])])]
    {
        assert_eq!(node.pass(POD_A, &packet), Outcome::dropped(DropReason::Malformed));
    }
}

#[test]
fn an_association_stays_until_it_is_ended_by_its_own_and_then_makes_room() {
    for end in [ABORT, SHUTDOWN_COMPLETE] {
        let mut node = with_service();
        let (client, backend) = ((A, 1000), (REMOTE, 5000));
        let asked = init(client, (SERVICE, 3868));
        assert_eq!(node.pass(POD_A, &asked).packet().dst, REMOTE);
        let (_, tag, chunks) = &association()[1];
        node.pass_tunnel(&sctp(backend, client, *tag, chunks)).packet();
        node.publish(|rows| rows.service_left(1, SERVED, &[(REMOTE_TWO, 5000)], &[(REMOTE, 5000)]));
        let ended = |tag| sctp(backend, client, tag, &[chunk(end, &[])]);
        node.pass_tunnel(&ended(0xbad0_0000)).packet();
        assert_eq!(node.pass(POD_A, &asked).packet().dst, REMOTE, "anybody may have sent that");
        node.pass_tunnel(&ended(TO_CLIENT)).packet();
        assert_eq!(node.pass(POD_A, &asked).packet().dst, REMOTE_TWO);
        assert_eq!(node.flows(), 1);
    }
}

#[test]
fn an_error_about_a_translated_packet_quotes_what_its_sender_sent() {
    let mut node = with_service();
    let sent = init((A, 1000), (SERVICE, 3868));
    node.pass(POD_A, &sent).packet();
    let about = init((A, 1000), (REMOTE, 5000));
    for quoted in [8, 12, about.payload.len()] {
        let full =
            |about: &Spec| error(REMOTE, L4::Unreachable { code: 2 }, about).payload(&about.bytes()[14..34 + quoted]);
        let outcome = node.pass_tunnel(&full(&about));
        let arrived = outcome.packet();
        assert_eq!((arrived.src, arrived.dst), (SERVICE, A));
        assert_eq!(arrived.payload[16..], full(&sent).payload[16..], "{quoted} bytes quoted");
    }
}

/// By how much the checksum changes depends on the size of the whole packet, which its first fragment does not tell.
#[test]
fn fragments_pass_where_ports_stay_and_are_named_where_they_change() {
    let mut node = with_service();
    for (server, passes) in [((REMOTE, 5000), true), ((SERVICE, 3868), false)] {
        node.pass(POD_A, &init((A, 1000), server)).packet();
        let packet = sctp((A, 1000), server, TO_SERVER, &[chunk(DATA, &[5; 900])]);
        let whole = node.dressed(POD_A, &packet).bytes();
        let passed = node.pass_all(POD_A, None, &fragments::split(&whole, &[400, 800], 1 + passes as u32));
        let expected = if passes {
            node.tunnelled(packet.hop())
        } else {
            Outcome { sent: Vec::new(), dropped: vec![DropReason::Fragment; 3] }
        };
        assert_eq!(passed.together(), expected);
    }
}

#[test]
fn an_association_by_direct_server_return_keeps_its_clients_address() {
    let mut pair = Pair::new(&Shape::default());
    let (client, service, backend) = ((CLIENT, 6000), (NODE, 30_999), (REMOTE, 5000));
    pair.serves(1, (service.0, service.1, Protocol::SCTP), &[backend]);
    for (is_clients, tag, chunks) in association() {
        if is_clients {
            let asked = sctp(client, service, tag, &chunks);
            assert_eq!(pair.asked.pass(UPLINK, &asked), pair.forwarded(backend, asked.clone().hop()));
            let heard = sctp(client, backend, tag, &chunks).hop().hop();
            assert_eq!(pair.arrives(backend, &asked.hop()), pair.serving.delivered(POD_A, heard));
        } else {
            let told = sctp(service, client, tag, &chunks).hop();
            let answer = sctp(backend, client, tag, &chunks);
            assert_eq!(pair.serving.pass(POD_A, &answer), pair.serving.routed(ROUTER_MAC, told));
        }
    }
}
