//! What fuzzing once found, as the targets saw it and in words. A new finding gets its case here with its fix.

#[path = "../fuzz/src/lib.rs"]
#[allow(dead_code)]
mod targets;

use dataplane::flow::{FlowTable, Way};
use dataplane::io::mem::WirePacket;
use dataplane::packet::Checksum;
use dataplane::parse::{Parsed, parse};
use std::sync::atomic::{AtomicU64, Ordering};
use tables::counters::DropReason;
use tables::endpoint::{EndpointKind, EndpointRecord};
use tables::flow::{FlowLayout, FlowRecord, Hop, HopKind};
use tables::layout::{Table, WORD_GENERATION};
use tables::owner::{SnatPorts, owner};
use tables::publish::Reader;
use tables::region::Access;
use tables::scope::ScopeCounters;
use tables::{Publisher, Region};
use targets::cluster::{self, GATEWAY_MAC, OVERLAYS, PODS, REMOTE_POD, UPLINK};
use targets::frames::{L4, encapsulated, frame};
use targets::input::Input;
use targets::path::Node;

fn drop_reason(bytes: &[u8]) -> Option<DropReason> {
    match parse(bytes, bytes.len()) {
        Parsed::Drop(reason) => Some(reason),
        _ => None,
    }
}

/// An IPv6 header around ICMP for IPv4, or the other way round.
fn foreign_icmp(family: usize) -> Vec<u8> {
    let (pod, gateway) = (cluster::pod_addr(0, family), cluster::GATEWAY[family]);
    let mut bytes = frame((cluster::pod_mac(0), GATEWAY_MAC), pod, gateway, L4::Echo(1), &[]);
    let (at, protocol, kind, l4) = if family == 0 { (23, 58, 128, 34) } else { (20, 1, 8, 54) };
    (bytes[at], bytes[l4]) = (protocol, kind);
    bytes
}

#[test]
fn icmp_of_the_other_family_is_malformed() {
    for family in [0, 1] {
        assert_eq!(drop_reason(&foreign_icmp(family)), Some(DropReason::Malformed), "family {family}");
    }
}

/// Its answer was written as IPv4 over an IPv6 header, whose first byte claims more options than there are bytes.
#[test]
fn an_ipv4_echo_to_the_gateway_inside_ipv6_is_dropped_and_counted() {
    let mut node = Node::new(&mut Input(&[]));
    let mut bytes = foreign_icmp(1);
    bytes[14] = 0x6f;
    node.inject(PODS[0], bytes.into());
    node.settle();
    assert_eq!(node.drops(DropReason::Malformed), 1);
    node.check_frames();
}

/// ::ffff:10.1.0.4 in an IPv6 header was the pod's own address to anti-spoofing, and IPv4 to rewriting.
#[test]
fn a_mapped_address_on_the_wire_is_malformed() {
    let (pod, peer) = (cluster::pod_addr(0, 1), cluster::REMOTE_POD[1]);
    let good = frame((cluster::pod_mac(0), GATEWAY_MAC), pod, peer, L4::Udp(1000, 80), &[]);
    assert_eq!(drop_reason(&good), None);
    for at in [22, 38] {
        let mut bytes = good.clone();
        bytes[at..at + 16].copy_from_slice(&cluster::pod_addr(0, 0).v6_octets());
        assert_eq!(drop_reason(&bytes), Some(DropReason::Malformed));
    }
}

/// A pod with raw sockets made the node write its checksum over addresses and ports that had been judged before.
#[test]
fn a_partial_checksum_outside_its_place_is_dropped() {
    let (pod, peer) = (cluster::pod_addr(0, 0), cluster::REMOTE_POD[0]);
    let bytes = frame((cluster::pod_mac(0), GATEWAY_MAC), pod, peer, L4::Udp(1000, 80), &[0; 64]);
    // The checksum's own place, one of a packet inside; the version, the source, the destination port.
    for (start, offset, passes) in [(34, 6, true), (62, 6, true), (14, 0, false), (24, 2, false), (34, 2, false)] {
        let mut node = Node::new(&mut Input(&[]));
        let packet = WirePacket { checksum: Checksum::Partial { start, offset }, ..bytes.clone().into() };
        node.inject(PODS[0], packet);
        node.settle();
        assert_eq!(node.drops(DropReason::BadChecksum) == 0, passes, "start {start}, offset {offset}");
    }
}

/// It went to the pod whose packet it quotes, with an address that is not the pod's. RFC 792, RFC 4443 (3): the source of
/// what is quoted is told; Linux calls anything else invalid.
#[test]
fn an_error_that_is_not_addressed_to_whom_it_quotes_is_dropped() {
    for (family, kind) in [(0, L4::Error(3, 1)), (1, L4::Error(1, 3))] {
        let (pod, other) = (cluster::pod_addr(0, family), cluster::pod_addr(1, family));
        let sent = frame((cluster::pod_mac(0), GATEWAY_MAC), pod, REMOTE_POD[family], L4::Udp(1000, 53), &[]);
        let macs = (GATEWAY_MAC, cluster::UPLINK_MAC);
        for (to, dropped) in [(pod, 0), (other, 1)] {
            let mut node = Node::new(&mut Input(&[]));
            node.inject(PODS[0], sent.clone().into());
            node.settle();
            node.sent.clear();
            let error = frame(macs, REMOTE_POD[family], to, kind, &sent[14..]);
            node.inject(UPLINK, encapsulated(&error, OVERLAYS[0]).into());
            node.settle();
            let heard = node.sent.iter().filter(|(interface, _)| *interface == PODS[0]).count();
            assert_eq!((heard, node.drops(DropReason::IcmpUnrelated)), (1 - dropped, dropped as u64), "to {to}");
        }
    }
}

/// What the oracle over ICMP errors once took for findings: a quote that claims less than it is, a sum over bytes that the
/// type leaves unused, an error about an answer, hop-by-hop options behind others. Each input is the overlay, what the pod
/// asks (pod, family, whom, port, protocol), and errors: about what, from where on, edits, size, from whom, kind, in a
/// tunnel, edits.
#[test]
fn odd_errors_pass_where_stacks_take_them() {
    const UDP: [u8; 7] = [0, 0, 0, 0, 1, 0, 1];
    const UDP_V6: [u8; 7] = [0, 0, 0, 1, 1, 0, 1];
    const ECHO: [u8; 7] = [0, 0, 0, 0, 1, 0, 2];
    const ECHO_V6: [u8; 7] = [0, 0, 0, 1, 1, 0, 2];
    let edits = |edits: &[(u16, u8)]| {
        let bytes = edits.iter().flat_map(|(at, value)| [*at as u8, (*at >> 8) as u8, *value]);
        [edits.len() as u8].into_iter().chain(bytes).collect::<Vec<u8>>()
    };
    let error = |quote: &[(u16, u8)], kind: u8, frame: &[(u16, u8)]| {
        [&[0, 1][..], &edits(quote), &[200, 1, kind, 0], &edits(frame)].concat()
    };
    targets::errors::run(&[&UDP[..], &error(&[(3, 21)], 0, &[])].concat());
    targets::errors::run(&[&UDP_V6[..], &error(&[(5, 2)], 0, &[])].concat());
    // The low byte of the sum is one of these.
    for low in 0..=255 {
        targets::errors::run(&[&UDP[..], &error(&[], 1, &[(89, 1), (87, low)])].concat());
    }
    let request = error(&[], 0, &[(84, 8)]);
    let of_answer = error(&[(20, 0), (24, 0), (25, 0)], 0, &[]);
    targets::errors::run(&[&ECHO[..], &request, &of_answer].concat());
    let options = [(6, 60), (40, 0), (48, 58), (49, 0), (56, 128), (60, 3), (61, 232)];
    targets::errors::run(&[&ECHO_V6[..], &error(&options, 0, &[])].concat());
}

/// Not findings: oracles over a small part of what a fuzzer tries, so that they stay right.
fn replay(target: impl Fn(&[u8]), inputs: usize) {
    let mut state = 7u64;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    for _ in 0..inputs {
        let input: Vec<u8> = (0..160).map(|_| byte()).collect();
        target(&input);
    }
}

#[test]
fn fragments_fare_as_the_model_says() {
    replay(targets::fragments::run, 600);
}

#[test]
fn what_comes_out_of_tunnels_is_what_is_inside() {
    replay(targets::decap::run, 600);
}

#[test]
fn errors_are_about_what_their_receiver_sent() {
    replay(targets::errors::run, 600);
}

fn reader(publisher: &Publisher) -> Reader {
    Reader::from_fd(publisher.region().fd().try_clone_to_owned().unwrap()).unwrap()
}

/// The sum of first owner and spread overflowed where builds check that.
#[test]
fn an_owner_beyond_all_workers_is_an_answer() {
    let mut publisher = cluster::publisher();
    let mut batch = publisher.batch([]).unwrap();
    let mut damaged = EndpointRecord::new(EndpointKind::Pod);
    (damaged.owner_first, damaged.owner_count) = (u16::MAX, u16::MAX);
    batch.insert(Table::Endpoint, &cluster::pod_addr(0, 0), &damaged).unwrap();
    batch.publish();
    let mut reader = reader(&publisher);
    reader.pin(&AtomicU64::new(0), &mut ScopeCounters::default());
    let snat = SnatPorts::new(40_000, 40_999, 2).unwrap();
    let tuples = (0..100u16).map(|port| tables::flow::Tuple {
        local: cluster::pod_addr(0, 0),
        remote: cluster::REMOTE_POD[0],
        local_port: port,
        remote_port: 80,
        protocol: tables::Protocol::TCP,
        reserved: 0,
        network: 0,
    });
    assert!(tuples.into_iter().all(|tuple| owner(&reader.view(), &snat, &tuple).is_some()));
}

/// The last generation plus one overflowed while scopes were bumped, where builds check that.
#[test]
fn the_last_generation_there_is_can_be_pinned() {
    let publisher = cluster::publisher();
    let (mut reader, ack, mut scopes) = (reader(&publisher), AtomicU64::new(0), ScopeCounters::default());
    let generation = &publisher.region().words()[WORD_GENERATION];
    generation.store(u64::MAX - 1, Ordering::Relaxed);
    reader.pin(&ack, &mut scopes);
    generation.store(u64::MAX, Ordering::Relaxed);
    assert!(reader.pin(&ack, &mut scopes));
    assert_eq!(reader.generation(), u64::MAX);
}

/// Such a record handed its packets to itself until the stack ended.
#[test]
fn an_adopted_flow_that_does_not_end_at_its_local_end_is_forgotten() {
    let region = FlowLayout::for_capacity(64).create(0, 1, 7, 0).unwrap();
    let fd = region.fd().try_clone_to_owned().unwrap();
    let mut table = FlowTable::new(region).unwrap();
    let tuple = |port: u16| tables::flow::Tuple {
        local: cluster::pod_addr(0, 0),
        remote: cluster::pod_addr(1, 0),
        local_port: port,
        remote_port: 80,
        protocol: tables::Protocol::UDP,
        reserved: 0,
        network: 0,
    };
    for (port, back) in [(1, HopKind::Interface), (2, HopKind::Endpoint), (3, HopKind::Tunnel)] {
        let back = Hop::new(back, PODS[0]);
        let mut record = FlowRecord::new(tuple(port), &tuple(port));
        record.back = back;
        table.insert(record).unwrap();
    }
    let region = Region::attach(fd, Access::ReadWrite).unwrap();
    let adopted = FlowTable::adopt(region, 0, 1).unwrap().unwrap();
    let found = [1, 2, 3].map(|port| adopted.find(&tuple(port), Way::Out).is_some());
    assert_eq!(found, [true, false, false]);
}

/// Zero workers made control divide by zero.
#[test]
fn a_snat_range_over_the_socket_is_checked_as_one_that_was_typed() {
    let parsed = |text: &str| serde_json::from_str::<SnatPorts>(text).is_ok();
    assert!(parsed(r#"{"first":40000,"last":60999,"workers":2}"#));
    assert!(!parsed(r#"{"first":40000,"last":60999,"workers":0}"#));
    assert!(!parsed(r#"{"first":5,"last":1,"workers":1}"#));
}

/// The targets with inputs of their own: empty ones, and a pattern through each.
#[test]
fn every_target_takes_any_bytes() {
    let patterns = (0..64u64).map(|i| {
        let mut state = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        std::iter::repeat_with(next).take(4 * i as usize).collect::<Vec<u8>>()
    });
    for input in patterns {
        for run in [targets::parse::run, targets::rewrite::run, targets::region::run, targets::path::run] {
            run(&input);
        }
    }
}
