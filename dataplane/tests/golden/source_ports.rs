//! Source ports for translation: used again, and enough of them where one client port meets one backend by
//! many ways.

use crate::node;
use crate::support::packets::tcp;
use crate::support::*;
use packets::{ACK, FIN, SYN};
use std::collections::BTreeSet;
use tables::Protocol;

const PORTS: u16 = SNAT_LAST - SNAT_FIRST + 1;

#[test]
fn ports_of_closed_connections_serve_again_at_once() {
    let mut node = Node::new(Shape { flows_max: 8192, ..Shape::default() });
    let mut taken = BTreeSet::new();
    for port in 1000..1000 + 3 * PORTS {
        let out = |flags| tcp((A, port), (CLIENT, 80), flags);
        let outside = node.pass(POD_A, &out(SYN)).packet().src_port();
        taken.insert(outside);
        let back = |flags| tcp((CLIENT, 80), (NODE, outside), flags);
        for answer in [back(SYN | ACK), back(FIN | ACK)] {
            assert_eq!(node.pass(UPLINK, &answer), node.delivered(POD_A, answer.clone().to(A, port).hop()));
        }
        assert_eq!(node.pass(POD_A, &out(FIN | ACK)).packet().src_port(), outside);
    }
    assert_eq!((taken.len() as u16, node.flows() as u16), (PORTS, PORTS));
}

#[test]
fn one_client_port_reaches_one_backend_by_many_services() {
    let mut node = node();
    let service = |i: u8| Addr::v4([172, 30, 1, i]);
    node.publish(|rows| {
        (0..50).for_each(|i| rows.service(1 + i as u32, (service(i), 80, Protocol::TCP), &[(REMOTE, 8080)]))
    });
    let ports: Vec<u16> =
        (0..50).map(|i| node.pass(POD_A, &tcp((A, 1000), (service(i), 80), SYN)).packet().src_port()).collect();
    assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 50, "{ports:?}");
    for (i, port) in ports.into_iter().enumerate() {
        let answer = tcp((REMOTE, 8080), (A, port), SYN | ACK);
        let back = answer.clone().from(service(i as u8), 80).to(A, 1000).hop();
        assert_eq!(node.pass_tunnel(&answer), node.delivered(POD_A, back));
    }
}

#[test]
fn a_pod_reaches_itself_by_two_services_from_one_port() {
    let mut node = node();
    let services = [SERVICE, Addr::v4([172, 30, 0, 11])];
    node.publish(|rows| {
        for (i, service) in services.into_iter().enumerate() {
            rows.service(1 + i as u32, (service, 53, Protocol::UDP), &[(A, 5353)]);
        }
    });
    let asked = services.map(|service| node.pass(POD_A, &udp((A, 1000), (service, 53))).packet().src_port());
    assert_ne!(asked[0], asked[1]);
    for (service, port) in services.into_iter().zip(asked) {
        let answer = udp((A, 5353), (SNAT, port));
        let back = answer.clone().from(service, 53).to(A, 1000).hop();
        assert_eq!(node.pass(POD_A, &answer), node.delivered(POD_A, back));
    }
}
