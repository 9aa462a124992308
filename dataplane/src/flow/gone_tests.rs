use super::*;
use crate::flow::Way;
use tables::Protocol;
use tables::flow::{FlowLayout, FlowRecord, Tuple};

const SIZE: usize = 256;

fn flow(end: u8, port: u16) -> Tuple {
    let (local, remote) = (Addr::v4([10, 1, 0, end]), Addr::v4([10, 1, 1, 9]));
    Tuple { local, remote, local_port: port, remote_port: 80, protocol: Protocol::UDP, reserved: 0, network: 0 }
}

/// A hundred flows of two ends, in turn.
fn table() -> FlowTable {
    let mut flows = FlowTable::new(FlowLayout::for_capacity(SIZE).create(0, 1, 42, 0).unwrap()).unwrap();
    for port in 0..100 {
        add(&mut flows, (port % 2) as u8, port);
    }
    flows
}

fn add(flows: &mut FlowTable, end: u8, port: u16) -> FlowId {
    let inside = flow(end, port);
    flows.insert(FlowRecord::new(inside, &inside)).unwrap()
}

fn addr(end: u8) -> [Addr; 1] {
    [flow(end, 0).local]
}

#[test]
fn flows_of_an_end_that_is_gone_go_a_part_at_a_time() {
    let mut flows = table();
    assert_eq!((flows.forget_gone(SIZE), flows.used()), (0, 100));
    flows.end_goes(&addr(1));
    let first = flows.forget_gone(SIZE / 4);
    assert!((1..50).contains(&first), "{first}");
    // It is looked at already, or is yet to be.
    add(&mut flows, 1, 1000);
    let rest: usize = (1..8).map(|_| flows.forget_gone(SIZE / 4)).sum();
    assert_eq!((first + rest, flows.used()), (51, 50));
    assert!(flows.find(&flow(0, 98), Way::Out).is_some() && flows.find(&flow(1, 99), Way::Out).is_none());
    // What comes after two rounds is of a new end.
    add(&mut flows, 1, 1001);
    assert_eq!((flows.forget_gone(2 * SIZE), flows.used()), (0, 51));
}

#[test]
fn who_gets_the_address_at_once_inherits_nothing() {
    let mut flows = table();
    flows.end_goes(&addr(1));
    assert_eq!((flows.end_comes(&addr(2)), flows.used()), (0, 100), "another address");
    assert_eq!((flows.end_comes(&addr(1)), flows.used()), (50, 50));
    add(&mut flows, 1, 1000);
    assert_eq!((flows.forget_gone(SIZE), flows.used()), (0, 51), "its own flows stay");
}
