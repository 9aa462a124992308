//! ICMP errors follow the flow of the packet they quote, translated inside and out.

use crate::node;
use crate::support::packets::{echo, error, quoted, tcp};
use crate::support::*;
use packets::SYN;
use tables::Protocol;
use tables::counters::DropReason;

const TOO_BIG: L4 = L4::Unreachable { code: 4 };

/// Ports of the quoted transport header.
fn ports(quote: [u8; 8]) -> (u16, u16) {
    (u16::from_be_bytes([quote[0], quote[1]]), u16::from_be_bytes([quote[2], quote[3]]))
}

#[test]
fn an_error_about_a_masqueraded_flow_reaches_the_pod_as_if_about_its_own_packet() {
    let mut node = node();
    for packet in [tcp((A, 1000), (CLIENT, 443), SYN), udp((A, 1000), (CLIENT, 443))] {
        let sent = node.pass(POD_A, &packet).packet().clone();
        for l4 in [TOO_BIG, L4::TimeExceeded] {
            let outcome = node.pass(UPLINK, &error(ROUTER, l4.clone(), &sent));
            let told = outcome.packet();
            assert_eq!((told.src, told.dst, &told.l4, told.ttl), (ROUTER, A, &l4, 63));
            let (src, dst, _, quote) = quoted(told);
            assert_eq!((src, dst, ports(quote)), (A, CLIENT, (1000, 443)));
        }
    }
}

#[test]
fn an_error_about_a_masqueraded_echo_bears_the_pods_own_id() {
    let mut node = node();
    let sent = node.pass(POD_A, &echo(A, CLIENT, 77)).packet().clone();
    let outcome = node.pass(UPLINK, &error(ROUTER, L4::TimeExceeded, &sent));
    let (src, dst, _, quote) = quoted(outcome.packet());
    assert_eq!((src, dst, quote[4..6].to_vec()), (A, CLIENT, 77u16.to_be_bytes().to_vec()));
}

#[test]
fn an_error_of_a_backend_seems_to_come_from_the_service() {
    for (backend, local) in [(REMOTE, false), (B, true)] {
        let mut node = node();
        node.publish(|rows| rows.service(1, (SERVICE, 53, Protocol::UDP), &[(backend, 5353)]));
        let sent = node.pass(POD_A, &udp((A, 1000), (SERVICE, 53))).packet().clone();
        let refused = error(backend, L4::Unreachable { code: 3 }, &sent);
        let outcome = if local { node.pass(POD_B, &refused) } else { node.pass_tunnel(&refused) };
        let told = outcome.packet();
        assert_eq!((told.src, told.dst, told.ttl), (SERVICE, A, 63), "one hop, wherever the backend is");
        let (src, dst, _, quote) = quoted(told);
        assert_eq!((src, dst, ports(quote)), (A, SERVICE, (1000, 53)));
    }
}

#[test]
fn an_error_of_a_pod_about_what_it_received_goes_back_to_the_sender() {
    let mut node = node();
    let received = node.pass_tunnel(&udp((REMOTE, 9), (A, 53))).packet().clone();
    let outcome = node.pass(POD_A, &error(A, L4::Unreachable { code: 3 }, &received));
    assert_eq!(outcome, node.tunnelled(error(A, L4::Unreachable { code: 3 }, &received).hop()));
}

#[test]
fn an_error_of_the_host_about_a_service_answer_is_translated_outwards() {
    let mut node = node();
    node.publish(|rows| rows.service(1, (SERVICE, 53, Protocol::UDP), &[(REMOTE, 5353)]));
    let asked = node.pass(HOST, &udp((HOST_ADDR, 1000), (SERVICE, 53))).packet().clone();
    let answer = udp((REMOTE, 5353), (SNAT, asked.src_port()));
    let received = node.pass_tunnel(&answer).packet().clone();
    let outcome = node.pass(HOST, &error(HOST_ADDR, L4::Unreachable { code: 3 }, &received));
    let told = outcome.packet();
    assert_eq!((told.src, told.dst), (SNAT, REMOTE));
    let (src, dst, _, quote) = quoted(told);
    assert_eq!((src, dst, ports(quote)), (REMOTE, SNAT, (5353, asked.src_port())));
}

#[test]
fn an_error_about_nothing_we_know_is_dropped_by_name() {
    let mut node = node();
    let never_sent = udp((A, 1), (CLIENT, 2));
    let unrelated = Outcome::dropped(DropReason::IcmpUnrelated);
    assert_eq!(node.pass(UPLINK, &error(ROUTER, TOO_BIG, &never_sent)), unrelated);
    assert_eq!(node.pass(POD_A, &error(A, TOO_BIG, &udp((CLIENT, 1), (A, 2))).to(CLIENT, 0)), unrelated);
}

#[test]
fn an_error_is_for_the_sender_of_what_it_quotes_alone() {
    let mut node = node();
    let sent = node.pass(POD_A, &udp((A, 1000), (REMOTE, 53))).packet().clone();
    let received = node.pass_tunnel(&udp((REMOTE, 53), (A, 1000))).packet().clone();
    let unrelated = Outcome::dropped(DropReason::IcmpUnrelated);
    assert_eq!(node.pass_tunnel(&error(REMOTE, TOO_BIG, &sent).to(B, 0)), unrelated);
    assert_eq!(node.pass(POD_A, &error(A, TOO_BIG, &received).to(CLIENT, 0)), unrelated);
    assert_eq!(node.pass_tunnel(&error(REMOTE, TOO_BIG, &sent)).packet().dst, A);
    assert_eq!(node.pass(POD_A, &error(A, TOO_BIG, &received)), node.tunnelled(error(A, TOO_BIG, &received).hop()));
}

#[test]
fn an_error_with_a_forged_source_or_a_wrong_checksum_is_no_way_in() {
    let mut node = node();
    let sent = node.pass(POD_A, &udp((A, 1000), (REMOTE, 53))).packet().clone();
    let forged = node.pass(UPLINK, &error(REMOTE, TOO_BIG, &sent));
    assert_eq!(forged, Outcome::dropped(DropReason::ForgedOutside));
    let mut bytes = node.peers_packet(&error(REMOTE, TOO_BIG, &sent)).bytes();
    *bytes.last_mut().unwrap() ^= 1;
    // The outer UDP checksum covers it too, but VXLAN's is not looked at.
    assert_eq!(node.pass_wire(UPLINK, bytes), Outcome::dropped(DropReason::BadChecksum));
    let mut cut = node.dressed(UPLINK, &error(ROUTER, TOO_BIG, &sent).payload(&sent.bytes()[14..34])).bytes();
    cut.truncate(14 + 20 + 8 + 20);
    assert_eq!(node.pass_wire(UPLINK, cut), Outcome::dropped(DropReason::Malformed));
}
