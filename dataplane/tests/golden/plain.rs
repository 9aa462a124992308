//! Packets amid a flow take a short way (`worker/plain.rs`), over IPv4 and over IPv6. What it makes of them must be what the
//! general way makes of the flow's first packet, which always takes that; other golden packets say what this is.

use crate::support::packets::{ACK, PSH, tcp};
use crate::support::*;
use proptest::prelude::*;
use tables::Protocol;

/// Ports of a service with a backend elsewhere, and of one with a backend here.
const REMOTE_PORTS: [(u16, Protocol); 2] = [(80, Protocol::TCP), (53, Protocol::UDP)];
const LOCAL_PORTS: [(u16, Protocol); 2] = [(81, Protocol::TCP), (54, Protocol::UDP)];
const URG: u8 = 32;

/// Where packets go from pod A, or from the remote pod to it.
#[derive(Clone, Copy, Debug)]
enum Journey {
    ToRemote,
    ToLocal,
    ToServiceElsewhere,
    ToServiceHere,
    ToOutside,
    FromRemote,
}

const JOURNEYS: [Journey; 6] = [
    Journey::ToRemote,
    Journey::ToLocal,
    Journey::ToServiceElsewhere,
    Journey::ToServiceHere,
    Journey::ToOutside,
    Journey::FromRemote,
];

/// What is the same of a flow's packets, and what is not.
#[derive(Clone, Debug)]
struct Case {
    journey: Journey,
    ends: Family,
    wrapped: Wrapped,
    /// Of the addresses between nodes.
    underlay: usize,
    is_tcp: bool,
    flags: u8,
    ttl: u8,
    traffic_class: u8,
    payload: Vec<u8>,
    has_checksum: bool,
}

fn cases() -> impl Strategy<Value = Case> {
    let wrapped = prop::sample::select(vec![Wrapped::Vxlan, Wrapped::Geneve, Wrapped::Ip]);
    let flags = prop::sample::select(vec![ACK, ACK | PSH, ACK | URG]);
    let payload = prop::collection::vec(any::<u8>(), 0..64);
    // ECN is left out: what it says may change on the way.
    let ttl = prop_oneof![1u8..4, 1u8..];
    let headers = (ttl, any::<u8>().prop_map(|class| class & 0xfc));
    let way = (prop::sample::select(JOURNEYS.to_vec()), prop::sample::select(FAMILIES.to_vec()), wrapped, 0usize..2);
    (way, any::<bool>(), flags, headers, payload, any::<bool>()).prop_map(
        |((journey, ends, wrapped, underlay), is_tcp, flags, (ttl, traffic_class), payload, has_checksum)| Case {
            journey,
            ends,
            wrapped,
            underlay,
            is_tcp,
            flags,
            ttl,
            traffic_class,
            payload,
            has_checksum,
        },
    )
}

impl Case {
    fn node(&self) -> Node {
        let Family { b, remote, service, .. } = self.ends;
        let mut node = Node::new(Shape { wrapped: self.wrapped, underlay: self.underlay, ..Shape::default() });
        node.publish(|rows| {
            let asked = [(REMOTE_PORTS, remote), (LOCAL_PORTS, b)];
            let asked = asked.into_iter().flat_map(|(ports, backend)| ports.map(|port| (port, backend)));
            for (id, ((port, protocol), backend)) in (1..).zip(asked) {
                rows.service(id, (service, port, protocol), &[(backend, 8080)]);
            }
        });
        node
    }

    fn packet(&self) -> Spec {
        let port = |tcp, udp| if self.is_tcp { tcp } else { udp };
        let Family { a, b, remote, service, client, .. } = self.ends;
        let (src, dst) = match self.journey {
            Journey::ToRemote => ((a, 1000), (remote, 80)),
            Journey::ToLocal => ((a, 1000), (b, 80)),
            Journey::ToServiceElsewhere => ((a, 1000), (service, port(80, 53))),
            Journey::ToServiceHere => ((a, 1000), (service, port(81, 54))),
            Journey::ToOutside => ((a, 1000), (client, 80)),
            Journey::FromRemote => ((remote, 1000), (a, 80)),
        };
        let packet = if self.is_tcp { tcp(src, dst, self.flags) } else { udp(src, dst) };
        packet.ttl(self.ttl).traffic_class(self.traffic_class).payload(&self.payload)
    }

    fn bytes(&self, node: &Node) -> Vec<u8> {
        let mut bytes = match self.journey {
            Journey::FromRemote => self.packet().macs(inner_mac(2), inner_mac(1)).bytes(),
            _ => node.dressed(POD_A, &self.packet()).bytes(),
        };
        if !self.is_tcp && !self.has_checksum {
            // RFC 768: there is none. Over IPv6 nobody may leave it out (RFC 8200, 8.1), which its receiver sees.
            let checksum = if self.ends.a.is_v4() { 40 } else { 60 };
            bytes[checksum..checksum + 2].fill(0);
        }
        match self.journey {
            Journey::FromRemote => packets::encapsulate(&node.shape.outer(2, 1), 50_000, &bytes).bytes(),
            _ => bytes,
        }
    }

    /// What comes of the packet, and of the same one once more: where it leaves, byte for byte.
    fn twice(&self) -> [Vec<(u32, Vec<u8>)>; 2] {
        let mut node = self.node();
        let bytes = self.bytes(&node);
        let from = if let Journey::FromRemote = self.journey { UPLINK } else { POD_A };
        [(); 2].map(|()| {
            assert!(node.peer(from).inject(bytes.clone()));
            node.run();
            let left = node.peers.iter().map(|(&(id, _), peer)| (id, peer.take_all()));
            left.flat_map(|(id, packets)| packets.into_iter().map(move |packet| (id, packet.bytes))).collect()
        })
    }
}

proptest! {
    #[test]
    fn a_packet_amid_a_flow_leaves_as_its_first_one_did(case in cases()) {
        let [first, next] = case.twice();
        prop_assert_eq!(first.len(), 1, "{:?}", first);
        prop_assert_eq!(first, next);
    }
}
