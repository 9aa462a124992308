//! The program as the kernel runs it (BPF_PROG_TEST_RUN) on packets built by etherparse. Needs root, as the program does.

use super::*;
use etherparse::{Icmpv4Type, Icmpv6Type, IpNumber, PacketBuilder, icmpv4, icmpv6};
use libbpf_rs::ProgramInput;
use rustix::net::{AddressFamily, SocketType};

const DROP: u32 = 1;
const PASS: u32 = 2;
const REDIRECT: u32 = 4;
const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
const NODE: [u8; 4] = [192, 168, 0, 1];
const ROUTER: [u8; 4] = [192, 168, 0, 254];
const POD: [u8; 4] = [10, 244, 1, 7];
const NODE6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ROUTER6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfe];
const POD6: [u8; 16] = [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];

struct Bench {
    claim: Claim,
    socket: Option<OwnedFd>,
}

impl Bench {
    fn new() -> Bench {
        Bench::with((Encapsulation::Vxlan, 4789))
    }

    fn with(tunnel: (Encapsulation, u16)) -> Bench {
        Bench::of(tunnel, 0)
    }

    fn of(tunnel: (Encapsulation, u16), vlan: u16) -> Bench {
        let mut claim = Claim::load(1500).expect("this test loads an XDP program: run it as root");
        let node = [Addr::v4(NODE), Addr::v6(NODE6)];
        claim.set_config(ClaimConfig::new(&node, (Mac(OURS), vlan), tunnel, 6081, 40000..=60999)).unwrap();
        let ranges = ["10.244.0.0/16", "10.96.0.0/16", "fd00::/16"];
        claim.set_ranges(ranges.iter().map(|range| range.parse().unwrap()).collect()).unwrap();
        let socket = rustix::net::socket(AddressFamily::XDP, SocketType::RAW, None).unwrap();
        claim.set_socket(0, socket.as_fd()).unwrap();
        Bench { claim, socket: Some(socket) }
    }

    fn verdict(&self, packet: &[u8]) -> u32 {
        let program = self.claim._object.progs_mut().next().unwrap();
        let input = ProgramInput { data_in: Some(packet), ..ProgramInput::default() };
        program.test_run(input).unwrap().return_value
    }

    fn claims(&self, packet: &[u8]) -> bool {
        match self.verdict(packet) {
            REDIRECT => true,
            PASS => false,
            other => panic!("the program answered {other}"),
        }
    }
}

fn built(builder: etherparse::PacketBuilderStep<etherparse::UdpHeader>) -> Vec<u8> {
    let mut bytes = Vec::new();
    builder.write(&mut bytes, &[7; 32]).unwrap();
    bytes
}

fn v4(src: [u8; 4], dst: [u8; 4]) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], OURS).ipv4(src, dst, 64)
}

fn v6(src: [u8; 16], dst: [u8; 16]) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], OURS).ipv6(src, dst, 64)
}

fn udp(src: [u8; 4], dst: [u8; 4], ports: (u16, u16)) -> Vec<u8> {
    built(v4(src, dst).udp(ports.0, ports.1))
}

fn udp6(src: [u8; 16], dst: [u8; 16], ports: (u16, u16)) -> Vec<u8> {
    built(v6(src, dst).udp(ports.0, ports.1))
}

fn tcp(src: [u8; 4], dst: [u8; 4], ports: (u16, u16)) -> Vec<u8> {
    let mut bytes = Vec::new();
    v4(src, dst).tcp(ports.0, ports.1, 1, 1000).write(&mut bytes, &[]).unwrap();
    bytes
}

fn icmp(dst: [u8; 4], kind: Icmpv4Type, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    v4(ROUTER, dst).icmpv4(kind).write(&mut bytes, payload).unwrap();
    bytes
}

fn icmp6(dst: [u8; 16], kind: Icmpv6Type, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    v6(ROUTER6, dst).icmpv6(kind).write(&mut bytes, payload).unwrap();
    bytes
}

fn echo(id: u16) -> etherparse::IcmpEchoHeader {
    etherparse::IcmpEchoHeader { id, seq: 1 }
}

/// The packet inside a frame, as an ICMP error quotes it.
fn quoted(frame: Vec<u8>) -> Vec<u8> {
    frame[14..].to_vec()
}

const UNREACHABLE: Icmpv4Type = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Host);
const UNREACHABLE6: Icmpv6Type = Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Address);

#[test]
fn pod_and_service_ranges_are_ours_whatever_the_protocol() {
    let bench = Bench::new();
    assert!(bench.claims(&udp(ROUTER, POD, (1, 2))));
    assert!(bench.claims(&tcp(ROUTER, [10, 96, 0, 10], (1, 80))));
    assert!(bench.claims(&icmp(POD, Icmpv4Type::EchoRequest(echo(1)), b"x")));
    assert!(bench.claims(&udp6(ROUTER6, POD6, (1, 2))));
    assert!(!bench.claims(&udp(ROUTER, [10, 245, 0, 1], (1, 2))), "a neighbouring range");
    assert!(!bench.claims(&udp6(ROUTER6, ROUTER6, (1, 2))));
}

#[test]
fn of_the_node_address_only_the_tunnel_and_snat_ports_are_ours() {
    let bench = Bench::new();
    for (packet, ours) in [
        (udp(ROUTER, NODE, (5000, 4789)), true),
        (tcp(ROUTER, NODE, (5000, 4789)), false),
        (udp(ROUTER, NODE, (53, 40000)), true),
        (tcp(ROUTER, NODE, (443, 60999)), true),
        (tcp(ROUTER, NODE, (443, 61000)), false),
        (tcp(ROUTER, NODE, (443, 39999)), false),
        (tcp(ROUTER, NODE, (5000, 22)), false),
        (tcp(ROUTER, [192, 168, 0, 2], (443, 50000)), false),
        (udp6(ROUTER6, NODE6, (5000, 4789)), true),
        (udp6(ROUTER6, NODE6, (5000, 53)), false),
    ] {
        assert_eq!(bench.claims(&packet), ours, "{packet:02x?}");
    }
}

#[test]
fn ip_in_ip_to_the_node_is_ours_where_that_is_the_overlay() {
    let inside = |outer: etherparse::PacketBuilderStep<etherparse::IpHeaders>, number, packet: &[u8]| {
        let mut bytes = Vec::new();
        outer.write(&mut bytes, number, &packet[14..]).unwrap();
        bytes
    };
    let (pod, pod6) = (udp(ROUTER, POD, (1, 2)), udp6(ROUTER6, POD6, (1, 2)));
    let packets = [
        inside(v4(ROUTER, NODE), IpNumber::IPV4, &pod),
        inside(v4(ROUTER, NODE), IpNumber::IPV6, &pod6),
        inside(v6(ROUTER6, NODE6), IpNumber::IPV6, &pod6),
    ];
    let (vxlan, ipip) = (Bench::new(), Bench::with((Encapsulation::Ipip, 4789)));
    for packet in &packets {
        assert!(ipip.claims(packet) && !vxlan.claims(packet), "{packet:02x?}");
    }
    assert!(!ipip.claims(&inside(v4(ROUTER, [192, 168, 0, 2]), IpNumber::IPV4, &pod)), "to another node");
    assert!(!ipip.claims(&udp(ROUTER, NODE, (5000, 4789))), "there is no UDP tunnel");
    let sent = inside(v4(NODE, ROUTER), IpNumber::IPV4, &pod);
    let error = icmp(NODE, UNREACHABLE, &sent[14..]);
    assert!(ipip.claims(&error) && !vxlan.claims(&error), "an error about a tunnel packet");
}

#[test]
fn echo_replies_are_ours_by_their_id_and_requests_are_the_kernels() {
    let bench = Bench::new();
    assert!(bench.claims(&icmp(NODE, Icmpv4Type::EchoReply(echo(40001)), b"x")));
    assert!(!bench.claims(&icmp(NODE, Icmpv4Type::EchoReply(echo(7)), b"x")));
    assert!(!bench.claims(&icmp(NODE, Icmpv4Type::EchoRequest(echo(40001)), b"x")));
    assert!(bench.claims(&icmp6(NODE6, Icmpv6Type::EchoReply(echo(40001)), b"x")));
    assert!(!bench.claims(&icmp6(NODE6, Icmpv6Type::EchoReply(echo(7)), b"x")));
}

#[test]
fn an_icmp_error_is_ours_if_the_packet_it_quotes_is() {
    let bench = Bench::new();
    for (quote, ours) in [
        (udp(NODE, ROUTER, (40000, 53)), true),
        (udp(NODE, ROUTER, (1024, 53)), false),
        (udp(NODE, ROUTER, (29152, 4789)), true),
        (tcp(NODE, ROUTER, (1024, 4789)), false),
        (tcp(POD, ROUTER, (1, 2)), true),
        (tcp(ROUTER, NODE, (40000, 2)), false),
        (icmp(ROUTER, Icmpv4Type::EchoRequest(echo(40000)), b""), false),
    ] {
        let error = icmp(NODE, UNREACHABLE, &quoted(quote.clone()));
        assert_eq!(bench.claims(&error), ours, "quoting {quote:02x?}");
    }
    let mut ping = Vec::new();
    v4(NODE, ROUTER).icmpv4(Icmpv4Type::EchoRequest(echo(40000))).write(&mut ping, b"").unwrap();
    assert!(bench.claims(&icmp(NODE, UNREACHABLE, &quoted(ping))));
    assert!(bench.claims(&icmp6(NODE6, UNREACHABLE6, &quoted(udp6(NODE6, ROUTER6, (9, 4789))))));
    assert!(!bench.claims(&icmp6(NODE6, UNREACHABLE6, &quoted(udp6(NODE6, ROUTER6, (9, 9))))));
}

#[test]
fn a_single_claim_holds_for_its_protocol_and_port_until_it_is_taken_back() {
    let mut bench = Bench::new();
    let other = [192, 168, 0, 50];
    bench.claim.set_singles([single(other, Protocol::TCP, 8443)].into()).unwrap();
    assert!(bench.claims(&tcp(ROUTER, other, (1, 8443))));
    assert!(!bench.claims(&udp(ROUTER, other, (1, 8443))) && !bench.claims(&tcp(ROUTER, other, (1, 8444))));
    bench.claim.set_singles([].into()).unwrap();
    bench.claim.set_ranges(["10.96.0.0/16".parse().unwrap()].into()).unwrap();
    assert!(!bench.claims(&tcp(ROUTER, other, (1, 8443))));
    assert!(!bench.claims(&udp(ROUTER, POD, (1, 2))), "the pod range was given back");
}

fn single(addr: [u8; 4], protocol: Protocol, port: u16) -> Single {
    Single { addr: Addr::v4(addr), protocol, port }
}

/// A load balancer's address, and node ports on the node's own.
const BALANCER: [u8; 4] = [198, 51, 100, 7];
const BALANCER6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];

fn with_services() -> Bench {
    let mut bench = Bench::new();
    let v6 = |addr, protocol, port| Single { addr: Addr::v6(addr), protocol, port };
    let singles = [
        single(BALANCER, Protocol::TCP, 443),
        single(NODE, Protocol::TCP, 30080),
        single(NODE, Protocol::SCTP, 30090),
        v6(BALANCER6, Protocol::UDP, 53),
        v6(NODE6, Protocol::UDP, 30053),
    ];
    bench.claim.set_singles(singles.into()).unwrap();
    bench
}

#[test]
fn services_from_outside_are_claimed_port_by_port_and_the_rest_of_their_addresses_is_the_kernels() {
    let bench = with_services();
    for (packet, ours) in [
        (tcp(ROUTER, BALANCER, (5000, 443)), true),
        (udp(ROUTER, BALANCER, (5000, 443)), false),
        (tcp(ROUTER, BALANCER, (5000, 80)), false),
        (icmp(BALANCER, Icmpv4Type::EchoRequest(echo(1)), b"x"), false),
        (tcp(ROUTER, NODE, (5000, 30080)), true),
        (tcp(ROUTER, NODE, (5000, 30081)), false),
        (udp(ROUTER, NODE, (5000, 30080)), false),
        (udp6(ROUTER6, BALANCER6, (5000, 53)), true),
        (udp6(ROUTER6, BALANCER6, (5000, 54)), false),
        (udp6(ROUTER6, NODE6, (5000, 30053)), true),
        (udp6(ROUTER6, NODE6, (5000, 0)), false),
        (udp(ROUTER, BALANCER, (5000, 0)), false),
    ] {
        assert_eq!(bench.claims(&packet), ours, "{packet:02x?}");
    }
}

#[test]
fn errors_about_answers_of_services_are_claimed_by_the_packet_that_they_quote() {
    let bench = with_services();
    for (dst, quote, ours) in [
        (BALANCER, tcp(BALANCER, ROUTER, (443, 5000)), true),
        (BALANCER, udp(BALANCER, ROUTER, (443, 5000)), false),
        (BALANCER, tcp(BALANCER, ROUTER, (444, 5000)), false),
        (NODE, tcp(NODE, ROUTER, (30080, 5000)), true),
        (NODE, tcp(NODE, ROUTER, (30081, 5000)), false),
        (NODE, tcp(BALANCER, ROUTER, (443, 5000)), false),
        (BALANCER, tcp(ROUTER, BALANCER, (5000, 443)), false),
    ] {
        assert_eq!(bench.claims(&icmp(dst, UNREACHABLE, &quoted(quote.clone()))), ours, "{dst:?} quoting {quote:02x?}");
    }
    for (dst, port, ours) in [(BALANCER6, 53, true), (BALANCER6, 54, false), (NODE6, 30053, true)] {
        let quote = quoted(udp6(dst, ROUTER6, (port, 5000)));
        assert_eq!(bench.claims(&icmp6(dst, UNREACHABLE6, &quote)), ours, "{port}");
    }
    let mut later = tcp(BALANCER, ROUTER, (443, 5000));
    later[20..22].copy_from_slice(&100u16.to_be_bytes());
    assert!(
        !bench.claims(&icmp(BALANCER, UNREACHABLE, &quoted(later))),
        "a later fragment has no ports to be known by"
    );
}

#[test]
fn fragments_to_addresses_of_services_are_claimed_and_given_back_with_them() {
    let mut bench = with_services();
    let fragment = |mut frame: Vec<u8>| {
        frame[20..22].copy_from_slice(&100u16.to_be_bytes());
        frame
    };
    assert!(bench.claims(&fragment(udp(ROUTER, BALANCER, (1, 2)))));
    assert!(!bench.claims(&fragment(udp(ROUTER, [198, 51, 100, 8], (1, 2)))), "nobody's address");
    bench.claim.set_singles([single(NODE, Protocol::TCP, 30080)].into()).unwrap();
    assert!(!bench.claims(&fragment(udp(ROUTER, BALANCER, (1, 2)))), "the service is gone");
    assert!(bench.claims(&fragment(udp(ROUTER, NODE, (1, 2)))), "the node's stay");
}

#[test]
fn who_has_an_address_of_a_service_is_asked_of_the_kernel() {
    let bench = with_services();
    let request = etherparse::ArpPacket::new(
        etherparse::ArpHardwareId::ETHERNET,
        etherparse::EtherType::IPV4,
        etherparse::ArpOperation::REQUEST,
        &[2, 0, 0, 0, 0, 9],
        &ROUTER,
        &[0; 6],
        &BALANCER,
    );
    let mut arp = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], OURS).arp(request.unwrap()).write(&mut arp).unwrap();
    assert!(!bench.claims(&arp));
    let target = [[0; 4].as_slice(), &BALANCER6].concat();
    let solicitation = Icmpv6Type::Unknown { type_u8: 135, code_u8: 0, bytes5to8: [0; 4] };
    for dst in [BALANCER6, NODE6] {
        assert!(!bench.claims(&icmp6(dst, solicitation, &target[4..])));
    }
}

#[test]
fn fragments_other_stations_and_stumps_pass() {
    let bench = Bench::new();
    let mut fragment = udp(ROUTER, NODE, (5000, 4789));
    fragment[20..22].copy_from_slice(&100u16.to_be_bytes());
    assert!(bench.claims(&fragment), "whose it is only the first one tells");
    fragment[20..22].copy_from_slice(&0x2000u16.to_be_bytes());
    assert!(bench.claims(&fragment), "so the first one is taken, too");
    fragment[23] = 47;
    assert!(!bench.claims(&fragment), "but no protocol that is never translated");
    fragment[30..34].copy_from_slice(&POD);
    assert!(bench.claims(&fragment), "and a pod's address is ours");
    let mut elsewhere = udp(ROUTER, POD, (1, 2));
    elsewhere[5] = 0x77;
    assert!(!bench.claims(&elsewhere), "a frame for another station");
    let whole = udp(ROUTER, NODE, (5000, 4789));
    assert!((14..whole.len().min(38)).all(|end| !bench.claims(&whole[..end])), "a stump was claimed");
}

/// A frame with an 802.1Q tag of this priority and VLAN.
fn tagged(frame: &[u8], priority: u16, vlan: u16) -> Vec<u8> {
    let tag = [&[0x81, 0][..], &(priority << 13 | vlan).to_be_bytes()].concat();
    [&frame[..12], &tag, &frame[12..]].concat()
}

#[test]
fn only_frames_of_the_uplinks_vlan_are_ours() {
    let vxlan = (Encapsulation::Vxlan, 4789);
    let (untagged, five) = (Bench::of(vxlan, 0), Bench::of(vxlan, 5));
    let ours = [
        udp(ROUTER, POD, (1, 2)),
        udp6(ROUTER6, POD6, (1, 2)),
        udp(ROUTER, NODE, (5000, 4789)),
        icmp(NODE, UNREACHABLE, &quoted(udp(NODE, ROUTER, (40000, 53)))),
    ];
    for frame in &ours {
        assert!(untagged.claims(frame) && !five.claims(frame), "{frame:02x?}");
        for priority in [0, 7] {
            assert!(five.claims(&tagged(frame, priority, 5)), "{priority}: {frame:02x?}");
            for other in [0, 4, 6, 0xfff] {
                assert!(!five.claims(&tagged(frame, priority, other)), "{other}");
            }
            assert!([0, 5].iter().all(|&vlan| !untagged.claims(&tagged(frame, priority, vlan))));
        }
        let mut outer = tagged(&tagged(frame, 0, 5), 0, 5);
        assert!(!five.claims(&outer), "a tag inside the tag");
        outer[12..14].copy_from_slice(&[0x88, 0xa8]);
        assert!(!five.claims(&outer) && !untagged.claims(&outer), "a provider's tag");
    }
    assert!(!five.claims(&tagged(&udp(ROUTER, ROUTER, (1, 2)), 0, 5)), "the kernel's own on our VLAN");
    assert!((14..42).all(|end| !five.claims(&tagged(&ours[2], 0, 5)[..end])), "a stump was claimed");
}

#[test]
fn with_no_living_socket_all_passes_but_what_the_kernel_would_refuse() {
    let mut bench = with_services();
    let pods = [udp(ROUTER, POD, (1, 2)), icmp(NODE, Icmpv4Type::EchoReply(echo(45_000)), b"")];
    let ours = [tcp(ROUTER, NODE, (80, 45_000)), tcp(ROUTER, NODE, (5000, 30_080)), udp(ROUTER, NODE, (1, 4789))];
    assert!(pods.iter().chain(&ours).all(|packet| bench.claims(packet)));
    drop(bench.socket.take());
    assert!(pods.iter().all(|packet| bench.verdict(packet) == PASS));
    assert!(ours.iter().all(|packet| bench.verdict(packet) == DROP));
    assert_eq!(bench.verdict(&tcp(ROUTER, NODE, (5000, 22))), PASS);
}

#[test]
fn geneve_that_names_a_backend_is_ours_whatever_the_overlay_and_other_geneve_is_the_kernels() {
    for encapsulation in [Encapsulation::Vxlan, Encapsulation::Ipip, Encapsulation::None] {
        geneve_that_names_a_backend(&Bench::with((encapsulation, 4789)));
    }
}

fn geneve_that_names_a_backend(bench: &Bench) {
    let with = |src, dst, header: &[u8]| {
        let mut bytes = Vec::new();
        v4(src, dst).udp(50_000, 6081).write(&mut bytes, &[header, &[7; 64]].concat()).unwrap();
        bytes
    };
    let ours = [3, 0x40, 0x65, 0x58, 0, 0, 1, 0, 0xff, 0x46, 0x81, 2, 10, 244, 1, 7, 0, 80, 0, 0];
    assert!(bench.claims(&with(ROUTER, NODE, &ours)));
    assert!(!bench.claims(&with(ROUTER, [192, 168, 0, 2], &ours)), "another node's");
    for (at, value) in [(1, 0), (8, 0), (9, 0), (10, 1)] {
        let mut other = ours;
        other[at] = value;
        assert!(!bench.claims(&with(ROUTER, NODE, &other)), "byte {at}");
    }
    let mut over_v6 = Vec::new();
    v6(ROUTER6, NODE6).udp(50_000, 6081).write(&mut over_v6, &ours).unwrap();
    assert!(bench.claims(&over_v6));
    assert!(bench.claims(&with(ROUTER, NODE, &ours)[..]) && !bench.claims(&with(ROUTER, NODE, &ours)[..52]));
}

#[test]
fn the_members_of_a_bond_have_sockets_of_their_own_and_idle_ones_have_none() {
    // The kernel tries the program on a packet of the loopback device.
    const LOOPBACK: u32 = 1;
    let mut bench = Bench::new();
    let plain = bench.claim.config.unwrap();
    let packet = udp(ROUTER, POD, (1, 2));
    let mut claims = |members: &[Option<u32>], queues| {
        bench.claim.set_config(plain.with_members(queues, members.iter().copied())).unwrap();
        bench.claims(&packet)
    };
    assert!(claims(&[Some(LOOPBACK), Some(7)], 2));
    assert!(!claims(&[None, Some(7)], 2), "idle");
    assert!(!claims(&[Some(7), Some(LOOPBACK)], 2), "its sockets begin at 2, where there are none");
    let second = rustix::net::socket(AddressFamily::XDP, SocketType::RAW, None).unwrap();
    bench.claim.set_socket(2, second.as_fd()).unwrap();
    let mut claims = |queues| {
        bench.claim.set_config(plain.with_members(queues, [Some(7), Some(LOOPBACK)].into_iter())).unwrap();
        bench.claims(&packet)
    };
    assert!(claims(2));
    assert!(!claims(3));
}
