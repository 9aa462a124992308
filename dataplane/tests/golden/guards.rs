//! What must not pass, each with its own reason.

use crate::node;
use crate::support::packets::{encapsulate, outer, tcp};
use crate::support::*;
use packets::{Outer, SYN};
use tables::counters::DropReason;

const STRANGER: Addr = Addr::v4([192, 168, 0, 66]);

fn from_outside(node: &mut Node, outer: &Outer, inner: &Spec) -> Outcome {
    let packet = encapsulate(outer, 55_555, &inner.clone().macs(inner_mac(2), inner_mac(1)).bytes());
    node.pass_wire(UPLINK, packet.bytes())
}

fn usual() -> Outer {
    outer(PEER, uplink_mac(2), NODE, uplink_mac(1))
}

#[test]
fn a_pod_sends_only_from_its_own_addresses() {
    let mut node = node();
    let packet = udp((A, 1), (REMOTE, 2)).macs(pod_mac(1, 5), GATEWAY_MAC);
    assert_eq!(node.pass_wire(POD_A, packet.bytes()), Outcome::dropped(DropReason::SpoofedMac));
    for forged in [B, REMOTE, NODE, HOST_ADDR, SNAT, GATEWAY, SERVICE, CLIENT] {
        let packet = udp((forged, 1), (B, 2));
        assert_eq!(node.pass(POD_A, &packet), Outcome::dropped(DropReason::SpoofedAddress), "{forged}");
    }
    assert_eq!(node.flows(), 0);
}

#[test]
fn nothing_from_outside_bears_an_address_of_ours() {
    let mut node = node();
    let established = udp((A, 1), (REMOTE, 2));
    node.pass(POD_A, &established);
    for forged in [B, HOST_ADDR, SNAT, GATEWAY, NODE, SERVICE, REMOTE, pod(1, 99)] {
        let packet = udp((forged, 2), (A, 1));
        assert_eq!(node.pass(UPLINK, &packet), Outcome::dropped(DropReason::ForgedOutside), "{forged}");
    }
}

#[test]
fn nothing_from_outside_reaches_the_host_with_an_address_of_ours() {
    let mut node = node();
    for forged in [B, HOST_ADDR, SNAT, SERVICE, REMOTE] {
        let packet = udp((forged, 2), (NODE, SNAT_FIRST));
        assert_eq!(node.pass(UPLINK, &packet), Outcome::dropped(DropReason::ForgedOutside), "{forged}");
    }
}

#[test]
fn a_tunnel_packet_comes_from_the_peer_of_its_inner_source() {
    let mut node = node();
    let inner = udp((REMOTE, 1), (A, 2));
    let peer = DropReason::TunnelPeer;
    assert_eq!(from_outside(&mut node, &Outer { src: STRANGER, ..usual() }, &inner), Outcome::dropped(peer));
    for source in [B, CLIENT, NODE, PEER, SERVICE] {
        let outcome = from_outside(&mut node, &usual(), &udp((source, 1), (A, 2)));
        assert_eq!(outcome, Outcome::dropped(peer), "{source}");
    }
    assert!(from_outside(&mut node, &usual(), &inner).dropped.is_empty());
    let later = from_outside(&mut node, &Outer { src: STRANGER, ..usual() }, &inner);
    assert_eq!(later, Outcome::dropped(peer), "an established flow is no way in either");
}

#[test]
fn a_tunnel_packet_is_of_our_network_and_for_a_pod_of_ours() {
    let mut node = node();
    let inner = udp((REMOTE, 1), (A, 2));
    let outcome = from_outside(&mut node, &Outer { vni: VNI + 1, ..usual() }, &inner);
    assert_eq!(outcome, Outcome::dropped(DropReason::TunnelNetwork));
    for stray in [pod(1, 99), CLIENT, REMOTE_TWO, NODE, SERVICE] {
        let outcome = from_outside(&mut node, &usual(), &udp((REMOTE, 1), (stray, 2)));
        assert_eq!(outcome, Outcome::dropped(DropReason::TunnelStray), "{stray}");
    }
    for ours in [SNAT, GATEWAY] {
        let outcome = from_outside(&mut node, &usual(), &udp((REMOTE, 1), (ours, 2)));
        assert_eq!(outcome, Outcome::dropped(DropReason::NoFlow), "{ours}");
    }
}

#[test]
fn a_packet_whose_time_runs_out_goes_no_further_and_the_last_hop_counts() {
    let mut node = node();
    for (ttl, passes) in [(0, false), (1, false), (2, true)] {
        for packet in [udp((A, 1), (B, 2)), udp((A, 1), (REMOTE, 2)), udp((A, 1), (CLIENT, 2))] {
            let outcome = node.pass(POD_A, &packet.ttl(ttl));
            let expired = outcome.dropped == [DropReason::TtlExpired];
            let told = matches!(outcome.packet_of_any().l4, L4::TimeExceeded);
            assert_eq!((expired, told), (!passes, !passes), "{outcome:?}");
        }
        let outcome = node.pass_tunnel(&udp((REMOTE, 1), (A, 2)).ttl(ttl));
        assert_eq!(outcome.dropped.is_empty(), passes);
    }
}

#[test]
fn multicast_broadcast_and_link_local_go_nowhere() {
    let mut node = node();
    for dst in [[224, 0, 0, 251], [255, 255, 255, 255], [169, 254, 169, 254], [0, 0, 0, 0]] {
        let outcome = node.pass(POD_A, &udp((A, 1), (Addr::v4(dst), 5353)));
        assert_eq!(outcome, Outcome::dropped(DropReason::LinkLocal), "{dst:?}");
    }
    let dhcp = udp((Addr::v4([0; 4]), 68), (Addr::v4([255; 4]), 67));
    assert_eq!(node.pass(POD_A, &dhcp), Outcome::dropped(DropReason::LinkLocal));
}

#[test]
fn without_tables_nothing_passes() {
    let mut node = node();
    for worker in &mut node.workers {
        worker.path().reader = None;
    }
    assert_eq!(node.pass(POD_A, &tcp((A, 1), (B, 2), SYN)), Outcome::dropped(DropReason::NoTables));
}
