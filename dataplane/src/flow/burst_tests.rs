use super::*;
use tables::flow::{FlowLayout, FlowRecord};
use tables::{Addr, Protocol};

fn tuple(port: u16, remote: [u8; 4]) -> Tuple {
    let (local, remote) = (Addr::v4([10, 1, 0, 4]), Addr::v4(remote));
    Tuple { local, remote, local_port: port, remote_port: 80, protocol: Protocol::UDP, reserved: 0, network: 0 }
}

fn inside(port: u16) -> Tuple {
    tuple(port, [172, 30, 0, 1])
}

/// Every second flow is translated.
fn outside(port: u16) -> Tuple {
    if port.is_multiple_of(2) { tuple(port, [10, 1, 1, 9]) } else { inside(port) }
}

/// More than a burst; every third tuple is nobody's.
#[test]
fn a_burst_finds_what_its_tuples_find_one_by_one() {
    const FLOWS: u16 = 3000;
    let mut flows = FlowTable::new(FlowLayout::for_capacity(FLOWS as usize).create(0, 1, 42, 0).unwrap()).unwrap();
    for port in (0..FLOWS).filter(|port| port % 3 != 0) {
        flows.insert(FlowRecord::new(inside(port), &outside(port))).unwrap();
    }
    for (way, of) in [(Way::Out, inside as fn(u16) -> Tuple), (Way::Back, outside)] {
        let tuples: Vec<Tuple> = (0..FLOWS).map(of).collect();
        let mut found = vec![Some(7); tuples.len() + 1];
        flows.find_burst(&tuples, way, &mut found);
        for (port, (tuple, found)) in tuples.iter().zip(&found).enumerate() {
            assert_eq!(found.is_some(), port % 3 != 0, "{way:?} {port}");
            assert_eq!(*found, flows.find(tuple, way), "{way:?} {port}");
        }
        assert_eq!(found.last(), Some(&Some(7)));
    }
}
