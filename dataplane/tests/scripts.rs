//! TCP by scripts, in the manner of packetdrill: each line of `scripts/*.script` is a segment of a client or a server, or
//! says how the flow shall be then. Every script runs between two pods of one node, through a service and the tunnel to
//! another node, and through masquerading to somebody outside, by IPv4 and IPv6, and must come out the same: each segment
//! arrives as it was sent, from whom its receiver believes to speak to, and the flow's state is the same on each node that it passes.
//!
//! `client|server FLAGS seq [ack N] [len N] [options ...]` · `state NAME` · `wait DURATION` · `gone`

mod support;

use dataplane::flow::Way;
use dataplane::flow::timeouts::{FlowState, duration_ms};
use dataplane::worker::now_ms;
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpHeader, TcpOptionElement, TransportSlice};
use std::path::PathBuf;
use support::*;
use tables::Protocol;
use tables::flow::Tuple;

/// Where the numbers of a script begin; the client's soon wrap.
const ISS: [u32; 2] = [0xffff_ff00, 77_000_000];

/// An end's address and port.
type End = (Addr, u16);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    OneNode,
    ServiceAndTunnel,
    Masqueraded,
}

impl Course {
    const ALL: [Course; 3] = [Course::OneNode, Course::ServiceAndTunnel, Course::Masqueraded];

    /// The server, as it is, and as the client knows it, by IPv4 or IPv6.
    fn server(self, family: usize) -> (End, End) {
        let [b, remote, service, client] =
            [[B, REMOTE, SERVICE, CLIENT], [v6::B, v6::REMOTE, v6::SERVICE, v6::CLIENT]][family];
        match self {
            Course::OneNode => ((b, 80), (b, 80)),
            Course::ServiceAndTunnel => ((remote, 8080), (service, 80)),
            Course::Masqueraded => ((client, 80), (client, 80)),
        }
    }
}

/// A segment from one end to another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    from: End,
    to: End,
    header: TcpHeader,
    payload: Vec<u8>,
}

impl Segment {
    fn bytes(&self, src_mac: Mac, dst_mac: Mac) -> Vec<u8> {
        let mut bytes = Vec::new();
        let frame = PacketBuilder::ethernet2(src_mac.0, dst_mac.0);
        let ip = match (self.from.0, self.to.0) {
            (src, dst) if src.is_v4() => frame.ipv4(src.v4_octets(), dst.v4_octets(), 64),
            (src, dst) => frame.ipv6(src.v6_octets(), dst.v6_octets(), 64),
        };
        let ports = TcpHeader { source_port: self.from.1, destination_port: self.to.1, ..self.header.clone() };
        ip.tcp_header(ports).write(&mut bytes, &self.payload).unwrap();
        bytes
    }

    /// Reads a frame; its checksums must be right.
    fn judge(bytes: &[u8]) -> Segment {
        let sliced = SlicedPacket::from_ethernet(bytes).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!("no TCP: {sliced:?}") };
        let (tcp, payload) = (tcp.to_header(), tcp.payload().to_vec());
        let (src, dst, right) = match sliced.net.as_ref().expect("IP") {
            NetSlice::Ipv4(ip) => {
                let ip = ip.header().to_header();
                assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                (Addr::v4(ip.source), Addr::v4(ip.destination), tcp.calc_checksum_ipv4(&ip, &payload).unwrap())
            }
            NetSlice::Ipv6(ip) => {
                let ip = ip.header().to_header();
                (Addr::v6(ip.source), Addr::v6(ip.destination), tcp.calc_checksum_ipv6(&ip, &payload).unwrap())
            }
            other => panic!("no IP: {other:?}"),
        };
        assert_eq!(tcp.checksum, right);
        let (from, to) = ((src, tcp.source_port), (dst, tcp.destination_port));
        // Ends and checksum are what may differ.
        let header = TcpHeader { source_port: 0, destination_port: 0, checksum: 0, ..tcp };
        Segment { from, to, header, payload }
    }
}

/// The nodes that a course leads through.
struct World {
    course: Course,
    family: usize,
    nodes: Vec<Node>,
    client: End,
    /// The client as the server knows it.
    seen: End,
}

impl World {
    fn new(course: Course, family: usize) -> World {
        let shape = |number| Shape { number, ..Shape::default() };
        let mut nodes = vec![Node::new(shape(1)), Node::new(shape(2))];
        for node in &mut nodes {
            node.publish(|rows| {
                rows.service(1, (SERVICE, 80, Protocol::TCP), &[(REMOTE, 8080)]);
                rows.service(2, (v6::SERVICE, 80, Protocol::TCP), &[(v6::REMOTE, 8080)]);
            });
        }
        let client = (pod_in(family, 1, 4), 1000);
        World { course, family, nodes, client, seen: client }
    }

    fn pass(&mut self, by_client: bool, header: TcpHeader, payload: Vec<u8>) {
        let (server, known) = self.course.server(self.family);
        let (from, to) = if by_client { (self.client, known) } else { (server, self.seen) };
        let segment = Segment { from, to, header, payload };
        let arrived = if by_client { self.towards_server(&segment) } else { self.towards_client(&segment) };
        if by_client {
            self.seen = arrived.from;
        }
        let (from, to) = if by_client { (self.seen, server) } else { (known, self.client) };
        assert_eq!(arrived, Segment { from, to, ..segment });
    }

    fn towards_server(&mut self, segment: &Segment) -> Segment {
        let [one, two] = &mut self.nodes[..] else { unreachable!() };
        let bytes = segment.bytes(pod_mac(1, 4), GATEWAY_MAC);
        match self.course {
            Course::OneNode => Segment::judge(&through(one, POD_A, bytes, POD_B)),
            Course::Masqueraded => Segment::judge(&through(one, POD_A, bytes, UPLINK)),
            Course::ServiceAndTunnel => {
                let wire = through(one, POD_A, bytes, UPLINK);
                Segment::judge(&through(two, UPLINK, wire, POD_A))
            }
        }
    }

    fn towards_client(&mut self, segment: &Segment) -> Segment {
        let [one, two] = &mut self.nodes[..] else { unreachable!() };
        let arrived = match self.course {
            Course::OneNode => through(one, POD_B, segment.bytes(pod_mac(1, 5), GATEWAY_MAC), POD_A),
            Course::Masqueraded => through(one, UPLINK, segment.bytes(ROUTER_MAC, uplink_mac(1)), POD_A),
            Course::ServiceAndTunnel => {
                let wire = through(two, POD_A, segment.bytes(pod_mac(2, 4), GATEWAY_MAC), UPLINK);
                through(one, UPLINK, wire, POD_A)
            }
        };
        Segment::judge(&arrived)
    }

    /// The state of each half of the flow, if it is there.
    fn states(&mut self) -> Vec<Option<FlowState>> {
        let (server, known) = self.course.server(self.family);
        let client = tuple(self.client, known);
        let mut states = vec![state(&mut self.nodes[0], &client, Way::Out)];
        match self.course {
            Course::OneNode => states.push(state(&mut self.nodes[0], &tuple(server, self.seen), Way::Back)),
            Course::ServiceAndTunnel => states.push(state(&mut self.nodes[1], &tuple(server, self.seen), Way::Back)),
            Course::Masqueraded => {}
        }
        states
    }

    /// Time passes: as if everything had been seen so much earlier.
    fn wait(&mut self, ms: u32) {
        for node in &mut self.nodes {
            let flows = &mut node.workers[0].path().flows;
            for id in 0..flows.capacity() as u32 {
                let record = flows.record_mut(id);
                record.last_seen_ms = record.last_seen_ms.wrapping_sub(ms);
            }
            flows.expire(flows.capacity(), now_ms());
        }
    }
}

fn tuple(local: End, remote: End) -> Tuple {
    let ((local, local_port), (remote, remote_port)) = (local, remote);
    Tuple { local, remote, local_port, remote_port, protocol: Protocol::TCP, reserved: 0, network: 0 }
}

fn state(node: &mut Node, tuple: &Tuple, way: Way) -> Option<FlowState> {
    let flows = &node.workers[0].path().flows;
    Some(FlowState::of(flows.record(flows.find(tuple, way)?)))
}

/// The one frame that comes out for one that goes in.
fn through(node: &mut Node, interface: u32, bytes: Vec<u8>, out: u32) -> Vec<u8> {
    assert!(node.peer(interface).inject(bytes));
    node.run();
    let mut arrived = node.peer(out).take_all();
    assert_eq!(arrived.len(), 1, "at interface {out}");
    arrived.remove(0).bytes
}

/// A line's words behind the side: flags, numbers and options.
fn segment(by_client: bool, words: &[&str]) -> (TcpHeader, Vec<u8>) {
    let number = |word: &str| word.parse::<u32>().unwrap_or_else(|_| panic!("{word:?} is no number"));
    let own = ISS[!by_client as usize];
    let mut header = TcpHeader::new(0, 0, own.wrapping_add(number(words[1])), 4096);
    words[0].split(',').for_each(|flag| set_flag(&mut header, flag));
    let (mut payload, mut options, mut rest) = (Vec::new(), Vec::new(), words[2..].iter().copied());
    while let Some(word) = rest.next() {
        let mut next = || number(rest.next().unwrap_or_else(|| panic!("{word} lacks a number")));
        match word {
            "ack" => header.acknowledgment_number = ISS[by_client as usize].wrapping_add(next()),
            "len" => payload = (0..next()).map(|i| i as u8).collect(),
            "mss" => options.push(TcpOptionElement::MaximumSegmentSize(next() as u16)),
            "ws" => options.push(TcpOptionElement::WindowScale(next() as u8)),
            "ts" => options.push(TcpOptionElement::Timestamp(next(), next())),
            "sack-permitted" => options.push(TcpOptionElement::SelectiveAcknowledgementPermitted),
            "sack" => options.push(TcpOptionElement::SelectiveAcknowledgement((next(), next()), [None; 3])),
            // Kind 34 (RFC 7413, 4.1.1) with a cookie of eight bytes.
            "tfo" => header.set_options_raw(&[34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1]).unwrap(),
            other => panic!("{other:?} is nothing of a segment"),
        }
    }
    if !options.is_empty() {
        header.set_options(&options).unwrap();
    }
    (header, payload)
}

fn set_flag(header: &mut TcpHeader, flag: &str) {
    let place = match flag {
        "SYN" => &mut header.syn,
        "ACK" => &mut header.ack,
        "FIN" => &mut header.fin,
        "RST" => &mut header.rst,
        "PSH" => &mut header.psh,
        "URG" => &mut header.urg,
        "ECE" => &mut header.ece,
        "CWR" => &mut header.cwr,
        other => panic!("{other:?} is no flag"),
    };
    *place = true;
}

fn step(world: &mut World, words: &[&str]) {
    match words {
        ["client", rest @ ..] => {
            let (header, payload) = segment(true, rest);
            world.pass(true, header, payload);
        }
        ["server", rest @ ..] => {
            let (header, payload) = segment(false, rest);
            world.pass(false, header, payload);
        }
        ["state", name] => {
            let states: Vec<&str> = world.states().into_iter().map(|s| s.map_or("gone", FlowState::name)).collect();
            assert!(states.iter().all(|state| state == name), "{states:?}");
        }
        ["wait", duration] => world.wait(duration_ms(duration).unwrap() as u32),
        ["gone"] => assert!(world.states().iter().all(Option::is_none), "{:?}", world.states()),
        other => panic!("{other:?} is no step"),
    }
}

fn run(name: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/scripts/{name}.script"));
    let script = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    for (course, family) in Course::ALL.into_iter().flat_map(|course| [(course, 0), (course, 1)]) {
        let mut world = World::new(course, family);
        for (i, line) in script.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            println!("{name}:{} {course:?}, family {family}: {line}", i + 1);
            step(&mut world, &line.split_whitespace().collect::<Vec<_>>());
        }
    }
}

macro_rules! scripts {
    ($($name:ident),+ $(,)?) => {
        $(#[test] fn $name() { run(stringify!($name)); })+

        #[test]
        fn every_script_is_run() {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scripts");
            let count = std::fs::read_dir(folder).unwrap().count();
            assert_eq!(count, [$(stringify!($name)),+].len());
        }
    };
}

scripts! {
    handshake,
    retransmission,
    simultaneous_open,
    half_close,
    half_close_by_server,
    reset,
    refused,
    reset_out_of_window,
    challenge_ack,
    forgotten,
    time_wait_reuse,
    fast_open,
    keepalive,
    options,
    picked_up,
}
