//! What a bundle's engine does with a capture is what the node itself did with the packets: flows, tables and interfaces
//! are the same, and so must be the answers.

mod support;

use dataplane::io::mem::pcap::Captured;
use dataplane::offline::replay::Engine;
use std::path::PathBuf;
use support::packets::{ACK, SYN, tcp};
use support::*;
use tables::bundle::{About, Bundle, Writer};
use tables::counters::DropReason;
use tables::image;
use tables::layout::LAYOUT_VERSION;
use tables::message::{InterfaceInfo, InterfaceKind, InterfaceSpec, ReplayEnd};
use tables::owner::SnatPorts;
use tables::{Mac, Protocol};

fn interface(id: u32, kind: InterfaceKind, owner: u16, mac: Mac, addrs: Vec<Addr>) -> InterfaceInfo {
    let name = format!("interface-{id}");
    let spec = InterfaceSpec {
        kind,
        name,
        ifindex: id,
        members: Vec::new(),
        vlan: 0,
        mac,
        addrs,
        mtu: 1450,
        owner: Some(owner),
    };
    InterfaceInfo { id, owner, spec, mode: None }
}

fn about(shape: &Shape) -> About {
    let n = shape.number;
    let own = [
        interface(UPLINK, InterfaceKind::Uplink, 0, uplink_mac(n), vec![]),
        interface(HOST, InterfaceKind::Host, shape.host_owner, host_mac(n), vec![]),
    ];
    let pods = shape.pods.iter().map(|&(octet, owner)| {
        let addrs = vec![pod(n, octet), pod_v6(n, octet)];
        interface(octet as u32, InterfaceKind::Pod, owner, pod_mac(n, octet), addrs)
    });
    About {
        layout_version: LAYOUT_VERSION,
        node: "a".to_owned(),
        made_ms: 0,
        workers: shape.workers,
        snat: SnatPorts::new(SNAT_FIRST, SNAT_LAST, shape.workers).ok(),
        interfaces: own.into_iter().chain(pods).collect(),
    }
}

/// The bundle's file; gone at the end of the test.
struct Kept(PathBuf);

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn bundle(node: &mut Node, name: &str) -> (Kept, Bundle) {
    let mut writer = Writer::new(Vec::new(), &about(&node.shape)).unwrap();
    writer.image("tables", &image::of(node.publisher.region().fd()).unwrap()).unwrap();
    for (id, worker) in node.workers.iter_mut().enumerate() {
        let image = image::of(worker.path().flows.region().fd()).unwrap();
        writer.image(&format!("flows/{id}"), &image).unwrap();
    }
    let kept = Kept(std::env::temp_dir().join(format!("fairway-{name}-{}", std::process::id())));
    std::fs::write(&kept.0, writer.finish().unwrap()).unwrap();
    let bundle = Bundle::open(&kept.0).unwrap();
    (kept, bundle)
}

#[test]
fn a_captured_packet_goes_the_way_that_it_went() {
    for workers in [1, 2] {
        let pods = vec![(4, 0), (5, workers - 1), (6, 0)];
        let mut node = Node::new(Shape { workers, uplink_queues: workers, pods, ..Shape::default() });
        node.publish(|rows| {
            rows.service(1, (SERVICE, 80, Protocol::TCP), &[(REMOTE, 8080), (B, 8080)]);
            rows.policy(1, tables::policy::Direction::Egress, &[]);
            rows.pod(6, 0, 1);
        });
        // Established: which backend it has stands in the flows alone.
        let asked = tcp((A, 1000), (SERVICE, 80), SYN);
        let backend = node.pass(POD_A, &asked).packet().dst;
        let (_kept, bundle) = bundle(&mut node, &format!("replay-{workers}"));
        let mut engine = Engine::of(&bundle).unwrap();
        let mut pass = |interface: u32, packet: Spec| {
            let bytes = node.dressed(interface, &packet).bytes();
            engine.pass(1, Captured { time_ns: 0, bytes }, None).unwrap()
        };
        let later = pass(POD_A, tcp((A, 1000), (SERVICE, 80), ACK));
        assert_eq!((later.interface, &later.packet[..]), (POD_A, "10.1.1.4:1000 > 172.30.0.10:80 tcp ."));
        let packet = format!("10.1.1.4:1000 > {backend}:8080 tcp .");
        let expected = match backend {
            REMOTE => ReplayEnd::Sent { interface: UPLINK, tunnel: Some(PEER), packet },
            _ => ReplayEnd::Sent { interface: POD_B, tunnel: None, packet },
        };
        assert_eq!(later.ends, [expected]);
        let forbidden = pass(POD_C, udp((C, 7), (A, 53)));
        assert_eq!(forbidden.ends, [ReplayEnd::Dropped { reason: DropReason::PolicyEgress.name().to_owned() }]);
        let own = Spec { src_mac: GATEWAY_MAC, ..udp((B, 7), (A, 53)) };
        let own = Captured { time_ns: 0, bytes: own.bytes() };
        assert_eq!(engine.pass(1, own, None).unwrap().ends, [ReplayEnd::Own]);
        let mut pass = |interface: u32, packet: Spec| {
            let bytes = node.dressed(interface, &packet).bytes();
            engine.pass(1, Captured { time_ns: 0, bytes }, None).unwrap()
        };
        let from_outside = pass(UPLINK, udp((CLIENT, 7), (A, 53)));
        let packet = "203.0.113.9:7 > 10.1.1.4:53 udp".to_owned();
        assert_eq!(from_outside.ends, [ReplayEnd::Sent { interface: POD_A, tunnel: None, packet }]);
    }
}

#[test]
fn what_waits_for_a_neighbour_is_said_to_wait() {
    let mut node = Node::new(Shape::default());
    let (_kept, bundle) = bundle(&mut node, "waits");
    let bytes = node.dressed(POD_A, &udp((A, 7), (NEIGHBOUR, 53))).bytes();
    let replayed = Engine::of(&bundle).unwrap().pass(1, Captured { time_ns: 0, bytes }, Some(POD_A)).unwrap();
    assert_eq!(replayed.ends, [ReplayEnd::Waits]);
}
